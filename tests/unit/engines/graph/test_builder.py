"""Graphs as a whole: the same bytes for the same calls, the documented example, layers and scores."""

import textwrap

import numpy as np
import onnx
import pytest

from engines import graph as front
from engines.ops import OPERATORS
from tests import frontends
from tests.unit.engines.graph.evaluate import by_reference, model_of, run, session_of


def example(mean: np.ndarray, std: np.ndarray) -> bytes:
    """Run the example of the package's docstring."""
    text = front.__doc__.split("\n\n")
    (block,) = [part for part in text if part.lstrip().startswith("graph = GraphBuilder")]
    names = {name: getattr(front, name) for name in front.__all__} | {"mean": mean, "std": std}
    exec(textwrap.dedent(block), names)
    return names["model"]


def test_documented_example_tells_a_machine_with_impacts_from_a_healthy_one():
    rng, t = np.random.default_rng(1), np.arange(2048) / 25600
    raw = lambda x: x.clip(-32768, 32767).astype("<i2").reshape(len(x), 3, 2, 1024).transpose(0, 2, 1, 3)  # noqa: E731
    as_bytes = lambda x: {"x": np.ascontiguousarray(raw(x)).view("u1").reshape(len(x), 2, 3, 1024, 2)}  # noqa: E731
    healthy = rng.normal(0, 400, (300, 3, 2048))
    ring = np.exp(-((t * 120) % 1) * 12) * np.sin(2 * np.pi * 4000 * t) * 1500  # 120 impacts a second ring at 4 kHz
    features = run(example(np.zeros(24), np.ones(24)), as_bytes(healthy[:200]))["features"]
    model = example(features.mean(0), features.std(0))
    good = run(model, as_bytes(healthy[200:]))["score"]
    bad = run(model, as_bytes(healthy[200:] + ring))["score"]
    assert good.mean() == pytest.approx(1.0, abs=0.1)
    assert bad.min() > 3 * good.max()


def test_graphs_hold_only_operators_that_a_bundle_may_have():
    used = {n.op_type for n in onnx.load_from_string(frontends.fused(raw=True)).graph.node}
    assert {"Conv", "MatMul", "Gemm"} <= used <= OPERATORS


def test_same_calls_give_the_same_bytes_and_equal_constants_are_one():
    made = frontends.fused()
    assert frontends.fused() == made
    constants = [(t.data_type, tuple(t.dims), t.raw_data) for t in onnx.load_from_string(made).graph.initializer]
    assert len(set(constants)) == len(constants)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("precision", front.PRECISIONS)
def test_front_end_stays_in_float32_in_both_precisions(raw, precision):
    made = onnx.load_from_string(front.to_precision(frontends.fused(raw), precision))
    onnx.checker.check_model(made, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True).graph
    halves = {v.name for v in inferred.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    assert bool(halves) == (precision == "f16")
    assert not any("f32/" in name for name in halves)


def test_float16_of_the_layers_moves_the_score_by_less_than_a_thousandth():
    x = {"x": np.random.default_rng(2).normal(size=(500, 2, 4, 16)).astype("f4")}
    exact = run(frontends.fused(), x)["score"]
    np.testing.assert_allclose(run(front.to_precision(frontends.fused(), "f16"), x)["score"], exact, rtol=1e-3)


@pytest.mark.parametrize("at", [(0, 0, 0), (0, 3, 15), (1, 2, 7)])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_sample_that_is_no_number_makes_the_score_nan_in_every_engine_and_precision(at, poison):
    x = np.random.default_rng(3).normal(size=(3, 2, 4, 16)).astype("f4")
    x[(1, *at)] = poison
    for precision in front.PRECISIONS:
        model = front.to_precision(frontends.fused(), precision)
        assert np.isnan(run(model, {"x": x})["score"]).tolist() == [False, True, False]
    assert np.isnan(by_reference(frontends.fused(), {"x": x})["score"]).tolist() == [False, True, False]


def test_raw_bytes_and_floats_of_the_same_samples_have_one_score():
    counts = np.random.default_rng(4).normal(0, 1000, (50, 2, 4, 16)).astype("<i2")
    floats = {"x": counts.astype("f4") * np.float32(1e-3)}
    octets = {"x": counts.view("u1").reshape(*counts.shape, 2)}
    raw, plain = run(frontends.fused(raw=True), octets), run(frontends.fused(), floats)
    np.testing.assert_array_equal(raw["score"], plain["score"])


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid", None])
def test_layers_and_scores_are_those_of_numpy(activation):
    rng = np.random.default_rng(5)
    x, weight, bias = rng.normal(size=(20, 6)), rng.normal(size=(6, 6)), rng.normal(size=6)
    mean, std = rng.normal(size=6), rng.uniform(0.5, 2, 6)

    def write(g: front.GraphBuilder) -> str:
        rows = g.input("x", "f4", (6,))
        again = front.layer(g, rows, weight, bias, activation)
        return g.node("Add", front.reconstruction_error(g, rows, again, 6), front.distance(g, rows, mean, std))

    how = {"Relu": lambda v: np.maximum(v, 0), "Tanh": np.tanh, "Sigmoid": lambda v: 1 / (1 + np.exp(-v)), None: abs}
    product = x @ weight + bias
    made = how[activation](product) if activation else product
    want = ((x - made) ** 2).mean(-1) + np.sqrt((((x - mean) / std) ** 2).mean(-1))
    np.testing.assert_allclose(run(model_of(write, ()), {"x": x.astype("f4")})["y"], want, rtol=1e-5)


def test_parts_name_their_nodes_for_those_who_read_a_profile():
    graph = front.GraphBuilder("made")
    x = graph.input("x", "f4", (4,))
    with graph.part("net"):
        first = graph.node("Relu", x)
        with graph.exact("tail"):
            second = graph.node("Neg", first)
    third = graph.node("Abs", second)
    assert (first, second, third) == ("net/relu0", "f32/net/tail/neg1", "abs2")


def test_what_is_no_graph_is_refused():
    graph = front.GraphBuilder("made")
    x = graph.input("x", "f4", (4,))
    graph.output("y", graph.node("MatMul", x, np.ones((3, 2))), (2,))
    with pytest.raises(ValueError, match="graph made is not valid"):
        graph.build()
    with pytest.raises(ValueError, match=r"weight \(4, 2\) and bias \(4,\)"):
        front.layer(graph, x, np.ones((4, 2)), np.ones(4))
    with pytest.raises(ValueError, match="'Softsign' is unknown, there are Relu"):
        front.layer(graph, x, np.ones((4, 2)), np.ones(2), "Softsign")
    with pytest.raises(ValueError, match="std above 0"):
        front.distance(graph, x, np.zeros(4), np.zeros(4))


def test_operands_of_a_node_may_be_arrays():
    model = model_of(lambda g: g.node("Mul", g.input("x", "f4", (2,)), np.array([2.0, 3.0])), (2,))
    assert session_of(model).run(None, {"x": np.ones((1, 2), "f4")})[0].tolist() == [[2.0, 3.0]]
