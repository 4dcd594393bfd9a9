"""Labelled experiments: causal scores and alarms per row of CSV files, and how they compare with the files' labels.

SKAB's protocol: of each file the first 400 rows are for calibration, the rest is scored, pooled over the files:
F1 = TP / (TP + (FP + FN) / 2), FAR = FP / (FP + TN), MAR = FN / (FN + TP).
"""

import csv
import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from pipeline.columns import Array, Poll
from pipeline.errors import InputError
from pipeline.judge import ACTIVE
from pipeline.plant.csvmap import CsvMap
from pipeline.plant.source import Retired
from schemas import Assessment, AssetBirth

Item = AssetBirth | Retired | Poll
TRAIN_ROWS = 400
LABEL = "anomaly"


def labelled_files(data: Path) -> tuple[Path, ...]:
    """List FOLDER/NUMBER.csv and .csv.gz under `data`, by folder and number. Raises InputError if there are none."""
    found = [p for p in data.glob("*/*") if p.name.endswith((".csv", ".csv.gz"))]
    if not found:
        raise InputError(f"{data}: holds no FOLDER/NUMBER.csv or .csv.gz")
    return tuple(sorted(found, key=lambda p: (p.parent.name, len(stem(p)), stem(p))))


def stem(path: Path) -> str:
    """Return a file's name without .csv or .csv.gz."""
    return path.name.removesuffix(".gz").removesuffix(".csv")


@dataclass(slots=True)
class Experiment:
    """One file. times: as written in it. score: relative to the limit. alarm, label: 0 or 1; label None without labels.

    Rows that the flow gave no score (calibration) have score 0 and alarm 0.
    """

    path: Path
    times: list[str]
    label: Array | None
    score: Array = field(init=False)
    alarm: Array = field(init=False)

    def __post_init__(self) -> None:
        self.score, self.alarm = np.zeros(len(self.times)), np.zeros(len(self.times), np.int8)

    def confusion(self) -> tuple[int, int, int, int]:
        """Return TP, FP, FN, TN over the rows after the calibration part."""
        assert self.label is not None
        y, a = self.label[TRAIN_ROWS:] == 1, self.alarm[TRAIN_ROWS:] == 1
        return int((y & a).sum()), int((~y & a).sum()), int((y & ~a).sum()), int((~y & ~a).sum())

    def write(self, path: Path) -> None:
        """Write datetime, score, alarm: one line a row, in the order of the file."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="", encoding="utf-8") as f:
                table = csv.writer(f, lineterminator="\n")
                table.writerow(("datetime", "score", "alarm"))
                table.writerows(zip(self.times, map(repr, self.score.tolist()), self.alarm.tolist(), strict=True))
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def read_experiment(path: Path, csv_map: CsvMap) -> Experiment:
    """Read the times and, where the file has them, the labels; the values go another way, through the flow."""
    with _open(path, csv_map.encoding) as f:
        table = csv.DictReader(f, delimiter=csv_map.separator)
        rows = [(r[csv_map.time.column], r.get(LABEL)) for r in table]
        labelled = LABEL in (table.fieldnames or ())
    label = None
    if labelled:
        try:
            label = np.array([float(cell or "") for _, cell in rows]).astype(np.int8)
        except ValueError as error:
            raise InputError(f"{path}: column {LABEL}: {error}") from error
    return Experiment(path, [time for time, _ in rows], label)


def _open(path: Path, encoding: str) -> TextIO:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding=encoding, newline="")
    return path.open(encoding=encoding, newline="")


@dataclass(slots=True)
class Attribution:
    """Pairs files with the assets that they become, and gives each assessed row's result to the file's rows."""

    experiments: list[Experiment]
    samples_per_frame: int
    _by_asset: dict[str, Experiment] = field(default_factory=dict)

    def watch(self, source: Iterable[Item]) -> Iterator[Item]:
        """Pass a source on; each birth in it belongs to the next file that has rows."""
        files = iter([e for e in self.experiments if e.times])
        for item in source:
            if isinstance(item, AssetBirth):
                self._by_asset[item.asset] = next(files)
            yield item

    def take(self, assessments: Iterable[Assessment]) -> None:
        """Score and alarm hold from a row's frame on, until the next one."""
        for a in assessments:
            experiment = self._by_asset[a.asset]
            for seq, score, limit, state in zip(a.seq, a.score, a.limit, a.state, strict=True):
                rows = slice(seq * self.samples_per_frame, None)
                experiment.score[rows], experiment.alarm[rows] = score / limit, state == ACTIVE

    def finish(self) -> None:
        """Raise InputError if two files shared an asset, so that their rows could not be told apart."""
        files = sum(1 for e in self.experiments if e.times)
        if files != len(self._by_asset):
            raise InputError(f"{files} files with rows became {len(self._by_asset)} assets; each needs a name of its "
                             "own (is 0.csv beside 0.csv.gz?)")


def table_of(experiments: list[Experiment]) -> Iterator[str]:
    """Yield a table for people: per file what was found, then the pooled figures over all labelled files."""
    yield f"{'file':<28} {'rows':>6} {'alarms':>7} {'F1':>6} {'FAR %':>6} {'MAR %':>6}"
    total = np.zeros(4, int)
    for e in experiments:
        alarms = int((np.diff(e.alarm, prepend=0) == 1).sum())
        name = f"{e.path.parent.name}/{stem(e.path)}"
        figures = ""
        if e.label is not None:
            counts = e.confusion()
            total += counts
            figures = _figures(*counts)
        yield f"{name:<28} {len(e.times):>6} {alarms:>7} {figures}".rstrip()
    if total.any():
        yield f"{'all labelled files, pooled':<28} {int(total.sum()):>6} {'':>7} {_figures(*total.tolist())}"


def _figures(tp: int, fp: int, fn: int, tn: int) -> str:
    f1, far, mar = tp / max(tp + (fp + fn) / 2, 1e-9), 100 * fp / max(fp + tn, 1), 100 * fn / max(fn + tp, 1)
    return f"{f1:>6.3f} {far:>6.1f} {mar:>6.1f}"
