"""The constants of `rul-ewma` and what it computes from a state, in NumPy; engines.recipes.rul_graph is it in ONNX."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.recipes.rul_state import F64, SENSORS, SETTING_SCALE, SMOOTHINGS, Rows, lift

F32 = NDArray[np.float32]
#: (members, inputs, units) and (members, 1, units). Members are nets of their own; their last layers are averaged.
Layer = tuple[F32, F32]

#: Life beyond this is told as "at least": an engine shows no wear before (the usual cap for this data).
CAP = 125.0
#: Remaining cycles from which on an engine is a case for the planner: score 1. Half of it is 2, and so on.
WARN = 50.0
#: The score rises no further below this many cycles: a cycle more or less would be most of the score.
FLOOR = 5.0
#: Upper ends are stretched so that one this close below the cap is at the cap, "at least": a net never meets a bound.
SNAP = 0.5
#: Samples that each missed cycle asks for: joined 10 cycles late 40, from 50 on what `Envelope.late` says.
MISSED = 2.0
#: Missed cycles from which on an engine's interval is that of engines joined late; before, it is between the two.
LATE = 30.0
SPAN = len(SMOOTHINGS) * len(SENSORS)
FEATURES = SPAN + 3
HEADS = ("mean", "p50", "below", "above")
#: Answers of the output `unknown`.
KNOWN, FEW, OUTSIDE, BAD, COUNTER = 0, 1, 2, 3, 4
_FIRST, _LAST = 1, 4  # the settings in a row


@dataclass(frozen=True, slots=True)
class Normaliser:
    """mean, scale: (1 + LIFTED, sensors), linear in the lifted settings. least: (sensors), smallest scale.

    regimes: (r, 3), settings met in training in units of SETTING_SCALE. reach: how far a setting may be from the
    nearest of them.
    """

    mean: F64
    scale: F64
    least: F64
    regimes: F64
    reach: float

    def __call__(self, sensors: F64, powers: F64) -> F64:
        """Return z: sensors (..., sensors) and lifted settings (..., LIFTED), both averaged alike -> (..., sensors)."""
        mean, scale = (product(powers, table[1:]) + table[0] for table in (self.mean, self.scale))
        return np.asarray((sensors - mean) / np.maximum(scale, self.least))

    def strangeness(self, settings: F64) -> F64:
        """Return the distance of settings (n, 3) from the nearest regime, 1 = as far as is taken."""
        apart = np.abs((settings / np.asarray(SETTING_SCALE))[:, None] - self.regimes).max(axis=2)
        return np.asarray(apart.min(axis=1) / self.reach)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What was met in training. middle, half: (smoothings + 1, sensors), z of each mean and, last, of a single sample.

    same: (sensors), samples in a row of one value from which on a sensor is stuck. least: samples that make a history;
    each cycle missed before the first one asks for MISSED more, up to `late`: (2, 2), forecast lives and the samples
    that are enough there, linear between. healthy: (sensors), z before any wear.
    oldest: cycles; an older engine is outside. plausible: (2, channels), least and most of a sample to be averaged.
    """

    middle: F64
    half: F64
    same: F64
    least: float
    oldest: float
    late: F64
    healthy: F64
    plausible: F64

    def needed(self, missed: F64, mean: F64) -> F64:
        """Return the samples that make a history of an engine joined after `missed` cycles, `mean` its forecast."""
        return np.minimum(self.least + MISSED * missed, np.interp(mean, *self.late))


@dataclass(frozen=True, slots=True)
class Band:
    """What conformal calibration adds below and above the interval, linear between knots of the mean head (cycles).

    below, above: (2, knots), of engines known from birth, and of engines joined LATE or more cycles after it.
    """

    knots: F64
    below: F64
    above: F64

    def __call__(self, mean: F64, missed: F64) -> tuple[F64, F64]:
        share = np.minimum(missed / LATE, 1.0)
        born, late = ([np.interp(mean, self.knots, end[k]) for end in (self.below, self.above)] for k in (0, 1))
        return born[0] + share * (late[0] - born[0]), born[1] + share * (late[1] - born[1])


