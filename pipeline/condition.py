"""Condition: streaming features that never forget, in float64, one step per sample over all slots. [ISO 13374 DM]

Bit for bit the same for any cut of the stream into polls: every operation is elementwise, and the recursion, which no
closed form reproduces exactly, runs in rounds (the k-th frame of every asset together).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from engines.bundle import Bundle, MewmaSpec
from pipeline import still
from pipeline.calibrate import Baseline, calibrate, usable
from pipeline.columns import F64, I64, Array, Calibrated, FrameBatch, Groups, Rows
from pipeline.regime import MAX_DRIVERS, drivers
from pipeline.state import Column, Pool, Table

#: What a finished calibration sets; a part replaced or a new birth with other channels starts it over.
BASELINE = ("center", "scale", "z_mean", "whitening", "limit", "kept", "ready", "suspect", "collected",
            "driver", "slope", "low", "high", *still.LEARNT)

#: Reasons of `Rows.doubt`, by code from 1 on; those that name a channel come after them.
REASONS = ("operating point never calibrated",)
STANDS = "a channel stands still: {}"


def columns(bundle: Bundle, channels: int, samples: int) -> tuple[Column, ...]:
    """Return what a slot needs. collected: calibration samples so far. samples: those since the baseline.

    driver: index of the channels that say how the asset is driven, -1 for none. slope: of each channel on them,
    physical units. low, high: range of the drivers' smoothed standardised values that the calibration saw.
    """
    del bundle, samples
    per = (channels,)
    return (
        Column("ewma", "f8", per), Column("center", "f8", per), Column("scale", "f8", per, fill=1),
        Column("z_mean", "f8", per), Column("whitening", "f8", (channels, channels)), Column("limit", "f8", fill=1),
        Column("kept", "u1", per), Column("ready", "u1"), Column("suspect", "u1"), Column("collected", "i4"),
        Column("samples", "i8"), Column("driver", "i2", (MAX_DRIVERS,), fill=-1),
        Column("slope", "f8", (channels, MAX_DRIVERS)), Column("low", "f8", (MAX_DRIVERS,)),
        Column("high", "f8", (MAX_DRIVERS,)), *still.columns(channels),
    )


def calibration_rows(bundle: Bundle, samples: int) -> int:
    """Round the recipe's rows (one a sample) up to whole frames."""
    spec = bundle.spec.mewma
    assert spec is not None
    return -(-spec.calibration_rows // samples) * samples


def step(pool: Pool, batch: FrameBatch, groups: Groups) -> tuple[Rows, Sequence[Calibrated]]:
    """Advance the recursion, return one row per `hop` samples of every calibrated asset.

    Row: z (C,) the smoothed standardised sample, center (C,) its healthy mean, whitening (C, C), limit ().
    """
    spec = pool.bundle.spec.mewma
    assert spec is not None
    data = batch.data.astype(np.float64, copy=False)
    live, finished = _collect(pool, spec, batch, groups, data)
    slot = batch.slot[live]
    stands = still.count(pool.table, slot, data[live])
    ranks = Groups.of(slot).rank
    order = np.argsort(ranks, kind="stable")  # round by round, each round with distinct slots
    z = np.empty((len(live), pool.channels))
    number = np.empty(len(live), np.int64)
    table = pool.table
    ordered = slot[order]
    # elementwise, so that doing it for all frames at once gives the bits of doing it one by one
    raw = data[live[order]]
    # most assets have no driver, and then nothing of this may cost much
    driven = bool(spec.regime_quantities) and bool((table["driver"][ordered, 0] >= 0).any())
    if driven:
        _explain(table, ordered, raw)
    pushed = (raw - table["center"][ordered][:, :, None]) / table["scale"][ordered][:, :, None]
    pushed *= spec.smoothing
    pushed = np.ascontiguousarray(pushed.transpose(2, 0, 1))  # (sample, frame, channel)
    keep = 1.0 - spec.smoothing
    ewma, counted = table["ewma"], table["samples"]
    bounds = np.append(np.flatnonzero(np.diff(ranks[order], prepend=-1)), len(live)).tolist()
    for a, b in zip(bounds[:-1], bounds[1:], strict=True):
        at = ordered[a:b]
        state = ewma[at]
        for k in range(pool.samples):
            state *= keep
            state += pushed[k, a:b]
        ewma[at] = state
        counted[at] += pool.samples
        z[order[a:b]] = state
        number[order[a:b]] = counted[at]
    done = np.flatnonzero(number % (spec.hop or pool.samples) == 0)
    rows = _rows(pool, batch, live[done], z[done])
    doubt = doubts(table, rows.slot, z[done]) if driven else np.zeros(len(done), np.int32)
    named = still.stuck(table, rows.slot, stands[done])
    reasons = _name(pool, rows.slot, named, doubt)
    if doubt.any():
        rows.doubt, rows.reasons, rows.below = doubt, reasons, len(REASONS) + 1
    return rows, finished


def _name(pool: Pool, slot: I64, channel: Array, doubt: Array) -> tuple[str, ...]:
    """Give rows whose `channel` (n,) stands still, -1 for none, a reason that names it; return the reasons."""
    rows = np.flatnonzero((channel >= 0) & (doubt == 0))
    pairs, which = np.unique(slot[rows] * pool.channels + channel[rows], return_inverse=True)
    codes, known = np.empty(len(pairs), doubt.dtype), dict[str, int]()
    for k, pair in enumerate(pairs.tolist()):
        who = pool.slots[pair // pool.channels]
        assert who is not None
        name = pool.channels_of(who.birth)[pair % pool.channels].name
        codes[k] = known.setdefault(name, len(REASONS) + 1 + len(known))
    doubt[rows] = codes[which]
    return (*REASONS, *(STANDS.format(name) for name in known))


def _explain(table: Table, slot: I64, x: F64) -> None:
    """Take from samples x (frames, C, samples), in place, what their assets' drivers explain: `regime.explain`."""
    driver = table["driver"][slot]
    for k in range(MAX_DRIVERS):
        driven = np.flatnonzero(driver[:, k] >= 0)
        if not len(driven):
            break  # an asset's second driver comes after its first
        at, i = slot[driven], driver[driven, k]
        off = x[driven, i] - table["center"][at, i][:, None]
        x[driven] -= table["slope"][at, :, k][:, :, None] * off[:, None, :]


def doubts(table: Table, slot: I64, z: F64) -> Array:
    """Return for rows of state z (n, C) the code of the reason why nothing can be said, 0 for none: (n,)."""
    driver, code = table["driver"][slot], np.zeros(len(slot), np.int32)
    for k in range(MAX_DRIVERS):
        driven = np.flatnonzero(driver[:, k] >= 0)
        at, value = slot[driven], z[driven, driver[driven, k]]
        code[driven[(value < table["low"][at, k]) | (value > table["high"][at, k])]] = 1
    return code


def _rows(pool: Pool, batch: FrameBatch, done: I64, z: F64) -> Rows:
    table, slot = pool.table, batch.slot[done]

    def fill(a: int, b: int, views: Mapping[str, Array]) -> None:
        views["z"][:] = z[a:b]
        views["center"][:] = table["z_mean"][slot[a:b]]
        views["whitening"][:] = table["whitening"][slot[a:b]]
        views["limit"][:] = table["limit"][slot[a:b]]

    return Rows.of(table["period_ns"], pool.samples, batch, done, fill, frames=1)


def _collect(pool: Pool, spec: MewmaSpec, batch: FrameBatch, groups: Groups, data: F64) -> tuple[I64, list[Calibrated]]:
    """Give calibrating slots their rows; return the indices of the frames that come after a baseline."""
    ready = pool.table["ready"][batch.slot[groups.first]] != 0
    if ready.all():
        return np.arange(len(batch)), []
    live, finished = np.ones(len(batch), bool), []
    total = pool.calibration_rows
    for g in np.flatnonzero(~ready).tolist():
        first, last = int(groups.first[g]), int(groups.last[g]) + 1
        slot = int(batch.slot[first])
        rows = pool.calibration.get(slot)
        if rows is None:
            rows = pool.calibration[slot] = np.zeros((total, pool.channels))
        at = int(pool.table["collected"][slot])
        stop = min(last, first + (total - at) // pool.samples)
        count = (stop - first) * pool.samples
        rows[at:at + count] = data[first:stop].transpose(0, 2, 1).reshape(count, -1)
        pool.table["collected"][slot] = at + count
        live[first:stop] = False
        if at + count == total:
            who = pool.slots[slot]
            assert who is not None
            channels = pool.channels_of(who.birth)
            quantities = [c.quantity for c in channels]
            baseline = calibrate(rows, spec, usable(quantities, spec), drivers(quantities, spec.regime_quantities),
                                 [c.name for c in channels])
            adopt(pool, slot, baseline)
            still.learn(pool.table, slot, rows, baseline.kept)
            del pool.calibration[slot]
            finished.append(Calibrated(slot, stop - 1, total, baseline.reason))
    return np.flatnonzero(live), finished


def adopt(pool: Pool, slot: int, baseline: Baseline) -> None:
    """Make a baseline the slot's own; the recursion goes on from the calibration's last state."""
    table = pool.table
    table["center"][slot], table["scale"][slot] = baseline.center, baseline.scale
    table["z_mean"][slot], table["whitening"][slot] = baseline.zmean, baseline.whitening
    table["limit"][slot], table["kept"][slot] = baseline.limit, baseline.kept
    table["ewma"][slot] = baseline.ewma
    table.reset(slot, ("driver", "slope", "low", "high"))
    if baseline.regime is not None:
        found, k = baseline.regime, len(baseline.regime.index)
        center, scale = baseline.center[found.index], baseline.scale[found.index]
        table["driver"][slot, :k], table["slope"][slot, :, :k] = found.index, found.slope
        table["low"][slot, :k], table["high"][slot, :k] = (found.low - center) / scale, (found.high - center) / scale
    table["ready"][slot], table["suspect"][slot], table["provisional"][slot] = 1, baseline.status != "good", 0


def inherit(pool: Pool, source: int, target: int) -> None:
    """Start a historical lane from the live slot's baseline as it is now; its chart is at rest, as after a reboot."""
    for name in BASELINE:
        pool.table[name][target] = pool.table[name][source]
    if source in pool.calibration:  # half a calibration is no baseline: the lane collects its own
        pool.table["collected"][target] = 0
    restart(pool, target, recalibrate=False)


def restart(pool: Pool, slot: int, *, recalibrate: bool) -> None:
    """Start over after a reboot; the baseline stays unless the channels changed."""
    if recalibrate:
        pool.calibration.pop(slot, None)
        pool.table.reset(slot, (*BASELINE, *still.STREAM, "ewma", "samples"))
    elif pool.table["ready"][slot]:
        pool.table["ewma"][slot] = pool.table["z_mean"][slot]
        pool.table.reset(slot, (*still.STREAM, "samples"))


def warm(pool: Pool, slot: int) -> bool:
    """Say whether a slot has its baseline."""
    return bool(pool.table["ready"][slot])


def lost(pool: Pool, slots: Sequence[int]) -> None:
    """Take note that frames are gone for good: the recursion goes on, provisionally."""
    pool.table["provisional"][slots] = 1
