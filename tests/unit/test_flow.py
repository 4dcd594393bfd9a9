"""What becomes of each kind of frame, and what the alerts say."""

import numpy as np
import pytest

from pipeline.births import read_birth
from pipeline.errors import Rejected
from pipeline.seating import MAX_WAITING_FRAMES
from schemas import AssetBirth
from schemas.codec import encode
from tests.rig import Drift, Rig, WindowMean, birth, frame, mewma_bundle, window_bundle

PUMP = birth("pump")


def reasons(rig: Rig) -> list[str]:
    return [d.reason for d in rig.effects.dead_letters]


def ready(rig: Rig, of: AssetBirth, rows: int = 100) -> int:
    """Calibrate an asset; returns the next sequence number."""
    rng = np.random.default_rng(0)
    rig.poll([frame(of, q, rng.normal(size=(2, 2))) for q in range(rows // 2)])
    return rows // 2


@pytest.mark.parametrize(("value", "reason"), [
    (None, "empty"), (b"", "empty"), (b"\xc1", "undecodable"), (b"\xff", "undecodable"),
    (b"\x81\xa1z" + b"\x91" * 100_000 + b"\xc0", "undecodable"),
    (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.", "undecodable"),
    (b"\x00" * (1 << 20) + b"\x00", "oversized"),
    (encode(PUMP), "wrong_type"), (frame(PUMP, 0).replace(b"\xa3seq\x00", b"\xa3seq\xc3"), "wrong_type"),
    (frame(PUMP, 0)[:1].replace(b"\x85", b"\x86") + frame(PUMP, 0)[1:] + b"\xa1v\x02", "unknown_schema"),
    (frame(PUMP, 0, data=b""), "empty"), (frame(PUMP, 0, data=b"123"), "wrong_length"),
    (frame(PUMP, 0, np.nan), "not_finite"),
    (frame(PUMP, 0, [[0, np.inf], [0, 0]]), "not_finite"), (frame(PUMP, 0, quality="bad"), "bad_quality"),
    (frame(PUMP, 0, t0_ns=3_600_000_000_000 * 2), "bad_clock"),
])
def test_admit_dead_letters_a_bad_record_and_judges_its_neighbours(value: bytes | None, reason: str) -> None:
    rig = Rig.make(window_bundle(), [PUMP])
    rig.poll([frame(PUMP, 1), value, frame(PUMP, 2)])
    assert reasons(rig) == [reason]
    letter = rig.effects.dead_letters[0]
    assert letter.offset == 1 and letter.length == len(value or b"") and letter.detail
    totals = rig.totals()
    assert (totals["received"], totals["judged"], totals["dead_lettered"], totals["gap_frames"]) == (3, 2, 1, 0)


def test_admit_accepts_a_device_whose_clock_says_1970() -> None:
    rig = Rig.make(window_bundle(), [PUMP])
    rig.poll([frame(PUMP, 0, t0_ns=0), frame(PUMP, 1, t0_ns=0)], ts_ms=1_700_000_000_000)
    assert rig.totals()["judged"] == 2


def test_frames_wait_for_their_birth_and_are_judged_in_order_when_it_comes() -> None:
    rig = Rig.make(window_bundle(4, 4))
    rig.poll([frame(PUMP, q, 3.0) for q in range(4)])
    assert rig.totals()["received"] == 4 and rig.part().unassigned.frames_waiting() == 4
    assert rig.flow.awaited(PUMP)
    rig.settle(rig.flow.announce(PUMP, 0.0))
    rig.drain()
    assert rig.totals()["judged"] == 4 and [r[:2] for r in rig.rows] == [("pump", 1), ("pump", 3)]


def test_frames_are_dead_lettered_oldest_first_when_too_many_wait() -> None:
    rig = Rig.make(window_bundle())
    rig.poll([frame(PUMP, q) for q in range(MAX_WAITING_FRAMES + 3)])
    assert [d.offset for d in rig.effects.dead_letters] == [0, 1, 2] and set(reasons(rig)) == {"unknown_birth"}
    assert rig.totals()["dead_lettered"] == 3


def test_frames_are_dead_lettered_when_their_birth_does_not_come_within_a_minute() -> None:
    rig = Rig.make(window_bundle())
    rig.poll([frame(PUMP, 0), b"\xc1"], ts_ms=[1_000, 61_001])
    assert sorted(reasons(rig)) == ["undecodable", "unknown_birth"]


def test_a_reboot_starts_sequence_and_window_over_when_the_birth_changes() -> None:
    again = birth("pump", start=5)
    rig = Rig.make(window_bundle(8, 4), [PUMP, again])
    rig.poll([frame(PUMP, q, 1.0) for q in range(5)] + [frame(again, q, 2.0) for q in range(4)] + [frame(PUMP, 9)])
    totals = rig.totals()
    assert [(q, s) for _, q, s in rig.rows] == [(3, 1.0), (3, 2.0)]
    assert (totals["judged"], totals["late"], totals["gap_frames"]) == (9, 1, 0)


def test_a_reboot_moves_the_asset_and_closes_its_alert_when_the_layout_changes() -> None:
    wider = birth("pump", start=5, channels=("a", "b", "c"))
    rig = Rig.make(window_bundle(4, 4, threshold=1.0), [PUMP, wider])
    rig.poll([frame(PUMP, q, 3.0) for q in range(4)] + [frame(wider, q, 0.0) for q in range(4)])
    assert len(rig.part().pools) == 2 and [a.state for a in rig.alerts] == ["raised", "cleared"]
    assert rig.alerts[0].alert_id == rig.alerts[1].alert_id and rig.totals()["judged"] == 8


def test_a_reboot_counts_by_the_logs_order_when_the_device_has_lost_its_clock() -> None:
    now, lost, back = birth("pump", start=10**18), birth("pump", start=5), birth("pump", start=10**18 + 7)
    rig = Rig.make(window_bundle(8, 4), [now, lost, back])
    for n, of in enumerate((now, lost, back)):
        rig.poll([frame(of, q, float(n), t0_ns=1) for q in range(5)])
    rig.poll([frame(lost, 5, t0_ns=1), frame(back, 5, t0_ns=1)])
    totals = rig.totals()
    assert (totals["judged"], totals["late"]) == (16, 1) and [r[2] for r in rig.rows] == [0.0, 1.0, 2.0, 1.5]


def test_a_damaged_counter_costs_one_frame_and_a_counter_that_starts_anew_a_few() -> None:
    rig = Rig.make(window_bundle(2, 2), [PUMP])
    rig.poll([frame(PUMP, q) for q in range(100, 110)])
    rig.poll([frame(PUMP, 2**40, t0_ns=1), *(frame(PUMP, q) for q in range(110, 120))])
    assert rig.totals()["late"] == 1 and rig.totals()["judged"] == 20
    t0 = 10**9  # the device counts from 0 again under the same birth; its time goes on
    rig.poll([frame(PUMP, q, t0_ns=t0 + q) for q in range(30)])
    totals = rig.totals()
    assert (totals["late"], totals["judged"], totals["gap_frames"]) == (8, 43, 0)


def test_old_frames_sent_again_stay_late_however_many_there_are() -> None:
    rig = Rig.make(window_bundle(2, 2), [PUMP])
    rig.poll([frame(PUMP, q) for q in range(300)])
    rig.poll([frame(PUMP, q) for q in range(200)])
    totals = rig.totals()
    assert (totals["judged"], totals["late"]) == (300, 200)


def test_strange_names_are_counted_and_hurt_nobody() -> None:
    rig = Rig.make(window_bundle(2, 2), [PUMP])
    for n in range(5):
        rig.poll([frame(birth(f"x{n * 1000 + k}"), 0) for k in range(1000)] + [frame(PUMP, n)])
    rig.poll([frame(PUMP, 5), frame(PUMP, 6, asset="y" * 200_000)])
    totals = rig.totals()
    assert totals["judged"] == 6 and len(rig.part().unassigned.given_up) <= 1024
    assert totals["dead_lettered"] == 5000 - MAX_WAITING_FRAMES + 1
    assert all(len(d.asset or "") <= 1024 for d in rig.effects.dead_letters)


def test_a_hole_in_the_log_starts_windows_over_and_makes_the_rest_provisional() -> None:
    windows, charts = Rig.make(window_bundle(8, 4), [PUMP]), Rig.make(mewma_bundle(rows=100), [PUMP])
    windows.poll([frame(PUMP, q) for q in range(3)])
    q = ready(charts, PUMP)
    for rig in (windows, charts):
        rig.flow.skip(rig.part())
    windows.poll([frame(PUMP, 90 + q) for q in range(4)])
    charts.poll([frame(PUMP, q + i, -1000.0) for i in range(3)])
    charts.drain()
    windows.drain()
    assert [r[1] for r in windows.rows] == [93] and charts.alerts[0].provisional


def test_a_baseline_survives_a_reboot_but_not_other_channels() -> None:
    again, other = birth("pump", start=5), birth("pump", start=9, channels=("a", "x"))
    rig = Rig.make(mewma_bundle(rows=100), [PUMP, again, other])
    ready(rig, PUMP)
    rig.poll([frame(again, 0)])
    rig.drain()
    assert len(rig.rows) == 1
    rig.poll([frame(other, 0)])
    rig.drain()
    assert len(rig.rows) == 1 and rig.totals()["judged"] == 52


def test_a_tombstone_frees_the_slot_and_clears_the_alert() -> None:
    rig = Rig.make(window_bundle(4, 4), [PUMP])
    rig.poll([frame(PUMP, q, 3.0) for q in range(2)])
    rig.drain()
    rig.settle(rig.flow.retire("pump", PUMP.birth_id))
    assert [a.state for a in rig.alerts] == ["raised", "cleared"]
    rig.poll([frame(PUMP, 2)])
    assert reasons(rig) == ["unknown_birth"] and rig.totals()["dead_lettered"] == 1


def test_a_poison_row_is_dead_lettered_alone_when_the_engine_fails_on_it() -> None:
    rig = Rig.make(window_bundle(2, 2), [PUMP], engine=WindowMean(poison=7.0), max_size=256)
    rig.poll([frame(PUMP, q, 7.0 if q == 100 else 0.5) for q in range(256)])
    rig.drain()
    totals = rig.totals()
    letter = rig.effects.dead_letters[0]
    assert reasons(rig) == ["poison_row"] and letter.offset == 100 and letter.row
    assert (totals["rows_scored"], totals["rows_dead_lettered"], totals["judged"]) == (255, 1, 256)


def test_a_row_is_dead_lettered_when_the_model_returns_nan() -> None:
    class Broken(WindowMean):
        def infer(self, inputs):  # type: ignore[no-untyped-def]
            score = super().infer(inputs)["score"]
            return {"score": np.where(score > 5, np.nan, score)}
    rig = Rig.make(window_bundle(2, 2), [PUMP], engine=Broken())
    rig.poll([frame(PUMP, 0, 9.0), frame(PUMP, 1, 0.5)])
    rig.drain()
    assert reasons(rig) == ["not_finite_output"] and rig.totals()["rows_scored"] == 1


def test_an_asset_is_dead_lettered_when_the_partition_is_full() -> None:
    rig = Rig.make(window_bundle(), [PUMP, birth("q"), birth("r")], max_assets=2)
    rig.poll([frame(PUMP, 0), frame(birth("q"), 0), frame(birth("r"), 0), frame(PUMP, 1)])
    assert reasons(rig) == ["asset_limit"] and rig.totals()["judged"] == 3


def test_an_asset_is_dead_lettered_when_no_bundle_fits_its_layout() -> None:
    odd = birth("odd", samples=3)
    rig = Rig.make(window_bundle(8, 4), [odd])
    rig.poll([frame(odd, 0)])
    assert reasons(rig) == ["no_route"] and "3 samples" in rig.effects.dead_letters[0].detail


def test_a_record_is_dead_lettered_when_its_asset_belongs_on_another_partition() -> None:
    rig = Rig.make(window_bundle(), [PUMP])
    rig.flow.seats._partition_of = lambda asset: 3
    rig.poll([frame(PUMP, 0)])
    assert reasons(rig) == ["misrouted"] and "partitioner=murmur2_random" in rig.effects.dead_letters[0].detail


def test_integer_samples_become_physical_values_by_scale_and_offset() -> None:
    channels = [{"name": "a", "quantity": "v", "unit": "V", "dtype": "i2", "scale": 0.5, "offset": 1.0},
                {"name": "b", "quantity": "v", "unit": "V", "dtype": "u1"}]
    raw = AssetBirth.make(asset="raw", start_ns=1, rate_hz=2000.0, samples_per_frame=2, asset_class="pump", site="s",
                          channels=channels)
    rig = Rig.make(window_bundle(2, 2), [raw])
    data = np.array([2, 4], "<i2").tobytes() + np.array([10, 20], "u1").tobytes()
    rig.poll([frame(birth("raw"), 0, birth_id=raw.birth_id, data=data)])
    rig.drain()
    assert rig.rows[0][2] == pytest.approx((2 + 3 + 10 + 20) / 4)


def test_historical_frames_are_assessed_but_touch_no_live_state_and_raise_nothing() -> None:
    rig = Rig.make(window_bundle(4, 4), [PUMP])
    rig.poll([frame(PUMP, 50, 0.1)])
    rig.poll([frame(PUMP, q, 9.0, historical=True) for q in range(4)])
    rig.poll([frame(PUMP, q, 9.0, historical=True) for q in range(4)])  # the same replay once more
    rig.poll([frame(PUMP, 51, 0.1)])
    totals = rig.totals()
    assert [a.historical for a in rig.effects.assessments] == [True, False] and rig.alerts == []
    assert (totals["judged"], totals["duplicate"], totals["late"], totals["gap_frames"]) == (6, 4, 0, 0)


def test_silence_is_said_once_and_taken_back_when_frames_come_again() -> None:
    rig = Rig.make(window_bundle(), [PUMP, birth("q")])
    rig.poll([frame(PUMP, 0), frame(birth("q"), 0)], ts_ms=1_000)
    for k, ts in enumerate((20_000, 40_000, 60_999, 61_001, 62_000)):
        rig.poll([frame(birth("q"), k + 1)], ts_ms=ts)
    rig.poll([frame(PUMP, 1)], ts_ms=90_000)
    said = [(a.asset, a.rule, a.state, a.revision) for a in rig.alerts]
    assert said == [("pump", "silent", "raised", 1), ("pump", "silent", "cleared", 2)]
    assert rig.alerts[0].alert_id == rig.alerts[1].alert_id and rig.alerts[0].t_raised == 61_000_000_000


def test_silence_has_the_same_id_by_the_workers_clock_and_by_the_logs() -> None:
    other = birth("q")
    by_clock, by_log = (Rig.make(window_bundle(), [PUMP, other]) for _ in range(2))
    for rig in (by_clock, by_log):
        rig.poll([frame(PUMP, 0), frame(other, 0), frame(other, 1)], ts_ms=[1_000, 30_000, 58_000])
    by_clock.settle(by_clock.flow.tick(0.0, {0: 64_000}))
    assert len(by_clock.alerts) == 1
    for rig in (by_clock, by_log):
        rig.poll([frame(other, 2), frame(PUMP, 1)], ts_ms=[80_000, 100_000])
    assert by_clock.alerts == by_log.alerts and len(by_log.alerts) == 2


def test_an_outage_of_the_bus_is_nobodys_silence() -> None:
    fleet = [birth(f"p{n}") for n in range(5)]
    rig = Rig.make(window_bundle(8, 4), fleet)
    rig.poll([frame(b, 0, 1.0) for b in fleet], ts_ms=1_000)
    rig.poll([frame(b, 1, 1.0) for b in fleet], ts_ms=[600_000 + n for n in range(5)])
    assert rig.alerts == [] and rig.part().spans[-1] == (600_000, 600_004)
    rig.poll([frame(fleet[0], q, 1.0) for q in (2, 3, 4)], ts_ms=[630_000, 659_000, 661_000])
    assert {a.asset for a in rig.alerts} == {"p1", "p2", "p3", "p4"}
    assert all(a.t_first == (600_000 + int(a.asset[1])) * 1_000_000 for a in rig.alerts)


def test_a_broken_clock_moves_nothing_but_itself() -> None:
    rig = Rig.make(window_bundle(), [PUMP, birth("q")])
    rig.poll([frame(PUMP, 0), frame(birth("q"), 0, t0_ns=10**18), frame(PUMP, 1)], ts_ms=1_000)
    assert reasons(rig) == ["bad_clock"] and rig.alerts == [] and rig.part().now_ms == 1_000


def test_an_alert_names_channel_direction_window_and_why() -> None:
    rig = Rig.make(mewma_bundle(rows=100, on=(2, 3), off=2), [PUMP])
    q = ready(rig, PUMP)
    rig.poll([frame(PUMP, q + i, [[0, 0], [-1000, -1000]]) for i in range(3)])
    rig.drain()
    alert = rig.alerts[0]
    assert (alert.state, alert.revision, alert.active, alert.rule) == ("raised", 1, True, "anomaly")
    assert alert.contributions[0].channel == "b" and alert.contributions[0].direction == "down"
    assert sum(c.share for c in alert.contributions) == pytest.approx(1.0, abs=1e-12)
    assert "b down" in alert.why and alert.seq == q + 1
    assert alert.window is not None and alert.window.end_ns == alert.t_last
    assert len(rig.effects.calibrations) == 1 and isinstance(rig.engine, Drift)


def test_an_alert_does_not_annunciate_when_its_data_came_late() -> None:
    rig = Rig.make(window_bundle(2, 2), [PUMP])
    rig.poll([frame(PUMP, 0, 5.0)], ts_ms=400_000)
    rig.drain()
    assert not rig.alerts[0].annunciate and "stale" in (rig.alerts[0].annunciate_why_not or "")


def test_read_birth_refuses_content_that_does_not_match_its_id() -> None:
    forged = encode(PUMP).replace(b"pump", b"pumq", 1)
    with pytest.raises(Rejected, match="birth_id"):
        read_birth(None, forged)
