"""Write the graph of `rul-ewma`: from the streaming state of an asset to its remaining life, and which sensors say so.

Every sum over a row is a product of matrices with the batch as a leading dimension of both sides, and never a sum over
the batch's rows: a row alone has the bits of the row in any batch.

Why: the net sees each row as it is, and once more per sensor with that sensor put back to an engine's without wear.
What the forecast would gain is the sensor's part. It costs as much as 14 more rows and needs no gradient.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.base import Array
from engines.recipes.rul_model import (
    BAD,
    CAP,
    COUNTER,
    FEW,
    FLOOR,
    KNOWN,
    LATE,
    MISSED,
    OUTSIDE,
    SNAP,
    SPAN,
    WARN,
    RulModel,
)
from engines.recipes.rul_state import CHANNELS, COLUMNS, LIFTED, SENSORS, SETTING_SCALE, SMOOTHINGS

# As anomaly-mewma: every runtime in use reads it.
_OPSET, _IR_VERSION = 13, 7
_F32, _F64, _I32, _I64 = np.float32, np.float64, np.int32, np.int64
_S, _A = len(SENSORS), len(SMOOTHINGS)
_FIRST = len(CHANNELS) - _S
OUTPUTS = ("score", "rul", "p10", "p50", "p90", "unknown", "contributions")


class _Graph:
    """Nodes and constants with names made of a counter: the same calls give the same bytes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, op: str, *inputs: str | Array, name: str = "", **attributes: Any) -> str:
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        out = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [out], **attributes))
        return out

    def constant(self, value: Array) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def cut(self, tensor: str, start: int, stop: int, axis: int) -> str:
        return self("Slice", tensor, *(np.array([v], _I64) for v in (start, stop, axis)))

    def reshape(self, tensor: str, *shape: int) -> str:
        return self("Reshape", tensor, np.array(shape, _I64))

    def clip(self, tensor: str, low: Array, high: Array, name: str = "") -> str:
        """Max and Min, which take whole tensors as bounds where Clip takes numbers."""
        return self("Min", self("Max", tensor, low), high, name=name)

    def largest(self, tensor: str, axes: list[int]) -> str:
        return self("ReduceMax", tensor, axes=axes, keepdims=0)


def build(model: RulModel) -> bytes:
    """Return the model.

    ewma (n, smoothings, 19), count (n), last (n, 18), same (n, 14), all float64 as rul_state.State holds them ->
    score (n) float32, WARN / max(rul, FLOOR), 0 when unknown; rul, p10, p50, p90 (n) float32 cycles, 125 "at least";
    unknown (n) int32: 0 known, 1 not enough history, 2 outside what was trained on, 3 channel missing or stuck,
    4 more samples than cycles;
    contributions (n, 18) float32, share of each channel in the wear: sum 1, less where all gain less than a cycle.
    """
    g = _Graph()
    missing, last, settings = _last_sample(g)
    z = _normalise(g, model, g.cut("ewma", 0, _S, 2), g.cut("ewma", _S, COLUMNS, 2))
    outputs = _net(g, model, _variants(g, model, z, last))
    means, own = _means(g, outputs)
    missed = g("Max", g("Sub", g.reshape(g.cut(last, 0, 1, 1), -1), "count"), np.array(0.0))
    few = _few(g, model, own, missed)
    _answers(g, model, outputs, means, own, missed, _unknown(g, model, z, missing, last, settings, few))
    f32, f64 = TensorProto.FLOAT, TensorProto.DOUBLE
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        g.nodes,
        "rul-ewma",
        [info("ewma", f64, ["n", _A, COLUMNS]), info("count", f64, ["n"]), info("last", f64, ["n", len(CHANNELS)]),
         info("same", f64, ["n", _S])],
        [*(info(name, f32, ["n"]) for name in OUTPUTS[:5]), info("unknown", TensorProto.INT32, ["n"]),
         info("contributions", f32, ["n", len(CHANNELS)])],
        g.constants,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString(deterministic=True))


def _last_sample(g: _Graph) -> tuple[str, str, str]:
    """Return whether a channel of the newest sample is missing (n, bool), the sample with 0 there, its settings."""
    gap = g("IsNaN", "last")
    last = g("Where", gap, np.array(0.0), "last")
    missing = g("Greater", g.largest(g("Cast", gap, to=TensorProto.FLOAT), [1]), np.array(0.5, _F32))
    return missing, last, g.cut(last, 1, _FIRST, 1)


