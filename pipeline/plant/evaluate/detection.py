"""How well alarms meet labelled anomalies: rows, false alarms, what was found, how late it was and how late it ended.

SKAB's protocol: of each file the first rows are for calibration, the rest is scored, pooled over the files:
F1 = TP / (TP + (FP + FN) / 2), FAR = FP / (FP + TN), MAR = FN / (FN + TP).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.plant.evaluate.bootstrap import Interval, interval
from pipeline.plant.evaluate.svg import runs

Bits = NDArray[np.bool_]
#: A longer gap between two rows is no time in operation: nobody knows what the machine did.
_MAX_STEP_S = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """One file's outcome. rows: TP, FP, FN, TN. episodes: alarms that rise while normal, in `normal_s` seconds.

    delays: of each anomaly, from its start to the first alarmed row, seconds; NaN: missed. clears: from the end of an
    anomaly that was alarmed to its end until the alarm ended, seconds; NaN: not in the file.
    """

    rows: tuple[int, int, int, int]
    episodes: int
    normal_s: float
    delays: tuple[float, ...] = field(default=())
    clears: tuple[float, ...] = field(default=())


def compare(seconds: NDArray[np.float64], label: Bits, alarm: Bits) -> Found:
    """Compare alarms with labels row by row, all (n,)."""
    truth, said = label.astype(bool), alarm.astype(bool)
    counts = tuple(int(np.sum(m)) for m in (truth & said, ~truth & said, truth & ~said, ~truth & ~said))
    rises = said & ~np.concatenate([[False], said[:-1]])
    steps = np.minimum(np.diff(seconds, append=seconds[-1:] + 1.0), _MAX_STEP_S)
    delays, clears = [], []
    for start, stop in runs(truth):
        hit = np.flatnonzero(said[start:stop])
        delays.append(float(seconds[start + hit[0]] - seconds[start]) if len(hit) else float("nan"))
        if stop < len(said) and said[stop - 1]:
            quiet = np.flatnonzero(~said[stop:])
            clears.append(float(seconds[stop + quiet[0]] - seconds[stop]) if len(quiet) else float("nan"))
    return Found((counts[0], counts[1], counts[2], counts[3]), int(np.sum(rises & ~truth)),
                 float(steps[~truth].sum()), tuple(delays), tuple(clears))


@dataclass(frozen=True, slots=True)
class Figures:
    """What a set of files comes to. far, mar in percent; per_hour: false alarms an hour of normal operation.

    found of `anomalies`; delay, clear: medians in seconds over what was found and what cleared.
    """

    f1: float
    far: float
    mar: float
    per_hour: float
    found: int
    anomalies: int
    delay: float
    clear: float


def rates(tp: float, fp: float, fn: float, tn: float) -> tuple[float, float, float]:
    """Return F1, false and missed alarms in percent."""
    return (float(tp / max(tp + (fp + fn) / 2, 1e-9)), float(100 * fp / max(fp + tn, 1)),
            float(100 * fn / max(fn + tp, 1)))


def pooled(found: Sequence[Found]) -> Figures:
    """Pool the rows, the hours and the anomalies of files."""
    counts = np.sum([f.rows for f in found], axis=0) if found else np.zeros(4)
    delays = np.array([d for f in found for d in f.delays])
    clears = np.array([c for f in found for c in f.clears])
    hours = sum(f.normal_s for f in found) / 3600
    hit = delays[np.isfinite(delays)]
    ended = clears[np.isfinite(clears)]
    return Figures(
        *rates(*counts), sum(f.episodes for f in found) / hours if hours else float("nan"), len(hit), len(delays),
        float(np.median(hit)) if len(hit) else float("nan"), float(np.median(ended)) if len(ended) else float("nan"),
    )


def intervals(found: Sequence[Found]) -> tuple[Interval, Interval, Interval, Interval]:
    """Return F1, FAR, MAR and false alarms an hour with their intervals over whole files."""
    table = np.array([(*f.rows, f.episodes, f.normal_s) for f in found], float).reshape(-1, 6)

    def figure(pick: int) -> Interval:
        def of(files: NDArray[np.int64]) -> float:
            *counts, episodes, seconds = table[files].sum(axis=0)
            return float((*rates(*counts), 3600 * episodes / max(seconds, 1e-9))[pick])
        return interval(len(table), of)

    return figure(0), figure(1), figure(2), figure(3)
