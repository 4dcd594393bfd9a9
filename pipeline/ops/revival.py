"""Decides what becomes of a dead letter on replay. Pure.

A replayed frame goes out as historical: it is assessed, touches no live state and raises no live alert. It keeps asset,
birth and sequence number, so replaying it again is a duplicate and changes nothing.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from pipeline.errors import InputError
from schemas import DeadLetter
from schemas.codec import DECODE_ERRORS, decode_frame, encode, is_event

#: Frames of an asset must go out in order, so all are held until all are read. 512 MiB are 1.4 million frames of W1's
#: shape; more would hurt the machine that a person happens to run this on.
MAX_HELD_BYTES = 512 << 20

Fate = Literal["replayed", "row", "other_topic", "event", "unreadable", "unrecoverable", "repeated", "filtered"]

FATES: dict[Fate, str] = {
    "replayed": "sent as historical frames",
    "row": "rows, whose frames were judged already",
    "other_topic": "from another topic than this configuration's telemetry topic",
    "event": "machine events, whose place in the log is gone; `kizashi calibrate` says it anew",
    "unreadable": "no telemetry frame of a version that this release reads",
    "unrecoverable": "the original is larger than 64 KiB and the source topic no longer has it",
    "repeated": "the same frame again",
    "filtered": "not asked for",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters to replay; empty sets want all. topic: of the telemetry of this configuration."""

    topic: str
    reasons: frozenset[str] = frozenset()
    assets: frozenset[str] = frozenset()


def needs_source(letter: DeadLetter, wanted: Wanted) -> bool:
    """Tell whether the original must be read from the source topic."""
    return sort_out(letter, wanted) is None and letter.original is None


def sort_out(letter: DeadLetter, wanted: Wanted) -> Fate | None:
    """Return the fate that is known without the original, or None."""
    if wanted.reasons and letter.reason not in wanted.reasons:
        return "filtered"
    if wanted.assets and letter.asset is not None and letter.asset not in wanted.assets:
        return "filtered"
    if letter.row:
        return "row"
    return None if letter.topic == wanted.topic else "other_topic"


@dataclass(slots=True)
class Revival:
    """Collects frames to be sent, in the order in which they must go out."""

    wanted: Wanted
    fates: Counter[Fate] = field(default_factory=Counter)
    lost: list[DeadLetter] = field(default_factory=list)
    _frames: dict[tuple[str, str, int], bytes] = field(default_factory=dict)
    _bytes: int = 0

    def add(self, letter: DeadLetter, original: bytes | None) -> None:
        """Take one dead letter. original: its own, or what the source topic holds at its place now.

        Raises InputError when more than 512 MiB would have to be held.
        """
        fate = sort_out(letter, self.wanted) or self._add(letter, original)
        self.fates[fate] += 1

    def _add(self, letter: DeadLetter, original: bytes | None) -> Fate:
        # A topic that was created anew has other records at the old places: only the same bytes are the same record.
        if original is None or hashlib.sha256(original).hexdigest() != letter.sha256:
            self.lost.append(letter)
            return "unrecoverable"
        try:
            frame = decode_frame(original)
        except DECODE_ERRORS:
            return "event" if is_event(original) else "unreadable"
        if self.wanted.assets and frame.asset not in self.wanted.assets:
            return "filtered"
        key = (frame.asset, frame.birth_id, frame.seq)
        if key in self._frames:
            return "repeated"
        value = encode(msgspec.structs.replace(frame, historical=True))
        self._bytes += len(value)
        if self._bytes > MAX_HELD_BYTES:
            raise InputError(
                f"the frames to replay are more than {MAX_HELD_BYTES >> 20} MiB, which is held in memory so that each "
                "asset's go out in order. Replay a part at a time: --reason CODE, --asset NAME"
            )
        self._frames[key] = value
        return "replayed"

    def frames(self) -> Iterable[tuple[bytes, bytes]]:
        """Yield (key, value) by asset, birth and sequence number."""
        for (asset, _, _), value in sorted(self._frames.items(), key=lambda item: item[0]):
            yield asset.encode(), value

    @property
    def assets(self) -> int:
        """Return how many assets have frames to be sent."""
        return len({asset for asset, _, _ in self._frames})
