"""Resampling windows: against SciPy, against sines, and what a filter must keep out."""

import numpy as np
import pytest

from pipeline.resample import HALF, ratio, resample, taps

RATES = (12_000, 16_000, 20_000, 25_600, 44_100, 48_000, 51_200, 65_536, 97_656.25, 100_000)


@pytest.mark.parametrize("rate", RATES)
def test_it_is_scipys_resample_poly_with_the_same_filter(rate: float) -> None:
    signal = pytest.importorskip("scipy.signal", reason="scipy (extra `train`) is not installed")
    share = ratio(rate, 12_000)
    up, down = share.numerator, share.denominator
    x = np.random.default_rng(0).standard_normal(5000)
    got = resample(x, up, down)
    want = signal.resample_poly(x, up, down, window=taps(up, down)) if up != down else x
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", RATES)
def test_a_tone_keeps_its_frequency_height_and_phase(rate: float) -> None:
    share = ratio(rate, 12_000)
    t = np.arange(int(rate)) / rate
    for hz in (50.0, 1000.0, 4000.0):
        y = resample(np.cos(2 * np.pi * hz * t), share.numerator, share.denominator)
        made = np.arange(len(y)) * float(1 / share) / rate
        inside = slice(HALF, len(y) - HALF)
        np.testing.assert_allclose(y[inside], np.cos(2 * np.pi * hz * made)[inside], atol=2e-4)


@pytest.mark.parametrize("rate", [25_600, 48_000, 51_200])
def test_what_would_fold_into_the_band_is_80_db_down(rate: int) -> None:
    share = ratio(rate, 12_000)
    t = np.arange(rate) / rate
    for hz in (6500.0, 7000.0, 11_000.0):
        y = resample(np.cos(2 * np.pi * hz * t), share.numerator, share.denominator)
        assert np.abs(y[HALF:-HALF]).max() < 1e-4


def test_rates_are_the_fractions_that_they_are() -> None:
    said = {rate: ratio(rate, 12_000).as_integer_ratio() for rate in (12e3, 48e3, 25.6e3, 51.2e3)}
    assert said == {12e3: (1, 1), 48e3: (1, 4), 25.6e3: (15, 32), 51.2e3: (15, 64)}
    # A clock that is nobody's multiple: the nearest fraction, and less than a thousandth off.
    odd = ratio(31_415.9, 12_000)
    assert odd.numerator <= 256 and 31_415.9 * float(odd) == pytest.approx(12_000, rel=1e-4)


def test_a_rate_too_low_is_refused_and_says_why() -> None:
    with pytest.raises(ValueError, match="10000 samples/s are fewer than 12000"):
        ratio(10_000, 12_000)


def test_a_window_gives_the_same_bits_whatever_was_resampled_before() -> None:
    rng = np.random.default_rng(1)
    windows = rng.standard_normal((4, 25_600))
    alone = [resample(w, 15, 32) for w in windows]
    for w, want in zip(windows[::-1], alone[::-1], strict=True):
        assert resample(w.copy(), 15, 32).tobytes() == want.tobytes()
