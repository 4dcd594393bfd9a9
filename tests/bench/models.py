"""The two engines of workload W1: `null` (one reduction) and `onnx` (a convolutional autoencoder), as bundles.

Weights, layers and limits are those of the peers, so that the same frames give the same scores. Our rows are
(n, frames, channels, samples); the peers' graph wants (n, channels, samples), hence the Transpose and the Reshape.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines import Array, Arrays, Bundle, Engine, TensorSpec, open_engine
from engines.archive import GOLDEN, MODEL, PASSPORT
from tests import models

CHANNELS, SAMPLES, WINDOW, HOP = 8, 16, 128, 32
#: Limits under which `verify` of the peers counts; without a limit nothing alerts.
LIMITS = {"null": 1.2, "onnx": 1.05}
NO_LIMIT = {"null": 2.0, "onnx": 1e9}

_PASSPORT = """
name = "w1-{kind}"
version = "{version}"
kind = "window"
rule = "w1"
threshold = {threshold!r}

[[inputs]]
name = "x"
dtype = "f4"
shape = ["frames", {channels}, "samples"]
unit = "1"
meaning = "windows of frames, seeded noise"

[window]
size = {window}
hop = {hop}

[card]
purpose = "benchmark W1"
protocol = "random weights"
figures = "none"
limits = "none"
failures = "none"
"""


class Null:
    """Mean of the absolute first sample of channel 0 of every frame: what the peers' null engine computes."""

    name = "null"
    inputs = (TensorSpec("x", "f4", (None, None, None)),)
    outputs = (TensorSpec("score", "f4", ()),)

    def warm_up(self, batch: int) -> None:
        """Need nothing."""

    def infer(self, inputs: Arrays) -> dict[str, Array]:
        return {"score": np.abs(inputs["x"][:, :, 0, 0]).mean(axis=1)}

    def close(self) -> None:
        """Hold nothing."""


@dataclass
class Counting:
    """An engine that counts its rows, and those over a limit: alerts are transitions, the peers count rows."""

    engine: Engine
    limit: float
    rows: int = 0
    over: int = 0

    def __post_init__(self) -> None:
        self.name, self.inputs, self.outputs = self.engine.name, self.engine.inputs, self.engine.outputs

    def warm_up(self, batch: int) -> None:
        self.engine.warm_up(batch)

    def infer(self, inputs: Arrays) -> Arrays:
        found = self.engine.infer(inputs)
        self.rows += len(found["score"])
        self.over += int(np.count_nonzero(found["score"] > self.limit))
        return found

    def close(self) -> None:
        self.engine.close()


def null_graph() -> onnx.ModelProto:
    """Build the null engine as a graph, for workers in processes of their own."""
    nodes = [
        helper.make_node("Slice", ["x", "begin", "end", "axes"], ["first"]),
        helper.make_node("Abs", ["first"], ["abs"]),
        helper.make_node("ReduceMean", ["abs"], ["score"], axes=[1, 2, 3], keepdims=0),
    ]
    values = {"begin": [0, 0], "end": [1, 1], "axes": [2, 3]}
    return _model("null", nodes, [numpy_helper.from_array(np.array(v, "i8"), name) for name, v in values.items()])


def autoencoder_graph() -> onnx.ModelProto:
    """Build the peers' autoencoder: four layers, weights from seed 0, score = mean squared error of a window."""
    rng = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> TensorProto:
        scaled = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(scaled.astype("f4"), name)

    constants = [weights("w1", 16, 8, 7), weights("w2", 32, 16, 5), weights("w3", 32, 16, 6), weights("w4", 16, 8, 6),
                 numpy_helper.from_array(np.array([0, CHANNELS, WINDOW], "i8"), "shape")]
    node = helper.make_node
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 1, 3]), node("Reshape", ["t", "shape"], ["y"]),
        node("Conv", ["y", "w1"], ["a"], strides=[2], pads=[3, 3]), node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["c"], strides=[2], pads=[2, 2]), node("Relu", ["c"], ["d"]),
        node("ConvTranspose", ["d", "w3"], ["e"], strides=[2], pads=[2, 2]), node("Relu", ["e"], ["f"]),
        node("ConvTranspose", ["f", "w4"], ["g"], strides=[2], pads=[2, 2]),
        node("Sub", ["y", "g"], ["r"]), node("Mul", ["r", "r"], ["q"]),
        node("ReduceMean", ["q"], ["score"], axes=[1, 2], keepdims=0),
    ]
    return _model("autoencoder", nodes, constants)


def _model(name: str, nodes: list[onnx.NodeProto], constants: list[TensorProto]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "frames", CHANNELS, "samples"])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(nodes, name, [x], [score], constants)
    # opset 17 and IR 9 as the peers': the same kernels run
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def save_bundle(folder: Path, kind: str, threshold: float, version: str = "1.0.0", window: int = WINDOW,
                note: str = "") -> Path:
    """Write bundle `w1-KIND` below `folder`; returns its own folder. window: of `null`, which takes any.

    note: changes the model's bytes and nothing that it computes.
    """
    graph = null_graph() if kind == "null" else autoencoder_graph()
    graph.doc_string = note
    model = graph.SerializeToString()
    passport = _PASSPORT.format(kind=kind, threshold=threshold, window=window, hop=HOP, channels=CHANNELS,
                                version=version).encode()
    rows = np.random.default_rng(1).normal(size=(models.ROWS, window // SAMPLES, CHANNELS, SAMPLES)).astype("f4")
    golden = models.golden_of(model, threshold, "score", 0, models.around(model, rows, threshold))
    files = {MODEL: model, PASSPORT: passport, GOLDEN: golden}
    return models.write(folder / f"w1-{kind}", files, f"w1-{kind}", version)


def open_counting(kind: str, threshold: float) -> tuple[Bundle, Counting]:
    """Return the bundle and an engine that counts: `null` in NumPy as the peers', `onnx` by the product's back end."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = models.load(save_bundle(Path(folder), kind, threshold))
    return bundle, Counting(Null() if kind == "null" else open_engine("onnx_cpu", bundle), threshold)
