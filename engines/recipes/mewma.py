"""Write the model of `anomaly-mewma`: Hotelling's T2 of a smoothed row, and each channel's share in it.

python -m engines.recipes.mewma

The graph has no weights: what an asset's chart has learnt comes in as inputs, so one model serves every asset of any
number of channels. Writing it again gives the same bytes.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.bundle import SHIPPED

MODEL = SHIPPED / "anomaly-mewma" / "model.onnx"

# ONNX 1.8 of 2020: every runtime in use reads it, and no operator used here changed its meaning since.
_OPSET, _IR_VERSION = 13, 7
# Deviations beyond this are cut: their squares stay finite, so a mad sensor raises an alert instead of a NaN.
_CUT = 1e100


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
            numpy_helper.from_array(np.array(1e-290), "smallest"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def write(path: Path = MODEL) -> None:
    """Write the model to `path`."""
    path.write_bytes(build())


if __name__ == "__main__":
    write()
    print(f"{MODEL.name}: {MODEL.stat().st_size} bytes")
