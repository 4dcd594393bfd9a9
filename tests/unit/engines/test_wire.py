"""What is seen in a model's bytes before a runtime sees them: operators, weights, inputs; and how long it takes."""

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, defs, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from engines import shipped_bundles
from engines.ops import INSTEAD, OPERATORS
from engines.wire import TensorFacts, read_model
from tests import models


def faults_of(model: onnx.ModelProto) -> list[str]:
    return read_model(model.SerializeToString()).faults


def dense() -> onnx.ModelProto:
    return onnx.load_from_string(models.dense())


def test_inputs_outputs_and_size_are_as_onnx_says():
    facts = read_model((shipped_bundles()["anomaly-mewma"] / "model.onnx").read_bytes())
    assert facts.inputs == (
        TensorFacts("z", "f8", ("n", "C")), TensorFacts("center", "f8", ("n", "C")),
        TensorFacts("whitening", "f8", ("n", "C", "C")), TensorFacts("limit", "f8", ("n",)))
    assert facts.outputs == (TensorFacts("score", "f8", ("n",)), TensorFacts("contributions", "f8", ("n", "C")))
    assert (facts.opset, facts.nodes, facts.faults) == (13, 21, [])
    assert read_model(models.dense()).inputs == (TensorFacts("x", "f4", ("n", "frames", 4, "samples")),)


def test_weight_that_is_listed_as_input_too_is_no_input():
    model = dense()
    model.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [48]))
    assert [t.name for t in read_model(model.SerializeToString()).inputs] == ["x"]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinite values"), (-np.inf, "infinite values")])
def test_weight_that_is_no_finite_number_is_refused_however_it_is_stored(dtype, bad, word):
    values = np.ones(9, dtype)
    values[5] = bad
    packed = helper.make_tensor("packed", helper.np_dtype_to_tensor_dtype(values.dtype), [9], values)
    raw, alone = numpy_helper.from_array(values, "raw"), onnx.TensorProto()
    alone.CopyFrom(packed)
    for tensor in (packed, raw):
        model = dense()
        model.graph.initializer.append(tensor)
        assert faults_of(model) == [f"tensor {tensor.name!r} holds {word}; weights are finite numbers"]
        model = dense()
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
        assert faults_of(model) == [f"tensor {tensor.name!r} holds {word}; weights are finite numbers"]


def test_bfloat16_and_attributes_that_are_no_finite_numbers_are_refused():
    model = dense()
    for name, half in (("fine", 0x3F80), ("nan", 0x7FC0)):
        raw = np.array([half], "<u2").tobytes()
        model.graph.initializer.append(onnx.TensorProto(name=name, data_type=16, dims=[1], raw_data=raw))
        ints = onnx.TensorProto(name=f"{name}-ints", data_type=16, dims=[1], int32_data=[half])
        model.graph.initializer.append(ints)
    assert [f.split("'")[1] for f in faults_of(model)] == ["nan", "nan-ints"]
    for attribute in ({"value_float": np.nan}, {"value_floats": [1.0, np.inf]}):
        model = dense()
        model.graph.node.append(helper.make_node("Constant", [], ["c"], **attribute))
        (only,) = faults_of(model)
        assert only.startswith("a node's attribute holds")


@pytest.mark.parametrize("name", sorted(INSTEAD))
def test_operator_that_engines_do_not_share_is_named_with_its_node_and_what_to_use(name):
    model = dense()
    model.graph.node.append(helper.make_node(name, ["x"], ["y"], name="culprit"))
    assert faults_of(model) == [f"node 'culprit' is operator {name}: {INSTEAD[name]}"]


def test_operator_without_a_name_of_its_node_is_named_by_its_output():
    model = dense()
    model.graph.node.append(helper.make_node("NonMaxSuppression", ["x", "x"], ["boxes"]))
    (only,) = faults_of(model)
    assert only.startswith("the node that makes 'boxes' is operator NonMaxSuppression: use others")


def test_custom_domains_and_local_functions_are_refused_wherever_they_hide():
    model, body = dense(), dense().graph
    model.graph.node.append(helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft", name="fused"))
    body.node.append(helper.make_node("Plugin", ["x"], ["y"], domain="evil", name="inner"))
    model.graph.node.append(helper.make_node("Where", ["x"], ["y"], name="outer", body=body))
    model.functions.append(helper.make_function(
        "mine", "f", ["x"], ["y"], [helper.make_node("Loop", ["x"], ["y"], name="in f")],
        [helper.make_opsetid("", 13)]))
    model.graph.node.append(helper.make_node("f", ["x"], ["y"], domain="mine", name="call"))
    found = faults_of(model)
    assert [f.split("'")[1] for f in found] == ["fused", "inner", "call", "in f"]
    assert "domain 'com.microsoft': use operators of ONNX itself" in found[0]
    assert "function f of the model itself: inline it with onnx.inliner" in found[2]


def test_last_operator_counts_as_in_every_reader_of_protobuf():
    """A field that is there twice must not be read as one thing here and as another by the runtime."""
    model = dense()
    node = helper.make_node("Add", ["x", "x"], ["y"], name="n")
    twice = node.SerializeToString() + onnx.NodeProto(op_type="Loop").SerializeToString()
    assert onnx.NodeProto.FromString(twice).op_type == "Loop"
    graph = model.graph.SerializeToString() + _field(1, twice)
    (only,) = read_model(_field(7, graph) + _field(8, onnx.OperatorSetIdProto(version=13).SerializeToString())).faults
    assert only.startswith("node 'n' is operator Loop")


def _field(number: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + body


def test_model_of_two_graphs_or_an_unknown_opset_is_refused():
    data = models.dense()
    with pytest.raises(ValueError, match="two graphs"):
        read_model(data + _field(7, dense().graph.SerializeToString()))
    for opset in (12, 26):
        model = dense()
        model.opset_import[0].version = opset
        assert faults_of(model) == [f"opset {opset} of ai.onnx; export with one of 13 to 25"]
    model = dense()
    del model.opset_import[:]
    assert faults_of(model) == ["opset 0 of ai.onnx; export with one of 13 to 25"]


def test_every_operator_listed_is_one_of_onnx():
    known = {schema.name for schema in defs.get_all_schemas()} | {"Upsample", "Scatter"}
    assert OPERATORS <= known
    assert set(INSTEAD) - known == set()
    assert not OPERATORS & set(INSTEAD)


def test_large_model_is_looked_through_in_a_fraction_of_a_second():
    model = dense()
    for i in range(8):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(1 << 21, "f4"), f"w{i}"))
    data = model.SerializeToString()
    assert len(data) > 60 << 20
    start = time.perf_counter()
    assert read_model(data).faults == []
    assert time.perf_counter() - start < 2.0  # 0.05 s on a quiet machine


def test_every_operator_listed_is_run_by_onnx_runtime_on_a_cpu():
    """By a kernel, or because ONNX itself words it as a function of operators that have one; constants are folded."""
    kernels = {k.op_name for k in ort_state.get_all_opkernel_def() if k.provider == "CPUExecutionProvider"}
    made_of_others = {o for o in OPERATORS if defs.get_schema(o).has_function
                      or defs.get_schema(o).has_context_dependent_function}
    assert OPERATORS - kernels - made_of_others == {"Constant"}
