"""The runtime's half: load a plan, make contexts, put runs on streams of the stand-in libcuda."""

import atexit
import ctypes
import hashlib
import itertools
import json
import os
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from tensorrt._build import MAGIC, NUMPY
from tensorrt._names import (
    DataType,
    ErrorCodeTRT,
    ExecutionContextAllocationStrategy,
    ILogger,
    IRuntimeConfig,
    Reporter,
    TensorIOMode,
    TensorLocation,
    check_logger,
    switch,
    version,
)  # fmt: skip

_ILLEGAL_ADDRESS, _UNKNOWN = 700, 999
_OUT_OF_RESOURCES = 701
_ALIGN = 256

Shape = tuple[int, ...]

#: Runs per number of rows, in this process.
runs: Counter[int] = Counter()


class Runtime(Reporter):
    def __init__(self, logger: ILogger) -> None:
        self._logger = check_logger(logger)
        self.engine_host_code_allowed = False
        self.tempfile_control_flags = 3

    def deserialize_cuda_engine(self, plan: Any) -> "ICudaEngine | None":
        data = bytes(plan)
        body = data[len(MAGIC) + 32 :]
        whole = data[: len(MAGIC)] == MAGIC and hashlib.sha256(body).digest() == data[len(MAGIC) : len(MAGIC) + 32]
        if not whole or switch("LOAD").kind == "fail":
            self._fail(ErrorCodeTRT.INTERNAL_ERROR, "IRuntime::deserializeCudaEngine: Serialization assertion failed")
            return None
        size = int.from_bytes(body[:8], "little")
        facts = json.loads(body[8 : 8 + size])
        if facts["version"] != version():
            text = f"The engine plan file is of version {facts['version']}, this is {version()}"
            self._fail(ErrorCodeTRT.INVALID_CONFIG, text)
            return None
        return ICudaEngine(self, facts, body[8 + size :])


class ICudaEngine(Reporter):
    def __init__(self, runtime: Runtime, facts: Mapping[str, Any], model: bytes) -> None:
        self._logger, self.error_recorder = runtime._logger, runtime.error_recorder
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("FAKE_TENSORRT_THREADS") or 1)
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._inputs = {name: _Input(kind, tuple(shape), *map(tuple, profile))
                        for name, kind, shape, profile in facts["inputs"]}
        self._outputs = {name: (kind, tuple(shape)) for name, kind, shape in facts["outputs"]}
        self._names = [*self._inputs, *self._outputs]
        self.num_io_tensors = len(self._names)
        self.num_optimization_profiles = 1
        self.device_memory_size_v2 = facts["device_memory"]

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self._inputs[name].kind if name in self._inputs else self._outputs[name][0]]

    def get_tensor_shape(self, name: str) -> Shape:
        return self._inputs[name].shape if name in self._inputs else self._outputs[name][1]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        if name not in self._names:
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Shape]:
        it = self._inputs[name]
        return [it.low, it.best, it.high]

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, how: Any = ExecutionContextAllocationStrategy.STATIC) -> Any:
        if switch("CONTEXT").kind == "fail":
            self._fail(ErrorCodeTRT.FAILED_ALLOCATION, "IExecutionContext: cannot be made")
            return None
        strategy = how.get_execution_context_allocation_strategy() if isinstance(how, IRuntimeConfig) else how
        return IExecutionContext(self, strategy)


class _Input(NamedTuple):
    kind: str
    shape: Shape
    low: Shape
    best: Shape
    high: Shape


class _Job(NamedTuple):
    """One run as it was when it was put on a stream; a graph may repeat it."""

    context: "weakref.ref[IExecutionContext]"
    engine: ICudaEngine
    inputs: dict[str, tuple[int, Shape]]
    outputs: dict[str, int]
    scratch: tuple[int, int]
    repeats: bool


_jobs: dict[int, _Job] = {}
_tickets = itertools.count(1)
_enqueued = itertools.count(1)
_ran = itertools.count(1)
_hoard: list[Any] = []


