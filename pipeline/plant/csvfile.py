"""CSV files, plain or .gz: the header looked up once, then a row of physical values a line."""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TextIO

from pipeline.errors import InputError
from pipeline.plant.csvmap import CsvMap
from pipeline.plant.tablerows import ImportReport, LongRow, Progress, Row, lack, namer, samples

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
        with opened(self.path, self.csv_map.encoding) as (text, tell):
            table = csv.reader(text, delimiter=self.csv_map.separator)
            columns = self._columns(header(table))

            def tick() -> None:
                progress(self.path, tell())

            if self.csv_map.long is None:
                yield from self._wide(table, columns, report, tick)
            else:
                yield from samples(self.csv_map, self._long(table, columns, report, tick), self.place, report)
            tick()

    def _columns(self, names: list[str]) -> list[int]:
        """Return where the map's columns are, then how many there are."""
        if not names:
            raise InputError(f"{self.path}: is empty; a header with the columns' names is needed")
        if lacking := lack(self.csv_map, names):
            raise InputError(f"{self.path}:1: {lacking}. Columns with separator {self.csv_map.separator!r}: "
                             f"{', '.join(names)[:400]}")
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


def header(table: _Table) -> list[str]:
    """Return the columns' names, the first row of a table that nothing was read of yet; none if it is empty."""
    return [name.strip().removeprefix("\ufeff") for name in next(iter(table), [])]


@contextmanager
def opened(path: Path, encoding: str = "utf-8") -> Iterator[tuple[TextIO, Callable[[], int]]]:
    """Open a CSV file, plain or .gz; also gives how many of its bytes are read. Raises InputError, in the block too."""
    try:
        with path.open("rb") as raw:
            data: BinaryIO = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw  # type: ignore[assignment]
            with io.TextIOWrapper(data, encoding=encoding, newline="") as text:
                yield text, raw.tell
    except OSError as error:  # gzip.BadGzipFile is one
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: the compressed data is damaged: {error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no {encoding} CSV: {error}") from error
