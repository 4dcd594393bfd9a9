"""Open the engine that the configuration names. The choice is explicit: nothing falls back in silence."""

from importlib import import_module

from engines.base import Engine, EngineError
from engines.bundle import Bundle

# name -> (module, package that it needs). Modules load on first use: a worker pays only for the engine it runs.
ENGINES = {
    "onnx_cpu": ("engines.onnx_cpu", "onnxruntime"),
    "reference": ("engines.reference", "onnx"),
}
_CPU_SETTING = 'set engine = "onnx_cpu" (ONNX Runtime on the CPU) under [model]'


def open_engine(name: str, bundle: Bundle, threads: int = 1) -> Engine:
    """Open engine `name` on the model of `bundle`; `threads` bounds what one inference may use.

    Raises EngineError for an unknown name, a missing package, or a model that the engine cannot run.
    """
    if name not in ENGINES:
        raise EngineError(f"engine {name!r} is unknown, there are {', '.join(ENGINES)}; {_CPU_SETTING}")
    module, package = ENGINES[name]
    try:
        opener = import_module(module)
    except ImportError as error:
        raise EngineError(f"engine {name!r} needs the package {package!r}: {error}; install it, or {_CPU_SETTING}") from error
    engine: Engine = opener.open(bundle, threads)
    return engine
