"""Window: count windows with hop over one ring of frames per asset. [ISO 13374 DM]

The ring is frame-major, `ring[slot, k]` is one frame and k its number modulo the window's length, so that a poll is
stored by one indexed assignment and finished windows are read by one `take` straight into the batcher's buffer.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from engines.bundle import Bundle
from pipeline.columns import Array, Calibrated, FrameBatch, Groups, Rows
from pipeline.state import Column, Pool


def columns(bundle: Bundle, channels: int, samples: int) -> tuple[Column, ...]:
    """Return what a slot needs: a ring of exactly one window, and the count of frames since its start."""
    spec = bundle.spec.window
    assert spec is not None
    return (Column("ring", "f4", (spec.size // samples, channels * samples)), Column("frames", "i8"))


def step(pool: Pool, batch: FrameBatch, groups: Groups) -> tuple[Rows, Sequence[Calibrated]]:
    """Store the frames, return a row {"x": float32 (frames, channels, samples)} per finished window.

    A window never spans a silence: the ring starts over at a frame marked `restart`.
    """
    spec, ring, frames = pool.bundle.spec.window, pool.table["ring"], pool.table["frames"]
    assert spec is not None
    length, hop, n = spec.size // pool.samples, spec.hop // pool.samples, len(batch)
    place = np.arange(n)
    start, base = groups.start, frames[batch.slot]
    if batch.restart.any():
        start = np.maximum.accumulate(np.where(groups.head | batch.restart, place, 0))
        base = np.where(batch.restart[start], 0, base)
    number = base + place - start  # each frame's place in its asset's ring
    data = batch.data.reshape(n, -1)
    done = np.flatnonzero((number + 1 >= length) & ((number + 1 - length) % hop == 0))
    back = np.arange(length - 1, -1, -1)
    wanted = number[done, None] - back  # (rows, length) frame numbers that each window holds
    slots = batch.slot[groups.first]
    if len(slots) == n:  # one frame an asset: the ring holds all of each window once the frames are stored
        ring[batch.slot, number % length] = data
        source, index = ring.reshape(-1, ring.shape[2]), batch.slot[done, None] * length + wanted % length
    else:  # an asset's later frames overwrite what its earlier windows need, so read from a copy of both
        group = np.cumsum(groups.head) - 1
        source = np.concatenate([ring[slots].reshape(-1, ring.shape[2]), data], dtype=np.float32)
        fresh = done[:, None] - back
        index = np.where(fresh >= start[done, None], len(slots) * length + fresh,
                         group[done, None] * length + wanted % length)
        # only an asset's last `length` frames stay: with more, one assignment would write a place twice
        stay = np.flatnonzero(np.repeat(groups.last, groups.last - groups.first + 1) - place < length)
        ring[batch.slot[stay], number[stay] % length] = data[stay]
    frames[slots] = number[groups.last] + 1

    def fill(a: int, b: int, views: Mapping[str, Array]) -> None:
        # mode="clip" lets take write to `out` without a buffer of its own; indices are in range by construction
        np.take(source, index[a:b], axis=0, out=views["x"].reshape(b - a, length, -1), mode="clip")

    return Rows.of(pool.table["period_ns"], pool.samples, batch, done, fill, frames=length), ()


def restart(pool: Pool, slot: int, *, recalibrate: bool) -> None:
    """Let the next window start with the next frame; there is nothing else to forget."""
    del recalibrate
    pool.table.reset(slot, ("frames",))


def inherit(pool: Pool, source: int, target: int) -> None:
    """Give a historical lane nothing: its windows are its own."""


def warm(pool: Pool, slot: int) -> bool:
    """Say whether a slot that began to listen at any part of a hop has had its first window."""
    spec = pool.bundle.spec.window
    assert spec is not None
    return bool(pool.table["frames"][slot] >= (spec.size + spec.hop) // pool.samples)


def calibration_rows(bundle: Bundle, samples: int) -> int:
    """Return 0: a window has nothing to calibrate."""
    del bundle, samples
    return 0


def lost(pool: Pool, slots: Sequence[int]) -> None:
    """Take note that frames are gone for good: no window may span them."""
    pool.table["frames"][slots] = 0