class IExecutionContext(Reporter):
    """One run at a time. Shapes and addresses stay until they are set anew."""

    def __init__(self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy) -> None:
        self._logger, self.error_recorder, self.engine = engine._logger, engine.error_recorder, engine
        self._shapes: dict[str, Shape] = {n: i.shape for n, i in engine._inputs.items() if -1 not in i.shape}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        self._brings_memory = strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        self._captured: list[int] = []

    def __del__(self) -> None:
        for ticket in getattr(self, "_captured", ()):  # a graph that is launched after this is told so
            _jobs.pop(ticket, None)

    def set_device_memory(self, memory: int, size: int) -> None:
        if memory % _ALIGN or size < self.engine.device_memory_size_v2:
            needed = self.engine.device_memory_size_v2
            text = f"setDeviceMemoryV2: {size} bytes at {memory:#x}; needed are {needed}, at a multiple of {_ALIGN}"
            self._fail(ErrorCodeTRT.INVALID_ARGUMENT, text)
            return
        self._scratch = (memory, size)

    def set_input_shape(self, name: str, shape: Any) -> bool:
        wanted, it = tuple(int(d) for d in shape), self.engine._inputs.get(name)
        if it is None or len(wanted) != len(it.low) or not all(
            a <= b <= c for a, b, c in zip(it.low, wanted, it.high, strict=True)
        ):
            text = f"IExecutionContext::setInputShape: {name} {wanted} does not satisfy any optimization profiles"
            self._fail(ErrorCodeTRT.INVALID_ARGUMENT, text)
            return False
        self._shapes[name] = wanted
        return True

    def get_tensor_shape(self, name: str) -> Shape:
        if name in self.engine._inputs:
            return self._shapes.get(name, self.engine._inputs[name].shape)
        shape = self.engine._outputs[name][1]
        if shape and shape[0] == -1 and len(self._shapes) == len(self.engine._inputs):
            return (next(iter(self._shapes.values()))[0], *shape[1:])
        return shape

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine._inputs if name not in self._shapes]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine._names:
            self._fail(ErrorCodeTRT.INVALID_ARGUMENT, f"IExecutionContext::setTensorAddress: there is no tensor {name}")
            return False
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def execute_async_v3(self, stream_handle: int) -> bool:
        call, failing = next(_enqueued), switch("ENQUEUE")
        unset = [n for n in self.engine._names if not self._addresses.get(n)]
        if unset or self.infer_shapes():
            text = f"enqueueV3: no address for {unset}, no shape for {self.infer_shapes()}"
            self._fail(ErrorCodeTRT.INVALID_STATE, text)
            return False
        if self._brings_memory and not self._scratch[0]:
            self._fail(ErrorCodeTRT.INVALID_STATE, "enqueueV3: the context has no device memory")
            return False
        if failing.kind == "fail" and call >= failing.first:
            self._fail(ErrorCodeTRT.FAILED_EXECUTION, "enqueueV3: the fake was told to fail")
            return False
        return self._put(ctypes.c_void_p(stream_handle))

    def _put(self, stream: ctypes.c_void_p) -> bool:
        cuda, status = _cuda(), ctypes.c_int()
        code = cuda.cuStreamIsCapturing(stream, ctypes.byref(status))
        if code == 0 and status.value and switch("CAPTURE").kind == "no":
            cuda.cuStreamSynchronize(stream)  # spoils the capture
        ticket = next(_tickets)
        inputs = {name: (self._addresses[name], self._shapes[name]) for name in self.engine._inputs}
        outputs = {name: self._addresses[name] for name in self.engine._outputs}
        scratch = (self._scratch[0], self.engine.device_memory_size_v2) if self._brings_memory else (0, 0)
        _jobs[ticket] = _Job(weakref.ref(self), self.engine, inputs, outputs, scratch, bool(status.value))
        code = code or cuda.cuLaunchHostFunc(stream, _callback(), ctypes.c_void_p(ticket))
        if code:
            del _jobs[ticket]
            words = ctypes.c_char_p()
            cuda.cuGetErrorString(code, ctypes.byref(words))
            text = f"enqueueV3: CUDA error {code}: {(words.value or b'').decode()} (cudaError {code})"
            self._fail(ErrorCodeTRT.FAILED_EXECUTION, text)
            return False
        if status.value:
            self._captured.append(ticket)
        return True


