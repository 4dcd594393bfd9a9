"""A model in another precision: the same numbers within it, and a graph that a strongly typed parser takes."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engines import EngineError
from engines.bundle import load_bundle, shipped_bundles
from engines.graph.half import half_constant
from engines.graph.precision import PRECISIONS, single, to_precision
from tests import frontends, models

BY_NAME = {name: load_bundle(path).model for name, path in shipped_bundles().items()}
EVERY = {
    **BY_NAME, "dense": models.dense(), "picky": models.picky(), "autoencoder": frontends.autoencoder(),
    "fused": frontends.fused(), "fused-raw": frontends.fused(raw=True),
}  # fmt: skip
FLOAT, HALF, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64


def run(model: bytes, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, rows), strict=True))


def kinds(model: bytes) -> dict[str, int]:
    """Types of all tensors, as ONNX's own strict inference finds them."""
    proto = onnx.load_from_string(model)
    onnx.checker.check_model(proto, full_check=True)
    graph = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    return found | {t.name: t.data_type for t in graph.initializer}


def graph(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    kind: int = FLOAT,
    out: int | None = None,
    opset: int = 18,
) -> bytes:
    """One input x, one output y; what is in between is up to the test."""
    shape = ("n", 4)
    made = helper.make_graph(
        nodes, "made",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind if out is None else out, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9).SerializeToString()


def charts(seed: int, n: int, channels: int = 5) -> dict[str, np.ndarray]:
    """Rows of anomaly-mewma with a channel dropped, some at their mean, some far beyond every limit."""
    rng = np.random.default_rng(seed)
    whitening = rng.normal(size=(n, channels, channels))
    whitening[:, 1] = whitening[:, :, 1] = 0
    z = rng.normal(size=(n, channels)) * 10 ** rng.uniform(-3, 3, (n, 1))
    z[0], z[-1] = 0, 1e14
    return {"z": z, "center": rng.normal(size=(n, channels)), "whitening": whitening, "limit": rng.uniform(5, 50, n)}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", EVERY)