def _normalise(g: _Graph, model: RulModel, sensors: str, powers: str) -> str:
    """Return z (n, count, 14) of sensors (n, count, 14) and powers (n, count, LIFTED)."""
    normaliser = model.normaliser
    parts = []
    for table in (normaliser.mean, normaliser.scale):
        # Five products added one after the other: their order is the same in every batch and on every back end.
        total: str | Array = table[0]
        for k in range(LIFTED):
            total = g("Add", g("Mul", g.cut(powers, k, k + 1, 2), table[k + 1]), total)
        assert isinstance(total, str)
        parts.append(total)
    return g("Div", g("Sub", sensors, parts[0]), g("Max", parts[1], normaliser.least))


def _few(g: _Graph, model: RulModel, own: str, missed: str) -> str:
    """Return whether the samples are too few for a history, (n) bool; own: forecast life (n, 1), missed: (n)."""
    envelope = model.envelope
    asked = g("Add", g("Mul", missed, np.array(MISSED)), np.array(envelope.least))
    most = g("Cast", _between(g, own, envelope.late[0], envelope.late[1]), to=TensorProto.DOUBLE)
    return g("Less", "count", g("Min", asked, most))


def _unknown(g: _Graph, model: RulModel, z: str, missing: str, last: str, settings: str, few: str) -> str:
    """Return the answer to "is this to be believed", (n) int32."""
    normaliser, envelope = model.normaliser, model.envelope
    scaled = g("Div", settings, np.asarray(SETTING_SCALE))
    altitude, mach = g.cut(scaled, 0, 1, 1), g.cut(scaled, 1, 2, 1)
    powers = g("Concat", scaled, g("Mul", altitude, altitude), g("Mul", mach, mach), axis=1)
    single = _normalise(
        g, model, g.reshape(g.cut(last, _FIRST, len(CHANNELS), 1), -1, 1, _S), g.reshape(powers, -1, 1, LIFTED)
    )
    off = g("Abs", g("Sub", g("Concat", z, single, axis=1), envelope.middle))
    beyond = g.largest(g("Div", off, envelope.half), [1, 2])
    apart = g("Abs", g("Sub", g.reshape(scaled, -1, 1, 3), normaliser.regimes))
    nearest = g("ReduceMin", g.largest(apart, [2]), axes=[1], keepdims=0)
    inside = g("LessOrEqual", g("Max", beyond, g("Div", nearest, np.array(normaliser.reach))), np.array(1.0))
    cycles = g.reshape(g.cut(last, 0, 1, 1), -1)
    inside = g("And", inside, g("LessOrEqual", cycles, np.array(envelope.oldest)))
    counter = g("Greater", "count", g("Add", cycles, np.array(1.0)))
    stuck = g("GreaterOrEqual", g.largest(g("Sub", "same", envelope.same), [1]), np.array(0.0))
    bad = g("Or", g("Or", missing, stuck), g("Less", "count", np.array(1.0)))
    known = g("Where", few, np.array(FEW, _I32), np.array(KNOWN, _I32))
    known = g("Where", inside, known, np.array(OUTSIDE, _I32))
    known = g("Where", counter, np.array(COUNTER, _I32), known)
    return g("Where", bad, np.array(BAD, _I32), known, name="unknown")


def _variants(g: _Graph, model: RulModel, z: str, last: str) -> str:
    """Return the net's inputs (n, 1, 1 + 14, FEATURES): the row as it is, and with each sensor as without wear."""
    envelope = model.envelope
    low, high = (envelope.middle - envelope.half)[:-1], (envelope.middle + envelope.half)[:-1]
    row = g.reshape(g("Cast", g.clip(z, low, high), to=TensorProto.FLOAT), -1, 1, 1, SPAN)
    keep = np.ones((1 + _S, _A, _S), _F32)
    keep[1 + np.arange(_S), :, np.arange(_S)] = 0
    healthy = ((1 - keep) * envelope.healthy.astype(_F32)).reshape(1 + _S, SPAN)
    rows = g("Add", g("Mul", row, keep.reshape(1 + _S, SPAN)), healthy)
    one = np.array(1.0)
    age, count = g("Max", g.reshape(g.cut(last, 0, 1, 1), -1), one), g("Max", "count", one)
    hundred = np.array(100.0)
    times = (g("Sqrt", g("Div", age, hundred)), g("Sqrt", g("Div", count, hundred)), g("Div", one, count))
    extra = g("Concat", *(g.reshape(t, -1, 1, 1, 1) for t in times), axis=3)
    extra = g("Mul", g("Cast", extra, to=TensorProto.FLOAT), np.ones((1 + _S, 1), _F32))
    return g("Concat", rows, extra, axis=3)


