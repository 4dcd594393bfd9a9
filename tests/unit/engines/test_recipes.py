"""Recipes of shipped bundles give the same bytes again; anomaly-mewma, the formula it stands for."""

import tomllib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import load_bundle, open_engine, shipped_bundles
from engines.recipes import fade, health, level, mewma
from engines.trust import PINS
from pipeline import judge
from pipeline.parity import decide


@pytest.fixture(scope="module")
def engine():
    opened = open_engine("onnx_cpu", load_bundle(shipped_bundles()["anomaly-mewma"]))
    yield opened
    opened.close()


def one(z, center, whitening, limit):
    return {
        "z": np.array([z], "f8"), "center": np.array([center], "f8"), "whitening": np.array([whitening], "f8"),
        "limit": np.array([limit], "f8"),
    }  # fmt: skip


@pytest.mark.parametrize("recipe", [mewma, fade, health, level], ids=lambda recipe: recipe.FOLDER.name)
def test_recipe_writes_the_shipped_bundle_again_byte_for_byte(tmp_path, recipe):
    folder = tmp_path / recipe.FOLDER.name
    folder.mkdir()
    (folder / "model.toml").write_bytes((recipe.FOLDER / "model.toml").read_bytes())
    recipe.write(folder, tmp_path / "pins.toml")
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in recipe.FOLDER.iterdir())
    for file in folder.iterdir():
        assert file.read_bytes() == (recipe.FOLDER / file.name).read_bytes(), file.name
    pins = tomllib.loads(PINS.read_text())
    assert tomllib.loads((tmp_path / "pins.toml").read_text()).items() <= pins.items()
    assert pins.keys() == shipped_bundles().keys()


def test_golden_rows_are_near_the_limit_and_raise_and_clear_an_alert():
    golden, near = mewma.golden(), []
    for case in golden.cases:
        score = case.outputs["score"]
        bundle = load_bundle(mewma.FOLDER)
        states = decide(bundle, score, case.starts)
        assert set(states.tolist()) == {judge.NORMAL, judge.OVER, judge.ACTIVE}
        for start, stop in zip(case.starts, [*case.starts[1:], case.rows], strict=True):
            assert stop - start < 80 or states[stop - 1] == judge.NORMAL
        near += (np.abs(score - 1) <= 0.1).tolist()
        assert np.abs(score - 1).min() > 10 * bundle.spec.golden.tolerance["score"].rel
    assert len(near) == golden.rows >= 256
    assert np.mean(near) >= 0.2


def test_golden_rows_fit_float32_within_a_hundredth_of_the_tolerance():
    """An engine in float32 must pass: TensorRT has no float64."""
    for case in mewma.golden().cases:
        z, center, whitening, limit = (case.inputs[k].astype("f4") for k in ("z", "center", "whitening", "limit"))
        column = np.einsum("nij,nj->ni", whitening, z - center)
        score, want = (column * column).sum(axis=1) / limit, case.outputs["score"]
        assert (np.abs(score - want) <= 1e-2 * (1e-6 + 1e-4 * want)).all()


def test_model_has_no_size_and_no_weight_of_its_own():
    model = onnx.load_from_string(mewma.build())
    assert [(i.name, [d.dim_param for d in i.type.tensor_type.shape.dim]) for i in model.graph.input] == [
        ("z", ["n", "C"]), ("center", ["n", "C"]), ("whitening", ["n", "C", "C"]), ("limit", ["n"])]  # fmt: skip
    assert {i.type.tensor_type.elem_type for i in model.graph.input} == {onnx.TensorProto.DOUBLE}
    assert [o.version for o in model.opset_import] == [13]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9), channels=st.integers(1, 32))
def test_model_computes_t2_over_limit_and_its_shares(engine, seed, n, channels):
    rng = np.random.default_rng(seed)
    z, center = rng.normal(size=(2, n, channels))
    whitening, limit = rng.normal(size=(n, channels, channels)), rng.uniform(1, 99, n)
    dropped = rng.random(channels) < 0.3
    whitening[:, dropped] = whitening[:, :, dropped] = 0
    result = engine.infer({"z": z, "center": center, "whitening": whitening, "limit": limit})
    for i in range(n):
        deviation = z[i] - center[i]
        parts = [sum(w * d for w, d in zip(whitening[i, c], deviation, strict=True)) ** 2 for c in range(channels)]
        np.testing.assert_allclose(result["score"][i], sum(parts) / limit[i], rtol=1e-12)
        if sum(parts):
            np.testing.assert_allclose(result["contributions"][i], np.array(parts) / sum(parts), rtol=1e-10, atol=1e-14)
            assert result["contributions"][i].sum() == pytest.approx(1.0, abs=1e-12)
        assert not result["contributions"][i][dropped].any()


def test_row_at_its_mean_has_score_zero_and_equal_shares_of_the_kept_channels(engine):
    result = engine.infer(one([1, 2, 3], [1, 2, 3], np.diag([1.0, 0.0, 1.0]), 9))
    assert result["score"].tolist() == [0.0]
    assert result["contributions"].tolist() == [[0.5, 0.0, 0.5]]


def test_chart_without_channels_has_score_zero_and_no_shares(engine):
    result = engine.infer(one([1e9, -2], [0, 0], np.zeros((2, 2)), 1))
    assert result["score"].tolist() == [0.0]
    assert result["contributions"].tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("mad", [1e150, -1e308, np.inf, -np.inf])
def test_mad_sensor_gives_a_huge_finite_score_and_is_named(engine, mad):
    result = engine.infer(one([0.1, mad, 0.2], [0, 0, 0], np.eye(3), 20))
    assert 1e100 < result["score"][0] < np.inf
    np.testing.assert_allclose(result["contributions"], [[0, 1, 0]], atol=1e-12)
