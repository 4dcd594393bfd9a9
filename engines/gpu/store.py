"""Plans that this machine built, on its disk: the engine cache.

A folder of the worker's user alone. Each plan is one file, sealed with a secret that never leaves the folder
(engines.gpu.seal); it is read once, verified, and those bytes are returned. Whatever is wrong with a file, the answer
is that there is no plan, with the reason, and the file goes: the plan is built anew. Nothing here raises to the caller,
and nothing accepts a plan from elsewhere.
"""

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engines.gpu.plan import BuildReport
from engines.gpu.seal import SECRET_BYTES, Broken, seal, unseal

#: Why there is no plan. absent: never built, or for another device, driver, library or model. damaged: its bytes are
#: not those that were sealed. device: it is another's plan under this name. owner, mode, link: somebody else could
#: have written it. secret: the machine's secret cannot be used. disk: it cannot be read.
REASONS = ("absent", "damaged", "device", "owner", "mode", "link", "secret", "disk")

_SECRET, _SECRET_LOCK, _LOCK = "secret", "secret.lock", "build.lock"
_PLAN, _NOTE, _UNFINISHED = ".plan", ".json", ".unfinished"
# A bundle has a plan per precision and layout, and versions come and go; plans of ours have 0.3 to 20 MB.
_MAX_PLANS, _MAX_BYTES = 32, 1 << 30
# A file that is longer is not read into memory: no engine of ours comes near.
_MAX_FILE_BYTES = 1 << 30
_WAIT_S = 0.1
# A writer that has made its file but not locked it yet is younger than this.
_STALE_S = 60.0
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Found:
    """A verified plan: these bytes may be deserialised."""

    plan: bytes
    report: BuildReport


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no plan that may be used. reason: one of REASONS, for events and metrics; why: for people."""

    reason: str
    why: str


class PlanStore:
    """Plans by key (`EngineKey.of`). Safe between threads and processes. now: Unix seconds, for what is used least."""

    def __init__(
        self, folder: Path, now: Callable[[], float] = time.time, max_plans: int = _MAX_PLANS,
        max_bytes: int = _MAX_BYTES,
    ) -> None:  # fmt: skip
        self.folder = folder
        self._now, self._max_plans, self._max_bytes = now, max_plans, max_bytes

    def get(self, key: str) -> Found | Missing:
        """Return the plan of `key`, verified. A file that is not right is removed."""
        try:
            with _opened(self.folder, make=False) as folder:
                seen = _inode(folder, key + _PLAN)
                try:
                    secret = _secret(folder)
                    plan, report = unseal(secret, key, _read(folder, key + _PLAN, self._now()))
                except Broken as broken:
                    # Not what another process put there meanwhile.
                    if broken.reason != "secret" and _inode(folder, key + _PLAN) == seen:
                        _remove(folder, key + _PLAN)
                    return Missing(broken.reason, f"the plan {key[:12]} is not used: {broken}")
        except FileNotFoundError:
            return Missing("absent", f"no plan {key[:12]} was built for this model, device and library yet")
        except Broken as broken:
            return Missing(broken.reason, f"the folder {self.folder} is not used: {broken}")
        except OSError as error:
            return Missing("disk", f"the plan {key[:12]} cannot be read: {error}")
        return Found(plan, report)

    def put(self, key: str, plan: bytes, report: BuildReport) -> str:
        """Keep a plan: after this returns "", a crash or loss of power leaves it or what was there before.

        Returns why it could not be kept; the plan in memory is as good as ever. Plans that were not used for the
        longest go when there are too many.
        """
        try:
            with _opened(self.folder, make=True) as folder:
                _clean(folder, self._now())
                _write(folder, key + _PLAN, seal(_made_secret(folder), key, plan, report))
                self._evict(folder, key + _PLAN)
        except Broken as broken:
            return f"the folder {self.folder} is not used: {broken}"
        except OSError as error:
            return f"the plan {key[:12]} cannot be kept: {error}"
        return ""

    def note(self, key: str, text: bytes) -> str:
        """Lay a text beside the plan, `KEY.json`: what the parity gate found. Returns why it could not."""
        try:
            with _opened(self.folder, make=True) as folder:
                _write(folder, key + _NOTE, text)
        except (Broken, OSError) as error:
            return f"the report of {key[:12]} cannot be kept: {error}"
        return ""

    def forget(self, key: str) -> None:
        """Remove a plan: the device refused it."""
        with suppress(OSError, Broken), _opened(self.folder, make=False) as folder:
            _remove(folder, key + _PLAN)

    @contextmanager
    def building(self, stop: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Hold the right to build, one process or thread at a time; ask `get` again inside.

        One lock for all plans: two builds at once need memory that an edge box has not. Yields False when it was not
        had: `stop` said True, or the folder cannot be used (build all the same, nothing is kept).
        """
        fd = -1
        try:
            with suppress(OSError, Broken), _opened(self.folder, make=True) as folder:
                fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
            yield fd >= 0 and _locked(fd, stop)
        finally:
            if fd >= 0:
                os.close(fd)  # and with it the lock; the system closes it for a process that dies

    def _evict(self, folder: int, keep: str) -> None:
        sizes: list[tuple[float, int, str]] = []
        for name in os.listdir(folder):
            if name.endswith(_PLAN):
                with suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    sizes.append((status.st_mtime, status.st_size, name))
        count, total = len(sizes), sum(size for _, size, _ in sizes)
        for _, size, name in sorted(sizes):
            if count <= self._max_plans and total <= self._max_bytes:
                return
            if name != keep:
                _remove(folder, name)
                _remove(folder, name.removesuffix(_PLAN) + _NOTE)
                count, total = count - 1, total - size


