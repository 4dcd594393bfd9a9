"""A machine event starts an asset over at its place among the frames, once, and says what it did."""

from typing import Any

import numpy as np
import pytest

from engines.spec import MewmaSpec, WindowSpec
from pipeline.succession import Succession
from schemas import MachineEvent
from schemas.codec import encode
from tests.rig import Rig, birth, frame, mewma_bundle, window_bundle
from tests.unit import test_baseline_flow, test_drifting
from tests.unit.test_modelwatch import version

PUMP, OTHER = birth("pump"), birth("other")


def event(asset: str = "pump", kind: Any = "part_replaced", **fields: Any) -> bytes:
    return encode(MachineEvent(asset, kind, 5, **{"who": "sato", "why": "bearing 6205", **fields}))


def noise(rows: int, first: int = 0, level: float = 0.0, seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng((seed, first))
    return [frame(PUMP, q, rng.normal(size=(2, 2)) + level) for q in range(first, first + rows)]


def test_an_open_alert_is_cleared_with_the_reason_and_windows_start_over() -> None:
    rig = Rig.make(window_bundle(8, 4), [PUMP])
    rig.poll([frame(PUMP, q, 3.0) for q in range(5)], ts_ms=7_000)
    rig.poll([event(), *(frame(PUMP, q, 0.5) for q in range(5, 10))], ts_ms=9_000)
    rig.drain()
    raised, cleared = rig.alerts
    assert (raised.state, cleared.state, cleared.revision, cleared.seq) == ("raised", "cleared", 2, 4)
    assert cleared.alert_id == raised.alert_id and cleared.t_cleared == 9_000 * 10**6
    assert cleared.why.startswith("a part was replaced by sato: bearing 6205; ")
    assert not rig.part().order[0].open
    assert [q for _, q, _ in rig.rows] == [3, 8], "no window spans the event"
    assert rig.effects.notes[-1] == ("started_over", {
        "asset": "pump", "what": "part_replaced", "who": "sato", "why": "bearing 6205"})
    assert rig.totals()["received"] == rig.totals()["judged"] == 11


def test_a_baseline_is_learnt_anew_and_what_is_said_meanwhile_is_provisional() -> None:
    rig = Rig.make(mewma_bundle(rows=100), [PUMP, OTHER])
    rig.poll([*noise(60), *(frame(OTHER, q, 0.1 * q) for q in range(3))])
    table, slot = rig.part().order[0].table, rig.part().directory["pump", PUMP.birth_id, False]
    center = table["center"][slot].copy()
    assert table["ready"][slot] and not table["provisional"][slot]
    other = rig.part().directory["other", OTHER.birth_id, False]
    collected = int(table["collected"][other])
    rig.poll([event(kind="recalibrate"), *noise(20, 60, 9.0)])
    assert not table["ready"][slot] and table["provisional"][slot] and table["collected"][slot] == 40
    assert table["collected"][other] == collected, "of another asset"
    rig.poll(noise(40, 80, 9.0))
    rig.drain()
    assert table["ready"][slot] and not table["provisional"][slot]
    assert np.all(table["center"][slot] - center > 8.0)
    assert len(rig.effects.calibrations) == 2 and not rig.alerts


def test_rows_over_the_limit_before_an_event_do_not_count_after_it() -> None:
    rig = Rig.make(window_bundle(4, 4, on=(2, 2)), [PUMP])
    rig.poll([frame(PUMP, 0, 3.0), frame(PUMP, 1, 3.0), event(), frame(PUMP, 2, 3.0), frame(PUMP, 3, 3.0)])
    rig.drain()
    assert len(rig.rows) == 2 and not rig.alerts
    rig.poll([frame(PUMP, 4, 3.0), frame(PUMP, 5, 3.0)])
    rig.drain()
    assert [a.state for a in rig.alerts] == ["raised"]


def test_silence_goes_on_over_an_event() -> None:
    rig = Rig.make(window_bundle(), [PUMP, OTHER])
    rig.poll([frame(PUMP, 0), *(frame(OTHER, q) for q in range(5))], ts_ms=[1_000, *range(1_000, 81_001, 20_000)])
    rig.poll([event()], ts_ms=82_000)
    assert [(a.rule, a.state) for a in rig.alerts] == [("silent", "raised")]
    rig.poll([frame(PUMP, 1)], ts_ms=83_000)
    assert [(a.rule, a.state) for a in rig.alerts] == [("silent", "raised"), ("silent", "cleared")]


@pytest.mark.parametrize("asset", ["nobody", "other"])
def test_an_event_for_an_asset_that_has_sent_nothing_is_dead_lettered(asset: str) -> None:
    rig = Rig.make(window_bundle(), [PUMP, OTHER])
    rig.poll([frame(PUMP, 0), event(asset), frame(PUMP, 1)])
    (letter,) = rig.effects.dead_letters
    assert (letter.reason, letter.asset, letter.offset) == ("unknown_asset", asset, 1) and "spelling" in letter.detail
    assert (rig.totals()["judged"], rig.totals()["dead_lettered"]) == (2, 1)


@pytest.mark.parametrize("value, reason", [
    (event().replace(b"part_replaced", b"part_painted!"), "wrong_type"),
    (event().replace(b"\xa4t_ns\x05", b"\xa4t_ns\xff"), "wrong_type"),
    (event("p" * 129), "wrong_type"), (event(why="x" * 501), "wrong_type"),
    (event()[:1].replace(b"\x85", b"\x86") + event()[1:] + b"\xa1v\x02", "unknown_schema")])
def test_a_malformed_event_is_dead_lettered_as_one(value: bytes, reason: str) -> None:
    rig = Rig.make(window_bundle(), [PUMP])
    rig.poll([frame(PUMP, 0), value])
    (letter,) = rig.effects.dead_letters
    assert letter.reason == reason and letter.detail.startswith("no machine event: ")
    assert rig.totals()["judged"] == 1


def test_an_event_waits_with_the_frames_of_its_asset_for_the_birth_and_keeps_its_place() -> None:
    stream = [*(frame(PUMP, q, 3.0) for q in range(6)), event(), *(frame(PUMP, q, 3.0) for q in range(6, 9))]
    late, known = Rig.make(window_bundle(4, 4)), Rig.make(window_bundle(4, 4), [PUMP])
    late.poll(stream)
    assert late.part().unassigned.frames_waiting() == 10 and not late.effects.notes
    late.settle(late.flow.announce(PUMP, 0.0))
    late.drain()
    known.poll(stream)
    known.drain()
    assert late.rows == known.rows and len(late.rows) == 4
    assert [a.state for a in late.alerts] == ["raised", "cleared", "raised"]
    assert late.alerts == known.alerts and late.totals() == known.totals()


def test_an_event_that_waited_in_vain_ends_with_the_frames() -> None:
    rig = Rig.make(window_bundle(), [OTHER])
    rig.poll([frame(PUMP, 0), event()], ts_ms=1_000)
    rig.poll([frame(OTHER, 0)], ts_ms=62_000)
    assert [d.reason for d in rig.effects.dead_letters] == ["unknown_birth"] * 2
    assert rig.totals()["dead_lettered"] == 2


def test_a_flood_of_events_between_frames_is_obeyed_one_by_one() -> None:
    rig = Rig.make(window_bundle(4, 4), [PUMP])
    rig.poll([value for q in range(300) for value in (frame(PUMP, q, 3.0), event())])
    assert len(rig.effects.notes) == 300 and not rig.rows and not rig.alerts
    assert rig.totals()["judged"] == 600


def test_an_heir_learns_the_asset_anew_too() -> None:
    old = window_bundle(8, 4)
    rig = Rig.make(old, [PUMP])
    rig.flow.successions["win"] = heirs = Succession(version(old, "2.0.0", window=WindowSpec(8, 4), rule="level"))
    rig.poll([frame(PUMP, q) for q in range(8)])
    assert heirs.cold([rig.part()]) == []
    rig.poll([event()])
    assert heirs.cold([rig.part()]) == ["pump"]


def test_a_waiting_swap_goes_on_once_the_alert_that_held_it_is_cleared_by_an_event() -> None:
    old = mewma_bundle(rows=64, on=(1, 1))
    rig = Rig.make(old, [PUMP])
    rig.poll([*noise(40), *noise(5, 40, 50.0)])
    rig.drain()
    assert rig.alerts[-1].active
    rig.flow.successions["mew"] = heirs = Succession(
        version(old, "2.0.0", mewma=MewmaSpec(smoothing=0.3, calibration_rows=64)))
    rig.poll(noise(40, 45, 50.0))
    assert heirs.cold([rig.part()]) == ["pump"], "what an alerting asset sends teaches nothing"
    rig.poll([event(), *noise(40, 85)])
    assert heirs.cold([rig.part()]) == []


def test_a_drift_that_is_told_ends_with_the_event() -> None:
    values = list(test_drifting.log())
    rig = test_drifting.play(tuple(values), [0, len(values)], test_drifting.bundle())
    assert [a.state for a in test_drifting.said(rig)] == ["raised"]
    rig.poll([event("d0", "recalibrate")], ts_ms=3_000)
    cleared = test_drifting.said(rig)[-1]
    assert cleared.state == "cleared" and "recalibration was ordered by sato" in cleared.why
    slot = rig.part().directory["d0", test_drifting.ASSETS[0].birth_id, False]
    table = rig.part().order[0].table
    assert table["band"][slot] == 1.0 and not table["drifting"][slot]


def test_a_baseline_after_the_engine_is_learnt_anew() -> None:
    rig = test_baseline_flow.rig()
    test_baseline_flow.feed(rig, 0, 120)
    slot = rig.part().directory["a0", test_baseline_flow.ASSETS[0].birth_id, False]
    table = rig.part().order[0].table
    assert table["base_ready"][slot] and not table["provisional"][slot]
    center = table["base_center"][slot].copy()
    rig.poll([event("a0")])
    assert not table["base_ready"][slot] and table["provisional"][slot]
    test_baseline_flow.feed(rig, 120, 240, shift=30.0)
    assert table["base_ready"][slot] and not table["provisional"][slot]
    assert np.abs(table["base_center"][slot] - center).max() > 20.0
    assert not [a for a in rig.alerts if a.asset == "a0"]
