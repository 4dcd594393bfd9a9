"""The builder's half: a network is an ONNX model, a plan is that model with its profile and its facts."""

import hashlib
import json
import os
import time
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tensorrt._names import (
    BuilderFlag,
    DataType,
    ErrorCodeTRT,
    ILogger,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    Reporter,
    check_logger,
    is_10,
    switch,
    version,
)  # fmt: skip

MAGIC = b"fake plan\0"
_TYPES = {1: DataType.FLOAT, 10: DataType.HALF, 16: DataType.BF16, 3: DataType.INT8, 6: DataType.INT32,
          7: DataType.INT64, 2: DataType.UINT8, 9: DataType.BOOL}
NUMPY = {"FLOAT": "f4", "HALF": "f2", "INT8": "i1", "INT32": "i4", "INT64": "i8", "UINT8": "u1", "BOOL": "b1"}
# Of those that real parsers refuse, the ones that a model of a plant might hold.
_UNSUPPORTED = {"DFT", "BitShift", "BitwiseAnd", "BitwiseOr", "Compress", "Det", "Unique", "MelWeightMatrix",
                "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "Multinomial"}


class ITensor:
    """An input or output of a network. shape: -1 where open; that of an input may be set."""

    def __init__(self, value: Any) -> None:
        self.name = value.name
        self.dtype = _TYPES[value.type.tensor_type.elem_type]
        self.shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim)


class INetworkDefinition(Reporter):
    def __init__(self, logger: ILogger, flags: int) -> None:
        self._logger = logger
        self._model: Any = None
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._strongly_typed = not is_10() or bool(flags >> int(NetworkDefinitionCreationFlag.STRONGLY_TYPED) & 1)

    @property
    def num_layers(self) -> int:
        return len(self._model.graph.node)

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class ParserError:
    def __init__(self, text: str, node: str = "", operator: str = "") -> None:
        self._text, self._node, self._operator = text, node, operator

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return self._node

    def node_operator(self) -> str:
        return self._operator


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, check_logger(logger)
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes) -> bool:
        try:
            parsed = onnx.load_model_from_string(model)
            onnx.checker.check_model(parsed)
            parsed = onnx.shape_inference.infer_shapes(parsed)
        except Exception as error:  # whatever is wrong with the bytes: the real parser says so and answers False
            self._errors.append(ParserError(f"Failed to parse the ONNX model: {str(error).splitlines()[0]}"))
            return False
        for node in parsed.graph.node:
            self._logger.log(ILogger.Severity.VERBOSE, f"Parsing node: {node.name} [{node.op_type}]")
            if node.op_type in _UNSUPPORTED:
                text = f"Plugin not found, are the plugin name, version, and namespace correct? {node.op_type}"
                self._errors.append(ParserError(text, node.name, node.op_type))
        constants = {tensor.name for tensor in parsed.graph.initializer}
        inputs = [value for value in parsed.graph.input if value.name not in constants]
        values = (*inputs, *parsed.graph.output, *parsed.graph.value_info)
        typed = [(value.name, value.type.tensor_type.elem_type) for value in values]
        typed += [(tensor.name, tensor.data_type) for tensor in parsed.graph.initializer]
        for name, kind in typed:
            if kind not in _TYPES:
                kind_name = onnx.TensorProto.DataType.Name(kind)
                self._errors.append(ParserError(f"Failed to convert ONNX data type {kind_name} of {name}"))
        if self._errors:
            return False
        self._network._model = parsed
        self._network._inputs = [ITensor(value) for value in inputs]
        self._network._outputs = [ITensor(value) for value in parsed.graph.output]
        return True


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, name: str, min: Any, opt: Any, max: Any) -> None:
        if not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise ValueError(f"the shapes of {name} do not rise")
        self._shapes[name] = tuple(tuple(int(d) for d in shape) for shape in (min, opt, max))

    def get_shape(self, name: str) -> list[tuple[int, ...]]:
        return list(self._shapes[name])


class IBuilderConfig:
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
    progress_monitor: Any = None

    def __init__(self) -> None:
        self._flags = {BuilderFlag.TF32}  # type: ignore[attr-defined]  # on unless it is switched off
        self._pools: dict[MemoryPoolType, int] = {}
        self._profiles: list[IOptimizationProfile] = []

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag)

    def get_flag(self, flag: Any) -> bool:
        return flag in self._flags

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self._pools[pool] = size

    def get_memory_pool_limit(self, pool: MemoryPoolType) -> int:
        return self._pools.get(pool, 0)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)


