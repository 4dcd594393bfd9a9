"""Parquet files, by the same maps as CSV. Needs pyarrow, the extra `parquet`; only this module imports it.

Times may be timestamps (with their own zone, else the map's), or numbers or text in the map's format. Values may be
integers, floats, decimals or booleans; null is a gap. A column whose metadata has a `unit` must have the map's.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.plant.csvmap import CsvMap
from pipeline.plant.tablerows import ImportReport, LongRow, Progress, Row, lack, namer, samples

if TYPE_CHECKING:
    import pyarrow

#: Rows decoded together: some MB for the widest table, and few enough that the first frame comes at once.
_BATCH_ROWS = 16_384


@dataclass(slots=True)
class ParquetFile:
    """One file. Iterating raises InputError with file and row, the first row being 1."""

    csv_map: CsvMap
    path: Path

    def place(self, row: int) -> str:
        return f"{self.path}: row {row}"

    def rows(self, progress: Progress, report: ImportReport) -> Iterator[Row]:
        """Yield the rows, with NaN where a cell is null."""
        if self.csv_map.long is None:
            yield from self._wide(progress, report)
        else:
            yield from samples(self.csv_map, self._long(progress, report), self.place, report)

    def _wide(self, progress: Progress, report: ImportReport) -> Iterator[Row]:
        for first, assets, times, table in self._batches(progress, report):
            values = [self._numbers(table, c.column, first) for c in self.csv_map.channel]
            for row, asset, t_ns, *cells in zip(count(first), assets, times, *values):
                yield row, asset, t_ns, cells

    def _long(self, progress: Progress, report: ImportReport) -> Iterator[LongRow]:
        rule = self.csv_map.long
        assert rule is not None
        for first, assets, times, table in self._batches(progress, report):
            names, values = map(str, table[rule.name].to_pylist()), self._numbers(table, rule.value, first)
            yield from zip(count(first), assets, times, names, values)

    def _batches(
        self, progress: Progress, report: ImportReport
    ) -> Iterator[tuple[int, list[str], list[int], "pyarrow.RecordBatch"]]:
        """Yield number of the first row, asset and time of each row, and the columns."""
        parquet, done = _pyarrow(self.path), 0
        with self._named(), parquet.ParquetFile(self.path) as file:
            whole, size = namer(self.csv_map, self.path), self.path.stat().st_size
            self._check(file.schema_arrow)
            total = max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(self.csv_map.columns))):
                table = batch
                times = self._times(table[self.csv_map.time.column], done + 1)
                assets = [whole] * len(times) if whole is not None else self._assets(table, done + 1)
                report.rows += len(times)
                yield done + 1, assets, times, table
                done += len(times)
                progress(self.path, size * done // total)

    @contextmanager
    def _named(self) -> Iterator[None]:
        import pyarrow

        try:
            yield
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{self.path}: cannot be read as Parquet: {getattr(error, 'strerror', '') or error}"
                             ) from error

    def _check(self, schema: "pyarrow.Schema") -> None:
        if lacking := lack(self.csv_map, schema.names):
            raise InputError(f"{self.path}: {lacking}. Columns: {', '.join(schema.names)[:400]}")
        for channel in self.csv_map.channel if self.csv_map.long is None else ():
            said = (schema.field(channel.column).metadata or {}).get(b"unit", channel.unit.encode())
            unit = said.decode("utf-8", "replace")
            if unit != channel.unit:
                raise InputError(f"{self.path}: the unit of column {channel.column!r} is {unit!r} by its metadata, the "
                                 f"map says {channel.unit!r}; correct the map, or convert the column")

    def _assets(self, table: "pyarrow.RecordBatch", first: int) -> list[str]:
        cells = table[self.csv_map.asset.column].to_pylist()
        if None in cells:
            raise InputError(f"{self.place(first + cells.index(None))}: {self.csv_map.asset.column} names no asset")
        return [self.csv_map.asset.name.format(value=cell) for cell in cells]

    def _times(self, column: "pyarrow.Array", first: int) -> list[int]:
        """Return Unix ns of each row."""
        if column.null_count:
            raise InputError(f"{self.place(first + column.is_null().to_pylist().index(True))}: has no time")
        times = self._stamps(column) if _is_timestamp(column) else self._read(column.to_pylist(), first)
        if min(times, default=0) < 0:
            row = next(i for i, t in enumerate(times) if t < 0)
            raise InputError(f"{self.place(first + row)}: {column[row]} is before 1970; is the format in [time] right?")
        return times

    def _stamps(self, column: "pyarrow.Array") -> list[int]:
        import pyarrow
        from pyarrow import compute

        if column.type.tz is None:
            # As datetime does for CSV: of an hour that a clock shows twice, the first.
            column = compute.assume_timezone(column, self.csv_map.time.zone, ambiguous="earliest",
                                             nonexistent="earliest")
        ns: list[int] = column.cast(pyarrow.timestamp("ns", column.type.tz)).cast(pyarrow.int64()).to_pylist()
        return ns

    def _read(self, cells: list[object], first: int) -> list[int]:
        clock, out = self.csv_map.clock(), []
        for row, cell in enumerate(cells, first):
            try:
                out.append(clock(str(cell).strip()))
            except ValueError as error:
                raise InputError(f"{self.place(row)}: {cell!r} is no time of format {self.csv_map.time.format!r}"
                                 ) from error
        return out

    def _numbers(self, table: "pyarrow.RecordBatch", name: str, first: int) -> list[float]:
        import pyarrow
        from pyarrow import types

        column = table[name]
        kind = column.type
        if types.is_boolean(kind):
            column = column.cast(pyarrow.int8())
        elif not (types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind)):
            raise InputError(f"{self.place(first)}: column {name!r} holds {kind}, numbers are wanted")
        found: list[float] = column.cast(pyarrow.float64(), safe=False).fill_null(math.nan).to_pylist()
        return found


def _is_timestamp(column: "pyarrow.Array") -> bool:
    from pyarrow import types

    return bool(types.is_timestamp(column.type))


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs pyarrow, which is not installed: pip install \"kizashi[parquet]\", or "
                         "export the table as CSV") from error
    return pyarrow.parquet
