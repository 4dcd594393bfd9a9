"""Which engines this machine can run, and which one the configuration's name means here.

Cheap where there is no GPU: packages are looked for before they are imported, the driver before the packages.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from engines.base import EngineError
from engines.supply import CPU_SETTING, GPU_ENGINES

#: What each GPU engine is installed by; the same names as in the package's extras.
_EXTRAS = {"tensorrt": "gpu", "tensorrt_rtx": "rtx"}
_DRIVER = "libcuda.so.1"


@dataclass(frozen=True, slots=True)
class Backend:
    """An engine and whether it can be had here. why: the device, or what is missing; fix: how to get it."""

    name: str
    ok: bool
    why: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine to serve with. why: in one clause, for logs, metrics and alerts."""

    name: str
    why: str


def backends() -> list[Backend]:
    """Return every engine that is meant for serving, the fastest first, whether it can be had here or not."""
    cpu = find_spec("onnxruntime") is not None
    return [*map(_gpu, GPU_ENGINES),
            Backend("onnx_cpu", cpu, "package onnxruntime" if cpu else "package onnxruntime is missing")]


def choose(name: str, offers: Callable[[], list[Backend]] = backends) -> Choice:
    """Return the engine that `name` means on this machine; "auto" is the first that can be had.

    Raises EngineError when a named engine cannot be had: what is missing, and the setting for the CPU.
    """
    if name not in ("auto", *GPU_ENGINES):
        return Choice(name, f'engine.name = "{name}"')
    found = offers()
    if name != "auto":
        asked = next(b for b in found if b.name == name)
        if not asked.ok:
            raise EngineError(f'engine.name = "{name}" cannot be had: {asked.why}. {asked.fix}{CPU_SETTING}')
        return Choice(name, f'engine.name = "{name}", on {asked.why}')
    lacking: list[str] = []
    for backend in found:
        if backend.ok:
            here = f"on {backend.why}" if backend.name in GPU_ENGINES else "; ".join(lacking)
            return Choice(backend.name, f"auto: {here}")
        lacking.append(f"{backend.name}: {backend.why}")
    raise EngineError(f"no engine can be had: {'; '.join(lacking)}; {CPU_SETTING}")


def _gpu(name: str) -> Backend:
    missing = [package for package in (name, "pycuda") if find_spec(package) is None]
    if missing:
        what = f"package{'s' if missing[1:] else ''} {' and '.join(missing)} missing"
        return Backend(name, False, what, f"Run pip install 'kizashi[{_EXTRAS[name]}]', or ")
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return Backend(name, False, f"no NVIDIA driver ({_DRIVER})", "Install the driver, or ")
    try:
        driver, flavours = import_module("engines.gpu.driver"), import_module("engines.gpu.flavour")
        device, flavour = driver.probe(), flavours.load_flavour(name)
    except EngineError as error:
        return Backend(name, False, str(error).removesuffix(CPU_SETTING).rstrip("; "), "Mend that, or ")
    return Backend(name, True, f"{device.name} (sm_{device.cc[0]}{device.cc[1]}, {name} {flavour.version})")