@dataclass(frozen=True, slots=True)
class RulModel:
    """All constants. layers take FEATURES as they are (their scaling is folded in) and give HEADS / CAP."""

    normaliser: Normaliser
    envelope: Envelope
    layers: Sequence[Layer]
    band: Band

    @property
    def parameters(self) -> int:
        return sum(weight.size + bias.size for weight, bias in self.layers)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Per row, in cycles: mean head, 10, 50 and 90 % quantile; unknown: KNOWN, FEW, OUTSIDE, BAD or COUNTER."""

    rul: F64
    p10: F64
    p50: F64
    p90: F64
    unknown: NDArray[np.int64]


def product(x: F64, weight: F64, rows: int = 2048) -> F64:
    """Return x (..., k) @ weight (k, m), added in the order of k; a library's has other last bits on another CPU.

    rows: taken at a time, so that what is added to stays in the cache.
    """
    flat = x.reshape(-1, x.shape[-1])
    total = np.zeros((len(flat), weight.shape[1]))
    for start in range(0, len(flat), rows):
        part, into = flat[start : start + rows], total[start : start + rows]
        for k, row in enumerate(weight):
            into += part[:, k : k + 1] * row
    return total.reshape(*x.shape[:-1], weight.shape[1])


def normalised(normaliser: Normaliser, rows: Rows) -> F64:
    """Return z of the means, (n, smoothings, sensors)."""
    sensors = len(SENSORS)
    return normaliser(rows.ewma[:, :, :sensors], rows.ewma[:, :, sensors:])


def features(normaliser: Normaliser, envelope: Envelope, rows: Rows) -> F32:
    """Return what the net sees, (n, FEATURES): z cut to what training knew, age and count.

    Roots and not logarithms: a root is exact by IEEE, a runtime's logarithm has other bits at the end of a batch.
    """
    z = normalised(normaliser, rows)
    z = np.clip(z, (envelope.middle - envelope.half)[:-1], (envelope.middle + envelope.half)[:-1])
    age, count = np.maximum(np.nan_to_num(rows.last[:, 0]), 1.0), np.maximum(rows.count, 1.0)
    times = (np.sqrt(age / 100), np.sqrt(count / 100), 1 / count)
    return np.column_stack([z.reshape(len(z), SPAN), *times]).astype(np.float32)


def heads(layers: Sequence[Layer], x: F32) -> F64:
    """Return the averaged heads (n, 4) in units of CAP."""
    total = np.zeros((len(x), len(HEADS)))
    members = len(layers[0][0])
    for m in range(members):
        h = x.astype(np.float64)
        for weight, bias in layers[:-1]:
            h = np.maximum(product(h, weight[m].astype(np.float64)) + bias[m], 0.0)
        weight, bias = layers[-1]
        total += product(h, weight[m].astype(np.float64)) + bias[m]
    return total / members


def positive(x: F64) -> F64:
    """Return a smooth ramp, near 0 for x << 0 and near x for x >> 0: the root that stands in for softplus."""
    return np.asarray(0.5 * (x + np.sqrt(x * x + 1)))


def raw_forecast(outputs: F64) -> tuple[F64, F64, F64, F64]:
    """Return mean, p50, and the interval before calibration, in cycles: of heads (n, 4)."""
    mean, p50 = np.clip(outputs[:, 0] * CAP, 0, CAP), outputs[:, 1] * CAP
    below, above = positive(outputs[:, 2:]).T * CAP
    return mean, np.clip(p50, 0, CAP), p50 - below, p50 + above


def interval(added: tuple[F64, F64], mean: F64, low: F64, high: F64) -> tuple[F64, F64]:
    """Return the calibrated interval, within 0 and CAP, with the mean in it. added: by a `Band`."""
    below, above = added
    high = np.maximum(np.clip((high + above) * (CAP / (CAP - SNAP)), 0, CAP), mean)
    return np.minimum(np.clip(low - below, 0, CAP), mean), high


def unknown(model: RulModel, rows: Rows, mean: F64) -> NDArray[np.int64]:
    """Return per row if the answer is to be believed: KNOWN, FEW, OUTSIDE, COUNTER or BAD, the worst that holds.

    mean: forecast life.
    """
    envelope, normaliser = model.envelope, model.normaliser
    missing = np.isnan(rows.last).any(axis=1) | (rows.count < 1)
    last = np.nan_to_num(rows.last)
    settings = last[:, _FIRST:_LAST]
    z = np.concatenate([normalised(normaliser, rows), normaliser(last[:, _LAST:], lift(settings))[:, None]], axis=1)
    beyond = (np.abs(z - envelope.middle) / envelope.half).max(axis=(1, 2))
    # What is no number is outside.
    outside = ~((np.maximum(beyond, normaliser.strangeness(settings)) <= 1) & (last[:, 0] <= envelope.oldest))
    # More samples than cycles: the counter is no counter. One more is the flight 0 of who counts from there.
    counter = rows.count > last[:, 0] + 1
    bad = missing | (rows.same >= envelope.same).any(axis=1)
    few = rows.count < envelope.needed(_missed(rows), mean)
    return np.select([bad, counter, outside, few], [BAD, COUNTER, OUTSIDE, FEW], KNOWN)


def _missed(rows: Rows) -> F64:
    """Return the cycles of each asset that were over before its first sample."""
    return np.maximum(np.nan_to_num(rows.last[:, 0]) - rows.count, 0.0)


def forecast(model: RulModel, rows: Rows) -> Forecast:
    """Return what the model says of each row."""
    mean, p50, low, high = raw_forecast(heads(model.layers, features(model.normaliser, model.envelope, rows)))
    low, high = interval(model.band(mean, _missed(rows)), mean, low, high)
    why = unknown(model, rows, mean)
    blind = why != KNOWN
    low, high = np.where(blind, 0.0, low), np.where(blind, CAP, high)
    return Forecast(mean, low, np.clip(p50, low, high), high, why)
