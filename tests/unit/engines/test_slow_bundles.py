"""`vibration-health` and `slow-level`: the graphs compute what the recipes say, for any number of channels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import load_bundle, open_engine, shipped_bundles
from engines.recipes import health, level

RECIPES = {"vibration-health": health, "slow-level": level}
LENGTHS = {"vibration-health": health.LENGTH, "slow-level": level.WINDOW}


@pytest.fixture(scope="module")
def engines():
    opened = {name: open_engine("onnx_cpu", load_bundle(shipped_bundles()[name])) for name in RECIPES}
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.mark.parametrize("name", RECIPES)
def test_features_have_the_names_that_the_passport_gives_them(name):
    spec = load_bundle(shipped_bundles()[name]).spec
    assert spec.baseline.per_channel
    assert [f.name for f in spec.baseline.features] == [*(health.FEATURES if name == "vibration-health" else ["level"])]
    assert spec.outputs.unknown.reasons == RECIPES[name].REASONS


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31), channels=st.integers(1, 8), scale=st.floats(1e-3, 1e3), cut=st.sampled_from([1, 2, 8])
)  # fmt: skip
@pytest.mark.parametrize("name", RECIPES)
def test_graph_computes_what_the_recipe_says_in_any_unit_and_cut(engines, name, seed, channels, scale, cut):
    rng, length = np.random.default_rng(seed), LENGTHS[name]
    x = (scale * (rng.standard_normal((3, channels, length)) + rng.uniform(-3, 3))).astype(np.float32)
    frames = np.ascontiguousarray(x.reshape(3, channels, cut, length // cut).swapaxes(1, 2))
    found = engines[name].infer({"x": frames})
    np.testing.assert_allclose(found["features"], RECIPES[name].expected(x), rtol=2e-4, atol=1e-5 * scale)
    assert found["unknown"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", RECIPES)
def test_a_channel_that_stands_still_or_has_a_gap_is_unknown_whatever_the_others_do(engines, name):
    x = np.random.default_rng(0).standard_normal((4, 1, 3, LENGTHS[name])).astype(np.float32)
    x[1, 0, 2] = 7.5
    x[2, 0, 1, 5] = np.nan
    x[3, 0, 0, 5], x[3, 0, 1] = np.inf, 1.0
    assert engines[name].infer({"x": x})["unknown"].tolist() == [0, 1, 2, 2]


def test_a_tone_is_in_its_octave(engines):
    t = np.arange(health.LENGTH) / 25_600
    for band, hz in enumerate((250.0, 500.0, 1000.0, 2000.0, 5000.0, 9000.0)):
        x = (np.sin(2 * np.pi * hz * t) + 1e-3 * np.random.default_rng(0).standard_normal(len(t))).astype(np.float32)
        bands = engines["vibration-health"].infer({"x": x[None, None, None]})["features"][0, 2:]
        assert bands.argmax() == band


@pytest.mark.parametrize(("name", "asset", "misfit"), [
    ("vibration-health", (1, 2560, 1000.0, ["g"]), "1000 samples/s, vibration-health is made for 5000 to 60000"),
    ("vibration-health", (1, 2048, 25_600.0, ["g"]), "2048 samples per frame do not divide window.size = 2560"),
    ("vibration-health", (9, 2560, 25_600.0, ["g"]), "9 channels, vibration-health wants 1 to 8"),
    ("vibration-health", (1, 2560, 25_600.0, ["Cel"]), "a channel in 'Cel', vibration-health takes [g], g, m/s2, mm/s"),
    ("slow-level", (1, 1, 1 / 3600, ["Cel"]), "0.000277778 samples/s, slow-level is made for 0.0025 to 0.0042"),
])  # fmt: skip
def test_another_rate_unit_or_layout_is_refused_with_the_reason(name, asset, misfit):
    found, *_ = load_bundle(shipped_bundles()[name]).spec.misfits(*asset)
    assert found.startswith(misfit)
