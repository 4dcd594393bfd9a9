"""Baseline: what is normal for an asset by the features of its own first rows; later rows are scored against it. [SD]

For models whose graph gives `features` instead of a finished score. Rows come in the order of the asset's stream,
after the engine. Bit for bit the same for any cut of the stream into batches: rows of one asset go one after the other,
rows of different assets share only elementwise operations.

score = max or rms over features of |moving mean of (feature - centre) / scale|, over the limit. Centre and spread are
median and MAD of the first rows: a few odd rows in a calibration move neither. Each block of those rows is also
standardised by a fit without it. How much the moving means of these values vary is what makes a spread a scale (what
wanders while it is healthy, or rows of windows that overlap, has a wider one), and the limit is the tail of a gamma
distribution of their combination, never their maximum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from engines.baselinespec import BaselineSpec
from pipeline import baselinedrive
from pipeline.calibrate import gamma_tail, von_neumann
from pipeline.columns import F64, I64, Array, Bool, Groups
from pipeline.regime import Regime, explain
from pipeline.state import Column, Pool

#: Why a row without a score has none.
CALIBRATING = "calibrating"

#: What a finished baseline sets.
BASELINE = ("base_center", "base_scale", "base_kept", "base_limit", "base_ready", "suspect", "collected")

# MAD to standard deviation for a normal distribution.
_MAD = 1.4826
# A logarithm is taken of nothing smaller.
_LEAST = 1e-30
# A feature that changes in fewer of its rows comes from a stuck sensor (pipeline.calibrate has the measurements).
_MIN_CHANGES = 0.05
# Means over tenths, as in pipeline.calibrate.
_BLOCKS = 10
# Standard errors of a split that nobody looked for: the largest over all splits of noise is above 5 once in 10,000.
_SIGNIFICANT = 5.0
# A split leaves this share of the rows on its smaller side: fewer are an odd start, not a level.
_EDGE = 0.15
_MAX_AUTOCORRELATION = 0.95
# NumPy's logarithm works on vectors of at most this many numbers; the rest of an array may go another way.
_LANES = 16


@dataclass(frozen=True, slots=True)
class Learnt:
    """A baseline of F features: centre, scale (F,) after the logarithm, kept (F,), limit, last moving mean (F,)."""

    center: F64
    scale: F64
    kept: Bool
    limit: float
    ewma: F64
    reason: str = ""  # why it is suspect
    regime: Regime | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A slot whose baseline is finished by the row at `row` of those given. reason: why it is suspect, or empty."""

    slot: int
    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Settled:
    """Scores (n,), shares (n, groups) summing to 1 or all 0, and which rows have none because their asset calibrates,
    or is driven as its baseline has not seen it.

    z: (n, groups) the standardised feature behind each share, signed: how far and which way. finished: in order.
    """

    score: F64
    shares: F64
    z: F64
    calibrating: Bool
    outside: Bool
    finished: Sequence[Finished]


def columns(spec: BaselineSpec, channels: int) -> tuple[Column, ...]:
    """Return what a slot needs: 25 bytes a feature."""
    per = (spec.width(channels),)
    return (
        Column("base_ewma", "f8", per), Column("base_center", "f8", per), Column("base_scale", "f8", per, fill=1),
        Column("base_kept", "u1", per), Column("base_limit", "f8", fill=1), Column("base_ready", "u1"),
        Column("suspect", "u1"), Column("collected", "i4"), *baselinedrive.columns(spec, channels),
    )


def step(pool: Pool, spec: BaselineSpec, slot: I64, features: Array, usable: Bool, ill: Bool | None = None) -> Settled:
    """Score rows in order: slot (n,), features (n, F) as the graph gave them, usable (n,).

    Rows that are not usable, or have a feature that is not finite, teach nothing, change nothing and score 0.
    ill: (n,) rows of assets with an open alert; a baseline that is finished by such a row is suspect.
    """
    n, table = len(slot), pool.table
    x = _transformed(spec, features)
    good = usable & np.isfinite(x).all(axis=1)
    calibrating, judged, outside = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool)
    finished = list[Finished]()
    mean, newest = np.zeros_like(x), np.array(spec.smoothings(pool.channels))
    order = np.argsort(slot, kind="stable")
    rank = np.empty(n, np.int64)
    rank[order] = Groups.of(slot[order]).rank
    for k in range(int(rank.max(initial=-1)) + 1):
        rows = np.flatnonzero((rank == k) & good)
        ready = table["base_ready"][slot[rows]] != 0
        for row in rows[~ready].tolist():
            calibrating[row] = True
            reason = _collect(pool, spec, int(slot[row]), x[row], ill is not None and bool(ill[row]))
            if reason is not None:
                finished.append(Finished(int(slot[row]), row, reason))
        rows = rows[ready]
        rest, beyond = baselinedrive.explain(table, slot[rows], x[rows])
        outside[rows] = beyond
        rows, rest = rows[~beyond], rest[~beyond]
        if len(rows):
            at, judged[rows] = slot[rows], True
            z = np.clip((rest - table["base_center"][at]) / table["base_scale"][at], -spec.clip, spec.clip)
            mean[rows] = table["base_ewma"][at] = table["base_ewma"][at] * (1.0 - newest) + z * newest
    # what is kept and the limit are asked for as they are now: a baseline that is finished stays
    kept = table["base_kept"][slot]
    seen = _faulty(spec, mean) * kept
    score = np.where(judged, _combined(spec, seen, kept) / table["base_limit"][slot], 0.0)
    shares, z = _shared(spec, pool.channels, mean, seen)
    finished.sort(key=lambda f: f.row)
    return Settled(score, shares, z, calibrating, outside, finished)


