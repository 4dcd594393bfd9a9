"""The trained part of `bearing-order`: a small network on the front end's features, and the whole graph.

A linear map beside 16 tanh units: what is linear in the evidence stays linear outside the training data, where the
units saturate. Features are cut at 3 deviations: a machine unlike all of training moves a decision only so far.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from onnx import TensorProto

from engines.base import Array
from engines.graph.builder import Name
from engines.recipes import bearing_front
from engines.recipes.bearing_front import COMBS, FEATURES, GROUPS, STATS, Front, Graph

CLASSES: Final = ("normal", "inner", "ball", "outer")
HIDDEN: Final = 16
_CUT: Final = 3.0
# By what fitted logits are divided. On bearings left out the head is surer than it is right, all of it on defects whose
# line does not show. One number for every fold: where no such bearing is among those that choose, they ask for 0.8 to
# 1.0, where it is, for 1.8. No decision between classes changes.
TEMPERATURE: Final = 1.5
# Line outputs, per class: the group whose scale was found, the line it stands on and how often a turn it strikes.
_LINE: Final = {"inner": (1, "inner", 4, 1.0), "ball": (2, "ball", 2, 2.0), "outer": (0, "outer", 3, 1.0)}
_DB: Final = 20.0 / np.log(10.0)

OUTPUTS: Final = {
    "probabilities": (4,),  # of CLASSES
    "score": (),  # chance that the bearing is not healthy
    "severity": (),  # dB by which the named defect's lines stand above chance, times score; 0 without a line
    "doubt": (),  # 1 or more: "unknown"
    "line": (4,),  # of the likeliest defect: expected Hz, found Hz, found order, dB above chance
    "lines": (3, 4),  # the same for inner, ball, outer
}


@dataclass(frozen=True, slots=True)
class Head:
    """Weights. mean, scale: (F) of the features. linear (F, 4), bias (4), inner (F, H), inner_bias (H), outer (H, 4).

    limit: 1 - largest probability from which on the answer is "unknown".
    """

    mean: Array
    scale: Array
    linear: Array
    bias: Array
    inner: Array
    inner_bias: Array
    outer: Array
    limit: float = 0.5

    def probabilities(self, features: Array) -> Array:
        """Return (n, 4) for features (n, F)."""
        z = np.clip((features - self.mean) / self.scale, -_CUT, _CUT)
        logits = z @ self.linear + np.tanh(z @ self.inner + self.inner_bias) @ self.outer + self.bias
        e = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(e / e.sum(1, keepdims=True))


def fit(features: Array, labels: Array, weights: Array, penalty: float, seed: int, steps: int = 250) -> Head:
    """Return the head of least weighted cross-entropy plus `penalty` times the squared weights, at TEMPERATURE.

    features (n, F), labels (n) in 0..3, weights (n) of any sum. Full-batch L-BFGS: no order of batches, no rate, and
    the same bytes for the same seed on one machine, whatever its number of threads.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]  # extra `train`
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

    mean, scale = features.mean(0), features.std(0) + 1e-6
    z = np.clip((features - mean) / scale, -_CUT, _CUT).astype(np.float64)
    w = weights / weights.sum()
    target = np.eye(4)[labels]
    f = z.shape[1]
    shapes = ((f, 4), (4,), (f, HIDDEN), (HIDDEN,), (HIDDEN, 4))
    sizes = np.cumsum([int(np.prod(s)) for s in shapes])
    rng = np.random.default_rng(seed)
    start = np.zeros(sizes[-1])
    start[sizes[1] : sizes[2]] = rng.standard_normal(sizes[2] - sizes[1]) / np.sqrt(f)
    start[sizes[3] :] = 0.1 * rng.standard_normal(sizes[4] - sizes[3])
    # The first layer may be larger: tanh bounds what it does.
    costs = (penalty, 0.0, 0.3 * penalty, 0.0, penalty)

    def parts(v: Array) -> list[Array]:
        return [p.reshape(s) for p, s in zip(np.split(v, sizes[:-1]), shapes, strict=True)]

    def loss(v: Array) -> tuple[float, Array]:
        linear, bias, inner, inner_bias, outer = p = parts(v)
        h = np.tanh(z @ inner + inner_bias)
        logits = z @ linear + h @ outer + bias
        logits -= logits.max(1, keepdims=True)
        e = np.exp(logits)
        total = e.sum(1, keepdims=True)
        value = -float((w[:, None] * target * (logits - np.log(total))).sum())
        d = w[:, None] * (e / total - target)
        dh = (d @ outer.T) * (1 - h * h)
        grads = [z.T @ d, d.sum(0), z.T @ dh, dh.sum(0), h.T @ d]
        for k, cost in enumerate(costs):
            value += cost * float((p[k] ** 2).sum())
            grads[k] = grads[k] + 2 * cost * p[k]
        return value, np.concatenate([g.ravel() for g in grads])

    # A product over two threads has other last bits, and 250 steps make other weights of them.
    with threadpool_limits(1):
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": steps})
    linear, bias, inner, inner_bias, outer = (p.astype(np.float32) for p in parts(found.x))
    linear, bias, outer = (p / np.float32(TEMPERATURE) for p in (linear, bias, outer))
    return Head(mean.astype(np.float32), scale.astype(np.float32), linear, bias, inner, inner_bias, outer)


