"""Read protobuf by a schema, and nothing that another reader could take for something else.

Readers of protobuf forgive: a field of the wrong wire type is passed over, one that is there twice counts by its last
or is merged, a tag and a number are cut to their width, what is not known is skipped. Who checks bytes that another
reader will use must forgive nothing: what is left here has one meaning. Writers never make what is refused.
(https://protobuf.dev/programming-guides/encoding; the property test compares with the readers of `onnx` and ONNX
Runtime.)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: Text, a whole number, or the bytes of anything else: a message within, numbers packed or alone.
Value = int | str | memoryview

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRES = {"int64": _VARINT, "uint64": _VARINT, "int32": _VARINT, "enum": _VARINT, "double": _FIXED64,
          "float": _FIXED32}  # fmt: skip
_SIZES = {_FIXED64: 8, _FIXED32: 4}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message, by protobuf's own words. many: it is repeated."""

    name: str
    kind: str
    many: bool

    def wires(self) -> tuple[int, ...]:
        """Return the wire types that it may have: of repeated numbers also the packed one."""
        wire = _WIRES.get(self.kind, _BYTES)
        return (wire, _BYTES) if self.many else (wire,)


Message = Mapping[int, Field]


def message(*fields: str) -> Message:
    """Make a message of lines such as "5 initializer TensorProto*": number, name, kind; a star where it is repeated."""
    made = {}
    for line in fields:
        number, name, kind = line.split()
        made[int(number)] = Field(name, kind.removesuffix("*"), kind.endswith("*"))
    return made


@dataclass(slots=True)
class Reader:
    """Reads messages of a schema. left: how many fields it will still read, which bounds the time."""

    schema: Mapping[str, Message]
    left: int

    def fields(self, buffer: memoryview, kind: str) -> Iterator[tuple[str, Value]]:
        """Yield name and value of each field of a message. Raises ValueError for what can be read in two ways."""
        known, seen, at = self.schema[kind], set(), 0
        while at < len(buffer):
            tag, at = _varint(buffer, at)
            number, wire = tag >> 3, tag & 7
            field = known.get(number)
            if field is None:
                raise ValueError(f"field {number} of {kind} is none that is known here; export the model without it")
            if wire not in field.wires():
                raise ValueError(f"{field.name} of {kind} has wire type {wire}, it is {field.kind}")
            if not field.many and number in seen:
                raise ValueError(f"{field.name} of {kind} is there twice")
            seen.add(number)
            self.left -= 1
            if self.left < 0:
                raise ValueError("it has more fields than any model needs")
            if wire == _VARINT:
                whole, at = _varint(buffer, at)
                yield field.name, _whole(field, whole)
                continue
            size = _SIZES.get(wire, 0)
            if not size:
                size, at = _varint(buffer, at)
            if at + size > len(buffer):
                raise ValueError(f"{field.name} of {kind} is cut off")
            data, at = buffer[at : at + size], at + size
            yield field.name, _text(field, data) if field.kind == "string" else data


def _text(field: Field, data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{field.name} is not UTF-8") from error


def _whole(field: Field, value: int) -> int:
    """Return a number with its sign, which is that of 64 bits. Raises ValueError if its width would cut it."""
    signed = value - (1 << 64) if value >> 63 and field.kind != "uint64" else value
    if field.kind in ("int32", "enum") and not -(1 << 31) <= signed < 1 << 31:
        raise ValueError(f"{field.name} = {signed} is wider than its 32 bits")
    return signed


def _varint(buffer: memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while at < len(buffer) and shift < 64:
        byte = buffer[at]
        at, result, shift = at + 1, result | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            if result >> 64:
                break
            return result, at
    raise ValueError("a number is cut off or has more than 64 bits")
