"""`battery-fade`: the graph computes what the recipe says, knows when it does not know, and is written again alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import load_bundle, open_engine, shipped_bundles
from engines.recipes import fade, fade_model
from engines.recipes.fade_model import WINDOW, answers, windows
from engines.trust import TrustPolicy
from pipeline import judge
from pipeline.parity import decide


@pytest.fixture(scope="module")
def engine():
    opened = open_engine("onnx_cpu", load_bundle(shipped_bundles()["battery-fade"]))
    yield opened
    opened.close()


def a_cell(seed: int = 0, cycles: int = 150, rate: float = 0.008) -> np.ndarray:
    return fade.simulated(np.random.default_rng(seed), cycles, rate)


def rows(cell: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": windows(cell).astype(np.float32)[..., None]}


def test_a_bundle_of_another_fit_is_whole_and_answers_otherwise(tmp_path):
    made = fade_model.fit([a_cell(1), a_cell(2, rate=0.01)])
    fade.write_fitted(tmp_path / "own", made)
    opened = open_engine("onnx_cpu", load_bundle(tmp_path / "own", TrustPolicy(allow_unsigned=True)))
    found = opened.infer(rows(a_cell(3)))["rul"]
    opened.close()
    np.testing.assert_allclose(found, answers(windows(a_cell(3)), made)["life"], atol=0.01)
    assert made != fade_model.TRAINED


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), rate=st.floats(0.002, 0.02), first=st.integers(0, 20_000))
def test_graph_computes_what_the_recipe_says(engine, seed, rate, first):
    cell = a_cell(seed, 80, rate)
    cell[:, 0] += first
    found, want = engine.infer(rows(cell)), answers(windows(cell).astype(np.float32), fade_model.TRAINED)
    assert (found["unknown"] == want["why"]).all()
    known = want["why"] == 0
    np.testing.assert_allclose(found["rul"][known], want["life"][known], atol=0.05)
    np.testing.assert_allclose(found["p10"][known], want["low"][known], atol=0.05)
    np.testing.assert_allclose(found["p90"][known], want["high"][known], atol=0.05)
    assert (found["score"][~known] == 0).all()


@pytest.mark.parametrize(("cycle", "soh", "why"), [
    (slice(5, 9), None, 1), (None, 1.3, 2), (None, 0.0, 2), (None, np.nan, 2), (slice(0, 64), None, 1),
])  # fmt: skip
def test_bad_rows_get_the_reason_and_no_number_that_looks_sure(engine, cycle, soh, why):
    x = rows(a_cell())["x"][:1].copy()
    if cycle is not None:
        x[0, cycle, 0] = 3.0
    if soh is not None:
        x[0, 20, 1] = soh
    found = engine.infer({"x": x})
    assert found["unknown"].tolist() == [why]
    assert found["score"].tolist() == [0.0]
    assert (found["p10"].tolist(), found["p90"].tolist()) == ([0.0], [fade_model.CAP])


def test_a_dead_cell_and_a_capacity_that_never_changes_are_unknown(engine):
    x = rows(a_cell())["x"][:2].copy()
    x[0, -3:, 1], x[1, :, 1] = 0.4, 0.9
    assert engine.infer({"x": x})["unknown"].tolist() == [2, 3]


def test_life_falls_to_zero_at_the_end_of_life_and_one_odd_discharge_changes_little(engine):
    cell = np.stack([np.arange(1.0, 151), 0.5 + 0.45 * (1 - 0.008) ** np.arange(1, 151)], axis=1)
    left = engine.infer(rows(cell))["rul"]
    ended = int(np.flatnonzero(cell[:, 1] <= fade_model.END)[0])
    # the median of three is that of the cycle before the last
    assert left[ended - WINDOW + 1] == pytest.approx(1.0, abs=1.0)
    assert (np.diff(left) <= 0).all()
    odd = cell.copy()
    odd[99, 1] += 0.1
    # the whole line turns a little, and the level may not rise above it; as it stands, 0.1 are 62 cycles
    assert abs(engine.infer(rows(odd))["rul"][99 - WINDOW + 1] - left[99 - WINDOW + 1]) < 3.0


def test_golden_rows_raise_and_are_not_at_the_edge():
    golden = fade.golden()
    bundle = load_bundle(fade.FOLDER)
    (case,) = golden.cases
    states = decide(bundle, case.outputs["score"], case.starts)
    assert {judge.NORMAL, judge.OVER, judge.ACTIVE} <= set(states.tolist())
    assert np.abs(case.outputs["score"] - 1).min() > 5 * bundle.spec.golden.tolerance["score"].abs


def test_fit_finds_the_rate_that_cells_were_made_with_and_refuses_a_single_cell():
    made = fade_model.fit([a_cell(k, 190, 0.009) for k in range(4)])
    assert made.rate == pytest.approx(0.009, rel=0.15)
    assert 0 < made.width < 1
    with pytest.raises(ValueError, match="at least two"):
        fade_model.fit([a_cell()])
