"""One adapter over `tensorrt` 10.13 to 11.x and `tensorrt_rtx` 1.6 and later: the only file that imports either.

What differs between them is found by looking for the attribute, never by a version. Networks are strongly typed: the
graph says each tensor's type (engines.graph.precision), no flag changes it. Full TensorRT was never run on a GPU with
this code: its bindings were, over stubs.
"""

from functools import cache
from typing import Any

from engines.base import EngineError
from engines.gpu.library import Library, OnLine
from engines.gpu.network import compile_model
from engines.gpu.plan import BuildReport, BuildSpec, PlanTensor
from engines.gpu.planengine import PlanContext, PlanEngine
from engines.supply import CPU_SETTING

__all__ = ["FLAVOURS", "Flavour", "PlanContext", "PlanEngine", "PlanTensor", "load_flavour"]

#: Name of a flavour -> the package that holds it and the extra of kizashi that installs it.
FLAVOURS = {"tensorrt": ("tensorrt", "gpu"), "tensorrt_rtx": ("tensorrt-rtx-cu13", "rtx")}


class Flavour:
    """A TensorRT package. version: of its library. features: what it offers beyond what all of them have."""

    def __init__(self, name: str, module: Any) -> None:
        self._library = Library.of(name, module)
        self.name, self.version, self.features = name, self._library.version, self._library.features

    def build(
        self, model: bytes, spec: BuildSpec, on_line: OnLine = lambda line: None, *, device_cc: str = ""
    ) -> tuple[bytes, BuildReport]:
        """Build a plan from the bytes of a model.onnx whose precision is already that of `spec`.

        Meant for a child process: a native crash or endless search ends it. on_line: told each stage. device_cc: the
        compute capability that the plan will run on, where known. Raises EngineError.
        """
        return compile_model(self._library, model, spec, on_line, device_cc)

    def deserialize(self, plan: bytes) -> PlanEngine:
        """Load a plan that this machine built and the store verified. Raises EngineError with the library's reason."""
        return PlanEngine(self._library, plan)


@cache
def load_flavour(name: str) -> Flavour:
    """Import a flavour's package, once. Raises EngineError that names the package, the extra and the CPU setting."""
    if name not in FLAVOURS:
        raise EngineError(f"flavour {name!r} is unknown, there are {', '.join(FLAVOURS)}; {CPU_SETTING}.")
    try:
        return Flavour(name, _import(name))
    except (ImportError, OSError, RuntimeError) as error:  # OSError, RuntimeError: it cannot load its libraries
        package, extra = FLAVOURS[name]
        raise EngineError(
            f"engine {name!r} needs the package {package}, which cannot be loaded: {error}. "
            f"Install kizashi[{extra}], or {CPU_SETTING}."
        ) from error


def _import(name: str) -> Any:
    if name == "tensorrt":
        import tensorrt

        return tensorrt
    import tensorrt_rtx

    return tensorrt_rtx
