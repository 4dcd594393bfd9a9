"""Statistics of a window in float32, against NumPy and SciPy in float64 on the same float32 samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engines.graph import STATISTICS, statistics
from tests.unit.engines.graph.evaluate import on_signal

# Of each statistic, relative to what it is made of: the moments gather the rounding of up to 3,000 terms.
TOLERANCE = {"mean": 3e-7, "rms": 1e-6, "std": 3e-6, "peak": 1e-6, "crest": 4e-6, "skewness": 2e-5, "kurtosis": 2e-5}


def exact(x: np.ndarray) -> dict[str, np.ndarray]:
    """Of (..., length), in float64."""
    x = x.astype("f8")
    std, peak = x.std(-1), np.abs(x - x.mean(-1, keepdims=True)).max(-1)
    return {
        "mean": x.mean(-1), "rms": np.sqrt((x**2).mean(-1)), "std": std, "peak": peak, "crest": peak / std,
        "skewness": stats.skew(x, axis=-1), "kurtosis": stats.kurtosis(x, axis=-1, fisher=False),
    }  # fmt: skip


def of(x: np.ndarray) -> dict[str, np.ndarray]:
    channels, length = x.shape[1:]
    made = on_signal(lambda g, s: statistics(g, s), channels, length, (channels, len(STATISTICS)))(x)
    return dict(zip(STATISTICS, np.moveaxis(made, -1, 0), strict=True))


@given(
    length=st.integers(8, 3000), scale=st.floats(-6, 6).map(lambda e: 10.0**e), offset=st.floats(-100, 100),
    kind=st.sampled_from(["normal", "laplace", "uniform"]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60)
def test_statistics_agree_with_float64_at_any_length_scale_and_offset(length, scale, offset, kind, seed):
    """offset: in standard deviations. What float32 loses of the samples is lost before the graph sees them."""
    drawn = getattr(np.random.default_rng(seed), kind)(size=(2, 3, length))
    x = (scale * (drawn + offset)).astype("f4")
    want, got = exact(x), of(x)
    rounding = 2.0**-24 * (1 + abs(offset)) * 4  # of a sample's distance from the mean
    for name, values in want.items():
        floor = {"mean": want["rms"] * 3e-7, "skewness": 2e-5 + 3 * rounding}.get(name, 0.0)
        slack = TOLERANCE[name] + 4 * rounding * (name != "mean")
        assert (np.abs(got[name] - values) <= slack * np.abs(values) * 2 + floor).all(), (name, got[name], values)


@pytest.mark.parametrize("value", [0.0, 1.0, 7.3, -0.1, 1e-6, 1e6, 32767.0, -32768.0, 1e15, 1e-15])
@pytest.mark.parametrize("length", [8, 1000, 2048])
def test_constant_signal_has_no_variation_and_finite_statistics(value, length):
    got = of(np.full((1, 1, length), value))
    for name in ("std", "peak", "crest", "skewness", "kurtosis"):
        assert got[name].item() == 0.0, name
    assert got["mean"].item() == pytest.approx(value, rel=1e-6)
    assert got["rms"].item() == pytest.approx(abs(value), rel=1e-6)


def test_one_step_of_an_int16_on_top_of_its_largest_offset_is_seen():
    x = np.full((1, 1, 2048), 32766.0, "f4")
    x[..., 100] = 32767
    want, got = exact(x), of(x)
    for name in ("std", "peak", "crest", "skewness", "kurtosis"):
        assert got[name].item() == pytest.approx(want[name].item(), rel=2e-3), name


def test_saturated_int16_has_the_statistics_of_a_square_wave():
    x = np.where(np.arange(2000) % 50 < 25, -32768.0, 32767.0).reshape(1, 1, -1)
    want, got = exact(x.astype("f4")), of(x)
    for name in STATISTICS:
        assert got[name].item() == pytest.approx(want[name].item(), rel=1e-5, abs=1e-3 if name == "mean" else 1e-5)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 7, 511, 999])
def test_one_sample_that_is_no_number_makes_all_statistics_of_its_channel_nan_and_of_no_other(poison, at):
    x = np.random.default_rng(3).normal(size=(4, 3, 1000))
    clean = of(x)
    x[2, 1, at] = poison
    for name, values in of(x).items():
        assert np.isnan(values[2, 1]), name
        values[2, 1] = clean[name][2, 1]
        np.testing.assert_array_equal(values, clean[name])


def test_statistics_come_in_the_order_asked_for_and_unknown_ones_are_named():
    x = np.random.default_rng(4).normal(size=(2, 1, 100))
    both = on_signal(lambda g, s: statistics(g, s, ("kurtosis", "mean")), 1, 100, (1, 2))(x)
    np.testing.assert_array_equal(both[..., 0], of(x)["kurtosis"])
    np.testing.assert_array_equal(both[..., 1], of(x)["mean"])
    with pytest.raises(ValueError, match=r"\['median'\]: there are mean, rms"):
        on_signal(lambda g, s: statistics(g, s, ("mean", "median")), 1, 100, (1, 2))
