"""The bed on which GPU code is tested where there is no GPU: real PyCUDA over a stand-in libcuda, a fake TensorRT.

    reason = bed.why_not()                        # skip (or fail) with this, see need()
    done = bed.run(SCRIPT, integrated=True)       # a subprocess: libcuda must be found when a process starts
    done = bed.run(["-m", "pipeline.cli.main", "run", ...], faults="host:3=700:sticky")

Inside that process `tests.gpu.bed.standin.Standin` reads the counters and sets faults while it runs.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.gpu.bed import build
from tests.gpu.bed.build import ROOT, why_not

__all__ = ["environ", "need", "run", "why_not"]

FAKE = Path(__file__).resolve().parent / "fake"


def need() -> None:
    """Build the bed if need be; skip the test, or fail it under KIZASHI_REQUIRE=gpu-bed, where that cannot be done."""
    import pytest

    reason = why_not()
    if reason and "gpu-bed" in os.environ.get("KIZASHI_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"KIZASHI_REQUIRE=gpu-bed, but the GPU test bed cannot be built: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"NOT TESTED over PyCUDA and the stand-in libcuda: {reason}")
    build.build()


def environ(
    *,
    driver: bool = True,
    fake: bool = True,
    rtx: bool = False,
    no_device: bool = False,
    integrated: bool = False,
    coherent: bool = False,
    memory: int | None = None,
    pinned: int | None = None,
    faults: str = "",
    report: Path | None = None,
    extra: Mapping[str, str] = {},
) -> dict[str, str]:
    """Return the environment of a process on the bed. Builds the bed if need be.

    driver: the stand-in libcuda.so.1 is found (False: as on a machine without NVIDIA's driver, `import pycuda.driver`
    fails). fake: `import tensorrt` finds the fake. rtx: `import tensorrt_rtx` finds the real one, which builds plans
    on a CPU. no_device, integrated, coherent: what the driver says of the device. memory, pinned: bytes that can be
    allocated on the device, pinned on the host. faults: see cuda/faults.c. report: file that receives the counters
    as JSON when the process ends. extra: further variables, such as those of the fake (see fake/tensorrt/__init__.py).
    """
    build.build()
    paths = [str(FAKE)] * fake + [str(build.SITE)] + [str(build.RTX)] * rtx + [str(ROOT)]
    libraries = [str(build.LIB)] * driver
    ours = ("STANDIN_", "FAKE_TENSORRT_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    switches = {
        "STANDIN_NO_DEVICE": "1" if no_device else "",
        "STANDIN_INTEGRATED": "1" if integrated else "",
        "STANDIN_COHERENT": "1" if coherent else "",
        "STANDIN_MEMORY": "" if memory is None else str(memory),
        "STANDIN_PINNED": "" if pinned is None else str(pinned),
        "STANDIN_FAULTS": faults,
        "STANDIN_REPORT": "" if report is None else str(report),
    }
    return {
        **inherited,
        "PYTHONPATH": _joined(paths, "PYTHONPATH"),
        "LD_LIBRARY_PATH": _joined(libraries, "LD_LIBRARY_PATH"),
        **{name: value for name, value in switches.items() if value},
        **extra,
    }


def _joined(paths: Sequence[str], variable: str) -> str:
    return os.pathsep.join([*paths, *filter(None, [os.environ.get(variable)])])


def run(
    script: str | Path | Sequence[str],
    *,
    timeout_s: float = 60.0,
    check: bool = True,
    cwd: Path | None = None,
    **switches: object,
) -> subprocess.CompletedProcess[str]:
    """Run Python on the bed: source text, a file, or arguments of the interpreter. Switches: those of environ().

    With `check` a process that fails is an AssertionError that carries what it wrote.
    """
    if isinstance(script, str):
        arguments = ["-c", script]
    else:
        arguments = [str(script)] if isinstance(script, Path) else list(script)
    done = subprocess.run(
        [sys.executable, *arguments], env=environ(**switches),  # type: ignore[arg-type]  # checked by environ itself
        cwd=cwd or ROOT, capture_output=True, text=True, timeout=timeout_s, check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done
