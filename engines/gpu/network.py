"""Make a plan of an ONNX model: parse, configure, one profile, build. Runs in the child of `engines.gpu.build`."""

import time
from typing import Any

from engines.base import EngineError
from engines.gpu.library import DTYPES, Library, OnLine, forget, made, monitor
from engines.gpu.plan import BuildReport, BuildSpec, PlanTensor
from engines.gpu.report import RIM, TYPES, Log, refusal
from engines.supply import CPU_SETTING
from engines.wire import TensorFacts, read_model

# Compute capability 7.5: TensorRT-RTX refuses float32 products there, and dynamic ones can silently give zeros.
_REFUSED = "7.5"


def compile_model(
    library: Library, model: bytes, spec: BuildSpec, on_line: OnLine, device_cc: str
) -> tuple[bytes, BuildReport]:
    """Build a plan and say what it holds. Raises EngineError. See Flavour.build."""
    watch = monitor(library.trt, on_line) if "progress" in library.features else None
    library.logger.keep = (log := Log()).add
    try:
        # The library's objects hold bare pointers to ours, and die with the frame of `_compile`.
        return _compile(library, model, spec, log, watch, on_line, device_cc)
    finally:
        library.logger.keep = forget


def _compile(
    library: Library, model: bytes, spec: BuildSpec, log: Log, watch: Any, on_line: OnLine, device_cc: str
) -> tuple[bytes, BuildReport]:
    trt, started = library.trt, time.monotonic()
    facts = _rim(model)
    builder = made(trt.Builder(library.logger), "builder", log.errors)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = made(builder.create_network(0 if flag is None else 1 << int(flag)), "network", log.errors)
    on_line("parse")
    parser = _parse(library, network, model)
    config = made(builder.create_builder_config(), "configuration", log.errors)
    _configure(library, config, spec, device_cc)
    if watch is not None:
        config.progress_monitor = watch
    config.add_optimization_profile(_profile(builder, network, facts, spec))
    on_line(f"compile {network.num_layers} layers")
    plan = builder.build_serialized_network(network, config)
    del parser  # not before: the network's weights lie in its memory
    if plan is None:
        # No error recorder here: freeing a network that took it over from its builder crashes 1.7 of RTX. The
        # logger hears the same.
        said = log.errors or list(log.warnings)
        raise EngineError(f"{library} cannot build the model: {'; '.join(said[:3]) or 'no reason'}")
    data = bytes(memoryview(plan))
    report = BuildReport(
        flavour=library.name, version=library.version, precision=spec.precision, max_batch=spec.max_batch,
        plan_bytes=len(data), seconds=round(time.monotonic() - started, 3), tensors=_network_tensors(network),
        kernels=log.kernels, layers=dict(sorted(log.layers.items())), loops=tuple(log.loops),
        activation_bytes=log.activation_bytes, weights_bytes=log.weights_bytes,
        warnings=log.all_warnings(),
    )  # fmt: skip
    return data, report


def _parse(library: Library, network: Any, model: bytes) -> Any:
    """Fill the network and return the parser. Raises EngineError that names each node at fault."""
    parser = library.trt.OnnxParser(network, library.logger)
    if parser.parse(model):
        return parser
    faults = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        faults.append(refusal(error.node_operator(), error.node_name(), error.desc()))
    named = "; ".join(dict.fromkeys(faults)) or "no reason given"
    raise EngineError(f"{library} cannot read the model: {named}")


def _configure(library: Library, config: Any, spec: BuildSpec, device_cc: str) -> None:
    trt = library.trt
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_bytes)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    (config.set_flag if spec.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if "user_allocation" in library.features:
        # All memory is then given by the caller, so that launches may be captured in a CUDA graph.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    _target(library, config, spec.targets, device_cc)


def _target(library: Library, config: Any, targets: tuple[str, ...], device_cc: str) -> None:
    """Say what to build for: `targets` exactly, else the device where the library knows it, else its default."""
    if "compute_targets" not in library.features:
        if targets:
            raise EngineError(f"{library} builds for the GPU of this machine only, not for "
                              f"{', '.join(targets)}; tensorrt_rtx takes targets")
        return
    if _REFUSED in (*targets, device_cc):
        raise EngineError(f"compute capability {_REFUSED} (Turing) is not supported: {library.name} refuses float32 "
                          f"products there; {CPU_SETTING}")
    offered = library.trt.ComputeCapability.__members__
    known = {f"{name[2:-1]}.{name[-1]}": value for name, value in offered.items() if name.startswith("SM")}
    unknown = [cc for cc in targets if cc not in known]
    if unknown:
        raise EngineError(f"{library} cannot build for compute capability {', '.join(unknown)}; "
                          f"it knows {', '.join(cc for cc in known if cc != _REFUSED)}")
    chosen = targets or ((device_cc,) if device_cc in known else ())
    if chosen:
        config.num_compute_capabilities = len(chosen)
        for i, cc in enumerate(chosen):
            config.set_compute_capability(known[cc], i)


def _rim(model: bytes) -> dict[str, TensorFacts]:
    """Return the model's inputs by name. Raises EngineError for types that the library cannot take or gets wrong.

    It reads a float64 input as float32 without a word, so it is asked here.
    """
    try:
        facts = read_model(model)
    except ValueError as error:
        raise EngineError(f"not an ONNX model: {error}") from error
    faults = [f"{t.name!r} is {TYPES.get(t.dtype, f'of type {t.dtype}, which a plan cannot have')}"
              for t in (*facts.inputs, *facts.outputs) if t.dtype not in RIM]
    if faults:
        raise EngineError("; ".join(faults))
    return {t.name: t for t in facts.inputs}


def _profile(builder: Any, network: Any, facts: dict[str, TensorFacts], spec: BuildSpec) -> Any:
    """Fix every open dimension but the batch, and give the batch's range.

    Kernels are chosen for full batches: with less to do there is time to spare.
    """
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        entry = network.get_input(i)
        row = _row(facts[entry.name], spec)
        entry.shape = (-1, *row)
        profile.set_shape(entry.name, (1, *row), (spec.max_batch, *row), (spec.max_batch, *row))
    return profile


def _row(tensor: TensorFacts, spec: BuildSpec) -> tuple[int, ...]:
    if not tensor.dims or isinstance(tensor.dims[0], int):
        raise EngineError(f"input {tensor.name!r} has dimensions {list(tensor.dims)}: the first must be an open batch")
    row = []
    for axis, dim in enumerate(tensor.dims[1:], 1):
        name = dim or f"{tensor.name}[{axis}]"
        size = name if isinstance(name, int) else spec.dims.get(name)
        if size is None:
            raise EngineError(f"input {tensor.name!r} leaves dimension {name!r} open; a plan needs its size, given are "
                              f"{spec.dims or 'none'}")
        row.append(size)
    return tuple(row)


def _network_tensors(network: Any) -> tuple[PlanTensor, ...]:
    inputs = [(network.get_input(i), True) for i in range(network.num_inputs)]
    outputs = [(network.get_output(i), False) for i in range(network.num_outputs)]
    return tuple(
        PlanTensor(t.name, DTYPES.get(t.dtype.name, t.dtype.name), tuple(int(d) for d in t.shape), is_input)
        for t, is_input in (*inputs, *outputs)
    )
