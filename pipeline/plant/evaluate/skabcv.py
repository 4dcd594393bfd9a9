"""SKAB by leaving one folder out: what may be chosen is chosen on the other folders, through the same calibration.

The choice looks at arrays, thousands of charts in seconds; the folder left out is then scored through the flow.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from engines import load_bundle, shipped_bundles
from engines.bundle import JudgeSpec, MewmaSpec, ModelSpec
from pipeline.calibrate import calibrate, ewma_step, usable
from pipeline.errors import InputError
from pipeline.ops.settings import Settings
from pipeline.plant.csvhistory import CsvHistory
from pipeline.plant.csvmap import CsvMap
from pipeline.plant.evaluate import Options
from pipeline.plant.evaluate.report import Report, Section
from pipeline.plant.evaluate.skab import TRAIN_ROWS, judged
from pipeline.plant.evaluate.table import Table
from pipeline.plant.labelled import Experiment, read_experiment, read_labels
from pipeline.plant.series import series

F64 = NDArray[np.float64]
Bits = NDArray[np.bool_]

#: What may be chosen: three memories about the shipped one, tails from 1e-4 to 5e-6, on- and off-delays.
GRID = {
    "smoothing": (0.08, 0.1, 0.12, 0.15), "exceedance": (1e-4, 2e-5, 5e-6),
    "on": ((3, 5), (6, 8), (8, 10)), "off": (20, 25, 30),
}  # fmt: skip
#: A choice whose false or missed alarms exceed this loses F1: one that alarms most of the time is worth nothing.
_MOST_PERCENT, _COST = 18.0, 0.005


@dataclass(frozen=True, slots=True)
class Choice:
    """One corner of GRID and the counts that it comes to: TP, FP, FN, TN per file, (files, 4)."""

    recipe: MewmaSpec
    judge: JudgeSpec
    counts: F64

    def text(self) -> str:
        """Name what was chosen."""
        return (f"smoothing {self.recipe.smoothing:g}, exceedance {self.recipe.exceedance:g}, on {self.judge.on[0]} of "
                f"{self.judge.on[1]}, off {self.judge.off}")


def cross_validated(
    files: Sequence[Path], csv_map: CsvMap, settings: Settings, options: Options, report: Report
) -> list[Experiment]:
    """Score each folder with what was chosen on the others. Raises InputError when that is not possible."""
    spec = load_bundle(shipped_bundles()["anomaly-mewma"]).spec
    known = [read_experiment(path, csv_map) for path in files]
    for e in known:
        read_labels(e, csv_map)
    known = [e for e in known if e.label is not None and len(e.label) > TRAIN_ROWS]
    folders = sorted({e.path.parent.name for e in known})
    if len(folders) < 2:
        raise InputError("--protocol cv leaves one folder out: it takes two folders or more whose files carry labels")
    choices = every_choice(spec, known, csv_map, options)
    table = Table("What was chosen", ("folder left out", "chosen on the others", "F1 there"), digits=3)
    held: list[Experiment] = []
    for folder in folders:
        rest = np.array([e.path.parent.name != folder for e in known])
        best = max(choices, key=lambda c, rest=rest: goal(c.counts[rest]))  # type: ignore[misc]
        table.add(folder, best.text(), figures(best.counts[rest])[0])
        mine = [e.path for e in known if e.path.parent.name == folder]
        held += judged(mine, csv_map, settings, options, replace(spec, mewma=best.recipe, judge=best.judge))
    spread = np.percentile([figures(c.counts) for c in choices], (10, 50, 90), axis=0)
    table.note = (f"{len(choices)} choices; over all files their 10th, 50th and 90th percentiles are F1 "
                  f"{_three(spread[:, 0], 3)}, FAR % {_three(spread[:, 1], 1)}, MAR % {_three(spread[:, 2], 1)}")
    report.sections.append(Section("Leave one folder out", tables=[table]))
    return held


def every_choice(
    spec: ModelSpec, known: Sequence[Experiment], csv_map: CsvMap, options: Options
) -> list[Choice]:
    """Score all files by all corners of GRID."""
    assert spec.mewma is not None
    data = {e.name: values_of(e.path, csv_map) for e in known}
    judges = [replace(spec.judge, on=on, off=off) for on, off in itertools.product(GRID["on"], GRID["off"])]
    recipes = [replace(spec.mewma, smoothing=s, exceedance=x)
               for s, x in itertools.product(GRID["smoothing"], GRID["exceedance"])]
    choices = []
    for k, recipe in enumerate(recipes):
        options.progress(k / len(recipes), f"choosing: {k + 1} of {len(recipes)}")
        counts = np.empty((len(judges), len(known), 4))
        for f, e in enumerate(known):
            score = chart(*data[e.name], recipe)
            assert e.label is not None
            truth = e.label[TRAIN_ROWS:] == 1
            for j, judge in enumerate(judges):
                said = alarms(score, judge)
                counts[j, f] = [np.sum(m) for m in (said & truth, said & ~truth, ~said & truth, ~said & ~truth)]
        choices += [Choice(recipe, judge, counts[j]) for j, judge in enumerate(judges)]
    return choices


def values_of(path: Path, csv_map: CsvMap) -> tuple[F64, tuple[str, ...]]:
    """Return a file's samples (rows, channels) as its frames hold them, and its channels' quantities."""
    ((birth, rows),) = series(CsvHistory(csv_map).read([path])).values()
    return rows, tuple(c.quantity for c in birth.channels)


def chart(rows: F64, quantities: Sequence[str], recipe: MewmaSpec) -> F64:
    """Calibrate on the first rows and return the scores of the rest: what the flow does, for one asset at once."""
    n = recipe.calibration_rows
    base = calibrate(rows[:n], recipe, usable(quantities, recipe))
    state, score = base.ewma, np.empty(len(rows) - n)
    for i, row in enumerate(rows[n:]):
        state = ewma_step(state, row, base.center, base.scale, recipe.smoothing)
        score[i] = ((base.whitening @ state) ** 2).sum() / base.limit
    return score


def alarms(score: F64, judge: JudgeSpec) -> Bits:
    """Return the judge's state per row: on-delay, off-delay and deadband."""
    need, width = judge.on
    over = score >= 1.0
    sums = np.concatenate([np.zeros(width), np.cumsum(over)])
    recent, low = sums[width:] - sums[:-width], score < 1.0 - judge.deadband
    active, below, state = False, 0, np.empty(len(score), bool)
    for i in range(len(score)):
        if active:
            below = below + 1 if low[i] else 0
            active = below < judge.off
        elif over[i] and recent[i] >= need:
            active, below = True, 0
        state[i] = active
    return state


def figures(counts: F64) -> tuple[float, float, float]:
    """Return F1, false and missed alarms in percent, pooled over files (files, 4)."""
    hit, false, missed, quiet = counts.sum(axis=0)
    return (float(hit / max(hit + (false + missed) / 2, 1e-9)), float(100 * false / max(false + quiet, 1)),
            float(100 * missed / max(hit + missed, 1)))


def goal(counts: F64) -> float:
    """What is chosen by: F1, less what either rate exceeds a bound."""
    f1, far, mar = figures(counts)
    return f1 - _COST * max(0.0, far - _MOST_PERCENT) - _COST * max(0.0, mar - _MOST_PERCENT)


def _three(values: F64, digits: int) -> str:
    return " / ".join(f"{v:.{digits}f}" for v in values)
