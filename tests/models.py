"""Small models and bundles for tests; each is made by a function so that a test can see what it computes."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines import Bundle, ModelSpec, load_bundle
from engines.archive import GOLDEN, MANIFEST, MODEL, PASSPORT
from engines.bundle import Card, OutputSpec, TrustPolicy
from engines.golden import encode, make_golden, toward_limit
from engines.manifest import Manifest
from engines.manifest import encode as encode_manifest
from engines.onnx_cpu import OnnxCpu
from engines.spec import read_spec
from engines.wire import ModelFacts, read_model

CARD = {key: "for tests" for key in ("purpose", "protocol", "figures", "limits", "failures")}
PASSPORT_OF_TESTS = {
    "name": "made", "version": "1.0.0", "kind": "window", "rule": "made", "card": CARD,
    "window": {"size": 32, "hop": 16}, "match": {"max_channels": 8},
}  # fmt: skip
#: Bundles of tests are signed by nobody.
UNSIGNED = TrustPolicy(allow_unsigned=True)
ROWS = 256


def load(path: Path, policy: TrustPolicy = UNSIGNED) -> Bundle:
    """Load a bundle of a test."""
    return load_bundle(path, policy)


def bundle(folder: Path, model: bytes, *, rows: Mapping[str, np.ndarray] | None = None, samples: int = 32,
           **changes: object) -> Path:
    """Write a complete, unsigned bundle and return its folder. changes: keys of model.toml; None takes a key out.

    rows: inputs of the golden vectors; without them random ones of one frame of `samples`, scored around the limit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = facts_of(model)
    table: dict[str, object] = {"inputs": [
        {"name": t.name, "dtype": t.dtype, "shape": list(t.dims[1:]), "unit": "1", "meaning": "for tests"}
        for t in facts.inputs]}  # fmt: skip
    table = passport(**{**table, **changes})
    threshold, score = table.get("threshold", 1.0), dict(table.get("outputs") or {}).get("score", "score")
    golden = golden_of(model, threshold, score, samples, rows) if facts.inputs else b""
    called = {key: table[key] for key in ("name", "version") if table.get(key) and allowed(key, str(table[key]))}
    return write(folder, {MODEL: model, PASSPORT: toml(table).encode(), GOLDEN: golden}, **called)


def lying(folder: Path, model: bytes, other: bytes, version: str) -> Path:
    """Write a bundle whose golden vectors are those of another model, and return its folder."""
    bundle(folder, other, version=version)
    vectors = (folder / GOLDEN).read_bytes()
    bundle(folder, model, version=version)
    files = {name: (folder / name).read_bytes() for name in (MODEL, PASSPORT)}
    return write(folder, {**files, GOLDEN: vectors}, version=version)


def passport(**changes: object) -> dict[str, object]:
    """Return the table of a model.toml. changes: its keys; None takes a key out."""
    return {key: value for key, value in {**PASSPORT_OF_TESTS, **changes}.items() if value is not None}


def spec(**changes: object) -> ModelSpec:
    """Return the passport that such a model.toml makes."""
    read, faults = read_spec(toml(passport(**changes)).encode())
    assert read is not None
    assert not faults
    return read


def write(folder: Path, files: dict[str, bytes], name: str = "made", version: str = "1.0.0") -> Path:
    """Write files and the manifest that they have, or would have if the name and version were allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = encode_manifest(Manifest.of(name, version, files))
    for file, data in {**files, MANIFEST: manifest}.items():
        (folder / file).write_bytes(data)
    return folder


def allowed(key: str, value: str) -> bool:
    """Tell whether a manifest may say it; what a test gets wrong on purpose is then the passport's alone."""
    return re.fullmatch({"name": r"[a-z0-9][a-z0-9_-]*", "version": r"\d+\.\d+\.\d+"}[key], value) is not None


def facts_of(model: bytes) -> ModelFacts:
    """Say what a model takes; nothing if it is no model."""
    try:
        return read_model(model)
    except ValueError:
        return ModelFacts()


