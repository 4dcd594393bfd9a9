"""Order: windows of one channel's raw samples at the model's rate, and the lines of the bearing it hears. [DM]

A slot keeps the last window's worth of samples at the asset's own rate, and the shaft's speed at every 64th of them.
Windows are counted in samples since the asset began to send, so they do not depend on how samples are packed into
frames, and each is resampled by itself: its row is a function of its samples alone. A window may end anywhere in a
frame. Rows cost a millisecond and come twice a second and asset, so here a loop over assets and rows is no cost.

What spoils a window (a speed that changes, a dead or clipped signal, lost frames) makes its row's answer "unknown".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engines.bundle import Bundle
from engines.kindspec import OrderSpec
from engines.orders import FAST_HZ, LINES, SLOW_HZ, Orders
from pipeline.columns import F64, I64, Array, Calibrated, FrameBatch, Groups, Rows
from pipeline.listening import (
    CHANGES,
    CLIPPED,
    DEAD,
    FAST,
    MISSING,
    NO_SPEED,
    REASONS,
    SLOW,
    STILL,
    Listening,
    listen,
)
from pipeline.resample import resample
from pipeline.state import Column, Pool

#: The speed is kept at every 64th sample: 5 ms at 12 kHz, in which no shaft that carries a rotor changes its speed.
THIN = 64
#: up / down may differ from the true ratio by less than this, see `resample.MAX_UP`: room in the ring.
_SLACK = 1.005
#: A window is looked at in tenths: a signal that died, or a speed that moved, within it shows in one of them.
_PARTS = 10
#: Part of a window's samples at its largest or smallest value from which on it may be clipped: noise cut at 2.6
#: deviations has that. A sine of few counts has it too, but half as many beside that value: at the next one, and within
#: so large a part of the range below it. With so many at one end there are too few levels to tell a line from.
_AT_END, _NEXT, _TIMES, _FEW = 0.005, 0.01, 3.0, 0.25
#: float32 samples whose spread is this small beside their size are rounding, not a signal.
_NO_SIGNAL = 5e-7
_MOST = float(np.finfo(np.float32).max)


def columns(bundle: Bundle, channels: int, samples: int) -> tuple[Column, ...]:
    """Return what a slot needs: ring and speeds of one window at the highest rate, where it is, and its last break.

    taken: samples since the ring began. next_seq: number that the next frame has if none is lost. broken: place of the
    first sample after a loss.
    """
    del channels, samples
    size = _room(bundle)
    return (
        Column("ring", "f4", (size,)), Column("speeds", "f4", (_cells(size) + 1,)), Column("taken", "i8"),
        Column("next_seq", "i8", fill=-1), Column("broken", "i8"),
    )  # fmt: skip


def _room(bundle: Bundle) -> int:
    spec = _spec(bundle)
    return int(spec.size * max(1.0, (bundle.spec.match.max_rate_hz or spec.rate_hz) / spec.rate_hz) * _SLACK) + 1


def _spec(bundle: Bundle) -> OrderSpec:
    assert bundle.spec.order is not None
    return bundle.spec.order


def calibration_rows(bundle: Bundle, samples: int) -> int:
    """Return 0: nothing is learnt of an asset."""
    del bundle, samples
    return 0


@dataclass(slots=True)
class _Row:
    """One window: the frame that completed it, time of its last sample [Unix ns], frames it spans, inputs, reason."""

    frame: int
    t_end: int
    frames: int
    samples: Array
    lines_hz: Array
    reason: int


def step(pool: Pool, batch: FrameBatch, groups: Groups) -> tuple[Rows, Sequence[Calibrated]]:
    """Store the frames, return a row {"samples": (size,), "lines_hz": (5,)} float32 per window that they finish.

    A window never spans a silence: the ring starts over at a frame marked `restart`. One that spans lost frames is
    answered "unknown".
    """
    spec, made = _spec(pool.bundle), list[_Row]()
    for first, last in zip(groups.first.tolist(), groups.last.tolist(), strict=True):
        slot = int(batch.slot[first])
        who = pool.slots[slot]
        assert who is not None
        ear = listen(who.birth, pool.channels_of(who.birth), spec)
        starts = [first, *(first + 1 + np.flatnonzero(batch.restart[first + 1 : last + 1])).tolist(), last + 1]
        for a, b in zip(starts[:-1], starts[1:], strict=True):
            if batch.restart[a]:
                restart(pool, slot, recalibrate=False)
            made += _advance(pool, slot, ear, spec, batch, a, b)
    done = np.array([row.frame for row in made], np.int64)

    def fill(a: int, b: int, views: Mapping[str, Array]) -> None:
        for k, row in enumerate(made[a:b]):
            views["samples"][k], views["lines_hz"][k] = row.samples, row.lines_hz

    rows = Rows.of(pool.table["period_ns"], pool.samples, batch, done, fill, frames=0)
    rows.frames = np.array([row.frames for row in made], np.int64)
    rows.t_end = np.array([row.t_end for row in made], np.int64)
    rows.doubt, rows.reasons = np.array([row.reason for row in made], np.int8), REASONS
    return rows, ()


def _advance(pool: Pool, slot: int, ear: Listening, spec: OrderSpec, batch: FrameBatch, a: int,
             b: int) -> Iterator[_Row]:  # fmt: skip
    """Take frames a..b of one slot, none after a silence but the first; yield the windows that end in them."""
    table, samples = pool.table, pool.samples
    seen, new = int(table["taken"][slot]), (b - a) * samples
    data = batch.data[a:b]
    fresh = data[:, ear.channel].reshape(-1) if ear.channel >= 0 else np.zeros(new, np.float32)
    if fresh.dtype.itemsize > 4:  # beyond float32 a sample would be infinite
        fresh = np.clip(fresh, -_MOST, _MOST)
    have, cells = min(seen, ear.size), min(_cells(seen), _cells(ear.size))
    stream = np.concatenate([table["ring"][slot, :have], fresh], dtype=np.float32)
    at = np.arange(-seen % THIN, new, THIN)
    speeds = np.concatenate([table["speeds"][slot, :cells], _speed(ear, batch, data, a, at // samples, at % samples)],
                            dtype=np.float32)  # fmt: skip
    origin, cell = seen - have, _cells(seen) - cells
    follows = batch.seq[a:b] == np.append(table["next_seq"][slot], batch.seq[a : b - 1] + 1)
    breaks = [int(table["broken"][slot]), *(seen + samples * np.flatnonzero(~follows)).tolist()]
    period = pool.table["period_ns"][slot]
    ends = np.arange(ear.size + ear.hop * max(0, -(-(seen + 1 - ear.size) // ear.hop)), seen + new + 1, ear.hop)
    for end in ends.tolist():
        start, last = end - ear.size, end - 1 - seen
        x = stream[start - origin : end - origin].astype(np.float64)
        rpm, reason = _rpm(speeds[_cells(start) - cell : _cells(end) - cell], ear.nominal, spec.speed_change)
        y, fault = _signal(x, ear, spec.size)
        if any(start < p < end for p in breaks):
            fault = fault or MISSING
        why = ear.reason or fault or reason or (_reach(ear.orders, rpm) if ear.orders else 0)
        yield _Row(a + last // samples, int(batch.t0_ns[a + last // samples]) + round(last % samples * period),
                   -(-ear.size // samples), y, _lines(ear, rpm), why)  # fmt: skip
    keep, kept = min(seen + new, ear.size), min(_cells(seen + new), _cells(ear.size))
    table["ring"][slot, :keep] = stream[len(stream) - keep :]
    table["speeds"][slot, :kept] = speeds[len(speeds) - kept :]
    table["taken"][slot], table["next_seq"][slot], table["broken"][slot] = seen + new, batch.seq[b - 1] + 1, breaks[-1]


def _cells(samples: int) -> int:
    """Return how many of this many samples are places where the speed is kept."""
    return -(-samples // THIN)


def _speed(ear: Listening, batch: FrameBatch, data: Array, a: int, frame: I64, place: I64) -> F64:
    """Return the speed at samples of frames, rpm; NaN where nobody measured it."""
    if ear.speed >= 0:
        return np.asarray(np.abs(data[frame, ear.speed, place].astype(np.float64)) * ear.factor)
    if batch.rpm is not None:
        found: F64 = batch.rpm[a + frame]
        return found
    return np.full(len(frame), np.nan)


def _rpm(speeds: Array, nominal: float, change: float) -> tuple[float, int]:
    """Return a window's speed, NaN: unknown, and what is wrong with it."""
    known = np.where(np.isnan(speeds), nominal, speeds.astype(np.float64))
    if np.isnan(known).any():
        return np.nan, NO_SPEED
    mean = float(known.mean())
    if mean <= 0:
        return 0.0, STILL
    parts = [float(part.mean()) for part in np.array_split(known, _PARTS) if len(part)]
    return mean, CHANGES if max(parts) - min(parts) > change * mean else 0


