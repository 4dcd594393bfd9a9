"""CSV files, plain or .gz: the header looked up once, then a row of physical values a line."""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline.errors import InputError
from pipeline.plant.csvmap import CsvMap
from pipeline.plant.tablerows import ImportReport, LongRow, Progress, Row, namer, samples

_PROGRESS_ROWS = 512  # how often a reader of many rows reports; a file of 1 Hz for a day reports 170 times


class _Table(Protocol):
    """What csv.reader returns."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...


@dataclass(slots=True)
class CsvFile:
    """One file. Iterating raises InputError with file:line."""

    csv_map: CsvMap
    path: Path

    def place(self, line: int) -> str:
        return f"{self.path}:{line}"

    def rows(self, progress: Progress, report: ImportReport) -> Iterator[Row]:
        """Yield the rows, with NaN where a cell is empty."""
        line = 0
        try:
            with self.path.open("rb") as raw, _text(raw, self.path, self.csv_map.encoding) as text:
                table = csv.reader(text, delimiter=self.csv_map.separator)
                header = next(table, None)
                line = table.line_num
                if header is None:
                    raise InputError(f"{self.path}: is empty; a header with the columns' names is needed")
                columns = self._columns(header)

                def tick() -> None:
                    progress(self.path, raw.tell())

                if self.csv_map.long is None:
                    yield from self._wide(table, columns, report, tick)
                else:
                    yield from samples(self.csv_map, self._long(table, columns, report, tick), self.place, report)
                tick()
        except OSError as error:  # gzip.BadGzipFile is one
            raise InputError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        except (EOFError, zlib.error) as error:
            raise InputError(f"{self.path}: the compressed data is damaged: {error}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self.path}:{line + 1} or after: is no {self.csv_map.encoding} CSV: {error}") from error

    def _columns(self, header: list[str]) -> list[int]:
        """Return where the map's columns are, then how many there are."""
        names = [name.strip().removeprefix("\ufeff") for name in header]
        missing = [w for w in self.csv_map.columns if names.count(w) != 1]
        if missing:
            raise InputError(
                f"{self.path}:1: column {missing[0]!r} is there {names.count(missing[0])} times, the map wants it "
                f"once. Columns with separator {self.csv_map.separator!r}: {', '.join(names)[:400]}"
            )
        return [*map(names.index, self.csv_map.columns), len(names)]

    def _wide(self, table: _Table, columns: list[int], report: ImportReport, tick: Callable[[], None]) -> Iterator[Row]:
        at = columns[-1 - len(self.csv_map.channel):-1]
        for line, asset, t_ns, cells in self._lines(table, columns, report, tick):
            yield line, asset, t_ns, [self._number(cells[i], line, i) for i in at]

    def _long(
        self, table: _Table, columns: list[int], report: ImportReport, tick: Callable[[], None]
    ) -> Iterator[LongRow]:
        name, value = columns[-3], columns[-2]
        for line, asset, t_ns, cells in self._lines(table, columns, report, tick):
            yield line, asset, t_ns, cells[name].strip(), self._number(cells[value], line, value)

    def _lines(
        self, table: _Table, columns: list[int], report: ImportReport, tick: Callable[[], None]
    ) -> Iterator[tuple[int, str, int, list[str]]]:
        clock, t_at, a_at, width = self.csv_map.clock(), columns[0], columns[1], columns[-1]
        rule, whole = self.csv_map.asset, namer(self.csv_map, self.path)
        for cells in table:
            if not cells:
                continue
            line = table.line_num
            if len(cells) != width:
                raise InputError(f"{self.path}:{line}: {len(cells)} cells, the header has {width} columns")
            report.rows += 1
            if report.rows % _PROGRESS_ROWS == 0:
                tick()
            try:
                t_ns = clock(cells[t_at].strip())
            except ValueError as error:
                form = self.csv_map.time.format
                raise InputError(f"{self.path}:{line}: {cells[t_at]!r} is no time of format {form!r}") from error
            if t_ns < 0:
                raise InputError(f"{self.path}:{line}: {cells[t_at]!r} is before 1970")
            yield line, rule.name.format(value=cells[a_at].strip()) if whole is None else whole, t_ns, cells

    def _number(self, cell: str, line: int, column: int) -> float:
        cell = cell.strip()
        if self.csv_map.decimal == ",":
            cell = cell.replace(".", "").replace(",", ".")
        try:
            return float(cell) if cell else math.nan
        except ValueError as error:
            raise InputError(f"{self.path}:{line}: column {column + 1}: {cell!r} is no number") from error


def _text(raw: BinaryIO, path: Path, encoding: str) -> io.TextIOWrapper:
    data: BinaryIO = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw  # type: ignore[assignment]
    return io.TextIOWrapper(data, encoding=encoding, newline="")
