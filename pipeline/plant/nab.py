"""NAB (Numenta Anomaly Benchmark): series of one value, here of real machines, at 5 min or an hour.

A folder holds NAME.csv or FOLDER/NAME.csv, or .csv.gz of them, with timestamp and value, and labels.json, which is read
by `windows` alone, after the last prediction. Times have no zone and count as UTC; where a clock went back, the samples
go on in the order of the file. Source: Ahmad et al. 2017, doi 10.1016/j.neucom.2017.04.070.
"""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from engines.base import Array
from pipeline.errors import InputError
from pipeline.plant.csvfile import opened
from schemas import AssetBirth, TelemetryFrame

ASSET_CLASS = "slow-process"
_SUFFIXES = (".csv", ".csv.gz")


@dataclass(frozen=True, slots=True)
class Series:
    """One series. t_ns: (n,) Unix ns in the order of the file. value: (n,). step_s: usual distance of its samples."""

    name: str
    path: Path
    t_ns: Array
    value: Array
    step_s: float


def files(data: Path) -> tuple[Path, ...]:
    """List the series in `data` and in its folders, by name. Raises InputError if there are none."""
    found = sorted(p for pattern in ("*", "*/*") for p in data.glob(pattern) if p.name.endswith(_SUFFIXES))
    if not found:
        raise InputError(f"{data}: holds no NAME.csv, FOLDER/NAME.csv or .csv.gz of them")
    return tuple(found)


def name_of(path: Path) -> str:
    """Return FOLDER/NAME, as the labels have it."""
    return f"{path.parent.name}/{path.name.removesuffix('.gz').removesuffix('.csv')}"


def asset_of(name: str) -> str:
    """Return the asset that a series becomes."""
    return f"nab/{name}"


def read(path: Path) -> Series:
    """Read a series; rows without a finite value are left out. Raises InputError."""
    times, values = [], []
    try:
        with opened(path) as (text, _):
            for row in csv.DictReader(text):
                value = float(row["value"]) if row["value"].strip() else math.nan
                if math.isfinite(value):
                    times.append(_time_ns(row["timestamp"]))
                    values.append(value)
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: is no table of timestamp,value: {error}") from error
    if len(times) < 2:
        raise InputError(f"{path}: {len(times)} values; a series has at least two")
    t_ns = np.array(times, np.int64)
    return Series(name_of(path), path, t_ns, np.array(values), float(np.median(np.diff(t_ns))) / 1e9)


def series_messages(series: Series) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield the birth and the samples of a series, a frame each."""
    birth = AssetBirth.make(
        asset=asset_of(series.name), start_ns=int(series.t_ns[0]), rate_hz=1.0 / max(series.step_s, 1e-3),
        samples_per_frame=1, channels=[{"name": "value", "quantity": "value", "unit": "1", "dtype": "f8"}],
        asset_class=ASSET_CLASS, site="nab",
    )  # fmt: skip
    yield birth
    for i, (t_ns, value) in enumerate(zip(series.t_ns.tolist(), series.value.astype("<f8"), strict=True)):
        yield TelemetryFrame(birth.asset, birth.birth_id, i, t_ns, value.tobytes())


def messages(data: Path) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield the birth and the samples of every series under `data`. Raises InputError."""
    for path in files(data):
        yield from series_messages(read(path))


def windows(data: Path) -> dict[str, list[tuple[int, int]]]:
    """Return the labelled stretches of each series, Unix ns, first to last; empty without labels.json."""
    path = data / "labels.json"
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_bytes())
        return {name: [(_time_ns(a), _time_ns(b)) for a, b in entry["windows"]] for name, entry in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: are no labels of NAB: {error}") from error


def _time_ns(text: str) -> int:
    at = datetime.fromisoformat(text)
    whole = at.replace(microsecond=0, tzinfo=UTC)
    return int(whole.timestamp()) * 10**9 + at.microsecond * 1000
