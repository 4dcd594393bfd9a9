"""Read just enough of ONNX's protobuf encoding to see whether a model is whole.

A model may point to files beside it for its weights. Such a file would escape the hash of the bundle, and a path
in it may leave the folder. Engines get bytes and no folder, so a model that points outside is refused here, in all
nesting levels and without the `onnx` package, which a worker does not need (14 MiB resident).
"""

from collections.abc import Iterator

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
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_MODEL_GRAPH = 7
# Protobuf's own default limit of recursion: deeper input is an attack, not a model.
_MAX_DEPTH = 100
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_tensors(model: bytes) -> list[str]:
    """Name the tensors of an ONNX model whose data lies in another file.

    Raises ValueError when the bytes are no ONNX model.
    """
    buffer = memoryview(model)
    if not any(number == _MODEL_GRAPH for number, _ in _fields(buffer)):
        raise ValueError("no graph in it")
    return list(_walk(buffer, "model", 0))


def _walk(buffer: memoryview, message: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH} messages")
    if message == "tensor":
        name, outside = "", False
        for number, value in _fields(buffer):
            if number == _TENSOR_NAME and isinstance(value, memoryview):
                name = bytes(value).decode(errors="replace")
            outside |= number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)
        if outside:
            yield name
        return
    for number, value in _fields(buffer):
        nested = _NESTED[message].get(number)
        if nested and isinstance(value, memoryview):
            yield from _walk(value, nested, depth + 1)


def _fields(buffer: memoryview) -> Iterator[tuple[int, int | memoryview]]:
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
