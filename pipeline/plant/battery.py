"""NASA's Li-ion ageing data: cells charged and discharged until they held 30 % less than their rated 2 Ah.

A folder holds CELL_discharge.csv or .csv.gz: samples of discharges, of which cycle_num, Time [s], Current_measured [A],
Voltage_measured [V] and, once, cycle_time_start are read. What a battery management system reports is computed from
them: the charge drawn until the cell fell to 2.7 V, by trapezoids over current and time, over the rated capacity. The
column Capacity is never read. A frame is one discharge: cycle number and state of health.
Source: Saha and Goebel 2007, NASA Prognostics Data Repository, data set 5. US government work.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from engines.base import Array
from pipeline.errors import InputError
from pipeline.plant.csvfile import opened
from schemas import AssetBirth, TelemetryFrame

ASSET_CLASS = "battery-cell"
RATED_AH = 2.0
#: Down to this voltage the repository counts the capacity, whatever a cell's own cut-off.
CUT_OFF_V = 2.7
#: Discharges are so far apart here, whatever the rests between them: a rest of weeks would begin a new window.
EVERY_S = 6 * 3600.0
_COLUMNS = ("cycle_num", "cycle_time_start", "Time", "Current_measured", "Voltage_measured")
_SUFFIXES = ("_discharge.csv", "_discharge.csv.gz")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's discharges in order. cycle, capacity_ah: (n,). start_ns: of the first one, Unix ns."""

    name: str
    path: Path
    cycle: Array
    capacity_ah: Array
    start_ns: int

    def rows(self) -> Array:
        """Return (n, 2) of cycle and state of health, as frames carry them."""
        return np.stack([self.cycle, self.capacity_ah / RATED_AH], axis=1).astype(np.float32)


def files(data: Path) -> tuple[Path, ...]:
    """List the cells' files in `data` by name. Raises InputError if there are none."""
    found = sorted(p for p in data.iterdir() if p.name.endswith(_SUFFIXES))
    if not found:
        raise InputError(f"{data}: holds no CELL_discharge.csv or .csv.gz")
    return tuple(found)


def read(path: Path) -> Cell:
    """Read a cell. Discharges with fewer than two samples, or a number missing, are left out. Raises InputError."""
    samples: dict[int, list[tuple[float, float, float]]] = {}
    start = ""
    try:
        with opened(path) as (text, _):
            table = csv.DictReader(text)
            missing = [c for c in _COLUMNS if c not in (table.fieldnames or ())]
            if missing:
                raise InputError(f"{path}:1: has no column {', '.join(missing)}")
            for row in table:
                if any(row[c] is None for c in _COLUMNS):
                    raise InputError(f"{path}:{table.line_num}: the line ends early")
                start = start or row["cycle_time_start"]
                numbers = (_number(row["Time"]), _number(row["Current_measured"]), _number(row["Voltage_measured"]))
                samples.setdefault(int(float(row["cycle_num"])), []).append(numbers)
        at = datetime.fromisoformat(start).replace(tzinfo=UTC)
    except ValueError as error:
        raise InputError(f"{path}: is no table of discharges: {error}") from error
    found = {cycle: capacity(np.array(rows)) for cycle, rows in sorted(samples.items())}
    whole = {cycle: ah for cycle, ah in found.items() if np.isfinite(ah)}
    name = path.name.split("_discharge.csv")[0]
    return Cell(name, path, np.array([*whole], float), np.array([*whole.values()]), int(at.timestamp()) * 10**9)


def capacity(samples: Array) -> float:
    """Return the charge in Ah drawn by one discharge, (n, 3) of s, A (negative) and V; NaN if a number is missing."""
    if len(samples) < 2 or not np.isfinite(samples).all():
        return float("nan")
    t, amps, volts = samples.T
    drawn = np.concatenate([[0.0], np.cumsum(-(amps[1:] + amps[:-1]) / 2 * np.diff(t))]) / 3600.0
    empty = np.flatnonzero((volts <= CUT_OFF_V) & (amps < -0.1))
    return float(drawn[empty[0]] if len(empty) else drawn[-1])


def _number(text: str) -> float:
    return float(text) if text.strip() else float("nan")


def asset_of(name: str) -> str:
    """Return the asset that a cell becomes."""
    return f"battery/{name}"


def cell_messages(cell: Cell) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield the birth and the discharges of one cell."""
    birth = AssetBirth.make(
        asset=asset_of(cell.name), start_ns=cell.start_ns, rate_hz=1.0 / EVERY_S, samples_per_frame=1,
        channels=[{"name": "cycle", "quantity": "discharge cycles", "unit": "1"},
                  {"name": "soh", "quantity": "state of health", "unit": "1"}],
        asset_class=ASSET_CLASS, site="nasa",
    )  # fmt: skip
    yield birth
    for i, row in enumerate(cell.rows().astype("<f4")):
        at = cell.start_ns + round((float(row[0]) - float(cell.cycle[0])) * EVERY_S * 1e9)
        yield TelemetryFrame(birth.asset, birth.birth_id, i, at, row.tobytes())


def messages(data: Path) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield the birth and the discharges of every cell in `data`. Raises InputError."""
    for path in files(data):
        yield from cell_messages(read(path))
