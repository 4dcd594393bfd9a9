"""From features to one score a row: the end of a graph, and layers of small nets between.

Nodes here may become float16 (engines.graph.precision); what decides a score stays in float32.
"""

import numpy as np

from engines.base import Array
from engines.graph.builder import LEAST, GraphBuilder, Name, means

_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh")


def flat(graph: GraphBuilder, tensor: Name, size: int) -> Name:
    """Return `tensor` as rows, (n, size)."""
    return graph.node("Reshape", tensor, np.array([-1, size]))


def layer(graph: GraphBuilder, rows: Name, weight: Array, bias: Array, activation: str | None = "Relu") -> Name:
    """Return activation(rows @ weight + bias): (n, inputs) -> (n, units). weight: (inputs, units), bias: (units)."""
    if weight.ndim != 2 or bias.shape != weight.shape[1:]:
        raise ValueError(f"weight {weight.shape} and bias {bias.shape}: must be (inputs, units) and (units,)")
    if activation is not None and activation not in _ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown, there are {', '.join(_ACTIVATIONS)}")
    with graph.part("layer"):
        made = graph.node("Gemm", rows, weight.astype(np.float32), bias.astype(np.float32))
        return made if activation is None else graph.node(activation, made)


def reconstruction_error(graph: GraphBuilder, rows: Name, again: Name, size: int) -> Name:
    """Return the mean square of what a net did not reproduce: (n, size) twice -> (n)."""
    with graph.exact("reconstruction_error"):
        error = graph.node("Sub", rows, again)
        return _row_mean(graph, graph.node("Mul", error, error), size)


def distance(graph: GraphBuilder, rows: Name, mean: Array, std: Array) -> Name:
    """Return the root mean square of a row's z values: (n, size) -> (n). About 1 for healthy rows of many features.

    mean, std: (size), of healthy rows; std above 0.
    """
    if mean.shape != std.shape or mean.ndim != 1 or not (std >= LEAST).all():
        raise ValueError(f"mean {mean.shape} and std {std.shape}: must be two vectors, and std above 0")
    with graph.exact("distance"):
        z = graph.node("Div", graph.node("Sub", rows, mean.astype(np.float32)), std.astype(np.float32))
        return graph.node("Sqrt", _row_mean(graph, graph.node("Mul", z, z), len(mean)))


def _row_mean(graph: GraphBuilder, rows: Name, size: int) -> Name:
    return graph.node("Squeeze", means(graph, rows, size), np.array([-1]))
