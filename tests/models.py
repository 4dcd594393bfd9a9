"""Small models and bundles for tests; each is made by a function so that a test can see what it computes."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CARD = {key: "for tests" for key in ("purpose", "protocol", "figures", "limits", "failures")}
PASSPORT = {
    "name": "made", "version": "1.0.0", "kind": "window", "rule": "made", "card": CARD,
    "window": {"size": 32, "hop": 16}, "match": {"max_channels": 8},
}  # fmt: skip


def bundle(folder: Path, model: bytes, **changes: object) -> Path:
    """Write a bundle and return its folder. changes: keys of model.toml; None takes a key out."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {key: value for key, value in {**PASSPORT, **changes}.items() if value is not None}
    (folder / "model.onnx").write_bytes(model)
    (folder / "model.toml").write_text(_toml(table))
    return folder


def dense(seed: int = 0) -> bytes:
    """Window model: x f4 (n, frames, 4, samples) of 32 samples -> 128 -> 48 -> 128, score = mean squared error.

    Matrix products over the whole batch, in float32: where a runtime would let rows influence each other.
    """
    rng = np.random.default_rng(seed)
    weight = lambda *shape: (rng.normal(size=shape) / shape[0] ** 0.5).astype("f4")  # noqa: E731
    constants = {"down": weight(128, 48), "bias": weight(48), "up": weight(48, 128), "flat": np.array([0, 128])}
    return _model(
        [
            helper.make_node("Transpose", ["x"], ["by_channel"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["by_channel", "flat"], ["row"]),
            helper.make_node("Gemm", ["row", "down", "bias"], ["code"]),
            helper.make_node("Relu", ["code"], ["active"]),
            helper.make_node("MatMul", ["active", "up"], ["again"]),
            helper.make_node("Sub", ["row", "again"], ["error"]),
            helper.make_node("Mul", ["error", "error"], ["square"]),
            helper.make_node("ReduceMean", ["square"], ["score"], axes=[1], keepdims=0),
        ],
        ["n", "frames", 4, "samples"],
        constants,
    )


def picky() -> bytes:
    """Window model: x f4 (n, 1, 1, 1) is an index into a table of 4 scores; anything else makes the engine fail."""
    return _model(
        [
            helper.make_node("Reshape", ["x", "flat"], ["index"]),
            helper.make_node("Cast", ["index"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "whole"], ["score"]),
        ],
        ["n", 1, 1, 1],
        {"table": np.array([0.5, 1.5, 2.5, 3.5], "f4"), "flat": np.array([-1])},
    )


def _model(nodes: list[onnx.NodeProto], shape: list[str | int], constants: dict[str, np.ndarray]) -> bytes:
    graph = helper.make_graph(
        nodes, "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _toml(table: dict[str, object], path: str = "") -> str:
    """Write what tomllib reads: scalars, lists and nested tables are all that passports hold."""
    flat = [f"{key} = {_value(value)}" for key, value in table.items() if not isinstance(value, dict)]
    nested = [_toml(value, f"{path}{key}.") for key, value in table.items() if isinstance(value, dict)]
    return "\n".join([f"[{path[:-1]}]" if path else "", *flat, *nested])


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