def inherit(pool: Pool, source: int, target: int) -> None:
    """Start a historical lane from the live slot's baseline as it is now; half a one is none."""
    for name in _learnt(pool):
        pool.table[name][target] = pool.table[name][source]
    if source in pool.calibration:
        pool.table["collected"][target] = 0


def restart(pool: Pool, slot: int, *, recalibrate: bool) -> None:
    """Start over after a reboot; the baseline stays unless it is to be learnt anew."""
    if recalibrate:
        pool.calibration.pop(slot, None)
        pool.table.reset(slot, _learnt(pool))
    pool.table.reset(slot, ("base_ewma",))


def _learnt(pool: Pool) -> tuple[str, ...]:
    return (*BASELINE, *(baselinedrive.DRIVE if "base_driver" in pool.table else ()))


def warm(pool: Pool, slot: int) -> bool:
    """Say whether the slot has a baseline."""
    return bool(pool.table["base_ready"][slot])


def learn(rows: F64, spec: BaselineSpec, channels: int = 1, allowed: Bool | None = None,
          drivers: I64 | None = None) -> Learnt:
    """Learn what is normal from `rows` (N, F), finite, oldest first, logarithms taken.

    A moving mean, standardised, varies by 1 when healthy, and at least as much as of independent rows: what is below
    that was an estimate's luck.

    channels: of the asset, if the spec has its features per channel; allowed: (channels,), None: all. drivers: channels
    that say how it is driven; scales are then of what they do not explain. Takes 17 ms for 400 rows of 24 features.
    """
    rows = np.array(rows, np.float64, order="C")  # one layout for every caller: the order of NumPy's sums follows it
    newest = np.array(spec.smoothings(channels))
    floor = np.tile([f.least_scale for f in spec.features], channels if spec.per_channel else 1)
    center, spread = _fit(rows)
    regime = None if drivers is None else baselinedrive.learn(spec, rows, center, drivers)
    if regime is not None:
        rows = explain(rows, regime, center)
        center, spread = _fit(rows)
    live = np.mean(rows[1:] != rows[:-1], axis=0) >= _MIN_CHANGES
    live &= (spread > 0.0) & np.isfinite(spread)
    scale = np.where(live, np.maximum(spread, floor), 1.0)
    if allowed is not None:
        live &= np.repeat(allowed, len(spec.features))
    if drivers is not None and len(drivers):
        live.reshape(channels, -1)[drivers] = False
    kept, reason = _choose(spec, channels, rows, live)
    limit = 1.0
    if kept.any():
        part, low = rows[:, kept], np.maximum(floor[kept], np.finfo(float).tiny)
        held_out = _held_out(spec, part, low, newest[kept])
        white = np.sqrt(newest[kept] / (2.0 - newest[kept]))
        gain = np.maximum(np.sqrt((held_out**2).mean(axis=0)), white)
        scale[kept] *= gain
        own = np.zeros((len(held_out), len(kept)))
        own[:, kept] = held_out / gain
        combined = _combined(spec, _faulty(spec, own), np.broadcast_to(kept, own.shape))
        limit = max(float(np.sqrt(gamma_tail(combined**2, spec.exceedance))), _least_limit(spec, int(kept.sum())))
        wide = limit * float((gain / white).max())
        if not reason and wide > spec.fleet_limit:
            reason = (f"its limit is {wide:.1f} standard deviations of independent rows, the fleet's are below "
                      f"{spec.fleet_limit:g}: it was not steady, or not healthy")
        reason = reason or _moved(spec, part, low)
    reason = reason or (regime.reason if regime is not None else "")
    return Learnt(center, scale, kept, limit, _smoothed((rows - center) / scale, spec, newest)[-1], reason, regime)


