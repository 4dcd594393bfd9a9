"""A channel that stands still: counted by hand, answered "unknown", however the stream is cut, stored or repeated."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import checkpoint, terms
from pipeline.state import Table
from pipeline.still import columns, count, learn, stuck
from schemas import AssetBirth
from tests.rig import Rig, frame, mewma_bundle

NAMES = ("flow", "pressure", "motor_temperature")
OF = [AssetBirth.make(asset=f"p{i}", start_ns=1, rate_hz=20.0, samples_per_frame=2, asset_class="pump", site="s",
                      channels=[{"name": n, "quantity": n, "unit": "1"} for n in NAMES])
      for i in range(2)]
CALIBRATION, LEAST = 64, 32


def runs_by_hand(x: np.ndarray) -> list[int]:
    """Run of each sample of one channel."""
    out: list[int] = []
    for i, value in enumerate(x.tolist()):
        out.append(out[-1] + 1 if i and value == x[i - 1] else 1)
    return out


@given(seed=st.integers(0, 10_000), samples=st.integers(1, 4), cuts=st.sets(st.integers(1, 39), max_size=8))
@settings(max_examples=150, deadline=None)
def test_runs_are_those_counted_sample_by_sample_however_the_stream_is_cut(
        seed: int, samples: int, cuts: set[int]) -> None:
    """Frames of two slots, some of which are in no poll, and samples that often stay what they were."""
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.random((2, 40, samples * 3)) < 0.25, axis=1).reshape(2, 40, samples, 3)
    x = x.transpose(0, 1, 3, 2).astype(np.float64)
    table, found = Table(columns(3), 2), np.zeros((2, 40, 3), int)
    learn(table, 0, rng.normal(size=(9, 3)), np.ones(3, bool))
    learn(table, 1, np.repeat(x[1, :1, :, 0], 7, axis=0), np.ones(3, bool))
    for a, b in pairwise([0, *sorted(cuts), 40]):
        slot = np.repeat([0, 1], b - a)
        found[:, a:b] = count(table, slot, x[:, a:b].reshape(-1, 3, samples)).reshape(2, b - a, 3)
    stream = x.transpose(0, 1, 3, 2).reshape(2, -1, 3)
    for s, before in ((0, 0), (1, 7)):
        for c in range(3):
            whole = np.concatenate([np.repeat(stream[s, :1, c], before), stream[s, :, c]])
            assert runs_by_hand(whole)[before + samples - 1::samples] == found[s, :, c].tolist()


def test_patience_is_three_times_the_longest_run_of_the_calibration_and_none_for_dropped_channels() -> None:
    table = Table(columns(3), 1)
    rows = np.stack([np.arange(60.0), np.arange(60) // 20, np.zeros(60)], axis=1)
    learn(table, 0, rows, np.array([True, True, False]))
    assert table["patience"][0].tolist() == [LEAST, 60, 0]
    assert table["still"][0].tolist() == [1, 20, 60]
    here = np.zeros(3, np.int64)
    runs = np.array([[32, 60, 10**6], [33, 60, 1], [99, 61, 1]])
    assert stuck(table, here, runs).tolist() == [-1, 0, 0]


def stream(rows: list[np.ndarray], cuts: list[int], historical: bool = False, **judge: int) -> Rig:
    """Take rows (n, 3) of each asset through the flow, two samples a frame."""
    rig = Rig.make(mewma_bundle(rows=CALIBRATION, **judge), OF[:len(rows)])
    data = [r.reshape(-1, 2, 3).transpose(0, 2, 1) for r in rows]
    for a, b in pairwise([0, *cuts, len(data[0])]):
        live = CALIBRATION // 2
        rig.poll([frame(of, q, data[k][q], historical=historical and q >= live)
                  for q in range(a, b) for k, of in enumerate(OF[:len(rows)])])
        rig.drain()
    return rig


def told(rig: Rig, asset: str = "p0") -> list[tuple[int, str]]:
    """State and reason of each row of an asset."""
    return [(s, why) for a in rig.effects.assessments if a.asset == asset for s, why in zip(
        a.state, a.answers.unknown if a.answers and a.answers.unknown else ("",) * len(a.seq), strict=True)]


def rig_rows(seed: int = 0, n: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).normal(10.0, 1.0, (n, 3))


def test_a_channel_that_died_at_its_mean_is_unknown_by_name_until_it_lives_again() -> None:
    rows = rig_rows()
    rows[101:301, 1] = 10.0
    said = told(stream([rows], []))
    # sample 101 is the first of the run; with sample 133 there are 33, which frame 66 completes
    first = (133 + 1) // 2 - CALIBRATION // 2 - 1 + 1
    assert {s for s, _ in said[:first - 1]} == {0} and {s for s, _ in said[-49:]} == {0}
    assert set(said[first:(301 - CALIBRATION) // 2]) == {(3, "a channel stands still: pressure")}


def test_an_alert_that_stands_is_not_cleared_by_a_dead_channel() -> None:
    rows = rig_rows()
    rows[100:200, 0] += 50.0
    rows[200:, 0] = 10.0
    rig = stream([rows], [], off=40)
    assert {a.state for a in rig.alerts} == {"raised", "updated"}
    assert told(rig)[-1] == (2, "a channel stands still: flow")


@pytest.mark.parametrize("samples", [2, 64])
def test_a_channel_that_stands_far_beyond_the_limit_alarms_however_long_frames_are(samples: int) -> None:
    """A sensor at the end of its range may tell of a real overload."""
    rows = np.random.default_rng(0).normal(10.0, 1.0, (64 * 30, 3))
    rows[64 * 10:, 0] = 60.0
    of = msgspec.structs.replace(OF[0], samples_per_frame=samples)
    rig = Rig.make(mewma_bundle(rows=CALIBRATION), [of])
    rig.poll([frame(of, q, x) for q, x in enumerate(rows.reshape(-1, samples, 3).transpose(0, 2, 1))])
    rig.drain()
    assert rig.alerts[0].state == "raised" and rig.alerts[-1].active
    assert told(rig)[-1] == (2, "") and {why for _, why in told(rig)} == {""}


def test_each_asset_is_told_which_channel_of_its_own_stands_still() -> None:
    rows = [rig_rows(0), rig_rows(1)]
    rows[0][200:, 1] = rows[1][200:, 0] = 10.0
    rows[1][100:150, 1] = 10.0
    rig = stream(rows, [])
    assert told(rig, "p0")[-1][1] == "a channel stands still: pressure"
    assert told(rig, "p1")[-1][1] == "a channel stands still: flow"
    assert "a channel stands still: pressure" in {why for _, why in told(rig, "p1")}


def test_a_coarse_sensor_and_one_that_is_not_charted_may_stand_still() -> None:
    rows = rig_rows()
    rows[:, 0] = np.round(rows[:, 0] / 4)  # 0.7 of its samples are as the one before
    rows[:, 2] = 10.0
    assert {why for _, why in told(stream([rows], []))} == {""}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(1, 199), max_size=6, unique=True),
       begins=st.integers(0, 350), historical=st.booleans())
def test_any_cut_of_the_stream_says_the_same_and_a_historical_lane_what_the_live_one_said(
        seed: int, cuts: list[int], begins: int, historical: bool) -> None:
    rows = [rig_rows(seed), rig_rows(seed + 1)]
    rows[0][begins:begins + 120, seed % 2] = 10.0 + seed % 5  # within the limit, about it and beyond
    rows[1][begins:, 0] = 11.0
    whole, parts = stream(rows, [], historical), stream(rows, sorted(cuts), historical)
    for asset in ("p0", "p1"):
        assert told(whole, asset) == told(parts, asset)
    for name in ("value", "still", "patience"):
        assert (whole.part().order[0].table[name] == parts.part().order[0].table[name]).all()


def test_a_historical_lane_says_what_the_live_one_said_bit_for_bit() -> None:
    rows = rig_rows()
    rows[101:301, 1] = 10.0
    assert told(stream([rows], [], historical=True))[30:] == told(stream([rows], []))[30:]


@pytest.mark.parametrize("cut", [20, 60])
def test_a_worker_that_takes_over_goes_on_counting(cut: int) -> None:
    """Cut while calibrating, and within the run."""
    rows = rig_rows()
    rows[101:301, 1] = 10.0
    frames = [frame(OF[0], q, x) for q, x in enumerate(rows.reshape(-1, 2, 3).transpose(0, 2, 1))]
    one, other = (Rig.make(mewma_bundle(rows=CALIBRATION), OF[:1]) for _ in range(2))
    one.poll(frames[:cut])
    one.drain()
    snap = checkpoint.take(one.part(), "m", 1)
    stored = {key: checkpoint.encode(r) for key, r in snap.blocks} | {terms.MANIFEST: checkpoint.encode(snap.manifest)}
    other.flow.adopt(checkpoint.restore(0, stored, other.flow.seats.new_pool, 0).partition, 0.0)
    other.poll(frames[cut:])
    other.drain()
    assert told(one) + told(other) == told(stream([rows], []))


@pytest.mark.parametrize("samples", [1, 3])
def test_runs_are_not_counted_without_end(samples: int) -> None:
    table = Table(columns(1), 1)
    table["value"][0], table["still"][0] = 5.0, (1 << 30) - 1
    assert count(table, np.zeros(1, np.int64), np.full((1, 1, samples), 5.0)).tolist() == [[1 << 30]]
    assert table["still"][0].tolist() == [1 << 30]
