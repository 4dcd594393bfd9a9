"""Parquet history: the same frames as the same table as CSV; what a file has wrong is named with its row."""

import builtins
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.plant import parquetfile
from pipeline.plant.csvhistory import CsvHistory
from pipeline.plant.csvmap import CsvMap, load_map
from schemas import AssetBirth, TelemetryFrame
from tests.unit.plant.test_csvhistory import MAP

BY_COLUMN = MAP.replace("file = '(?P<stem>[^/]+)\\.csv'", 'column = "unit"').replace("{stem}", "{value}")
LONG = BY_COLUMN + '\n[long]\nname = "tag"\nvalue = "reading"\n'
TIMES = [datetime(2026, 1, 1, 0, 0, second) for second in range(4)]  # noqa: DTZ001  (a table without a zone)
WIDE = {"time": TIMES, "unit": ["A", "B", "A", "B"], "p": [1.5, 2.5, 3.5, 4.5], "n": [1000, 1001, 1002, 1003]}


def a_map(tmp_path: Path, text: str = BY_COLUMN) -> CsvMap:
    (tmp_path / "map.toml").write_text(text)
    return load_map(tmp_path / "map.toml")


def a_file(tmp_path: Path, table: dict[str, Any] | pa.Table, name: str = "x.parquet") -> Path:
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), tmp_path / name)
    return tmp_path / name


def read(csv_map: CsvMap, *files: Path) -> tuple[list[AssetBirth | TelemetryFrame], CsvHistory]:
    history = CsvHistory(csv_map)
    return list(history.read(files)), history


