"""pca-t2q: what it learns, what it answers, and that the graph says what the formula says."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import load_bundle, open_engine
from engines.archive import MANIFEST
from engines.recipes import pca_t2q
from engines.recipes.pca_graph import build
from engines.recipes.pca_model import HISTORY, REASONS, Fitted, PcaModel, Plan, fit, states
from engines.sealing import sealed
from engines.supply import EngineOptions
from engines.trust import TrustPolicy
from pipeline.plant.process import NAMES, SET_POINTS, ProcessFault, run
from tests.bench.pca import judged, rises

SENSORS = tuple(n for n in NAMES if n not in SET_POINTS)
PLAN = Plan(SENSORS, SET_POINTS, ("outlet_flow", 4.0))
ORDER = [NAMES.index(n) for n in PLAN.channels]


@cache
def fitted() -> Fitted:
    return fit([run(seed, 8000, stops=1)[:, ORDER] for seed in (1, 2)], PLAN)


def model() -> PcaModel:
    return fitted().model


def answers(rows: np.ndarray) -> dict[str, np.ndarray]:
    return model().answers(states(rows[:, ORDER]))


def engine(tmp_path: Path, made: Fitted, name: str = "onnx_cpu"):
    pca_t2q.write(tmp_path, made, "simulated histories", {"unit1.csv": "ab" * 32})
    (tmp_path / MANIFEST).write_bytes(sealed(tmp_path)[MANIFEST])
    bundle = load_bundle(tmp_path, TrustPolicy(allow_unsigned=True))
    return bundle, open_engine(name, bundle, EngineOptions(1))


# --- what is no fault


@pytest.mark.parametrize("seed", [11, 12])
def test_start_ups_and_changes_of_set_points_are_no_faults(seed):
    said = answers(run(seed, 6000, stops=2, hold=300))
    assert not rises(judged(said)).any()
    known = said["unknown"] == 0
    assert known.mean() > 0.75
    assert (said["score"][known] >= 1.0).mean() < 0.002


def test_while_starting_up_and_at_rest_it_says_so():
    said = answers(run(11, 4000, stops=1))
    assert set(REASONS[c - 1] for c in said["unknown"][:HISTORY - 1]) == {"not enough history"}
    assert "starting up or stopped" in {REASONS[c - 1] for c in said["unknown"][2000:2200] if c}
    assert (said["score"][said["unknown"] != 0] == 0).all()
    assert (said["contributions"][said["unknown"] != 0] == 0).all()


def test_set_point_that_was_never_trained_on_is_unknown_and_no_fault():
    rows = run(13, 2000, cold=False)
    rows[1500:, NAMES.index("temp_set")] = 75.0
    said = answers(rows)
    assert {REASONS[c - 1] for c in said["unknown"][1510:]} == {"set point never trained on"}


def test_missing_channel_is_unknown():
    inputs = states(run(13, 1000, cold=False)[:, ORDER])
    inputs["last"] = inputs["last"].copy()
    inputs["last"][900, 2] = np.nan
    assert REASONS[model().answers(inputs)["unknown"][900] - 1] == "a channel is missing"


# --- what is one


@pytest.mark.parametrize(("kind", "channel", "size", "names"), [
    ("bias", "outlet_temp", 6.0, {"outlet_temp"}), ("bias", "pump_current", 6.0, {"pump_current"}),
    ("bias", "outlet_flow", 6.0, {"outlet_flow"}), ("bias", "feed_flow", 6.0, {"feed_flow"}),
    # only the heater's power tells of the feed's temperature: either may be the one that is wrong
    ("bias", "tank_temp", 6.0, {"tank_temp"}), ("bias", "feed_temp", -12.0, {"feed_temp", "heater_power"}),
    ("fouling", "", 0.1, {"heater_power", "feed_temp"}), ("valve_wear", "", 0.1, {"outlet_valve"}),
    ("pump_wear", "", 0.05, {"pump_current"}),
])  # fmt: skip
def test_fault_is_found_and_the_right_sensor_named(kind, channel, size, names):
    right = 0
    for seed in (21, 22, 23):
        said = answers(run(seed, 3500, [ProcessFault(kind, 2000, size, channel)]))
        state = judged(said)
        assert not state[:2000].any()
        found = np.flatnonzero(state[2000:])
        assert len(found), seed
        at = 2000 + found[0]
        right += PLAN.channels[said["contributions"][at:at + 100].mean(axis=0).argmax()] in names
    assert right >= 2


# --- how it is fitted


def test_limits_come_from_rows_that_the_model_was_not_fitted_on():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 12)) @ (np.eye(12) + 0.5 * rng.normal(size=(12, 12)))
    made = fit([rows[:1500]], Plan(tuple("abcdefghijkl")))
    fresh = made.model.answers(states(rows[1500:]))
    assert (fresh["score"] >= 1.0).mean() < 0.01
    assert made.model.growth == 0.0


def test_bonds_that_did_not_last_are_left_to_the_components():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4000, 1))
    steady = np.hstack([x, x + 0.05 * rng.normal(size=(4000, 1)), rng.normal(size=(4000, 2))])
    wandering = steady.copy()
    wandering[3000:, 1] += 0.3
    shares = [fit([rows], Plan(("a", "b", "c", "d"))).share for rows in (steady, wandering)]
    assert shares[0] == 0.99 and shares[1] < 0.99


def test_too_little_history_is_refused_with_what_is_needed():
    with pytest.raises(ValueError, match=r"rows in operation after the first 300 samples of each history; 1040 are"):
        fit([run(1, 700, cold=False)[:, ORDER]], PLAN)
    with pytest.raises(ValueError, match="set points are at rest in .* rows, .* are needed"):
        fit([run(1, 4000, cold=False, hold=8)[:, ORDER]], PLAN)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_shares_sum_to_one_and_a_single_sensor_that_is_far_off_is_named(seed, count):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(1500, count)) @ rng.normal(size=(count, count)) + 5.0
    made = fit([rows], Plan(tuple("abcde"[:count]))).model
    inputs = states(rows[:400])
    which = int(rng.integers(count))
    inputs["ewma"][:, :, which] += 1e3 * rows.std(axis=0)[which]
    said = made.answers(inputs)
    known = said["unknown"] == 0
    np.testing.assert_allclose(said["contributions"][known].sum(axis=1), 1.0)
    assert (said["contributions"][known].argmax(axis=1) == which).all()


# --- the graph and the bundle


@pytest.mark.parametrize("name", ["onnx_cpu", "reference"])
@pytest.mark.parametrize("plan", [PLAN, Plan(SENSORS), Plan(SENSORS, SET_POINTS[:1])], ids=["whole", "bare", "one"])
def test_graph_says_what_the_formula_says(tmp_path, name, plan):
    order = [NAMES.index(n) for n in plan.channels]
    made = fit([run(3, 8000, cold=False)[:, order]], plan)
    _, runs = engine(tmp_path, made, name)
    inputs = states(run(4, 1500)[:, order])
    inputs["same"] = np.ones((1500, len(SENSORS)))
    want, got = made.model.answers(inputs), runs.infer(inputs)
    assert (got["unknown"] == want["unknown"]).all()
    np.testing.assert_allclose(got["score"], want["score"], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(got["contributions"], want["contributions"], atol=1e-7)


def test_row_alone_has_the_bits_of_the_row_in_any_batch(tmp_path):
    _, runs = engine(tmp_path, fitted())
    inputs = states(run(4, 600)[:, ORDER])
    inputs["same"] = np.ones((600, len(SENSORS)))
    whole = {k: v.copy() for k, v in runs.infer(inputs).items()}
    for a, b in ((0, 1), (301, 302), (299, 304), (300, 333), (310, 566)):
        part = runs.infer({k: np.ascontiguousarray(v[a:b]) for k, v in inputs.items()})
        assert all(part[k].tobytes() == whole[k][a:b].tobytes() for k in whole), (a, b)


def test_bundle_is_in_order_and_the_same_each_time(tmp_path):
    bundle, _ = engine(tmp_path / "a", fitted())
    assert bundle.spec.match.channels == PLAN.channels
    assert bundle.spec.outputs.unknown.reasons == REASONS
    assert bundle.spec.card.trained_on == {"unit1.csv": "ab" * 32}
    engine(tmp_path / "b", fitted())
    for file in ("model.onnx", "golden.msgpack", "model.toml", MANIFEST):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert build(replace(model(), growth=model().growth + 1.0)) != build(model())
