"""No bytes are one model to the check and another to a runtime: what `read_model` passes, all readers read alike.

Models are broken as an attacker would break them: fields of other wire types, tags and numbers that are too wide, what
is there twice, hidden, moved, cut, and bytes changed anywhere. The readers are those of `onnx` and of ONNX Runtime.
"""

import copy
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import event, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engines.ops import OPERATORS
from engines.wire import DTYPES, ModelFacts, read_model

FOUR, EIGHT = struct.pack("<f", np.nan), struct.pack("<d", np.nan)
OUTSIDE = onnx.StringStringEntryProto(key="location", value="/etc/hostname").SerializeToString()
#: A node and a tensor that are refused, and texts that name such an operator or hide its name.
BAD_NODE = helper.make_node("Hardmax", ["x"], ["bad"]).SerializeToString()
BAD_TENSOR = onnx.TensorProto(name="w", data_type=1, dims=[1], raw_data=FOUR).SerializeToString()
TEXTS = [b"", b"Relu", b"Hardmax", b"Loop", b"com.microsoft", b"ai.onnx", b"x", b"\xff", b"w", FOUR, EIGHT, OUTSIDE,
         BAD_NODE, BAD_TENSOR, b"\x08\x01", b"\x0a\x00"]  # fmt: skip
NUMBERS = [0, 1, 2, 10, 13, 16, 0x7E00, 1 << 16, 1 << 31, (1 << 32) + 1, (1 << 63) + 1, (1 << 64) - 1, 1 << 64]


class Item:
    """A field as it lies in the bytes: number, wire type, and bytes or fields within; wide: bits over the tag's 32."""

    def __init__(self, number: int, wire: int, value: "bytes | list[Item]", wide: int = 0) -> None:
        self.number, self.wire, self.value, self.wide = number, wire, value, wide

    def bytes(self) -> bytes:
        body = b"".join(map(Item.bytes, self.value)) if isinstance(self.value, list) else self.value
        tag = varint(self.number << 3 | self.wire | self.wide << 32)
        return tag + (varint(len(body)) if self.wire == 2 else b"") + body


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def taken_apart(part: Message) -> list[Item]:
    """Return the fields of a message, each alone, in the order of their numbers."""
    items = []
    for field, value in part.ListFields():
        for one in value if field.is_repeated else [value]:
            if field.message_type is not None:
                items.append(Item(field.number, 2, taken_apart(one)))
            elif isinstance(one, str | bytes):
                items.append(Item(field.number, 2, one.encode() if isinstance(one, str) else one))
            elif isinstance(one, float):
                double = field.cpp_type == field.CPPTYPE_DOUBLE
                items.append(Item(field.number, 1 if double else 5, struct.pack("<d" if double else "<f", one)))
            else:
                items.append(Item(field.number, 0, varint(one % (1 << 64))))
    return items


