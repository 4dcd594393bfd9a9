"""Drift: notice that an asset is no longer what its baseline was made from, and widen its band meanwhile. [SD]

Two detectors look at one of `every` rows of each asset, and only at rows that are not the judge's business: a row near
the limit, and those within the judge's off-delay after it, are not looked at.

- inputs: population stability index of `window` rows against the asset's first rows, per input and for the score.
- score: the Page-Hinkley test for a rise of its mean (Page 1954, doi 10.1093/biomet/41.1-2.100; running mean and
  forgetting are those of river's `drift.PageHinkley`, mode "up", which the tests compare with).

It must explain no fault away. While an alert is open nothing is looked at and no band changes, and as many rows near
the limit as an alarm needs break off a window. A band is widened after `confirm` whole windows in a row that a detector
objects to: a fault that takes fewer than (confirm - 1) x window x every rows from its first trace until it stays near
its limit alarms at the same row as without this step. What is slower is told here before it is an alarm, and alarms at
`widen` times the limit.

A drift ends when the distributions of all inputs and the score were the old ones for `restore` windows in a row, or
when the asset is calibrated again. Nothing here retrains anything.

Bit for bit the same for any cut of the stream: what is looked at depends on counts per asset, and rounds hold one row
an asset each.
"""

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

from engines.driftspec import DriftSpec
from pipeline.columns import F64, I64, Array, Bool, Groups
from pipeline.state import Column, Pool, Table

#: Page-Hinkley as in river's defaults: the sum forgets over 10,000 rows looked at; before 30 the mean is a guess.
FORGET, MIN_ROWS = 1 - 0.0001, 30
#: Added to every count, so that an empty bin is rare and not impossible (Jeffreys' prior).
_PRIOR = 0.5
HINKLEY = ("hinkley_rows", "hinkley_mean", "hinkley_sum", "hinkley_low")


def columns(spec: DriftSpec | None, inputs: int) -> tuple[Column, ...]:
    """Return what a slot needs, nothing without a spec; inputs: how many numbers are watched beside the score.

    drift_calm: usable rows since one near the limit. drift_near: rows near it since the last that was looked at.
    drift_rows: usable rows, modulo `every`. drift_seen: rows that the reference has. drift_mean, drift_spread: of each
    input, the score last; spread holds the sum of squares until the bins are set. drift_filled, drift_sum: rows of the
    window and their scores. drift_over, drift_under: windows in a row that a detector objects to, or that are like the
    reference. band: the factor on the threshold in force.
    """
    if spec is None:
        return ()
    per, bins = (inputs + 1,), (inputs + 1, spec.bins)
    return (
        Column("drift_calm", "i4"), Column("drift_near", "i4"), Column("drift_rows", "i4"), Column("drift_seen", "i4"),
        Column("drift_mean", "f8", per), Column("drift_spread", "f8", per), Column("drift_expected", "u2", bins),
        Column("drift_found", "u2", bins), Column("drift_filled", "i4"), Column("drift_sum", "f8"),
        Column("drift_over", "i4"), Column("drift_under", "i4"), Column("drifting", "u1"), Column("hinkley_rows", "i8"),
        Column("hinkley_mean", "f8"), Column("hinkley_sum", "f8"), Column("hinkley_low", "f8"),
        Column("band", "f8", fill=1),
    )


@dataclass(slots=True)
class Change:
    """A drift began or ended at row `row` of slot `slot`.

    detector: "inputs", "score". value, limit: of its statistic. index: (inputs + 1,) of each input, the score last.
    """

    row: int
    slot: int
    begins: bool
    detector: str
    value: float
    limit: float
    index: F64


def step(pool: Pool, spec: DriftSpec, slot: I64, score: F64, inputs: F64, usable: Bool) -> tuple[F64, list[Change]]:
    """Look at rows in order; return the band of each row, a factor on its threshold, and what began or ended.

    slot, score, usable: (n,) as for the judge. inputs: (n, C) float64. A row is judged by the band that the rows before
    it left. Historical lanes are passed over.
    """
    table = pool.table
    band: F64 = table["band"][slot]
    usable = usable & (table["historical"][slot] == 0) & np.isfinite(inputs).all(axis=1)
    rows, broken = _looked_at(pool, spec, slot, score, usable)
    changes: list[Change] = []
    if not len(rows):
        return band, changes
    rank = Groups.of(slot[rows]).rank  # sorted by slot
    for k in range(int(rank.max()) + 1):
        now = rows[rank == k]
        seen = np.concatenate([inputs[now], score[now, None]], axis=1)
        changes += _round(pool, spec, now, slot[now], seen, broken[rank == k])
    changes.sort(key=lambda c: c.row)
    place = np.arange(len(slot))
    for change in changes:
        band[(slot == change.slot) & (place > change.row)] = spec.widen if change.begins else 1.0
    return band, changes


