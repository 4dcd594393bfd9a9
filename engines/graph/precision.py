"""Write a model again in the precision of a GPU: float32, or float32 with float16 matrix work.

TensorRT has no float64 and takes each tensor's type from the graph (strongly typed networks), so a precision is a graph
of its own. Inputs and outputs of the result are float32, int32, int64, uint8 or bool; integers are left alone.

float32: every float64 tensor, constant, Cast and attribute becomes float32. What to know:
- an index or counter that a float64 graph holds in a float is exact up to 2**24 only;
- constants outside float32's range are guards ("larger than anything", "too small to divide by") and become +-2**50
  and +-2**-100, in whose squares, sums and quotients float32 still has room; infinities and NaN stay.

float16: Conv, ConvTranspose, Gemm and MatMul with constant weights compute in float16, and what lies between them
follows (activations, layout, biases). Everything else stays in float32: sums, means, differences, squares, quotients,
roots, exponentials, softmax and normalisations lose too much with 11 bits and 65,504 as the largest number, and
products of two computed tensors (a T2, attention scores) have no bound. A node whose name begins with `f32/` stays in
float32 as well: the front ends are named so, because a spectrum of raw counts overflows float16. A sum of products that
passes 65,504 becomes infinite: whether a model bears float16 is for its golden vectors to say. A model without such
matrix work is the same graph in both precisions.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from engines.base import Array, EngineError
from engines.graph.half import to_half

PRECISIONS = ("f32", "f16")

# Guards beyond float32's range. 2**50 ~ 1e15: the square of it times a gain of 1000 is finite, and no sum of squares
# of sensor values reaches it. 2**-100 ~ 8e-31: a quotient by it is finite up to 4e8, and a millionth of it is normal.
_HUGE, _TINY = 2.0**50, 2.0**-100
_RANGE = np.finfo(np.float32)

# What a TensorRT network can hold: float8, int4, int16, strings and the like have no place in it.
_INSIDE = frozenset({
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16,
    TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL,
})  # fmt: skip
_AT_THE_RIM = frozenset({
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL,
})  # fmt: skip
_INSTEAD = {
    TensorProto.INT16: "give int16 samples as pairs of uint8 (engines.graph.samples)",
    TensorProto.FLOAT16: "give float32 and cast inside",
    TensorProto.BFLOAT16: "give float32 and cast inside",
}
# Attributes that name the type of an output: Cast, EyeLike, RandomNormal, QuantizeLinear.
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype"})


def to_precision(model: bytes, precision: str) -> bytes:
    """Return `model` in `precision`, "f32" or "f16": the same bytes for the same model.

    A model that has no float64 comes back unchanged for "f32". Raises EngineError for what is not ONNX or cannot be
    converted: the tensor or node is named, and what to use instead.
    """
    if precision not in PRECISIONS:
        raise EngineError(f"precision {precision!r} is unknown, there are {', '.join(PRECISIONS)}")
    proto = _parse(model)
    _refuse(proto)
    changed = _to_single(proto.graph)
    if precision == "f16":
        changed = to_half(proto.graph, _kinds(_inferred(proto).graph)) or changed
    if not changed:
        return model
    _inferred(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def _parse(model: bytes) -> Any:
    try:
        proto = onnx.load_from_string(model)
    except Exception as error:  # protobuf's DecodeError; naming it would make protobuf a dependency of ours
        raise EngineError(f"not an ONNX model: {error}") from error
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise EngineError(f"constant {tensor.name!r} lies outside the model: save its weights inside")
    return proto


def _inferred(proto: Any) -> Any:
    """Check the model as a whole and return it with the type of every tensor that its nodes pass on."""
    try:
        onnx.checker.check_model(proto, full_check=True)
        return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EngineError(f"not a valid ONNX model: {error}") from error


def _refuse(proto: Any) -> None:
    """Raise EngineError for what no precision can express, with every place that is at fault."""
    faults = _unknown(proto) or _untyped(proto)
    if faults:
        raise EngineError("; ".join(dict.fromkeys(faults)))


def _unknown(proto: Any) -> list[str]:
    graph, faults = proto.graph, []
    if proto.functions:
        faults.append(f"function {proto.functions[0].name!r}: export the model with its functions inlined")
    if graph.sparse_initializer:
        faults.append("sparse constants: store them dense")
    for node in graph.node:
        where = f"node {node.name or node.output[0]!r}"
        if node.domain not in ("", "ai.onnx"):
            faults.append(f"{where} is {node.domain}.{node.op_type}: only operators of ONNX itself can be converted")
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            faults.append(f"{where} is {node.op_type}, which holds a graph: unroll the loop, or select with Where")
    return faults


def _untyped(proto: Any) -> list[str]:
    faults = []
    for value in (*proto.graph.input, *proto.graph.output):
        kind = _kind(value)
        if kind not in _AT_THE_RIM:
            faults.append(f"{value.name!r} is {_name(kind)}: {_INSTEAD.get(kind, 'TensorRT takes and gives no such')}")
    for name, kind in _kinds(_inferred(proto).graph).items():
        if kind not in _INSIDE:
            faults.append(f"{name!r} is {_name(kind)}, which TensorRT has not")
    return faults


def _kinds(graph: Any) -> dict[str, int]:
    """Return the type of every tensor of an inferred graph."""
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: _kind(value) for value in values} | {t.name: int(t.data_type) for t in graph.initializer}


def _kind(value: Any) -> int:
    return int(value.type.tensor_type.elem_type) if value.type.HasField("tensor_type") else TensorProto.UNDEFINED


def _name(kind: int) -> str:
    return "no tensor" if kind == TensorProto.UNDEFINED else str(TensorProto.DataType.Name(kind)).lower()


def _to_single(graph: Any) -> bool:
    """Make every float64 of the graph float32, in place; False if there is none."""
    changed = False
    for value in (*graph.input, *graph.output, *graph.value_info):
        if _kind(value) == TensorProto.DOUBLE:
            value.type.tensor_type.elem_type, changed = TensorProto.FLOAT, True
    for tensor in graph.initializer:
        changed |= _tensor_to_single(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                changed |= _tensor_to_single(attribute.t)
            elif attribute.name in _TYPE_ATTRIBUTES and attribute.i == TensorProto.DOUBLE:
                attribute.i, changed = TensorProto.FLOAT, True
    return changed


def _tensor_to_single(tensor: Any) -> bool:
    if tensor.data_type != TensorProto.DOUBLE:
        return False
    tensor.CopyFrom(numpy_helper.from_array(single(numpy_helper.to_array(tensor)), tensor.name))
    return True


def single(values: Array) -> Array:
    """Return `values` in float32; finite ones outside its range as guards (see the module)."""
    size = np.abs(values)
    guards = np.where(np.isfinite(values) & (size > _RANGE.max), np.copysign(_HUGE, values), values)
    guards = np.where((size > 0) & (size < _RANGE.tiny), np.copysign(_TINY, values), guards)
    return guards.astype(np.float32)