def test_every_model_has_one_form_in_each_precision_with_the_same_inputs_and_no_float64(name, precision):
    made = to_precision(EVERY[name], precision)
    assert to_precision(EVERY[name], precision) == made
    assert DOUBLE not in kinds(made).values()
    before, after = onnx.load_from_string(EVERY[name]).graph, onnx.load_from_string(made).graph
    for side in ("input", "output"):
        assert [v.name for v in getattr(after, side)] == [v.name for v in getattr(before, side)]
        for old, new in zip(getattr(before, side), getattr(after, side), strict=True):
            assert new.type.tensor_type.elem_type in (FLOAT, TensorProto.INT32, INT64, TensorProto.UINT8)
            assert new.type.tensor_type.shape == old.type.tensor_type.shape
    ort.InferenceSession(made, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("model", [models.dense(), models.picky()], ids=["dense", "picky"])
def test_float32_model_comes_back_unchanged(model):
    assert to_precision(model, "f32") is model


def test_chart_in_float32_agrees_with_the_chart_in_float64_and_decides_the_same():
    rows = charts(1, 2000)
    exact = run(BY_NAME["anomaly-mewma"], rows)
    ours = run(to_precision(BY_NAME["anomaly-mewma"], "f32"), {k: v.astype("f4") for k, v in rows.items()})
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in ours.values())
    # The difference z - center of values up to 1e3 keeps 2**-24 of the larger one: the square of that is the floor.
    np.testing.assert_allclose(ours["score"], exact["score"], rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(ours["contributions"], exact["contributions"], atol=1e-4)
    near = np.abs(exact["score"] - 1) < 1e-4
    assert near.mean() < 0.01
    assert ((ours["score"] >= 1) == (exact["score"] >= 1))[~near].all()


def test_chart_in_float32_alerts_on_what_is_beyond_its_range():
    """1e200 is infinite in float32: cut like any other, it is a large score and not a NaN. A NaN stays one."""
    rows = {name: a.astype("f4") for name, a in charts(2, 8).items()}
    rows["z"][3, 0], rows["z"][4, 2], rows["z"][5, 0] = np.inf, -3e38, np.nan
    made = run(to_precision(BY_NAME["anomaly-mewma"], "f32"), rows)
    assert np.isfinite(made["score"][[3, 4]]).all() and (made["score"][[3, 4]] > 1e6).all()
    np.testing.assert_allclose(made["contributions"][[3, 4]].sum(1), 1, rtol=1e-5)
    assert np.isnan(made["score"][5])


def test_chart_has_nothing_for_float16_so_both_precisions_are_one_graph():
    """T2 is a square of unknown size: 65,504 of it would be infinite."""
    assert to_precision(BY_NAME["anomaly-mewma"], "f16") == to_precision(BY_NAME["anomaly-mewma"], "f32")


def test_matrix_work_is_float16_and_the_error_is_taken_in_float32():
    found = kinds(to_precision(models.dense(), "f16"))
    assert {found[name] for name in ("down.f16", "up.f16", "code.f16", "active.f16", "again.f16")} == {HALF}
    assert {found[name] for name in ("x", "row", "error", "square", "score")} == {FLOAT}
    assert "down" not in found  # a constant that nothing uses in float32 any more is not kept
    rows = {"x": np.random.default_rng(2).normal(size=(300, 2, 4, 16)).astype("f4")}
    exact, ours = run(models.dense(), rows)["score"], run(to_precision(models.dense(), "f16"), rows)["score"]
    np.testing.assert_allclose(ours, exact, rtol=2e-3)
    assert (ours != exact).any()


def test_net_with_residual_gate_and_attention_keeps_its_score_in_float16():
    rng, model = np.random.default_rng(3), frontends.autoencoder()
    rows = {"x": rng.normal(4, 3, (100, 1, 3, 512)), "mean": np.full((100, 3), 4.0), "std": np.full((100, 3), 3.0)}
    rows = {name: a.astype("f4") for name, a in rows.items()}
    made = to_precision(model, "f16")
    # Two steps of float16, 2**-11, in what is reproduced; most of it averages out over 1,536 samples.
    np.testing.assert_allclose(run(made, rows)["score"], run(model, rows)["score"], rtol=1e-3)
    found, proto = kinds(made), onnx.load_from_string(made)
    for node in proto.graph.node:
        inside = {found[name] for name in node.input if found[name] in (FLOAT, HALF)}
        if node.op_type in ("Conv", "ConvTranspose"):
            assert inside == {HALF}, node.name
        if node.op_type in ("MatMul", "Softmax", "Sub", "ReduceMean", "Div"):
            assert inside == {FLOAT}, node.name
    casts = [node.input[0] for node in proto.graph.node if node.op_type == "Cast"]
    assert len(set(casts)) == len(casts), "a tensor is cast once"


def test_tensor_that_feeds_two_nodes_is_cast_once():
    model = graph(
        [
            helper.make_node("Gemm", ["x", "w"], ["a"]),
            helper.make_node("Gemm", ["x", "w"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["c"]),
            helper.make_node("Exp", ["c"], ["d"]),
            helper.make_node("Sub", ["c", "d"], ["y"]),
        ],
        {"w": np.eye(4, dtype="f4")},
    )
    made = onnx.load_from_string(to_precision(model, "f16"))
    casts = [(list(n.input), list(n.output)) for n in made.graph.node if n.op_type == "Cast"]
    assert casts == [(["x"], ["x.f16"]), (["c.f16"], ["c"])]
    assert sum(t.name.startswith("w") for t in made.graph.initializer) == 1
    np.testing.assert_allclose(run(made.SerializeToString(), {"x": np.ones((2, 4), "f4")})["y"], 2 - np.exp(2.0), 1e-3)


def test_node_that_asks_for_float32_keeps_it():
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], name="f32/spectrum")]
    model = graph(nodes, {"w": np.full((4, 4), 1e5, "f4")})
    assert to_precision(model, "f16") == model


def test_square_of_what_a_layer_gives_stays_in_float32():
    nodes = [helper.make_node("Gemm", ["x", "w"], ["a"]), helper.make_node("Mul", ["a", "a"], ["y"])]
    made = to_precision(graph(nodes, {"w": np.eye(4, dtype="f4")}), "f16")
    assert run(made, {"x": np.full((1, 4), 1000, "f4")})["y"].tolist() == [[1e6] * 4]


def test_output_that_a_layer_gives_is_float32_and_keeps_its_name():
    made = to_precision(graph([helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": np.eye(4, dtype="f4")}), "f16")
    assert kinds(made)["y"] == FLOAT
    assert run(made, {"x": np.ones((1, 4), "f4")})["y"].dtype == np.float32


def test_constant_nodes_casts_and_attributes_are_converted_too():
    model = graph(
        [
            helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.array(1e300))),
            helper.make_node("Shape", ["x"], ["size"]),
            helper.make_node("ConstantOfShape", ["size"], ["fill"], value=numpy_helper.from_array(np.array([1e-300]))),
            helper.make_node("Cast", ["x"], ["whole"], to=INT64),
            helper.make_node("Cast", ["whole"], ["back"], to=DOUBLE),
            helper.make_node("Min", ["back", "k"], ["low"]),
            helper.make_node("Max", ["low", "fill"], ["y"]),
        ],
        {},
        DOUBLE,
    )
    made = to_precision(model, "f32")
    found = kinds(made)
    assert {found[name] for name in ("x", "k", "fill", "back", "low", "y")} == {FLOAT}
    assert (found["size"], found["whole"]) == (INT64, INT64)
    assert run(made, {"x": np.array([[-3.5, 0, 2.5, 7]], "f4")})["y"].tolist() == [
        [np.float32(2.0**-100), np.float32(2.0**-100), 2, 7]]  # fmt: skip


def test_constant_node_of_a_layer_becomes_its_float16_weight():
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.eye(4, dtype="f4") * 3)),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    made = to_precision(graph(nodes, {}), "f16")
    assert "Constant" not in {n.op_type for n in onnx.load_from_string(made).graph.node}
    assert run(made, {"x": np.ones((1, 4), "f4")})["y"].tolist() == [[3.0] * 4]


