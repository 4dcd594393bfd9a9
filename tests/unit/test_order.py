"""Windows of kind `order`: which samples, at which rate, under which lines, and what makes their answer unknown."""

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from engines.kindspec import OrderSpec
from engines.orders import Orders
from pipeline import checkpoint, listening, terms
from pipeline.advise import line_text
from pipeline.listening import REASONS
from pipeline.resample import resample
from pipeline.succession import Succession
from schemas import AssetBirth
from tests.orderrig import BEARING, ORDERS, SPEC, Hears, asset, bundle
from tests.rig import Rig, frame

RPM = 1800.0
NAMES = {name: getattr(listening, name) for name in (
    "NO_CHANNEL", "SEVERAL", "NO_GEOMETRY", "IMPOSSIBLE", "NO_SPEED", "STILL", "SLOW", "FAST", "CHANGES", "DEAD",
    "CLIPPED", "MISSING")}


def signal(seed: int = 0, n: int = 1200) -> np.ndarray:
    return np.random.default_rng(seed).normal(2.0, 3.0, n).astype("f4")


def frames(of: AssetBirth, x: np.ndarray, rpm: float | None = RPM, first: int = 0, **fields: Any) -> list[bytes]:
    """Cut x (samples,) or (channels, samples) into frames."""
    x = np.atleast_2d(x)
    n = of.samples_per_frame
    return [frame(of, first + k, x[:, k * n : (k + 1) * n], rpm=rpm, **fields) for k in range(x.shape[1] // n)]


def run(of: AssetBirth, records: list[bytes], cuts: tuple[int, ...] = (), **settings: Any) -> Rig:
    rig = Rig.make(bundle(**settings), [of], engine=Hears())
    for part in np.split(np.arange(len(records)), cuts):
        rig.poll([records[i] for i in part.tolist()])
    rig.drain()
    rig.totals()
    return rig


def reasons(rig: Rig) -> list[str]:
    return [why for a in rig.effects.assessments for why in a.answers.unknown]  # type: ignore[union-attr]


def told(rig: Rig) -> list[int]:
    """Return the reasons' numbers of all rows."""
    return [REASONS.index(why) + 1 if why else 0 for why in reasons(rig)]


@pytest.mark.parametrize(("rate", "samples"), [(1000.0, 30), (1000.0, 200), (2000.0, 7), (2560.0, 128), (4000.0, 1)])
def test_rows_are_the_windows_by_hand(rate: float, samples: int) -> None:
    of = asset(rate=rate, samples=samples)
    x = signal(n=int(2.2 * rate / 5) // samples * samples + 5 * samples)
    rig = run(of, frames(of, x), cuts=(1, 2, 5))
    size, hop = round(SPEC.size * rate / 1000), round(SPEC.hop * rate / 1000)
    starts = range(0, len(x) - size + 1, hop)
    assert len(rig.engine.samples) == len(starts) > 1
    ratio = {1000.0: (1, 1), 2000.0: (1, 2), 2560.0: (25, 64), 4000.0: (1, 4)}[rate]
    for got, start in zip(rig.engine.samples, starts, strict=True):
        window = x[start : start + size].astype(np.float64)
        window = window - window.mean()
        want = resample(window / np.sqrt((window * window).mean()), *ratio)[: SPEC.size]
        np.testing.assert_array_equal(got, want.astype("f4"))
    np.testing.assert_array_equal(rig.engine.lines, np.tile(Orders(**ORDERS).lines_hz(RPM), (len(starts), 1)))
    ends = [start + size - 1 for start in starts]
    found = [(q, t) for a in rig.effects.assessments for q, t in zip(a.seq, a.t_end, strict=True)]
    assert [q for q, _ in found] == [end // samples for end in ends]
    assert [t for _, t in found] == [1 + round(end * 1e9 / rate) for end in ends]
    assert set(told(rig)) == {0}


def test_the_scale_and_the_level_of_a_signal_change_no_row() -> None:
    of = asset()
    one, ten, moved = (run(of, frames(of, signal() * f + c)).engine.samples for f, c in ((1, 0), (10, 0), (0.1, 100)))
    np.testing.assert_allclose(one, ten, atol=1e-5)
    np.testing.assert_allclose(one, moved, atol=1e-4)


def test_how_samples_are_packed_into_frames_changes_no_row() -> None:
    ways = [asset(samples=n) for n in (1, 30, 100, 200)]
    rows = [np.array(run(of, frames(of, signal())).engine.samples) for of in ways]
    for other in rows[1:]:
        np.testing.assert_array_equal(rows[0], other)


def speeds(rig: Rig) -> list[float]:
    return [round(float(line[0]) * 60, 1) for line in rig.engine.lines]


def test_the_speed_comes_from_the_channel_the_frame_or_the_birth_in_this_order() -> None:
    both = asset(rpm_channel=True, nominal_rpm=900.0)
    turning = np.stack([signal(), np.full(1200, -1500.0, "f4")])  # backwards: the orders are the same
    assert set(speeds(run(both, frames(both, turning)))) == {1500.0}
    plain = asset(nominal_rpm=900.0)
    assert set(speeds(run(plain, frames(plain, signal())))) == {RPM}
    assert set(speeds(run(plain, frames(plain, signal(), rpm=None)))) == {900.0}
    drift = RPM * (1 + 0.0001 * np.arange(40))
    records = [frame(asset(), k, signal()[30 * k : 30 * k + 30][None], rpm=float(v)) for k, v in enumerate(drift)]
    found = run(asset(), records)
    assert speeds(found) == sorted(speeds(found)) and set(told(found)) == {0}


@pytest.mark.parametrize(("name", "content", "rpm"), [
    ("NO_SPEED", {}, None),
    ("STILL", {}, 0.0),
    ("STILL", {"nominal_rpm": 0.0}, None),
    ("SLOW", {}, 200.0),
    ("FAST", {}, 6000.0),
    ("NO_GEOMETRY", {"components": []}, RPM),
    ("IMPOSSIBLE", {"components": [BEARING | {"orders": {**ORDERS, "ftf": 0.7}}]}, RPM),
    ("SEVERAL", {"components": [BEARING, BEARING | {"name": "nde"}]}, RPM),
])
def test_what_is_missing_or_out_of_range_is_unknown_and_says_why(name: str, content: dict, rpm: float | None) -> None:
    of = asset(**content)
    rig = run(of, frames(of, signal(), rpm=rpm))
    assert set(told(rig)) == {NAMES[name]}
    assert {s for a in rig.effects.assessments for s in a.state} == {3} and not rig.alerts
    # A best guess stands beside it.
    assert all(len(p) == 4 for a in rig.effects.assessments for p in a.answers.probabilities)  # type: ignore[union-attr]
    assert all(np.isfinite(row).all() and row.std() > 0.5 for row in rig.engine.samples)


def test_two_positions_are_never_half_judged_in_silence() -> None:
    acc = [{"name": n, "quantity": "acceleration", "unit": "m/s2"} for n in ("de", "fe")]
    x = np.stack([signal(0), signal(1)])
    unsaid = asset(channels=acc)
    assert set(told(run(unsaid, frames(unsaid, x)))) == {NAMES["NO_CHANNEL"]}
    said = asset(channels=acc, components=[BEARING | {"channel": "fe"}])
    rig = run(said, frames(said, x))
    assert set(told(rig)) == {0}
    np.testing.assert_array_equal(rig.engine.samples, run(asset(), frames(asset(), signal(1))).engine.samples)


def test_no_acceleration_at_all_is_unknown() -> None:
    of = asset(channels=[{"name": "v", "quantity": "velocity", "unit": "mm/s"}])
    rig = run(of, frames(of, signal()))
    assert set(told(rig)) == {NAMES["NO_CHANNEL"]} and not np.any(rig.engine.samples)


@pytest.mark.parametrize(("at", "to", "unknown"), [
    (600, 1.05, [5]), (600, 1.01, []), (300, 0.0, [2]), (610, 0.9, [5]),
])
def test_a_speed_that_jumps_within_a_window_is_unknown(at: int, to: float, unknown: list[int]) -> None:
    of = asset(rpm_channel=True)
    rpm = np.full(1200, RPM, "f4")
    rpm[at:] *= to
    found = told(run(of, frames(of, np.stack([signal(), rpm]))))
    assert [k for k, why in enumerate(found) if why == NAMES["CHANGES"]] == unknown
    after = set(found[max([*unknown, 0]) + 1 :])
    assert after <= ({0} if to else {NAMES["STILL"]})


def spoiled(kind: str) -> np.ndarray:
    x = signal()
    if kind == "dead from the start":
        x[:] = 1.5
    elif kind == "dead from 500 on":
        x[500:] = x[499]
    elif kind == "clipped":
        x = np.clip(x, -1.0, 5.0)
    elif kind == "clipped at one end":
        x = np.minimum(x, 6.0)
    elif kind == "two levels":
        x = np.sign(x - 2.0)
    elif kind == "a sine of few counts":
        x = np.round(20 * np.sin(2 * np.pi * 3.3 * np.arange(1200) / 100))
    return x.astype("f4")


@pytest.mark.parametrize(("kind", "want"), [
    ("sound", {0}), ("dead from the start", {10}), ("clipped", {11}), ("clipped at one end", {11}),
    ("two levels", {11}), ("a sine of few counts", {0}),
])
def test_a_dead_or_clipped_signal_is_unknown(kind: str, want: set[int]) -> None:
    assert (NAMES["DEAD"], NAMES["CLIPPED"]) == (10, 11)
    assert set(told(run(asset(), frames(asset(), spoiled(kind))))) == want


def test_a_signal_that_dies_is_unknown_from_the_first_window_that_has_a_dead_tenth() -> None:
    found = told(run(asset(), frames(asset(), spoiled("dead from 500 on"))))
    assert found[:4] == [0, 0, 0, 0] and set(found[4:]) == {NAMES["DEAD"]}


def test_samples_at_the_end_of_the_measuring_range_are_clipped() -> None:
    of = asset(channels=[{"name": "acc", "quantity": "acceleration", "unit": "m/s2", "low": -4.0, "high": 8.0}])
    assert set(told(run(of, frames(of, signal())))) == {NAMES["CLIPPED"]}


def test_a_window_that_spans_lost_frames_is_unknown_and_the_next_whole_one_is_not() -> None:
    records = frames(asset(), signal())  # 40 frames of 30
    found = told(run(asset(), records[:10] + records[11:]))
    # From sample 300 on 30 are missing: windows 0-200 and 100-300 are whole, 200-400 is not, from 300 on all are.
    assert found == [0, 0, NAMES["MISSING"], *[0] * (len(found) - 3)]
    nan = signal()
    nan[450] = np.nan
    rig = run(asset(), frames(asset(), nan))
    assert NAMES["MISSING"] in told(rig) and rig.totals()["dead_lettered"] == 1


def test_a_window_never_spans_a_silence() -> None:
    records = frames(asset(), signal())
    rig = Rig.make(bundle(), [asset()], engine=Hears())
    rig.poll(records[:10], ts_ms=1_000)
    rig.poll(records[10:], ts_ms=100_000)
    rig.drain()
    whole = [*run(asset(), records[:10]).engine.samples, *run(asset(), records[10:]).engine.samples]
    np.testing.assert_array_equal(rig.engine.samples, whole)
    assert set(told(rig)) == {0}


def test_a_reboot_begins_anew_at_another_rate_and_with_another_bearing() -> None:
    other = asset(rate=2000.0, start_ns=9, components=[BEARING | {"orders": {**ORDERS, "bpfo": 3.6}}])
    rig = Rig.make(bundle(), [asset(), other], engine=Hears())
    rig.poll([*frames(asset(), signal()), *frames(other, signal(1))])
    rig.drain()
    parts = run(asset(), frames(asset(), signal())), run(other, frames(other, signal(1)))
    np.testing.assert_array_equal(rig.engine.samples, [row for part in parts for row in part.engine.samples])
    assert rig.engine.lines[-1][3] == pytest.approx(3.6 * 30) and rig.part().assets == 1
    rig.totals()


@pytest.mark.parametrize("at", [3, 7, 8, 20, 33])
def test_a_checkpoint_anywhere_goes_on_with_the_same_rows(at: int) -> None:
    of = asset(rate=2560.0, samples=64, rpm_channel=True)
    rpm = RPM * (1 + 0.0002 * np.arange(2560, dtype="f4"))
    records = frames(of, np.stack([signal(n=2560), rpm]), rpm=None)
    records = records[:12] + records[13:]
    first = Rig.make(bundle(), [of], engine=Hears())
    first.poll(records[:at])
    first.drain()
    snap = checkpoint.take(first.part(), "m", 1)
    stored = {key: checkpoint.encode(r) for key, r in snap.blocks} | {terms.MANIFEST: checkpoint.encode(snap.manifest)}
    second = Rig.make(bundle(), [of], engine=Hears())
    second.flow.adopt(checkpoint.restore(0, stored, second.flow.seats.new_pool, 0).partition, 0.0)
    second.poll(records[at:])
    second.drain()
    whole = run(of, records)
    assert first.rows + second.rows == whole.rows
    assert told(first) + told(second) == told(whole)
    np.testing.assert_array_equal([*first.engine.lines, *second.engine.lines], whole.engine.lines)


def test_a_checkpoint_holds_a_window_at_the_assets_own_rate_not_at_the_highest() -> None:
    sizes = dict[float, int]()
    wide = OrderSpec(rate_hz=12_000.0, size=12_000, hop=6000)
    for rate in (12_000.0, 51_200.0):
        of = asset(rate=rate, samples=3000)
        rig = Rig.make(bundle(51_200.0, wide), [of], engine=Hears())
        rig.poll(frames(of, np.ones((1, 9000), "f4") + signal(n=9000)))
        pool = rig.part().order[0]
        pool.table["ring"][0, : round(rate)] = 1.0
        sizes[rate] = checkpoint.take(rig.part(), "m", 1).bytes
    assert 48_000 < sizes[12_000.0] < 52_000 and 204_000 < sizes[51_200.0] < 210_000


def test_a_rate_that_is_too_low_or_too_high_is_a_misfit() -> None:
    for rate, why in ((999.0, "999 samples/s, ord is made for 1000 to 4000"), (5000.0, "5000 samples/s")):
        of = asset(rate=rate)
        rig = Rig.make(bundle(), [of], engine=Hears())
        rig.poll(frames(of, signal()))
        assert {d.reason for d in rig.effects.dead_letters} == {"no_route"}
        assert why in rig.effects.dead_letters[0].detail


def test_a_frame_longer_than_a_window_is_a_misfit() -> None:
    faults = bundle().spec.misfits(1, 201, 1000.0)
    assert faults == ["201 samples per frame are more than a window's 200: an alert could not say which of a frame's "
                      "windows raised it"]


def test_an_alert_says_what_where_how_sure_and_why() -> None:
    of = asset(components=[BEARING | {"name": "bearing_de"}])
    rig = run(of, frames(of, signal()), on=(2, 3))
    alert = rig.alerts[0]
    assert (alert.mode, alert.confidence, alert.component) == ("outer", pytest.approx(0.4), "bearing_de")
    assert [(c.channel, c.share) for c in alert.contributions] == [("acc", 1.0)]
    assert alert.line is not None and alert.line.expected_hz == pytest.approx(11.94)
    assert alert.why.startswith("bearing_de, heard by acc: outer (40%); line at 11.9 Hz, expected 11.9, order ")
    assert alert.window is not None and alert.window.frames == 7
    said = rig.effects.assessments[0].answers
    assert said is not None and (said.component, said.channels) == ("bearing_de", ("acc",))
    assert said.contributions is not None and set(said.contributions) == {(1.0,)}


def test_a_line_that_is_not_there_is_not_told_as_found() -> None:
    assert line_text(141.2, 142.9, 4.77, -0.3) == "its line, expected at 141.2 Hz, does not stand above chance"
    assert line_text(107.4, 107.1, 3.57, 14.2) == "line at 107.1 Hz, expected 107.4, order 3.57, 14 dB above chance"


def test_another_version_of_the_state_warms_up_beside_the_old_one_and_goes_on() -> None:
    of, records = asset(), frames(asset(), signal(n=2400))
    rig = Rig.make(bundle(), [of], engine=Hears())
    rig.poll(records[:20])
    rig.drain()
    newer = bundle(spec=replace(SPEC, hop=50))
    rig.flow.successions["ord"] = Succession(newer)
    rig.poll(records[20:24])
    assert rig.flow.successions["ord"].cold([rig.part()]) == ["m"]
    rig.poll(records[24:40])
    rig.drain()
    assert rig.flow.successions["ord"].cold([rig.part()]) == []
    rig.flow.succeed(newer, Hears.inputs)
    before = len(rig.engine.samples)
    rig.poll(records[40:])
    rig.drain()
    rig.totals()
    alone = run(of, records[20:], spec=newer.spec.order)  # the heir began with frame 20
    after = rig.engine.samples[before:]
    assert len(after) == 24
    np.testing.assert_array_equal(after, alone.engine.samples[-24:])


def test_a_sample_beyond_float32_overflows_nothing_and_spoils_its_own_window_only() -> None:
    of = asset(channels=[{"name": "acc", "quantity": "acceleration", "unit": "m/s2", "dtype": "f8"}])
    x = signal(n=300).astype("f8")
    x[50] = 1e300
    records = [frame(of, k, rpm=RPM, data=x[30 * k : 30 * k + 30].astype("<f8").tobytes()) for k in range(10)]
    assert [n > 0 for n in told(run(of, records))] == [True, False]