def _reach(orders: Orders, rpm: float) -> int:
    if orders.bpfo * rpm / 60.0 < SLOW_HZ:
        return SLOW
    return FAST if 2 * orders.bpfi * rpm / 60.0 > FAST_HZ else 0


def _lines(ear: Listening, rpm: float) -> Array:
    if ear.orders is None or not rpm > 0:
        return np.zeros(len(LINES), np.float32)
    return ear.orders.lines_hz(rpm * ear.stretch)


def _signal(x: F64, ear: Listening, size: int) -> tuple[Array, int]:
    """Return a window at the model's rate, of mean 0 and deviation 1, (size,), and what is wrong with it."""
    least = _NO_SIGNAL * np.abs(x).max()
    if any(np.ptp(part) <= least for part in np.array_split(x, _PARTS)):
        return np.zeros(size, np.float32), DEAD
    fault = CLIPPED if _clipped(x, ear.low, ear.high) else 0
    x = x - x.mean()
    return resample(x / np.sqrt((x * x).mean()), ear.up, ear.down)[:size].astype(np.float32), fault


def _clipped(x: F64, low: float | None, high: float | None) -> bool:
    least, most = float(x.min()), float(x.max())
    outside = np.count_nonzero(x >= (np.inf if high is None else high)) + np.count_nonzero(
        x <= (-np.inf if low is None else low))  # fmt: skip
    if outside > _AT_END * len(x):
        return True
    return any(_cut(edge * x, edge * end, _NEXT * (most - least)) for edge, end in ((1.0, most), (-1.0, least)))


def _cut(x: F64, most: float, near: float) -> bool:
    """Say whether a signal was cut off at its largest value."""
    at = np.count_nonzero(x == most)
    if at <= _AT_END * len(x):
        return False
    beside = np.count_nonzero(x >= x[x < most].max() - near) - at
    return bool(at > _TIMES * beside or at > _FEW * len(x))


def restart(pool: Pool, slot: int, *, recalibrate: bool) -> None:
    """Start over after a silence or a reboot."""
    del recalibrate
    pool.table.reset(slot, ("taken", "next_seq", "broken"))


def inherit(pool: Pool, source: int, target: int) -> None:
    """Do nothing: a historical lane's windows are its own."""
    del pool, source, target


def warm(pool: Pool, slot: int) -> bool:
    """Say whether a slot has had a whole window."""
    who = pool.slots[slot]
    if who is None:
        return False
    ear = listen(who.birth, pool.channels_of(who.birth), _spec(pool.bundle))
    return bool(pool.table["taken"][slot] >= ear.size)


def lost(pool: Pool, slots: Sequence[int]) -> None:
    """Take note that frames are gone for good: windows start over."""
    for slot in slots:
        restart(pool, slot, recalibrate=False)
