"""Regime: what of a channel's level the asset's operating point explains, fitted during its calibration. Pure.

A pump at half speed vibrates less: judged by one mean it is either a fault or hidden under a wide limit. Channels that
say how the asset is driven (speed, load; by their quantity) are *drivers*. They are not charted; the other channels'
levels are regressed on them, and where a driver leaves the range that the calibration saw, nothing is known of the
asset, which is no alarm. The fit is linear, so the range matters: inside of it a bent dependence costs some width of
the limit, outside of it a straight line may be anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.bundle import MewmaSpec

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Speed and load. A third hardly ever says more, and each costs a column of coefficients per channel and asset.
MAX_DRIVERS = 2
# Operating points closer than this share of the level are one: a grid's frequency or a governor moves by about 1 %.
_SAME = 0.02
# The range seen is widened by this share of itself, and by three standard deviations of the smoothed driver's noise.
_WIDER, _SIGMAS = 0.1, 3.0
# A driver that follows the clock this closely (correlation) cannot be told from a drift of the whole asset.
_CLOCKWORK = 0.95
# Directions of the drivers with less than this share of the strongest are not fitted: speed and power move together.
_COLLINEAR = 1e-2


@dataclass(frozen=True, slots=True)
class Regime:
    """How an asset's channels (C) follow its drivers (D of them, at most MAX_DRIVERS).

    index: (D,) of the driving channels. slope: (C, D) in the channel's unit per the driver's; 0 in the drivers' own
    rows and where the calibration saw too little to tell. low, high: (D,) range of the smoothed driver that counts as
    seen, in its unit. reason: why the fit is not to be trusted, or "".
    """

    index: I64
    slope: F64
    low: F64
    high: F64
    reason: str = ""


def drivers(quantities: Sequence[str], words: Sequence[str]) -> I64:
    """Return which channels drive the asset, by words in their quantities in its birth: at most MAX_DRIVERS."""
    words = [word.casefold() for word in words]
    found = [i for i, quantity in enumerate(quantities) if any(word in quantity.casefold() for word in words)]
    return np.array(found[:MAX_DRIVERS], np.int64)


def fit(rows: F64, index: I64, smooth: F64, recipe: MewmaSpec) -> Regime:
    """Regress each channel's level on the drivers.

    rows: (N, C) calibration samples, finite. smooth: (N, D) the drivers as the chart smooths them, same unit: the chart
    remembers, so a sample outside the range concerns the rows after it as well.
    """
    u = rows[:, index]
    with np.errstate(over="ignore", invalid="ignore"):
        center, spread = u.mean(axis=0), u.std(axis=0)
        noise = np.sqrt(np.mean(np.diff(u, axis=0) ** 2, axis=0) / 2.0)
    quiet = noise * np.sqrt(recipe.smoothing / (2.0 - recipe.smoothing))
    low, high = smooth.min(axis=0), smooth.max(axis=0)
    same = _SAME * np.abs(center)
    with np.errstate(divide="ignore", invalid="ignore"):
        # the chart's own test of drift: a driver that is steady by it is noise about one operating point
        moved = (2.0 * (noise / spread) ** 2 < recipe.stationarity) & (high - low > same)
    margin = np.maximum.reduce([_WIDER * (high - low), _SIGMAS * quiet, same])
    return follow(rows, index, moved, low - margin, high + margin)


def follow(rows: F64, index: I64, moved: NDArray[np.bool_], low: F64, high: F64) -> Regime:
    """Regress rows (N, C) on those of the drivers that moved. low, high: (D,) range that counts as seen."""
    slope, reason = np.zeros((rows.shape[1], len(index))), ""
    if moved.any():
        u = rows[:, index[moved]]
        with np.errstate(over="ignore", invalid="ignore"):
            center, spread = u.mean(axis=0), u.std(axis=0)
        slope[:, moved] = _slopes(rows, u, spread)
        slope[index] = 0.0
        clock = np.arange(len(rows)) - (len(rows) - 1) / 2.0
        if np.abs(clock @ ((u - center) / spread) / (len(rows) * clock.std())).max() > _CLOCKWORK:
            reason = "speed or load only rose or only fell: its effect cannot be told from a drift"
    return Regime(index, slope, low, high, reason)


def _slopes(rows: F64, u: F64, spread: F64) -> F64:
    """Return least squares of each column of rows on u, (C, D); a column without a finite variance gets 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        size = rows.std(axis=0)
        sound = np.isfinite(size) & (size > 0.0)
        size = np.where(sound, size, 1.0)
        z = np.where(sound, (rows - rows.mean(axis=0)) / size, 0.0)
    beta = np.linalg.lstsq((u - u.mean(axis=0)) / spread, z, rcond=_COLLINEAR)[0]
    slope: F64 = beta.T * size[:, None] / spread
    return slope


def explain(rows: F64, regime: Regime, center: F64) -> F64:
    """Take from rows (..., C) what the drivers explain. The order of operations is fixed: driver by driver."""
    rest = rows
    for k, i in enumerate(regime.index.tolist()):
        rest = rest - regime.slope[:, k] * (rows[..., i, None] - center[i])
    return rest
