"""Build the plan of a bundle in a child process, watched for time and memory.

A builder is a large native library that may crash, hang or grow; the process that serves only reads its answer. The
child is a fresh interpreter: it inherits no thread, no lock, no socket and none of our settings.
"""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engines.base import EngineError
from engines.bundle import Bundle
from engines.gpu.pipe import Answer, Request
from engines.gpu.plan import BuildReport, BuildSpec, DeviceId, EngineKey, Named
from engines.gpu.report import RIM
from engines.gpu.store import Missing, PlanStore
from engines.wire import read_model

# How often memory, time and `stop` are looked at: a build allocates well under 1 GiB in it.
_POLL_S = 0.05
_CHUNK = 1 << 16
# What is kept of stderr, to tell the last words of a child that died.
_WORDS = 2000
_ROOT = Path(__file__).parents[2]
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What a build may take: seconds from start to answer, resident bytes of the child."""

    timeout_s: float = 600.0
    memory_bytes: int = 4 << 30


def row_shapes(bundle: Bundle, channels: int, samples: int | None = None) -> dict[str, tuple[int, ...]]:
    """Return the shape of one row of each input, for assets of so many channels.

    Rows of kind "window" are (frames, channels, samples per frame), without `samples` the whole window as one frame;
    other rows are of channels. Raises EngineError when frames do not divide the window.
    """
    free = (channels,) * 3
    if bundle.spec.window:
        size = bundle.spec.window.size
        samples = samples or size
        if size % samples:
            raise EngineError(f"{samples} samples per frame do not divide the window of {bundle.spec.name}, {size}")
        free = (size // samples, channels, samples)
    return {
        tensor.name: tuple(dim if isinstance(dim, int) else size
                           for dim, size in zip(tensor.dims[1:], (*free, *free), strict=False))
        for tensor in read_model(bundle.model).inputs
    }  # fmt: skip


def build_plan(
    bundle: Bundle, spec: BuildSpec, flavour_name: str, device: DeviceId | None = None,
    limits: BuildLimits = BuildLimits(),  # noqa: B008  (frozen)
    on_line: Callable[[str], None] = lambda line: None, *, stop: Callable[[], bool] = lambda: False,
) -> tuple[bytes, BuildReport]:  # fmt: skip
    """Return the plan of a bundle for this machine and the report of its build.

    Blocks the calling thread; the child ends with that thread. device: what the plan will run on; None: only a check.
    on_line: told of progress. stop: asked often, True ends the build. Raises EngineError, and nothing else.
    """
    request = Request(flavour_name, spec, bundle.sha256, device.cc if device else "")
    try:
        plan, report = _run(request.encode(bundle.model), limits, on_line, stop)
    except OSError as error:
        raise EngineError(f"the builder of {bundle.spec.name} cannot be started: {error}") from error
    _check(bundle, plan, report)
    return plan, report


@dataclass(frozen=True, slots=True)
class Obtained:
    """A plan that may be deserialised. missing: why it was built; None: it was stored. unkept: why it is not now."""

    plan: bytes
    report: BuildReport
    missing: Missing | None = None
    unkept: str = ""


def obtain(
    store: PlanStore, bundle: Bundle, spec: BuildSpec, flavour: Named, device: DeviceId,
    limits: BuildLimits = BuildLimits(),  # noqa: B008  (frozen)
    on_line: Callable[[str], None] = lambda line: None, *, stop: Callable[[], bool] = lambda: False,
) -> Obtained:  # fmt: skip
    """Return the plan of a bundle from the store, or build and keep it; of several who ask at once one builds.

    Blocks the calling thread, as `build_plan` does. Raises EngineError.
    """
    key = EngineKey.of(bundle.sha256, spec, flavour, device)
    kept = store.get(key)
    if isinstance(kept, Missing):
        with store.building(stop) as alone:
            # What another made meanwhile; `kept` stays the reason why this one builds.
            other = store.get(key) if alone else kept
            if isinstance(other, Missing):
                plan, report = build_plan(bundle, spec, flavour.name, device, limits, on_line, stop=stop)
                return Obtained(plan, report, kept, store.put(key, plan, report))
            kept = other
    return Obtained(kept.plan, kept.report)


def _run(
    request: bytes, limits: BuildLimits, on_line: Callable[[str], None], stop: Callable[[], bool]
) -> tuple[bytes, BuildReport]:
    answer, words = Answer(), bytearray()
    deadline = time.monotonic() + limits.timeout_s
    with _child(request) as (child, result), selectors.DefaultSelector() as ears:
        assert child.stderr is not None
        ears.register(result, selectors.EVENT_READ)
        ears.register(child.stderr.fileno(), selectors.EVENT_READ)
        while True:
            ended = _ended(child.pid)  # asked first: what it says before it ends is heard after
            events = ears.select(_POLL_S)
            for key, _ in events:
                data = os.read(key.fd, _CHUNK)
                if not data:
                    ears.unregister(key.fileobj)
                elif key.fd == result:
                    for line in answer.feed(data):
                        on_line(line)
                else:
                    words = (words + data)[-_WORDS:]
            if not events and ended:
                break
            _watch(child.pid, deadline, limits, stop)
    code = child.returncode
    if answer.error is not None:
        raise EngineError(answer.error)
    if code or answer.plan is None or answer.report is None:
        last = " ".join(words.decode("utf-8", "replace").split())[-300:] or "none"
        raise EngineError(f"the builder ended with {_ending(code)} and no answer; its last words: {last}")
    return answer.plan, answer.report


@contextmanager
def _child(request: bytes) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start the builder; yields it and where its answer is read. Whatever happens, nothing of it is left."""
    result, theirs = os.pipe()
    try:
        with tempfile.TemporaryFile() as file:  # without a name, readable by nobody else
            file.write(request)
            file.seek(0)
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "engines.gpu.builder_child", str(theirs), str(os.getpid())],
                stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=(theirs,), env=_environment(),
                start_new_session=True,
            )  # fmt: skip
    except BaseException:
        os.close(result)
        raise
    finally:
        os.close(theirs)
    try:
        yield child, result
    finally:
        try:
            os.killpg(child.pid, signal.SIGKILL)  # also what the child started
        except ProcessLookupError:
            pass
        child.wait()
        os.close(result)
        if child.stderr is not None:
            child.stderr.close()


