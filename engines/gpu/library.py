"""What an adapter needs of a TensorRT package: its module, what it offers, and the objects that it calls back.

The module is a parameter here: `engines.gpu.flavour` alone imports it.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from engines.base import EngineError
from engines.gpu.report import one_line

# Lines of the library's log that are kept to explain a refusal: it says the reason before the call returns.
_KEPT_LINES = 16

OnLine = Callable[[str], None]
DTYPES = {"FLOAT": "f4", "HALF": "f2", "INT32": "i4", "INT64": "i8", "UINT8": "u1", "BOOL": "b1", "INT8": "i1"}


@dataclass(frozen=True, slots=True)
class Library:
    """A TensorRT package, imported. version: of its library. features: what it offers beyond what all have.

    logger: one for all and for good, because the library takes the first that it is given in a process and ignores
    others.
    """

    name: str
    version: str
    trt: Any
    features: frozenset[str]
    logger: Any

    @classmethod
    def of(cls, name: str, module: Any) -> "Library":
        return cls(name, str(module.__version__), module, _features(module), _logger(module))

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def _features(trt: Any) -> frozenset[str]:
    """Say what this package offers; each feature is an attribute that is there or not."""
    runtime_config = getattr(trt, "IRuntimeConfig", None)
    strategies = getattr(trt, "ExecutionContextAllocationStrategy", None)
    found = {
        "user_memory": hasattr(strategies, "USER_MANAGED") and hasattr(trt.IExecutionContext, "set_device_memory"),
        "graph_strategy": hasattr(runtime_config, "cuda_graph_strategy"),
        "kernel_specialization": hasattr(runtime_config, "dynamic_shapes_kernel_specialization_strategy"),
        "runtime_cache": hasattr(runtime_config, "create_runtime_cache"),
        "user_allocation": hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"),
        "compute_targets": hasattr(trt.IBuilderConfig, "set_compute_capability"),
        "progress": hasattr(trt, "IProgressMonitor") and hasattr(trt.IBuilderConfig, "progress_monitor"),
    }
    return frozenset(name for name, there in found.items() if there)


def forget(severity: str, text: str) -> None:
    """Drop a line."""


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is known only at run time
        """Called from any thread, and may not raise. keep: gets every line. said: the last warnings and errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.keep: Callable[[str, str], None] = forget
            self.said: deque[str] = deque(maxlen=_KEPT_LINES)

        def log(self, severity: Any, text: str) -> None:
            self.keep(severity.name, text)
            if severity.name in ("WARNING", "ERROR", "INTERNAL_ERROR"):
                self.said.append(one_line(text))

    return Logger()


def recorder(trt: Any) -> Any:
    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]  # the base is known only at run time
        """Keeps errors in order. Called from any thread: appending to a list is atomic."""

        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.errors: list[tuple[Any, str]] = []

        def num_errors(self) -> int:
            return len(self.errors)

        def get_error_code(self, index: int) -> Any:
            return self.errors[index][0]

        def get_error_desc(self, index: int) -> str:
            return self.errors[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self.errors.clear()

        def report_error(self, code: Any, text: str) -> bool:
            self.errors.append((code, text))
            return True

        def take(self) -> list[str]:
            taken, self.errors = self.errors, []
            return [one_line(text) for _, text in taken]

    return Recorder()


def monitor(trt: Any, on_line: OnLine) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is known only at run time
        """Tells the phases of a build; an exception may not pass through the library."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._steps[name] = steps

        def step_complete(self, name: str, step: int) -> bool:
            with suppress(OSError):
                on_line(f"{name} {step + 1}/{self._steps.get(name, 0)}")
            return True

        def phase_finish(self, name: str) -> None:
            self._steps.pop(name, None)

    return Monitor()


def made(thing: Any, what: str, said: Any) -> Any:
    if thing is None:
        raise EngineError(f"TensorRT cannot make a {what}: {'; '.join(list(said)[-3:]) or 'it gives no reason'}")
    return thing