# --- the folder and its files, by descriptor: a path could lead elsewhere between two calls


@contextmanager
def _opened(path: Path, *, make: bool) -> Iterator[int]:
    """Open the folder. Raises Broken when others could write in it, OSError."""
    if make:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(0o700)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:  # what a symbolic link gives too, with O_DIRECTORY
        raise Broken("link", "it is a symbolic link, or no folder") from None
    try:
        _ours(os.fstat(folder))
        yield folder
    finally:
        os.close(folder)


def _ours(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise Broken("owner", f"it belongs to user {status.st_uid}, this process runs as {os.geteuid()}")
    if status.st_mode & _OTHERS:
        raise Broken("mode", f"others may use it (mode {stat.S_IMODE(status.st_mode):o}): chmod go= it")


def _read(folder: int, name: str, used: float | None = None) -> bytes:
    """Return a file's bytes. used: noted as the time of its last use. Raises Broken, FileNotFoundError, OSError."""
    try:
        # O_NONBLOCK: a pipe under this name must not hold us up.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise Broken("link", "it is a symbolic link") from error
        raise
    try:
        status = os.fstat(fd)
        # No name at all is right too: it was replaced just now.
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise Broken("link", "it is no file of its own")
        _ours(status)
        if status.st_size > _MAX_FILE_BYTES:
            raise Broken("damaged", f"it has {status.st_size} bytes, more than any plan")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if used is not None:
            os.utime(fd, (used, used))
        return data
    finally:
        os.close(fd)


def _write(folder: int, name: str, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    unfinished = f"{name}.{secrets.token_hex(8)}{_UNFINISHED}"
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with open(fd, "wb") as file:
            fcntl.flock(fd, fcntl.LOCK_EX)  # says to `_clean` that its writer lives
            file.write(data)
            file.flush()
            os.fsync(fd)
            os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        _remove(folder, unfinished)
        raise
    os.fsync(folder)


def _clean(folder: int, now: float) -> None:
    """Remove what writers left that died before they renamed it."""
    for name in os.listdir(folder):
        if not name.endswith(_UNFINISHED):
            continue
        with suppress(OSError):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                if os.fstat(fd).st_mtime < now - _STALE_S:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
                    _remove(folder, name)
            finally:
                os.close(fd)


def _secret(folder: int) -> bytes:
    """Return this machine's secret. Raises Broken, FileNotFoundError (it was never made), OSError."""
    try:
        secret = _read(folder, _SECRET)
    except Broken as broken:
        raise Broken("secret", f"its file {_SECRET!r}: {broken}; remove it and every plan is built anew") from broken
    if len(secret) != SECRET_BYTES:
        raise Broken("secret", f"its file {_SECRET!r} has {len(secret)} bytes, not {SECRET_BYTES}")
    return secret


def _made_secret(folder: int) -> bytes:
    """Return this machine's secret, made at the first use. Of several that make it at once one does."""
    fd = os.open(_SECRET_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if len(_read(folder, _SECRET)) == SECRET_BYTES:
                return _secret(folder)
        # None, or cut off by a loss of power: then no plan could be verified with it anyhow.
        _write(folder, _SECRET, secrets.token_bytes(SECRET_BYTES))
        return _secret(folder)
    finally:
        os.close(fd)


def _inode(folder: int, name: str) -> int:
    """Return which file has a name now. Raises FileNotFoundError, OSError."""
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino


def _remove(folder: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=folder)


def _locked(fd: int, stop: Callable[[], bool]) -> bool:
    """Take the lock, or wait for it until `stop` says True."""
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if stop():
                return False
            time.sleep(_WAIT_S)
        except OSError:  # a file system without locks: build all the same
            return False
