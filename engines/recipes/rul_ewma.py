"""From run-to-failure histories to the constants of `rul-ewma`: normaliser, envelope, net, calibrated interval.

The interval is calibrated on engines that the net had not seen: each fold's net forecasts the engines of that fold, and
their misses widen the interval of the net that is fitted on all. Nothing here reads a label of an engine to be scored.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

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
    raw_forecast,
)
from engines.recipes.rul_normal import fit_envelope, fit_normaliser
from engines.recipes.rul_state import F64, History, check_split, run
from engines.recipes.rul_train import Net, fit_net

#: Rows of a life that has more left than the cap weigh less: they all have the same answer.
_LONG = 0.5
#: Copies of each history that begin at a random sample, beside the whole one: an engine may be joined late.
_COPIES = 2
#: Shortest rest of a history that begins late, and the samples from which on a forecast counts in calibration.
_SHORTEST, _COUNTED = 10, 20
#: Centres of the stretches of forecast life, in cycles, that have a correction of their own.
_KNOTS = (5.0, 20.0, 40.0, 60.0, 80.0, 100.0, 115.0, 125.0)
#: Joins, in cycles after birth, of the engines left out that the late interval is calibrated on.
JOINS = (30, 60, 100, 130)
#: What the interval is to hold, and the shares of one stretch of life that are tried for it.
_COVER = 0.8
_SHARES = tuple(0.8 - 0.005 * k for k in range(31))

Array = NDArray[Any]
#: Gets the share done, 0 to 1, and a line that says what is going on.
Progress = Callable[[float, str], None]
#: Returns what its second argument makes, or what an earlier run has kept under the name.
Once = Callable[[str, Callable[[], dict[str, Array]]], dict[str, Array]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Choices of a training. folds: of the calibration. least, late: samples that make a history (Envelope).

    late: wear that shows is told from few samples, how long a healthy engine lasts is not. Joined after 60 cycles, the
    error in cross-validation is, in times that of the same engines known from birth, 1.17 / 1.09 / 1.06 / 1.01 on FD001
    to FD004 as it stands, and 42 % of the cycles are answered; 1.15 / 1.08 / 1.04 / 1.01 and 31 % with 120 samples
    whatever the forecast; 1.21 / 1.11 / 1.04 / 1.02 and 41 % with 100; 1.34 on FD001 with 80.
    """

    net: Net = field(default_factory=Net)
    folds: int = 5
    least: int = 20
    late: tuple[tuple[float, float], tuple[float, float]] = ((20.0, 60.0), (40.0, 120.0))


