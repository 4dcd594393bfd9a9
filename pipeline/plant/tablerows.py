"""Table rows: what every reader of tables gives, whatever the file's format, and what becomes of gaps in them."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import InputError
from pipeline.plant.csvmap import CsvMap

#: Called with a file and the bytes of it that are read.
Progress = Callable[[Path, int], None]

#: Number of the row in its file, asset, time in Unix ns, and one value a channel, or name and value in a long table.
#: NaN: there is none.
Row = tuple[int, str, int, list[float]]
LongRow = tuple[int, str, int, str, float]


@dataclass(slots=True)
class ImportReport:
    """What became of the rows. left_over: rows at an asset's end that did not fill a frame.

    outside: per channel, values outside of the measuring range that the map gives. foreign: rows of a long table whose
    name is none of the map's.
    """

    files: int = 0
    rows: int = 0
    frames: int = 0
    assets: int = 0
    skipped: int = 0
    held: int = 0
    left_over: int = 0
    foreign: int = 0
    outside: dict[str, int] = field(default_factory=dict)

    def notes(self) -> Iterator[str]:
        """Yield what a person should know of, one line each."""
        for count, what in (
            (self.left_over, "rows at the end of an asset did not fill a frame"),
            (self.skipped, "rows with missing cells skipped"),
            (self.held, "rows with missing cells filled with the last value"),
            (self.foreign, "rows of signals that the map does not name left out"),
        ):
            if count:
                yield f"{count} {what}"
        for channel, count in self.outside.items():
            yield f"{count} values of {channel} are outside of its measuring range in the map: is its unit right?"


def lack(csv_map: CsvMap, names: Sequence[str]) -> str:
    """Say which column of a map a table with columns `names` has not, or has more than once; "" if it fits."""
    for column in csv_map.columns:
        if (count := names.count(column)) != 1:
            return f"has {count} columns {column!r}, the map wants one" if count else f"has no column {column!r}"
    return ""


def namer(csv_map: CsvMap, path: Path) -> str | None:
    """Return the asset that a whole file belongs to, None if a column tells. Raises InputError."""
    rule = csv_map.asset
    if rule.column is not None:
        return None
    found = re.search(rule.file or "", path.as_posix())
    if found is None:
        raise InputError(f"{path}: the map's [asset] file pattern {rule.file!r} does not match this path")
    return rule.name.format(**found.groupdict(""))


def samples(
    csv_map: CsvMap, rows: Iterable[LongRow], place: Callable[[int], str], report: ImportReport
) -> Iterator[Row]:
    """Put rows of a long table together: those of one asset and one time that follow each other are one sample.

    place: says in words where a row is. Raises InputError for a signal that is there twice at one time.
    """
    at = {c.column: k for k, c in enumerate(csv_map.channel)}
    open_: dict[str, Row] = {}
    for line, asset, t_ns, name, value in rows:
        k = at.get(name)
        if k is None:
            report.foreign += 1
            continue
        row = open_.get(asset)
        if row is not None and row[2] != t_ns:
            yield row
            row = None
        if row is None:
            row = open_[asset] = (line, asset, t_ns, [math.nan] * len(at))
        elif not math.isnan(row[3][k]):
            raise InputError(f"{place(line)}: {name!r} of {asset} is there twice at one time; keep one of the rows")
        row[3][k] = value
    yield from open_.values()


def complete(csv_map: CsvMap, rows: Iterable[Row], place: Callable[[int], str], report: ImportReport) -> Iterator[Row]:
    """Pass rows on without gaps: refused, left out or filled as the map says. Raises InputError with the column."""
    last: dict[str, list[float]] = {}
    limits = [(k, c.name, -math.inf if c.low is None else c.low, math.inf if c.high is None else c.high)
              for k, c in enumerate(csv_map.channel) if c.low is not None or c.high is not None]
    for line, asset, t_ns, values in rows:
        if not all(map(math.isfinite, values)):
            if csv_map.missing == "skip":
                report.skipped += 1
                continue
            values = _held(csv_map, values, last.get(asset), place(line))
            report.held += 1
        for k, name, low, high in limits:
            if not low <= values[k] <= high:
                report.outside[name] = report.outside.get(name, 0) + 1
        last[asset] = values
        yield line, asset, t_ns, values


def _held(csv_map: CsvMap, values: list[float], last: list[float] | None, where: str) -> list[float]:
    gaps = [c.column for c, v in zip(csv_map.channel, values, strict=True) if not math.isfinite(v)]
    if csv_map.missing == "error" or last is None:
        hint = "is empty or not finite; missing = \"skip\" or \"hold\" in the map goes on without it"
        first = " and has no value before it" if csv_map.missing == "hold" else ""
        raise InputError(f"{where}: {gaps[0]} {hint}{first}")
    return [v if math.isfinite(v) else was for v, was in zip(values, last, strict=True)]
