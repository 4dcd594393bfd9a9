"""A small writer of ONNX graphs: names, constants, checks. What a node does is ONNX's business, not ours.

    graph = GraphBuilder("bearing")
    x = graph.input("x", "f4", (1, 3, 2048))
    square = graph.node("Mul", x, x)
    graph.output("score", graph.node("ReduceMax", square, np.array([1, 2, 3]), keepdims=0), ())
    model = graph.build()

The same calls give the same bytes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.base import Array
from engines.graph.half import PINNED

# ONNX 1.13 of 2023: axes of all reductions are inputs since. ONNX Runtime 1.20, TensorRT 10 and our reference read it.
_OPSET, _IR_VERSION = 18, 8
_KINDS = {
    "f4": TensorProto.FLOAT, "u1": TensorProto.UINT8, "i4": TensorProto.INT32, "i8": TensorProto.INT64,
    "b1": TensorProto.BOOL,
}  # fmt: skip

# 16 floats are 64 bytes: the widest vectors, and what allocators align to.
_ALIKE = 16

#: Least divisor: below it a scale is no scale. 2**-100, because a quotient by it is finite up to 4e8 in float32.
LEAST = np.float32(2.0**-100)

Name = str
Number = np.generic


class Signal(NamedTuple):
    """A tensor (n, channels, length) in float32, evenly sampled."""

    name: Name
    channels: int
    length: int


class GraphBuilder:
    """Collects nodes. Tensors are names; arrays given as operands become constants, one per value."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
        self._part = ""

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> Name:
        """Add an input (n, *shape). dtype: "f4", "u1", "i4", "i8" or "b1"; a dimension that is open has a name."""
        self._inputs.append(helper.make_tensor_value_info(name, _KINDS[dtype], ["n", *shape]))
        return name

    def output(self, name: str, tensor: Name, shape: Sequence[int | str], dtype: str = "f4") -> None:
        """Call `tensor`, (n, *shape), an output named `name`."""
        self._nodes.append(helper.make_node("Identity", [tensor], [name], name=f"output {name}"))
        self._outputs.append(helper.make_tensor_value_info(name, _KINDS[dtype], ["n", *shape]))

    def node(self, operator: str, *operands: Name | Array | Number, **attributes: object) -> Name:
        """Add a node of one output and return its name."""
        names = [operand if isinstance(operand, str) else self.constant(operand) for operand in operands]
        made = f"{self._part}{operator.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, names, [made], name=made, **attributes))
        return made

    def constant(self, values: Array | Number) -> Name:
        """Return the name of a constant. Floats become float32, integers int64."""
        array = np.asarray(values)
        with np.errstate(over="ignore"):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise ValueError(f"a constant of {self._part or self.name} is not finite in float32")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"constant{len(self._constants)}")
        return str(self._constants[key].name)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Name the nodes added inside after a part, for those who read a profile. Names of parts nest."""
        outer, self._part = self._part, f"{self._part}{name}/"
        yield
        self._part = outer

    @contextmanager
    def exact(self, name: str) -> Iterator[None]:
        """As `part`; the nodes stay in float32 when a model is written in float16 (engines.graph.precision)."""
        outer, self._part = self._part, f"{PINNED}{self._part.removeprefix(PINNED)}{name}/"
        yield
        self._part = outer

    def build(self) -> bytes:
        """Return the model. Raises ValueError if what was added is no valid graph."""
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, [*self._constants.values()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ValueError(f"graph {self.name} is not valid: {error}") from error
        return bytes(model.SerializeToString(deterministic=True))


def means(graph: GraphBuilder, tensor: Name, length: int) -> Name:
    """Return the means over the last axis of `length`, (..., length) -> (..., 1).

    ONNX Runtime's ReduceMean adds in an order that depends on where in memory a row begins, modulo its vectors: rows of
    5 floats had other last bits in other batches. Rows of whole cache lines all begin alike; others are summed as a
    matrix product, which TensorRT cannot join with its neighbours (32 kernels instead of 18 for a whole front end).
    """
    if length % _ALIKE == 0:
        return graph.node("ReduceMean", tensor, np.array([-1]), keepdims=1)
    return graph.node("MatMul", tensor, np.full((length, 1), 1.0 / length))
