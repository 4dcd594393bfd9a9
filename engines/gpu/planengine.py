"""A loaded plan and its execution contexts: what a session on the GPU calls for every batch."""

import re
from typing import Any

from engines.base import EngineError, EngineLost
from engines.gpu.faults import STICKY
from engines.gpu.library import DTYPES, Library, made, recorder
from engines.gpu.plan import PlanTensor
from engines.gpu.report import RIM

# What the library says of a CUDA error: its number, which is the driver's, or only CUDA's words for one that is sticky.
_NUMBER = re.compile(r"cudaError (\d+)\b")
_WORDS = re.compile(
    r"illegal memory access|illegal instruction|misaligned address|invalid program counter|hardware stack error|"
    r"unspecified launch failure|launch timed out|device-side assert|uncorrectable ECC|context is destroyed|"
    r"invalid address space",
    re.IGNORECASE,
)


class PlanEngine:
    """A loaded plan. tensors: inputs and outputs. device_memory_bytes: scratch memory of one context.

    Create, use and close it on the thread that holds the CUDA context; contexts are closed before it.
    """

    def __init__(self, library: Library, plan: bytes) -> None:
        """Load a plan that this machine built and the store verified. Raises EngineError with the library's reason."""
        self._library = library
        self._engine: Any = None
        self._runtime: Any = None
        self._kernels: Any = None
        self._recorder = recorder(library.trt)
        self._runtime = made(library.trt.Runtime(library.logger), "runtime", library.logger.said)
        self._runtime.error_recorder = self._recorder  # engines and contexts take it over
        self._runtime.engine_host_code_allowed = False
        if hasattr(self._runtime, "tempfile_control_flags"):
            self._runtime.tempfile_control_flags = 0  # a plan of ours writes no files
        library.logger.said.clear()
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"{library} cannot load the plan: {self._why()}")
        self._engine = engine
        self.device_memory_bytes = int(
            engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
        )
        self.tensors = tuple(self._tensor(engine.get_tensor_name(i)) for i in range(engine.num_io_tensors))

    def context(self) -> "PlanContext":
        """Make an execution context; it has no memory until `set_memory` where "user_memory" is a feature.

        Raises EngineError.
        """
        return PlanContext(self)

    def close(self) -> None:
        """Free the engine and the runtime; idempotent."""
        self._engine = None
        self._kernels = None
        self._runtime = None

    __del__ = close  # in this order, also when nobody closed it: the library crashes otherwise

    def _tensor(self, name: str) -> PlanTensor:
        trt, engine = self._library.trt, self._engine
        kind = engine.get_tensor_dtype(name)
        dtype = DTYPES.get(kind.name, kind.name)
        if dtype not in RIM:
            raise EngineError(f"{name!r} of the plan is {dtype}; inputs and outputs are {', '.join(sorted(RIM))}")
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise EngineError(f"{name!r} of the plan lies in host memory: its values decide shapes; make them constant")
        shape = tuple(int(d) for d in engine.get_tensor_shape(name))
        return PlanTensor(name, dtype, shape, engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)

    def _new_context(self) -> Any:
        trt, engine, features = self._library.trt, self._engine, self._library.features
        if engine is None:
            raise EngineError("the plan is closed")
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED if "user_memory" in features else None
        if not features & {"graph_strategy", "kernel_specialization", "runtime_cache"}:
            return engine.create_execution_context(strategy) if strategy else engine.create_execution_context()
        config = engine.create_runtime_config()
        if strategy:
            config.set_execution_context_allocation_strategy(strategy)
        if "graph_strategy" in features:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # the session captures its own graphs
        if "kernel_specialization" in features:
            # Compile for a shape at its first use, while warming up: lazily, a slow kernel serves until it is ready.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        if "runtime_cache" in features:
            # A session has a context per slot and bucket: what one compiled the others find.
            self._kernels = self._kernels or config.create_runtime_cache()
            config.set_runtime_cache(self._kernels)
        return engine.create_execution_context(config)

    def _why(self) -> str:
        """Return what the library said about the last failure, and forget it."""
        recorded = self._recorder.take()
        lines = self._library.logger.said
        said = [*recorded, *(line for line in list(lines) if line not in recorded)]
        lines.clear()
        return "; ".join(said[-3:]) or "it gives no reason"

    def _check(self, ok: bool, what: str) -> None:
        """Raise unless a call went well and recorded no error: EngineLost when the CUDA context is gone."""
        if ok and not self._recorder.errors:
            return
        why = f"{what} failed: {self._why()}"
        if _WORDS.search(why) or any(int(number) in STICKY for number in _NUMBER.findall(why)):
            raise EngineLost(why)
        raise EngineError(why)


class PlanContext:
    """An execution context: one batch at a time, on the thread that made it."""

    def __init__(self, engine: PlanEngine) -> None:
        self._owner = engine
        self._context: Any = engine._new_context()
        engine._check(self._context is not None, "creating a context")
        self._user_memory = "user_memory" in engine._library.features

    def set_memory(self, ptr: int, size: int) -> None:
        """Give the scratch memory: device pointer, 256-byte aligned, `size` >= the engine's device_memory_bytes.

        Nothing happens where the library holds its own. Raises EngineError, EngineLost.
        """
        if self._user_memory:
            self._context.set_device_memory(ptr, size)
            self._owner._check(True, "setting the device memory")

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set an input's shape, batch first. Raises EngineError when it is outside the plan's profile, EngineLost."""
        ok = self._context.set_input_shape(name, shape)
        self._owner._check(ok, f"setting input {name!r} to {list(shape)}")

    def set_address(self, name: str, ptr: int) -> None:
        """Say where an input is read or an output is written: a device pointer. Raises EngineError, EngineLost."""
        self._owner._check(self._context.set_tensor_address(name, ptr), f"setting the address of {name!r}")

    def capturable(self, stream_handle: int) -> bool:
        """Say if the library would let `enqueue` on this stream be captured; True where it cannot be asked."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(stream_handle))

    def enqueue(self, stream_handle: int) -> None:
        """Put one inference on a stream; it reads and writes the addresses set. Raises EngineError, EngineLost."""
        self._owner._check(self._context.execute_async_v3(stream_handle), "enqueueing a batch")

    def close(self) -> None:
        """Free the context; idempotent. Its stream must be done."""
        self._context = None
