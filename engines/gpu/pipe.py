"""What the builder's parent and child say to each other: one request, then frames of the answer.

A frame is its kind (one byte), its length (8 bytes, little-endian) and its payload: any number of lines "L", then
either the error "E", or the report "R" and the plan "P". The parent trusts none of it.
"""

import struct
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from engines.base import EngineError
from engines.gpu.plan import BuildReport, BuildSpec

LINE, ERROR, REPORT, PLAN = b"L", b"E", b"R", b"P"
_HEAD = struct.Struct("<cQ")
# An engine of ours is 0.3 to 20 MB; what is longer is no engine of ours. Lines and reports are text.
_LONGEST = {LINE: 4096, ERROR: 65_536, REPORT: 1 << 20, PLAN: 1 << 30}


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """What to build. device_cc: compute capability that the plan will run on, empty if not known."""

    flavour: str
    spec: BuildSpec
    sha256: str
    device_cc: str = ""

    def encode(self, model: bytes) -> bytes:
        """Return the child's whole input."""
        head = msgspec.json.encode(self)
        return len(head).to_bytes(8, "little") + head + model

    @staticmethod
    def decode(data: bytes) -> "tuple[Request, bytes]":
        """Return request and model. Raises ValueError when `data` is not what `encode` gives."""
        end = 8 + int.from_bytes(data[:8], "little")
        return msgspec.json.decode(data[8:end], type=Request), data[end:]


def frame(kind: bytes, payload: bytes) -> bytes:
    """Return a frame; a line or an error is cut to its longest."""
    payload = payload[: _LONGEST[kind]] if kind in (LINE, ERROR) else payload
    return _HEAD.pack(kind, len(payload)) + payload


class Answer:
    """Takes the child's bytes as they come. plan and report: None until they are there."""

    def __init__(self) -> None:
        self.plan: bytes | None = None
        self.report: BuildReport | None = None
        self.error: str | None = None
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[str]:
        """Take bytes and return the lines that are complete. Raises EngineError for what no builder of ours says."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            kind, size = _HEAD.unpack_from(self._buffer)
            if size > _LONGEST.get(kind, -1):
                raise EngineError(f"the builder's answer is not understood: {bytes(self._buffer[:16])!r}")
            end = _HEAD.size + size
            if len(self._buffer) < end:
                return
            payload = bytes(memoryview(self._buffer)[_HEAD.size : end])
            del self._buffer[:end]
            if kind == LINE:
                yield payload.decode("utf-8", "replace")
            else:
                self._take(kind, payload)

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == ERROR:
            self.error = payload.decode("utf-8", "replace")
        elif kind == PLAN:
            self.plan = payload
        else:
            try:
                self.report = msgspec.json.decode(payload, type=BuildReport)
            except msgspec.MsgspecError as error:
                raise EngineError(f"the builder's report is not understood: {error}") from error
