"""A baseline in the flow: rows that calibrate are unknown, scores are by the own normal, restarts lose nothing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from engines.bundle import Bundle
from pipeline import checkpoint, kinds
from schemas import Assessment
from tests.rig import Levels, Rig, baseline_bundle, birth, frame

ROWS = 40
ASSETS = [birth(f"a{i}") for i in range(3)]


def bundle(version: str = "1.0.0", sha: str = "0" * 64, **fields: Any) -> Bundle:
    return baseline_bundle(ROWS, version, sha, **fields)


def rig(of: Bundle | None = None, **settings: Any) -> Rig:
    return Rig.make(of or bundle(), ASSETS, engine=Levels(), **settings)


def value(asset: int, seq: int, shift: float = 0.0) -> np.ndarray:
    x = np.random.default_rng([asset, seq]).normal(size=(2, 2)) + 10.0 * asset
    x[1] += shift
    return x


def feed(to: Rig, first: int, last: int, *, shift: float = 0.0, assets: Sequence[int] = (0, 1, 2), size: int = 7,
         **fields: Any) -> None:
    values = [frame(ASSETS[a], seq, value(a, seq, shift), **fields) for seq in range(first, last) for a in assets]
    for at in range(0, len(values), size):
        to.poll(values[at:at + size])
    to.drain()


def told(of: Rig, asset: str = "a0") -> list[Assessment]:
    return [a for a in of.effects.assessments if a.asset == asset]


def test_rows_that_calibrate_are_assessed_as_unknown_and_a_fault_is_found_with_its_channel() -> None:
    one = rig()
    feed(one, 0, 200)
    state = [s for a in told(one) for s in a.state]
    why = [w for a in told(one) for w in a.answers.unknown]
    assert state[:ROWS] == [3] * ROWS and why[:ROWS] == ["calibrating"] * ROWS
    assert set(why[ROWS:]) == {""} and 3 not in state[ROWS:]
    assert not one.alerts
    done = one.effects.calibrations
    assert sorted(c.asset for c in done) == ["a0", "a1", "a2"]
    assert done[0].channels == ("a.level", "a.peak", "b.level", "b.peak") and done[0].rows == ROWS
    assert {c.status for c in done} == {"good"}
    feed(one, 200, 260, shift=8.0, assets=[1])
    raised = one.alerts[0]
    assert (raised.asset, raised.contributions[0].channel, raised.contributions[0].direction) == ("a1", "b", "up")
    assert not raised.provisional
    assert abs(sum(s for s in told(one, "a1")[-1].answers.contributions[-1]) - 1.0) < 1e-9
    one.totals()


def test_scores_alerts_and_columns_are_the_same_however_the_stream_is_cut() -> None:
    def play(size: int, batch: int) -> Rig:
        one = rig(max_size=batch)
        feed(one, 0, 100, size=size)
        feed(one, 100, 140, shift=8.0, size=size)
        return one

    whole, single, odd = play(1000, 256), play(1, 1), play(11, 5)
    for other in (single, odd):
        for a in ("a0", "a1", "a2"):
            assert [r for r in other.rows if r[0] == a] == [r for r in whole.rows if r[0] == a]
            assert [x for x in other.alerts if x.asset == a] == [x for x in whole.alerts if x.asset == a]
        for column in other.part().order[0].table.columns:
            assert np.array_equal(other.part().order[0].table[column.name][:3],
                                  whole.part().order[0].table[column.name][:3])


@pytest.mark.parametrize("crash", [3, 15, 41, 60])
def test_a_worker_that_starts_again_goes_on_with_half_a_baseline_and_with_a_whole_one(crash: int) -> None:
    whole, first, second = rig(), rig(), rig()
    feed(whole, 0, 100)
    feed(first, 0, crash)
    snap = checkpoint.take(first.part(), "m1", 1)
    stored = {key: checkpoint.encode(r) for key, r in snap.blocks} | {"manifest": checkpoint.encode(snap.manifest)}
    part = checkpoint.restore(0, stored, second.flow.seats.new_pool, 0).partition
    second.flow.adopt(part, 0.0)
    feed(second, crash, 100)
    for a in ("a0", "a1", "a2"):
        rows = [r for r in whole.rows if r[0] == a]
        assert [r for r in (*first.rows, *second.rows) if r[0] == a] == rows
    assert [c.limit for c in (*first.effects.calibrations, *second.effects.calibrations)] == [
        c.limit for c in whole.effects.calibrations]


def test_a_baseline_that_moved_makes_provisional_alerts_and_says_so() -> None:
    one = rig(bundle(most_move=1.0, fleet_limit=8.0))
    feed(one, 0, 21)
    feed(one, 21, 40, shift=40.0)
    feed(one, 40, 60)
    assert {c.status for c in one.effects.calibrations} == {"suspect"}
    assert all("the level moved" in c.notes.reason or "its limit" in c.notes.reason for c in one.effects.calibrations)
    feed(one, 60, 90, shift=2000.0)
    assert one.alerts[0].provisional


def test_a_reboot_keeps_the_baseline_and_other_channels_learn_anew() -> None:
    one = rig()
    feed(one, 0, 60, assets=[0])
    again = birth("a0", start=2)
    one.flow.births.add(again)
    one.poll([frame(again, seq, value(0, 100 + seq)) for seq in range(12)])
    one.drain()
    assert told(one)[-1].answers.unknown == ("",) * len(told(one)[-1].seq)
    other = birth("a0", start=3, channels=("a", "c"))
    one.flow.births.add(other)
    one.poll([frame(other, seq, value(0, 200 + seq)) for seq in range(12)])
    one.drain()
    assert set(told(one)[-1].answers.unknown) == {"calibrating"}


def test_a_historical_lane_is_scored_by_the_live_baseline_and_alerts_nobody() -> None:
    one = rig()
    feed(one, 0, 60)
    feed(one, 0, 30, shift=50.0, assets=[0], historical=True)
    lane = [a for a in told(one) if a.historical]
    assert {w for a in lane for w in a.answers.unknown} == {""}
    assert max(s for a in lane for s in a.score) > 2
    assert not one.alerts
    half = rig()
    feed(half, 0, 10)
    feed(half, 0, 10, assets=[0], historical=True)
    assert {w for a in told(half) if a.historical for w in a.answers.unknown} == {"calibrating"}
    half.totals()


def test_features_of_another_net_are_learnt_anew_and_an_open_alert_makes_that_suspect() -> None:
    old, new = bundle(), bundle("1.1.0", sha="1" * 64)
    assert old.state_hash(2, 2) != new.state_hash(2, 2)
    retitled = replace(old, spec=msgspec.structs.replace(old.spec, version="1.0.1"))
    assert old.state_hash(2, 2) == retitled.state_hash(2, 2)
    one = rig(old)
    feed(one, 0, 60)
    feed(one, 60, 80, shift=9.0, assets=[1])
    assert one.alerts[-1].active
    one.flow.succeed(new, one.engine.inputs)
    feed(one, 80, 84)
    assert {w for a in told(one)[-1:] for w in a.answers.unknown} == {"calibrating"}
    assert one.alerts[-1].active
    feed(one, 84, 140)
    status = {c.asset: c.status for c in one.effects.calibrations}
    assert status == {"a0": "good", "a1": "suspect", "a2": "good"}
    one.totals()


def test_frames_that_are_gone_make_what_was_learnt_provisional() -> None:
    one = rig()
    feed(one, 0, 60)
    one.flow.skip(one.part())
    assert one.part().order[0].table["provisional"][:3].tolist() == [1, 1, 1]


def test_a_row_with_a_feature_that_is_no_number_is_dead_lettered() -> None:
    one = rig()
    feed(one, 0, 60, assets=[0])
    one.poll([frame(ASSETS[0], seq, 777.0) for seq in (60, 61)])
    one.drain()
    assert one.effects.dead_letters
    feed(one, 62, 80, assets=[0])
    assert told(one)[-1].answers.unknown[-1] == ""
    one.totals()


def test_a_pool_has_room_for_the_rows_of_features() -> None:
    pool = kinds.new_pool("k", bundle(), 2, 2, None)
    assert (pool.calibration_rows, pool.calibration_width) == (ROWS, 4)


def driven(seq: int, speed: float, shift: float = 0.0) -> bytes:
    """One frame of a machine whose second channel follows its first."""
    noise = np.random.default_rng([9, seq]).normal(size=(2, 2))
    return frame(DRIVEN, seq, np.stack([speed + 0.05 * noise[0], 5.0 + 2.0 * speed + shift + noise[1]]))


DRIVEN = birth("driven", channels=[{"name": "a", "quantity": "rotational speed", "unit": "r/min"},
                                   {"name": "b", "quantity": "vibration velocity", "unit": "mm/s"}])
SPEEDS = np.repeat([10.0, 14.0, 12.0, 10.0, 16.0, 12.0], 10)  # of the 60 frames that a baseline is learnt from


def drive(size: int = 7, quantities: tuple[str, ...] = ("rotational speed",)) -> Rig:
    """Learn at three speeds, run between them, well and then ill, and at last faster than was ever seen."""
    of = baseline_bundle(60, stationarity=0.5, regime_quantities=quantities)
    one = Rig.make(of, [DRIVEN], engine=Levels())
    speeds = [*SPEEDS, *SPEEDS[:1], *np.tile([11.0, 13.0, 15.0], 20), *np.full(20, 13.0), *np.full(20, 30.0)]
    values = [driven(seq, speed, 8.0 if 121 <= seq < 141 else 0.0) for seq, speed in enumerate(speeds)]
    for at in range(0, len(values), size):
        one.poll(values[at:at + size])
    one.drain()
    return one


def test_what_speed_explains_is_no_fault_what_it_does_not_is_one_and_a_speed_never_seen_is_unknown() -> None:
    one = drive()
    (raised,) = [a for a in one.alerts if a.state == "raised"]
    said = {seq: (state, why) for a in told(one, "driven")
            for seq, state, why in zip(a.seq, a.state, a.answers.unknown, strict=True)}
    assert 121 <= raised.seq < 128 and raised.contributions[0].channel == "b" and not raised.provisional
    assert {state for seq, (state, _) in said.items() if 61 <= seq < 121} == {0}
    assert {said[seq][1] for seq in range(142, 161)} == {"speed or load outside the range that the baseline saw"}
    assert [a.state for a in one.alerts][-1] != "cleared", "what is not known clears no alert"
    blind = drive(quantities=())
    assert not [a for a in blind.alerts if a.seq < 141], "8 hide in what the speed does"


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_driven_scores_are_the_same_however_the_stream_is_cut(size: int) -> None:
    assert drive(size).rows == drive().rows and drive(size).alerts == drive().alerts
