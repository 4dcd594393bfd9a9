"""The oracle: a plain NumPy evaluator of the ONNX operators that Kizashi's models use.

It shares nothing with ONNX Runtime: no graph optimiser, no fused kernels, one operator after the other as the ONNX
operator specification words it (opset 13 to 20). Slow and simple on purpose. Needs the `onnx` package.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engines.base import Array, Arrays, EngineError
from engines.bundle import Bundle
from engines.signature import Signature

_MIN_OPSET, _MAX_OPSET = 13, 20
_DTYPES = {
    onnx.TensorProto.FLOAT: "f4", onnx.TensorProto.DOUBLE: "f8",
    onnx.TensorProto.INT32: "i4", onnx.TensorProto.INT64: "i8", onnx.TensorProto.UINT8: "u1",
    onnx.TensorProto.BOOL: "b1",
}  # fmt: skip
Attributes = dict[str, Any]


class Reference:
    """Evaluates the graph node by node, one row at a time, so that a row cannot see its neighbours."""

    name = "reference"

    def __init__(self, bundle: Bundle) -> None:
        """Parse the bundle's model. Raises EngineError when it holds an operator that is not known here."""
        try:
            model = onnx.load_from_string(bundle.model)
        except Exception as error:  # protobuf's DecodeError; naming it would make protobuf a dependency of ours
            raise EngineError(f"reference: {bundle.path} is not an ONNX model: {error}") from error
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        if not _MIN_OPSET <= opset <= _MAX_OPSET:
            raise EngineError(f"reference: opset {opset} of {bundle.path}; known are {_MIN_OPSET} to {_MAX_OPSET}")
        unknown = sorted({n.op_type for n in model.graph.node if n.domain or n.op_type not in OPERATORS})
        if unknown:
            raise EngineError(f"reference: no operator {', '.join(unknown)} here; known are {', '.join(OPERATORS)}")
        self._constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._nodes = [
            (OPERATORS[n.op_type], list(n.input), n.output[0], _attributes(n)) for n in model.graph.node
        ]
        self._spec, self._open = bundle.spec, True
        self._signature = Signature.of(
            [_tensor(i) for i in model.graph.input if i.name not in self._constants],
            [_tensor(o) for o in model.graph.output],
        )
        self._signature.require(bundle.spec)
        self.inputs, self.outputs = self._signature.inputs, self._signature.outputs

    def warm_up(self, batch: int) -> None:
        """Run `batch` rows of ones."""
        self.infer(self._signature.example(self._spec, batch))

    def infer(self, inputs: Arrays) -> dict[str, Array]:
        """Run the model row by row; outputs are new arrays. Raises EngineError."""
        batch = self._signature.check(inputs)
        if not self._open:
            raise EngineError("the engine is closed")
        rows = [self._row({name: inputs[name][i : i + 1] for name in inputs}) for i in range(batch)]
        return {o.name: np.concatenate([row[o.name] for row in rows]) for o in self.outputs}

    def close(self) -> None:
        """Refuse further work; there is nothing to free."""
        self._open = False

    def _row(self, inputs: Arrays) -> dict[str, Array]:
        values: dict[str, Array] = {**self._constants, **inputs}
        try:
            # IEEE results (inf, NaN) are what the ONNX operators are defined to give: no warning, no exception.
            with np.errstate(all="ignore"):
                for operator, names, output, attributes in self._nodes:
                    values[output] = operator([values[n] for n in names if n], attributes)
        except (ValueError, IndexError, TypeError) as error:
            raise EngineError(f"reference: a row fails at the node that makes {output!r}: {error}") from error
        return values


def _tensor(value: onnx.ValueInfoProto) -> tuple[str, str, list[int | str | None]]:
    kind = value.type.tensor_type
    if kind.elem_type not in _DTYPES:
        raise EngineError(f"reference: {value.name!r} has ONNX type {kind.elem_type}, known are {sorted(_DTYPES)}")
    dims: list[int | str | None] = [
        d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim
    ]
    return value.name, _DTYPES[kind.elem_type], dims


