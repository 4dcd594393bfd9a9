"""Spectra as products with cosines and sines: TensorRT has no DFT, and a Conv takes 3 kernels where STFT takes 8.

All lines are scaled so that a sine of amplitude A in the middle of a line has magnitude A and power A**2. Take the mean
out before (samples.centred): a window lets a mean of 1e6 leak into the first lines.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.graph.builder import GraphBuilder, Name, Signal, means

#: Windows by name, periodic as spectra need them: weights of cos(2 pi k t / size), k = 0, 1, 2.
WINDOWS = {"boxcar": (1.0,), "hann": (0.5, -0.5), "hamming": (0.54, -0.46), "blackman": (0.42, -0.5, 0.08)}
_CHANNEL, _FREQUENCY = np.array([1]), np.array([-1])


class Spectrum(NamedTuple):
    """A tensor (n, channels, lines) in float32: power or magnitude. size: samples of a frame."""

    name: Name
    channels: int
    lines: int
    size: int


class Frames(NamedTuple):
    """A tensor (n, channels, lines, frames): a spectrum per frame."""

    name: Name
    channels: int
    lines: int
    frames: int
    size: int


def stft(graph: GraphBuilder, signal: Signal, size: int, hop: int, window: str = "hann", power: bool = True) -> Frames:
    """Return the spectra of frames of `size` samples, one every `hop`: power, or magnitude.

    No padding: (length - size) / hop must be whole, or the last samples would be in no frame. Raises ValueError.
    """
    frames, left = divmod(signal.length - size, hop)
    if frames < 0 or left or not 1 <= hop <= size:
        raise ValueError(
            f"frames of {size} every {hop} do not cover {signal.length} samples: hop must be at most the size, and "
            "length - size a multiple of it"
        )
    lines = size // 2 + 1
    with graph.exact("stft"):
        row = graph.node("Reshape", signal.name, np.array([-1, 1, signal.length]))
        both = graph.node("Conv", row, kernels(size, window)[:, None, :], strides=[hop])
        found = _power(graph, both, lines)
        if not power:
            found = graph.node("Sqrt", found)
        shaped = graph.node("Reshape", found, np.array([-1, signal.channels, lines, frames + 1]))
    return Frames(shaped, signal.channels, lines, frames + 1, size)


def spectrum(
    graph: GraphBuilder, signal: Signal, window: str = "hann", power: bool = True, centre: bool = False
) -> Spectrum:
    """Return the spectrum of the whole signal, as one matrix product of length * (length + 2) constants.

    For short signals, such as a decimated envelope: 2,048 samples are 16.8 MB of constants, 256 are 0.3 MB. centre: of
    the signal without its mean, at no cost: the mean is taken out of the constants. For a mean no larger than some 100
    times what varies, as an envelope's: beyond that `samples.centred` is the exact way.
    """
    lines = signal.length // 2 + 1
    constants = kernels(signal.length, window).astype(np.float64)
    if centre:
        constants -= constants.mean(axis=1, keepdims=True)
    with graph.exact("spectrum"):
        both = graph.node("MatMul", signal.name, constants.T)
        turned = graph.node("Transpose", both, perm=[0, 2, 1])
        found = graph.node("Transpose", _power(graph, turned, lines), perm=[0, 2, 1])
        if not power:
            found = graph.node("Sqrt", found)
    return Spectrum(found, signal.channels, lines, signal.length)


def mean_spectrum(graph: GraphBuilder, frames: Frames) -> Spectrum:
    """Return the mean over the frames (of power: Welch's estimate)."""
    with graph.exact("mean_spectrum"):
        found = graph.node("Squeeze", means(graph, frames.name, frames.frames), _FREQUENCY)
    return Spectrum(found, frames.channels, frames.lines, frames.size)


def bands(graph: GraphBuilder, spectrum: Spectrum, rate_hz: float, edges_hz: Sequence[tuple[float, float]]) -> Name:
    """Return the sums of a spectrum's lines over bands, (n, channels, bands).

    edges_hz: per band its first frequency and the first one that is beyond it. Raises ValueError for a band that holds
    no line. Sums are exact in the weights: a line is in a band or not.
    """
    lines_hz = np.arange(spectrum.lines) * (rate_hz / spectrum.size)
    weights = np.zeros((spectrum.lines, len(edges_hz)), np.float32)
    for band, (low, high) in enumerate(edges_hz):
        inside = (lines_hz >= low) & (lines_hz < high)
        if not inside.any():
            raise ValueError(
                f"no line is in the band {low:g} to {high:g} Hz: lines are {rate_hz / spectrum.size:g} Hz apart, up to "
                f"{lines_hz[-1]:g} Hz"
            )
        weights[inside, band] = 1.0
    with graph.exact("bands"):
        return graph.node("MatMul", spectrum.name, weights)


def kernels(size: int, window: str) -> NDArray[np.float32]:
    """Return cosines, then sines, of all lines times the window, (2 * lines, size), scaled to amplitudes."""
    if window not in WINDOWS:
        raise ValueError(f"window {window!r} is unknown, there are {', '.join(WINDOWS)}")
    if size < 2:
        raise ValueError(f"a frame of {size} samples has no spectrum: at least 2")
    turns = np.outer(np.arange(size // 2 + 1), np.arange(size)) % size  # whole turns dropped: exact for long frames
    angles = turns * (2 * np.pi / size)
    at = 2 * np.pi * np.arange(size) / size
    weights = np.sum([c * np.cos(k * at) for k, c in enumerate(WINDOWS[window])], axis=0)
    scale = np.full((size // 2 + 1, 1), 2.0)
    scale[0] = 1.0
    if size % 2 == 0:
        scale[-1] = 1.0  # the line at half the rate has no mirror image
    scale /= weights.sum()
    return np.concatenate([np.cos(angles) * weights * scale, -np.sin(angles) * weights * scale]).astype(np.float32)


def _power(graph: GraphBuilder, both: Name, lines: int) -> Name:
    """Return re**2 + im**2 of (., 2 * lines, .)."""
    parts = []
    for first in (0, lines):
        part = graph.node("Slice", both, np.array([first]), np.array([first + lines]), _CHANNEL)
        parts.append(graph.node("Mul", part, part))
    return graph.node("Add", *parts)