def restart(pool: Pool, slot: int) -> None:
    """Begin anew: the asset gets a new baseline."""
    pool.table.reset(slot, [c.name for c in columns(pool.bundle.spec.drift, 0)])


def _looked_at(pool: Pool, spec: DriftSpec, slot: I64, score: F64, usable: Bool) -> tuple[I64, Bool]:
    """Count the rows of every slot; return those to look at, sorted by slot, and which of them follow an alarm."""
    table, judge = pool.table, pool.bundle.spec.judge
    order = np.argsort(slot, kind="stable")
    groups, use = Groups.of(slot[order]), usable[order]
    at, own = slot[order][groups.first], np.cumsum(groups.head) - 1
    total = np.cumsum(use)
    count: I64 = total - (total - use)[groups.start]  # usable rows of the slot in this batch, this one included
    near = use & (score[order] >= pool.bundle.spec.threshold * (1.0 - judge.deadband))
    last = np.maximum.accumulate(np.where(near, np.arange(len(order)) + 1, 0))  # place of the newest such row, from 1
    calm = np.where(last > groups.start, count - count[last - 1], count + table["drift_calm"][at][own])
    number = count + table["drift_rows"][at][own]
    looked = use & (number % spec.every == 0) & (calm >= judge.off)
    table["drift_calm"][at] = np.minimum(calm[groups.last], judge.off)  # more is not asked for, and would overflow
    table["drift_rows"][at] = number[groups.last] % spec.every
    passed = np.cumsum(near)
    passed += (table["drift_near"][at] - (passed - near)[groups.first])[own]  # rows near the limit, this one included
    mark = np.maximum.accumulate(np.where(looked, np.arange(len(order)) + 1, 0))  # of the newest row looked at
    since: I64 = passed - np.where(mark > groups.start, passed[mark - 1], 0)
    table["drift_near"][at] = np.minimum(since[groups.last], judge.on[0])
    before = np.concatenate([[0], mark[:-1]])  # of the one before this row
    gap: I64 = passed - np.where(before > groups.start, passed[before - 1], 0)
    rows: I64 = order[looked]
    return rows, np.greater_equal(gap[looked], judge.on[0])


def _round(pool: Pool, spec: DriftSpec, rows: I64, slot: I64, x: F64, broken: Bool) -> list[Change]:
    """Look at one row each of distinct slots; x: (m, C + 1), the score last."""
    table, n = pool.table, spec.reference
    age = table["drift_seen"][slot]
    table["drift_seen"][slot] = np.minimum(age + 1, 2 * n)
    young, old = age < n, age >= 2 * n
    _start_window(pool, slot[broken])
    table["drift_over"][slot[broken]] = table["drift_under"][slot[broken]] = 0
    if young.any():
        _measure(pool, slot[young], x[young], age[young] + 1, n)
    if not young.all():
        _count(pool, spec, slot[~young], x[~young], old[~young])
    at = np.flatnonzero(old)
    return [] if not len(at) else _compare(pool, spec, rows[at], slot[at], x[at, -1])


def _start_window(pool: Pool, slot: I64) -> None:
    table = pool.table
    table["drift_found"][slot], table["drift_filled"][slot], table["drift_sum"][slot] = 0, 0, 0.0


def _measure(pool: Pool, slot: I64, x: F64, count: I64, n: int) -> None:
    """Take a row into mean and sum of squares (Welford 1962); the `n`th row makes that a standard deviation."""
    mean, square = pool.table["drift_mean"][slot], pool.table["drift_spread"][slot]
    off = x - mean
    mean += off / count[:, None]
    square += off * (x - mean)
    done = count == n
    square[done] = np.sqrt(square[done] / n)
    pool.table["drift_mean"][slot], pool.table["drift_spread"][slot] = mean, square


