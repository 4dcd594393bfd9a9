"""CUDA by PyCUDA, behind what a session needs of it; the only file that imports PyCUDA, and only when it is used.

One thread opens a driver, uses it and closes it. All drivers of a process share one context object on the device's
primary context (as the CUDA runtime inside TensorRT does): PyCUDA frees memory on any thread that has this object
pushed, and a second object for the same context would count as another one. A thread that ends with a pushed context
aborts the process, so `close` pops it whatever happened before.
"""

import atexit
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engines.base import Array, EngineError, EngineLost
from engines.gpu.faults import CudaError
from engines.gpu.graphapi import GraphApi
from engines.gpu.plan import DeviceId
from engines.supply import CPU_SETTING

_PORTABLE, _DEVICEMAP = 1, 2
_BLOCKING_SYNC, _DISABLE_TIMING = 1, 2
_NON_BLOCKING = 1
#: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 ..." and the compiler; not on every Jetson.
TOLD = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What the driver says of a device. cc: compute capability. driver: CUDA version and build, as "13000 580.95.05".

    integrated: device and host share the memory chips (Jetson, GB10). coherent: the device reads pageable memory by the
    host's page tables (Grace). mappable: pinned memory can have an address on the device.
    """

    name: str
    cc: tuple[int, int]
    driver: str
    memory_bytes: int
    integrated: bool
    coherent: bool
    mappable: bool

    @property
    def id(self) -> DeviceId:
        """Return what a plan is built for."""
        return DeviceId(self.name, f"{self.cc[0]}.{self.cc[1]}", self.driver)


class Stream(Protocol):
    """A queue of device work. handle: the driver's own, for TensorRT and for graphs."""

    handle: int


class Event(Protocol):
    """A mark on a stream."""

    def record(self, stream: Any) -> Any:
        """Put the mark behind what is on the stream now."""

    def synchronize(self) -> Any:
        """Wait until the mark is reached."""

    def time_since(self, start: Any) -> float:
        """Return milliseconds between two reached marks that were made with timing."""


@dataclass(slots=True)
class Pinned:
    """Page-locked host memory. array: (nbytes,) uint8. device_address: where the device sees it, 0 if not mapped."""

    array: Array
    address: int
    device_address: int


@dataclass(slots=True)
class Buffer:
    """Device memory."""

    address: int
    nbytes: int
    owner: Any


class Driver(Protocol):
    """What a session needs of CUDA. Everything is called on the thread that called `open`."""

    info: DeviceInfo
    graphs: GraphApi
    errors: tuple[type[Exception], ...]

    def open(self) -> None:
        """Make the device's primary context current. Raises EngineError, EngineLost."""

    def pinned(self, nbytes: int, mapped: bool) -> Pinned:
        """Allocate page-locked memory."""

    def buffer(self, nbytes: int) -> Buffer:
        """Allocate device memory."""

    def stream(self) -> Any:
        """Make a stream that does not wait for the default stream."""

    def event(self, timing: bool = False) -> Any:
        """Make an event; one without timing lets the waiting thread sleep."""

    def h2d(self, device_address: int, host: Array, stream: Any) -> None:
        """Put a copy to the device on the stream."""

    def d2h(self, host: Array, device_address: int, stream: Any) -> None:
        """Put a copy to the host on the stream."""

    def free(self, memory: Pinned | Buffer) -> None:
        """Free memory."""

    def orphan(self, memory: Pinned, loan: Any) -> None:
        """Free memory later, once `loan` (a weak reference) is dead."""

    def lost(self, why: str) -> None:
        """Note that CUDA is broken in this process: nothing is freed any more, and nothing is opened."""

    def close(self) -> None:
        """Take the context off this thread; idempotent."""


@dataclass(slots=True)
class _Process:
    """What all drivers of this process share."""

    lock: Any = field(default_factory=threading.Lock)
    context: Any = None
    dead: str | None = None
    orphans: list[tuple[Pinned, Any]] = field(default_factory=list)


class _Pushed:
    """How often the context is pushed on one thread; pops what is left when the thread ends.

    PyCUDA aborts the process when a thread ends with a pushed context: an engine whose owner died of an error would
    take the whole worker with it.
    """

    __slots__ = ("count", "pop")

    def __init__(self) -> None:
        self.count, self.pop = 0, _pycuda().Context.pop

    def __del__(self) -> None:
        while self.count:
            self.count -= 1
            with suppress(Exception):
                self.pop()


_process = _Process()
_thread = threading.local()


def probe(index: int = 0) -> DeviceInfo:
    """Describe device `index`; makes no context, so any thread may ask. Raises EngineError with the reason."""
    if _process.dead:
        raise EngineError(f"CUDA was lost in this process: {_process.dead}; restart the worker")
    cuda = _pycuda()
    try:
        cuda.init()
        count = cuda.Device.count()
        if index >= count:
            raise EngineError(f"CUDA sees {count} devices, number {index} is not there; {CPU_SETTING}")
        device = cuda.Device(index)
        attribute = cuda.device_attribute
        return DeviceInfo(
            device.name(), device.compute_capability(), driver_name(cuda.get_driver_version()), device.total_memory(),
            *(bool(device.get_attribute(a)) for a in (
                attribute.INTEGRATED, attribute.PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES,
                attribute.CAN_MAP_HOST_MEMORY)),
        )  # fmt: skip
    except cuda.Error as error:
        raise EngineError(f"no usable NVIDIA GPU: {error}; {CPU_SETTING}") from error


