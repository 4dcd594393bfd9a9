"""Heap: give free memory back to the system. glibc keeps what a burst needed (fetches, checkpoint blocks) for ever."""

import ctypes
from collections.abc import Callable


def _find() -> Callable[[int], object] | None:
    try:
        trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library: musl gives back by itself, macOS too
        return None
    return trim


_malloc_trim = _find()


def give_back() -> None:
    """Return the heap's free pages to the system, where the C library offers that; some milliseconds at most."""
    if _malloc_trim is not None:
        _malloc_trim(0)
