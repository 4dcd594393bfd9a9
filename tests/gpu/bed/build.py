"""Build the GPU test bed in .build/gpu: the stand-in libcuda, a wheel of PyCUDA, TensorRT-RTX for builds on a CPU.

    python -m tests.gpu.bed       builds what is absent or out of date, prints what there is

    .build/gpu/headers   cuda.h and its kin, from PyPI: no CUDA toolkit is needed
    .build/gpu/lib       libcuda.so.1, compiled from cuda/*.c
    .build/gpu/wheels    PyCUDA, one folder per hash of everything that goes into it
    .build/gpu/site      PyCUDA and what it imports, for PYTHONPATH
    .build/gpu/rtx       tensorrt_rtx, the real one, for PYTHONPATH

Everything fetched is pinned by hash in requirements-gpu.txt. Nothing goes into .venv: a GPU package there would be
found by tests that mean to run without one.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BED = ROOT / ".build" / "gpu"
LOCK = ROOT / "requirements-gpu.txt"
SOURCES = Path(__file__).resolve().parent / "cuda"

HEADERS, TOOLS, LIB, WHEELS, SITE, RTX = (BED / name for name in ("headers", "tools", "lib", "wheels", "site", "rtx"))
INCLUDE = HEADERS / "nvidia" / "cu13" / "include"

_HEADERS = ("nvidia-cuda-cccl", "nvidia-cuda-crt", "nvidia-cuda-profiler-api", "nvidia-cuda-runtime")
_TOOLS = ("setuptools", "wheel", "packaging")
_IMPORTED = ("mako", "markupsafe", "platformdirs", "pytools", "siphash24", "typing-extensions")  # by PyCUDA
_RTX = ("tensorrt-rtx-cu13", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs")

#: -O1 builds in 40 s, -O2 in 100 s, and the calls that the tests time spend nothing noticeable inside PyCUDA.
_FLAGS = {"CFLAGS": "-g0 -O1", "CXXFLAGS": "-g0 -O1"}


def why_not() -> str | None:
    """Say why the bed cannot be built or used here, or None if it can."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return f"it is for x86-64 Linux, this is {sys.platform} on {os.uname().machine}"
    if sys.implementation.name != "cpython":
        return f"it is for CPython, this is {sys.implementation.name}"
    missing = [tool for tool in ("gcc", "g++") if shutil.which(tool) is None]
    return f"no `{missing[0]}` on the PATH" if missing else None


def ready() -> bool:
    """Whether all is built and up to date."""
    return all(_is(folder, key) for folder, key in _keys().items())


def build() -> None:
    """Build what is absent or out of date; two processes at a time do not disturb each other."""
    BED.mkdir(parents=True, exist_ok=True)
    with open(BED.parent / "gpu.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = _keys()
        for folder, make in ((HEADERS, _fetch_headers), (LIB, _build_driver), (SITE, _build_site), (RTX, _fetch_rtx)):
            if not _is(folder, keys[folder]):
                _renew(folder, keys[folder], make)


# ---------------------------------------------------------------------------------------------- keys


def _pinned(*names: str) -> str:
    """Return the lines of the lock for these packages, hashes included, in the lock's order."""
    blocks = re.findall(r"^[a-z0-9-]+==(?:.*\\\n)*.*\n", LOCK.read_text(), re.MULTILINE)
    chosen = [block for block in blocks if block.split("==")[0] in names]
    if len(chosen) != len(names):
        raise RuntimeError(f"{LOCK.name} does not pin all of {', '.join(names)}: run `make lock`")
    return "".join(chosen)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _python() -> str:
    return f"{sys.implementation.cache_tag} {' '.join(f'{k}={v}' for k, v in sorted(_FLAGS.items()))}"


def _wheel_key() -> str:
    return _hash(_pinned("pycuda", *_HEADERS, *_TOOLS), _python())


def _keys() -> dict[Path, str]:
    headers = _hash(_pinned(*_HEADERS))
    sources = (path.name + path.read_text() for path in sorted(SOURCES.iterdir()))
    return {
        HEADERS: headers,
        LIB: _hash(headers, *sources),
        SITE: _hash(_wheel_key(), _pinned(*_IMPORTED)),
        RTX: _hash(_pinned(*_RTX), _python()),
    }


def _is(folder: Path, key: str) -> bool:
    stamp = folder / ".key"
    return stamp.is_file() and stamp.read_text() == key


def _renew(folder: Path, key: str, make: Callable[[Path], None]) -> None:
    """Let `make` fill a new folder, which takes the place of the old one only when all went well."""
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    make(new)
    (new / ".key").write_text(key)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


# --------------------------------------------------------------------------------------------- steps


def _run(*command: str | Path, cwd: Path | None = None, **environment: str) -> None:
    arguments, env = [str(part) for part in command], os.environ | environment
    done = subprocess.run(arguments, cwd=cwd, env=env, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def _pip(command: str, *options: str | Path, names: Sequence[str] = (), **environment: str) -> None:
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", command, "--no-deps")
    if not names:
        _run(*pip, *options, **environment)
        return
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.write(_pinned(*names))
        pins.flush()
        _run(*pip, "--require-hashes", "-r", pins.name, *options, **environment)


def _fetch_headers(folder: Path) -> None:
    _pip("install", "--target", folder, names=_HEADERS)


def _build_driver(folder: Path) -> None:
    """Compile the stand-in; every other entry point of the headers answers CUDA_ERROR_NOT_SUPPORTED.

    All must be defined: PyCUDA names hundreds of them, and the linker drops a library that defines none of what the
    module uses, which then fails on a GPU machine too.
    """
    declared = "".join((INCLUDE / name).read_text() for name in ("cuda.h", "cudaProfiler.h"))
    named = set(re.findall(r"CUresult\s+CUDAAPI\s+(cu\w+)\s*\(", declared))
    named |= set(re.findall(r"#\s*define\s+cu[A-Z]\w+\s+(?:__CUDA_API_PT\w+\()?(cu[A-Z]\w+)", declared))
    library = folder / "libcuda.so.1"
    compiler = ("gcc", "-std=gnu11", "-O2", "-g", "-fPIC", "-pthread", "-shared", "-Wl,-soname,libcuda.so.1")
    ours = (*compiler, "-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}", *sorted(SOURCES.glob("*.c")))
    _run(*ours, "-o", library)
    listed = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    defined = {line.split()[-1] for line in listed.stdout.splitlines()}
    rest = folder / "rest.c"
    rest.write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(named - defined)))
    _run(*ours, rest, "-o", library)
    (folder / "libcuda.so").symlink_to("libcuda.so.1")  # what -lcuda looks for


