"""Labelled experiments: causal scores and alarms per row of CSV files, one asset a file, and the files' labels."""

import csv
import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from pipeline.columns import Array, Poll
from pipeline.errors import InputError
from pipeline.judge import ACTIVE, UNKNOWN
from pipeline.plant.csvmap import CsvMap
from pipeline.plant.source import Retired
from schemas import Assessment, AssetBirth

Item = AssetBirth | Retired | Poll
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
    """One file. times: as written in it; seconds: the same, Unix. score: relative to the limit. alarm: 0 or 1.

    label: 0 or 1, None without labels. Rows that the flow gave no score (calibration) have score 0 and alarm 0.
    """

    path: Path
    times: list[str]
    seconds: Array
    label: Array | None = None
    score: Array = field(init=False)
    alarm: Array = field(init=False)

    def __post_init__(self) -> None:
        self.score, self.alarm = np.zeros(len(self.times)), np.zeros(len(self.times), np.int8)

    @property
    def name(self) -> str:
        """FOLDER/NUMBER."""
        return f"{self.path.parent.name}/{stem(self.path)}"

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
    """Read the times; the values go another way, through the flow. Raises InputError."""
    clock = csv_map.clock()
    times = [row[csv_map.time.column] for row in _rows(path, csv_map)]
    try:
        seconds = np.array([clock(time.strip()) for time in times], np.float64) / 1e9
    except ValueError as error:
        raise InputError(f"{path}: {error} in column {csv_map.time.column}") from error
    return Experiment(path, times, seconds)


def read_labels(experiment: Experiment, csv_map: CsvMap) -> None:
    """Give an experiment its labels, if its file has them: after the predictions, which must not depend on them."""
    cells = [row.get(LABEL) for row in _rows(experiment.path, csv_map)]
    if None in cells or not cells:
        return
    try:
        experiment.label = np.array([float(cell or "") for cell in cells]).astype(np.int8)
    except ValueError as error:
        raise InputError(f"{experiment.path}: column {LABEL}: {error}") from error


def foreign(path: Path, csv_map: CsvMap) -> str:
    """Say what keeps a file from being one of this map, by its header; "" if nothing does."""
    with _open(path, csv_map.encoding) as f:
        try:
            header = next(csv.reader(f, delimiter=csv_map.separator), [])
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
    names = {name.strip().removeprefix("\ufeff") for name in header}
    missing = [c for c in (csv_map.time.column, *(c.column for c in csv_map.channel)) if c not in names]
    return f"has no column {missing[0]!r}" if missing else ""


def _rows(path: Path, csv_map: CsvMap) -> Iterator[dict[str, str]]:
    with _open(path, csv_map.encoding) as f:
        try:
            yield from csv.DictReader(f, delimiter=csv_map.separator)
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error


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
                experiment.score[rows] = score / limit
                if state != UNKNOWN:  # an alert stands until a row that is known clears it
                    experiment.alarm[rows] = state == ACTIVE

    def finish(self) -> None:
        """Raise InputError if two files shared an asset, so that their rows could not be told apart."""
        files = sum(1 for e in self.experiments if e.times)
        if files != len(self._by_asset):
            raise InputError(f"{files} files with rows became {len(self._by_asset)} assets; each needs a name of its "
                             "own (is 0.csv beside 0.csv.gz?)")
