"""ONNX Runtime on the CPU: the embedded default."""

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from engines.base import Array, Arrays, EngineError
from engines.bundle import Bundle
from engines.signature import Signature

_DTYPES = {
    "tensor(float)": "f4", "tensor(double)": "f8", "tensor(int64)": "i8", "tensor(int32)": "i4",
    "tensor(uint8)": "u1", "tensor(bool)": "b1",
}  # fmt: skip
# Everything that ONNX Runtime raises by its status codes; each derives from Exception directly.
_FAILURES = (
    ort_state.Fail, ort_state.InvalidArgument, ort_state.RuntimeException, ort_state.InvalidGraph,
    ort_state.InvalidProtobuf, ort_state.NotImplemented, ort_state.EPFail, RuntimeError,
)  # fmt: skip
_FATAL = 4

ort.disable_telemetry_events()


class OnnxCpu:
    """One ONNX Runtime session. A row's result has the same bits in every batch (contract test)."""

    name = "onnx_cpu"

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        """Compile the bundle's model. Raises EngineError if ONNX Runtime refuses it."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # Batches differ in size, so patterns of memory never repeat: without them a convolutional net takes 8.7
        # instead of 10.2 us a row. With the arena 1,024 rows left 9 MiB behind, without it (malloc) 13 MiB.
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = True
        # Failures come back as exceptions; without this each of them also writes to stderr, past our logs.
        options.log_severity_level = _FATAL
        # Otherwise "ORTM" in bytes 4 to 8 makes it read ONNX Runtime's own format, which a protobuf can be at once.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            session = ort.InferenceSession(bundle.model, options, providers=["CPUExecutionProvider"])
        except _FAILURES as error:
            raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {bundle.path}: {error}") from error
        self._session: ort.InferenceSession | None = session
        self._spec = bundle.spec
        self._signature = Signature.of(
            [(i.name, _dtype(i), i.shape) for i in session.get_inputs()],
            [(o.name, _dtype(o), o.shape) for o in session.get_outputs()],
        )
        self._signature.require(bundle.spec)
        self.inputs, self.outputs = self._signature.inputs, self._signature.outputs
        self._names = [o.name for o in self.outputs]

    def warm_up(self, batch: int) -> None:
        """Run `batch` rows of ones."""
        self.infer(self._signature.example(self._spec, batch))

    def infer(self, inputs: Arrays) -> dict[str, Array]:
        """Run the model; outputs are new arrays. Raises EngineError; the session stays usable."""
        rows = self._signature.check(inputs)
        most = self._spec.budget.rows_at_once or rows
        if rows <= most:
            return self._run(inputs)
        parts = [self._run({name: array[a : a + most] for name, array in inputs.items()}) for a in range(0, rows, most)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._names}

    def _run(self, inputs: Arrays) -> dict[str, Array]:
        if self._session is None:
            raise EngineError("the engine is closed")
        try:
            return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))
        except _FAILURES as error:
            raise EngineError(f"ONNX Runtime failed on this batch: {error}") from error

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _dtype(tensor: ort.NodeArg) -> str:
    if tensor.type not in _DTYPES:
        raise EngineError(f"{tensor.name!r} of the model is {tensor.type}; rows are {', '.join(_DTYPES)}")
    return _DTYPES[tensor.type]
