"""Open the engine that the configuration names. The choice is explicit: nothing falls back in silence."""

from engines.base import Engine, EngineError
from engines.bundle import Bundle

ENGINES = ("onnx_cpu", "reference")
_CPU_SETTING = 'set [engine] name = "onnx_cpu" (CPU, package onnxruntime)'


def open_engine(name: str, bundle: Bundle, threads: int = 1) -> Engine:
    """Open engine `name` on the model of `bundle`; `threads` bounds what one inference may use.

    Raises EngineError for an unknown name, a missing package, or a model that the engine cannot run.
    """
    # Imported on first use: a worker pays the memory only of the engine that it runs.
    try:
        match name:
            case "onnx_cpu":
                from engines.onnx_cpu import OnnxCpu

                return OnnxCpu(bundle, threads)
            case "reference":
                from engines.reference import Reference

                return Reference(bundle)
    except ImportError as error:
        raise EngineError(f"engine {name!r} cannot be loaded: {error}. Install it; {_CPU_SETTING}.") from error
    raise EngineError(f"engine {name!r} is unknown, there are {', '.join(ENGINES)}; {_CPU_SETTING}.")
