"""Labelled experiments: causal scores and alarms per row of CSV files, one asset a file, and the files' labels."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.columns import Array, Poll
from pipeline.errors import InputError
from pipeline.judge import ACTIVE
from pipeline.plant.csvfile import header, opened
from pipeline.plant.csvmap import CsvMap
from pipeline.plant.source import Retired
from pipeline.plant.tablerows import lack
from schemas import Assessment, AssetBirth

Item = AssetBirth | Retired | Poll
LABEL = "anomaly"
_ENDS = (".csv", ".csv.gz")


def labelled_files(data: Path) -> tuple[Path, ...]:
    """List FOLDER/NUMBER.csv and .csv.gz under `data`, by folder and number. Raises InputError if there are none."""
    found = [p for p in data.glob("*/*") if p.name.endswith(_ENDS)]
    if not found:
        here = any(p.name.endswith(_ENDS) for p in data.glob("*"))
        hint = f"; its files lie right in it: give the folder above, {data.resolve().parent}" if here else ""
        raise InputError(f"{data}: holds no FOLDER/NUMBER.csv or .csv.gz{hint}")
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
    with opened(path, csv_map.encoding) as (text, _):
        return lack(csv_map, header(csv.reader(text, delimiter=csv_map.separator)))


def _rows(path: Path, csv_map: CsvMap) -> Iterator[dict[str, str]]:
    with opened(path, csv_map.encoding) as (text, _):
        table = csv.reader(text, delimiter=csv_map.separator)
        names = header(table)
        for cells in filter(None, table):
            if len(cells) != len(names):
                raise InputError(f"{path}:{table.line_num}: {len(cells)} cells, the header has {len(names)} columns")
            yield dict(zip(names, cells, strict=True))


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
                experiment.alarm[rows] = state == ACTIVE

    def finish(self) -> None:
        """Raise InputError if two files shared an asset, so that their rows could not be told apart."""
        files = sum(1 for e in self.experiments if e.times)
        if files != len(self._by_asset):
            raise InputError(f"{files} files with rows became {len(self._by_asset)} assets; each needs a name of its "
                             "own (is 0.csv beside 0.csv.gz?)")