def golden_of(model: bytes, threshold: object, score: object, size: object,
              rows: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Make golden vectors by ONNX Runtime. size: samples of a window, for random rows. rows: inputs instead of them."""
    facts = read_model(model)
    name = str(score) if score in {t.name for t in facts.outputs} else facts.outputs[0].name
    if rows is None:
        return _golden(model, float(threshold), name, int(size))  # type: ignore[call-overload]
    return encode(make_golden(OnnxCpu(_bare(model, name)), [("given", rows, (0, ROWS // 2))]))


@cache
def _golden(model: bytes, threshold: float, score: str, size: int) -> bytes:
    (tensor,) = read_model(model).inputs
    open_dims = [d for d in tensor.dims[1:] if not isinstance(d, int)]
    free = iter([1] * (len(open_dims) - 1) + [size])  # frames, samples: one frame holds the whole window
    shape = [d if isinstance(d, int) else next(free) for d in tensor.dims[1:]]
    rows = np.random.default_rng(7).normal(size=(ROWS, *shape)).astype(tensor.dtype)
    return golden_of(model, threshold, score, size, around(model, rows, threshold, score))


def around(model: bytes, rows: np.ndarray, threshold: float, score: str = "score") -> dict[str, np.ndarray]:
    """Scale rows of a model of one input until half of their scores are near the limit."""
    rng, engine = np.random.default_rng(8), OnnxCpu(_bare(model, score))
    near, far = rng.uniform(0.92, 1.08, len(rows)), rng.uniform(0.2, 3.0, len(rows))
    wanted = threshold * np.where(np.arange(len(rows)) % 2, near, far)
    (name,) = (t.name for t in engine.inputs)
    return toward_limit(engine, score, {name: rows}, name, wanted)


def _bare(model: bytes, score: str) -> Bundle:
    spec = ModelSpec(name="made", version="1.0.0", kind="window", rule="made", card=Card(**CARD),
                     outputs=OutputSpec(score))
    return Bundle(spec, Path("."), model, "")


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
    """Window model: x f4 (n, 1, 1, 1) is an index into a table of 4 scores; anything else makes the engine fail.

    Its scores are 0.5 to 3.5, so its limit must be one of them: `bundle(..., rows=picky_rows(), threshold=1.5)`.
    """
    return _model(
        [
            helper.make_node("Reshape", ["x", "flat"], ["index"]),
            helper.make_node("Cast", ["index"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "whole"], ["score"]),
        ],
        ["n", 1, 1, 1],
        {"table": np.array([0.5, 1.5, 2.5, 3.5], "f4"), "flat": np.array([-1])},
    )


def rounded_up() -> bytes:
    """Window model: x f4 (n, frames, 4, samples) -> the mean of its squares.

    Has an operator that engines run and the reference does not know.
    """
    node = helper.make_node
    return _model(
        [node("Mul", ["x", "x"], ["square"]), node("ReduceMean", ["square"], ["mean"], axes=[1, 2, 3], keepdims=0),
         node("Ceil", ["mean"], ["whole"]), node("Mul", ["whole", "zero"], ["nothing"]),
         node("Add", ["mean", "nothing"], ["score"])],
        ["n", "frames", 4, "samples"],
        {"zero": np.array(0, "f4")},
    )  # fmt: skip


def picky_rows() -> dict[str, np.ndarray]:
    """Golden inputs of `picky`: every index."""
    return {"x": (np.arange(ROWS, dtype="f4") % 4).reshape(ROWS, 1, 1, 1)}


def hungry(floats: int, operator: str = "Expand") -> bytes:
    """Window model: x f4 (n, frames, 4, samples) -> their mean, plus the sum of `floats` zeros that it makes."""
    node = helper.make_node
    many = {
        "Expand": [node("Mul", ["mean", "zero"], ["nothing"]), node("ReduceMax", ["nothing"], ["one"], keepdims=1),
                   node("Reshape", ["one", "flat"], ["single"]), node("Expand", ["single", "shape"], ["many"])],
        "ConstantOfShape": [node("ConstantOfShape", ["shape"], ["many"])],
        "Tile": [node("Mul", ["mean", "zero"], ["nothing"]), node("ReduceMax", ["nothing"], ["one"], keepdims=1),
                 node("Reshape", ["one", "flat"], ["single"]), node("Tile", ["single", "shape"], ["many"])],
    }[operator]
    return _model(
        [node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0), *many,
         node("ReduceSum", ["many"], ["sum"], keepdims=0), node("Add", ["mean", "sum"], ["score"])],
        ["n", "frames", 4, "samples"],
        {"shape": np.array([floats]), "zero": np.array(0, "f4"), "flat": np.array([1])},
    )  # fmt: skip


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


def toml(table: Mapping[str, object], path: str = "") -> str:
    """Write what tomllib reads: scalars, lists and nested tables are all that passports hold."""
    flat = [f"{_key(key)} = {_value(value)}" for key, value in table.items() if not isinstance(value, dict)]
    nested = [toml(value, f"{path}{_key(key)}.") for key, value in table.items() if isinstance(value, dict)]
    return "\n".join([f"[{path[:-1]}]" if path else "", *flat, *nested])


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else f'"{key}"'


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else repr(value)
