"""Refuse: build the dead letters of what cannot be judged, with the way back to it."""

import hashlib

import numpy as np

from pipeline import seating
from pipeline.batch import Segment
from pipeline.columns import Poll
from pipeline.errors import Rejected
from pipeline.state import Waiting
from schemas import DeadLetter
from schemas.deadletter import MAX_ORIGINAL_BYTES

#: A key is an asset's name (at most 128 bytes) or that and a birth_id; of a longer one its beginning tells who sent it.
MAX_KEY_BYTES = 1024


def _kept(value: bytes) -> dict[str, object]:
    original = value if len(value) <= MAX_ORIGINAL_BYTES else None
    return {"length": len(value), "sha256": hashlib.sha256(value).hexdigest(), "original": original}


def _key(key: bytes | None) -> bytes | None:
    return key if key is None else key[:MAX_KEY_BYTES]


def record(topic: str, poll: Poll, i: int, error: Rejected, asset: str | None) -> DeadLetter:
    """Build the dead letter of record `i` of a poll."""
    return DeadLetter(
        reason=error.reason, detail=error.detail, stage="acquire", topic=topic, partition=poll.partition,
        offset=int(poll.offsets[i]), timestamp_ms=int(poll.timestamps_ms[i]), asset=asset, key=_key(poll.keys[i]),
        **_kept(poll.values[i] or b""))  # type: ignore[arg-type]


def birth(topic: str, key: bytes | None, value: bytes, error: Rejected) -> DeadLetter:
    """Build the dead letter of a record of the asset topic that is no birth (its offset is not known to us: -1)."""
    return DeadLetter(reason=error.reason, detail=error.detail, stage="acquire", topic=topic, partition=-1, offset=-1,
                      timestamp_ms=0, key=_key(key), **_kept(value))  # type: ignore[arg-type]


def row(topic: str, seg: Segment, i: int, why: str | None) -> DeadLetter:
    """Build the dead letter of row `i` of a segment. why: of the engine, None if its result was not finite.

    The row's frame counts as judged all the same; the letter points to the record that completed the row.
    """
    who = seg.pool.slots[int(seg.column("slot")[i])]
    if why is None:
        error = Rejected("not_finite_output", "the model returned NaN or infinity. Check the baseline and the bundle")
    else:
        error = Rejected("poison_row", f"the engine fails on this row alone: {why}. Check the bundle")
    return DeadLetter(reason=error.reason, detail=error.detail, stage="infer", topic=topic,
                      partition=seg.partition.number, offset=int(seg.column("offset")[i]),
                      timestamp_ms=int(seg.column("ts_ms")[i]), length=0, sha256="",
                      asset=who.asset if who else None, row=True)


def waited(topic: str, partition: int, entry: Waiting, offset: int, ts_ms: int, value: bytes) -> DeadLetter:
    """Build the dead letter of a frame that has waited for its birth in vain."""
    poll = Poll(partition, np.array([offset]), np.array([ts_ms]), [value], [None], offset + 1)
    error = Rejected(
        "unknown_birth", f"no birth {entry.birth_id} of asset {entry.asset} came while its frames waited (at "
        f"most {seating.MAX_WAITING_FRAMES} frames, {seating.MAX_WAITING_BYTES} bytes, "
        f"{seating.MAX_WAITING_MS // 1000} s). Publish the birth, then replay the dead letters")
    return record(topic, poll, 0, error, entry.asset)
