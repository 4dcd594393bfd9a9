"""Dead letter: a record or row that could not be judged, kept with the reason and the way back."""

from typing import Literal

from msgspec import Struct

Stage = Literal["acquire", "window", "condition", "infer"]

#: The original is kept up to here; beyond it only hash and length (replay then reads the source topic).
MAX_ORIGINAL_BYTES = 64 * 1024


class DeadLetter(Struct, frozen=True, omit_defaults=True):
    """Topic `kizashi.deadletter.v1`, key = `topic|partition|offset`, value = msgpack map.

    reason: stable code, see `schemas.topics.REASONS`. detail: what, limit and value with unit, what to do.
    original: the record's value, if at most 64 KiB; else sha256 and length tell which record it was.
    row: true when an inference row (not its frame) ended here.
    """

    reason: str
    detail: str
    stage: Stage
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    length: int
    sha256: str
    asset: str | None = None
    key: bytes | None = None
    original: bytes | None = None
    row: bool = False
    v: Literal[1] = 1

    @property
    def message_key(self) -> bytes:
        return f"{self.topic}|{self.partition}|{self.offset}".encode()
