"""CSV history: files read by a map, as births and frames in the order of the rows."""

import csv
import gzip
import io
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from pipeline.errors import InputError
from pipeline.plant.csvmap import ChannelRule, CsvMap
from schemas import AssetBirth, TelemetryFrame

#: Called with a file and the bytes of it that are read.
Progress = Callable[[Path, int], None]
_CODES = {"f4": "f", "f8": "d", "i2": "h", "i4": "i", "u1": "B", "u2": "H"}  # of `struct`
_PROGRESS_ROWS = 512  # how often a reader of many rows reports; a file of 1 Hz for a day reports 170 times


@dataclass(slots=True)
class ImportReport:
    """What became of the rows. left_over: rows at an asset's end that did not fill a frame."""

    files: int = 0
    rows: int = 0
    frames: int = 0
    assets: int = 0
    skipped: int = 0
    held: int = 0
    left_over: int = 0


@dataclass(slots=True)
class _Asset:
    """The rows of an asset that wait for their frame to be full."""

    birth: AssetBirth
    seq: int = 0
    last_ns: int = 0
    t0_ns: int = 0
    rows: list[list[float]] = field(default_factory=list)


@dataclass(slots=True)
class CsvHistory:
    """Iterate over the births and frames of CSV files; an asset's birth comes right before its first frame.

    An asset may go on in a later file: its frames then continue under one birth. t0 of each frame is the time of its
    first row, so gaps stay as they are; a gap does not start a new frame. progress: called with the bytes read of a
    file. Iterating raises InputError with file:line.
    """

    csv_map: CsvMap
    historical: bool = False
    progress: Progress = lambda path, position: None
    report: ImportReport = field(default_factory=ImportReport)
    _assets: dict[str, _Asset] = field(default_factory=dict)

    def read(self, files: Iterable[Path]) -> Iterator[AssetBirth | TelemetryFrame]:
        """Yield the births and frames of the files, in the order given."""
        for path in files:
            reader = _FileReader(self.csv_map, path)
            for line, asset, t_ns, row in reader.rows(self.progress, self.report):
                yield from self._add(path, line, asset, t_ns, row)
            self.report.files += 1
        self.report.left_over = sum(len(a.rows) for a in self._assets.values())

    def _add(
        self, path: Path, line: int, name: str, t_ns: int, row: list[float]
    ) -> Iterator[AssetBirth | TelemetryFrame]:
        asset = self._assets.get(name)
        if asset is None:
            try:
                birth = self.csv_map.birth_of(name, t_ns)
            except msgspec.ValidationError as error:
                raise InputError(f"{path}:{line}: asset {name!r}: {error}") from error
            asset = self._assets[name] = _Asset(birth)
            self.report.assets += 1
            yield birth
        elif t_ns < asset.last_ns and self.csv_map.time.order == "strict":
            back = (asset.last_ns - t_ns) / 1e9
            raise InputError(
                f"{path}:{line}: the time of {name} goes back by {back:g} s (end of summer time, files out of order?). "
                "Sort the rows, give a zone without summer time, or keep them as they are: order = \"any\" in [time]"
            )
        asset.last_ns = t_ns
        if not asset.rows:
            asset.t0_ns = t_ns
        asset.rows.append(row)
        if len(asset.rows) == asset.birth.samples_per_frame:
            yield self._frame(path, line, asset)

    def _frame(self, path: Path, line: int, asset: _Asset) -> TelemetryFrame:
        flat = [x for channel in zip(*asset.rows, strict=True) for x in channel]  # C order: channel, sample
        data = _pack(self.csv_map.channel, flat, len(asset.rows), f"{path}:{line}")
        frame = TelemetryFrame(
            asset.birth.asset, asset.birth.birth_id, asset.seq, asset.t0_ns, data, historical=self.historical,
        )
        asset.rows.clear()
        asset.seq += 1
        self.report.frames += 1
        return frame


