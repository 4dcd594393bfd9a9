"""Drift: the detectors against their definitions and river, any cut of the stream, and what no drift may do."""

from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift as river
from scipy.special import rel_entr

from engines.driftspec import DriftSpec
from pipeline import drift, judge
from pipeline.state import ACQUIRE_COLUMNS, Pool, Table
from tests.rig import window_bundle

SPEC = DriftSpec(every=2, reference=32, window=16, bins=4, psi=1.5, confirm=2, restore=2, widen=1.5)
OFF = 5
SLOTS = 3


def a_pool(spec: DriftSpec = SPEC, inputs: int = 2) -> Pool:
    bundle = window_bundle(threshold=1.0, on=(2, 3), off=OFF, deadband=0.1)
    pool = Pool("p", bundle, inputs, 1, (*drift.columns(spec, inputs), *judge.COLUMNS))
    pool.add_block(0, 0)
    return pool


@dataclass
class Stream:
    """Rows of several slots, interleaved: slot, score, inputs."""

    slot: np.ndarray
    score: np.ndarray
    inputs: np.ndarray
    usable: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.usable = np.isfinite(self.score)

    def play(self, pool: Pool, edges: list[int], spec: DriftSpec = SPEC) -> tuple[np.ndarray, list[drift.Change]]:
        bands, changes = [], []
        for a, b in zip(edges[:-1], edges[1:], strict=True):
            band, found = drift.step(pool, spec, self.slot[a:b], self.score[a:b], self.inputs[a:b], self.usable[a:b])
            bands.append(band)
            for change in found:
                change.row += a
            changes += found
        return np.concatenate(bands), changes


def said(changes: list[drift.Change]) -> list[tuple[object, ...]]:
    return [(c.row, c.slot, c.begins, c.detector, c.value, c.limit, c.index.tolist())
            for c in changes]


@given(seed=st.integers(0, 10_000), edges=st.sets(st.integers(1, 899), max_size=12))
@settings(max_examples=15, deadline=None)
def test_bands_and_changes_are_the_same_bits_however_the_stream_is_cut(seed: int, edges: set[int]) -> None:
    rng = np.random.default_rng(seed)
    n = 900
    slot = rng.integers(0, SLOTS, n)
    late = np.arange(n) > 500
    bursts = np.where(np.arange(n) % 97 < 9, 0.4, 0.004)  # some are alarms, most rows near the limit are not
    score = np.abs(rng.normal(0.3, 0.1, n)) + 0.8 * (rng.random(n) < bursts) + 0.3 * (late & (slot == 1))
    score[rng.random(n) < 0.01] = np.nan
    inputs = rng.normal(size=(n, 2)) + 2.5 * (late & (slot == 0))[:, None]
    stream, results = Stream(slot, score, inputs), []
    for cuts in ([0, n], sorted({0, n, *edges}), list(range(n + 1))):
        pool = a_pool()
        band, changes = stream.play(pool, cuts)
        kept = {c.name: pool.table[c.name].tobytes() for c in drift.columns(SPEC, 2)}
        results.append((band.tobytes(), said(changes), kept))
    assert results[0] == results[1] == results[2]


@given(raw=st.lists(st.floats(-5, 5), min_size=1, max_size=400), tolerance=st.sampled_from([0.005, 0.05, 0.5]),
       trip=st.sampled_from([0.5, 2.0, 10.0]))
@settings(max_examples=100, deadline=None)
def test_page_hinkley_trips_at_the_row_at_which_rivers_does(raw: list[float], tolerance: float, trip: float) -> None:
    theirs = river.PageHinkley(min_instances=drift.MIN_ROWS, delta=tolerance, threshold=trip, alpha=drift.FORGET,
                               mode="up")
    table, slot = Table(drift.columns(SPEC, 0), 4), np.array([2])
    for n, x in enumerate(raw, 1):
        theirs.update(x)
        above = drift.hinkley(table, slot, np.array([x]), tolerance)
        assert (n >= drift.MIN_ROWS and bool(above[0] > trip)) == theirs.drift_detected
        if theirs.drift_detected:
            return  # river starts over here, and so does `step`


counts = st.lists(st.integers(0, 500), min_size=5, max_size=5)


@given(expected=counts, found=counts)
def test_stability_index_is_the_symmetric_divergence_of_the_two_histograms(
        expected: list[int], found: list[int]) -> None:
    p, q = (np.array(c) + 0.5 for c in (expected, found))
    p, q = p / p.sum(), q / q.sum()
    want = rel_entr(p, q).sum() + rel_entr(q, p).sum()
    assert drift.stability(np.array(expected), np.array(found)) == pytest.approx(want, abs=1e-12)