def _attributes(node: onnx.NodeProto) -> Attributes:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _axes(x: list[Array], a: Attributes) -> tuple[int, ...] | None:
    """Axes came as an attribute before opset 13 (ReduceSum) or 18 (the other reductions), as an input since."""
    axes = x[1] if len(x) > 1 else a.get("axes")
    return None if axes is None else tuple(int(axis) for axis in axes)


def _reduce(how: Callable[..., Array]) -> Callable[[list[Array], Attributes], Array]:
    return lambda x, a: np.asarray(how(x[0], axis=_axes(x, a), keepdims=bool(a.get("keepdims", 1))), x[0].dtype)


def _reshape(x: list[Array], a: Attributes) -> Array:
    shape = [x[0].shape[i] if d == 0 and not a.get("allowzero", 0) else int(d) for i, d in enumerate(x[1])]
    return x[0].reshape(shape)


def _gemm(x: list[Array], a: Attributes) -> Array:
    left, right = (x[0].T if a.get("transA", 0) else x[0]), (x[1].T if a.get("transB", 0) else x[1])
    product: Array = (left @ right) * x[0].dtype.type(a.get("alpha", 1.0))
    return product + x[2] * x[0].dtype.type(a.get("beta", 1.0)) if len(x) > 2 else product


def _conv(x: list[Array], a: Attributes) -> Array:
    """Convolve over one axis, (n, channels, length), or the last of two, as a sum over windows of the input."""
    kernel, stride, dilation = x[1].shape[2:], a.get("strides", [1])[-1], a.get("dilations", [1])[-1]
    if len(kernel) not in (1, 2) or kernel[:-1] not in ((), (1,)) or a.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError("Conv is known over the last of one or two axes, with pads given as numbers")
    pads = a.get("pads", [0, 0])
    around = ((0, 0), *((0, 0),) * (x[0].ndim - 2), (pads[len(kernel) - 1], pads[-1]))
    span = dilation * (kernel[-1] - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x[0], around), span, axis=-1)[..., ::stride, ::dilation]
    groups = a.get("group", 1)
    weights = x[1].reshape(len(x[1]), x[1].shape[1], -1)
    parts = zip(np.split(windows, groups, axis=1), np.split(weights, groups), strict=True)
    made = np.concatenate([np.einsum("nc...k,fck->nf...", w, f) for w, f in parts], axis=1)
    bias = x[2].reshape(-1, *(1,) * len(kernel)) if len(x) > 2 else 0
    return np.asarray(made + bias, x[0].dtype)


def _average_pool(x: list[Array], a: Attributes) -> Array:
    """Average over one axis, (n, channels, length); what was padded counts only if it is to."""
    kernel, pads = a["kernel_shape"], tuple(a.get("pads", [0, 0]))
    if len(kernel) != 1 or a.get("ceil_mode", 0) or a.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError("AveragePool is known over one axis, with pads given as numbers")
    counted = np.pad(np.ones(x[0].shape[2]), pads, constant_values=float(a.get("count_include_pad", 0)))
    padded = np.pad(x[0], ((0, 0), (0, 0), pads)).astype(np.float64)
    total, count = (np.lib.stride_tricks.sliding_window_view(v, kernel[0], axis=-1)[..., :: a.get("strides", [1])[0], :]
                    .sum(axis=-1) for v in (padded, counted))  # fmt: skip
    return np.asarray(total / count, x[0].dtype)


def _top_k(x: list[Array], a: Attributes) -> Array:
    """Return the values of TopK, largest first; nothing here reads its indices."""
    axis = a.get("axis", -1)
    made = np.sort(x[0], axis=axis)
    made = np.flip(made, axis) if a.get("largest", 1) else made
    return np.take(made, range(int(x[1].reshape(-1)[0])), axis=axis)


def _slice(x: list[Array], a: Attributes) -> Array:
    """Clamp as ONNX words it, which for negative steps is not as NumPy does."""
    axes = x[3] if len(x) > 3 else range(len(x[1]))
    steps = x[4] if len(x) > 4 else [1] * len(x[1])
    made = x[0]
    for axis, start, end, step in zip(axes, x[1], x[2], steps, strict=True):
        size = x[0].shape[axis]
        first, last = (int(at + size if at < 0 else at) for at in (start, end))
        low, high = (0, size) if step > 0 else (-1, size - 1)
        made = np.take(made, range(min(max(first, 0), high), min(max(last, low), high), int(step)), axis=int(axis))
    return made


