"""Statistics of a signal per window and channel, sound in float32.

The mean goes first and the peak next, so third and fourth powers are of numbers near 1 whatever the unit. Values from
1e-15 to 1e15 are fine.
"""

from collections.abc import Sequence

import numpy as np

from engines.graph.builder import LEAST, GraphBuilder, Name, Signal, means

#: In this order: mean; root of the mean square (mean included); standard deviation (of the population); largest
#: distance from the mean; peak / std; skewness; kurtosis (3 for a normal). The last three are 0 without variation.
STATISTICS = ("mean", "rms", "std", "peak", "crest", "skewness", "kurtosis")
# Half a step between neighbours in float32, 2**-25 of the mean, is the least peak of numbers that differ; centring a
# constant twice leaves some 1e-12 of it.
_NO_VARIATION = np.float32(2.0**-26)
_LAST = np.array([-1])


def statistics(graph: GraphBuilder, signal: Signal, which: Sequence[str] = STATISTICS) -> Name:
    """Return statistics by name, (n, channels, len(which)). Raises ValueError for an unknown one.

    One NaN or infinity in a window makes every statistic of that channel NaN, whatever a runtime's maximum does.
    """
    unknown = [name for name in which if name not in STATISTICS]
    if unknown or not which:
        raise ValueError(f"statistics {unknown or 'none'}: there are {', '.join(STATISTICS)}")
    with graph.exact("statistics"):
        found = _columns(graph, signal)
        return graph.node("Concat", *(found[name] for name in which), axis=-1)


def _columns(graph: GraphBuilder, signal: Signal) -> dict[str, Name]:
    node, length = graph.node, signal.length
    mean = means(graph, signal.name, length)
    rough = node("Sub", signal.name, mean)
    rest = means(graph, rough, length)
    # 0, or NaN if any sample is not finite: a maximum may pass NaN over, a product may not.
    witness = node("Sub", rest, rest)
    centred = node("Sub", rough, rest)
    spread = node("ReduceMax", node("Abs", centred), _LAST, keepdims=1)
    is_flat = node("LessOrEqual", spread, node("Mul", node("Abs", mean), _NO_VARIATION))
    deviation = node("Where", is_flat, np.float32(0), centred)
    peak = node("Add", node("Where", is_flat, np.float32(0), spread), witness)
    unit = node("Div", deviation, _at_least(graph, peak))
    square = node("Mul", unit, unit)
    size = node("Sqrt", node("Add", means(graph, square, length), witness))
    normal = node("Div", unit, _at_least(graph, size))
    normal_square = node("Mul", normal, normal)
    std = node("Mul", peak, size)
    mean = node("Add", node("Add", mean, rest), witness)
    return {
        "mean": mean,
        "rms": node("Sqrt", node("Add", node("Mul", mean, mean), node("Mul", std, std))),
        "std": std,
        "peak": peak,
        "crest": node("Div", peak, _at_least(graph, std)),
        "skewness": means(graph, node("Mul", normal_square, normal), length),
        "kurtosis": means(graph, node("Mul", normal_square, normal_square), length),
    }


def _at_least(graph: GraphBuilder, divisor: Name) -> Name:
    """Keep a divisor from 0. Where, not Max: NaN is not less than anything and stays."""
    return graph.node("Where", graph.node("Less", divisor, LEAST), LEAST, divisor)