# ------------------------------------------------------------------------------- on the device's side


@cache
def _cuda() -> ctypes.CDLL:
    library = ctypes.CDLL("libcuda.so.1")
    if not hasattr(library, "standin_kind"):
        raise RuntimeError("the fake tensorrt needs the stand-in libcuda, this one is NVIDIA's")
    return library


@cache
def _callback() -> Any:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_run_ticket)


def _run_ticket(ticket: int) -> None:
    """Run a job. Called by the stand-in while a thread waits; nothing may be raised from here."""
    try:
        job = _jobs.get(ticket)
        if job is None or job.context() is None:
            return _illegal("a graph runs whose execution context is gone")
        if not job.repeats:
            del _jobs[ticket]
        _run(job)
    except BaseException as error:  # noqa: BLE001  # it would vanish in ctypes
        print(f"fake tensorrt: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        _cuda().standin_fail(_UNKNOWN, 1)


def _illegal(what: str) -> None:
    print(f"fake tensorrt: illegal address: {what}", file=sys.stderr, flush=True)
    _cuda().standin_fail(_ILLEGAL_ADDRESS, 1)


def _view(what: str, address: int, shape: Shape, kind: str) -> Any:
    """Show device memory as an array; None, and the context lost, if it is not all live memory of the stand-in."""
    dtype = np.dtype(NUMPY[kind])
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size and not _cuda().standin_kind(ctypes.c_uint64(address), ctypes.c_uint64(size)):
        return _illegal(f"{what}: {size} bytes at {address:#x}")
    if not size:
        return np.empty(shape, dtype)
    block = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(block, dtype).reshape(shape)


def _run(job: _Job) -> None:
    number = next(_ran)
    feeds = {}
    for name, (address, shape) in job.inputs.items():
        feeds[name] = _view(f"input {name}", address, shape, job.engine._inputs[name].kind)
        if feeds[name] is None:
            return
    if job.scratch[0]:
        scratch = _view("scratch memory", job.scratch[0], (job.scratch[1],), "UINT8")
        if scratch is None:
            return
        if any(np.may_share_memory(scratch, feed) for feed in feeds.values()):
            return _illegal("scratch memory and an input overlap")
        scratch[:] = 0xA5  # whoever keeps something there loses it, as with the real one
    rows = next(iter(feeds.values())).shape[0] if feeds else 0
    _slow_or_leaking(number)
    if _poisoned(feeds):
        return
    results = dict(zip(job.outputs, job.engine._session.run(list(job.outputs), feeds), strict=True))
    for name, address in job.outputs.items():
        value = results[name]
        target = _view(f"output {name}", address, value.shape, job.engine._outputs[name][0])
        if target is None:
            return
        target[...] = _spoilt(value, number)
    runs[rows] += 1


def _slow_or_leaking(number: int) -> None:
    kind, amount, first = switch("RUN")
    if number < first:
        return
    if kind == "sleep":
        time.sleep(float(amount))
    if kind == "leak":
        _hoard.append(np.ones(int(amount), np.uint8))


def _poisoned(feeds: Mapping[str, Any]) -> bool:
    value, _, error = os.environ.get("FAKE_TENSORRT_POISON", "").partition("=")
    if not value or not any(np.any(feed == float(value)) for feed in feeds.values()):
        return False
    code, _, sticky = error.partition(":")
    _cuda().standin_fail(int(code or _OUT_OF_RESOURCES), int(sticky == "sticky"))
    return True


def _spoilt(value: Any, number: int) -> Any:
    kind, amount, first = switch("OUTPUT")
    if not kind or number < first or value.dtype.kind != "f":
        return value
    if kind == "nan":
        return np.full_like(value, np.nan)
    if kind == "zero":
        return np.zeros_like(value)
    return value + value.dtype.type(amount) if kind == "add" else value * value.dtype.type(amount)


def _report() -> None:
    path = os.environ.get("FAKE_TENSORRT_REPORT")
    if path and runs and threading.current_thread() is threading.main_thread():
        with open(path, "w") as file:
            json.dump({str(rows): n for rows, n in sorted(runs.items())}, file)


atexit.register(_report)
