"""The stand-in libcuda seen from inside a process of the bed: its counters, its faults, its memory table."""

import ctypes
from functools import cached_property


class Standin:
    """The stand-in that this process has loaded (or will: it is one library for the whole process).

    >>> standin = Standin()                                     # doctest: +SKIP
    >>> standin.reset(); work(); standin.counters["h2d"]        # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._library.standin_counter_names.restype = ctypes.c_char_p

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the counters: see COUNTERS in cuda/standin.h."""
        return tuple(self._library.standin_counter_names().decode().split())

    @property
    def counters(self) -> dict[str, int]:
        """The counters now. Copies and host functions count when they run, not when they are put on a stream."""
        values = (ctypes.c_uint64 * len(self.names)).in_dll(self._library, "standin_counters")
        return dict(zip(self.names, values, strict=True))

    @property
    def allocations(self) -> int:
        """Device, managed and pinned allocations since the last reset."""
        now = self.counters
        return now["device_allocs"] + now["managed_allocs"] + now["pinned_allocs"]

    @property
    def own_ns(self) -> int:
        """Time spent in the stand-in's own copies and in host functions: a device would have spent it beside us."""
        now = self.counters
        return now["copy_ns"] + now["host_func_ns"]

    def reset(self) -> None:
        """Zero all counters but those of what is alive."""
        self._library.standin_reset()

    def faults(self, rules: str) -> None:
        """Replace the faults to give (see cuda/faults.c); their counts begin now."""
        if self._library.standin_faults(rules.encode()) < 0:
            raise ValueError(f"not a list of WHAT:N=CODE: {rules!r}")

    def lose(self, code: int) -> None:
        """Make every later call answer this CUDA error, as after a fault on the device."""
        self._library.standin_lose(code)

    def kind(self, address: int, size: int) -> int:
        """What live memory this is: 1 device, 2 pinned, 3 managed, 4 registered, 0 none of ours."""
        return int(self._library.standin_kind(ctypes.c_uint64(address), ctypes.c_uint64(size)))

    def overruns(self) -> int:
        """Live blocks past whose ends somebody wrote."""
        return int(self._library.standin_overruns())
