"""Write the graph of `pca-t2q`: from an asset's moving means to T2 and Q over their limits, and each sensor's share.

Every product of matrices has the batch as a leading dimension of both sides, and never a sum over the batch's rows: a
row alone has the bits of the row in any batch.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.base import Array
from engines.recipes.pca_model import CHARTED, CUT, HISTORY, SMOOTHINGS, PcaModel

# As anomaly-mewma: every runtime in use reads it.
_OPSET, _IR_VERSION = 13, 7
_A = len(SMOOTHINGS)
_HALF = np.array(0.5, np.float32)


class _Graph:
    """Nodes and constants with names made of a counter: the same calls give the same bytes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, op: str, *inputs: str | Array | float, name: str = "", **attributes: Any) -> str:
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        out = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [out], **attributes))
        return out

    def constant(self, value: Array | float) -> str:
        name, array = f"c{len(self.constants)}", np.asarray(value)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def cut(self, tensor: str, start: int, stop: int, axis: int) -> str:
        return self("Slice", tensor, *(np.array([v], np.int64) for v in (start, stop, axis)))

    def reshape(self, tensor: str, *shape: int) -> str:
        return self("Reshape", tensor, np.array(shape, np.int64))

    def times(self, row: str, matrix: Array) -> str:
        """Return row (n, M) @ matrix (M, N) with a matrix of its own for each row."""
        column = self.reshape(row, -1, matrix.shape[0], 1)
        own = self("Add", self("Mul", column, 0.0), matrix)
        return self.reshape(self("MatMul", self.reshape(row, -1, 1, matrix.shape[0]), own), -1, matrix.shape[1])

    def length(self, row: str, width: int) -> str:
        """Return the sum of squares of row (n, M): (n, 1)."""
        product = self("MatMul", self.reshape(row, -1, 1, width), self.reshape(row, -1, width, 1))
        return self.reshape(product, -1, 1)

    def any(self, said: str, axes: list[int]) -> str:
        """Return 1 where any along the axes holds, else 0, (n,) float32. said: not empty."""
        return self("ReduceMax", self("Cast", said, to=TensorProto.FLOAT), axes=axes, keepdims=0)

    def code(self, holds: str, number: int, otherwise: str | Array) -> str:
        """Return `number` where `holds` is 1, (n,) int32."""
        return self("Where", self("Greater", holds, _HALF), np.array(number, np.int32), otherwise)


def build(model: PcaModel) -> bytes:
    """Return the model.

    ewma (n, memories, C + S), count (n), last (n, C + S), same (n, C), float64 as the step of kind `ewma` gives them ->
    score (n), the larger of T2 and Q over its limit, 0 when unknown; contributions (n, C + S), shares of the sensors,
    sum 1, 0 for set points; unknown (n) int32, number of one of pca_model.REASONS, or 0.
    """
    g, c, s = _Graph(), len(model.plan.sensors), len(model.plan.set_points)
    # what is no number is not equal to itself; the reference engine needs no operator more
    number = g("LessOrEqual", "ewma", "ewma")
    ewma = g("Where", number, "ewma", 0.0)
    gaps, newest = g("Where", number, 0.0, 1.0), g("Where", g("LessOrEqual", "last", "last"), 0.0, 1.0)
    holes = g("Max", g.any(gaps, [1, 2]), g.any(newest, [1]))
    sensors = g.reshape(g.cut(g.cut(ewma, CHARTED, CHARTED + 1, 1), 0, c, 2), -1, c)
    why: str | Array = np.array(0, np.int32)
    width = g.constant(1.0)
    if s:
        sets = g.cut(ewma, c, c + s, 2)
        z = g("Div", g("Sub", sets, model.middle), model.unit)
        width = g("Add", g("Mul", g.length(_moved(g, z, s), _A * s), float(model.growth)), 1.0)
        left = g("Sub", sensors, g.times(_terms(g, z, s), model.coefficients))
        off = g("Max", g.any(g("Less", sets, model.low), [1, 2]), g.any(g("Greater", sets, model.high), [1, 2]))
        why = g.code(off, 4, why)
    else:
        left = g("Sub", sensors, model.coefficients[0])
    gate = model.plan.gate
    if gate is not None:
        stopped = g("Less", g.cut(ewma, gate[0], gate[0] + 1, 2), float(gate[1]))
        why = g.code(g.any(stopped, [1, 2]), 3, why)
    why = g("Where", g("Less", "count", float(HISTORY)), np.array(1, np.int32), why)
    why = g("Where", g("Greater", holes, _HALF), np.array(2, np.int32), why, name="unknown")
    _answers(g, model, g("Clip", g("Div", left, model.spread), -CUT, CUT), width, why)
    info, double = helper.make_tensor_value_info, TensorProto.DOUBLE
    graph = helper.make_graph(
        g.nodes,
        "pca-t2q",
        [info("ewma", double, ["n", _A, c + s]), info("count", double, ["n"]), info("last", double, ["n", c + s]),
         info("same", double, ["n", c])],
        [info("score", double, ["n"]), info("contributions", double, ["n", c + s]),
         info("unknown", TensorProto.INT32, ["n"])],
        g.constants,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString(deterministic=True))


def _moved(g: _Graph, z: str, s: int) -> str:
    """Return how each mean of a set point is from the freshest one, (n, A * S)."""
    return g.reshape(g("Sub", z, g.cut(z, _A - 1, _A, 1)), -1, _A * s)


def _terms(g: _Graph, z: str, s: int) -> str:
    """Return the terms of the regression, (n, P), as pca_model.regressors has them."""
    flat, now = g.reshape(z, -1, _A * s), g.reshape(g.cut(z, CHARTED, CHARTED + 1, 1), -1, s)
    one = g("Add", g("Mul", g.cut(flat, 0, 1, 1), 0.0), 1.0)
    single = [g.cut(now, i, i + 1, 1) for i in range(s)]
    pairs = [g("Mul", single[i], single[j]) for i in range(s) for j in range(i, s)]
    return g("Concat", one, flat, *pairs, axis=1)


def _answers(g: _Graph, model: PcaModel, residual: str, width: str, why: str) -> None:
    c, k, s = len(model.plan.sensors), len(model.variances), len(model.plan.set_points)
    known = g("Less", g("Cast", why, to=TensorProto.FLOAT), _HALF)
    roots = g.times(residual, model.products())
    t2, q = g.length(g.cut(roots, 0, k, 1), k), g.length(g.cut(roots, k, k + c, 1), c)
    score = g.reshape(g("Div", g("Max", t2, q), width), -1)
    g("Where", known, score, 0.0, name="score")
    own = g.cut(roots, k + c, k + c + c, 1)
    whole = g("Max", g.length(own, c), float(np.finfo(float).tiny))
    share = g("Where", g.reshape(known, -1, 1), g("Div", g("Mul", own, own), whole), 0.0)
    none = g("Mul", g.cut(share, 0, 1, 1), 0.0)
    g("Concat", share, *[none] * s, axis=1, name="contributions")