def _softmax(x: list[Array], a: Attributes) -> Array:
    powers = np.exp(x[0] - x[0].max(axis=a.get("axis", -1), keepdims=True))
    return np.asarray(powers / powers.sum(axis=a.get("axis", -1), keepdims=True))


def _pad(x: list[Array], a: Attributes) -> Array:
    """Put a constant before and behind, on all axes (the input `axes` of opset 18 is not known here)."""
    if a.get("mode", b"constant") != b"constant" or len(x) > 3:
        raise ValueError("Pad is known with a constant, on all axes")
    value = x[2].item() if len(x) > 2 else 0
    return np.pad(x[0], list(zip(x[1][: x[0].ndim], x[1][x[0].ndim :], strict=True)), constant_values=value)


def _unsqueeze(x: list[Array], a: Attributes) -> Array:
    return np.expand_dims(x[0], _axes(x, a) or ())


#: ONNX operator -> its meaning. Grown only for a bundle that ships or a model that a test needs.
OPERATORS: dict[str, Callable[[list[Array], Attributes], Array]] = {
    "Add": lambda x, _: x[0] + x[1],
    "Sub": lambda x, _: x[0] - x[1],
    "Mul": lambda x, _: x[0] * x[1],
    "Div": lambda x, _: x[0] / x[1],
    "Pow": lambda x, _: np.power(x[0], x[1]).astype(x[0].dtype),
    "Max": lambda x, _: reduce(np.maximum, x),
    "Min": lambda x, _: reduce(np.minimum, x),
    "Clip": lambda x, _: np.clip(x[0], *x[1:]),
    "Abs": lambda x, _: np.abs(x[0]),
    "Neg": lambda x, _: -x[0],
    "Sqrt": lambda x, _: np.sqrt(x[0]),
    "Exp": lambda x, _: np.exp(x[0]),
    "Log": lambda x, _: np.log(x[0]),
    "Relu": lambda x, _: np.maximum(x[0], 0),
    "Sigmoid": lambda x, _: 1 / (1 + np.exp(-x[0])),
    "Tanh": lambda x, _: np.tanh(x[0]),
    "Softmax": _softmax,
    "Identity": lambda x, _: x[0],
    "Cast": lambda x, a: x[0].astype(_DTYPES[a["to"]]),
    "MatMul": lambda x, _: x[0] @ x[1],
    "Gemm": _gemm,
    "Conv": _conv,
    "Concat": lambda x, a: np.concatenate(x, axis=a["axis"]),
    "Slice": _slice,
    "Gather": lambda x, a: np.take(x[0], x[1], axis=a.get("axis", 0)),
    "GatherElements": lambda x, a: np.take_along_axis(x[0], x[1], axis=a.get("axis", 0)),
    "TopK": _top_k,
    "AveragePool": _average_pool,
    "Expand": lambda x, _: np.broadcast_to(x[0], np.broadcast_shapes(x[0].shape, tuple(x[1].tolist()))),
    "Floor": lambda x, _: np.floor(x[0]),
    "Softplus": lambda x, _: np.logaddexp(x[0], x[0].dtype.type(0)),
    "And": lambda x, _: np.logical_and(x[0], x[1]),
    "Greater": lambda x, _: x[0] > x[1],
    "Less": lambda x, _: x[0] < x[1],
    "LessOrEqual": lambda x, _: x[0] <= x[1],
    "GreaterOrEqual": lambda x, _: x[0] >= x[1],
    "Equal": lambda x, _: x[0] == x[1],
    "Or": lambda x, _: x[0] | x[1],
    "IsNaN": lambda x, _: np.isnan(x[0]),
    "Where": lambda x, _: np.where(x[0], x[1], x[2]),
    "ReduceSum": _reduce(np.sum),
    "ReduceMean": _reduce(np.mean),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "Reshape": _reshape,
    "Pad": _pad,
    "Transpose": lambda x, a: np.transpose(x[0], a.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Squeeze": lambda x, a: np.squeeze(x[0], _axes(x, a)),
}
