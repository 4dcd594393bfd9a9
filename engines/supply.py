"""Open the engine that was chosen (`engines.select`). The choice is explicit: nothing falls back in silence."""

import os
from dataclasses import dataclass
from pathlib import Path

from engines.base import Engine, EngineError
from engines.bundle import Bundle

#: Engines that run wherever the base package does. The others need a device.
ENGINES = ("onnx_cpu", "reference")
GPU_ENGINES = ("tensorrt", "tensorrt_rtx")
CPU_SETTING = 'set [engine] name = "onnx_cpu" (CPU, package onnxruntime)'


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What shapes an engine. threads: most that one inference may use on a CPU; the rest is for GPUs.

    max_batch: rows of the largest batch. depth: batches in flight at a time. cache: folder of built engines, None: the
    user's state folder. build_timeout_s, build_memory_mb [MiB]: bounds of a build.
    """

    threads: int = 1
    precision: str = "f32"
    max_batch: int = 256
    depth: int = 3
    cache: Path | None = None
    build_timeout_s: float = 600.0
    build_memory_mb: int = 4096


def cache_folder(options: EngineOptions) -> Path:
    """Return the folder of built engines."""
    if options.cache is not None:
        return options.cache
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "kizashi" / "engines"


def open_engine(name: str, bundle: Bundle, options: EngineOptions = EngineOptions()) -> Engine:
    """Open engine `name` on the model of `bundle`, on the thread that is to own it.

    Of a GPU only a plan that is stored for this device is opened: `engines.gpu.store` keeps them, building one takes
    long and is asked for by name. Raises EngineError for an unknown name, a missing package, device or plan, or a
    model that the engine cannot run.
    """
    # Imported on first use: a worker pays the memory only of the engine that it runs.
    try:
        match name:
            case "onnx_cpu":
                from engines.onnx_cpu import OnnxCpu

                return OnnxCpu(bundle, options.threads)
            case "reference":
                from engines.reference import Reference

                return Reference(bundle)
            case "tensorrt" | "tensorrt_rtx":
                from engines.gpu.provide import GpuSupply

                return GpuSupply(name, bundle, options).open()
    except ImportError as error:
        raise EngineError(f"engine {name!r} cannot be loaded: {error}. Install it; {CPU_SETTING}.") from error
    raise EngineError(f"engine {name!r} is unknown, there are {', '.join((*ENGINES, *GPU_ENGINES))}; {CPU_SETTING}.")
