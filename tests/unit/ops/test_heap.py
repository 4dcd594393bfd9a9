"""Free memory goes back to the system."""

import os
import platform
from pathlib import Path

import pytest

from pipeline.ops import heap


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="NOT TESTED: only glibc keeps what was freed")
def test_heap_gives_back_what_lies_free_between_blocks_in_use():
    blocks = [os.urandom(700) for _ in range(60_000)]  # above what Python's own allocator takes
    full = resident_bytes()
    kept = blocks[::50]
    del blocks
    heap.give_back()
    assert full - resident_bytes() > 20_000_000
    assert len(kept) == 1200


def test_heap_may_be_asked_where_nothing_can_be_given_back(monkeypatch):
    monkeypatch.setattr(heap, "_malloc_trim", None)
    heap.give_back()