def split(histories: Sequence[History], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each history: whole assets, each group spread evenly."""
    rng = np.random.default_rng(seed)
    fold = np.zeros(len(histories), np.int64)
    for group in sorted({h.group for h in histories}):
        members = np.flatnonzero([h.group == group for h in histories])
        fold[rng.permutation(members)] = np.arange(len(members)) % folds
    return fold


def fit_once(histories: Sequence[History], seed: int, recipe: Recipe) -> RulModel:
    """Fit all but the interval on these histories; its correction is 0."""
    normaliser = fit_normaliser(histories)
    rng = np.random.default_rng([seed, 1])
    whole = run(histories)
    envelope = fit_envelope(normaliser, whole, recipe.least, np.asarray(recipe.late))
    x, y = [features(normaliser, envelope, whole)], [np.concatenate([h.rul() for h in histories])]
    for _ in range(_COPIES):
        late = [h.joined(int(rng.integers(max(1, len(h.rows) - _SHORTEST)))) for h in histories]
        x.append(features(normaliser, envelope, run(late)))
        y.append(np.concatenate([h.rul() for h in late]))
    life = np.concatenate(y)
    layers = fit_net(np.concatenate(x), life, np.where(life > CAP, _LONG, 1.0), seed, recipe.net)
    nothing = np.zeros((2, len(_KNOTS)))
    return RulModel(normaliser, envelope, layers, Band(np.asarray(_KNOTS), nothing, nothing))


def to_arrays(model: RulModel) -> dict[str, Array]:
    """Return a model's constants by name; `from_arrays` makes the model of them again, bit for bit."""
    n, e, b = model.normaliser, model.envelope, model.band
    arrays = {"n mean": n.mean, "n scale": n.scale, "n least": n.least, "n regimes": n.regimes,
              "n reach": np.array(n.reach), "e middle": e.middle, "e half": e.half, "e same": e.same,
              "e least": np.array(e.least), "e oldest": np.array(e.oldest), "e late": e.late, "e healthy": e.healthy,
              "e plausible": e.plausible, "b knots": b.knots, "b below": b.below, "b above": b.above}  # fmt: skip
    for k, (weight, bias) in enumerate(model.layers):
        arrays |= {f"w{k}": weight, f"b{k}": bias}
    return arrays


def from_arrays(arrays: Mapping[str, Array]) -> RulModel:
    """Return the model that `to_arrays` has taken apart."""
    a = arrays
    normaliser = Normaliser(a["n mean"], a["n scale"], a["n least"], a["n regimes"], float(a["n reach"]))
    envelope = Envelope(a["e middle"], a["e half"], a["e same"], float(a["e least"]), float(a["e oldest"]), a["e late"],
                        a["e healthy"], a["e plausible"])
    layers = [(a[f"w{k}"], a[f"b{k}"]) for k in range(sum(name.startswith("w") for name in a))]
    return RulModel(normaliser, envelope, layers, Band(a["b knots"], a["b below"], a["b above"]))


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

    @property
    def missed(self) -> F64:
        """Return the cycles that were over before the first sample."""
        return np.maximum(self.cycle - self.count, 0.0)

    def weight(self) -> F64:
        """Return 1 / rows of the same engine: engines count alike, however long they lived."""
        return np.asarray(1.0 / np.bincount(self.owner)[self.owner])


def _join(parts: Sequence[HeldOut]) -> HeldOut:
    return HeldOut(*(np.concatenate([getattr(p, name) for p in parts]) for name in HeldOut.__slots__))


def held_out(
    histories: Sequence[History], seed: int, recipe: Recipe, starts: Sequence[int] = (0,),
    progress: Progress = lambda share, line: None, once: Once = lambda name, make: make(),
) -> dict[int, HeldOut]:  # fmt: skip
    """Fit a net per fold and forecast the engines left out: for each of `starts`, joined after so many samples.

    progress: gets the share done, 0 to 1, and a line. once: keeps the arrays of a fold for a run that was interrupted.
    Raises SplitLeaks when an asset is on both sides of a fold.
    """
    found: dict[int, list[HeldOut]] = {start: [] for start in starts}
    for k, inside, outside in folds_of(histories, recipe.folds, seed):
        fitted, left = [histories[i] for i in inside], [histories[i] for i in outside]
        check_split(fitted, left)
        progress(k / recipe.folds, f"fold {k + 1} of {recipe.folds}: fit {len(fitted)} engines, {len(left)} left out")
        arrays = once(f"fold {k} {starts}", partial(_fold, fitted, left, outside, seed, recipe, starts))
        for start in starts:
            found[start].append(HeldOut(*(arrays[f"{start} {name}"] for name in HeldOut.__slots__)))
    return {start: _join(parts) for start, parts in found.items()}


def _fold(
    fitted: Sequence[History], left: Sequence[History], index: Sequence[int], seed: int, recipe: Recipe,
    starts: Sequence[int],
) -> dict[str, Array]:  # fmt: skip
    model = fit_once(fitted, seed, recipe)
    told = {start: _forecast_left_out(model, left, index, start) for start in starts}
    return {f"{start} {name}": getattr(part, name) for start, part in told.items() for name in HeldOut.__slots__}


def folds_of(histories: Sequence[History], folds: int, seed: int) -> Iterator[tuple[int, list[int], list[int]]]:
    """Yield number, indices inside and indices left out of each fold."""
    fold = split(histories, folds, seed)
    for k in range(folds):
        yield k, np.flatnonzero(fold != k).tolist(), np.flatnonzero(fold == k).tolist()


def _forecast_left_out(model: RulModel, left: Sequence[History], index: Sequence[int], start: int) -> HeldOut:
    kept = [(i, h.joined(start)) for i, h in zip(index, left, strict=True) if len(h.rows) > start]
    if not kept:
        nothing = np.zeros(0)
        return HeldOut(nothing, nothing, nothing, nothing, nothing, nothing, nothing, np.zeros(0, np.int64))
    rows = run([h for _, h in kept])
    mean, p50, low, high = raw_forecast(heads(model.layers, features(model.normaliser, model.envelope, rows)))
    owner = np.array([i for i, _ in kept])[rows.owner]
    return HeldOut(mean, p50, low, high, np.concatenate([h.rul() for _, h in kept]), rows.last[:, 0], rows.count, owner)


def fit_band(seen: HeldOut, late: HeldOut) -> Band:
    """Choose what to add below and above, so that 80 % hold at a random cut of each engine.

    late: answered forecasts of engines joined late. They have an addition of their own: the same one would hold 73 % of
    those joined after 60 cycles, whose lives are the longer ones.
    """
    born = _ends(seen.where(seen.cycle >= _COUNTED), (np.zeros(len(_KNOTS)), np.zeros(len(_KNOTS))))
    below, above = zip(born, _ends(late, born), strict=True)
    return Band(np.asarray(_KNOTS), np.stack(below), np.stack(above))


def _ends(seen: HeldOut, default: tuple[F64, F64]) -> tuple[F64, F64]:
    """Return what to add below and above at each knot; `default` where nothing was forecast.

    Healthy engines are at the cap and cannot miss, so the same share in every stretch of forecast life would hold
    more than 80 % in all: the share of a stretch is lowered until all together hold 80 %.
    """
    if not len(seen.mean):
        return default
    truth, weight = np.minimum(seen.rul, CAP), seen.weight()
    for share in _SHARES:
        ends = _at_knots(seen, share, default)
        added = np.interp(seen.mean, _KNOTS, ends[0]), np.interp(seen.mean, _KNOTS, ends[1])
        low, high = interval(added, seen.mean, seen.low, seen.high)
        if np.average((truth >= low) & (truth <= high), weights=weight) <= _COVER:
            break
    return ends


def _at_knots(seen: HeldOut, share: float, default: tuple[F64, F64]) -> tuple[F64, F64]:
    """Fit each stretch of forecast life to hold `share`.

    Above first: half of those that may miss. Where that end is the cap nothing lies above, and the lower end takes all
    that may miss; an interval that starts at the tenth there would hold 90 %.
    """
    truth, weight = np.minimum(seen.rul, CAP), seen.weight()
    knots = np.asarray(_KNOTS)
    below, above = default[0].copy(), default[1].copy()
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
    return below, above


def _quantile(values: F64, weight: F64, share: float) -> float:
    """Return the least value that `share` of the weight does not exceed."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][min(int(np.searchsorted(reached, share)), len(values) - 1)])


def fit(
    histories: Sequence[History], seed: int = 0, recipe: Recipe = Recipe(),  # noqa: B008  (frozen)
    progress: Progress = lambda share, line: None, once: Once = lambda name, make: make(),
) -> tuple[RulModel, dict[int, HeldOut]]:  # fmt: skip
    """Fit on all histories; return the model and the forecasts of held-out engines, which its interval comes from.

    They are by the cycles after which each engine was joined, 0 and JOINS. progress, once: see held_out.
    """
    share = recipe.folds / (recipe.folds + 1)
    seen = held_out(histories, seed, recipe, (0, *JOINS), lambda s, t: progress(s * share, t), once)
    progress(share, f"fit all {len(histories)} engines")
    model = from_arrays(once("all", lambda: to_arrays(fit_once(histories, seed, recipe))))
    late = _join([seen[start] for start in JOINS])
    band = fit_band(seen[0], late.where(late.count >= model.envelope.needed(late.missed, late.mean)))
    return RulModel(model.normaliser, model.envelope, model.layers, band), seen