@given(st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_constants_in_float32_keep_their_sign_and_what_they_guard(values):
    given_, made = np.array(values), single(np.array(values))
    assert made.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(made), np.isfinite(given_))
    np.testing.assert_array_equal(np.signbit(made)[~np.isnan(given_)], np.signbit(given_)[~np.isnan(given_)])
    np.testing.assert_array_equal(made == 0, given_ == 0)
    inside = (np.abs(given_) >= 2.0**-126) & (np.abs(given_) <= np.finfo("f4").max)
    np.testing.assert_array_equal(made[inside], given_[inside].astype("f4"))
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        guard = np.isfinite(given_) & ~inside & (given_ != 0)
        assert np.isfinite(made[guard] ** 2).all() and np.isfinite(1 / made[guard]).all()


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_constants_in_float16_stay_finite_and_stay_not_zero(values):
    given_ = np.array(values, "f4")
    made = half_constant(given_)
    np.testing.assert_array_equal(np.isfinite(made), np.isfinite(given_))
    np.testing.assert_array_equal(made == 0, given_ == 0)
    normal = (np.abs(given_) >= 2.0**-14) & (np.abs(given_) < 65504)
    np.testing.assert_allclose(made[normal].astype("f4"), given_[normal], rtol=2.0**-11)


BRANCH = helper.make_graph([], "b", [], [helper.make_tensor_value_info("z", FLOAT, None)],
                           [numpy_helper.from_array(np.ones(1, "f4"), "z")])  # fmt: skip
IDENTITY = [helper.make_node("Identity", ["x"], ["y"])]


@pytest.mark.parametrize(("model", "says"), [
    (b"\x00not a model", "not an ONNX model"),
    (graph(IDENTITY, {}, TensorProto.STRING), "'x' is string"),
    (graph(IDENTITY, {}, TensorProto.INT16), "'x' is int16: give int16 samples as pairs of uint8"),
    (graph(IDENTITY, {}, HALF), "'x' is float16: give float32 and cast inside"),
    (graph([helper.make_node("Cast", ["x"], ["q"], to=TensorProto.UINT16),
            helper.make_node("Cast", ["q"], ["y"], to=FLOAT)], {}), "'q' is uint16, which TensorRT has not"),
    (graph([helper.make_node("If", ["c"], ["y"], name="choice", then_branch=BRANCH, else_branch=BRANCH)],
           {"c": np.array(True)}), "node 'choice' is If, which holds a graph: .*Where"),
    (graph([helper.make_node("Fused", ["x"], ["y"], domain="com.microsoft")], {}), "'y' is com.microsoft.Fused"),
    (graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.eye(3, dtype="f4")}), "not a valid ONNX model"),
    (graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.eye(4)}), "not a valid ONNX model"),
], ids=["bytes", "string", "int16", "float16", "uint16-inside", "if", "domain", "shape", "mixed-types"])  # fmt: skip
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_cannot_be_converted_is_named_with_what_to_use_instead(model, says, precision):
    with pytest.raises(EngineError, match=says):
        to_precision(model, precision)


def test_float8_and_constants_outside_the_model_and_unknown_precisions_are_refused():
    eighth = graph([helper.make_node("Cast", ["x"], ["q"], to=TensorProto.FLOAT8E4M3FN),
                    helper.make_node("Cast", ["q"], ["y"], to=FLOAT)], {}, opset=19)  # fmt: skip
    with pytest.raises(EngineError, match="float8"):
        to_precision(eighth, "f32")
    outside = onnx.load_from_string(models.dense())
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(EngineError, match="lies outside the model"):
        to_precision(outside.SerializeToString(), "f16")
    with pytest.raises(EngineError, match="'int8' is unknown, there are f32, f16"):
        to_precision(models.dense(), "int8")
