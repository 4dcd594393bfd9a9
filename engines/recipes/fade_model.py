"""What `battery-fade` thinks of a battery cell: how its capacity fades, learnt from cells that were worn to their end.

A cell fades the slower the less it holds: what it holds above half of its rated capacity shrinks by about the same part
each cycle. That part, the rate, is estimated twice, as the slope of a line through the cell's own last 64 cycles and as
the mean of cells that were worn to their end, and the two are mixed. On top of the fade a cell recovers a little after
every rest, for some cycles: a slope over few cycles says nothing, and the level is the lower of the last three's median
and of that line.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.base import Array

CHANNELS = ("cycle", "soh")
#: Why there is no answer; the graph gives their number, from 1.
REASONS = ("cycle numbers do not rise", "state of health is not between 0.55 and 1.2", "the capacity does not change")

#: Cycles of a row. Cells recover after rests, some 20 to 30 cycles apart: 64 hold two or three of them, and a mean over
#: 64 float32 has the same bits wherever in memory it lies.
WINDOW = 64
#: Capacity over rated capacity towards which a cell fades.
REST = 0.5
#: End of life: 30 % of the rated capacity are lost.
END = 0.7
#: The mean rate of other cells weighs as much as a whole life of this one: some 160 cycles.
PRIOR_CYCLES = 160.0
#: Own part of the rate.
OWN = WINDOW / (WINDOW + PRIOR_CYCLES)
#: Below REST a logarithm has no meaning; this far above it a cell is long past its end.
LEAST = 0.03
#: State of health at which a cell is no cell that was trained on: dead, or rated too low.
LOW, HIGH = 0.55, 1.2
#: A rate is never taken for less than a tenth of the mean: a recovery after a rest is no growth.
LEAST_RATE = 0.1
#: Cycles by which an end of life is uncertain however near it is: capacity wobbles by a cycle's fade, or five.
NOISE = 5.0
#: "At least" so many cycles: longer than any cell that was trained on.
CAP = 200.0
#: Cycles left from which on an alert is raised: time to order a cell and to wait for a planned stop.
WARN = 20.0
FLOOR = 1.0


@dataclass(frozen=True, slots=True)
class Fade:
    """What is learnt. rate: mean part of (soh - REST) lost per cycle. width: half an 80 % interval by life + NOISE."""

    rate: float
    width: float


#: `fit` of B0005, B0006 and B0018 of NASA's battery data, and the width of their leave-one-cell-out errors.
TRAINED = Fade(0.008129, 0.2199)


def log_excess(soh: Array) -> Array:
    """Return log(soh - REST), cut from below."""
    return np.asarray(np.log(np.maximum(soh - REST, LEAST)))


def slope(cycle: Array, y: Array) -> float:
    """Return the slope of the least-squares line through (cycle, y), both (n,)."""
    at = cycle - cycle.mean()
    return float((at * y).sum() / (at * at).sum())


def rate_of(cells: Sequence[Array]) -> float:
    """Return the mean rate of cells (cycles, 2) worn to their end, to six decimals."""
    return round(float(np.mean([-slope(cell[:, 0], log_excess(cell[:, 1])) for cell in cells])), 6)


def log_level(rows: Array) -> Array:
    """Return log(level - REST) of rows (n, 64, 2): the lower of the last three's median and of the line's end, (n,)."""
    cycle, soh = np.asarray(rows[:, :, 0], np.float64), np.asarray(rows[:, :, 1], np.float64)
    at, y = cycle - cycle.mean(axis=1, keepdims=True), log_excess(soh)
    middle = y.mean(axis=1, keepdims=True)
    over = (at * (y - middle)).mean(axis=1) / np.maximum((at * at).mean(axis=1), 1.0)
    return np.asarray(np.minimum(log_excess(np.median(soh[:, -3:], axis=1)), middle[:, 0] + over * at[:, -1]))


def answers(rows: Array, fade: Fade) -> dict[str, Array]:
    """Compute in float64 what the graph answers for rows (n, 64, 2) of (cycle, soh): life, low, high and why, (n,)."""
    cycle, soh = np.asarray(rows[:, :, 0], np.float64), np.asarray(rows[:, :, 1], np.float64)
    at, y = cycle - cycle.mean(axis=1, keepdims=True), log_excess(soh)
    y = y - y.mean(axis=1, keepdims=True)
    own = -(at * y).mean(axis=1) / np.maximum((at * at).mean(axis=1), 1.0)
    mixed = np.maximum(OWN * own + (1 - OWN) * fade.rate, LEAST_RATE * fade.rate)
    left = np.clip((log_level(rows) - np.log(END - REST)) / mixed, 0.0, CAP)
    half = (left + NOISE) * fade.width
    rises = (np.diff(cycle, axis=1) > 0).all(axis=1)
    inside = (soh <= HIGH).all(axis=1) & (soh > 0).all(axis=1) & (np.median(soh[:, -3:], axis=1) > LOW)
    moves = soh.max(axis=1) > soh.min(axis=1)
    why = np.where(~rises, 1, np.where(~inside, 2, np.where(~moves, 3, 0)))
    return {"life": left, "low": np.clip(left - half, 0.0, CAP), "high": np.clip(left + half, 0.0, CAP), "why": why}


def life(cell: Array, rate: float) -> Array:
    """Return the cycles left after every cycle of a cell (cycles, 2); NaN for the first WINDOW - 1."""
    left = np.full(len(cell), np.nan)
    if len(cell) >= WINDOW:
        left[WINDOW - 1 :] = answers(windows(cell), Fade(rate, 0.0))["life"]
    return left


def windows(cell: Array) -> Array:
    """Return the rows (n, 64, 2) of a cell (cycles, 2), one for every cycle from the 64th on."""
    rows = np.lib.stride_tricks.sliding_window_view(cell, WINDOW, axis=0)  # (n, 2, 64)
    return np.ascontiguousarray(np.swapaxes(rows, 1, 2))


def fit(cells: Sequence[Array], share: float = 0.8) -> Fade:
    """Learn from cells (cycles, 2) of (cycle, soh) worn to their end: rate, and width from each forecast by the others.

    Raises ValueError for fewer than two cells: nothing would say how far a forecast is off.
    """
    if len(cells) < 2:
        raise ValueError(f"{len(cells)} cells: at least two are needed, one to forecast the other")
    off = [np.zeros(0)]
    for k, cell in enumerate(cells):
        cycle, ended = cell[:, 0], np.flatnonzero(cell[:, 1] <= END)
        if len(ended):
            found = life(cell, rate_of([*cells[:k], *cells[k + 1 :]]))[: ended[0]]
            true = cycle[ended[0]] - cycle[: ended[0]]
            off.append((np.abs(found - true) / (found + NOISE))[WINDOW - 1 :])
    errors = np.concatenate(off)
    if not len(errors):
        raise ValueError(f"no cell reached its end of life after its first {WINDOW} cycles")
    return Fade(rate_of(cells), round(float(np.quantile(errors, share)), 4))


