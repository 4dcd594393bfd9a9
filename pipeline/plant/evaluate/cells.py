"""How well a cell's end of life and capacity were forecast, beside last value plus linear fade. Pure."""

from dataclasses import dataclass

import numpy as np

from engines.base import Array
from engines.recipes.fade_model import END, REST, WINDOW, log_level
from pipeline.plant.battery import RATED_AH

END_AH = END * RATED_AH


@dataclass(frozen=True, slots=True)
class Error:
    """Of a forecast. capacity_ah: RMSE over all later cycles. end: cycles off, signed; None if there is no end."""

    capacity_ah: float
    end: float | None


def end_of(cycle: Array, capacity_ah: Array) -> float | None:
    """Return the first cycle at which a cell held no more than at its end of life, None if it never did."""
    ended = np.flatnonzero(capacity_ah <= END_AH)
    return float(cycle[ended[0]]) if len(ended) else None


def faded(cycle: Array, capacity_ah: Array, start: int, life: float) -> Array | None:
    """Return the capacity in Ah of the cycles after the first `start`, (later,), by a forecast of `life` cycles.

    A life and a level make the whole curve, because what is above the resting level shrinks evenly. None where the
    cell is at its end.
    """
    if not life > 0:
        return None
    row = np.stack([cycle, capacity_ah / RATED_AH], axis=1)[None, start - WINDOW : start]
    level = float(log_level(row)[0])
    part = (level - np.log(END - REST)) / life
    return np.asarray(RATED_AH * (REST + np.exp(level - part * (cycle[start:] - cycle[start - 1]))))


def linear(cycle: Array, capacity_ah: Array, start: int, whole: bool = True) -> tuple[Array, float]:
    """Return the same, and the life, by last value plus linear fade.

    whole: the fade is the slope of the line through all cycles so far, else from the first to the last one.
    """
    c, q = cycle[:start], capacity_ah[:start]
    slope = float(np.polyfit(c - c.mean(), q, 1)[0] if whole else (q[-1] - q[0]) / (c[-1] - c[0]))
    life = max((q[-1] - END_AH) / -slope, 0.0) if slope < 0 else np.inf
    return q[-1] + slope * (cycle[start:] - c[-1]), float(life)


def error(cycle: Array, capacity_ah: Array, start: int, forecast: Array, life: float) -> Error:
    """Compare a forecast made after the first `start` cycles with what came."""
    true = end_of(cycle, capacity_ah)
    rmse = float(np.sqrt(np.mean((forecast - capacity_ah[start:]) ** 2)))
    return Error(rmse, None if true is None else float(cycle[start - 1]) + life - true)
