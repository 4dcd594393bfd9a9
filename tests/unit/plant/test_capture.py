"""Capture files: what goes in comes out, whatever client wrote it, and damage is located to the byte."""

import io
from collections.abc import Callable
from pathlib import Path

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.plant.capture import MAX_RECORD_BYTES, CaptureWriter, Record, read_capture
from pipeline.plant.simulator import Plant
from schemas import TelemetryFrame
from schemas.codec import decode_birth, decode_frame, encode

RECORDS = [
    Record("kizashi.telemetry.v1", 3, 17, 1_700_000_000_123, b"line1/pump-01", b"\x00\xff" * 40),
    Record("kizashi.asset.v1", 0, 2**40, -1, b"line1/pump-01|00", None),
    Record("kizashi.telemetry.v1", 0, 0, 0, None, b""),
]
FUNCTION_SCOPED = [HealthCheck.function_scoped_fixture]  # the file is written anew in every example

records = st.builds(
    Record,
    topic=st.text("abcdefghij.-_", min_size=1, max_size=40), partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1), timestamp_ms=st.integers(-1, 2**63 - 1),
    key=st.none() | st.binary(max_size=60), value=st.none() | st.binary(max_size=400),
)


def written(path: Path, content: list[Record]) -> bytes:
    with CaptureWriter(path) as capture:
        for record in content:
            capture.write(record)
    assert capture.records == len(content)
    return path.read_bytes()


def read_to_the_end(path: Path) -> tuple[list[Record], str | None]:
    """Read whole records, then the error that ends the file, if any."""
    whole: list[Record] = []
    source = read_capture(path)
    try:
        while True:
            whole.append(next(source))
    except StopIteration:
        return whole, None
    except InputError as error:
        return whole, str(error)


@settings(max_examples=60, deadline=None, suppress_health_check=FUNCTION_SCOPED)
@given(content=st.lists(records, max_size=8))
def test_capture_gives_back_what_was_written(tmp_path: Path, content: list[Record]) -> None:
    written(tmp_path / "x.capture", content)
    assert list(read_capture(tmp_path / "x.capture")) == content


@settings(max_examples=100, deadline=None, suppress_health_check=FUNCTION_SCOPED)
@given(content=st.lists(records, min_size=1, max_size=5), data=st.data())
def test_capture_keeps_all_whole_records_when_its_tail_is_cut(
    tmp_path: Path, content: list[Record], data: st.DataObject
) -> None:
    path = tmp_path / "x.capture"
    ends = [0]
    for n in range(1, len(content) + 1):
        ends.append(len(written(path, content[:n])))
    cut = data.draw(st.integers(0, ends[-1]))
    path.write_bytes(path.read_bytes()[:cut])
    usable, error = read_to_the_end(path)
    count = sum(e <= cut for e in ends) - 1
    assert usable == content[:count]
    if cut in ends:
        assert error is None
    else:
        assert error is not None
        assert f"byte {ends[count]}, after {count} whole records" in error
        assert f"{cut - ends[count]} bytes are left over" in error


def test_capture_written_by_any_msgpack_client_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.capture"
    maps = [msgspec.structs.asdict(r) for r in RECORDS]
    path.write_bytes(b"".join(map(msgpack.packb, maps)))
    assert list(read_capture(path)) == RECORDS
    path.write_bytes(b"".join(map(msgspec.msgpack.encode, RECORDS)))
    assert list(read_capture(path)) == RECORDS
    path.write_bytes(msgpack.packb({**maps[0], "headers": [["ce_id", b"1"]], "site": "north"}))
    assert list(read_capture(path)) == RECORDS[:1]  # fields that this release does not know


def test_capture_is_read_by_any_msgpack_client(tmp_path: Path) -> None:
    data = written(tmp_path / "x.capture", RECORDS)
    assert list(msgpack.Unpacker(io.BytesIO(data))) == [msgspec.structs.asdict(r) for r in RECORDS]


GARBAGE: dict[str, Callable[[], bytes]] = {
    "reserved byte": lambda: b"\xc1",
    "text": lambda: b"datetime;Accelerometer1RMS\n",
    "a record of wrong types": lambda: msgpack.packb({**msgspec.structs.asdict(RECORDS[0]), "offset": "17"}),
    "a negative offset": lambda: msgpack.packb({**msgspec.structs.asdict(RECORDS[0]), "offset": -5}),
    "a map without value": lambda: msgpack.packb({"topic": "a"}),
    "an array": lambda: msgpack.packb([1, 2, 3]),
    "a number": lambda: msgpack.packb(7),
    "depth bomb": lambda: b"\x91" * 100_000 + b"\x01",
    "map bomb": lambda: b"\x81\xa1a" * 20_000 + b"\x01",
    "value of 4 GiB announced": lambda: b"\x81\xa5value\xc6\xff\xff\xff\xff" + b"x" * 1000,
    "map of 4 G entries announced": lambda: b"\xdf\xff\xff\xff\xff" + b"\x01" * 1000,
    "value over the limit": lambda: msgpack.packb({"value": bytes(MAX_RECORD_BYTES + 1)}),
    "broken UTF-8": lambda: b"\x81\xa2\xff\xfe\x01",
    "list as a key": lambda: b"\x81\x91\x01\x01",
    "extension type": lambda: msgpack.packb({"topic": msgpack.ExtType(5, b"x")}),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_capture_says_where_it_stops_being_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.capture"
    good = written(path, RECORDS)
    path.write_bytes(good + GARBAGE[kind]() + good)
    usable, error = read_to_the_end(path)
    assert usable == RECORDS
    assert error is not None and f"x.capture: byte {len(good)}, after 3 whole records" in error


def test_capture_holds_a_record_as_large_as_the_limit(tmp_path: Path) -> None:
    large = Record("t", 0, 0, 0, b"k", bytes(MAX_RECORD_BYTES))
    written(tmp_path / "x.capture", [large, RECORDS[0]])
    assert list(read_capture(tmp_path / "x.capture")) == [large, RECORDS[0]]


def test_a_missing_capture_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.capture: cannot be read"):
        list(read_capture(tmp_path / "absent.capture"))


def test_frames_and_births_are_the_same_maps_for_msgpack_and_for_us() -> None:
    plant = Plant(seed=1, assets=1, start_ns=5)
    frame, birth = plant.frames(0, 3, 1)[0], plant.births[0]
    assert decode_frame(msgpack.packb(msgpack.unpackb(encode(frame)))) == frame
    assert decode_birth(msgpack.packb(msgpack.unpackb(encode(birth)))) == birth
    assert msgpack.unpackb(encode(frame))["data"] == frame.data
    foreign = {"seq": 9, "data": b"\x01\x02", "asset": "a", "t0_ns": 2**62, "birth_id": "0" * 16, "extra": {"x": [1]}}
    assert decode_frame(msgpack.packb(foreign)) == TelemetryFrame("a", "0" * 16, 9, 2**62, b"\x01\x02")
