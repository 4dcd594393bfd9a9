"""Capture files: records of topics in a file, as a stream of msgpack maps that any msgpack client can read or write.

One map a record: topic (str), partition, offset, timestamp_ms (int), key, value (bin or nil). The births of a capture's
assets come first, so that a file explains itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

import msgpack
import msgspec
from msgspec import Meta, Struct

from pipeline.errors import InputError

# Kafka's default limit is 1 MiB a record and plants raise it, seldom past 10 MiB; a capture must also hold the bad
# input that a worker refuses. Beyond this a length field is taken for garbage rather than for a reason to allocate.
MAX_RECORD_BYTES = 16 * 1024 * 1024
# A whole record has to fit in the reader's buffer, with its topic, its key and the read-ahead.
_BUFFER_BYTES = 2 * MAX_RECORD_BYTES
_MAX_ITEMS = 64  # six fields today; more may be added (headers), but a map or array of thousands is garbage

NotNegative = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Record(Struct, frozen=True):
    """One record of a topic. key, value: as on the wire; value None is a tombstone."""

    topic: Annotated[str, Meta(min_length=1, max_length=249)]
    partition: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    offset: NotNegative
    timestamp_ms: Annotated[int, Meta(ge=-1, le=2**63 - 1)]  # -1: the record has none
    key: bytes | None
    value: bytes | None


class CaptureWriter:
    """Write records to a new file. A file that a crash cut short keeps all its whole records."""

    def __init__(self, path: Path) -> None:
        self.path, self.records = path, 0
        self._pack = msgpack.Packer(use_bin_type=True).pack

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from error
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, record: Record) -> None:
        """Append one record."""
        self._file.write(self._pack(msgspec.structs.asdict(record)))
        self.records += 1


def read_capture(path: Path) -> Iterator[Record]:
    """Yield the records of a capture file in their order.

    Raises InputError with the byte position where the file ends within a record or stops being a capture; the whole
    records before it have been yielded by then.
    """
    try:
        size, file = path.stat().st_size, path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        unpacker = msgpack.Unpacker(
            file, raw=False, strict_map_key=True, max_buffer_size=_BUFFER_BYTES, max_bin_len=MAX_RECORD_BYTES,
            max_str_len=1024, max_map_len=_MAX_ITEMS, max_array_len=_MAX_ITEMS, max_ext_len=0,
        )
        whole = number = 0
        while True:
            try:
                record = msgspec.convert(unpacker.unpack(), Record)
            except msgpack.OutOfData:
                break
            except msgspec.ValidationError as error:
                raise InputError(_where(path, whole, number, f"the map is no record: {error}")) from error
            except (ValueError, msgpack.UnpackException) as error:  # format, size, depth, UTF-8
                what = f"no capture from here on ({type(error).__name__} {error})"
                raise InputError(_where(path, whole, number, what)) from error
            yield record
            whole, number = unpacker.tell(), number + 1
    if whole != size:
        what = f"the file ends within a record, {size - whole} bytes are left over (a crash, a full disk?)"
        raise InputError(_where(path, whole, number, what))


def _where(path: Path, position: int, number: int, what: str) -> str:
    return f"{path}: byte {position}, after {number} whole records: {what}"
