"""Dead letters fit a record, whatever was sent: one that does not would hold its partition for ever."""

import msgpack
import numpy as np
import pytest

from pipeline import refuse
from pipeline.acquire import decode
from pipeline.births import read_birth
from pipeline.columns import Poll
from pipeline.errors import MAX_DETAIL, Rejected
from schemas.codec import encode

MIB = 1 << 20
FRAME = {"asset": "pump-07", "birth_id": "0f1e2d3c4b5a6978", "seq": 1, "t0_ns": 1, "data": b""}


def poll_of(value: bytes, key: bytes) -> Poll:
    return Poll(partition=0, keys=[key], values=[value], offsets=np.array([7], np.int64),
                timestamps_ms=np.array([1], np.int64), next_offset=8)


@pytest.mark.parametrize("value", [
    msgpack.packb(FRAME | {"quality": "q" * (MIB - 200)}),
    msgpack.packb(FRAME | {"quality": "\U0001f4a5" * (MIB // 4 - 200)}),
    msgpack.packb(FRAME | {"v": "v" * (MIB - 200)}),
    b"\x91" * (MIB - 200),
], ids=["long enum", "wide characters", "long version", "deep"])
def test_dead_letter_of_a_hostile_frame_stays_small(value):
    poll = poll_of(value, b"k" * MIB)
    ((index, error, asset),) = decode(poll)[1]
    letter = refuse.record("kizashi.telemetry.v1", poll, index, error, asset)
    assert len(encode(letter)) < 8_000 and letter.length == len(value)


def test_dead_letter_of_a_hostile_birth_stays_small():
    value = msgpack.packb({"asset": "a", "criticality": "c" * (MIB - 200)})
    with pytest.raises(Rejected) as refused:
        read_birth(b"k", value)
    assert len(encode(refuse.birth("kizashi.asset.v1", b"k" * MIB, value, refused.value))) < 8_000


def test_dead_letter_with_the_longest_original_fits_the_default_limit_of_a_broker():
    poll = poll_of(b"\xc1" * 65_536, b"k" * MIB)
    ((index, error, asset),) = decode(poll)[1]
    letter = refuse.record("t" * 249, poll, index, error, asset)
    assert letter.original == poll.values[0] and len(encode(letter)) < 70_000


def test_long_detail_keeps_its_beginning_and_its_remedy():
    error = Rejected("wrong_type", "begins " + "x" * MIB + " do this")
    assert error.detail.startswith("begins ") and error.detail.endswith(" do this")
    assert len(error.detail) < MAX_DETAIL + 10
