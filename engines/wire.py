"""See in an ONNX model's bytes what it takes and gives, and whether it may be run at all, before any runtime does.

Is all of its data inside (a file beside it would escape the bundle's hash, and a path may leave the folder), are its
operators allowed, are its weights numbers. Without the `onnx` package, which a worker does not need (14 MiB resident).
A model of 64 MiB takes 0.1 s.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.ops import misfit
from engines.protobuf import Reader, Value, message

Numbers = NDArray[Any]
Dims = tuple[int | str | None, ...]

#: Messages of onnx-ml.proto (IR version 13), without what exporters do not write or no engine of ours can run.
SCHEMA = {
    "ModelProto": message(
        "1 ir_version int64", "2 producer_name string", "3 producer_version string", "4 domain string",
        "5 model_version int64", "6 doc_string string", "7 graph GraphProto", "8 opset_import OperatorSetIdProto*",
        "14 metadata_props StringStringEntryProto*", "20 training_info TrainingInfoProto*",
        "25 functions FunctionProto*"),
    "OperatorSetIdProto": message("1 domain string", "2 version int64"),
    "GraphProto": message(
        "1 node NodeProto*", "2 name string", "5 initializer TensorProto*", "10 doc_string string",
        "11 input ValueInfoProto*", "12 output ValueInfoProto*", "13 value_info ValueInfoProto*",
        "14 quantization_annotation TensorAnnotation*", "15 sparse_initializer SparseTensorProto*",
        "16 metadata_props StringStringEntryProto*"),
    "NodeProto": message(
        "1 input string*", "2 output string*", "3 name string", "4 op_type string", "5 attribute AttributeProto*",
        "6 doc_string string", "7 domain string", "8 overload string", "9 metadata_props StringStringEntryProto*"),
    "AttributeProto": message(
        "1 name string", "2 f float", "3 i int64", "4 s bytes", "5 t TensorProto", "6 g GraphProto", "7 floats float*",
        "8 ints int64*", "9 strings bytes*", "10 tensors TensorProto*", "11 graphs GraphProto*",
        "13 doc_string string", "20 type enum", "22 sparse_tensor SparseTensorProto",
        "23 sparse_tensors SparseTensorProto*"),
    "TensorProto": message(
        "1 dims int64*", "2 data_type int32", "4 float_data float*", "5 int32_data int32*", "6 string_data bytes*",
        "7 int64_data int64*", "8 name string", "9 raw_data bytes", "10 double_data double*", "11 uint64_data uint64*",
        "12 doc_string string", "13 external_data StringStringEntryProto*", "14 data_location enum",
        "16 metadata_props StringStringEntryProto*"),
    "ValueInfoProto": message(
        "1 name string", "2 type TypeProto", "3 doc_string string", "4 metadata_props StringStringEntryProto*"),
    "TypeProto": message("1 tensor_type TypeProto.Tensor", "6 denotation string"),
    "TypeProto.Tensor": message("1 elem_type int32", "2 shape TensorShapeProto"),
    "TensorShapeProto": message("1 dim TensorShapeProto.Dimension*"),
    "TensorShapeProto.Dimension": message("1 dim_value int64", "2 dim_param string", "3 denotation string"),
    "StringStringEntryProto": message("1 key string", "2 value string"),
}  # fmt: skip
_INLINE = "inline them with onnx.inliner.inline_local_functions"
_REFUSED = {
    "functions": f"the model has functions of its own: {_INLINE}",
    "training_info": "the model holds its training: export it for inference",
    "quantization_annotation": "the graph has quantization_annotation, which no engine of ours reads: quantize by "
                               "QuantizeLinear and DequantizeLinear",
    "sparse_initializer": "the graph has a sparse tensor: store it dense",
    "sparse_tensor": "a node has a sparse tensor: store it dense",
    "sparse_tensors": "a node has a sparse tensor: store it dense",
    "g": "a node has a graph within: no operator that is allowed takes one",
    "graphs": "a node has a graph within: no operator that is allowed takes one",
}
#: TensorProto.DataType -> NumPy dtype, of what goes in and out of an engine.
DTYPES = {1: "f4", 11: "f8", 10: "f2", 6: "i4", 7: "i8", 2: "u1", 9: "b1"}
_FLOAT16, _BFLOAT16 = 10, 16
#: Those of weights whose bits may be no number, as raw_data has them.
_RAW = {1: "<f4", 11: "<f8", _FLOAT16: "<f2", _BFLOAT16: "<u2"}
#: Bytes of whole numbers that are read at once; each takes some 40 while it is.
_PART = 1 << 18
#: Whole numbers of 1 to 8 bytes and of 4 bits, which are numbers whatever their bits. Of what is left out (texts,
#: complex numbers, floats of 8 bits and less) no engine of ours takes a weight.
_WHOLE = (2, 3, 4, 5, 6, 7, 9, 12, 13, 21, 22)
#: AttributeProto.AttributeType of floats, whole numbers, texts and tensors, alone and many.
_ATTRIBUTES = (1, 2, 3, 4, 6, 7, 8, 9)
# Operators have had their present inputs since opset 13 of 2020; 25 is the newest that an engine of ours reads.
_MIN_OPSET, _MAX_OPSET = 13, 25
#: The largest shipped model has 277 nodes; a thousand layers of ten operators fit twice. ONNX Runtime takes seconds
#: for so many. Fields: 25 a node; they are read in 0.5 s, which bounds what empty messages (two bytes each) can cost.
MAX_NODES, MAX_FIELDS = 20_000, 500_000
#: Faults of one model that are told: one of another kind has a fault for every node.
MAX_FAULTS = 30


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """An input or output of the graph. dtype: NumPy's, or the number of ONNX's type. dims: batch first."""

    name: str
    dtype: str
    dims: Dims


@dataclass(slots=True)
class ModelFacts:
    """What a model takes and gives, and why it may not be run: empty `faults` if it may.

    With more than MAX_FAULTS of them the look ends, and the rest is as far as it got.
    """

    inputs: tuple[TensorFacts, ...] = ()
    outputs: tuple[TensorFacts, ...] = ()
    opset: int = 0
    nodes: int = 0
    faults: list[str] = field(default_factory=list)


class _Enough(Exception):
    pass


def read_model(model: bytes) -> ModelFacts:
    """Look through the bytes of a model.onnx. Raises ValueError when they are no ONNX model that has one meaning."""
    look = _Look()
    with suppress(_Enough):
        look.model(memoryview(model))
    return look.facts


@dataclass(slots=True)
class _Look:
    """Walks the messages and notes what is wrong. None of them is within one of its kind, so the depth has an end."""

    facts: ModelFacts = field(default_factory=ModelFacts)
    reader: Reader = field(default_factory=lambda: Reader(SCHEMA, MAX_FIELDS))

    def model(self, buffer: memoryview) -> None:
        graph: Value | None = None
        opsets: dict[str, int] = {}
        for name, value in self._fields(buffer, "ModelProto"):
            if name == "graph":
                graph = value
            elif name == "opset_import":
                said = dict(self._fields(value, "OperatorSetIdProto"))
                domain = str(said.get("domain", ""))
                domain = "" if domain == "ai.onnx" else domain
                if domain in opsets:
                    raise ValueError(f"the opset of {domain or 'ai.onnx'} is there twice")
                opsets[domain] = _number(said.get("version"))
        if graph is None:
            raise ValueError("no graph in it")
        self._graph(graph)
        self.facts.opset = opsets.get("", 0)
        if not _MIN_OPSET <= self.facts.opset <= _MAX_OPSET:
            self._fault(f"opset {self.facts.opset} of ai.onnx; export with one of {_MIN_OPSET} to {_MAX_OPSET}")

    def _graph(self, graph: Value) -> None:
        inputs, outputs, constants = [], [], set()
        for name, value in self._fields(graph, "GraphProto"):
            if name == "node":
                self._node(value)
            elif name == "initializer":
                constants.add(self._tensor(value))
            elif name == "input":
                inputs.append(self._tensor_facts(value))
            elif name == "output":
                outputs.append(self._tensor_facts(value))
            elif name == "value_info":
                self._tensor_facts(value)
        self.facts.inputs = tuple(tensor for tensor in inputs if tensor.name not in constants)
        self.facts.outputs = tuple(outputs)

    def _node(self, node: Value) -> None:
        self.facts.nodes += 1
        if self.facts.nodes > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES} nodes; write loops that were unrolled as tensors")
        said, output, attributes = {"domain": "", "op_type": "", "name": "", "overload": ""}, "", []
        for name, value in self._fields(node, "NodeProto"):
            if name in said:
                said[name] = str(value)
            elif name == "output":
                output = output or str(value)
            elif name == "attribute":
                attributes.append(value)
        who = f"node {said['name']!r}" if said["name"] else f"the node that makes {output!r}"
        if why := misfit(said["domain"], said["op_type"]):
            self._fault(f"{who} is {why}")
            return
        if said["overload"]:
            self._fault(f"{who} has overload {said['overload']!r}, which is for functions: {_INLINE}")
        for attribute in attributes:
            self._attribute(f"an attribute of {who}", attribute)

    def _attribute(self, who: str, attribute: Value) -> None:
        for name, value in self._fields(attribute, "AttributeProto"):
            if name in ("f", "floats"):
                self._numbers(who, _whole(value, "<f4"))
            elif name in ("t", "tensors"):
                self._tensor(value, who)
            elif name == "type" and value not in _ATTRIBUTES:
                self._fault(f"{who} is of ONNX type {value}, which none of an operator that is allowed is")

    def _tensor(self, tensor: Value, where: str = "") -> str:
        """Look at a tensor and return its name. where: what it is called if it has none."""
        name, kind, outside, parts = "", 0, False, []
        for key, value in self._fields(tensor, "TensorProto"):
            if key == "name":
                name = str(value)
            elif key == "data_type":
                kind = _number(value)
            elif key in ("float_data", "double_data", "raw_data", "int32_data"):
                parts.append((key, value))
            outside |= key == "external_data" or (key == "data_location" and value != 0)
        who = f"tensor {name!r}" if name or not where else where
        if outside:
            self._fault(f"{who} lies in another file; save the model with all data inside")
        if kind not in _WHOLE and kind not in _RAW:
            self._fault(f"{who} is of ONNX type {kind}, which is none of weights")
        for key, value in parts:
            self._data(who, kind, key, value)
        return name

    def _data(self, who: str, kind: int, key: str, value: Value) -> None:
        """Look at numbers of a tensor. key: the field they lie in."""
        dtype = {"float_data": "<f4", "double_data": "<f8"}.get(key) or _RAW.get(kind)
        if key != "int32_data":
            if dtype:
                self._numbers(who, _whole(value, dtype), kind == _BFLOAT16 and key == "raw_data")
        elif kind in (_FLOAT16, _BFLOAT16):
            bits = np.concatenate([np.empty(0, "<u2"), *_halves(who, value)])
            self._numbers(who, bits.view(_RAW[kind]), kind == _BFLOAT16)

    def _tensor_facts(self, value_info: Value) -> TensorFacts:
        name, kind, dims = "", 0, []
        for key, value in self._fields(value_info, "ValueInfoProto"):
            if key == "name":
                name = str(value)
                continue
            for a, tensor in self._fields(value, "TypeProto") if key == "type" else ():
                for b, part in self._fields(tensor, "TypeProto.Tensor") if a == "tensor_type" else ():
                    if b == "elem_type":
                        kind = _number(part)
                        continue
                    dims = [self._dim(dim) for _, dim in self._fields(part, "TensorShapeProto")]
        return TensorFacts(name, DTYPES.get(kind, f"ONNX type {kind}"), tuple(dims))

    def _dim(self, dim: Value) -> int | str | None:
        said = dict(self._fields(dim, "TensorShapeProto.Dimension"))
        if "dim_value" in said and "dim_param" in said:  # of these the last would count
            raise ValueError(f"a dimension is both {said['dim_value']} and {said['dim_param']!r}")
        size = said.get("dim_value", said.get("dim_param"))
        return size if isinstance(size, int) else str(size or "") or None

    def _fields(self, part: Value, kind: str) -> Iterator[tuple[str, Value]]:
        assert isinstance(part, memoryview)  # by its wire type
        for name, value in self.reader.fields(part, kind):
            if name in _REFUSED:
                self._fault(_REFUSED[name])
            if name == "metadata_props":
                dict(self._fields(value, "StringStringEntryProto"))
            yield name, value

    def _numbers(self, who: str, values: Numbers, bfloats: bool = False) -> None:
        if bfloats:  # the upper half of a float32
            values = (values.astype("<u4") << 16).view("<f4")
        if np.isnan(values).any():  # infinite values are numbers: masks of attention are made of them
            self._fault(f"{who} holds NaN; weights are numbers")

    def _fault(self, text: str) -> None:
        self.facts.faults.append(text)
        if len(self.facts.faults) > MAX_FAULTS:
            raise _Enough


def _number(value: Value | None) -> int:
    return value if isinstance(value, int) else 0


def _halves(who: str, value: Value) -> Iterator[Numbers]:
    """Yield the bits of floats of 16 that lie as whole numbers. Raises ValueError for what readers would cut to 16."""
    if isinstance(value, int):
        if not 0 <= value <= 0xFFFF:
            raise ValueError(f"{who} has {value} for the bits of a float of 16")
        yield np.array([value], "<u2")
        return
    assert isinstance(value, memoryview)  # by its wire type
    while value:
        data = np.frombuffer(value[:_PART], "u1")
        ends = np.flatnonzero(data < 0x80)
        sizes = np.diff(ends, prepend=-1)
        if not ends.size or sizes.max() > 3:
            raise ValueError(f"{who} has a number that is cut off or wider than the bits of a float of 16")
        bits = data[ends].astype("u4") << (7 * (sizes - 1)).astype("u4")
        for after in (0, 1):  # bytes that another follows
            more = sizes > after + 1
            bits[more] |= (data[(ends - sizes + 1 + after)[more]].astype("u4") & 0x7F) << 7 * after
        if bits.max() > 0xFFFF:
            raise ValueError(f"{who} has {bits.max()} for the bits of a float of 16")
        yield bits.astype("<u2")
        value = value[int(ends[-1]) + 1 :]


def _whole(value: Value, dtype: str) -> Numbers:
    """Return numbers, without the bytes of a last one that is cut off (a runtime refuses those)."""
    assert isinstance(value, memoryview)  # by its wire type
    size = np.dtype(dtype).itemsize
    return np.frombuffer(value[: len(value) // size * size], dtype)
