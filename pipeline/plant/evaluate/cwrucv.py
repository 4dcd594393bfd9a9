"""CWRU, cross-validated: trained without the three bearings of a fault diameter, scored on them, by the same flow.

Every choice (weights of moved copies and of the simulator, the limit of "unknown") is made on the other two diameters.
There is one healthy recording of five seconds: it is cut in time, with a gap, and its test part goes through the flow
at eight offsets, because a window a half second is too few of it to tell a rate of false alarms from.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.orders import KNOWN
from engines.recipes import bearing_head
from engines.recipes.bearing_windows import LeakError
from pipeline.errors import InputError
from pipeline.plant import bearingset, cwru
from pipeline.plant.cwru import Recording
from pipeline.plant.evaluate import Options, svg
from pipeline.plant.evaluate.bearings import LABELS, Compared, Judged, Truth
from pipeline.plant.evaluate.cwru import (
    _COLUMNS,
    _NOTE,
    beside,
    geometry,
    headline,
    judge,
    per_bearing,
    shifted,
    square,
    write,
)
from pipeline.plant.evaluate.given import SHOWN
from pipeline.plant.evaluate.report import Report, Section
from pipeline.plant.evaluate.table import Table

if TYPE_CHECKING:
    from pipeline.ops.settings import Settings

_OFFSETS = 8
_FROM = "..from."


def cross_validated(data: Path, out: Path, settings: "Settings", options: Options, report: Report) -> Report:
    """Train and score per seed and diameter; write pred.csv of seed 0. Raises InputError."""
    lost = dict[str, str]()
    recordings = [r for r in cwru.read(data, skipped=lost) if r.label is not None]
    report.summary += [line for why in lost.values() if (line := f"left out: {why}") not in report.summary]
    if not recordings:
        raise InputError(f"{data}: index.csv labels no recording, and --protocol cv trains on labels"
                         + "".join(f"; {why}" for why in lost.values()))
    bearingset.refuse_twins(recordings)
    bearing, orders = geometry(options)
    known = KNOWN[bearing] if orders is None else orders
    rows = bearingset.windows(recordings, known)
    scored = list[Compared]()
    for seed in range(options.seeds):
        options.progress(seed / options.seeds, f"seed {seed}: features")
        what = bearingset.material(rows, seed)
        try:
            folds = bearingset.cross_validate(rows, what, recordings, seed)
        except LeakError as error:
            raise InputError(f"{data}: the split leaks: {error}") from error
        judged, truth = list[Judged](), dict[str, Truth]()
        for k, fold in enumerate(folds):
            done = (k + 1) / (len(folds) + 1)
            options.progress((seed + done) / options.seeds, f"seed {seed}: without {fold.name} mil")
            parts = _test(recordings, fold.name, k, len(folds))
            truth |= {p.name: Truth(p.label or "", p.bearing or "") for p in parts}
            judged += judge(settings, parts, cwru.frames(parts, bearing, orders), model=bearing_head.model(fold.head))
        scored.append(Compared(judged, truth))
        if seed == 0:
            report.files.append(write(out, [_whole(row) for row in judged]))
    _describe(report, scored)
    report.facts += [("seeds", ", ".join(map(str, range(options.seeds)))),
                     *((f"{r.name}.npz", r.sha256[:SHOWN]) for r in recordings)]
    return report


def _test(recordings: list[Recording], diameter: str, part: int, parts: int) -> list[Recording]:
    """Return what is scored of one fold: its bearings whole, of healthy recordings its part, at eight offsets."""
    found = []
    for r in recordings:
        if r.label != "normal":
            found += [r] if r.diameter == diameter else []
            continue
        low, high = part * len(r.raw) // parts, (part + 1) * len(r.raw) // parts
        step = round(r.rate_hz / 2 / _OFFSETS)
        found += [shifted(r, at, high, f"{r.name}{_FROM}{at}") for at in range(low, low + _OFFSETS * step, step)]
    return found


def _whole(row: Judged) -> Judged:
    """Name the recording that a part is of."""
    name, _, at = row.recording.partition(_FROM)
    return replace(row, recording=name, start=row.start + int(at or 0))


def _describe(report: Report, scored: list[Compared]) -> None:
    figures = {"balanced accuracy": [s.balanced() for s in scored], "AUROC": [s.auroc() for s in scored],
               "false alarms %": [100 * s.false_alarms() for s in scored],
               "Brier score": [s.brier() for s in scored],
               "log loss": [s.log_loss() for s in scored],
               "expected calibration error": [s.calibration_error() for s in scored]}  # fmt: skip
    table = Table("CWRU, bearings left out by diameter", _COLUMNS, note=_NOTE, digits=3)
    for seed, s in enumerate(scored):
        headline(table, f"seed {seed}", s)
    beside(table)
    spread = "; ".join(f"{name} {np.mean(v):.3f} (sd {f'{np.std(v, ddof=1):.3f}' if len(v) > 1 else '-'})"
                       for name, v in figures.items())
    report.summary.append(f"{len(scored)} seeds: {spread}")
    report.sections.append(Section("Bearings left out", "Trained without the bearings of a diameter, every choice on "
                                   "the other two, and scored on them.", tables=[table]))
    report.sections.append(Section("Seed 0", tables=[per_bearing("bearings left out, seed 0", scored[0])], pictures=[
        svg.confusion("Windows, seed 0", (*LABELS, "unknown"), square(scored[0].confusion()))]))
    bearings = np.unique(scored[0].bearing).tolist()
    recall = [[float((s.said == s.label)[s.bearing == b].mean()) for s in scored] for b in bearings]
    report.sections.append(Section("Over the seeds", pictures=[svg.bars(
        "Windows named right, mean over the seeds and range", bearings, [float(np.mean(r)) for r in recall],
        [min(r) for r in recall], [max(r) for r in recall])]))