def shifted(shift: float, n: int = 8000, at: int = 4000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n) + shift * (np.arange(n) >= at)


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_inputs_drift_where_rivers_adwin_and_kswin_see_a_change(shift: float) -> None:
    spec = DriftSpec(every=1, reference=256, window=64, psi=1.0)
    x = shifted(shift)
    theirs = []
    for detector in (river.ADWIN(delta=1e-6), river.KSWIN(alpha=1e-8, window_size=300, stat_size=64, seed=1)):
        hits = []
        for i, value in enumerate(x):
            detector.update(value)
            if detector.drift_detected:
                hits.append(i)
        theirs.append(hits)
    stream = Stream(np.zeros(len(x), np.int64), np.full(len(x), 0.2), x[:, None])
    _, changes = stream.play(a_pool(spec, 1), [0, len(x)], spec)
    ours = [c.row for c in changes if c.begins]
    assert (ours != []) == all(hits != [] for hits in theirs) == (shift > 0)
    if shift:
        assert 4000 + 64 <= ours[0] < 4000 + 3 * 64  # two whole windows, the first begun before
        assert all(abs(hits[0] - 4000) < 300 for hits in theirs)


def test_a_drift_ends_when_the_old_distribution_is_back_for_long_enough_and_not_before() -> None:
    n, pool = 2400, a_pool(inputs=1)
    rng = np.random.default_rng(3)
    away = (np.arange(n) >= 400) & (np.arange(n) < 800)
    stream = Stream(np.zeros(n, np.int64), np.full(n, 0.2), rng.normal(size=(n, 1)) + 3.0 * away[:, None])
    band, changes = stream.play(pool, [0, n])
    (begin, end) = changes
    assert begin.begins and not end.begins and 400 < begin.row < 800
    assert end.row >= 800 + 2 * 16 * 2 - 1  # two whole windows of every second row
    assert set(band[: begin.row + 1]) == {1.0} == set(band[end.row + 1:])
    assert set(band[begin.row + 1: end.row + 1]) == {SPEC.widen}


def test_a_rise_of_the_score_alone_is_a_drift_by_the_score() -> None:
    n = 1200
    stream = Stream(np.zeros(n, np.int64), np.random.default_rng(1).normal(0.2, 0.001, n), np.zeros((n, 1)))
    stream.score[600:] += np.linspace(0, 0.5, 600)
    spec = msgspec.structs.replace(SPEC, psi=90.0)
    _, changes = stream.play(a_pool(spec, 1), [0, n], spec)
    assert [(c.begins, c.detector) for c in changes] == [(True, "score")]


@given(seed=st.integers(0, 1000), rows=st.integers(1, 31), height=st.floats(0.91, 5.0))
@settings(max_examples=60, deadline=None)
def test_a_fault_that_grows_within_a_window_meets_the_band_that_it_would_have_met(
        seed: int, rows: int, height: float) -> None:
    """From the first trace to the limit in fewer than (confirm - 1) x window x every = 32 rows, then it stays."""
    rng = np.random.default_rng(seed)
    onset, n = 300 + int(rng.integers(0, 64)), 800
    grown = np.clip((np.arange(n) - onset + 1) / rows, 0, 1)
    score = 0.2 + (height - 0.2) * grown
    stream = Stream(np.zeros(n, np.int64), score, rng.normal(size=(n, 1)) + 9.0 * grown[:, None])
    band, changes = stream.play(a_pool(inputs=1), [0, n])
    assert changes == [] and set(band) == {1.0}


def test_rows_without_a_score_historical_lanes_and_inputs_that_the_model_leaves_out_move_nothing() -> None:
    n = 1000
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2))
    x[400:, 1] += 5.0
    score = np.full(n, 0.2)
    historical = a_pool()
    historical.table["historical"][0] = 1
    assert Stream(np.zeros(n, np.int64), score, x).play(historical, [0, n])[1] == []
    assert (historical.table["drift_seen"] == 0).all()
    no_score = Stream(np.zeros(n, np.int64), np.full(n, np.nan), x)
    assert no_score.play(a_pool(), [0, n])[1] == []
    bundle = window_bundle(threshold=1.0, off=OFF)
    columns = (*drift.columns(SPEC, 2), *judge.COLUMNS, drift.Column("kept", "u1", (2,)))
    kept = Pool("p", bundle, 2, 1, columns)
    kept.add_block(0, 0)
    kept.table["kept"][0] = [1, 0]
    assert Stream(np.zeros(n, np.int64), score, x).play(kept, [0, n])[1] == []
    kept.table.reset(0, [c.name for c in drift.columns(SPEC, 2)])
    kept.table["kept"][0] = [1, 1]
    assert len(Stream(np.zeros(n, np.int64), score, x).play(kept, [0, n])[1]) == 1


def test_an_input_that_stood_still_has_no_distribution_to_leave() -> None:
    x = np.zeros((1000, 1))
    x[500:] = 7.0
    stream = Stream(np.zeros(1000, np.int64), np.full(1000, 0.2), x)
    assert stream.play(a_pool(inputs=1), [0, 1000])[1] == []


def test_what_a_passport_asks_for_must_tell_drift_from_chance() -> None:
    assert list(DriftSpec().faults(10)) == []
    assert "differ by chance" in next(DriftSpec(psi=0.1).faults(10))
    assert "before a fault is an alarm" in next(DriftSpec(every=1, window=16, psi=9).faults(16))


def test_no_column_without_a_spec_and_few_bytes_with_one() -> None:
    assert drift.columns(None, 8) == ()
    assert sum(c.slot_bytes for c in drift.columns(DriftSpec(), 8)) < 500
    assert {c.name for c in drift.columns(SPEC, 1)}.isdisjoint(c.name for c in (*ACQUIRE_COLUMNS, *judge.COLUMNS))
