"""Read just enough of ONNX's protobuf encoding to see what a model takes and whether it may be run at all.

Before any runtime sees the bytes: is all of its data inside (a file beside it would escape the bundle's hash, and a
path may leave the folder), are its operators allowed, are its weights numbers. In all nesting levels, without the
`onnx` package, which a worker does not need (14 MiB resident). A model of 64 MiB takes 0.1 s.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.ops import misfit

Numbers = NDArray[Any]
Dims = tuple[int | str | None, ...]

# Field numbers of onnx.proto3 (IR version 13): message -> {field: nested message}. Only these can hold a tensor.
_NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_MODEL_OPSET, _MODEL_GRAPH, _MODEL_FUNCTION = 8, 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_FUNCTION_NAME, _FUNCTION_DOMAIN = 1, 10
_NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_DOMAIN = 2, 3, 4, 7
_ATTRIBUTE_FLOAT, _ATTRIBUTE_FLOATS = 2, 7
_TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_INTS, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_DOUBLES = 2, 4, 5, 8, 9, 10
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
# Protobuf's own default limit of recursion: deeper input is an attack, not a model.
_MAX_DEPTH = 100
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: TensorProto.DataType -> NumPy dtype, of what goes in and out of an engine.
DTYPES = {1: "f4", 11: "f8", 10: "f2", 6: "i4", 7: "i8", 2: "u1", 9: "b1"}
_FLOATS = {1: "<f4", 11: "<f8", 10: "<f2"}
_BFLOAT16 = 16
# Operators have had their present inputs since opset 13 of 2020; 25 is the newest that an engine of ours reads.
_MIN_OPSET, _MAX_OPSET = 13, 25

Field = tuple[int, "int | memoryview"]


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """An input or output of the graph. dtype: NumPy's, or the number of ONNX's type. dims: batch first."""

    name: str
    dtype: str
    dims: Dims


@dataclass(slots=True)
class ModelFacts:
    """What a model takes and gives, and why it may not be run: empty `faults` if it may."""

    inputs: tuple[TensorFacts, ...] = ()
    outputs: tuple[TensorFacts, ...] = ()
    opset: int = 0
    nodes: int = 0
    faults: list[str] = field(default_factory=list)


def read_model(model: bytes) -> ModelFacts:
    """Look through the bytes of a model.onnx. Raises ValueError when they are no ONNX model."""
    buffer, facts = memoryview(model), ModelFacts()
    graph = local = None
    functions: set[tuple[str, str]] = set()
    for number, value in _fields(buffer):
        if number == _MODEL_GRAPH and isinstance(value, memoryview):
            if graph is not None:
                raise ValueError("two graphs in it")
            graph = value
        elif number == _MODEL_FUNCTION and isinstance(value, memoryview):
            local = _texts(value, _FUNCTION_DOMAIN, _FUNCTION_NAME)
            functions.add((local[0], local[1]))
        elif number == _MODEL_OPSET and isinstance(value, memoryview):
            opset = dict(_fields(value))
            if _text(opset.get(1, memoryview(b""))) in ("", "ai.onnx"):
                facts.opset = max(facts.opset, _number(opset.get(2, 0)))
    if graph is None:
        raise ValueError("no graph in it")
    _Look(facts, functions).message(buffer, "model", 0)
    _signature(graph, facts)
    if not _MIN_OPSET <= facts.opset <= _MAX_OPSET:
        facts.faults.append(f"opset {facts.opset} of ai.onnx; export with one of {_MIN_OPSET} to {_MAX_OPSET}")
    return facts


@dataclass(slots=True)
class _Look:
    """Walks all nested messages and notes what is wrong."""

    facts: ModelFacts
    functions: set[tuple[str, str]]

    def message(self, buffer: memoryview, kind: str, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested deeper than {_MAX_DEPTH} messages")
        if kind == "tensor":
            self._tensor(buffer)
            return
        if kind == "node":
            self._node(buffer)
        for number, value in _fields(buffer):
            nested = _NESTED[kind].get(number)
            if nested and isinstance(value, memoryview):
                self.message(value, nested, depth + 1)
            elif kind == "attribute" and number in (_ATTRIBUTE_FLOAT, _ATTRIBUTE_FLOATS):
                self._numbers("a node's attribute", _whole(value, "<f4"))

    def _node(self, buffer: memoryview) -> None:
        self.facts.nodes += 1
        domain, operator, name, output = _texts(buffer, _NODE_DOMAIN, _NODE_OPERATOR, _NODE_NAME, _NODE_OUTPUT)
        why = misfit(domain, operator, (domain, operator) in self.functions)
        if why:
            who = f"node {name!r}" if name else f"the node that makes {output!r}"
            self.facts.faults.append(f"{who} is {why}")

    def _tensor(self, buffer: memoryview) -> None:
        fields = list(_fields(buffer))
        name = _texts(buffer, _TENSOR_NAME)[0]
        kind = next((_number(v) for n, v in reversed(fields) if n == _TENSOR_TYPE), 0)
        if any(n == _TENSOR_EXTERNAL_DATA or (n == _TENSOR_DATA_LOCATION and v != 0) for n, v in fields):
            self.facts.faults.append(f"tensor {name!r} lies in another file; save the model with all data inside")
        for number, value in fields:
            if number == _TENSOR_FLOATS:
                self._numbers(f"tensor {name!r}", _whole(value, "<f4"))
            elif number == _TENSOR_DOUBLES:
                self._numbers(f"tensor {name!r}", _whole(value, "<f8"))
            elif number == _TENSOR_RAW and kind in _FLOATS:
                self._numbers(f"tensor {name!r}", _whole(value, _FLOATS[kind]))
            elif number == _TENSOR_RAW and kind == _BFLOAT16:
                self._numbers(f"tensor {name!r}", _bfloat(_whole(value, "<u2")))
            elif number == _TENSOR_INTS and kind in (10, _BFLOAT16):
                half = np.array(_packed(value), "<u8").astype("<u2")
                self._numbers(f"tensor {name!r}", half.view("<f2") if kind in _FLOATS else _bfloat(half))

    def _numbers(self, who: str, values: Numbers) -> None:
        if not np.isfinite(values).all():
            what = "NaN" if np.isnan(values).any() else "infinite values"
            self.facts.faults.append(f"{who} holds {what}; weights are finite numbers")


def _signature(graph: memoryview, facts: ModelFacts) -> None:
    inputs, outputs, constants = [], [], set()
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == _GRAPH_INPUT:
            inputs.append(_tensor_facts(value))
        elif number == _GRAPH_OUTPUT:
            outputs.append(_tensor_facts(value))
        elif number == _GRAPH_INITIALIZER:
            constants.add(_texts(value, _TENSOR_NAME)[0])
    facts.inputs = tuple(tensor for tensor in inputs if tensor.name not in constants)
    facts.outputs = tuple(outputs)


def _tensor_facts(value_info: memoryview) -> TensorFacts:
    """Read a ValueInfoProto: name 1, type 2 . tensor_type 1 . (elem_type 1, shape 2 . dim 1 . (value 1, param 2))."""
    name, kind, dims = _texts(value_info, 1)[0], 0, []
    for number, value in _nested(_nested(_fields(value_info), 2), 1):
        if number == 1:
            kind = _number(value)
        elif number == 2 and isinstance(value, memoryview):
            for _, dim in _fields(value):
                known = dict(_fields(dim)) if isinstance(dim, memoryview) else {}
                size: int | str | None = None
                if 1 in known:
                    size = _number(known[1])
                elif 2 in known:
                    size = _text(known[2]) or None
                dims.append(size)
    return TensorFacts(name, DTYPES.get(kind, f"ONNX type {kind}"), tuple(dims))


def _nested(fields: Iterator[Field], wanted: int) -> Iterator[Field]:
    for number, value in fields:
        if number == wanted and isinstance(value, memoryview):
            yield from _fields(value)


def _texts(buffer: memoryview, *wanted: int) -> list[str]:
    found = dict.fromkeys(wanted, "")
    for number, value in _fields(buffer):
        if number in found:  # the last one counts, as in every reader of protobuf
            found[number] = _text(value)
    return [found[number] for number in wanted]


def _text(value: int | memoryview) -> str:
    return bytes(value).decode(errors="replace") if isinstance(value, memoryview) else ""


def _number(value: int | memoryview) -> int:
    return value if isinstance(value, int) else 0


def _whole(value: int | memoryview, dtype: str) -> Numbers:
    """Return packed numbers, without the bytes of a last one that is cut off (a runtime refuses those)."""
    data = value if isinstance(value, memoryview) else memoryview(b"")
    size = np.dtype(dtype).itemsize
    return np.frombuffer(data[: len(data) // size * size], dtype)


def _bfloat(halves: Numbers) -> Numbers:
    return (halves.astype("<u4") << 16).view("<f4")


def _packed(value: int | memoryview) -> list[int]:
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _fields(buffer: memoryview) -> Iterator[Field]:
    at = 0
    while at < len(buffer):
        key, at = _varint(buffer, at)
        number, wire = key >> 3, key & 7
        value: int | memoryview
        if wire == _VARINT:
            value, at = _varint(buffer, at)
        elif wire in (_FIXED64, _FIXED32, _BYTES):
            size = 8 if wire == _FIXED64 else 4
            if wire == _BYTES:
                size, at = _varint(buffer, at)
            if at + size > len(buffer):
                raise ValueError(f"field {number} is cut off at byte {at}")
            value, at = buffer[at : at + size], at + size
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        yield number, value


def _varint(buffer: memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while at < len(buffer) and shift < 64:
        byte = buffer[at]
        at, result, shift = at + 1, result | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            return result, at
    raise ValueError(f"a number is cut off at byte {at}")