def _environment() -> dict[str, str]:
    """Return what the child sees: all that finds libraries and devices, none of our settings (there are passwords)."""
    ours = {name: value for name, value in os.environ.items() if not name.upper().startswith("KIZASHI_")}
    paths = [str(_ROOT), *filter(None, ours.get("PYTHONPATH", "").split(os.pathsep))]
    return ours | {"PYTHONPATH": os.pathsep.join(paths)}


def _watch(pid: int, deadline: float, limits: BuildLimits, stop: Callable[[], bool]) -> None:
    if time.monotonic() > deadline:
        raise EngineError(f"the build was killed after {limits.timeout_s:g} s, its limit; raise engine.build_timeout_s")
    if (held := _resident(pid)) > limits.memory_bytes:
        raise EngineError(
            f"the build was killed at {held >> 20} MiB, its limit is {limits.memory_bytes >> 20} MiB; lower "
            f"batch.max_size or raise engine.build_memory_mb"
        )
    if stop():
        raise EngineError("the build was stopped")


def _ended(pid: int) -> bool:
    """Say if a child has ended; it stays a zombie, so that its process group cannot become another's."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _resident(pid: int) -> int:
    """Return the bytes of memory that a process holds; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"exit code {code}"


def _check(bundle: Bundle, plan: bytes, report: BuildReport) -> None:
    """Raise EngineError unless the plan takes and gives what the bundle says."""
    faults = []
    if report.plan_bytes != len(plan):
        faults.append(f"the plan has {len(plan)} bytes, its report says {report.plan_bytes}")
    model = read_model(bundle.model)
    for what, want, tensors in (("input", model.inputs, report.inputs), ("output", model.outputs, report.outputs)):
        wanted, have = {t.name for t in want}, {t.name for t in tensors}
        faults += [f"{what} {name!r} of the model is not in the plan" for name in sorted(wanted - have)]
        faults += [f"{what} {name!r} of the plan is not in the model" for name in sorted(have - wanted)]
    for tensor in report.tensors:
        if tensor.dtype not in RIM or not tensor.shape or tensor.shape[0] != -1:
            faults.append(f"{tensor} is not of rows of {', '.join(sorted(RIM))}")
        elif tensor.is_input and -1 in tensor.shape[1:]:
            faults.append(f"{tensor} is open besides its batch")
    if faults:
        raise EngineError(f"the plan of {bundle.spec.name} is not that of its model: {'; '.join(faults)}")
