"""Run small graphs of one output, in ONNX Runtime and in the reference's operators."""

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
from onnx import load_from_string, numpy_helper

from engines.graph.builder import GraphBuilder, Signal
from engines.reference import OPERATORS, _attributes

Arrays = dict[str, np.ndarray]


def model_of(write: Callable[[GraphBuilder], str], shape: tuple[int | str, ...]) -> bytes:
    """Return the graph that `write` writes, its result (n, *shape) called y."""
    graph = GraphBuilder("made")
    graph.output("y", write(graph), shape)
    return graph.build()


def on_signal(
    write: Callable[[GraphBuilder, Signal], str], channels: int, length: int, shape: tuple[int, ...]
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of signals (n, channels, length) that runs what `write` writes."""
    def whole(graph: GraphBuilder) -> str:
        return write(graph, Signal(graph.input("x", "f4", (channels, length)), channels, length))

    session = session_of(model_of(whole, shape))
    return lambda x: session.run(["y"], {"x": np.ascontiguousarray(x, "f4")})[0]


def session_of(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: bytes, rows: Arrays) -> Arrays:
    session = session_of(model)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, rows), strict=True))


def by_reference(model: bytes, rows: Arrays) -> Arrays:
    """Evaluate with the operators of engines.reference, the whole batch at once."""
    graph = load_from_string(model).graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer} | rows
    with np.errstate(all="ignore"):
        for node in graph.node:
            values[node.output[0]] = OPERATORS[node.op_type]([values[i] for i in node.input], _attributes(node))
    return {o.name: values[o.name] for o in graph.output}
