"""Spectra and envelopes as convolutions, against SciPy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal as dsp

from engines.graph import GraphBuilder, Signal, bands, centred, envelope, mean_spectrum, spectrum, stft
from engines.graph.envelope import band_kernels, lowpass
from engines.graph.spectrum import WINDOWS, kernels
from tests.unit.engines.graph.evaluate import on_signal

RATE = 25600.0


def amplitudes(x: np.ndarray, size: int, hop: int, window: str) -> np.ndarray:
    """Magnitudes (..., lines, frames) by NumPy's FFT, float64, scaled as ours."""
    weights = dsp.get_window(window, size)
    frames = np.lib.stride_tricks.sliding_window_view(x.astype("f8"), size, axis=-1)[..., ::hop, :]
    found = np.abs(np.fft.rfft(frames * weights)) * 2 / weights.sum()
    found[..., 0] /= 2
    if size % 2 == 0:
        found[..., -1] /= 2
    return np.moveaxis(found, -1, -2)


@given(
    size=st.integers(2, 300), frames=st.integers(1, 6), window=st.sampled_from(sorted(WINDOWS)), data=st.data(),
    scale=st.floats(-6, 6).map(lambda e: 10.0**e), power=st.booleans(),
)  # fmt: skip
@settings(max_examples=50)
def test_stft_is_the_fft_of_each_frame(size, frames, window, data, scale, power):
    hop = data.draw(st.integers(max(1, size // 4), size))
    length = size + hop * (frames - 1)
    lines = size // 2 + 1
    x = (scale * np.random.default_rng(size).normal(size=(2, 3, length))).astype("f4")
    run = on_signal(lambda g, s: stft(g, s, size, hop, window, power).name, 3, length, (3, lines, frames))
    want = amplitudes(x, size, hop, window)
    # Rounding of a sum of `size` products, as large as the largest line whatever the line's own size.
    atol = 2e-6 * np.abs(x).max()
    if power:
        np.testing.assert_allclose(run(x), want**2, rtol=2e-5, atol=atol * np.abs(x).max())
    else:
        np.testing.assert_allclose(run(x), want, rtol=1e-5, atol=atol)


def test_sine_of_amplitude_3_has_magnitude_3_in_its_line_and_nothing_far_away():
    t = np.arange(2048) / RATE
    x = 3 * np.sin(2 * np.pi * 100 * (RATE / 256) * t)[None, None]
    run = on_signal(lambda g, s: stft(g, s, 256, 128, power=False).name, 1, 2048, (1, 129, 15))
    found = run(x)[0, 0]
    np.testing.assert_allclose(found[100], 3.0, rtol=1e-5)
    assert np.delete(found, [99, 100, 101], axis=0).max() < 1e-5


@given(length=st.integers(2, 600), seed=st.integers(0, 99), window=st.sampled_from(sorted(WINDOWS)))
@settings(max_examples=30)
def test_spectrum_of_a_whole_signal_is_the_stft_of_one_frame(length, seed, window):
    x = np.random.default_rng(seed).normal(size=(2, 2, length)).astype("f4")
    run = on_signal(lambda g, s: spectrum(g, s, window).name, 2, length, (2, length // 2 + 1))
    np.testing.assert_allclose(run(x), amplitudes(x, length, 1, window)[..., 0] ** 2, rtol=2e-5, atol=2e-5)


@given(length=st.integers(4, 600), mean=st.floats(-100, 100), window=st.sampled_from(sorted(WINDOWS)))
@settings(max_examples=30)
def test_spectrum_that_centres_is_the_spectrum_of_the_centred_signal(length, mean, window):
    x = (np.random.default_rng(length).normal(size=(2, 2, length)) + mean).astype("f4")
    quiet = x - x.astype("f8").mean(-1, keepdims=True)
    run = on_signal(lambda g, s: spectrum(g, s, window, power=False, centre=True).name, 2, length, (2, length // 2 + 1))
    # Each constant is rounded to 2**-24 of itself: what the mean leaks through.
    np.testing.assert_allclose(run(x), amplitudes(quiet, length, 1, window)[..., 0], atol=5e-6 + 1e-6 * abs(mean))


def test_mean_over_frames_is_welch_and_bands_add_its_lines():
    x = np.random.default_rng(5).normal(size=(3, 2, 2048)).astype("f4")
    edges = [(0.0, 1000.0), (1000.0, 4000.0), (4000.0, 12801.0)]
    run = on_signal(
        lambda g, s: bands(g, mean_spectrum(g, stft(g, centred(g, s), 256, 128)), RATE, edges), 2, 2048, (2, 3)
    )
    quiet = x.astype("f8") - x.astype("f8").mean(-1, keepdims=True)
    at, density = dsp.welch(quiet, RATE, "hann", 256, 128, detrend=False, scaling="spectrum")
    want = np.stack([2 * density[..., (at >= a) & (at < b)].sum(-1) for a, b in edges], -1)
    want[..., 0] -= density[..., 0]  # SciPy's lines are mean squares, ours amplitudes squared: the ends have no mirror
    want[..., 2] -= density[..., -1]
    np.testing.assert_allclose(run(x), want, rtol=2e-5)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3, 1e6])
def test_offset_does_not_reach_the_lines_after_centring(offset):
    """An offset of 1e6 leaves 4 bits to samples near 1: their own rounding, 0.03, is what the lines may differ by."""
    x = np.random.default_rng(6).normal(size=(2, 1, 1024))
    run = on_signal(lambda g, s: stft(g, centred(g, s), 256, 128, power=False).name, 1, 1024, (1, 129, 7))
    np.testing.assert_allclose(run(x + offset), run(x), atol=2e-6 + 2.0**-25 * offset)


@given(
    length=st.integers(200, 1500), low=st.floats(1000, 5000), width=st.floats(2000, 6000),
    decimate=st.sampled_from([1, 2, 4, 8]), scale=st.floats(-6, 6).map(lambda e: 10.0**e),
)  # fmt: skip
@settings(max_examples=40)
def test_envelope_is_that_of_float64_filters(length, low, width, decimate, scale):
    x = (scale * np.random.default_rng(length).normal(size=(2, 2, length))).astype("f4")
    taps, band = 63, (low, low + width)
    graph = GraphBuilder("made")
    kept = envelope(graph, Signal(graph.input("x", "f4", (2, length)), 2, length), RATE, band, decimate, taps).length
    got = on_signal(lambda g, s: envelope(g, s, RATE, band, decimate, taps).name, 2, length, (2, kept))(x)

    turns = np.exp(2j * np.pi * (low + width / 2) / RATE * (np.arange(taps) - taps // 2))
    kernel = 2 * dsp.firwin(taps, width / 2 / RATE * 2, window="hamming") * turns
    want = np.abs(dsp.fftconvolve(x.astype("f8"), kernel[None, None], "valid", axes=-1))
    if decimate > 1:
        smooth = dsp.firwin(4 * decimate + 1, 0.8 / decimate, window="hamming")
        want = dsp.fftconvolve(want, smooth[None, None], "valid", axes=-1)[..., ::decimate]
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=3e-6 * np.abs(x).max())


def test_envelope_follows_the_amplitude_of_its_band_and_not_what_is_beside_it():
    """A carrier at 5 kHz modulated at 100 Hz, with a line twice as strong at 1 kHz."""
    t = np.arange(4096) / RATE
    slow = 1 + 0.5 * np.cos(2 * np.pi * 100 * t)
    x = slow * np.cos(2 * np.pi * 5000 * t) + 2 * np.cos(2 * np.pi * 1000 * t)
    kept = (4096 - 126 - 33) // 8 + 1
    run = on_signal(lambda g, s: envelope(g, s, RATE, (3500.0, 6500.0), 8).name, 1, 4096, (1, kept))
    at = 63 + 16 + 8 * np.arange(kept)  # both filters look from their middle
    np.testing.assert_allclose(run(x[None, None])[0, 0], slow[at], atol=0.01)


def test_silence_has_an_envelope_and_lines_of_zero():
    run = on_signal(lambda g, s: envelope(g, s, RATE, (3500.0, 6500.0), 8).name, 1, 1024, (1, 109))
    assert not run(np.zeros((1, 1, 1024))).any()
    assert not on_signal(lambda g, s: stft(g, s, 64, 64).name, 1, 1024, (1, 33, 16))(np.zeros((1, 1, 1024))).any()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 500, 1023])
def test_sample_that_is_no_number_reaches_the_bands_of_its_channel_and_no_other(poison, at):
    def write(g: GraphBuilder, s: Signal) -> str:
        return bands(g, mean_spectrum(g, stft(g, centred(g, s), 256, 128)), RATE, [(0.0, 1000.0), (5000.0, 9000.0)])

    run = on_signal(write, 2, 1024, (2, 2))
    x = np.random.default_rng(7).normal(size=(3, 2, 1024))
    clean, _ = run(x), x.__setitem__((1, 1, at), poison)
    got = run(x)
    assert np.isnan(got[1, 1]).all()
    got[1, 1] = clean[1, 1]
    np.testing.assert_array_equal(got, clean)


@pytest.mark.parametrize(("write", "says"), [
    (lambda g, s: stft(g, s, 256, 100), "do not cover 1024 samples"),
    (lambda g, s: stft(g, s, 128, 256), "do not cover"),
    (lambda g, s: stft(g, s, 2048, 128), "do not cover"),
    (lambda g, s: stft(g, s, 256, 128, "kaiser"), "'kaiser' is unknown, there are boxcar, hann"),
    (lambda g, s: bands(g, spectrum(g, s), RATE, [(10.0, 20.0)]), "no line is in the band 10 to 20 Hz: .* 25 Hz apart"),
    (lambda g, s: envelope(g, s, RATE, (5000.0, 13000.0)), "between 0 and 12800 Hz"),
    (lambda g, s: envelope(g, s, RATE, (5000.0, 4000.0)), "must rise"),
    (lambda g, s: envelope(g, s, RATE, (5000.0, 5100.0)), "an odd number above 845 can"),
    (lambda g, s: envelope(g, s, RATE, (5000.0, 9000.0), 8, 1001), "fewer than the 1033 that the filters span"),
])  # fmt: skip
def test_what_cannot_be_written_is_refused_with_what_can(write, says):
    graph = GraphBuilder("made")
    with pytest.raises(ValueError, match=says):
        write(graph, Signal(graph.input("x", "f4", (1, 1024)), 1, 1024))


def test_filters_are_those_of_scipy():
    np.testing.assert_allclose(lowpass(0.1, 33), dsp.firwin(33, 0.2, window="hamming"), atol=1e-8)
    for name in WINDOWS:
        line = kernels(64, name)
        np.testing.assert_allclose(line[0], dsp.get_window(name, 64) / dsp.get_window(name, 64).sum(), atol=1e-8)
    real, imaginary = band_kernels(RATE, (2000.0, 6000.0), 127)[:, ::-1].astype("f8")
    at, gain = dsp.freqz(real + 1j * imaginary, worN=8192, whole=True, fs=RATE)
    inside, edge, outside = (at > 2500) & (at < 5500), np.abs(at - 6000).argmin(), (at < 1500) | (at > 6500)
    np.testing.assert_allclose(np.abs(gain[inside]), 2.0, atol=0.01)
    assert np.abs(gain[edge]) == pytest.approx(1.0, abs=0.02)
    assert np.abs(gain[outside]).max() < 2 * 10 ** (-50 / 20)  # negative frequencies, above rate / 2, among them
