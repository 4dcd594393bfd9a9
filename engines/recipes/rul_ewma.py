"""From run-to-failure histories to the constants of `rul-ewma`: normaliser, envelope, net, calibrated interval.

The interval is calibrated on engines that the net had not seen: each fold's net forecasts the engines of that fold, and
their misses widen the interval of the net that is fitted on all. Nothing here reads a label of an engine to be scored.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engines.recipes.rul_model import (
    CAP,
    SNAP,
    Band,
    Envelope,
    Normaliser,
    RulModel,
    features,
    heads,
    interval,
    normalised,
    raw_forecast,
)
from engines.recipes.rul_state import F64, LIFTED, SENSORS, SETTING_SCALE, History, Rows, check_split, lift, run
from engines.recipes.rul_train import Net, fit_net

#: Settings this near belong to one regime, in units of SETTING_SCALE. C-MAPSS scatters 0.002 within and 0.1 between.
_REGIME = 0.05
#: A setting may be this far from the nearest regime: ten times the scatter, a fifth of the step to the next.
_REACH = 0.02
#: z beyond this multiple of what training met is outside: fresh engines of the fleet reach 1.1.
_MARGIN = 1.3
#: A sensor is stuck after this many times the longest run of one value in training, and 10 samples at least.
_RUNS = 2.0
#: Rows of a life that has more left than the cap weigh less: they all have the same answer.
_LONG = 0.5
#: Copies of each history that begin at a random sample, beside the whole one: an engine may be joined late.
_COPIES = 2
#: Shortest rest of a history that begins late, and the samples from which on a forecast counts in calibration.
_SHORTEST, _COUNTED = 10, 20
#: Centres of the stretches of forecast life, in cycles, that have a correction of their own.
_KNOTS = (5.0, 20.0, 40.0, 60.0, 80.0, 100.0, 115.0, 125.0)
#: What the interval is to hold, and the shares of one stretch of life that are tried for it.
_COVER = 0.8
_SHARES = tuple(0.8 - 0.005 * k for k in range(31))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Choices of a training. folds: of the calibration. least, late: samples that make a history (Envelope).

    late: joined after 60 cycles, the error in cross-validation is 1.16 times that of an engine known from birth with
    60 samples, 1.09 with 80, 1.05 with 100.
    """

    net: Net = field(default_factory=Net)
    folds: int = 5
    least: int = 20
    late: int = 80


