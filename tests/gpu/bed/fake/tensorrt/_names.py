"""Enumerations, the objects that TensorRT calls back, and what both halves of the fake share."""

import enum
import os
from typing import Any, NamedTuple


def version() -> str:
    return os.environ.get("FAKE_TENSORRT_VERSION") or "11.4.0.106"


def is_10() -> bool:
    return version().startswith("10.")


class Switch(NamedTuple):
    """One of the switches, taken apart: kind[:amount][@first]."""

    kind: str
    amount: str
    first: int


def switch(name: str) -> Switch:
    text, _, first = os.environ.get(f"FAKE_TENSORRT_{name}", "").partition("@")
    kind, _, amount = text.partition(":")
    return Switch(kind, amount, int(first or 1))


class _Enum(enum.Enum):
    """As pybind11 makes them: int() works, but they are no integers."""

    def __int__(self) -> int:
        return int(self.value)


class DataType(_Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64, INT4, FP4 = range(11)


class TensorIOMode(_Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(_Enum):
    DEVICE, HOST = range(2)


class ExecutionContextAllocationStrategy(_Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class MemoryPoolType(_Enum):
    WORKSPACE, DLA_MANAGED_SRAM, DLA_LOCAL_DRAM, DLA_GLOBAL_DRAM, TACTIC_DRAM, TACTIC_SHARED_MEMORY = range(6)


class ProfilingVerbosity(_Enum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class ErrorCodeTRT(_Enum):
    (SUCCESS, UNSPECIFIED_ERROR, INTERNAL_ERROR, INVALID_ARGUMENT, INVALID_CONFIG, FAILED_ALLOCATION,
     FAILED_INITIALIZATION, FAILED_EXECUTION, FAILED_COMPUTATION, INVALID_STATE, UNSUPPORTED_STATE) = range(11)


_FLAGS = ["DEBUG", "GPU_FALLBACK", "REFIT", "DISABLE_TIMING_CACHE", "TF32", "SPARSE_WEIGHTS", "VERSION_COMPATIBLE"]
if is_10():  # weak typing is chosen by flags there
    _FLAGS = ["FP16", "INT8", "BF16", *_FLAGS]

BuilderFlag = _Enum("BuilderFlag", [(name, i) for i, name in enumerate(_FLAGS)])  # type: ignore[call-overload]
# 11 knows only strong typing, and numbers the flag anew: who writes 1 << 1 by hand sets something else there.
NetworkDefinitionCreationFlag = _Enum(  # type: ignore[call-overload]
    "NetworkDefinitionCreationFlag",
    [("EXPLICIT_BATCH", 0), ("STRONGLY_TYPED", 1)] if is_10() else [("STRONGLY_TYPED", 0)],
)


class IRuntimeConfig:
    """How contexts are made; 10.13 and 11 have this one property, RTX has more."""

    def __init__(self) -> None:
        self._strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._strategy = strategy

    def get_execution_context_allocation_strategy(self) -> ExecutionContextAllocationStrategy:
        return self._strategy


class ILogger:
    class Severity(_Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        pass

    def log(self, severity: Severity, text: str) -> None:
        raise NotImplementedError


class Logger(ILogger):
    def __init__(self, min_severity: ILogger.Severity = ILogger.Severity.WARNING) -> None:
        self.min_severity = min_severity

    def log(self, severity: ILogger.Severity, text: str) -> None:
        if int(severity) <= int(self.min_severity):
            print(f"[TRT] [{severity.name[0]}] {text}", flush=True)


class IErrorRecorder:
    def __init__(self) -> None:
        pass

    def report_error(self, code: ErrorCodeTRT, text: str) -> bool:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        pass


class Reporter:
    """Where an object says what went wrong: its error recorder if it has one, and the logger."""

    _logger: ILogger
    error_recorder: IErrorRecorder | None = None

    def _fail(self, code: ErrorCodeTRT, text: str) -> None:
        if self.error_recorder is not None:
            self.error_recorder.report_error(code, text)
        self._logger.log(ILogger.Severity.ERROR, f"Error Code {int(code)}: {text}")


def check_logger(logger: Any) -> ILogger:
    if not isinstance(logger, ILogger):
        raise TypeError("incompatible function arguments: an ILogger is needed")
    return logger