def _count(pool: Pool, spec: DriftSpec, slot: I64, x: F64, old: Bool) -> None:
    """Count a row's values in their bins: of the reference, or, where it is `old` enough, of the window."""
    table = pool.table
    spread = table["drift_spread"][slot]
    # an input that stood still has no bins: it stays in the middle, and tells nothing
    z = np.divide(x - table["drift_mean"][slot], spread, out=np.zeros_like(x), where=spread > 0)
    inside = np.searchsorted(_edges(spec.bins), z, side="right")
    which = np.arange(x.shape[1])
    for name, mask in (("drift_expected", ~old), ("drift_found", old)):
        if mask.any():
            table[name][slot[mask, None], which, inside[mask]] += 1


@cache
def _edges(bins: int) -> F64:
    return np.array([NormalDist().inv_cdf(k / bins) for k in range(1, bins)])


def _compare(pool: Pool, spec: DriftSpec, rows: I64, slot: I64, score: F64) -> list[Change]:
    """Take a score each into the test and the window; judge the windows that are whole."""
    table = pool.table
    table["drift_filled"][slot] += 1
    table["drift_sum"][slot] += score
    above = hinkley(table, slot, score, spec.tolerance)
    full = table["drift_filled"][slot] == spec.window
    return _windows(pool, spec, rows[full], slot[full], above[full]) if full.any() else []


def _windows(pool: Pool, spec: DriftSpec, rows: I64, slot: I64, above: F64) -> list[Change]:
    """Judge whole windows; above: of the Page-Hinkley test."""
    table, changes = pool.table, []
    index = stability(table["drift_expected"][slot], table["drift_found"][slot])
    for name in ("kept", "base_kept"):  # inputs that the model leaves out may do as they like
        if name in table and table[name].shape[1] == index.shape[1] - 1:
            index[:, :-1] *= table[name][slot] != 0
    worst = index.max(axis=1)
    moved, drifting = worst > spec.psi, table["drifting"][slot] != 0
    above = np.where(table["hinkley_rows"][slot] >= MIN_ROWS, above, 0.0)
    risen = table["drift_sum"][slot] / spec.window > table["drift_mean"][slot, -1] + spec.tolerance
    over = np.where(~drifting & (moved | (above > spec.trip)), table["drift_over"][slot] + 1, 0)
    under = np.where(drifting & ~moved & ~risen, table["drift_under"][slot] + 1, 0)
    table["drift_over"][slot], table["drift_under"][slot] = over, under
    _start_window(pool, slot)
    for i in np.flatnonzero((over >= spec.confirm) | (under >= spec.restore)).tolist():
        at, begins = int(slot[i]), not drifting[i]
        table["drifting"][at], table["band"][at] = begins, spec.widen if begins else 1.0
        table.reset(at, ("drift_over", "drift_under", *HINKLEY))
        found = ("inputs", float(worst[i]), spec.psi)
        if begins and not moved[i]:
            found = ("score", float(above[i]), spec.trip)
        changes.append(Change(int(rows[i]), at, begins, *found, index[i]))
    return changes


def stability(expected: Array, found: Array) -> F64:
    """Return the population stability index: sum over bins of (q - p) ln(q / p); counts (..., bins) -> (...).

    The symmetric divergence of Kullback and Leibler (1951, doi 10.1214/aoms/1177729694) of the two histograms.
    """
    p, q = (counts + _PRIOR for counts in (expected.astype(np.float64), found.astype(np.float64)))
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    index: F64 = ((q - p) * np.log(q / p)).sum(axis=-1)
    return index


def hinkley(table: Table, slot: I64, x: F64, tolerance: float) -> F64:
    """Advance the Page-Hinkley test of distinct slots by one value each; return how far its sum is above its least."""
    rows, mean, total, low = (table[name][slot] for name in HINKLEY)
    rows = rows + 1
    mean = mean + (x - mean) / rows
    total = FORGET * total + (x - mean) - tolerance
    low = np.where(rows == 1, total, np.minimum(low, total))
    for name, value in zip(HINKLEY, (rows, mean, total, low), strict=True):
        table[name][slot] = value
    above: F64 = total - low
    return above