def driver_name(cuda: int, told: Path = TOLD) -> str:
    """Name the driver. Many builds have one CUDA version: the kernel module tells its own, where it does."""
    try:
        first = told.read_text(errors="replace").partition("\n")[0]
    except OSError:
        return str(cuda)
    build = re.search(r"\d+(\.\d+)+", first)
    return f"{cuda} {build[0]}" if build else str(cuda)


class PyCudaDriver:
    """`Driver` by PyCUDA; probes the device when it is made and holds nothing until `open`."""

    def __init__(self, index: int = 0) -> None:
        self.info = probe(index)
        self._cuda = _pycuda()
        self._index = index
        self.graphs = GraphApi()
        self.errors: tuple[type[Exception], ...] = (self._cuda.Error,)
        # The bare functions: they are on the way of every batch.
        self.h2d, self.d2h = self._cuda.memcpy_htod_async, self._cuda.memcpy_dtoh_async
        self._thread: int | None = None

    def open(self) -> None:
        if _process.dead:
            raise EngineLost(f"CUDA was lost in this process: {_process.dead}; restart the worker")
        if self._thread is not None:
            raise EngineError("the driver is open")
        try:
            with _process.lock:
                if _process.context is None:
                    _process.context = self._cuda.Device(self._index).retain_primary_context()
                    # Held once more: after a loss PyCUDA lets go of the context, and with it the driver would free
                    # page-locked memory that batches still lie in, those of other engines among them.
                    self.graphs.retain(self._index)
                    atexit.register(_leave, self.graphs, self._index)
            if not hasattr(_thread, "pushed"):
                _thread.pushed = _Pushed()
            _process.context.push()
            _thread.pushed.count += 1
        except (self._cuda.Error, CudaError) as error:
            raise EngineError(f"{self.info.name}: no context: {error}; {CPU_SETTING}") from error
        self._thread = threading.get_ident()
        self._sweep()

    def pinned(self, nbytes: int, mapped: bool) -> Pinned:
        flags = _PORTABLE | (_DEVICEMAP if mapped else 0)
        array = self._cuda.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
        address = array.__array_interface__["data"][0]
        return Pinned(array, address, int(array.base.get_device_pointer()) if mapped else 0)

    def buffer(self, nbytes: int) -> Buffer:
        owner = self._cuda.mem_alloc(nbytes)
        return Buffer(int(owner), nbytes, owner)

    def stream(self) -> Any:
        return self._cuda.Stream(_NON_BLOCKING)

    def event(self, timing: bool = False) -> Any:
        # Without blocking the thread spins while it waits, on a core that decoding needs.
        return self._cuda.Event(_BLOCKING_SYNC | (0 if timing else _DISABLE_TIMING))

    def free(self, memory: Pinned | Buffer) -> None:
        if _process.dead is None:
            owner: Any = memory.owner if isinstance(memory, Buffer) else memory.array.base
            owner.free()

    def orphan(self, memory: Pinned, loan: Any) -> None:
        _process.orphans.append((memory, loan))

    def lost(self, why: str) -> None:
        _process.dead = _process.dead or why

    def close(self) -> None:
        if self._thread is None:
            return
        if threading.get_ident() != self._thread:
            raise EngineError("the driver is closed by another thread than the one that opened it")
        self._thread = None
        if _process.dead is None:
            self._sweep()
            _thread.pushed.count -= 1
            self._cuda.Context.pop()
        else:
            # A detached context makes PyCUDA's destructors silent; asking for the current one drops it from the stack.
            _thread.pushed.count = 0
            _detach_quietly()
            self._cuda.Context.get_current()

    def _sweep(self) -> None:
        """Free what was lent out when its session closed and has come back since."""
        kept = []
        while _process.orphans:
            memory, loan = _process.orphans.pop()
            if loan() is None:
                self.free(memory)
            else:
                kept.append((memory, loan))
        _process.orphans.extend(kept)


def _detach_quietly() -> None:
    """Make the shared context invalid for PyCUDA, so that what still refers to it is dropped without a word."""
    context, _process.context = _process.context, None
    if context is not None:
        with suppress(Exception):  # whatever a dead driver answers: there is nothing left to do
            context.detach()


def _leave(graphs: GraphApi, index: int) -> None:
    _detach_quietly()
    graphs.release(index)


def _pycuda() -> Any:
    try:
        import pycuda.driver as cuda  # type: ignore[import-not-found,unused-ignore]  # of an extra, without types
    except ImportError as error:
        if "libcuda" in str(error):
            what = "no NVIDIA driver"
        elif isinstance(error, ModuleNotFoundError):
            what = "package pycuda (extra `gpu` or `rtx`) is missing"
        else:
            what = "package pycuda cannot be loaded (built for another CUDA?)"
        raise EngineError(f"{what}: {error}; {CPU_SETTING}") from error
    return cuda