def split(histories: Sequence[History], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each history: whole assets, each group spread evenly."""
    rng = np.random.default_rng(seed)
    fold = np.zeros(len(histories), np.int64)
    for group in sorted({h.group for h in histories}):
        members = np.flatnonzero([h.group == group for h in histories])
        fold[rng.permutation(members)] = np.arange(len(members)) % folds
    return fold


def fit_normaliser(histories: Sequence[History]) -> Normaliser:
    """Fit regimes, and mean and scale of every sensor as functions of the settings, exact at each regime's centre."""
    rows = np.concatenate([h.rows for h in histories])
    rows = rows[np.isfinite(rows).all(axis=1)]
    settings, sensors = rows[:, 1:4] / np.asarray(SETTING_SCALE), rows[:, 4:]
    centres: list[F64] = []
    regime = np.full(len(rows), -1)
    while (regime < 0).any():
        leader = settings[np.argmax(regime < 0)]
        near = (np.abs(settings - leader).max(axis=1) < _REGIME) & (regime < 0)
        regime[near] = len(centres)
        centres.append(settings[near].mean(axis=0))
    count = len(centres)
    powers = np.column_stack([np.ones(len(rows)), lift(rows[:, 1:4])])
    at = np.stack([powers[regime == k].mean(axis=0) for k in range(count)])
    mean = np.stack([sensors[regime == k].mean(axis=0) for k in range(count)])
    scale = np.stack([sensors[regime == k].std(axis=0) for k in range(count)])
    # A sensor that never moved in a regime has no scale there: a thousandth of its size stands in.
    scale = np.maximum(scale, np.abs(mean) * 1e-6 + 1e-12)
    # Fewer regimes than powers leave freedom: the smallest coefficients are taken, exact at every regime all the same.
    solve = np.linalg.pinv(at, rcond=1e-9) if count < LIFTED + 1 else np.linalg.pinv(at)
    return Normaliser(solve @ mean, solve @ scale, 0.5 * scale.min(axis=0), np.stack(centres), _REACH)


def fit_envelope(normaliser: Normaliser, rows: Rows, recipe: Recipe) -> Envelope:
    """Measure what is usual: range of z of the means and of single samples, runs of one value, z before any wear."""
    means = normalised(normaliser, rows)
    single = normaliser(rows.last[:, 4:], lift(rows.last[:, 1:4]))
    z = np.concatenate([means, single[:, None]], axis=1)
    low, high = z.min(axis=0), z.max(axis=0)
    fresh = (rows.last[:, 0] <= 30) & (rows.count >= 10)
    healthy = means[fresh].mean(axis=(0, 1)) if fresh.any() else np.zeros(len(SENSORS))
    stuck = np.maximum(np.ceil(_RUNS * rows.same.max(axis=0)), 10.0)
    half = _MARGIN * np.maximum((high - low) / 2, 1e-6)
    return Envelope((low + high) / 2, half, stuck, float(recipe.least), float(recipe.late), healthy)


def fit_once(histories: Sequence[History], seed: int, recipe: Recipe) -> RulModel:
    """Fit all but the interval on these histories; its correction is 0."""
    normaliser = fit_normaliser(histories)
    rng = np.random.default_rng([seed, 1])
    whole = run(histories)
    envelope = fit_envelope(normaliser, whole, recipe)
    x, y = [features(normaliser, envelope, whole)], [np.concatenate([h.rul() for h in histories])]
    for _ in range(_COPIES):
        late = [h.joined(int(rng.integers(max(1, len(h.rows) - _SHORTEST)))) for h in histories]
        x.append(features(normaliser, envelope, run(late)))
        y.append(np.concatenate([h.rul() for h in late]))
    life = np.concatenate(y)
    layers = fit_net(np.concatenate(x), life, np.where(life > CAP, _LONG, 1.0), seed, recipe.net)
    nothing = np.zeros(len(_KNOTS))
    return RulModel(normaliser, envelope, layers, Band(np.asarray(_KNOTS), nothing, nothing))


@dataclass(slots=True)
class HeldOut:
    """Forecasts of rows whose engine the net had not seen. group: index of the history. weight: 1 / rows of it."""

    mean: F64
    p50: F64
    low: F64
    high: F64
    rul: F64
    cycle: F64
    count: F64
    owner: NDArray[np.int64]

    def where(self, mask: NDArray[np.bool_]) -> "HeldOut":
        return HeldOut(*(getattr(self, name)[mask] for name in self.__slots__))

    def weight(self) -> F64:
        """Return 1 / rows of the same engine: engines count alike, however long they lived."""
        return np.asarray(1.0 / np.bincount(self.owner)[self.owner])


def _join(parts: Sequence[HeldOut]) -> HeldOut:
    return HeldOut(*(np.concatenate([getattr(p, name) for p in parts]) for name in HeldOut.__slots__))


def held_out(
    histories: Sequence[History], seed: int, recipe: Recipe, starts: Sequence[int] = (0,),
    progress: Callable[[str], None] = lambda line: None,
) -> dict[int, HeldOut]:  # fmt: skip
    """Fit a net per fold and forecast the engines left out: for each of `starts`, joined after so many samples.

    Raises SplitLeaks when an asset is on both sides of a fold.
    """
    found: dict[int, list[HeldOut]] = {start: [] for start in starts}
    for k, inside, outside in folds_of(histories, recipe.folds, seed):
        fitted, left = [histories[i] for i in inside], [histories[i] for i in outside]
        check_split(fitted, left)
        model = fit_once(fitted, seed, recipe)
        for start in starts:
            found[start].append(_forecast_left_out(model, left, outside, start))
        progress(f"fold {k + 1} of {recipe.folds}: {len(fitted)} engines fitted, {len(left)} left out")
    return {start: _join(parts) for start, parts in found.items()}


def folds_of(histories: Sequence[History], folds: int, seed: int) -> Iterator[tuple[int, list[int], list[int]]]:
    """Yield number, indices inside and indices left out of each fold."""
    fold = split(histories, folds, seed)
    for k in range(folds):
        yield k, np.flatnonzero(fold != k).tolist(), np.flatnonzero(fold == k).tolist()


def _forecast_left_out(model: RulModel, left: Sequence[History], index: Sequence[int], start: int) -> HeldOut:
    kept = [(i, h.joined(start)) for i, h in zip(index, left, strict=True) if len(h.rows) > start]
    rows = run([h for _, h in kept])
    mean, p50, low, high = raw_forecast(heads(model.layers, features(model.normaliser, model.envelope, rows)))
    owner = np.array([i for i, _ in kept])[rows.owner]
    return HeldOut(mean, p50, low, high, np.concatenate([h.rul() for _, h in kept]), rows.last[:, 0], rows.count, owner)


def fit_band(seen: HeldOut) -> Band:
    """Choose what to add below and above, so that 80 % hold at a random cut of each engine.

    Healthy engines are at the cap and cannot miss, so the same share in every stretch of forecast life would hold
    more than 80 % in all: the share of a stretch is lowered until all together hold 80 %.
    """
    counted = seen.where(seen.cycle >= _COUNTED)
    truth, weight = np.minimum(counted.rul, CAP), counted.weight()
    for share in _SHARES:
        band = _band(counted, share)
        low, high = interval(band, counted.mean, counted.low, counted.high)
        if np.average((truth >= low) & (truth <= high), weights=weight) <= _COVER:
            break
    return band


def _band(seen: HeldOut, share: float) -> Band:
    """Fit each stretch of forecast life to hold `share`.

    Above first: half of those that may miss. Where that end is the cap nothing lies above, and the lower end takes all
    that may miss; an interval that starts at the tenth there would hold 90 %.
    """
    truth, weight = np.minimum(seen.rul, CAP), seen.weight()
    knots = np.asarray(_KNOTS)
    below, above = np.zeros(len(knots)), np.zeros(len(knots))
    above_share = (1 - share) / 2
    for k in range(len(knots)):
        near = weight * np.interp(seen.mean, knots, np.eye(len(knots))[k])
        if near.sum() <= 0:
            continue
        above[k] = _quantile(truth * (CAP - SNAP) / CAP - seen.high, near, 1 - above_share)
        over = truth * (CAP - SNAP) / CAP - seen.high > above[k]
        over &= seen.high + above[k] <= CAP - SNAP
        may_miss = 1 - share - (near * over).sum() / near.sum()
        below[k] = _quantile(np.where(over, -np.inf, seen.low - truth), near, 1 - max(may_miss, 0.0))
    return Band(knots, below, above)


def _quantile(values: F64, weight: F64, share: float) -> float:
    """Return the least value that `share` of the weight does not exceed."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][min(int(np.searchsorted(reached, share)), len(values) - 1)])


def fit(
    histories: Sequence[History], seed: int = 0, recipe: Recipe = Recipe(), starts: Sequence[int] = (0,),  # noqa: B008
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[RulModel, dict[int, HeldOut]]:  # fmt: skip
    """Fit on all histories; return the model and the forecasts of held-out engines, which its interval comes from.

    starts: see held_out; the interval is calibrated on engines that were joined at birth (0).
    """
    seen = held_out(histories, seed, recipe, tuple({0: None} | dict.fromkeys(starts)), progress)
    model = fit_once(histories, seed, recipe)
    progress(f"all {len(histories)} engines fitted, {model.parameters} parameters")
    return RulModel(model.normaliser, model.envelope, model.layers, fit_band(seen[0])), seen
