"""Labelled experiments: causal scores and alarms per row of CSV files, one asset a file, and the files' labels."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.columns import Array
from pipeline.errors import InputError
from pipeline.judge import ACTIVE
from pipeline.plant.csvfile import header, opened
from pipeline.plant.csvhistory import CsvHistory
from pipeline.plant.csvmap import CsvMap
from pipeline.plant.tablerows import lack
from schemas import Assessment, AssetBirth, TelemetryFrame

LABEL = "anomaly"
#: Why a row before the asset's baseline has no answer.
CALIBRATING = "calibrating"
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
    """One file. times: as written in it; seconds: the same, Unix. messages: its birth and frames. held: rows with gaps.

    score: relative to the limit, alarm: 0 or 1, why: there is no answer, "" if there is one; of each row. Without an
    answer the score is 0. baseline: what became of the calibration, "" if nothing. label: 0 or 1, None without labels.
    """

    path: Path
    times: list[str]
    seconds: Array
    messages: list[AssetBirth | TelemetryFrame]
    held: int = 0
    baseline: str = ""
    label: Array | None = None
    score: Array = field(init=False)
    alarm: Array = field(init=False)
    why: Array = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.times)
        self.score, self.alarm, self.why = np.zeros(n), np.zeros(n, np.int8), np.full(n, CALIBRATING, object)

    @property
    def name(self) -> str:
        """FOLDER/NUMBER."""
        return f"{self.path.parent.name}/{stem(self.path)}"

    @property
    def asset(self) -> str:
        """Return the asset that the file became, "" if it has no rows."""
        return self.messages[0].asset if self.messages else ""

    def take(self, a: Assessment) -> None:
        """Take rows: what one says holds from its frame on, until the next one."""
        birth = self.messages[0]
        assert isinstance(birth, AssetBirth)
        unknown = (a.answers.unknown if a.answers else None) or ("",) * len(a.seq)
        for seq, score, limit, state, why in zip(a.seq, a.score, a.limit, a.state, unknown, strict=True):
            rows = slice(seq * birth.samples_per_frame, None)
            self.score[rows] = 0.0 if why else score / limit
            self.alarm[rows], self.why[rows] = state == ACTIVE, why


def read_experiment(path: Path, csv_map: CsvMap) -> Experiment:
    """Read the rows, no label. Raises InputError."""
    clock, history = csv_map.clock(), CsvHistory(csv_map)
    messages = list(history.read([path]))
    times = [row[csv_map.time.column] for row in _rows(path, csv_map)]
    seconds = np.array([clock(time.strip()) for time in times], np.float64) / 1e9
    return Experiment(path, times, seconds, messages, history.report.held)


def read_labels(experiment: Experiment, csv_map: CsvMap) -> None:
    """Give an experiment its labels, if its file has them: after the predictions, which must not depend on them."""
    cells = [row.get(LABEL) for row in _rows(experiment.path, csv_map)]
    if None in cells or not any((cell or "").strip() for cell in cells):
        return
    try:
        label = np.array([float(cell or "") for cell in cells])
        if not np.isin(label, (0.0, 1.0)).all():
            raise ValueError("holds what is neither 0 nor 1")
        experiment.label = label.astype(np.int8)
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
