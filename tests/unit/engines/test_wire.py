"""What is seen in a model's bytes before a runtime sees them: operators, weights, inputs; and how long it takes."""

import time
from dataclasses import replace
from functools import reduce

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, defs, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from engines import EngineError, shipped_bundles
from engines.onnx_cpu import OnnxCpu
from engines.ops import INSTEAD, OPERATORS
from engines.wire import SCHEMA, TensorFacts, read_model
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
@pytest.mark.parametrize(("value", "bad"), [(np.nan, True), (np.inf, False), (-np.inf, False)])
def test_weight_that_is_no_number_is_refused_however_it_is_stored(dtype, value, bad):
    values = np.ones(9, dtype)
    values[5] = value
    packed = helper.make_tensor("packed", helper.np_dtype_to_tensor_dtype(values.dtype), [9], values)
    raw, alone = numpy_helper.from_array(values, "raw"), onnx.TensorProto()
    alone.CopyFrom(packed)
    for tensor in (packed, raw):
        fault = [f"tensor {tensor.name!r} holds NaN; weights are numbers"] * bad
        model = dense()
        model.graph.initializer.append(tensor)
        assert faults_of(model) == fault
        model = dense()
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
        assert faults_of(model) == fault


def test_bfloat16_and_attributes_that_are_no_numbers_are_refused():
    model = dense()
    for name, half in (("fine", 0x3F80), ("nan", 0x7FC0)):
        raw = np.array([half], "<u2").tobytes()
        model.graph.initializer.append(onnx.TensorProto(name=name, data_type=16, dims=[1], raw_data=raw))
    assert [f.split("'")[1] for f in faults_of(model)] == ["nan"]
    for attribute in ({"value_float": np.nan}, {"value_floats": [1.0, np.nan]}):
        model = dense()
        model.graph.node.append(helper.make_node("Constant", [], ["c"], **attribute))
        (only,) = faults_of(model)
        assert only.startswith("an attribute of the node that makes 'c' holds")


@pytest.mark.parametrize(("kind", "infinite"), [(TensorProto.FLOAT16, 0x7C00), (TensorProto.BFLOAT16, 0x7F80)])
def test_floats_of_16_bits_that_lie_as_whole_numbers_are_read(kind, infinite, monkeypatch):
    """`onnx.helper.make_tensor` and converters to float16 write them so."""
    monkeypatch.setattr("engines.wire._PART", 16)
    every = np.arange(1 << 16)
    fine = [int(bits) for bits in every if bits & 0x7FFF <= infinite]
    for bits, fault in ((fine, []), ([*fine, *[infinite + 1] * 99], ["tensor 'w' holds NaN; weights are numbers"])):
        model = dense()
        model.graph.initializer.append(onnx.TensorProto(name="w", data_type=kind, dims=[len(bits)], int32_data=bits))
        assert faults_of(model) == fault


@pytest.mark.parametrize("field", [
    b"\x2a\x01\x80", b"\x2a\x04\x80\x80\x80\x00", b"\x2a\x04\x01\x80\x80\x04", b"\x2a\x0a" + b"\xff" * 9 + b"\x01",
    b"\x28\x80\x80\x04", b"\x28" + b"\xff" * 9 + b"\x01",
])  # fmt: skip
def test_whole_number_that_would_be_cut_to_a_float_of_16_bits_has_no_clear_meaning(field):
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT16).SerializeToString() + field
    with pytest.raises(ValueError, match="tensor 'w' has .* the bits of a float of 16"):
        read_model(_field(7, _field(5, tensor)))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_float_of_16_bits_that_lies_alone_as_a_whole_number_is_read(kind):
    tensor = onnx.TensorProto(name="w", data_type=kind).SerializeToString() + b"\x28\xff\xff\x01"
    assert read_model(_field(7, _field(5, tensor))).faults[0] == "tensor 'w' holds NaN; weights are numbers"


