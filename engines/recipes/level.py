"""Write the bundle `slow-level`: a slow quantity that leaves the level of the asset's first week.

python -m engines.recipes.level

A row is the last eight hours at 5 min, its features the mean of each channel. Nothing is trained: what is normal, daily
cycle included, comes from the asset's own first week, by the passport's `[baseline]`.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto

from engines.base import Array
from engines.bundle import SHIPPED
from engines.golden import Golden, GoldenCase
from engines.graph import GraphBuilder, means
from engines.graph.builder import Name
from engines.recipes.seal import ship
from engines.trust import PINS

FOLDER = SHIPPED / "slow-level"
#: Samples of a row: eight hours at 5 min, a shift. A mean over 96 float32 has the same bits wherever they lie.
WINDOW = 96
REASONS = ("a channel stands still", "samples are missing")


def build() -> bytes:
    """Return the model.

    x (n, frames, C, samples) float32, frames * samples = 96 -> features (n, C), means; unknown (n) int32, 0 or the
    number of one of REASONS; score (n), the largest mean without its sign, which golden vectors compare engines by:
    what is judged comes from the baseline.
    """
    g = GraphBuilder("slow-level")
    rows = g.input("x", "f4", ["frames", "C", "samples"])
    with g.exact("level"):
        x = g.node("Reshape", g.node("Transpose", rows, perm=[0, 2, 1, 3]), np.array([0, 0, WINDOW]))
        mean = means(g, x, WINDOW)
        # twice: the mean of what is left is exact where the first one was rounded
        level = g.node("Add", mean, means(g, g.node("Sub", x, mean), WINDOW))
        g.output("features", g.node("Squeeze", level, np.array([2])), ("C",))
        largest = g.node("ReduceMax", g.node("Abs", level), np.array([1]), keepdims=1)
        g.output("score", g.node("Squeeze", largest, np.array([1, 2])), ())
        last = np.array([2])
        spread = g.node("Sub", g.node("ReduceMax", x, last, keepdims=1), g.node("ReduceMin", x, last, keepdims=1))
        moves = _all(g, g.node("Greater", spread, np.float32(0.0)))
        whole = _all(g, g.node("LessOrEqual", g.node("Abs", level), np.float32(1e30)))
        why = g.node("Sub", np.float32(1.0), moves)
        why = g.node("Where", g.node("Less", whole, np.float32(0.5)), np.float32(2.0), why)
        g.output("unknown", g.node("Cast", g.node("Squeeze", why, np.array([1, 2])), to=TensorProto.INT32), (), "i4")
    return g.build()


def _all(g: GraphBuilder, said: Name) -> Name:
    """Return 1 where all channels hold, else 0, (n, 1, 1)."""
    return g.node("ReduceMin", g.node("Cast", said, to=TensorProto.FLOAT), np.array([1]), keepdims=1)


def expected(x: Array) -> Array:
    """Compute in float64 what the graph answers for rows (n, C, 96): features (n, C)."""
    return np.asarray(np.asarray(x, np.float64).mean(axis=2))


# --- golden vectors

_SEED = 20261128
# Scores of a sequence: within, about the edge, beyond, within again; none is closer to 1 than 0.4 %.
_WOBBLE = (0.93, 1.04, 0.97, 1.07, 0.985, 1.015, 0.996, 1.004, 0.92, 1.09, 0.95, 1.02, 0.99, 1.01, 0.94, 1.06)
_SCRIPT = (*(0.2, 0.6, 0.4, 0.7) * 2, *_WOBBLE * 2, *(1.3, 1.8, 2.6, 4.0, 9.0, 3.1, 1.4, 0.8), *(0.3,) * 16)
# Channels and sequences of each case: 64 rows a sequence.
_CASES = ((1, 2), (3, 1), (8, 1))


def golden() -> Golden:
    """Return golden vectors: levels that follow a script, with a daily cycle and noise, and rows without an answer."""
    rng = np.random.default_rng(_SEED)
    cases = []
    for channels, sequences in _CASES:
        rows = np.concatenate([_sequence(rng, channels) for _ in range(sequences)])
        rows[2, 0] = 0.25  # stands still
        level = expected(rows)
        outputs: dict[str, Array] = {
            "features": level.astype(np.float32), "score": np.abs(level).max(axis=1).astype(np.float32),
            "unknown": (np.ptp(rows, axis=2).min(axis=1) == 0).astype(np.int32),
        }  # fmt: skip
        parts = rows.reshape(len(rows), channels, 8, WINDOW // 8).swapaxes(1, 2)
        cases.append(GoldenCase(f"{channels} channels", {"x": np.ascontiguousarray(parts, np.float32)}, outputs,
                                tuple(range(0, len(rows), len(_SCRIPT)))))  # fmt: skip
    return Golden(tuple(cases))


def _sequence(rng: np.random.Generator, channels: int) -> Array:
    """Return windows (rows, channels, 96) whose largest mean follows the script, in steps of 2**-12."""
    rows = 0.05 * rng.standard_normal((len(_SCRIPT), channels, WINDOW))
    rows += 0.1 * np.sin(np.arange(WINDOW) * (2 * np.pi / 288) + rng.uniform(0, 6, (len(_SCRIPT), channels, 1)))
    rows -= rows.mean(axis=2, keepdims=True)
    size = rng.uniform(-0.9, 0.9, (len(_SCRIPT), channels))
    size[np.arange(len(_SCRIPT)), np.arange(len(_SCRIPT)) % channels] = rng.choice([-1.0, 1.0], len(_SCRIPT))
    return np.asarray(np.round((rows + (size * np.array(_SCRIPT)[:, None])[..., None]) * 4096) / 4096)


def write(folder: Path = FOLDER, pins: Path = PINS) -> None:
    """Write the bundle in `folder`, beside its model.toml, and its pin."""
    ship(folder, build(), golden(), pins)


if __name__ == "__main__":
    write()
