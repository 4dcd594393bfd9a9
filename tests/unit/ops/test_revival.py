"""Replay of dead letters: what goes out, in which order, and what cannot."""

import hashlib

import pytest

from pipeline.errors import InputError
from pipeline.ops import revival
from pipeline.ops.revival import Revival, Wanted, needs_source
from schemas import DeadLetter, MachineEvent, TelemetryFrame
from schemas.codec import decode_frame, encode

WANTED = Wanted("kizashi.telemetry.v1")


def frame(seq: int, asset: str = "pump-1", data: bytes = b"\0" * 8) -> bytes:
    return encode(TelemetryFrame(asset=asset, birth_id="a" * 16, seq=seq, t0_ns=seq * 10, data=data))


def letter(original: bytes, *, kept: bool = True, offset: int = 0, **change: object) -> DeadLetter:
    fields = {
        "reason": "unknown_birth", "detail": "d", "stage": "acquire", "topic": "kizashi.telemetry.v1", "partition": 0,
        "offset": offset, "timestamp_ms": 0, "length": len(original), "sha256": hashlib.sha256(original).hexdigest(),
        "asset": "pump-1", "original": original if kept else None,
    }
    return DeadLetter(**fields | change)


def sent(revived: Revival) -> list[tuple[str, int, bool]]:
    return [(f.asset, f.seq, f.historical) for f in (decode_frame(value) for _, value in revived.frames())]


def test_frames_go_out_historical_keyed_by_asset_and_in_order_of_each_asset():
    revived = Revival(WANTED)
    for asset, seq in (("pump-2", 7), ("pump-1", 12), ("pump-1", 3), ("pump-2", 6)):
        original = frame(seq, asset)
        revived.add(letter(original, asset=asset), original)
    assert sent(revived) == [("pump-1", 3, True), ("pump-1", 12, True), ("pump-2", 6, True), ("pump-2", 7, True)]
    assert [key for key, _ in revived.frames()] == [b"pump-1", b"pump-1", b"pump-2", b"pump-2"]
    assert (revived.fates["replayed"], revived.assets) == (4, 2)


def test_nothing_but_the_flag_changes():
    original = frame(3)
    revived = Revival(WANTED)
    revived.add(letter(original), original)
    ((_, value),) = revived.frames()
    before, after = decode_frame(original), decode_frame(value)
    assert (after.asset, after.birth_id, after.seq, after.t0_ns, after.data) == (
        before.asset, before.birth_id, before.seq, before.t0_ns, before.data)


def test_a_machine_event_is_not_sent_again_because_its_place_is_gone():
    original = encode(MachineEvent("pump-1", "part_replaced", 5))
    revived = Revival(WANTED)
    revived.add(letter(original, reason="unknown_asset"), original)
    assert sent(revived) == [] and revived.fates["event"] == 1


def test_a_frame_that_died_twice_goes_out_once():
    revived = Revival(WANTED)
    for original in (frame(3), encode(TelemetryFrame(asset="pump-1", birth_id="a" * 16, seq=3, t0_ns=30, data=b"\0" * 8,
                                                     historical=True))):
        revived.add(letter(original), original)
    assert sent(revived) == [("pump-1", 3, True)]
    assert revived.fates["repeated"] == 1


def test_a_large_original_is_read_from_the_source_and_must_be_the_same_bytes():
    original = frame(3, data=b"\1" * 70_000)
    lost = letter(original, kept=False)
    assert needs_source(lost, WANTED)
    revived = Revival(WANTED)
    revived.add(lost, original)
    assert sent(revived) == [("pump-1", 3, True)]
    for found in (None, frame(4)):
        revived = Revival(WANTED)
        revived.add(lost, found)
        assert (sent(revived), revived.lost) == ([], [lost])
        assert revived.fates["unrecoverable"] == 1


@pytest.mark.parametrize(("change", "fate"), [
    ({"row": True, "kept": False}, "row"), ({"topic": "kizashi.asset.v1"}, "other_topic"),
])
def test_what_is_no_frame_of_this_topic_is_left(change, fate):
    original = frame(3)
    revived = Revival(WANTED)
    assert not needs_source(letter(original, **change), WANTED)
    revived.add(letter(original, **change), original)
    assert (sent(revived), dict(revived.fates)) == ([], {fate: 1})


@pytest.mark.parametrize("original", [b"", b"\xc1", b"\x91" * 100_000, b"cos\nsystem\n(S'x'\ntR."])
def test_what_is_unreadable_is_left(original):
    revived = Revival(WANTED)
    revived.add(letter(original), original)
    assert (sent(revived), dict(revived.fates)) == ([], {"unreadable": 1})


def test_reasons_and_assets_narrow_the_replay():
    wanted = Wanted("kizashi.telemetry.v1", frozenset({"not_finite"}), frozenset({"pump-2"}))
    revived = Revival(wanted)
    for asset, reason in (("pump-1", "not_finite"), ("pump-2", "unknown_birth"), ("pump-2", "not_finite")):
        original = frame(3, asset)
        revived.add(letter(original, asset=asset, reason=reason), original)
    revived.add(letter(frame(9, "pump-3"), asset=None, reason="not_finite"), frame(9, "pump-3"))
    assert sent(revived) == [("pump-2", 3, True)]
    assert revived.fates["filtered"] == 3


def test_more_than_memory_should_hold_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr(revival, "MAX_HELD_BYTES", 1000)
    revived = Revival(WANTED)
    with pytest.raises(InputError, match="--reason CODE, --asset NAME"):
        for seq in range(100):
            revived.add(letter(frame(seq)), frame(seq))
