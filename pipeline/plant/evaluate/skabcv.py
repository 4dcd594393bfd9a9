"""SKAB by leaving one folder out: what may be chosen is chosen on the other folders, through the same calibration.

The choice looks at arrays, thousands of charts in seconds; the folder left out is then scored through the flow.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from engines import load_bundle, shipped_bundles
from engines.bundle import JudgeSpec, MewmaSpec, ModelSpec
from pipeline.calibrate import Baseline, calibrate, ewma_step, usable
from pipeline.errors import InputError
from pipeline.ops.settings import Settings
from pipeline.plant.csvmap import CsvMap
from pipeline.plant.evaluate import Options
from pipeline.plant.evaluate.detection import rates
from pipeline.plant.evaluate.report import Report, Section
from pipeline.plant.evaluate.skab import TRAIN_ROWS, judged, labelled
from pipeline.plant.evaluate.table import Table
from pipeline.plant.labelled import Experiment
from pipeline.plant.series import series

F64 = NDArray[np.float64]
Bits = NDArray[np.bool_]

#: What may be chosen: the memory about the shipped one, tails from 1e-4 to 5e-6, on- and off-delays; of the rule for
#: channels how steady they must be, over samples and over tenths, and whether temperatures may be charted. Of choices
#: that come to the same the first counts, which is the shipped one where it is there.
GRID = {
    "smoothing": (0.08, 0.1, 0.12, 0.15), "exceedance": (1e-4, 2e-5, 5e-6),
    "on": ((3, 5), (6, 8), (8, 10)), "off": (20, 25, 30),
    "stationarity": (0.5, 0.4, 0.6, 0.7), "slow_stationarity": (0.35, 0.0, 0.2, 0.5),
    "slow_quantities": (("temperature",), ()),
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
        of = self.recipe
        return (f"smoothing {of.smoothing:g}, exceedance {of.exceedance:g}, on {self.judge.on[0]} of "
                f"{self.judge.on[1]}, off {self.judge.off}, stationarity {of.stationarity:g} and "
                f"{of.slow_stationarity:g}, {'no ' * bool(of.slow_quantities)}temperatures")


def cross_validated(
    experiments: Sequence[Experiment], csv_map: CsvMap, settings: Settings, options: Options, report: Report
) -> list[Experiment]:
    """Score each folder with what was chosen on the others. Raises InputError when that is not possible."""
    spec = load_bundle(shipped_bundles()["anomaly-mewma"]).spec
    labelled(experiments, csv_map, report)
    known = [e for e in experiments if e.label is not None and len(e.label) > TRAIN_ROWS]
    folders = sorted({e.path.parent.name for e in known})
    if len(folders) < 2:
        raise InputError("--protocol cv leaves one folder out: it takes two folders or more whose files carry labels")
    choices = every_choice(spec, known, options)
    table = Table("What was chosen", ("folder left out", "chosen on the others", "F1 there"), digits=3)
    held: list[Experiment] = []
    for folder in folders:
        rest = np.array([e.path.parent.name != folder for e in known])
        best = max(choices, key=lambda c, rest=rest: goal(c.counts[rest]))  # type: ignore[misc]
        table.add(folder, best.text(), figures(best.counts[rest])[0])
        mine = [e for e in known if e.path.parent.name == folder]
        judged(mine, settings, options, replace(spec, mewma=best.recipe, judge=best.judge))
        held += mine
    spread = np.percentile([figures(c.counts) for c in choices], (10, 50, 90), axis=0)
    table.note = (f"{len(choices)} choices; over all files their 10th, 50th and 90th percentiles are F1 "
                  f"{_three(spread[:, 0], 3)}, FAR % {_three(spread[:, 1], 1)}, MAR % {_three(spread[:, 2], 1)}")
    report.sections.append(Section("Leave one folder out", tables=[table]))
    return held


def every_choice(spec: ModelSpec, known: Sequence[Experiment], options: Options) -> list[Choice]:
    """Score all files by all corners of GRID."""
    assert spec.mewma is not None
    data = [values_of(e) for e in known]
    judges = [replace(spec.judge, on=on, off=off) for on, off in itertools.product(GRID["on"], GRID["off"])]
    keys = ("smoothing", "exceedance", "stationarity", "slow_stationarity", "slow_quantities")
    recipes = [replace(spec.mewma, **dict(zip(keys, corner, strict=True)))
               for corner in itertools.product(*(GRID[key] for key in keys))]
    choices, seen = [], dict[tuple[object, ...], F64]()
    for k, recipe in enumerate(recipes):
        options.progress(k / len(recipes), f"choosing: {k + 1} of {len(recipes)}")
        counts = np.empty((len(judges), len(known), 4))
        for f, e in enumerate(known):
            rows, quantities = data[f]
            base = fitted(rows, quantities, recipe)
            # other rules often keep the same channels
            same = f, recipe.smoothing, base.limit, base.kept.tobytes()
            if same not in seen:
                score = chart(rows, base, recipe)
                assert e.label is not None
                truth = e.label[TRAIN_ROWS:] == 1
                said = [alarms(score, judge) for judge in judges]
                seen[same] = np.array([[np.sum(m) for m in (a & truth, a & ~truth, ~a & truth, ~a & ~truth)]
                                       for a in said], float)
            counts[:, f] = seen[same]
        choices += [Choice(recipe, judge, counts[j]) for j, judge in enumerate(judges)]
    return choices


def values_of(e: Experiment) -> tuple[F64, tuple[str, ...]]:
    """Return a file's samples (rows, channels) as its frames hold them, and its channels' quantities."""
    ((birth, rows),) = series(e.messages).values()
    return rows, tuple(c.quantity for c in birth.channels)


def fitted(rows: F64, quantities: Sequence[str], recipe: MewmaSpec) -> Baseline:
    """Calibrate on the first rows, as the flow does."""
    return calibrate(rows[:recipe.calibration_rows], recipe, usable(quantities, recipe))


def chart(rows: F64, base: Baseline, recipe: MewmaSpec) -> F64:
    """Return the scores of the rows after the calibration: what the flow does, for one asset at once."""
    rest = rows[recipe.calibration_rows:]
    state, states = base.ewma, np.empty_like(rest)
    for i, row in enumerate(rest):
        state = states[i] = ewma_step(state, row, base.center, base.scale, recipe.smoothing)
    score: F64 = ((states @ base.whitening.T) ** 2).sum(axis=1) / base.limit
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
    return rates(*counts.sum(axis=0))


def goal(counts: F64) -> float:
    """What is chosen by: F1, less what either rate exceeds a bound."""
    f1, far, mar = figures(counts)
    return f1 - _COST * max(0.0, far - _MOST_PERCENT) - _COST * max(0.0, mar - _MOST_PERCENT)


def _three(values: F64, digits: int) -> str:
    return " / ".join(f"{v:.{digits}f}" for v in values)
