"""Write the bundle `vibration-health`: indicators of a machine's wear from short snapshots of its vibration.

python -m engines.recipes.health

A snapshot is one row. Per channel eight indicators: the strength of the whole signal (its standard deviation), how
impulsive it is (kurtosis), and the power in six bands, each an octave wide, the highest ending at half the rate. The
bands scale with the rate, so one graph serves any machine that is watched by snapshots of 2,560 samples. Nothing is
trained; what is normal for a machine comes from its own first rows, by the passport's `[baseline]`.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto

from engines.base import Array
from engines.bundle import SHIPPED
from engines.golden import Golden, GoldenCase
from engines.graph import GraphBuilder, Signal, means, statistics
from engines.graph.builder import Name
from engines.graph.spectrum import kernels
from engines.recipes.seal import ship
from engines.trust import PINS

FOLDER = SHIPPED / "vibration-health"
LENGTH = 2560
FRAME = 128
BANDS = 6
#: In the order of the graph's output, per channel.
FEATURES = ("std", "kurtosis", *(f"band{k}" for k in range(1, BANDS + 1)))
REASONS = ("a channel stands still", "samples are missing")
#: Kurtosis of a signal with clear impacts; that of noise is 3.
IMPULSIVE = 4.5
_LINES = FRAME // 2 + 1
#: First line of each band, and the one beyond the last: octaves; a line is rate / FRAME wide.
_EDGES = (1, 2, 4, 8, 16, 32, _LINES)


def build() -> bytes:
    """Return the model.

    x (n, frames, C, samples) float32, frames * samples = 2,560 -> features (n, 8 * C), channel by channel, not
    negative; unknown (n) int32, 0 or the number of one of REASONS; score (n), the largest kurtosis over IMPULSIVE,
    which golden vectors compare engines by: what is judged comes from the baseline.
    """
    g = GraphBuilder("vibration-health")
    rows = g.input("x", "f4", ["frames", "C", "samples"])
    with g.exact("health"):
        # 0 keeps a dimension: the graph never needs to know how many channels there are
        x = g.node("Reshape", g.node("Transpose", rows, perm=[0, 2, 1, 3]), np.array([0, 0, LENGTH]))
        x = g.node("Sub", x, means(g, x, LENGTH))
        moments = statistics(g, Signal(x, 1, LENGTH), ("std", "kurtosis"))
        features = g.node("Concat", moments, _bands(g, x), axis=-1)
        g.output("features", g.node("Reshape", features, np.array([0, -1])), ("F",))
        std, kurtosis = (g.node("Slice", moments, np.array([k]), np.array([k + 1]), np.array([2])) for k in (0, 1))
        largest = g.node("Squeeze", g.node("ReduceMax", kurtosis, np.array([1]), keepdims=1), np.array([1, 2]))
        g.output("score", g.node("Div", largest, np.float32(IMPULSIVE)), ())
        finite, moves = (_all(g, g.node(op, std, limit)) for op, limit in
                         (("LessOrEqual", np.float32(1e30)), ("Greater", np.float32(0.0))))
        # what is NaN fails both, and what is missing is to be said first
        why = g.node("Where", g.node("Less", moves, np.float32(0.5)), np.float32(1.0), np.float32(0.0))
        why = g.node("Where", g.node("Less", finite, np.float32(0.5)), np.float32(2.0), why)
        why = g.node("Squeeze", why, np.array([1, 2]))
        g.output("unknown", g.node("Cast", why, to=TensorProto.INT32), (), "i4")
    return g.build()


def _bands(g: GraphBuilder, x: Name) -> Name:
    """Return the power in the bands, (n, C, BANDS): means over 20 Hann windows side by side.

    As products with constants that keep every dimension: a convolution would fold the channels into the batch.
    """
    frames = g.node("Reshape", x, np.array([0, 0, LENGTH // FRAME, FRAME]))
    waves = g.node("MatMul", frames, kernels(FRAME, "hann").T)
    power = g.node("Mul", waves, waves)
    weights = np.zeros((2 * _LINES, BANDS), np.float32)
    for k, (low, high) in enumerate(zip(_EDGES, _EDGES[1:], strict=False)):
        weights[low:high, k] = weights[_LINES + low : _LINES + high, k] = FRAME / LENGTH
    bands = g.node("MatMul", power, weights)
    summed = g.node("MatMul", g.node("Transpose", bands, perm=[0, 1, 3, 2]), np.ones((LENGTH // FRAME, 1), np.float32))
    return g.node("Squeeze", summed, np.array([3]))


def _all(g: GraphBuilder, said: Name) -> Name:
    """Return 1 where all channels hold, else 0, (n, 1, 1)."""
    return g.node("ReduceMin", g.node("Cast", said, to=TensorProto.FLOAT), np.array([1]), keepdims=1)


def expected(x: Array) -> Array:
    """Compute in float64 what the graph answers for snapshots (n, C, 2560): features (n, 8 * C)."""
    x = np.asarray(x, np.float64)
    x = x - x.mean(axis=2, keepdims=True)
    std = x.std(axis=2)
    kurtosis = ((x / np.maximum(std, 1e-300)[..., None]) ** 4).mean(axis=2)
    t = np.arange(FRAME)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * t / FRAME)
    lines = np.fft.rfft(x.reshape(*x.shape[:2], LENGTH // FRAME, FRAME) * window, axis=3)
    scale = np.full(_LINES, 2.0)
    scale[[0, -1]] = 1.0
    power = np.abs(lines * scale / window.sum()) ** 2
    bands = [power[..., a:b].sum(axis=3).mean(axis=2) for a, b in zip(_EDGES, _EDGES[1:], strict=False)]
    return np.stack([std, kurtosis, *bands], axis=2).reshape(len(x), -1)


# --- golden vectors

_SEED = 20261128
# Scores of a sequence: noise, about the edge, impacts, noise again; none is closer to 1 than 0.4 %.
_WOBBLE = (0.93, 1.04, 0.97, 1.07, 0.985, 1.015, 0.996, 1.004, 0.92, 1.09, 0.95, 1.02, 0.99, 1.01, 0.94, 1.06)
_SCRIPT = (*(0.7,) * 6, *_WOBBLE, *(1.3, 1.8, 2.6, 4.0, 3.1, 1.9, 1.4), *(0.75,) * 3)
# Samples are whole numbers, four to a standard deviation of the noise: they lie in the file as signed bytes. An eighth
# of a snapshot is repeated: noise does not compress, this does.
_STEPS = 4.0
_PERIOD = LENGTH // 8
# Channels and sequences of each case: 32 rows a sequence.
_CASES = ((1, 6), (2, 1), (3, 1))


def golden() -> Golden:
    """Return golden vectors: noise of several colours with impacts, stronger and weaker, and rows without an answer."""
    rng = np.random.default_rng(_SEED)
    cases = []
    for channels, sequences in _CASES:
        rows = np.concatenate([_sequence(rng, channels) for _ in range(sequences)])
        if channels == 1:
            rows[3] = 2.0  # stands still
        features = expected(rows)
        std, kurtosis = features[:, ::8], features[:, 1::8]
        outputs: dict[str, Array] = {
            "features": features.astype(np.float32), "score": (kurtosis.max(axis=1) / IMPULSIVE).astype(np.float32),
            "unknown": (std.min(axis=1) == 0).astype(np.int32),
        }  # fmt: skip
        starts = tuple(range(0, len(rows), len(_SCRIPT)))
        # ten frames of 256: a gateway may send a snapshot in parts
        parts = rows.reshape(len(rows), channels, 10, LENGTH // 10).swapaxes(1, 2)
        inputs: dict[str, Array] = {"x": np.ascontiguousarray(parts, np.float32)}
        cases.append(GoldenCase(f"{channels} channels", inputs, outputs, starts))
    return Golden(tuple(cases))


def _sequence(rng: np.random.Generator, channels: int) -> Array:
    """Return snapshots (rows, channels, 2560) whose score follows the script."""
    rows = np.empty((len(_SCRIPT), channels, LENGTH))
    for i, score in enumerate(_SCRIPT):
        for c in range(channels):
            noise = np.convolve(rng.standard_normal(_PERIOD + 8), rng.uniform(-1, 1, 9), "valid")
            part = _impulsive(rng, noise / noise.std(), score * IMPULSIVE if c == i % channels else 3.0)
            rows[i, c] = np.tile(part, LENGTH // _PERIOD)
    return rows


def _impulsive(rng: np.random.Generator, noise: Array, kurtosis: float) -> Array:
    """Add impacts to noise until the kurtosis is the wanted one, by bisection over their size."""
    hits = np.zeros(_PERIOD)
    hits[rng.choice(_PERIOD, 3, replace=False)] = rng.choice([-1.0, 1.0], 3)
    low, high, best = 0.0, 40.0, noise
    for _ in range(24):
        size = (low + high) / 2
        best = np.round((noise + size * hits) * _STEPS) + 0.0  # no zero with a sign
        centred = best - best.mean()
        found = (centred**4).mean() / (centred**2).mean() ** 2
        low, high = (size, high) if found < kurtosis else (low, size)
    return best


def write(folder: Path = FOLDER, pins: Path = PINS) -> None:
    """Write the bundle in `folder`, beside its model.toml, and its pin."""
    ship(folder, build(), golden(), pins)


if __name__ == "__main__":
    write()
