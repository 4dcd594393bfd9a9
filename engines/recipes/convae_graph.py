"""The graph of `anomaly-convae`: windows of any number of channels -> level, size and strangeness of each channel.

Channels are a dimension that no kernel spans, so one model serves every asset: convolutions run along the samples.
"""

import numpy as np

from engines.graph import GraphBuilder
from engines.graph.builder import LEAST, means
from engines.recipes.convae_net import F32, SIZE, Weights

#: Level and size are of the newest half: what is older is known from earlier rows.
NEWEST = SIZE // 2
#: What the features of a channel are, in order.
FEATURES = ("level", "size", "shape")
_LAST, _STRIDE = np.array([-1]), 2


def build(weights: Weights, limit: float) -> bytes:
    """Return the model: x (n, frames, C, samples), frames * samples = SIZE -> features (n, C * 3), score (n).

    limit: reconstruction error from which on a channel's window is like none of the healthy ones in training; `score`
    is the largest error over it. An asset's own limits are not here.
    """
    graph = GraphBuilder("anomaly-convae")
    x = graph.input("x", "f4", ("frames", "C", "samples"))
    with graph.exact("window"):
        # 0 keeps a dimension: rows of another length are then an error, where -1 would cut the channels anew
        signal = graph.node("Reshape", graph.node("Transpose", x, perm=[0, 2, 1, 3]), np.array([0, 0, SIZE]))
        newest = graph.node("Slice", signal, np.array([NEWEST]), np.array([SIZE]), _LAST)
        level = means(graph, newest, NEWEST)
        size = _size(graph, _centred(graph, newest, NEWEST), NEWEST)
        off = _centred(graph, signal, SIZE)
        whole = _size(graph, off, SIZE)
        shape = graph.node("Div", off, graph.node("Max", whole, LEAST))
    again = _net(graph, weights, shape)
    with graph.exact("strangeness"):
        error = graph.node("Sub", again, shape)
        strange = means(graph, graph.node("Mul", error, error), SIZE)
        rows = graph.node("Concat", level, size, strange, axis=2)
        features = graph.node("Reshape", rows, np.array([0, -1]))
        worst = graph.node("ReduceMax", strange, np.array([1, 2]), keepdims=0)
        score = graph.node("Div", worst, np.float32(limit))
    graph.output("score", score, ())
    graph.output("features", features, ("F",))
    return graph.build()


def _centred(graph: GraphBuilder, signal: str, length: int) -> str:
    """Subtract the mean, twice: the mean of numbers near 1e6 is known to 0.1 in float32, of what is left to 1e-8."""
    for _ in range(2):
        signal = graph.node("Sub", signal, means(graph, signal, length))
    return signal


def _size(graph: GraphBuilder, centred: str, length: int) -> str:
    return graph.node("Sqrt", means(graph, graph.node("Mul", centred, centred), length))


def _net(graph: GraphBuilder, weights: Weights, shape: str) -> str:
    """Return shapes (n, C, SIZE) as the net gives them back."""
    quarter, wide = SIZE // 4, weights.second[0].shape[0]
    with graph.part("encode"):
        h = graph.node("Unsqueeze", shape, np.array([1]))  # (n, 1, C, SIZE)
        h = graph.node("Relu", _conv(graph, h, weights.first, _STRIDE))
        h = graph.node("Relu", _conv(graph, h, weights.second, _STRIDE))
        h = graph.node("Transpose", h, perm=[0, 2, 1, 3])
        h = graph.node("Reshape", h, np.array([0, 0, wide * quarter]))
        code = _product(graph, h, weights.encode)
    with graph.part("decode"):
        h = graph.node("Relu", _product(graph, code, weights.decode))
        h = graph.node("Reshape", h, np.array([0, 0, wide, quarter]))
        h = graph.node("Transpose", h, perm=[0, 2, 1, 3])
        h = _twice(graph, graph.node("Relu", _conv(graph, h, weights.third, 1)), len(weights.third[1]), SIZE // 2)
        h = _twice(graph, _conv(graph, h, weights.fourth, 1), len(weights.fourth[1]), SIZE)
        return graph.node("Squeeze", h, np.array([1]))


def _conv(graph: GraphBuilder, tensor: str, layer: tuple[F32, F32], stride: int) -> str:
    weight, bias = layer
    taps = weight.shape[2]
    return graph.node("Conv", tensor, weight[:, :, None, :], bias, kernel_shape=[1, taps], strides=[1, stride],
                      pads=[0, taps // 2, 0, taps // 2])


def _product(graph: GraphBuilder, tensor: str, layer: tuple[F32, F32]) -> str:
    return graph.node("Add", graph.node("MatMul", tensor, layer[0]), layer[1])


def _twice(graph: GraphBuilder, tensor: str, count: int, length: int) -> str:
    """(n, count, C, length / 2) -> (n, count / 2, C, length): the first half of the maps are the even places."""
    halves = [graph.node("Unsqueeze", graph.node("Slice", tensor, np.array([a]), np.array([b]), np.array([1])),
                         np.array([4])) for a, b in ((0, count // 2), (count // 2, count))]
    return graph.node("Reshape", graph.node("Concat", *halves, axis=4), np.array([0, 0, 0, length]))
