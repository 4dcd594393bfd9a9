"""From rows as they arrive to signals (n, channels, length) in units.

Rows of windows are (n, frames, channels, samples), because that is how frames lie in memory; the transpose to one
signal per channel is the graph's, where it costs nothing.
"""

import numpy as np
from numpy.typing import ArrayLike

from engines.graph.builder import LEAST, GraphBuilder, Name, Signal, means

_LOW, _HIGH = np.array([0]), np.array([1])
_LAST, _LAST_END = np.array([-1]), np.array([2])


def windows(graph: GraphBuilder, name: str, channels: int, length: int, frames: int | None = None) -> Signal:
    """Add the input `name`, f4 (n, frames, channels, samples), and return it as a signal of frames * samples = length.

    frames: none leaves it open, so that assets with any number of samples per frame fit.
    """
    rows = graph.input(name, "f4", _frames(channels, length, frames))
    with graph.exact(name):
        return _by_channel(graph, rows, channels, length)


def raw_samples(graph: GraphBuilder, name: str, channels: int, length: int, frames: int | None = None) -> Signal:
    """Add the input `name`, u1 (n, frames, channels, samples, 2): int16 in little endian; return it as counts.

    TensorRT has no int16; the host's array as bytes, `array.view("u1")`, is no copy and half of what float32 takes.
    Exact: every int16 is a float32. frames: as in `windows`.
    """
    rows = graph.input(name, "u1", (*_frames(channels, length, frames), 2))
    with graph.exact(name):
        octets = graph.node("Cast", rows, to=1)  # to float32
        low = graph.node("Squeeze", graph.node("Slice", octets, _LOW, _HIGH, _LAST), _LAST)
        high = graph.node("Squeeze", graph.node("Slice", octets, _HIGH, _LAST_END, _LAST), _LAST)
        is_negative = graph.node("Cast", graph.node("Greater", high, np.float32(127)), to=1)
        unsigned = graph.node("Add", low, graph.node("Mul", high, np.float32(256)))
        counts = graph.node("Sub", unsigned, graph.node("Mul", is_negative, np.float32(65536)))
        return _by_channel(graph, counts, channels, length)


def scaled(graph: GraphBuilder, signal: Signal, scale: ArrayLike, offset: ArrayLike = 0.0) -> Signal:
    """Return signal * scale + offset. scale, offset: one number, or one per channel (units per count, and unit)."""
    with graph.exact("scaled"):
        product = graph.node("Mul", signal.name, _per_channel(scale, signal.channels))
        return signal._replace(name=graph.node("Add", product, _per_channel(offset, signal.channels)))


def centred(graph: GraphBuilder, signal: Signal) -> Signal:
    """Return the signal without its mean, per window and channel.

    Twice: the mean of numbers near 1e6 is known to 0.1 in float32, the mean of what is left to 1e-8.
    """
    with graph.exact("centred"):
        name = signal.name
        for _ in range(2):
            name = graph.node("Sub", name, means(graph, name, signal.length))
        return signal._replace(name=name)


def standardised(graph: GraphBuilder, signal: Signal, mean: ArrayLike, std: ArrayLike) -> Signal:
    """Return (signal - mean) / std. mean, std: constants, one number or one per channel; std must be above 0."""
    with graph.exact("standardised"):
        deviation = graph.node("Sub", signal.name, _per_channel(mean, signal.channels))
        divisor = _per_channel(std, signal.channels)
        if not (divisor >= LEAST).all():
            raise ValueError(f"std = {np.ravel(divisor).tolist()}: must be above 0 for every channel")
        return signal._replace(name=graph.node("Div", deviation, divisor))


def standardised_per_asset(graph: GraphBuilder, signal: Signal, mean: str, std: str) -> Signal:
    """As `standardised`, with mean and std of the row's asset: adds the inputs so named, f4 (n, channels).

    A std of 0, of a channel that stood still, divides by 2**-100: any change of it is then beyond every limit. One
    model serves every asset so; a table inside it would mean a new engine for each new asset.
    """
    names = [graph.input(name, "f4", (signal.channels,)) for name in (mean, std)]
    with graph.exact("standardised"):
        columns = [graph.node("Unsqueeze", name, _LAST) for name in names]
        # Where, not Max: NaN is not less than anything, so a std of NaN stays and the score says so.
        is_small = graph.node("Less", columns[1], LEAST)
        divisor = graph.node("Where", is_small, LEAST, columns[1])
        return signal._replace(name=graph.node("Div", graph.node("Sub", signal.name, columns[0]), divisor))


def _frames(channels: int, length: int, frames: int | None) -> tuple[int | str, int, int | str]:
    if frames is None:
        return ("frames", channels, "samples")
    samples, left = divmod(length, frames)
    if left:
        raise ValueError(f"{frames} frames do not divide {length} samples")
    return (frames, channels, samples)


def _by_channel(graph: GraphBuilder, rows: Name, channels: int, length: int) -> Signal:
    turned = graph.node("Transpose", rows, perm=[0, 2, 1, 3])
    # 0 keeps the batch: rows of another length are then an error, where -1 would cut the batch anew.
    return Signal(graph.node("Reshape", turned, np.array([0, channels, length])), channels, length)


def _per_channel(values: ArrayLike, channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return (1, channels, 1), or a scalar for all channels."""
    with np.errstate(over="ignore"):  # what becomes infinite is refused as a constant
        array = np.asarray(values, np.float32)
    if array.ndim and array.shape != (channels,):
        raise ValueError(f"{array.shape} numbers for {channels} channels: give one, or one per channel")
    return array.reshape(1, channels, 1) if array.ndim else array