def _collect(pool: Pool, spec: BaselineSpec, slot: int, x: F64, ill: bool) -> str | None:
    """Keep one row of a calibrating slot; when it was the last, learn and return why that is suspect, or empty."""
    rows, table = pool.calibration.get(slot), pool.table
    if rows is None:
        rows = pool.calibration[slot] = np.zeros((spec.rows, len(x)))
    at = int(table["collected"][slot])
    rows[at] = x
    table["collected"][slot] = at + 1
    if at + 1 < spec.rows:
        return None
    drivers = baselinedrive.drivers(spec, pool, slot)
    learnt = learn(rows, spec, pool.channels, _allowed(pool, spec, slot), drivers)
    reason = "an alert was open while it was learnt" if ill else learnt.reason
    table["base_center"][slot], table["base_scale"][slot] = learnt.center, learnt.scale
    table["base_kept"][slot], table["base_limit"][slot] = learnt.kept, learnt.limit
    table["base_ewma"][slot], table["base_ready"][slot] = learnt.ewma, 1
    baselinedrive.keep(table, slot, learnt.regime)
    table["suspect"][slot], table["provisional"][slot] = bool(reason), 0
    del pool.calibration[slot]
    return reason


def _allowed(pool: Pool, spec: BaselineSpec, slot: int) -> Bool | None:
    """Return which channels may count by their quantities, None: all."""
    who = pool.slots[slot]
    if not spec.slow_quantities or who is None:
        return None
    slow, channels = [word.casefold() for word in spec.slow_quantities], pool.channels_of(who.birth)
    return np.array([not any(word in c.quantity.casefold() for word in slow) for c in channels], bool)


