"""Read NASA's turbofan data, C-MAPSS: histories of simulated engines, one sample a flight.

Files train_FD00k.txt, test_FD00k.txt, RUL_FD00k.txt (or .txt.gz): 26 numbers a row, unit, cycle, 3 settings and 21
sensors. Engines of `train` run to failure. Those of `test` stop before, and RUL has what was left, one number a unit.
Source: Saxena, Goebel, Simon, Eklund, PHM 2008, doi 10.1109/PHM.2008.4711414. US government work.
"""

import gzip
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.recipes.rul_state import History
from pipeline.errors import InputError

SUBSETS = ("FD001", "FD002", "FD003", "FD004")
_WIDTH = 26
#: Columns of CHANNELS: the cycle, the settings, and sensors 2 3 4 7 8 9 11 12 13 14 15 17 20 21.
_COLUMNS = (1, 2, 3, 4, *(4 + sensor for sensor in (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)))


def subsets_in(data: Path) -> tuple[str, ...]:
    """List the subsets whose test file is in `data`."""
    return tuple(s for s in SUBSETS if _find(data, f"test_{s}.txt") is not None)


def train(data: Path, subsets: Iterable[str] = SUBSETS) -> list[History]:
    """Return the engines that ran to failure. Raises InputError for a missing or broken file."""
    return [History(f"train {s}/{u}", rows, s, 0.0) for s in subsets for u, rows in _units(data, f"train_{s}.txt")]


def test(data: Path, subsets: Iterable[str] = SUBSETS, labels: bool = False) -> list[History]:
    """Return the engines that stop early; labels: with what was left, else the label files are not opened.

    Raises InputError for a missing or broken file.
    """
    found = []
    for subset in subsets:
        units = _units(data, f"test_{subset}.txt")
        left: list[float] | list[None] = [None] * len(units)
        if labels:
            left = _numbers(data, f"RUL_{subset}.txt").tolist()
            if len(left) != len(units):
                raise InputError(f"{data}: RUL_{subset}.txt has {len(left)} numbers for {len(units)} units")
        found += [History(f"test {subset}/{u}", rows, subset, n) for (u, rows), n in zip(units, left, strict=True)]
    return found


def unit_of(history: History) -> int:
    """Return the unit number within its subset."""
    return int(history.name.rsplit("/", 1)[1])


def _units(data: Path, name: str) -> list[tuple[int, NDArray[np.float64]]]:
    numbers = _numbers(data, name)
    if len(numbers) % _WIDTH or not len(numbers):
        want = f"rows of {_WIDTH}: unit, cycle, 3 settings, 21 sensors"
        raise InputError(f"{data / name}: {len(numbers)} numbers, want {want}")
    table = numbers.reshape(-1, _WIDTH)
    found = []
    for unit in np.unique(table[:, 0]):
        rows = table[table[:, 0] == unit]
        if (np.diff(rows[:, 1]) <= 0).any():
            raise InputError(f"{data / name}: the cycles of unit {unit:g} do not rise; sort the file by unit and cycle")
        found.append((int(unit), np.ascontiguousarray(rows[:, _COLUMNS])))
    return found


def _numbers(data: Path, name: str) -> NDArray[np.float64]:
    path = _find(data, name)
    if path is None:
        raise InputError(f"{data}: holds no {name} or {name}.gz")
    raw = path.read_bytes()
    try:
        return np.array((gzip.decompress(raw) if path.suffix == ".gz" else raw).split(), np.float64)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a table of numbers: {error}") from error


def _find(data: Path, name: str) -> Path | None:
    return next((p for p in (data / name, data / f"{name}.gz") if p.is_file()), None)