def small() -> onnx.ModelProto:
    """Make a model that has a field of every sort: weights of four kinds, attributes, types, texts."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "w"], ["a"], name="add"),
            helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.5, doc_string="text"),
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(2, "f4"))),
            helper.make_node("Mul", ["b", "c"], ["d"]),
            helper.make_node("Transpose", ["d"], ["score"], perm=[0, 1]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]),
         helper.make_tensor("unused", TensorProto.DOUBLE, [1], [1.0]),
         helper.make_tensor("half", TensorProto.FLOAT16, [3], [1.0, 0.0, -np.inf])],
        value_info=[helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 2])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def messages(items: list[Item]) -> Iterator[list[Item]]:
    yield items
    for item in items:
        if isinstance(item.value, list):
            yield from messages(item.value)


def alien(rng: Random) -> Item:
    """Make a field that may be wrong in its number, wire type, width or content."""
    wire = rng.choice([2, 2, 2, 0, 0, 5, 1, 3])
    value = {0: varint(rng.choice(NUMBERS)), 1: EIGHT, 2: rng.choice(TEXTS), 3: b"",
             5: rng.choice([FOUR, b"Relu", b"\1\0\0\0"])}[wire]
    return Item(rng.randint(0, 26), wire, value, rng.choice([0, 0, 0, 1, 2]))


def broken(seed: int) -> bytes:
    """Return the bytes of a model with one to three changes."""
    rng, whole = Random(seed), taken_apart(small())
    for _ in range(rng.randint(1, 3)):
        fields = rng.choice([fields for fields in messages(whole) if fields])
        at, to, stranger = rng.randrange(len(fields)), rng.randint(0, len(fields)), alien(rng)
        change = rng.choice(["add", "as another", "again", "move", "drop", "wide", "rename"])
        if change == "add":
            fields.insert(to, stranger)
        elif change == "as another":  # the number of a known field, all else of a stranger
            fields.insert(to, Item(fields[at].number, stranger.wire, stranger.value, stranger.wide))
        elif change == "again":
            fields.insert(to, copy.deepcopy(fields[at]))
        elif change == "move":
            fields.insert(min(to, len(fields) - 1), fields.pop(at))
        elif change == "drop":
            del fields[at]
        elif change == "wide":
            fields[at].wide = rng.choice([1, 2, 1 << 31])
        elif fields[at].wire == 2:
            fields[at].value = rng.choice(TEXTS)
        elif fields[at].wire == 0:
            fields[at].value = varint(rng.choice(NUMBERS))
    data = bytearray(b"".join(map(Item.bytes, whole)))
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def seen_by_onnx(part: Message, found: list[Message]) -> list[Message]:
    """Return a message and all within, each of which has nothing that `onnx` does not know."""
    assert len(UnknownFieldSet(part)) == 0
    found.append(part)
    for field, value in part.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                seen_by_onnx(one, found)
    return found


def signature(values: list[onnx.ValueInfoProto]) -> list[tuple[str, str, tuple[int | str | None, ...]]]:
    return [(v.name, DTYPES.get(v.type.tensor_type.elem_type, f"ONNX type {v.type.tensor_type.elem_type}"), tuple(
        d.dim_value if d.WhichOneof("value") == "dim_value" else d.dim_param or None
        for d in v.type.tensor_type.shape.dim)) for v in values]


def alike(model: onnx.ModelProto, facts: ModelFacts) -> None:
    """Check that `onnx` reads what `read_model` did, and nothing that it would have refused."""
    parts = seen_by_onnx(model, [])
    nodes = [p for p in parts if isinstance(p, onnx.NodeProto)]
    assert len(nodes) == facts.nodes
    assert all(n.domain in ("", "ai.onnx") and n.op_type in OPERATORS for n in nodes)
    assert not model.functions and not model.graph.quantization_annotation
    assert not any(n.overload for n in nodes)
    assert not any(isinstance(p, onnx.SparseTensorProto) for p in parts)
    for tensor in (p for p in parts if isinstance(p, onnx.TensorProto)):
        assert not tensor.external_data and tensor.data_location == TensorProto.DEFAULT
        assert not np.isnan(tensor.float_data).any() and not np.isnan(tensor.double_data).any()
        if tensor.data_type in (10, 16):
            assert all(0 <= bits <= 0xFFFF for bits in tensor.int32_data)
            bits, nan = np.array(tensor.int32_data, "u4"), 0x7C00 if tensor.data_type == 10 else 0x7F80
            assert not ((bits & 0x7FFF) > nan).any()
        if tensor.data_type in (1, 10, 11) and tensor.raw_data:
            dtype = {1: "<f4", 10: "<f2", 11: "<f8"}[tensor.data_type]
            usable = len(tensor.raw_data) // np.dtype(dtype).itemsize * np.dtype(dtype).itemsize
            assert not np.isnan(np.frombuffer(tensor.raw_data[:usable], dtype)).any()
    constants = {t.name for t in model.graph.initializer}
    assert [(t.name, t.dtype, t.dims) for t in facts.inputs] == [
        t for t in signature(list(model.graph.input)) if t[0] not in constants]
    assert [(t.name, t.dtype, t.dims) for t in facts.outputs] == signature(list(model.graph.output))
    assert [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")] == [facts.opset]


def seen_by_runtime(data: bytes, folder: Path) -> onnx.ModelProto | None:
    """Return what ONNX Runtime takes the bytes for, as it writes it down; None if it refuses them."""
    options, out = ort.SessionOptions(), folder / "seen.onnx"
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(out)
    try:
        ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception:  # its status codes have no base but this
        return None
    return onnx.load(out)


def check(data: bytes) -> str:
    """Check one model and say how it went."""
    try:
        facts = read_model(data)
    except ValueError:
        return "refused: no clear meaning"
    if facts.faults:
        return "refused: faults"
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        model = None
    else:
        alike(model, facts)
    with TemporaryDirectory() as folder:
        ran = seen_by_runtime(data, Path(folder))
    if ran is None:
        return "passed, the runtime refuses it"
    assert model is not None
    assert all(n.domain in ("", "ai.onnx") and n.op_type in OPERATORS for n in ran.graph.node)
    ops = sorted(n.op_type for n in model.graph.node if n.op_type != "Constant")  # those become weights there
    assert sorted(n.op_type for n in ran.graph.node) == ops
    assert [i.name for i in ran.graph.input] == [t.name for t in facts.inputs]
    assert [o.name for o in ran.graph.output] == [t.name for t in facts.outputs]
    return "passed, the runtime runs it"


def test_model_that_nobody_broke_is_passed_and_run():
    assert check(b"".join(map(Item.bytes, taken_apart(small())))) == "passed, the runtime runs it"


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 1 << 32))
def test_what_is_passed_is_the_model_that_every_reader_sees(seed):
    event(check(broken(seed)))
