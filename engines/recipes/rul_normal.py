"""What is normal in the training data of `rul-ewma`: regimes, mean and scale of sensors there, the usual range."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from engines.recipes.rul_model import Envelope, Normaliser, normalised
from engines.recipes.rul_state import F64, SENSORS, SETTING_SCALE, History, Rows, lift

#: Settings this near belong to one regime, in units of SETTING_SCALE. C-MAPSS scatters 0.002 within and 0.1 between.
_REGIME = 0.05
#: A setting may be this far from the nearest regime: ten times the scatter, a fifth of the step to the next.
_REACH = 0.02
#: z beyond this multiple of what training met is outside: fresh engines of the fleet reach 1.1.
_MARGIN = 1.3
#: A sample may be averaged that is no further beyond what training met than this share of its span: such a sample is
#: outside all the same, and in the slowest mean a wilder one would stay for a hundred cycles.
_PLAUSIBLE = 0.5
#: Lives end: beyond this multiple of the longest in training nothing is known, however healthy an engine looks.
_OLDEST = 1.05
#: A sensor is stuck after this many times the longest run of one value in training, and 10 samples at least.
_RUNS = 2.0


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
    return Normaliser(_solve(at, mean), _solve(at, scale), 0.5 * scale.min(axis=0), np.stack(centres), _REACH)


def _solve(at: F64, values: F64) -> F64:
    """Return the smallest coefficients (powers, k) that give `values` (regimes, k) at `at` (regimes, powers).

    Fewer regimes than powers leave freedom, regimes on one line say the same twice: directions that `at` has less than
    a thousand-millionth of are left alone. In fractions, because the last bits of a library's solver hang on the CPU,
    and with them every bit of the net that is trained on what comes out.
    """
    rows = [[Fraction(v) for v in row] for row in at.tolist()]
    damping = Fraction(1e-18) * sum(v * v for row in rows for v in row)
    table = [[sum((a * b for a, b in zip(row, other, strict=True)), Fraction(0)) + (damping if row is other else 0)
              for other in rows] + [Fraction(v) for v in right]
             for row, right in zip(rows, values.tolist(), strict=True)]
    for k in range(len(table)):
        table[k] = [v / table[k][k] for v in table[k]]  # positive: the table is so, and stays so
        for i in range(len(table)):
            if i != k:
                table[i] = [v - table[i][k] * w for v, w in zip(table[i], table[k], strict=True)]
    parts = [row[len(rows):] for row in table]
    return np.array([[float(sum((rows[i][p] * parts[i][j] for i in range(len(rows))), Fraction(0)))
                      for j in range(values.shape[1])] for p in range(at.shape[1])])


def fit_envelope(normaliser: Normaliser, rows: Rows, least: int, late: F64) -> Envelope:
    """Measure what is usual: range of z of the means and of single samples, runs of one value, z before any wear.

    least, late: samples that make a history, see `Envelope`.
    """
    means = normalised(normaliser, rows)
    single = normaliser(rows.last[:, 4:], lift(rows.last[:, 1:4]))
    z = np.concatenate([means, single[:, None]], axis=1)
    low, high = z.min(axis=0), z.max(axis=0)
    fresh = (rows.last[:, 0] <= 30) & (rows.count >= 10)
    healthy = means[fresh].mean(axis=(0, 1)) if fresh.any() else np.zeros(len(SENSORS))
    stuck = np.maximum(np.ceil(_RUNS * rows.same.max(axis=0)), 10.0)
    half = _MARGIN * np.maximum((high - low) / 2, 1e-6)
    oldest = _OLDEST * float(np.nanmax(rows.last[:, 0]))
    return Envelope((low + high) / 2, half, stuck, float(least), oldest, late, healthy, _plausible(rows.last))


def _plausible(samples: F64) -> F64:
    """Return least and most of a plausible sample, (2, channels), in six digits: as a passport shows them."""
    low, high = np.nanmin(samples, axis=0), np.nanmax(samples, axis=0)
    # A channel that never moved has no span: its size stands in.
    span = np.where(high > low, high - low, np.maximum(np.abs(high), 1.0))
    return np.array([[float(f"{v:.6g}") for v in end] for end in (low - _PLAUSIBLE * span, high + _PLAUSIBLE * span)])