def _net(g: _Graph, model: RulModel, x: str) -> str:
    """Return the heads averaged over the members, (n, 1 + 14, 4)."""
    for weight, bias in model.layers[:-1]:
        x = g("Relu", g("Add", g("MatMul", x, weight), bias))
    weight, bias = model.layers[-1]
    members, units, heads = weight.shape
    # (n, members, 15, units) -> (n, 15, members * units): the mean over members becomes part of the product.
    joined = g.reshape(g("Transpose", x, perm=[0, 2, 1, 3]), -1, 1, 1 + _S, members * units)
    whole = (weight.reshape(1, members * units, heads) / members).astype(_F32)
    return g("Add", g.reshape(g("MatMul", joined, whole), -1, 1 + _S, heads), bias.mean(axis=0).astype(_F32))


def _means(g: _Graph, outputs: str) -> tuple[str, str]:
    """Return the life of each variant in cycles (n, 1 + 14), not cut at 0, and that of the row (n, 1), cut."""
    cap = np.array(CAP, _F32)
    means = g("Min", g("Mul", g.reshape(g.cut(outputs, 0, 1, 2), -1, 1 + _S), cap), cap)
    return means, g("Max", g.cut(means, 0, 1, 1), np.array(0.0, _F32))


def _answers(g: _Graph, model: RulModel, outputs: str, means: str, own: str, missed: str, why: str) -> None:
    zero, cap = np.array(0.0, _F32), np.array(CAP, _F32)
    rul = g.reshape(own, -1)
    g("Identity", rul, name="rul")
    head = g("Mul", g.reshape(g.cut(outputs, 0, 1, 1), -1, 4), cap)
    raw = g.reshape(g.cut(outputs, 0, 1, 1), -1, 4)
    root = g("Sqrt", g("Add", g("Mul", raw, raw), np.array(1.0, _F32)))  # rul_model.positive
    wide = g("Mul", g("Add", raw, root), np.array(CAP / 2, _F32))
    middle = g.reshape(g.cut(head, 1, 2, 1), -1)
    low = g("Sub", middle, g.reshape(g.cut(wide, 2, 3, 1), -1))
    high = g("Add", middle, g.reshape(g.cut(wide, 3, 4, 1), -1))
    share = g("Cast", g("Min", g("Div", missed, np.array(LATE)), np.array(1.0)), to=TensorProto.FLOAT)
    below, above = (_added(g, own, share, model.band.knots, ends) for ends in (model.band.below, model.band.above))
    high = g("Max", g.clip(g("Mul", g("Add", high, above), np.array(CAP / (CAP - SNAP), _F32)), zero, cap), rul)
    low = g("Min", g.clip(g("Sub", low, below), zero, cap), rul)
    known = g("Equal", why, np.array(KNOWN, _I32))
    g("Where", known, low, zero, name="p10")
    g("Where", known, high, cap, name="p90")
    g("Min", g("Max", g("Min", g("Max", middle, zero), cap), "p10"), "p90", name="p50")
    score = g("Div", np.array(WARN, _F32), g("Max", rul, np.array(FLOOR, _F32)))
    g("Where", known, score, zero, name="score")
    # below 0 a gain is one all the same
    gain = g("Max", g("Sub", g.cut(means, 1, 1 + _S, 1), g.cut(means, 0, 1, 1)), zero)
    # A vector of ones per row, or ONNX Runtime makes one product of all rows, whose last bits depend on their number.
    ones = g("Add", g("Mul", g.reshape(gain, -1, _S, 1), zero), np.array(1.0, _F32))
    total = g.reshape(g("MatMul", g.reshape(gain, -1, 1, _S), ones), -1, 1)
    share = g("Div", gain, g("Max", total, np.array(1.0, _F32)))
    g("Pad", share, np.array([0, _FIRST, 0, 0], _I64), name="contributions")


def _added(g: _Graph, own: str, share: str, knots: Array, ends: Array) -> str:
    """Return what the band adds at one end, (n): of engines known from birth, and `share` of the way to late ones."""
    more = g("Mul", _between(g, own, knots, ends[1] - ends[0]), share)
    return g("Add", _between(g, own, knots, ends[0]), more)


def _between(g: _Graph, x: str, knots: Array, values: Array) -> str:
    """Interpolate: x (n, 1) float32 -> (n). Linear between knots, constant beyond: a sum of ramps."""
    slopes = np.diff(values) / np.diff(knots)
    total: str | Array = np.array(values[0], _F32)
    for k, slope in enumerate(slopes):
        run = np.array(knots[k + 1] - knots[k], _F32)
        ramp = g.clip(g("Sub", x, np.array(knots[k], _F32)), np.array(0.0, _F32), run)
        total = g("Add", g("Mul", ramp, np.array(slope, _F32)), total)
    assert isinstance(total, str)
    return g.reshape(total, -1)