def _transformed(spec: BaselineSpec, features: Array) -> F64:
    """Return the features in float64, logarithms taken where the spec says so; the same bits in any batch."""
    x = np.array(features, np.float64, order="C")
    which = np.tile([f.log for f in spec.features], x.shape[1] // len(spec.features))
    if which.any():
        chosen = np.maximum(x[:, which], _LEAST)
        padded = np.ones(-(-chosen.size // _LANES) * _LANES)  # whole vectors: no number goes the way of a rest
        padded[:chosen.size] = chosen.ravel()
        x[:, which] = np.log(padded)[:chosen.size].reshape(chosen.shape)
    return x


def _faulty(spec: BaselineSpec, mean: F64) -> F64:
    """Return how far smoothed features (..., F) are on the side of a fault, 0 on the other; not negative."""
    repeats = mean.shape[-1] // len(spec.features)
    up = np.tile([f.side != "down" for f in spec.features], repeats)
    down = np.tile([f.side != "up" for f in spec.features], repeats)
    return np.maximum(np.where(up, mean, 0.0), np.where(down, -mean, 0.0))


def _combined(spec: BaselineSpec, seen: F64, kept: Array) -> F64:
    """Return one number per row of features (n, F), 0 where dropped."""
    if spec.combine == "max":
        return np.asarray(seen.max(axis=1, initial=0.0))
    # accumulate adds one after the other, whatever the number of rows; a sum would not
    total = np.add.accumulate(seen * seen, axis=1)[:, -1]
    return np.sqrt(total / np.maximum(np.add.accumulate(kept, axis=1, dtype=np.float64)[:, -1], 1.0))


def _shared(spec: BaselineSpec, channels: int, mean: F64, seen: F64) -> tuple[F64, F64]:
    """Return each group's share in the squares of `seen` (n, F), and the feature behind it with its sign."""
    size = (len(mean), spec.groups(channels), len(spec.features) if spec.per_channel else 1)
    seen = seen.reshape(size)
    squares = np.add.accumulate(seen * seen, axis=2)[:, :, -1]
    total = np.add.accumulate(squares, axis=1)[:, -1:]
    strongest = seen.argmax(axis=2)[:, :, None]
    z = np.take_along_axis(mean.reshape(size), strongest, axis=2)[:, :, 0]
    return squares / np.where(total > 0.0, total, 1.0), z


# -- learning


def _fit(rows: F64) -> tuple[F64, F64]:
    """Return median and spread (MAD, or the standard deviation where more than half of the rows are alike)."""
    center = np.median(rows, axis=0)
    spread = _MAD * np.median(np.abs(rows - center), axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        return center, np.where(spread > 0.0, spread, rows.std(axis=0))


def _choose(spec: BaselineSpec, channels: int, rows: F64, live: Bool) -> tuple[Bool, str]:
    """Return which features count, and why the choice is suspect."""
    if not live.any():
        return live, "no feature that may count changes its value: the sensors are stuck"
    whole = rows[: len(rows) // _BLOCKS * _BLOCKS]
    if not spec.stationarity or not len(whole):
        return live, ""
    ratio = np.where(live, von_neumann(whole.reshape(_BLOCKS, -1, rows.shape[1]).mean(axis=1)), 0.0)
    steady = live & (ratio >= spec.stationarity)
    if spec.per_channel:
        steady = np.repeat(steady.reshape(channels, -1).all(axis=1), len(spec.features))
        ratio = np.repeat(ratio.reshape(channels, -1).min(axis=1), len(spec.features))
    if steady.any():
        return steady, ""
    best = np.where(live, ratio, -1.0)
    return live & (best == best.max()), f"every feature drifts; kept the steadiest, von Neumann ratio {best.max():.2f}"


def _smoothed(z: F64, spec: BaselineSpec, newest: F64) -> F64:
    """Return the moving means of z (N, ..., F) along its first axis, as the live recursion makes them.

    newest: (F,) weight of the newest row.
    """
    out, state = np.empty_like(z), np.zeros(z.shape[1:])
    for i, row in enumerate(np.clip(z, -spec.clip, spec.clip)):
        state = out[i] = state * (1.0 - newest) + row * newest
    return out


def _settled(spec: BaselineSpec) -> slice:
    # a moving mean that starts at zero varies fully only after two memories
    return slice(min(int(2.0 / min(spec.smoothings(1))) - 1, spec.rows // 2), None)


def _held_out(spec: BaselineSpec, rows: F64, floor: F64, newest: F64) -> F64:
    """Return the moving means of the settled rows (n, F), each standardised by a fit without the block of its row."""
    block = np.arange(len(rows)) * spec.folds // len(rows)
    fits = [_fit(rows[block != fold]) for fold in range(spec.folds)]
    z = np.stack([(rows - c) / np.maximum(s, floor) for c, s in fits], axis=1)  # (N, folds, F)
    own: F64 = _smoothed(z, spec, newest)[np.arange(len(rows)), block][_settled(spec)]
    return own


def _least_limit(spec: BaselineSpec, count: int) -> float:
    """Return the limit that `count` independent normal features have: what is below it was an estimate's luck."""
    if spec.combine == "max":
        return NormalDist().inv_cdf(1.0 - spec.exceedance / (2.0 * count))
    spread = (2.0 / count) ** 0.5  # a mean square of `count` has mean 1 and this standard deviation
    return float(np.sqrt(gamma_tail(np.array([1.0 - spread, 1.0 + spread]), spec.exceedance)))


def _moved(spec: BaselineSpec, rows: F64, floor: F64) -> str:
    """Say how a level moved during the calibration, empty if none did.

    Of all splits of the rows the one whose sides differ most, in standard deviations about the sides' own means. The
    error of the difference allows for first-order autoregression.
    """
    n, places = len(rows), np.arange(len(rows))
    x = rows - rows.mean(axis=0)
    edge = max(3, int(n * _EDGE))
    at = np.arange(edge, n - edge + 1)
    total = np.cumsum(x, axis=0)
    shift = -total[at - 1] * n / (at * (n - at))[:, None]  # mean after minus mean before; the whole sums to 0
    weighed = np.abs(shift) * np.sqrt(at * (n - at) / n)[:, None]
    split = weighed.argmax(axis=0)
    for f in range(rows.shape[1]):
        t, move = int(at[split[f]]), float(abs(shift[split[f], f]))
        sides = x[:, f] - np.where(places < t, total[t - 1, f] / t, -total[t - 1, f] / (n - t))
        phi = max(1.0 - float(von_neumann(sides[:, None])[0]) / 2.0, 0.0)
        phi = min(phi + (1.0 + 4.0 * phi) / n, _MAX_AUTOCORRELATION)  # from few rows it comes out too small (Kendall)
        spread = float(sides.std())
        certain = float(weighed[split[f], f]) > _SIGNIFICANT * spread * ((1.0 + phi) / (1.0 - phi)) ** 0.5
        moved = move / max(spread, float(floor[f]), np.finfo(float).tiny)
        if certain and moved > spec.most_move:
            line = x[:, f] - np.polyval(np.polyfit(places, x[:, f], 1), places)
            how = "a trend" if float((line**2).sum()) < float((sides**2).sum()) else f"a step after row {t}"
            return f"the level moved during calibration: {how}, {moved:.1f} standard deviations between its sides"
    return ""
