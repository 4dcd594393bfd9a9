"""The envelope of a band: what a bearing's impacts modulate.

One FIR filter pair does band-pass and Hilbert transform at once (a low-pass turned up to the band's middle, real and
imaginary part), the magnitude is the envelope, and a second FIR filter decimates it. No padding: the ends are cut off.
"""

import numpy as np
from numpy.typing import NDArray

from engines.graph.builder import GraphBuilder, Signal

# Taps per transition: a Hamming window's main lobe is 3.3 / taps of the rate wide, its side lobes are 53 dB down.
_HAMMING_LOBE = 3.3
_CHANNEL = np.array([1])

Band = tuple[float, float]


def envelope(
    graph: GraphBuilder, signal: Signal, rate_hz: float, band_hz: Band, decimate: int = 1, taps: int = 127
) -> Signal:
    """Return the amplitude of the band over time, every `decimate`-th sample of it after a low-pass.

    A sine of amplitude A inside the band gives A. taps: odd, of the band filter; the edges are 3.3 * rate / taps wide.
    The low-pass has 4 * decimate + 1 taps, so a result has (length - taps + 1 - 4 * decimate - 1) // decimate + 1
    samples, at rate / decimate. Raises ValueError for a band outside 0 to rate / 2, or narrower than its edges.
    """
    low, high = band_hz
    if not 0 < low < high < rate_hz / 2:
        raise ValueError(f"band {low:g} to {high:g} Hz: must rise and lie between 0 and {rate_hz / 2:g} Hz")
    if taps % 2 == 0 or high - low < _HAMMING_LOBE * rate_hz / taps:
        raise ValueError(
            f"{taps} taps cannot make a band {high - low:g} Hz wide: an odd number above "
            f"{_HAMMING_LOBE * rate_hz / (high - low):.0f} can"
        )
    band = band_kernels(rate_hz, band_hz, taps)
    smooth = lowpass(0.4 / decimate, 4 * decimate + 1) if decimate > 1 else np.ones(1, np.float32)
    length = signal.length - taps + 1
    kept = (length - len(smooth)) // decimate + 1
    if length < len(smooth):
        raise ValueError(f"{signal.length} samples are fewer than the {taps + len(smooth) - 1} that the filters span")
    with graph.exact("envelope"):
        row = graph.node("Reshape", signal.name, np.array([-1, 1, signal.length]))
        both = graph.node("Conv", row, band[:, None, :])
        squares = graph.node("Mul", both, both)
        real = graph.node("Slice", squares, np.array([0]), np.array([1]), _CHANNEL)
        imaginary = graph.node("Slice", squares, np.array([1]), np.array([2]), _CHANNEL)
        size = graph.node("Sqrt", graph.node("Add", real, imaginary))
        if decimate > 1:
            size = graph.node("Conv", size, smooth[None, None, :], strides=[decimate])
        shaped = graph.node("Reshape", size, np.array([-1, signal.channels, kept]))
    return Signal(shaped, signal.channels, kept)


def band_kernels(rate_hz: float, band_hz: Band, taps: int) -> NDArray[np.float32]:
    """Return real and imaginary part of an analytic band-pass, (2, taps), turned round as Conv takes them.

    Amplitude 1 in the middle of the band, half of that at its edges, no negative frequencies.
    """
    middle, half = (band_hz[0] + band_hz[1]) / 2 / rate_hz, (band_hz[1] - band_hz[0]) / 2 / rate_hz
    turns = np.exp(2j * np.pi * middle * (np.arange(taps) - taps // 2))
    kernel = (2 * lowpass(half, taps).astype(np.float64) * turns)[::-1]
    return np.stack([kernel.real, kernel.imag]).astype(np.float32)


def lowpass(cutoff: float, taps: int) -> NDArray[np.float32]:
    """Return a sinc times a Hamming window, (taps), of gain 1 at frequency 0 and 1/2 at `cutoff` times the rate."""
    at = np.arange(taps) - (taps - 1) / 2
    kernel = np.sinc(2 * cutoff * at) * np.hamming(taps)
    return np.asarray(kernel / kernel.sum(), np.float32)
