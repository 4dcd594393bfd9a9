"""History: tables read by a map (CSV, Parquet), as births and frames in the order of the rows."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pipeline.errors import InputError
from pipeline.plant.csvfile import CsvFile
from pipeline.plant.csvmap import ChannelRule, CsvMap
from pipeline.plant.parquetfile import ParquetFile
from pipeline.plant.tablerows import ImportReport, Progress, complete
from schemas import AssetBirth, TelemetryFrame

__all__ = ["CsvHistory", "ImportReport", "Progress", "is_table"]

#: How names of tables end.
CSV, PARQUET = (".csv", ".csv.gz"), (".parquet", ".pq")
_CODES = {"f4": "f", "f8": "d", "i2": "h", "i4": "i", "u1": "B", "u2": "H"}  # of `struct`


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
    """Iterate over the births and frames of tables; an asset's birth comes right before its first frame.

    An asset may go on in a later file: its frames then continue under one birth. t0 of each frame is the time of its
    first row, so gaps stay as they are; a gap does not start a new frame. progress: called with the bytes read of a
    file. Iterating raises InputError with file and line or row.
    """

    csv_map: CsvMap
    historical: bool = False
    progress: Progress = lambda path, position: None
    report: ImportReport = field(default_factory=ImportReport)
    _assets: dict[str, _Asset] = field(default_factory=dict)

    def read(self, files: Iterable[Path]) -> Iterator[AssetBirth | TelemetryFrame]:
        """Yield the births and frames of the files, in the order given."""
        for path in files:
            table = ParquetFile(self.csv_map, path) if _ends(path, PARQUET) else CsvFile(self.csv_map, path)
            rows = table.rows(self.progress, self.report)
            for line, asset, t_ns, row in complete(self.csv_map, rows, table.place, self.report):
                yield from self._add(table, line, asset, t_ns, row)
            self.report.files += 1
        self.report.left_over = sum(len(a.rows) for a in self._assets.values())

    def _add(
        self, table: CsvFile | ParquetFile, line: int, name: str, t_ns: int, row: list[float]
    ) -> Iterator[AssetBirth | TelemetryFrame]:
        asset = self._assets.get(name)
        if asset is None:
            try:
                birth = self.csv_map.birth_of(name, t_ns)
            except msgspec.ValidationError as error:
                raise InputError(f"{table.place(line)}: asset {name!r}: {error}") from error
            asset = self._assets[name] = _Asset(birth)
            self.report.assets += 1
            yield birth
        elif t_ns < asset.last_ns and self.csv_map.time.order == "strict":
            back = (asset.last_ns - t_ns) / 1e9
            raise InputError(
                f"{table.place(line)}: the time of {name} goes back by {back:g} s (end of summer time, files out of "
                "order?). Sort the rows, give a zone without summer time, or keep them as they are: order = \"any\" in "
                "[time]"
            )
        asset.last_ns = t_ns
        if not asset.rows:
            asset.t0_ns = t_ns
        asset.rows.append(row)
        if len(asset.rows) == asset.birth.samples_per_frame:
            yield self._frame(table.place(line), asset)

    def _frame(self, where: str, asset: _Asset) -> TelemetryFrame:
        flat = [x for channel in zip(*asset.rows, strict=True) for x in channel]  # C order: channel, sample
        data = _pack(self.csv_map.channel, flat, len(asset.rows), where)
        frame = TelemetryFrame(
            asset.birth.asset, asset.birth.birth_id, asset.seq, asset.t0_ns, data, historical=self.historical,
        )
        asset.rows.clear()
        asset.seq += 1
        self.report.frames += 1
        return frame


def is_table(path: Path) -> bool:
    """Tell a table from a capture file by its name."""
    return _ends(path, CSV + PARQUET)


def _ends(path: Path, ends: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(ends)


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
