"""What a checkpoint takes and what a restore makes of it; each failure that the protocol's model found, by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from pipeline import checkpoint, terms
from pipeline.checkpoint import BlockRecord, Restored, Snapshot, encode
from pipeline.state import Column, Partition
from schemas import MachineEvent
from schemas.codec import encode as encode_message
from tests.rig import Rig, birth, frame, window_bundle

A, B = birth("a"), birth("b")
BUNDLE = window_bundle(4, 2)


@pytest.fixture(autouse=True)
def one_slot_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.state.BLOCK_BYTES", 1)


def records(snap: Snapshot) -> dict[str, bytes]:
    return {key: encode(r) for key, r in snap.blocks} | {terms.MANIFEST: encode(snap.manifest)}


def restored(rig: Rig, stored: Mapping[str, bytes], first: int = 0) -> Restored:
    done = checkpoint.restore(0, stored, rig.flow.seats.new_pool, first)
    rig.flow.adopt(done.partition, 0.0)
    return done


def feed(rig: Rig, log: list[bytes]) -> Partition:
    """Admit what the partition has not read yet."""
    rig.poll(log[rig.part().position:])
    rig.drain()
    return rig.part()


def blocks(stored: Mapping[str, bytes], name: str) -> list[str]:
    return [k for k in stored if "|" in k and name in k]


def rig(*births: Any) -> Rig:
    return Rig.make(BUNDLE, births or (A, B))


LOG = [frame(A, 0, 1.0), frame(B, 0, 1.0), frame(A, 1, 2.0), frame(B, 1, 2.0), frame(A, 2, 3.0), frame(B, 2, 3.0)]


def scores(of: Rig) -> list[tuple[str, int, float]]:
    return sorted(of.rows)


def test_restore_gives_back_every_column_of_every_asset() -> None:
    one = rig()
    feed(one, LOG[:5])
    other = rig()
    done = restored(other, records(checkpoint.take(one.part(), "m1", 1)))
    assert done.position == 5 and other.totals() == one.totals()
    pool, twin = one.part().order[0], other.part().order[0]
    for column in (c for c in pool.table.columns if c.persist):
        assert pool.table[column.name][:2].tobytes() == twin.table[column.name][:2].tobytes(), column.name


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u1"])
@pytest.mark.parametrize("at", [None, 0, 5, 9999])
def test_zeros_at_the_end_of_a_ring_are_not_written_and_come_back(dtype: str, at: int | None) -> None:
    column = Column("ring", dtype, (20_000,))
    one, other = np.zeros((2, 20_000), dtype), np.zeros((2, 20_000), dtype)
    if at is not None:
        one[0, at] = one[1, at] = -0.0 if dtype in ("f4", "f8") else 1  # a bit is set in either
    raw = checkpoint._filled(column, one)
    assert len(raw) <= (0 if at is None else 20_000 + at + 4) * one.itemsize and len(raw) % one.itemsize == 0
    checkpoint._load_column(column, other, raw)
    assert one.tobytes() == other.tobytes()
    checkpoint._load_column(column, other, one.tobytes())  # of a release that wrote them
    assert one.tobytes() == other.tobytes()
    for bad in (one.tobytes() + b"\0" * 8, one.tobytes()[: one.itemsize - 1] or b"x" * (one.nbytes + 1)):
        with pytest.raises(ValueError, match=r"reshape|buffer size"):
            checkpoint._load_column(column, other, bad)


@pytest.mark.parametrize("column", [Column("few", "f4", (8,)), Column("filled", "f4", (8000,), fill=1)])
def test_what_is_small_or_begins_otherwise_than_with_zeros_is_written_whole(column: Column) -> None:
    rows = np.zeros((2, *column.shape), "f4")
    assert checkpoint._filled(column, rows) == rows.tobytes()
    with pytest.raises(ValueError, match="reshape"):
        checkpoint._load_column(column, rows, rows.tobytes()[:-4])


def test_state_of_a_release_that_had_fewer_columns_is_taken_up() -> None:
    one = rig()
    feed(one, LOG[:5])
    snap = checkpoint.take(one.part(), "m1", 1)
    for _, record in snap.blocks:
        if isinstance(record, BlockRecord):
            del record.columns["hold"]
    other = rig()
    restored(other, records(snap))
    assert feed(other, LOG).totals() == feed(one, LOG).totals()


def test_a_half_written_checkpoint_replays_only_the_block_that_is_behind() -> None:
    one = rig()
    feed(one, LOG[:2])
    stored = records(checkpoint.take(one.part(), "m1", 1))
    feed(one, LOG)
    snap = checkpoint.take(one.part(), "m2", 1)
    key, record = snap.blocks[0]
    other = rig()
    done = restored(other, stored | {key: encode(record)})
    assert (done.position, done.partition.replay_until) == (2, 6)
    feed(other, LOG)
    assert other.totals() == one.totals() and other.totals()["duplicate"] == 0


def test_a_first_checkpoint_that_was_half_written_counts_for_nothing() -> None:
    one = rig()
    feed(one, LOG[:4])
    snap = checkpoint.take(one.part(), "m1", 1)
    key, record = snap.blocks[0]
    stored = terms.sort_out({f"{terms.sort_out({}).next_term('w')}|{key}": encode(record)})
    other = rig()
    assert restored(other, stored.records).position == 0
    assert feed(other, LOG).totals() == feed(one, LOG).totals()


def test_a_block_that_a_replay_has_not_reached_is_not_applied_twice_after_a_second_crash() -> None:
    one = rig()
    feed(one, LOG[:2])
    stored = records(checkpoint.take(one.part(), "m1", 1))
    feed(one, LOG)
    ahead = checkpoint.take(one.part(), "m2", 1)
    stored |= {key: encode(r) for key, r in ahead.blocks if isinstance(r, BlockRecord) and r.block == 0}
    second = rig()
    restored(second, stored)
    feed(second, LOG[:3])  # a checkpoint in the middle of the replay names a block that is ahead of it
    stored |= records(checkpoint.take(second.part(), "m3", 1))
    third = rig()
    assert restored(third, stored).position == 3
    assert feed(third, LOG).totals() == one.totals()


def test_frames_that_waited_for_their_birth_are_applied_once_when_only_the_slot_was_written() -> None:
    one = rig(A)
    feed(one, LOG[:4])
    stored = records(checkpoint.take(one.part(), "m1", 1))
    one.settle(one.flow.announce(B, 0.0))
    feed(one, LOG)
    snap = checkpoint.take(one.part(), "m2", 1)
    slot_only = {key: encode(r) for key, r in snap.blocks if key != checkpoint.UNASSIGNED}
    waiting_only = {checkpoint.UNASSIGNED: encode(dict(snap.blocks)[checkpoint.UNASSIGNED])}
    for half in (slot_only, waiting_only):
        other = rig(A, B)
        restored(other, stored | half)
        other.drain()
        assert feed(other, LOG).totals() == one.totals()
        assert other.totals()["duplicate"] == 0 and other.totals()["judged"] == 6


def test_frames_that_still_wait_are_released_when_older_ones_were_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.seating.MAX_WAITING_FRAMES", 2)
    one = rig(A)
    one.flow.patient = True
    feed(one, LOG)
    assert one.flow.overdue(0) and len(one.flow.give_up(0).dead_letters) == 1
    one.settle(one.flow.announce(B, 0.0))
    totals = one.totals()
    assert (totals["received"], totals["judged"], totals["dead_lettered"]) == (6, 5, 1)


def test_a_refused_record_is_counted_once_when_its_poll_is_cut_by_a_reboot() -> None:
    again = birth("a", start=2)
    one = rig(A, again)
    feed(one, [frame(A, 0), frame(A, 1), frame(again, 0), b"\xc1"])
    assert one.totals()["received"] == 4 and one.totals()["dead_lettered"] == 1
    assert len(one.effects.dead_letters) == 1


def test_an_asset_whose_tombstone_is_older_than_the_replay_gets_its_alert_cleared() -> None:
    bundle = window_bundle(2, 2)
    one = Rig.make(bundle, [A])
    stored = records(checkpoint.take(one.part(), "m1", 1))
    feed(one, [frame(A, 0, 5.0)])
    raised = one.alerts[-1]
    other = Rig.make(bundle, [A])
    other.flow.births.retire(A.asset, A.birth_id)
    other.flow.adopt(checkpoint.restore(0, stored, other.flow.seats.new_pool, 0).partition, 0.0, end=1)
    feed(other, [frame(A, 0, 5.0)])
    other.settle(other.flow.obey_tombstones(0))
    assert [(a.alert_id, a.state) for a in other.alerts] == [(raised.alert_id, "raised"), (raised.alert_id, "cleared")]
    feed(other, [frame(A, 0, 5.0), frame(A, 1, 5.0)])
    assert [d.reason for d in other.effects.dead_letters] == ["unknown_birth"]


# -- terms


def test_the_newest_term_with_a_manifest_is_taken_whole() -> None:
    stored = {"0000000001.x|p|0": b"old", "0000000001.x|manifest": b"m1", "0000000002.y|p|0": b"new",
              "0000000002.y|manifest": b"m2", "0000000003.z|p|0": b"torn"}
    found = terms.sort_out(stored)
    assert found.records == {"p|0": b"new", "manifest": b"m2"}
    assert found.next_term("w") == "0000000004.w" and set(found.keys) == set(stored)


def test_a_paused_worker_that_goes_on_writing_overwrites_nothing_of_its_successor() -> None:
    stored: dict[str, bytes] = {}
    first = terms.sort_out(stored).next_term("a")
    stored |= {f"{first}|p|0": b"1", f"{first}|manifest": b"m1"}
    second = terms.sort_out(stored).next_term("b")
    stored |= {f"{second}|p|0": b"2", f"{second}|manifest": b"m2"}
    stored |= {f"{first}|p|0": b"late", f"{first}|manifest": b"late"}
    assert terms.sort_out(stored).records == {"p|0": b"2", "manifest": b"m2"}


def test_terms_of_workers_that_restored_at_once_differ() -> None:
    found = terms.sort_out({"0000000009.x|manifest": b"", "foreign": b"", "win|0": b""})
    assert found.next_term("a") != found.next_term("b") and found.next_term("a").startswith("0000000010.")


def test_a_term_begun_within_an_ownership_lies_above_it_and_below_every_successors() -> None:
    first = terms.Stored({}, ()).next_term("ffff")
    again = terms.renewed(terms.renewed(first))
    successor = terms.Stored({}, (f"{first}|manifest",)).next_term("0000")
    assert first < terms.renewed(first) < again < successor
    stored = {f"{again}|manifest": b"paused", f"{successor}|manifest": b"next"}
    assert terms.sort_out(stored).records == {"manifest": b"next"}
    assert terms.sort_out({f"{first}|manifest": b"old", f"{again}|manifest": b"new"}).records == {"manifest": b"new"}


def calibration(asset: str = "a") -> bytes:
    return encode_message(MachineEvent(asset, "recalibrate", 1))


@pytest.mark.parametrize("limit", [256, 2])
def test_an_event_that_waits_or_waited_in_vain_is_no_other_births_when_only_that_was_written(
        limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An asset lives under one birth while frames of its next one wait, and an event among them."""
    monkeypatch.setattr("pipeline.seating.MAX_WAITING_FRAMES", limit)
    again = birth("a", start=2)
    log = [frame(A, 0, 1.0), frame(A, 1, 1.0), frame(again, 0), calibration(), frame(again, 1), frame(again, 2)]

    def run(one: Rig, upto: int) -> None:
        one.flow.patient = True
        feed(one, log[:upto])
        if one.flow.overdue(0):
            one.flow.give_up(0)

    one = rig(A, B)
    run(one, 1)
    stored = records(checkpoint.take(one.part(), "m1", 1))
    run(one, 6)
    snap = checkpoint.take(one.part(), "m2", 1)
    other = rig(A, B)
    other.flow.patient = True
    restored(other, stored | {checkpoint.UNASSIGNED: encode(dict(snap.blocks)[checkpoint.UNASSIGNED])})
    run(other, 6)
    assert other.totals() == one.totals() and one.totals()["dead_lettered"] == (2 if limit == 2 else 0)
    assert not other.effects.notes and len(other.rows) == len(one.rows) == 1


def test_an_event_for_nobody_is_counted_once_when_the_asset_comes_later() -> None:
    log = [calibration(), frame(A, 0), frame(A, 1), calibration(), frame(A, 2)]
    one = rig()
    stored = records(checkpoint.take(one.part(), "m0", 1))
    feed(one, log)
    snap = checkpoint.take(one.part(), "m1", 1)
    for keep in (lambda key: key == checkpoint.UNASSIGNED, lambda key: key != checkpoint.UNASSIGNED, lambda key: True):
        other = rig()
        restored(other, stored | {key: encode(r) for key, r in snap.blocks if keep(key)})
        assert feed(other, log).totals() == one.totals()
