"""Move the matrix work of a float32 graph to float16, with the Casts that a strongly typed network needs.

Which nodes move and why: engines/graph/precision.py.
"""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from engines.base import Array

#: Names of nodes that begin so stay in float32.
PINNED = "f32/"

_MATRIX = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Follow their inputs: they move or bound numbers, or add and multiply what is of one size with its neighbours.
# Not here, though cheap: Sub (the difference of near equals is what a reconstruction error is made of).
_FOLLOWING = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Dropout", "Expand", "Flatten", "Gather", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MaxPool", "Mul", "Neg", "PRelu", "Pad", "Relu", "Reshape",
    "Sigmoid", "Slice", "Split", "Squeeze", "Tanh", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
_LIMITS = np.finfo(np.float16)


def to_half(graph: Any, kinds: dict[str, int]) -> bool:
    """Rewrite `graph` in place; False if it has no matrix work in float32. kinds: ONNX type of every tensor."""
    return _Halver(graph, kinds).run()


class _Halver:
    """Walks the nodes in order. A tensor keeps its name in float32; its float16 form has one name more.

    Each tensor is cast once, however many nodes it feeds: two Casts of one name would be an invalid graph.
    """

    def __init__(self, graph: Any, kinds: dict[str, int]) -> None:
        self._graph, self._kinds, self._nodes = graph, kinds, list[Any]()
        self._taken = set(kinds) | {n.name for n in graph.node}
        self._constants = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
        self._half: dict[str, str] = {}    # tensor -> its float16 form
        self._computed: set[str] = set()   # tensors that a node gives in float16
        self._single: set[str] = set()     # of these, the ones that were cast back

    def run(self) -> bool:
        """Move every node that may move."""
        self._name_constants()
        for node in [n for n in self._graph.node if n.op_type != "Constant" or n.output[0] not in self._constants]:
            if self._moves(node):
                node.input[:] = [self._as_half(name) if self._is_single(name) else name for name in node.input]
                for i, name in enumerate(node.output):
                    if self._is_single(name):
                        node.output[i] = self._half[name] = self._fresh(name)
                        self._computed.add(name)
            else:
                self._need_single(node.input)
            self._nodes.append(node)
        self._need_single([o.name for o in self._graph.output])
        if not self._half:
            return False
        self._write()
        return True

    def _is_single(self, name: str) -> bool:
        return self._kinds.get(name) == int(TensorProto.FLOAT)

    def _moves(self, node: Any) -> bool:
        if str(node.name).startswith(PINNED):
            return False
        if node.op_type in _MATRIX:
            return node.input[1] in self._constants and all(self._is_single(name) for name in node.input if name)
        moving = [name for name in node.input if self._is_single(name) and name not in self._constants]
        # A square doubles the exponent: 256 is the largest number whose square is a float16.
        is_square = node.op_type == "Mul" and len(set(node.input)) == 1
        return node.op_type in _FOLLOWING and not is_square and bool(moving) and self._computed.issuperset(moving)

    def _as_half(self, name: str) -> str:
        if name not in self._half:
            self._half[name] = half = self._fresh(name)
            if name in self._constants:
                values = half_constant(numpy_helper.to_array(self._constants[name]))
                self._graph.initializer.append(numpy_helper.from_array(values, half))
            else:
                self._cast(name, half, TensorProto.FLOAT16)
        return self._half[name]

    def _need_single(self, names: Any) -> None:
        for name in names:
            if name in self._computed and name not in self._single:
                self._single.add(name)
                self._cast(self._half[name], name, TensorProto.FLOAT)

    def _cast(self, given: str, made: str, kind: int) -> None:
        self._nodes.append(helper.make_node("Cast", [given], [made], name=self._fresh(f"cast {made}"), to=kind))

    def _fresh(self, name: str) -> str:
        fresh = f"{name}.f16"
        while fresh in self._taken:
            fresh += "_"
        self._taken.add(fresh)
        return fresh

    def _name_constants(self) -> None:
        """Take float32 Constant nodes as initialisers, so that there is one way to hold a constant."""
        for node in self._graph.node:
            if node.op_type != "Constant" or not self._is_single(node.output[0]):
                continue
            value = helper.get_attribute_value(node.attribute[0])
            array = numpy_helper.to_array(value) if node.attribute[0].name == "value" else np.asarray(value, "f4")
            tensor = numpy_helper.from_array(array, node.output[0])
            self._constants[tensor.name] = tensor
            self._graph.initializer.append(tensor)

    def _write(self) -> None:
        used = {name for node in self._nodes for name in node.input} | {o.name for o in self._graph.output}
        constants = [t for t in self._graph.initializer if t.name in used]
        names = {t.name for t in self._graph.initializer}
        inputs = [value for value in self._graph.input if value.name not in names]
        for field in ("node", "initializer", "input", "value_info"):
            self._graph.ClearField(field)
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(constants)
        self._graph.input.extend(inputs)


def half_constant(values: Array) -> Array:
    """Return float32 `values` in float16: finite ones stay finite, and what is not 0 stays not 0."""
    bounded = np.where(np.isfinite(values), np.clip(values, _LIMITS.min, _LIMITS.max), values)
    lost = (values != 0) & (np.abs(values) < _LIMITS.smallest_subnormal)
    return np.where(lost, np.copysign(_LIMITS.smallest_subnormal, values), bounded).astype(np.float16)
