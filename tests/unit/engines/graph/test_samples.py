"""Samples to signals, against NumPy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.graph import GraphBuilder, centred, raw_samples, scaled, standardised, standardised_per_asset, windows
from tests.unit.engines.graph.evaluate import by_reference, model_of, on_signal, run, session_of

EVERY_INT16 = np.arange(-32768, 32768).astype("<i2")


def test_every_int16_comes_out_as_itself():
    """Saturated, zero, one above and below: all 65,536 of them, in ONNX Runtime and in the reference."""
    model = model_of(lambda g: raw_samples(g, "x", 4, 4096).name, (4, 4096))
    counts = EVERY_INT16.reshape(4, 2, 4, 2048)
    rows = {"x": counts.view("u1").reshape(4, 2, 4, 2048, 2)}
    want = counts.transpose(0, 2, 1, 3).reshape(4, 4, 4096)
    for got in (run(model, rows)["y"], by_reference(model, rows)["y"]):
        np.testing.assert_array_equal(got, want)


@given(frames=st.sampled_from([1, 2, 4, 8]), channels=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_frames_of_any_size_join_to_the_signal_of_each_channel(frames, channels, seed):
    model = model_of(lambda g: windows(g, "x", channels, 64).name, (channels, 64))
    signal = np.random.default_rng(seed).normal(size=(3, channels, 64)).astype("f4")
    rows = signal.reshape(3, channels, frames, 64 // frames).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(run(model, {"x": np.ascontiguousarray(rows)})["y"], signal)


def test_rows_of_another_length_are_an_error_and_no_other_rows():
    """Four rows of half a window hold as many samples as two rows: they must not become two rows."""
    session = session_of(model_of(lambda g: windows(g, "x", 2, 64).name, (2, 64)))
    with pytest.raises(Exception, match="Reshape"):
        session.run(None, {"x": np.zeros((4, 1, 2, 32), "f4")})


def test_frames_that_do_not_divide_the_window_are_refused():
    with pytest.raises(ValueError, match="3 frames do not divide 64 samples"):
        windows(GraphBuilder("made"), "x", 2, 64, frames=3)


def test_counts_become_units_per_channel():
    scale, offset = [1e-6, 1.0, 1e6], [0.0, -3.0, 1e6]
    run_ = on_signal(lambda g, s: scaled(g, s, scale, offset).name, 3, 50, (3, 50))
    counts = np.random.default_rng(1).integers(-32768, 32768, (4, 3, 50)).astype("f8")
    want = counts * np.array(scale)[:, None] + np.array(offset)[:, None]
    np.testing.assert_allclose(run_(counts), want, rtol=3e-7, atol=0.25)  # one ulp of the sum's larger term, 1e6 * 3e4
    with pytest.raises(ValueError, match=r"\(2,\) numbers for 3 channels"):
        on_signal(lambda g, s: scaled(g, s, [1.0, 2.0]).name, 3, 50, (3, 50))
    with pytest.raises(ValueError, match="not finite"):
        on_signal(lambda g, s: scaled(g, s, 1e39).name, 3, 50, (3, 50))


@given(
    length=st.integers(2, 3000), scale=st.floats(-6, 6).map(lambda e: 10.0**e),
    offset=st.floats(-1e3, 1e3), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40)
def test_centring_leaves_no_mean_whatever_the_offset(length, scale, offset, seed):
    """offset: in standard deviations. Against the float32 samples, which is all that the graph sees."""
    x = (scale * (np.random.default_rng(seed).normal(size=(2, 2, length)) + offset)).astype("f4")
    exact = x.astype("f8") - x.astype("f8").mean(-1, keepdims=True)
    got = on_signal(lambda g, s: centred(g, s).name, 2, length, (2, length))(x)
    peak = np.abs(exact).max() + 1e-30
    # The first difference rounds to an ulp of the offset, which all samples share: the second mean takes it out.
    np.testing.assert_allclose(got, exact, atol=1e-6 * peak + 1e-7 * np.abs(x).max())
    assert np.abs(got.astype("f8").mean(-1)).max() <= 1e-6 * peak


def test_normalisation_by_constants_and_by_inputs_is_the_same():
    rng = np.random.default_rng(2)
    x, mean, std = rng.normal(5, 3, (6, 3, 20)).astype("f4"), np.array([5.0, 4.0, 6.0]), np.array([3.0, 2.0, 1e-3])
    fixed = on_signal(lambda g, s: standardised(g, s, mean, std).name, 3, 20, (3, 20))(x)
    model = model_of(lambda g: standardised_per_asset(g, windows(g, "x", 3, 20), "mean", "std").name, (3, 20))
    table = {k: np.tile(v.astype("f4"), (6, 1)) for k, v in (("mean", mean), ("std", std))}
    rows = {"x": x[:, None], **table}
    np.testing.assert_array_equal(run(model, rows)["y"], fixed)
    np.testing.assert_allclose(fixed, (x - mean[:, None]) / std[:, None], rtol=1e-6, atol=1e-3)


def test_std_of_nothing_is_refused_as_a_constant_and_survived_as_an_input():
    with pytest.raises(ValueError, match="above 0"):
        on_signal(lambda g, s: standardised(g, s, 0.0, [1.0, 0.0]).name, 2, 4, (2, 4))
    model = model_of(lambda g: standardised_per_asset(g, windows(g, "x", 3, 4), "mean", "std").name, (3, 4))
    rows = {"x": np.array([1, 1, 2], "f4").reshape(1, 1, 3, 1).repeat(4, -1), "mean": np.ones((1, 3), "f4"),
            "std": np.array([[0, np.nan, 0]], "f4")}  # fmt: skip
    still, unknown, moved = run(model, rows)["y"][0]
    assert (still == 0).all() and np.isnan(unknown).all() and np.isfinite(moved).all() and (moved > 1e20).all()