def test_a_parquet_table_becomes_the_frames_of_the_same_table_as_csv(tmp_path: Path) -> None:
    rows = zip(*WIDE.values(), strict=True)
    lines = ["time,unit,p,n", *(",".join((t.isoformat(), u, str(p), str(n))) for t, u, p, n in rows)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    csv_map, seen = a_map(tmp_path), list[tuple[Path, int]]()
    want, _ = read(csv_map, tmp_path / "x.csv")
    path = a_file(tmp_path, WIDE)
    history = CsvHistory(csv_map, progress=lambda p, n: seen.append((p, n)))
    assert list(history.read([path])) == want and len(want) == 4
    assert seen[-1] == (path, path.stat().st_size)
    assert history.report.rows == 4 and history.report.assets == 2


def test_a_long_table_becomes_the_frames_of_the_wide_one_in_either_format(tmp_path: Path) -> None:
    long: dict[str, list[Any]] = {"reading": [], "tag": [], "unit": [], "time": []}
    for t, unit, p, n in zip(*WIDE.values(), strict=True):
        for tag, value in (("n", float(n)), ("humidity", 40.0), ("p", p)):
            for column, cell in zip(long.values(), (value, tag, unit, t), strict=True):
                column.append(cell)
    want, _ = read(a_map(tmp_path), a_file(tmp_path, WIDE))
    got, history = read(a_map(tmp_path, LONG), a_file(tmp_path, long, "long.parquet"))
    assert got == want and history.report.foreign == 4
    (tmp_path / "long.csv").write_text("reading,tag,unit,time\n" + "\n".join(
        f"{v},{tag},{u},{t.isoformat()}" for v, tag, u, t in zip(*long.values(), strict=True)))
    assert read(a_map(tmp_path, LONG), tmp_path / "long.csv")[0] == want


def test_a_sample_that_lacks_a_signal_in_a_long_table_is_a_gap(tmp_path: Path) -> None:
    long = {"time": [TIMES[0], TIMES[0], TIMES[1], TIMES[2], TIMES[2]], "unit": ["A"] * 5,
            "tag": ["p", "n", "p", "p", "n"], "reading": [1.0, 2.0, 3.0, 4.0, 5.0]}
    path = a_file(tmp_path, long)
    with pytest.raises(InputError, match=r"x\.parquet: row 3: n is empty or not finite; missing = "):
        read(a_map(tmp_path, LONG), path)
    _, history = read(a_map(tmp_path, 'missing = "hold"\n' + LONG), path)
    assert history.report.held == 1
    long["time"][1:3] = [TIMES[0], TIMES[0]]
    with pytest.raises(InputError, match=r"row 3: 'p' of A is there twice at one time"):
        read(a_map(tmp_path, LONG.replace("line1/", "")), a_file(tmp_path, long))
    with pytest.raises(InputError, match=r"map\.toml: \[long\] puts rows of one time together"):
        a_map(tmp_path, LONG.replace('format = "iso"', 'format = "iso"\norder = "any"'))


@pytest.mark.parametrize(
    ("column", "form", "zone", "want"),
    [
        (pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")), "iso", "UTC", 1_700_000_000_123_456_789),
        (pa.array([1_700_000_000], pa.timestamp("s", "Asia/Tokyo")), "iso", "UTC", 1_700_000_000 * 10**9),
        (pa.array([1_700_000_000], pa.timestamp("s")), "iso", "Asia/Tokyo", (1_700_000_000 - 9 * 3600) * 10**9),
        (pa.array([1_700_000_000_250], pa.int64()), "unix_ms", "UTC", 1_700_000_000_250 * 10**6),
        (pa.array([1_700_000_000.5], pa.float64()), "unix_s", "UTC", 1_700_000_000_500_000_000),
        (pa.array(["2026-01-01T00:00:00Z"]), "iso", "UTC", 1_767_225_600 * 10**9),
    ],
)
def test_times_of_every_kind_arrive_to_the_nanosecond(
    tmp_path: Path, column: pa.Array, form: str, zone: str, want: int
) -> None:
    text = BY_COLUMN.replace('format = "iso"', f'format = "{form}"\nzone = "{zone}"').replace("frame = 2", "frame = 1")
    table = pa.table({"time": column, "unit": ["A"], "p": [1.0], "n": [7]})
    (_, frame), _ = read(a_map(tmp_path, text), a_file(tmp_path, table))
    assert isinstance(frame, TelemetryFrame) and frame.t0_ns == want


def test_numbers_of_every_kind_are_values_and_null_is_a_gap(tmp_path: Path) -> None:
    table = pa.table({"time": TIMES, "unit": pa.array(["A"] * 4).dictionary_encode(),
                      "p": pa.array([1, None, 3, 4], pa.float32()), "n": [True, False, True, None]})
    messages, history = read(a_map(tmp_path, 'missing = "hold"\n' + BY_COLUMN), a_file(tmp_path, table))
    assert history.report.held == 2
    frames = [m for m in messages if isinstance(m, TelemetryFrame)]
    assert [np.frombuffer(f.data, "<f8", 2).tolist() for f in frames] == [[1.0, 1.0], [3.0, 4.0]]


def _without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda table: {k: v for k, v in table.items() if k != name}


def _with(**columns: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda table: table | columns


def _unit(table: dict[str, Any]) -> pa.Table:
    made = pa.table(table)
    at = made.schema.get_field_index("p")
    return made.set_column(at, pa.field("p", pa.float64(), metadata={"unit": "[psi]"}), made["p"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("n"), r"x\.parquet: has no column 'n'.*time, unit, p"),
        (_with(p=["1", "2", "3", "4"]), r"row 1: column 'p' holds string, numbers are wanted"),
        (_with(time=["yesterday"] * 4), r"row 1: 'yesterday' is no time of format 'iso'"),
        (_with(time=[TIMES[0], None, TIMES[2], TIMES[3]]), r"row 2: has no time"),
        (_with(time=TIMES[::-1]), r"row 3: the time of line1/A goes back by 2 s"),
        (_with(time=pa.array([-5, 1, 2, 3], pa.timestamp("s"))), r"row 1: .* is before 1970"),
        (_with(unit=["A", None, "A", "B"]), r"row 2: unit names no asset"),
        (_with(n=[1000, 1001, 90_000, 1003]), r"row 3: n: 2000 \.\. 180000 does not fit u2"),
        (_with(p=[1.0, float("nan"), 3.0, 4.0]), r"row 2: p is empty or not finite"),
        (_unit, r"the unit of column 'p' is '\[psi\]' by its metadata, the map says 'bar'"),
    ],
)
def test_what_a_file_has_wrong_is_named_with_its_row(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(a_map(tmp_path), a_file(tmp_path, change(dict(WIDE))))


def test_damaged_and_absent_files_are_input_errors(tmp_path: Path) -> None:
    whole = a_file(tmp_path, WIDE).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-9])
    (tmp_path / "text.pq").write_bytes(b"time,p,n\n")
    for name in ("cut.parquet", "text.pq", "absent.parquet"):
        with pytest.raises(InputError, match=rf"{name}: cannot be read as Parquet"):
            read(a_map(tmp_path), tmp_path / name)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, plain = a_file(tmp_path, WIDE), builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"Parquet needs pyarrow.*kizashi\[parquet\]"):
        list(parquetfile.ParquetFile(a_map(tmp_path), path).rows(lambda p, n: None, CsvHistory(a_map(tmp_path)).report))


def test_values_outside_of_the_measuring_range_make_a_person_look_at_the_unit(tmp_path: Path) -> None:
    text = BY_COLUMN.replace('unit = "bar"', 'unit = "bar"\nlow = 0.0\nhigh = 2.0')
    _, history = read(a_map(tmp_path, text), a_file(tmp_path, WIDE))
    assert [n for n in history.report.notes()] == [
        "3 values of pressure are outside of its measuring range in the map: is its unit right?"]