class Builder(Reporter):
    def __init__(self, logger: ILogger) -> None:
        self._logger = check_logger(logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(self._logger, flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
        """Return the plan, None when there is none to be had; the logger heard why."""
        if not _misbehave(self):
            return None
        monitor, steps = config.progress_monitor, 4
        if monitor is not None:
            monitor.phase_start("Building the fake engine", None, steps)
            for step in range(steps):
                if not monitor.step_complete("Building the fake engine", step):
                    monitor.phase_finish("Building the fake engine")
                    return None
            monitor.phase_finish("Building the fake engine")
        try:
            # The real one gives an IHostMemory; of a class of Python's own memoryview() takes no bytes before 3.12.
            return np.frombuffer(_plan(network, config, self._logger), np.uint8)
        except ValueError as error:
            self._fail(ErrorCodeTRT.INVALID_ARGUMENT, str(error))
            return None


def _misbehave(builder: Builder) -> bool:
    kind, amount, _ = switch("BUILD")
    if kind == "fail":
        builder._fail(ErrorCodeTRT.INTERNAL_ERROR, "Could not find any implementation for node {fake}")
        return False
    if kind == "crash":
        os.abort()
    if kind == "sleep":
        time.sleep(float(amount))
    hoard = []
    while kind in ("hang", "memory"):
        if kind == "memory":
            hoard.append(np.ones(2 << 20))  # 16 MiB that are really touched
        time.sleep(0.02)
    return True


def _plan(network: INetworkDefinition, config: IBuilderConfig, logger: ILogger) -> bytes:
    dynamic = [tensor.name for tensor in network._inputs if -1 in tensor.shape]
    if not config._profiles and dynamic:
        raise ValueError(f"Network has dynamic inputs, but no optimization profile has been defined: {dynamic}")
    shapes = dict(config._profiles[0]._shapes) if config._profiles else {}
    for tensor in network._inputs:
        lo, opt, hi = shapes.setdefault(tensor.name, (tensor.shape,) * 3)
        for fixed, low, high in zip(tensor.shape, lo, hi, strict=True):
            if fixed >= 0 and not low == fixed == high:
                raise ValueError(f"profile of {tensor.name} is {lo} .. {hi}, the network has {tensor.shape}")
    if not network._strongly_typed:
        logger.log(ILogger.Severity.WARNING, "the network is weakly typed: other types than the graph's may be chosen")
    model = network._model.SerializeToString()
    _set_output_shapes(network, model, shapes)
    elements = sum(int(np.prod([max(d, 1) for d in shapes[t.name][2]])) for t in network._inputs)
    facts = {
        "version": version(),
        "inputs": [[t.name, t.dtype.name, list(t.shape), shapes[t.name]] for t in network._inputs],
        "outputs": [[t.name, t.dtype.name, list(t.shape)] for t in network._outputs],
        "device_memory": -(-max(elements, 1) // 256) * 256,  # a quarter of the inputs' bytes, to have some
        "tf32": config.get_flag(BuilderFlag.TF32),  # type: ignore[attr-defined]
        "strongly_typed": network._strongly_typed,
    }
    if config.profiling_verbosity == ProfilingVerbosity.DETAILED:
        lines = [f"Name: {node.name or node.op_type}, LayerType: {node.op_type}, TacticName: fake_{node.op_type},"
                 for node in network._model.graph.node]
        logger.log(ILogger.Severity.VERBOSE, "Layers:\n" + "\n".join(lines))
    logger.log(ILogger.Severity.VERBOSE, f"Total Activation Memory: {facts['device_memory']} bytes")
    head = json.dumps(facts).encode()
    body = len(head).to_bytes(8, "little") + head + model
    return MAGIC + hashlib.sha256(body).digest() + body


def _set_output_shapes(network: INetworkDefinition, model: bytes, shapes: dict[str, Any]) -> None:
    """Find the shapes of the outputs by running the model at two batch sizes: what differs is open."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = []
    for which in (0, 2):
        # At most 3 rows: only to see what follows the batch.
        sizes = {name: (min(profile[which][0], 3), *profile[which][1:]) for name, profile in shapes.items()}
        feeds = {t.name: np.zeros(sizes[t.name], NUMPY[t.dtype.name]) for t in network._inputs}
        try:
            found.append([np.shape(output) for output in session.run(None, feeds)])
        except Exception as error:
            raise ValueError(f"the model does not run at {sizes}: {str(error).splitlines()[0]}") from error
    for tensor, low, high in zip(network._outputs, *found, strict=True):
        tensor.shape = tuple(a if a == b else -1 for a, b in zip(low, high, strict=True))
