"""Regime: how channels follow the asset's speed and load, and when nothing can be said."""

from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engines import load_bundle, shipped_bundles
from engines.bundle import Bundle
from pipeline.calibrate import calibrate, usable
from pipeline.plant.simulator import CHANNELS, Plant
from pipeline.regime import drivers, explain, fit
from schemas import AssetBirth, Channel
from tests.rig import Rig, frame, mewma_bundle

RECIPE = load_bundle(shipped_bundles()["anomaly-mewma"]).spec.mewma
assert RECIPE is not None
RECIPE = msgspec.structs.replace(RECIPE, regime_quantities=("speed", "load"))
N = RECIPE.calibration_rows
LOAD = Channel("line_load", "mechanical load", "%")
#: What 1 % of load does to each channel of the simulated pump, in the channel's unit.
EFFECT = np.array([0.02, 0.015, 0.4, -0.005, -0.02, 0.9, 0.0, 0.0])


def levels(rng: np.random.Generator, rows: int, low: float = 40.0, high: float = 80.0) -> np.ndarray:
    """Make a load in % that holds a level for 20 to 60 samples."""
    cuts = np.cumsum(rng.integers(20, 60, rows // 20 + 1))
    return rng.uniform(low, high, len(cuts) + 1)[np.searchsorted(cuts, np.arange(rows), side="right")]


def pump(load: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return (rows, 9): a pump of the simulator that follows `load`, and the load itself."""
    plant = Plant(seed=seed, assets=1)
    x = plant.values(0, 0, len(load)).T + EFFECT * (load - 60.0)[:, None]
    return np.column_stack([x, load + np.random.default_rng(seed).normal(0, 0.2, len(load))])


def made(load: np.ndarray, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    return pump(load, seed), [c.quantity for c in (*CHANNELS, LOAD)]


def test_channels_are_drivers_by_their_quantity_at_most_two():
    names = ["vibration", "Rotational speed", "load", "pressure", "rotational speed"]
    assert drivers(names, RECIPE.regime_quantities).tolist() == [1, 2]
    assert drivers(names, ()).tolist() == []


def test_driver_beyond_the_second_is_not_charted_either():
    quantities = ["rotational speed", "load", "vibration", "rotational speed"]
    assert usable(quantities, RECIPE).tolist() == [False, False, True, False]


def test_slopes_are_found_and_what_the_load_explains_is_gone():
    rows, names = made(levels(np.random.default_rng(1), N))
    found = calibrate(rows, RECIPE, None, drivers(names, RECIPE.regime_quantities))
    assert found.regime is not None
    np.testing.assert_allclose(found.regime.slope[:6, 0], EFFECT[:6], rtol=0.35)
    alone = pump(np.full(N, 60.0))
    np.testing.assert_allclose(found.scale[:6], alone.std(axis=0)[:6], rtol=0.15)
    assert not found.kept[8] and found.kept[:6].all()
    assert (found.status, found.reason) == ("good", "")


def test_load_that_stood_still_is_not_regressed_on_but_its_range_is_known():
    rows, names = made(np.full(N, 60.0))
    found = calibrate(rows, RECIPE, None, drivers(names, RECIPE.regime_quantities)).regime
    assert found is not None
    assert not found.slope.any()
    assert 58.0 < found.low[0] < 59.9 < 60.1 < found.high[0] < 62.0


def test_load_that_only_rose_makes_the_baseline_suspect():
    rows, names = made(np.linspace(40, 80, N))
    found = calibrate(rows, RECIPE, None, drivers(names, RECIPE.regime_quantities))
    assert found.status == "suspect"
    assert "only rose or only fell" in found.reason


def test_speed_and_power_that_move_together_share_the_slope():
    rng = np.random.default_rng(3)
    load = levels(rng, N)
    rows = np.column_stack([0.5 * load + rng.normal(size=N), load, 3 * load])
    found = fit(rows, np.array([1, 2]), rows[:, 1:], RECIPE)
    np.testing.assert_allclose(found.slope[0, 0] + 3 * found.slope[0, 1], 0.5, rtol=0.1)


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float64, st.tuples(st.integers(64, 66), st.integers(2, 4)), elements=st.floats(-1e300, 1e300)),
       st.integers(1, 2))
def test_any_finite_rows_give_a_finite_regime(rows, count):
    recipe = msgspec.structs.replace(RECIPE, smoothing=0.4, calibration_rows=64, folds=4)
    found = calibrate(rows, recipe, None, np.arange(count))
    assert found.regime is not None
    for values in (found.center, found.scale, found.whitening, found.ewma, found.regime.slope):
        assert np.isfinite(values).all()
    assert not found.kept[:count].any()


# --- in the stream

OF = AssetBirth.make(asset="p", start_ns=1, rate_hz=20.0, samples_per_frame=2, asset_class="pump", site="s",
                     channels=[msgspec.structs.asdict(c) for c in (*CHANNELS, LOAD)])


def bundle() -> Bundle:
    plain = mewma_bundle(rows=N)
    return replace(plain, spec=msgspec.structs.replace(plain.spec, mewma=RECIPE))


def stream(rows: np.ndarray, cuts: list[int]) -> Rig:
    rig = Rig.make(bundle(), [OF])
    data = rows.reshape(-1, 2, rows.shape[1]).transpose(0, 2, 1).astype("f4")
    for a, b in pairwise([0, *sorted(cuts), len(data)]):
        rig.poll([frame(OF, q, data[q]) for q in range(a, b)])
        rig.drain()
    return rig


def test_live_recursion_takes_away_what_the_calibration_would():
    rows = pump(levels(np.random.default_rng(5), 2 * N)).astype("f4").astype("f8")
    rig = stream(rows, [])
    found = calibrate(rows[:N], RECIPE, None, np.array([8]))
    assert found.regime is not None
    state, rest = found.ewma, explain(rows[N:], found.regime, found.center)
    for x in rest:
        state = (x - found.center) / found.scale * RECIPE.smoothing + state * (1.0 - RECIPE.smoothing)
    assert rig.part().order[0].table["ewma"][0].tobytes() == state.tobytes()


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 399), max_size=6, unique=True))
def test_any_cut_of_the_stream_gives_the_same_bits(cuts):
    rows = pump(levels(np.random.default_rng(6), 2 * N, 40, 90))
    whole, parts = stream(rows, []), stream(rows, cuts)
    assert whole.rows == parts.rows
    for name in ("ewma", "slope", "low", "high", "driver"):
        assert whole.part().order[0].table[name].tobytes() == parts.part().order[0].table[name].tobytes()


@pytest.mark.parametrize("regime", [True, False])
def test_change_of_load_within_the_range_seen_is_no_anomaly_if_the_load_is_a_channel(regime):
    over = 0.0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        # a calibration at three loads, then others in between
        load = np.concatenate([np.repeat([45.0, 75.0, 60.0, 80.0, 40.0], N // 5), levels(rng, 2000, 42, 78)])
        rows, names = made(load, seed)
        recipe = RECIPE if regime else msgspec.structs.replace(RECIPE, calibration_rows=N // 5)
        n = recipe.calibration_rows
        found = calibrate(rows[:n], recipe, None, drivers(names, RECIPE.regime_quantities) if regime else None)
        rest = rows if found.regime is None else explain(rows, found.regime, found.center)
        state, score = found.ewma, []
        for x in rest[n:]:
            state = (x - found.center) / found.scale * RECIPE.smoothing + state * (1.0 - RECIPE.smoothing)
            score.append(((found.whitening @ state) ** 2).sum() / found.limit)
        over += float(np.mean(np.array(score) >= 1.0)) / 4
    assert over < 0.01 if regime else over > 0.5


def test_load_outside_of_the_range_seen_is_unknown_and_no_anomaly():
    load = np.concatenate([levels(np.random.default_rng(7), N), np.full(40, 60.0), np.full(40, 120.0),
                           np.full(100, 60.0)])
    rig = stream(pump(load), [])
    state = [s for a in rig.effects.assessments for s in a.state]
    why = [w for a in rig.effects.assessments for w in (a.answers.unknown if a.answers else [""] * len(a.seq))]
    assert len(state) == 90
    assert state[:20] == [0] * 20 and state[21:40] == [3] * 19 and state[-20:] == [0] * 20
    assert set(why) == {"", "operating point never calibrated"}
    told = [fields for event, fields in rig.effects.notes if event == "unknown"]
    assert {(f["asset"], f["why"]) for f in told} == {("p", "operating point never calibrated")}
    assert sum(f["count"] for f in told) == state.count(3)
    assert rig.effects.alerts == []


def test_calibration_message_tells_the_drivers_and_why_it_is_suspect():
    rig = stream(pump(np.linspace(40, 80, N)), [])
    (done,) = rig.effects.calibrations
    assert done.status == "suspect" and done.notes is not None
    assert "only rose or only fell" in done.notes.reason
    assert done.notes.drivers == ("line_load",)
    assert done.notes.low[0] < 41 and done.notes.high[0] > 78
    assert len(done.notes.slope) == 9 and done.notes.slope[8] == 0.0
