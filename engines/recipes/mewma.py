"""Write the bundle `anomaly-mewma`: Hotelling's T2 of a smoothed row, and each channel's share in it.

python -m engines.recipes.mewma

The graph has no weights: what an asset's chart has learnt comes in as inputs, so one model serves every asset of any
number of channels. The passport is written by hand; model, golden vectors, manifest and pin come from here, and writing
them again gives the same bytes.
"""

from math import fsum
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.base import Array
from engines.bundle import SHIPPED
from engines.golden import Golden, GoldenCase
from engines.recipes.seal import ship
from engines.trust import PINS

FOLDER = SHIPPED / "anomaly-mewma"

# ONNX 1.8 of 2020: every runtime in use reads it, and no operator used here changed its meaning since.
_OPSET, _IR_VERSION = 13, 7
# Deviations beyond this are cut: their squares stay finite, so a mad sensor raises an alert instead of a NaN.
_CUT = 1e100
# A T2 up to here is too small to divide by.
_SMALLEST = 1e-290


def build() -> bytes:
    """Return the model.

    z, center (n, C), whitening (n, C, C), limit (n), all float64 -> score (n), T2 / limit, and contributions (n, C),
    the share of each channel in T2: 0 for dropped channels, sum 1 (all 0 when no channel is left).
    """
    # Sums are matrix products of one row each: ONNX Runtime's ReduceSum adds in an order that depends on where in
    # memory a row begins, so rows of 5 channels had other last bits in other batches. Sums of 0s and 1s are exact.
    nodes = [
        helper.make_node("Sub", ["z", "center"], ["raw"]),
        helper.make_node("Clip", ["raw", "least", "most"], ["deviation"]),
        helper.make_node("Unsqueeze", ["deviation", "last"], ["deviation_column"]),
        helper.make_node("MatMul", ["whitening", "deviation_column"], ["column"]),
        helper.make_node("Transpose", ["column"], ["row"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["row", "column"], ["t2_cell"]),
        helper.make_node("Squeeze", ["t2_cell", "last"], ["t2_column"]),
        helper.make_node("Squeeze", ["t2_column", "last"], ["t2"]),
        helper.make_node("Div", ["t2", "limit"], ["score"]),
        helper.make_node("Squeeze", ["column", "last"], ["whitened"]),
        helper.make_node("Mul", ["whitened", "whitened"], ["parts"]),
        # A T2 of 0, or too small to divide by, is shared equally by the kept channels: those with a whitening.
        helper.make_node("Abs", ["whitening"], ["size"]),
        helper.make_node("ReduceMax", ["size"], ["row_size"], axes=[-1], keepdims=0),
        helper.make_node("Greater", ["row_size", "zero"], ["is_kept"]),
        helper.make_node("Cast", ["is_kept"], ["kept"], to=TensorProto.DOUBLE),
        helper.make_node("ReduceSum", ["kept", "last"], ["count"], keepdims=1),
        helper.make_node("Max", ["count", "one"], ["sharers"]),
        helper.make_node("Greater", ["t2_column", "smallest"], ["is_measurable"]),
        helper.make_node("Where", ["is_measurable", "parts", "kept"], ["weights"]),
        helper.make_node("Where", ["is_measurable", "t2_column", "sharers"], ["whole"]),
        helper.make_node("Div", ["weights", "whole"], ["contributions"]),
    ]
    double = TensorProto.DOUBLE
    graph = helper.make_graph(
        nodes,
        "anomaly-mewma",
        [
            helper.make_tensor_value_info("z", double, ["n", "C"]),
            helper.make_tensor_value_info("center", double, ["n", "C"]),
            helper.make_tensor_value_info("whitening", double, ["n", "C", "C"]),
            helper.make_tensor_value_info("limit", double, ["n"]),
        ],
        [
            helper.make_tensor_value_info("score", double, ["n"]),
            helper.make_tensor_value_info("contributions", double, ["n", "C"]),
        ],
        [
            numpy_helper.from_array(np.array([-1], np.int64), "last"),
            numpy_helper.from_array(np.array(-_CUT), "least"),
            numpy_helper.from_array(np.array(_CUT), "most"),
            numpy_helper.from_array(np.array(0.0), "zero"),
            numpy_helper.from_array(np.array(1.0), "one"),
            numpy_helper.from_array(np.array(_SMALLEST), "smallest"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


# --- golden vectors

# Channels, sequences and rows of a sequence of each case: one channel, few, many with some dropped, and the most that a
# chart has. Those rows are of 8 kB: 30 of them, from the limit to the raised alert, are enough.
_CASES = ((1, 1, slice(None)), (3, 1, slice(None)), (8, 2, slice(None)), (32, 1, slice(14, 44)))
_SEED = 20261125
# Scores of a sequence, as score / limit: healthy, wobbling about the limit without being closer than 0.4 % (an engine
# in float32 differs by 0.01 % at most), over it long enough to raise through all severities, lingering in the deadband,
# and healthy for longer than the judge's off-delay of 25 rows.
_WOBBLE = (0.93, 1.04, 0.97, 1.07, 0.985, 1.015, 0.996, 1.004, 0.92, 1.09, 0.95, 1.02, 0.99, 1.01, 0.94, 1.06)
_OVER = (1.03, 1.2, 1.5, 1.9, 2.3, 3.1, 4.4, 6.0, 8.6, 9.5, 5.2, 2.4, 1.3, 1.05)
_DEADBAND = (0.99, 0.93, 0.97, 0.91, 0.95, 0.905, 0.96, 0.92)
_HEALTHY_ROWS, _CLEARING_ROWS = 16, 34


def golden() -> Golden:
    """Return golden vectors: charts of simulated assets whose scores follow a script from healthy over alarm to clear.

    Expected outputs are the formula of `build` in float64 with exactly rounded sums (math.fsum), and inputs are rounded
    to six decimals: neither depends on the machine's BLAS. A row at its mean and one of a mad sensor are among them.
    """
    rng = np.random.default_rng(_SEED)
    cases = []
    for channels, sequences, rows in _CASES:
        sides = [_sequence(rng, channels, number) for number in range(sequences)]
        inputs = {name: np.concatenate([s[name][rows] for s in sides]) for name in sides[0]}
        length = len(inputs["limit"]) // sequences
        starts = tuple(range(0, length * sequences, length))
        cases.append(GoldenCase(f"{channels} channels", inputs, expected(inputs), starts))
    return Golden(tuple(cases))


def expected(inputs: dict[str, Array]) -> dict[str, Array]:
    """Compute what the model must answer, row by row: score (n,) and contributions (n, C)."""
    scores, shares = [], []
    for z, center, whitening, limit in zip(*(inputs[k] for k in ("z", "center", "whitening", "limit")), strict=True):
        deviation = np.clip(z - center, -_CUT, _CUT)
        parts = [fsum(row * deviation) ** 2 for row in whitening]
        t2 = fsum(parts)
        kept = np.abs(whitening).max(axis=1) > 0
        scores.append(t2 / limit)
        shares.append(np.array(parts) / t2 if t2 > _SMALLEST else kept / max(kept.sum(), 1))
    return {"score": np.array(scores), "contributions": np.array(shares)}


def _sequence(rng: np.random.Generator, channels: int, number: int) -> dict[str, Array]:
    """Make one asset's rows. Its chart stays, its deviations wander as an EWMA does, scaled to the script."""
    script = np.concatenate([
        rng.uniform(0.1, 0.7, _HEALTHY_ROWS), _WOBBLE, _OVER, _DEADBAND, rng.uniform(0.1, 0.8, _CLEARING_ROWS)
    ])  # fmt: skip
    whitening = np.round(np.diag(rng.uniform(1.5, 4.0, channels)) + rng.normal(0, 0.2, (channels, channels)), 6)
    dropped = np.arange(channels) % 4 == 3 if number or channels == 3 else np.zeros(channels, bool)
    whitening[dropped] = whitening[:, dropped] = 0.0
    limit = float(np.round(channels + 4.5 * np.sqrt(2 * channels) + 12, 6))
    center = np.round(rng.normal(0, 0.05, channels), 6)
    z, wander = np.empty((len(script), channels)), rng.normal(size=channels)
    for i, target in enumerate(script):
        wander = 0.88 * wander + 0.12 * rng.normal(size=channels)
        t2 = fsum(fsum(row * wander) ** 2 for row in whitening)
        z[i] = np.round(center + wander * (target * limit / t2) ** 0.5, 6)
    z[2] = center  # at its mean: T2 is 0, shared by the kept channels
    z[_HEALTHY_ROWS - 1, 0] = 1e4  # a mad sensor, alone: the judge must not raise for it
    n = len(script)
    return {
        "z": z, "center": np.tile(center, (n, 1)), "whitening": np.tile(whitening, (n, 1, 1)),
        "limit": np.full(n, limit),
    }  # fmt: skip


def write(folder: Path = FOLDER, pins: Path = PINS) -> None:
    """Write the bundle in `folder`, beside its model.toml, and its pin."""
    ship(folder, build(), golden(), pins)


if __name__ == "__main__":
    write()
