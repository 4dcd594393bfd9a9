"""CSV history: digits, times and gaps survive; what a map or a file has wrong is named with file and line."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.plant.csvhistory import CsvHistory
from pipeline.plant.csvmap import SHIPPED, CsvMap, load_map
from schemas import AssetBirth, TelemetryFrame

SKAB_DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "skab"
FUNCTION_SCOPED = [HealthCheck.function_scoped_fixture]  # files are written anew in every example

MAP = """
[time]
column = "time"
format = "iso"
[asset]
file = '(?P<stem>[^/]+)\\.csv'
name = "line1/{stem}"
[birth]
asset_class = "pump"
site = "north"
rate_hz = 2.0
samples_per_frame = 2
[[channel]]
column = "p"
name = "pressure"
quantity = "pressure"
unit = "bar"
dtype = "f8"
[[channel]]
column = "n"
name = "speed"
quantity = "rotational frequency"
unit = "/min"
dtype = "u2"
scale = 0.5
"""


def a_map(tmp_path: Path, text: str = MAP) -> CsvMap:
    (tmp_path / "map.toml").write_text(text)
    return load_map(tmp_path / "map.toml")


def changed(tmp_path: Path, old: str, new: str) -> CsvMap:
    assert old in MAP
    return a_map(tmp_path, MAP.replace(old, new))


def a_file(tmp_path: Path, text: str, name: str = "pump-7.csv") -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def read(csv_map: CsvMap, *files: Path) -> tuple[list[AssetBirth], list[TelemetryFrame], CsvHistory]:
    history = CsvHistory(csv_map)
    messages = list(history.read(files))
    births = [m for m in messages if isinstance(m, AssetBirth)]
    return births, [m for m in messages if isinstance(m, TelemetryFrame)], history


def ns(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


ROWS = "time,p,n\n" + "".join(f"2026-01-01T00:00:{i:02d},{1.5 + i},{1000 + i}\n" for i in range(5))


def test_rows_become_frames_and_what_fills_no_frame_is_counted(tmp_path: Path) -> None:
    births, frames, history = read(a_map(tmp_path), a_file(tmp_path, ROWS))
    assert [b.asset for b in births] == ["line1/pump-7"]
    assert births[0].start_ns == ns("2026-01-01T00:00:00")
    assert [(f.seq, f.t0_ns - births[0].start_ns) for f in frames] == [(0, 0), (1, 2 * 10**9)]
    pressure, speed = np.frombuffer(frames[1].data[:16], "<f8"), np.frombuffer(frames[1].data[16:], "<u2")
    assert pressure.tolist() == [3.5, 4.5]
    assert (speed * births[0].channels[1].scale).tolist() == [1002.0, 1003.0]
    assert len(frames[0].data) == births[0].frame_bytes
    assert (history.report.rows, history.report.frames, history.report.left_over) == (5, 2, 1)
    assert not frames[0].historical


def test_an_asset_that_goes_on_in_a_second_file_keeps_its_birth_and_its_count(tmp_path: Path) -> None:
    by_column = MAP.replace("file = '(?P<stem>[^/]+)\\.csv'", 'column = "unit"').replace("{stem}", "{value}")
    csv_map = a_map(tmp_path, by_column)
    first = a_file(tmp_path, "time,unit,p,n\n2026-01-01,A,1,2\n2026-01-01,B,5,6\n2026-01-02,A,3,4\n", "a.csv")
    second = a_file(tmp_path, "n,p,unit,time\n6,5,A,2026-01-03\n8,7,A,2026-01-04\n", "b.csv")
    births, frames, history = read(csv_map, first, second)
    assert [b.asset for b in births] == ["line1/A", "line1/B"]
    assert [(f.asset, f.seq) for f in frames] == [("line1/A", 0), ("line1/A", 1)]
    assert np.frombuffer(frames[1].data[:16], "<f8").tolist() == [5.0, 7.0]
    assert history.report.left_over == 1


@settings(max_examples=50, deadline=None, suppress_health_check=FUNCTION_SCOPED)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    start=st.integers(0, 4 * 10**9), steps=st.lists(st.integers(0, 10**6), min_size=20, max_size=20),
    packed=st.booleans(), separator=st.sampled_from([",", ";", "\t", "|"]),
)
def test_every_digit_and_every_time_of_a_file_arrives(
    tmp_path: Path, values: list[float], start: int, steps: list[int], packed: bool, separator: str
) -> None:
    text = MAP.replace('"iso"', '"unix_s"').replace("samples_per_frame = 2", "samples_per_frame = 1")
    text = text.replace('dtype = "u2"\nscale = 0.5', 'dtype = "f8"')
    csv_map = a_map(tmp_path, f"separator = {json.dumps(separator)}\n" + text)
    times = (start + np.cumsum(steps[:len(values)])).tolist()
    lines = [separator.join(("p", "time", "n"))]
    lines += [separator.join((repr(v), f"{t}.000000001", repr(-v))) for v, t in zip(values, times, strict=True)]
    path = tmp_path / ("x.csv.gz" if packed else "x.csv")
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    births, frames, _ = read(csv_map, path)
    assert births[0].start_ns == times[0] * 10**9 + 1
    assert [f.t0_ns for f in frames] == [t * 10**9 + 1 for t in times]
    assert [np.frombuffer(f.data, "<f8").tolist() for f in frames] == [[v, -v] for v in values]


@pytest.mark.parametrize(
    ("form", "zone", "cell", "want"),
    [
        ("iso", "UTC", "2026-06-01T12:00:00.250", "2026-06-01T12:00:00.250+00:00"),
        ("iso", "Asia/Tokyo", "2026-06-01 12:00", "2026-06-01T03:00:00+00:00"),
        ("iso", "Asia/Tokyo", "2026-06-01T12:00:00Z", "2026-06-01T12:00:00+00:00"),
        ("%d.%m.%Y %H:%M:%S", "Europe/Berlin", "01.12.2026 12:00:00", "2026-12-01T11:00:00+00:00"),
        ("unix_ms", "UTC", "1748779200250", "2025-06-01T12:00:00.250+00:00"),
    ],
)
def test_times_are_read_in_their_format_and_zone(tmp_path: Path, form: str, zone: str, cell: str, want: str) -> None:
    csv_map = changed(tmp_path, 'format = "iso"', f'format = "{form}"\nzone = "{zone}"')
    elapsed = datetime.fromisoformat(want) - datetime(1970, 1, 1, tzinfo=UTC)
    assert csv_map.clock()(cell) == elapsed // timedelta(microseconds=1) * 1000


def test_decimal_commas_and_byte_order_marks_of_office_exports_are_read(tmp_path: Path) -> None:
    text = MAP.replace("samples_per_frame = 2", "samples_per_frame = 1")
    csv_map = a_map(tmp_path, 'separator = ";"\ndecimal = ","\n' + text)
    _, frames, _ = read(csv_map, a_file(tmp_path, "\ufefftime;p;n\n2026-01-01;1.234,5;7\n"))
    assert np.frombuffer(frames[0].data[:8], "<f8").tolist() == [1234.5]


def test_missing_cells_stop_or_are_skipped_or_held_as_the_map_says(tmp_path: Path) -> None:
    path = a_file(tmp_path, "time,p,n\n2026-01-01,1,2\n2026-01-02,,3\n2026-01-03,nan,4\n2026-01-04,5,6\n")
    with pytest.raises(InputError, match=r"pump-7\.csv:3: p is empty"):
        read(a_map(tmp_path), path)
    _, frames, history = read(a_map(tmp_path, 'missing = "skip"\n' + MAP), path)
    assert np.frombuffer(frames[0].data[:16], "<f8").tolist() == [1.0, 5.0]
    assert history.report.skipped == 2
    _, frames, history = read(a_map(tmp_path, 'missing = "hold"\n' + MAP), path)
    assert np.frombuffer(frames[0].data, "<f8", 2).tolist() == [1.0, 1.0]
    assert np.frombuffer(frames[1].data[16:], "<u2").tolist() == [8, 12]
    assert history.report.held == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"pump-7\.csv: is empty"),
        ("time,p\n", r"pump-7\.csv:1: has no column 'n'.*time, p"),
        ("time,p,n,p\n", r"pump-7\.csv:1: has 2 columns 'p'"),
        ("time;p;n\n", r"pump-7\.csv:1: has no column 'time'"),
        ("time,p,n\n2026-01-01,1,2\n2026-01-02,3\n", r"pump-7\.csv:3: 2 cells, the header has 3"),
        ("time,p,n\n2026-01-01,one,2\n", r"pump-7\.csv:2: column 2: 'one' is no number"),
        ("time,p,n\nyesterday,1,2\n", r"pump-7\.csv:2: 'yesterday' is no time of format 'iso'"),
        ("time,p,n\n1969-12-31,1,2\n", r"pump-7\.csv:2: '1969-12-31' is before 1970"),
        ("time,p,n\n2026-01-02,1,2\n2026-01-01,1,2\n", r"pump-7\.csv:3: the time of line1/pump-7 goes back by 86400 s"),
        ("time,p,n\n2026-01-01,1,2\n2026-01-02,1,40000\n", r"pump-7\.csv:3: n: 4 \.\. 80000 does not fit u2"),
        ("time,p,n\n2026-01-01,1,2\n2026-01-02,1,inf\n", r"pump-7\.csv:3: n is empty or not finite"),
        ('time,p,n\n"2026-01-01,1,2\n', r"pump-7\.csv:2: 1 cells"),
    ],
)
def test_what_a_file_has_wrong_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(a_map(tmp_path), a_file(tmp_path, text))


def test_damaged_files_are_input_errors(tmp_path: Path) -> None:
    packed = gzip.compress(ROWS.encode() * 500)
    (tmp_path / "cut.csv.gz").write_bytes(packed[:200])
    (tmp_path / "no.csv.gz").write_bytes(b"time,p,n\n")
    (tmp_path / "latin.csv").write_bytes("time,p,n\n2026-01-01,1,2\n2026-01-02,\xb5,2\n".encode("latin-1"))
    for name, message in (
        ("cut.csv.gz", "damaged"), ("no.csv.gz", "cannot be read"), ("latin.csv", "is no utf-8 CSV"),
        ("absent.csv", "cannot be read: No such file"),
    ):
        with pytest.raises(InputError, match=message):
            read(a_map(tmp_path), tmp_path / name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('column = "time"', 'colum = "time"', r"map\.toml: .*colum"),
        ('dtype = "u2"', 'dtype = "u3"', r"map\.toml: .*'u3'.*channel\[1\]\.dtype|map\.toml: .*channel"),
        ('unit = "bar"\n', "", r"map\.toml: .*unit"),
        ("rate_hz = 2.0", "rate_hz = 0", r"map\.toml: .*rate_hz"),
        ('name = "speed"', 'name = "pressure"', r"map\.toml: channel names must differ, .*pressure"),
        ('name = "speed"', 'name = "Speed of pump"', r"map\.toml: .*channels\[1\]\.name"),
        ("{stem}", "{stam}", r"map\.toml: \[asset\] name .*stam.*there is stem"),
        ("(?P<stem>", "(?P<stem", r"map\.toml: \[asset\] file: no regular expression"),
        ("file = ", "column = 'x'\nfile = ", r"map\.toml: \[asset\] needs either"),
        ('format = "iso"', 'zone = "Mars/Base"', r"map\.toml: \[time\] zone 'Mars/Base' is unknown"),
        ("[time]", 'encoding = "utf-9"\n[time]', r"map\.toml: encoding"),
        ("[time]", "[time", r"map\.toml: is no TOML"),
    ],
)
def test_what_a_map_has_wrong_is_said_before_any_row(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(tmp_path, old, new)


def test_a_file_whose_path_the_map_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pump\.txt: the map's \[asset\] file pattern .* does not match"):
        read(a_map(tmp_path), a_file(tmp_path, ROWS, "pump.txt"))


def test_shipped_maps_are_found_by_name_and_listed_when_absent() -> None:
    assert load_map(Path("skab")) == load_map(SHIPPED / "skab.toml")
    with pytest.raises(InputError, match=r"Maps that come with Kizashi: .*skab"):
        load_map(Path("skap"))


@pytest.mark.skipif(not SKAB_DATA.exists(), reason=f"SKAB's files are not at {SKAB_DATA}")
def test_skab_map_reads_every_row_of_labelled_and_anomaly_free_files() -> None:
    files = sorted(SKAB_DATA.glob("*/*.csv.gz"))
    births, frames, history = read(load_map(Path("skab")), *files)
    assert history.report.files == len(files) == len(births)
    assert history.report.rows == len(frames) == sum(gzip.open(f).read().count(b"\n") - 1 for f in files)
    assert {b.asset for b in births} >= {"skab/valve1/0", "skab/anomaly-free/anomaly-free"}
    first = next(f for f in frames if f.asset == "skab/valve1/0")
    cells = gzip.open(SKAB_DATA / "valve1" / "0.csv.gz", "rt").read().splitlines()[1].split(";")
    assert np.frombuffer(first.data, "<f8").tolist() == [float(c) for c in cells[1:9]]
    assert first.t0_ns == ns(cells[0])