class _Table(Protocol):
    """What csv.reader returns."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...


@dataclass(slots=True)
class _FileReader:
    """One file: its header looked up once, then rows of physical values."""

    csv_map: CsvMap
    path: Path

    def rows(
        self, progress: Progress, report: ImportReport
    ) -> Iterator[tuple[int, str, int, list[float]]]:
        """Yield (line, asset, time in ns, values) of each usable row."""
        line = 0
        try:
            with self.path.open("rb") as raw, _text(raw, self.path, self.csv_map.encoding) as text:
                table = csv.reader(text, delimiter=self.csv_map.separator)
                header = next(table, None)
                line = table.line_num
                if header is None:
                    raise InputError(f"{self.path}: is empty; a header with the columns' names is needed")
                yield from self._body(table, self._columns(header), report, lambda: progress(self.path, raw.tell()))
                progress(self.path, raw.tell())
        except OSError as error:  # gzip.BadGzipFile is one
            raise InputError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        except (EOFError, zlib.error) as error:
            raise InputError(f"{self.path}: the compressed data is damaged: {error}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self.path}:{line + 1} or after: is no {self.csv_map.encoding} CSV: {error}") from error

    def _columns(self, header: list[str]) -> dict[str, int]:
        names = [name.strip().removeprefix("\ufeff") for name in header]
        asset = self.csv_map.asset.column
        wanted = [self.csv_map.time.column, *((asset,) if asset else ()), *(c.column for c in self.csv_map.channel)]
        missing = [w for w in wanted if names.count(w) != 1]
        if missing:
            raise InputError(
                f"{self.path}:1: column {missing[0]!r} is there {names.count(missing[0])} times, the map wants it "
                f"once. Columns with separator {self.csv_map.separator!r}: {', '.join(names)[:400]}"
            )
        return {w: names.index(w) for w in wanted} | {"": len(names)}

    def _body(
        self, table: "_Table", columns: dict[str, int], report: ImportReport, tick: Callable[[], None]
    ) -> Iterator[tuple[int, str, int, list[float]]]:
        width = columns[""]
        at = [columns[c.column] for c in self.csv_map.channel]
        clock, t_at = self.csv_map.clock(), columns[self.csv_map.time.column]
        name_of = self._namer(columns)
        last: dict[str, list[float]] = {}
        for cells in table:
            if not cells:
                continue
            line = table.line_num
            if len(cells) != width:
                raise InputError(f"{self.path}:{line}: {len(cells)} cells, the header has {width} columns")
            report.rows += 1
            if report.rows % _PROGRESS_ROWS == 0:
                tick()
            asset = name_of(cells)
            try:
                t_ns = clock(cells[t_at].strip())
            except ValueError as error:
                form = self.csv_map.time.format
                raise InputError(f"{self.path}:{line}: {cells[t_at]!r} is no time of format {form!r}") from error
            if t_ns < 0:
                raise InputError(f"{self.path}:{line}: {cells[t_at]!r} is before 1970")
            values = [self._number(cells[i], line, i) for i in at]
            if not all(map(math.isfinite, values)):
                if self.csv_map.missing == "skip":
                    report.skipped += 1
                    continue
                values = self._held(values, last.get(asset), line)
                report.held += 1
            last[asset] = values
            yield line, asset, t_ns, values

    def _namer(self, columns: dict[str, int]) -> Callable[[list[str]], str]:
        rule = self.csv_map.asset
        if rule.column is not None:
            at = columns[rule.column]
            return lambda cells: rule.name.format(value=cells[at].strip())
        found = re.search(rule.file or "", self.path.as_posix())
        if found is None:
            raise InputError(f"{self.path}: the map's [asset] file pattern {rule.file!r} does not match this path")
        name = rule.name.format(**found.groupdict(""))
        return lambda cells: name

    def _number(self, cell: str, line: int, column: int) -> float:
        cell = cell.strip()
        if self.csv_map.decimal == ",":
            cell = cell.replace(".", "").replace(",", ".")
        try:
            return float(cell) if cell else math.nan
        except ValueError as error:
            raise InputError(f"{self.path}:{line}: column {column + 1}: {cell!r} is no number") from error

    def _held(self, values: list[float], last: list[float] | None, line: int) -> list[float]:
        gaps = [c.column for c, v in zip(self.csv_map.channel, values, strict=True) if not math.isfinite(v)]
        if self.csv_map.missing == "error" or last is None:
            hint = "is empty or not finite; missing = \"skip\" or \"hold\" in the map goes on without it"
            first = " and has no value before it" if self.csv_map.missing == "hold" else ""
            raise InputError(f"{self.path}:{line}: {gaps[0]} {hint}{first}")
        return [v if math.isfinite(v) else was for v, was in zip(values, last, strict=True)]


def _text(raw: BinaryIO, path: Path, encoding: str) -> io.TextIOWrapper:
    data: BinaryIO = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw  # type: ignore[assignment]
    return io.TextIOWrapper(data, encoding=encoding, newline="")


def _pack(channels: tuple[ChannelRule, ...], flat: list[float], samples: int, where: str) -> bytes:
    """Lay physical values out as the birth says: little-endian, raw = (value - offset) / scale."""
    parts = []
    for k, c in enumerate(channels):
        values: list[float] = flat[k * samples:(k + 1) * samples]
        if c.scale != 1.0 or c.offset != 0.0:
            values = [(v - c.offset) / c.scale for v in values]
        raw = values if c.dtype[0] == "f" else [round(v) for v in values]
        try:
            parts.append(struct.pack(f"<{samples}{_CODES[c.dtype]}", *raw))
        except (struct.error, OverflowError) as error:
            span = f"{min(raw)} .. {max(raw)}"
            raise InputError(f"{where}: {c.column}: {span} does not fit {c.dtype} as the map scales it") from error
    return b"".join(parts)
