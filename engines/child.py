"""A child process for what may crash, hang or grow: watched for memory and time, and nothing of it is left.

The child is a fresh interpreter: it inherits no thread, no lock, no socket and none of our settings. Its input is one
request, its answer comes through a pipe; whatever its libraries print is kept as its last words.
"""

import ctypes
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engines.base import EngineError, Unready

# How often memory, time and `stop` are looked at: a library allocates well under 1 GiB in it.
_POLL_S = 0.05
_CHUNK = 1 << 16
# What is kept of stderr, to tell the last words of a child that died.
_WORDS = 2000
_ROOT = Path(__file__).parents[1]
_PAGE = os.sysconf("SC_PAGE_SIZE")
# prctl.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
# The first to go when memory is short.
_OOM_SCORE = b"1000"


@dataclass(frozen=True, slots=True)
class Watched:
    """What a child may take: seconds from start to answer, resident bytes. what: it is, for the error's text.

    longer, smaller: what to do when it takes too long, and when it grows.
    """

    what: str
    timeout_s: float
    memory_bytes: int
    longer: str
    smaller: str


def converse(module: str, request: bytes, hear: Callable[[bytes], None], limits: Watched,
             stop: Callable[[], bool]) -> tuple[int, str]:
    """Run `python -m MODULE FD PARENT` on a request; `hear` gets the bytes of its answer as they come.

    Blocks the calling thread; the child ends with that thread. Returns its exit code and how it ended with no
    answer, should it have given none. Raises EngineError when it was killed (Unready: for its time), OSError when it
    cannot be started.
    """
    words = bytearray()
    deadline = time.monotonic() + limits.timeout_s
    with _child(module, request) as (child, result), selectors.DefaultSelector() as ears:
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
                    hear(data)
                else:
                    words = (words + data)[-_WORDS:]
            if not events and ended:
                break
            _watch(child.pid, deadline, limits, stop)
    last = " ".join(words.decode("utf-8", "replace").split())[-300:] or "none"
    return child.returncode, f"{_ending(child.returncode)} and no answer; its last words: {last}"


def settle(parent: int, nice: int) -> None:
    """In the child: bind this process to its parent and put it last in line for CPU and memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:  # it went before the line above
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(nice)
    with suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:
        file.write(_OOM_SCORE)
    # Where sessions share the CPU fairly (autogroup), niceness counts within a session alone, and ours is new.
    with suppress(OSError), open("/proc/self/autogroup", "wb") as file:
        file.write(str(nice).encode())


@contextmanager
def _child(module: str, request: bytes) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start it; yields it and where its answer is read. Whatever happens, nothing of it is left."""
    result, theirs = os.pipe()
    try:
        with tempfile.TemporaryFile() as file:  # without a name, readable by nobody else
            file.write(request)
            file.seek(0)
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs), str(os.getpid())],
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


def _watch(pid: int, deadline: float, limits: Watched, stop: Callable[[], bool]) -> None:
    if time.monotonic() > deadline:
        raise Unready(f"{limits.what} was killed after {limits.timeout_s:g} s, its limit; {limits.longer}")
    if (held := resident(pid)) > limits.memory_bytes:
        raise EngineError(f"{limits.what} was killed at {held >> 20} MiB, its limit is {limits.memory_bytes >> 20} "
                          f"MiB; {limits.smaller}")
    if stop():
        raise Unready(f"{limits.what} was stopped")


def _ended(pid: int) -> bool:
    """Say if a child has ended; it stays a zombie, so that its process group cannot become another's."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def resident(pid: int) -> int:
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