@pytest.mark.parametrize("kind", [0, TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.FLOAT8E4M3FN])
def test_weight_of_a_type_that_no_engine_takes_is_refused(kind):
    model = dense()
    model.graph.initializer.append(onnx.TensorProto(name="w", data_type=kind, dims=[1], raw_data=b"\x7f"))
    assert faults_of(model) == [f"tensor 'w' is of ONNX type {kind}, which is none of weights"]


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


def test_custom_domain_is_refused():
    model = dense()
    model.graph.node.append(helper.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft", name="fused"))
    (only,) = faults_of(model)
    assert only.startswith("node 'fused' is operator FusedConv of domain 'com.microsoft': use operators of ONNX itself")


def test_classical_machine_learning_is_refused_with_what_to_use():
    model = dense()
    model.graph.node.append(helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", name="scale"))
    (only,) = faults_of(model)
    assert only.startswith("node 'scale' is operator Scaler of domain 'ai.onnx.ml': TensorRT has none of that domain: "
                           "write a scaler as Sub and Div")


def test_overload_that_is_empty_is_taken_and_another_refused():
    for overload, faults in (("", []), ("two", ["node 'relu' has overload 'two', which is for functions: inline them "
                                                "with onnx.inliner.inline_local_functions"])):
        model = dense()
        model.graph.node.append(helper.make_node("Relu", ["x"], ["y"], name="relu"))
        model.graph.node[-1].overload = overload
        assert model.graph.node[-1].HasField("overload")
        assert faults_of(model) == faults


def test_tensor_without_a_name_is_told_by_its_node():
    for name, who in (("", "an attribute of the node that makes 'mask'"), ("w", "tensor 'w'")):
        model = dense()
        tensor = numpy_helper.from_array(np.array([np.nan], "f4"), name)
        model.graph.node.append(helper.make_node("Constant", [], ["mask"], value=tensor))
        assert faults_of(model) == [f"{who} holds NaN; weights are numbers"]


def test_graphs_functions_and_sparse_tensors_within_a_model_are_refused():
    body, sparse = dense().graph, onnx.SparseTensorProto(dims=[1])
    for change, fault in (
        (lambda m: m.functions.add(name="Relu"), "functions of its own: inline them with onnx.inliner"),
        (lambda m: m.training_info.add(), "the model holds its training"),
        (lambda m: m.graph.quantization_annotation.add(tensor_name="x"), "the graph has quantization_annotation"),
        (lambda m: m.graph.sparse_initializer.append(sparse), "the graph has a sparse tensor"),
        (lambda m: m.graph.node[0].attribute.add(name="a", type=11, sparse_tensor=sparse), "a node has a sparse"),
        (lambda m: m.graph.node[0].attribute.add(name="a", type=5, g=body), "a node has a graph within"),
    ):
        model = dense()
        change(model)
        assert any(fault in found for found in faults_of(model))


@pytest.mark.parametrize(("inner", "hidden", "fault"), [
    # A name in a field of another wire type is no name to other readers; the first one counts there.
    ("node", helper.make_node("Hardmax", ["x"], ["y"]).SerializeToString() + b"\x25Relu", "op_type of NodeProto has"),
    ("node", helper.make_node("FusedGemm", ["x"], ["y"], domain="com.microsoft").SerializeToString() + b"\x38\0",
     "domain of NodeProto has wire type 0, it is string"),
    ("tensor", numpy_helper.from_array(np.array([np.nan], "f4"), "w").SerializeToString() + b"\x15\1\0\0\0",
     "data_type of TensorProto has wire type 5"),
    # What is there twice counts by its last, or is merged.
    ("node", helper.make_node("Add", ["x", "x"], ["y"]).SerializeToString() + b"\x22\4Loop", "op_type of NodeProto is"),
    ("type", b"\x12\0\x12\0", "type of ValueInfoProto is there twice"),
    # A tag and a number are cut to 32 bits: here data_location = EXTERNAL, and an enumeration that reads as 1.
    ("tensor", b"\xf0\x80\x80\x80\x10\1", "field 536870926 of TensorProto is none that is known"),
    ("tensor", b"\x70\x81\x80\x80\x80\x10", "data_location = 4294967297 is wider than its 32 bits"),
    ("tensor", b"\x42\1\xff", "name is not UTF-8"),
    ("tensor", b"\0\0", "field 0 of TensorProto"),
    ("tensor", b"\x0b\x0c", "dims of TensorProto has wire type 3"),
    ("tensor", b"\x08" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
    ("type", b"\x12\x0a\x0a\x08\x12\x06\x0a\x04\x08\1\x12\0", "a dimension is both 1 and ''"),
])
def test_what_readers_of_protobuf_take_in_different_ways_is_refused(inner, hidden, fault):
    """Each of them once ran as another model than the one that was checked, or could have."""
    graph = dense().graph.SerializeToString() + _field({"node": 1, "tensor": 5, "type": 11}[inner], hidden)
    with pytest.raises(ValueError, match=fault):
        read_model(_field(7, graph) + _field(8, onnx.OperatorSetIdProto(version=13).SerializeToString()))


def test_schema_is_that_of_onnx():
    """Number, name, kind and repetition of every field that is read, by the descriptors of `onnx`."""
    kinds = {1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 9: "string", 12: "bytes", 14: "enum"}
    for name, fields in SCHEMA.items():
        there = reduce(getattr, name.split("."), onnx).DESCRIPTOR.fields_by_number
        for number, field in fields.items():
            real = there[number]
            kind = kinds.get(real.type) or real.message_type.full_name.removeprefix("onnx.")
            assert (field.name, field.kind, field.many) == (real.name, kind, real.is_repeated), (name, number)


def _field(number: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + body


def test_model_of_two_graphs_or_an_unknown_opset_is_refused():
    data = models.dense()
    with pytest.raises(ValueError, match="graph of ModelProto is there twice"):
        read_model(data + _field(7, dense().graph.SerializeToString()))
    for opset in (12, 26):
        model = dense()
        model.opset_import[0].version = opset
        assert faults_of(model) == [f"opset {opset} of ai.onnx; export with one of 13 to 25"]
    model = dense()
    model.opset_import.add(domain="ai.onnx", version=18)
    with pytest.raises(ValueError, match="the opset of ai.onnx is there twice"):
        faults_of(model)
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


def test_many_empty_nodes_are_left_after_31_faults_and_too_many_good_ones_refused():
    """Two bytes a node: 524,288 of them took 3.9 s and 119 MiB."""
    start = time.perf_counter()
    assert len(read_model(_field(7, b"\x0a\0" * (1 << 19))).faults) == 31
    assert time.perf_counter() - start < 0.5  # 0.2 ms on a quiet machine
    node = _field(1, helper.make_node("Relu", ["x"], ["x"]).SerializeToString())
    with pytest.raises(ValueError, match="more than 20000 nodes"):
        read_model(_field(7, node * 20_001))
    with pytest.raises(ValueError, match="more fields than any model needs"):
        read_model(_field(7, b"\x6a\0" * (1 << 19)))


def test_bytes_in_the_format_of_onnx_runtime_itself_are_never_read_as_that(tmp_path):
    """It knows them by "ORTM" in bytes 4 to 8, which a protobuf can have too: another model than was checked."""
    bundle, options = models.load(models.bundle(tmp_path / "made", models.dense())), ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(bundle.model, options, providers=["CPUExecutionProvider"])
    own = (tmp_path / "model.ort").read_bytes()
    assert own[4:8] == b"ORTM"
    with pytest.raises(EngineError, match="protobuf parsing failed"):
        OnnxCpu(replace(bundle, model=own))


def test_every_operator_listed_is_run_by_onnx_runtime_on_a_cpu():
    """By a kernel, or because ONNX itself words it as a function of operators that have one; constants are folded."""
    kernels = {k.op_name for k in ort_state.get_all_opkernel_def() if k.provider == "CPUExecutionProvider"}
    made_of_others = {o for o in OPERATORS if defs.get_schema(o).has_function
                      or defs.get_schema(o).has_context_dependent_function}
    assert OPERATORS - kernels - made_of_others == {"Constant"}