def _build_site(folder: Path) -> None:
    wheel = next((WHEELS / _wheel_key()).glob("pycuda-*.whl"), None) or _build_pycuda()
    _pip("install", "--target", folder, names=_IMPORTED)
    _pip("install", "--no-index", "--target", folder, wheel)


def _tools() -> dict[str, str]:
    """What pip needs in its environment to build from source without isolation: tools of ours, numpy of .venv."""
    key = _hash(_pinned(*_TOOLS))
    if not _is(TOOLS, key):
        _renew(TOOLS, key, lambda folder: _pip("install", "--target", folder, names=_TOOLS))
    return {"PYTHONPATH": str(TOOLS)}


def _build_pycuda() -> Path:
    """Build the wheel, which takes about 40 s of one core, and return where it is kept."""
    kept = WHEELS / _wheel_key()
    with tempfile.TemporaryDirectory(prefix="kizashi-pycuda-") as temporary:
        folder = Path(temporary)
        build = {**_tools(), **_FLAGS, "CUDA_ROOT": str(INCLUDE.parent)}
        source = ("--no-binary", ":all:", "--no-build-isolation")
        _pip("download", *source, "-d", folder, names=("pycuda",), **build)
        archive = next(folder.glob("pycuda-*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        tree = folder / archive.name.removesuffix(".tar.gz")
        options = (f"--cuda-root={INCLUDE.parent}", f"--cudadrv-lib-dir={LIB}", "--no-cuda-enable-curand")
        _run(sys.executable, "configure.py", *options, cwd=tree, **build)
        _pip("wheel", "--no-build-isolation", "--no-index", "-w", folder / "wheel", tree, **build)
        wheel = next((folder / "wheel").glob("pycuda-*.whl"))
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        return Path(shutil.copy(wheel, kept))


def _fetch_rtx(folder: Path) -> None:
    _pip("install", "--no-build-isolation", "--target", folder, names=_RTX, **_tools())


def main() -> None:
    reason = why_not()
    if reason:
        if "gpu-bed" in os.environ.get("KIZASHI_REQUIRE", "").replace(",", " ").split():
            sys.exit(f"KIZASHI_REQUIRE=gpu-bed, but the GPU test bed cannot be built: {reason}")
        print(f"NOT BUILT: the GPU test bed: {reason}; its tests will skip")
        return
    began = time.monotonic()
    if not ready():
        print("building the GPU test bed in .build/gpu (once, until its sources or pins change)", flush=True)
        build()
    print(f"GPU test bed: .build/gpu ({time.monotonic() - began:.0f} s)")