def model(head: Head) -> bytes:
    """Return the whole graph: samples (n, 12000), lines_hz (n, 5), float32 -> OUTPUTS. Same head, same bytes."""
    g, front = bearing_front.begin("bearing-order")
    with g.exact("head"):
        z = g.node("Div", g.node("Sub", front.features, head.mean), head.scale)
        z = g.node("Min", g.node("Max", z, np.float32(-_CUT)), np.float32(_CUT))
        h = g.node("Tanh", g.node("Add", g.times(head.inner.T, z), head.inner_bias))
        logits = g.node("Add", g.times(head.linear.T, z), g.times(head.outer.T, h))
        p = g.node("Softmax", g.node("Add", logits, head.bias), axis=1)
        score = g.node("Sub", np.float32(1.0), g.slice(p, 0, 1, 1))
        # Without lines or signal there is nothing to look for: "unknown", whatever the spectrum looks like.
        least = g.node("ReduceMin", "lines_hz", np.array([1]), keepdims=1)
        blind = g.node("Cast", g.node("LessOrEqual", least, np.float32(0.0)), to=TensorProto.FLOAT)
        doubt = g.node("Mul", g.node("Sub", np.float32(1.0), g.largest(p, 1)), np.float32(1 / head.limit))
        doubt = g.node("Add", doubt, g.node("Mul", g.node("Add", blind, front.dead), np.float32(10.0)))
        lines, named, severity = _explain(g, front, p, score)
    made = {"probabilities": p, "score": g.shape(score, -1), "severity": g.shape(severity, -1),
            "doubt": g.shape(doubt, -1), "line": named, "lines": lines}  # fmt: skip
    for name, shape in OUTPUTS.items():
        g.output(name, made[name], shape)
    return g.build()


def _explain(g: Graph, front: Front, p: Name, score: Name) -> tuple[Name, Name, Name]:
    """Return lines, line and severity: what was looked for, what was found, and how clear it is."""
    names = list(COMBS)
    pick, choose, height = np.zeros((3, 5)), np.zeros((3, len(GROUPS))), np.zeros((3, len(FEATURES)))
    for k, fault in enumerate(CLASSES[1:]):
        group, comb, line, times = _LINE[fault]
        pick[k, line] = times
        choose[k, group] = 1.0
        height[k, names.index(comb) * len(STATS) + STATS.index("top3")] = _DB
    expected = g.times(pick, "lines_hz")
    found = g.node("Mul", expected, g.times(choose, front.scale))
    shaft = g.node("Max", g.slice("lines_hz", 0, 1, 1), np.float32(1e-3))
    columns = [expected, found, g.node("Div", found, shaft), g.times(height, front.features)]
    lines = g.node("Concat", *(g.node("Unsqueeze", v, np.array([2])) for v in columns), axis=2)
    faults = g.slice(p, 1, 4, 1)
    likeliest = g.node("Cast", g.node("Equal", faults, g.largest(faults, 1)), to=TensorProto.FLOAT)
    likeliest = g.node("Div", likeliest, g.total(likeliest, 1))
    named = g.shape(g.node("MatMul", g.node("Unsqueeze", likeliest, np.array([1])), lines), -1, 4)
    clear = g.node("Max", g.slice(named, 3, 4, 1), np.float32(0.0))
    return lines, named, g.node("Mul", clear, score)
