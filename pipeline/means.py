"""Means: moving means of raw channels since an asset's first sample, in float64, over all slots at once. [ISO 13374 DM]

The state of kind "ewma". Until a memory is filled its mean is a plain one: each of the first samples weighs the same.
Raw values and a few powers of the settings are averaged side by side, so that the state has no constant of a model but
the smoothings, and a retrained model takes it over; what is normal at an operating point is the graph's business.

A sample with a channel beyond its measuring range (by the birth, else as the passport has it) would stay in the slow
means for a hundred samples: it is kept out of them, and its row is answered "unknown", naming the channel.

Bit for bit the same for any cut of the stream: every operation is elementwise, one step a sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engines.bundle import Bundle
from engines.kindspec import LARGEST
from pipeline.columns import F64, I64, Array, Calibrated, FrameBatch, Groups, Rows
from pipeline.state import Column, Pool

#: What is said of a sample outside.
_BEYOND = "{}: a sample beyond its plausible range, kept out of the means"

_STATE = ("ewma", "count", "last", "same")


def columns(bundle: Bundle, channels: int, samples: int) -> tuple[Column, ...]:
    """Return what a slot needs: the graph's inputs, and the count at which frames were lost.

    count: samples so far. same: samples in a row of one value. range: least and most by the birth, NaN: not told.
    """
    del samples
    rows = _rows_of(bundle)
    state = (Column(name, "f8", rows[name], fill=float("nan") if name == "last" else 0) for name in _STATE)
    return (*state, Column("lost_at", "f8"), Column("range", "f8", (channels, 2), float("nan"), persist=False))


def calibration_rows(bundle: Bundle, samples: int) -> int:
    """Return 0: what is normal is in the model."""
    del bundle, samples
    return 0


@dataclass(frozen=True, slots=True)
class _Layout:
    """Places of sensors and settings among the channels, divisors of the settings, which settings are squared too.

    plausible: (channels, 2), least and most where a birth does not tell. names: of the channels.
    """

    sensors: I64
    settings: I64
    scale: F64
    squares: I64
    smoothings: F64
    plausible: F64
    names: tuple[str, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> "_Layout":
        spec, names = bundle.spec.ewma, list(bundle.spec.match.channels)
        assert spec is not None
        settings, anything = list(spec.settings), (-LARGEST, LARGEST)
        return cls(np.array([names.index(n) for n in spec.sensors(tuple(names))], np.int64),
                   np.array([names.index(n) for n in settings], np.int64), np.array(list(spec.settings.values())),
                   np.array([settings.index(n) for n in spec.squares], np.int64), np.array(spec.smoothings),
                   np.array([spec.plausible.get(n, anything) for n in names]), tuple(names))

    def averaged(self, sample: F64) -> F64:
        """Return what is averaged of samples (n, channels): sensors, scaled settings, squares of some of these."""
        scaled = sample[:, self.settings] / self.scale
        squares = scaled[:, self.squares]
        return np.concatenate([sample[:, self.sensors], scaled, squares * squares], axis=1)

    def ends(self, told: F64) -> F64:
        """Return least and most of each channel, (n, channels, 2), by what births tell, (n, channels, 2)."""
        return np.clip(np.where(np.isnan(told), self.plausible, told), -LARGEST, LARGEST)


def step(pool: Pool, batch: FrameBatch, groups: Groups) -> tuple[Rows, Sequence[Calibrated]]:
    """Advance the means, return one row per `hop` samples, and of every frame with a sample kept out: the state then.

    Row: ewma (smoothings, averaged), count (), last (channels,) the newest sample, same (sensors,).
    """
    spec, layout, samples = pool.bundle.spec.ewma, _Layout.of(pool.bundle), pool.samples
    assert spec is not None
    ranks, told = groups.rank, pool.table["range"]
    order = np.argsort(ranks, kind="stable")  # round by round, each round with distinct slots
    bounds = np.append(np.flatnonzero(np.diff(ranks[order], prepend=-1)), len(batch)).tolist()
    kept: dict[str, list[Array]] = {name: [] for name in _STATE}
    at, beyond = list[I64](), list[I64]()
    for a, b in zip(bounds[:-1], bounds[1:], strict=True):
        here = order[a:b]
        slot = batch.slot[here]
        state = {name: pool.table[name][slot] for name in _STATE}
        done, out, ends = np.zeros(len(here), bool), np.zeros(len(here), np.int64), layout.ends(told[slot])
        for k in range(samples):
            by = _advance(state, layout, batch.data[here, :, k].astype(np.float64), ends)
            out = np.where(out == 0, by, out)
            done |= (state["count"] % spec.hop == 0) | (by != 0)
        for name in _STATE:
            pool.table[name][slot] = state[name]
            kept[name].append(state[name][done])
        full = (state["count"] - pool.table["lost_at"][slot]) * min(spec.smoothings) >= 1.0
        pool.table["provisional"][slot[full]] = 0  # what was lost is forgotten by now
        at.append(here[done])
        beyond.append(out[done])
    finished = np.concatenate(at)
    back = np.argsort(finished, kind="stable")
    found = {name: np.concatenate(parts)[back] for name, parts in kept.items()}

    def fill(a: int, b: int, views: Mapping[str, Array]) -> None:
        for name in _STATE:
            views[name][:] = found[name][a:b]

    rows = Rows.of(pool.table["period_ns"], samples, batch, finished[back], fill, frames=1)
    if (doubt := np.concatenate(beyond)[back]).any():
        rows.doubt, rows.reasons = doubt, tuple(_BEYOND.format(name) for name in layout.names)
    return rows, ()


def _advance(state: dict[str, Array], layout: _Layout, sample: F64, ends: F64) -> I64:
    """Take one sample (n, channels) of each asset; one beyond the `ends` is the last, and changes no mean.

    Returns the number of the first channel beyond, from 1; 0 where all are within.
    """
    within = (sample >= ends[:, :, 0]) & (sample <= ends[:, :, 1])
    whole = np.asarray(within.all(axis=1, keepdims=True))
    used = np.where(whole, sample, 0.0)
    state["count"] = state["count"] + whole[:, 0]
    weight = np.maximum(layout.smoothings, 1.0 / np.maximum(state["count"], 1.0)[:, None]) * whole
    state["ewma"] = state["ewma"] + weight[:, :, None] * (layout.averaged(used)[:, None] - state["ewma"])
    now, before = used[:, layout.sensors], state["last"][:, layout.sensors]
    state["same"] = np.where(whole, np.where(now == before, state["same"] + 1.0, 1.0), state["same"])
    state["last"] = sample
    return np.where(whole[:, 0], 0, within.argmin(axis=1) + 1)


def restart(pool: Pool, slot: int, *, recalibrate: bool) -> None:
    """Keep the means over a reboot: what wears is the machine, not its gateway. Forget all when it is another one."""
    if recalibrate:
        pool.table.reset(slot, (*_STATE, "lost_at", "provisional"))


def inherit(pool: Pool, source: int, target: int) -> None:
    """Give a historical lane nothing: its samples are older than the live means."""


def warm(pool: Pool, slot: int) -> bool:
    """Say whether the longest memory is filled."""
    spec = pool.bundle.spec.ewma
    assert spec is not None
    return bool(pool.table["count"][slot] * min(spec.smoothings) >= 1.0)


def lost(pool: Pool, slots: Sequence[int]) -> None:
    """Take note that frames are gone for good: the means go on, provisionally until the longest memory is new."""
    pool.table["provisional"][slots] = 1
    pool.table["lost_at"][slots] = pool.table["count"][slots]


def _rows_of(bundle: Bundle) -> dict[str, tuple[int, ...]]:
    spec = bundle.spec.ewma
    assert spec is not None
    return spec.rows(bundle.spec.match.channels)
