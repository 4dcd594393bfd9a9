"""The real Python bindings of several TensorRT releases, importable without TensorRT: their libraries are stubs.

The wheels of bindings are on PyPI (1.2 MB each), the libraries of full TensorRT are not. What a class of the bindings
offers can be looked at all the same; a call would go nowhere. Kept in .build/gpu/bindings, fetched by hash.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.gpu.bed.build import BED, ROOT

# What the bindings want of the libraries; a stub that lacks one cannot be loaded.
_SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getLogger",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
_FULL = ("libnvinfer.so", "libnvonnxparser.so", "libnvinfer_plugin.so")
_RTX = ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so")

#: Release -> SHA-256 of its wheels for CPython 3.11, 3.12, 3.13 on x86-64. 10.13: JetPack 7.1; 10.16: JetPack 7.2.
RELEASES = {
    ("tensorrt", "10.13.3.9"): (
        "f40c9e488af125b232fcca85ac4b21e090d7b1be55c3062eeaf48c2a9a9ed808",
        "9e3adb281af85508518b90979d0bf3a1704a40c3165a99d5b27e2cfee72f1b14",
        "c0530b410c4fa6086dd908d9390959c61c0437efd6d3ebc24cf563dcdd9f10f2",
    ),
    ("tensorrt", "10.16.1.11"): (
        "f986d47980d042cc126506a9b84586e55ad13737a7a46826fe45457c04d66294",
        "2fb87ac24a5e5f42e43f283c16d1b661dc72ef18568fd847ce2080b7db9ca232",
        "da17c222ba99f46e77e1dab568cd17c4652b0432d4fae074e4c79285356aa0ac",
    ),
    ("tensorrt", "11.0.0.114"): (
        "af42b7a12813d4615e1a3c7defea86d5223b902f6f209abe540d822d94eb2da7",
        "9ad9c94e15899660e4d755339733655c7e61bc3ee1fb68f9c44d21217e2dacd9",
        "9e69f5d6377612f182b0d73042df9d46bdc3eb47285f709e9ca4bd16eddcb36f",
    ),
    ("tensorrt", "11.4.0.106"): (
        "d072ac2a095e2be749fefc847adfb25d5ebe70303401df62ede8fe67a59f27fc",
        "5fc7a6c412881f7212030893bd5531b1a0ff415c72c7678dfe4ead7a7765b38d",
        "bac9a362c9189b5f5dd0444213913846e4b46003237834958e890eff57d86ed5",
    ),
    ("tensorrt_rtx", "1.6.1.120"): (
        "97f20844d7ae600ec169c4453be051cb1a7082d2c41c56ca40b8cedebf6956d1",
        "d271ea15e4b77b2e565e695e1839cb10dff09723fcde1d7eab5ababd4556fe71",
        "e5aeb408270042de80340761bcf38aac02973d84e92bd23be48de3af3d0e2b2d",
    ),
}


def environ(flavour: str, version: str) -> dict[str, str]:
    """Return the environment of a process that imports these bindings. Skips the test where they cannot be had."""
    why = _why_not()
    if why is None:
        try:
            folder = _made(flavour, version)
        except subprocess.CalledProcessError as error:
            why = f"{error.cmd[0]} failed: {error.stderr.strip()[-300:]}"
    if why and "gpu-bed" in os.environ.get("KIZASHI_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"KIZASHI_REQUIRE=gpu-bed, but bindings of {flavour} {version} cannot be had: {why}", pytrace=False)
    if why:
        pytest.skip(f"NOT TESTED against the bindings of {flavour} {version}: {why}")
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "LD_LIBRARY_PATH": str(folder / "lib")}


def _why_not() -> str | None:
    if sys.platform != "linux" or os.uname().machine != "x86_64" or sys.implementation.name != "cpython":
        return "they are for CPython on x86-64 Linux"
    if shutil.which("gcc") is None:
        return "no `gcc` on the PATH"
    return None if sys.version_info < (3, 14) else "no wheel for this Python is pinned"


def _made(flavour: str, version: str) -> Path:
    """Return the folder of a release; fetched and made at the first call, once for all processes."""
    folder = BED / "bindings" / f"{flavour}-{version}-{sys.implementation.cache_tag}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                new = Path(temporary) / "new"
                _fetch(flavour, version, new)
                _stubs(flavour, version.split(".")[0], new / "lib")
                new.rename(folder)
    return folder


def _fetch(flavour: str, version: str, folder: Path) -> None:
    package = flavour.replace("_", "-") + "-cu13-bindings"
    pins = folder.parent / "pins.txt"
    hashes = " ".join(f"--hash=sha256:{digest}" for digest in RELEASES[flavour, version])
    pins.write_text(f"{package}=={version} {hashes}\n")
    _run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps",
         "--only-binary", ":all:", "--require-hashes", "--target", folder, "-r", pins)  # fmt: skip
    # What the package `tensorrt` does besides loading the libraries.
    alias = folder / flavour / "__init__.py"
    alias.parent.mkdir(exist_ok=True)
    alias.write_text(f"from {flavour}_bindings import *\nfrom {flavour}_bindings import __version__\n")


def _stubs(flavour: str, major: str, folder: Path) -> None:
    folder.mkdir()
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _SYMBOLS))
    for library in _RTX if flavour == "tensorrt_rtx" else _FULL:
        name = f"{library}.{major}"
        _run("gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", source, "-o", folder / name)


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=300)
