"""The reference's operators against ONNX Runtime's, one at a time: two readings of ONNX's words that share no code."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from engines.reference import OPERATORS
from tests.unit.engines.graph.evaluate import by_reference, run

KINDS = {"f4": TensorProto.FLOAT, "f8": TensorProto.DOUBLE, "i8": TensorProto.INT64, "b1": TensorProto.BOOL}


def both(
    operator: str, inputs: list[np.ndarray], opset: int = 18, out: str | None = None, **attributes: object
) -> tuple[np.ndarray, np.ndarray]:
    """Return what ONNX Runtime and the reference make of one node. out: dtype, none: that of the first input."""
    names = [f"x{i}" for i in range(len(inputs))]
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], **attributes)], "one",
        [helper.make_tensor_value_info(n, KINDS[x.dtype.str[1:]], x.shape) for n, x in zip(names, inputs, strict=True)],
        [helper.make_tensor_value_info("y", KINDS[out or inputs[0].dtype.str[1:]], None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()
    rows = dict(zip(names, inputs, strict=True))
    return run(model, rows)["y"], by_reference(model, rows)["y"]


def agree(*arguments: object, **options: object) -> None:
    ours, oracle = both(*arguments, **options)
    assert ours.dtype == oracle.dtype and ours.shape == oracle.shape
    np.testing.assert_allclose(ours, oracle, rtol=1e-5, atol=1e-6)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("f4")


@given(
    batch=st.integers(1, 3), groups=st.integers(1, 3), inputs=st.integers(1, 3), outputs=st.integers(1, 3),
    taps=st.integers(1, 6), stride=st.integers(1, 3), dilation=st.integers(1, 3),
    pads=st.tuples(*[st.integers(0, 4)] * 2), has_bias=st.booleans(),
)  # fmt: skip
@settings(max_examples=60)
def test_conv_of_any_stride_padding_dilation_and_groups(
    batch, groups, inputs, outputs, taps, stride, dilation, pads, has_bias
):
    operands = [normal(batch, groups * inputs, 30), normal(groups * outputs, inputs, taps)]
    agree("Conv", operands + [normal(groups * outputs)] * has_bias, strides=[stride], dilations=[dilation],
          pads=list(pads), group=groups)  # fmt: skip


@given(
    cuts=st.lists(st.tuples(st.integers(-12, 12), st.integers(-12, 12), st.sampled_from([-2, -1, 1, 2])), min_size=1,
                  max_size=3),
    data=st.data(),
)  # fmt: skip
@settings(max_examples=60)
def test_slice_from_any_start_to_any_end_either_way(cuts, data):
    axes = data.draw(st.permutations([0, -2, 2]))[: len(cuts)]
    starts, ends, steps = (np.array(column, "i8") for column in zip(*cuts, strict=True))
    agree("Slice", [normal(5, 7, 9), starts, ends, np.array(axes, "i8"), steps])


@pytest.mark.parametrize("operator", ["Abs", "Exp", "Floor", "Identity", "Neg", "Relu", "Sigmoid", "Softplus", "Tanh"])
def test_operators_of_one_operand(operator):
    agree(operator, [np.concatenate([normal(100) * 5, np.array([0, -0.0, 80, -80], "f4")])])


@pytest.mark.parametrize("operator", ["Sqrt", "Log"])
def test_operators_of_a_number_above_zero(operator):
    agree(operator, [np.concatenate([np.abs(normal(100)), np.array([0, 1e-30, 1e30], "f4")])])


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_operators_of_two_operands_broadcast(operator):
    agree(operator, [normal(4, 1, 5), normal(3, 1)])


@pytest.mark.parametrize("operator", ["Greater", "Less", "LessOrEqual", "GreaterOrEqual", "Equal"])
def test_comparisons_are_false_for_what_is_no_number(operator):
    left, right = np.array([1, 2, 3, np.nan, 1], "f4"), np.array([1, 3, 2, 1, np.nan], "f4")
    ours, oracle = both(operator, [left, right], out="b1")
    assert ours.tolist() == oracle.tolist() and not ours[3:].any()


def test_and_of_two_masks():
    agree("And", [np.array([True, True, False, False]), np.array([True, False, True, False])])


@pytest.mark.parametrize("inside", [0, 1])
@pytest.mark.parametrize(("kernel", "stride", "pads"), [(1, 1, [0, 0]), (5, 1, [2, 2]), (4, 3, [0, 3]), (9, 2, [8, 0])])
def test_average_pool_of_any_stride_and_padding(kernel, stride, pads, inside):
    agree("AveragePool", [normal(2, 3, 20)], kernel_shape=[kernel], strides=[stride], pads=pads,
          count_include_pad=inside)  # fmt: skip


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("largest", [0, 1])
def test_the_values_of_top_k(axis, largest):
    names, x = ["x", "k"], {"x": normal(2, 6, 5), "k": np.array([3], "i8")}
    graph = helper.make_graph(
        [helper.make_node("TopK", names, ["y", "at"], axis=axis, largest=largest)], "one",
        [helper.make_tensor_value_info(n, KINDS[v.dtype.str[1:]], v.shape) for n, v in x.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    np.testing.assert_array_equal(run(model, x)["y"], by_reference(model, x)["y"])


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_elements_are_gathered_along_an_axis(axis):
    agree("GatherElements", [normal(3, 4, 5), np.random.default_rng(0).integers(0, 3, (3, 4, 5))], axis=axis)


@pytest.mark.parametrize("shape", [[3, 4, 5], [1, 4, 1], [2, 3, 4, 5]])
def test_expand_broadcasts_both_ways(shape):
    agree("Expand", [normal(3, 1, 5), np.array(shape, "i8")])


def test_what_is_no_number_is_found_and_either_of_two_is_enough():
    ours, oracle = both("IsNaN", [np.array([1, np.nan, np.inf, -np.inf], "f8")], out="b1")
    assert ours.tolist() == oracle.tolist() == [False, True, False, False]
    agree("Or", [np.array([True, True, False, False]), np.array([True, False, True, False])])


@pytest.mark.parametrize("value", [None, 2.5])
def test_padding_before_and_behind(value):
    agree("Pad", [normal(3, 4), np.array([0, 2, 1, 0], "i8"), *([np.array(value, "f4")] if value else [])])


def test_power_keeps_the_type_of_its_base():
    agree("Pow", [np.abs(normal(20)), np.array([2, 3], "i8").repeat(10)])


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax_along_an_axis_of_large_numbers(axis):
    agree("Softmax", [normal(3, 4, 5) * 100], axis=axis)


@pytest.mark.parametrize("axis", [-1, 0, 2])
def test_concat_along_an_axis(axis):
    agree("Concat", [normal(3, 4, 5), normal(3, 4, 5)], axis=axis)


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [13, 18])
def test_reductions_take_their_axes_as_each_opset_gives_them(operator, keepdims, opset):
    if opset < 18 and operator != "ReduceSum":
        agree(operator, [normal(3, 4, 5)], opset, axes=[-1, 0], keepdims=keepdims)
    else:
        agree(operator, [normal(3, 4, 5), np.array([-1, 0], "i8")], opset, keepdims=keepdims)


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_along_the_last_of_two_axes(stride):
    agree("Conv", [normal(2, 3, 4, 10), normal(5, 3, 1, 3), normal(5)], strides=[1, stride], pads=[0, 1, 0, 1])


def test_conv_over_two_axes_is_said_to_be_unknown():
    with pytest.raises(ValueError, match="over the last of one or two axes"):
        OPERATORS["Conv"]([normal(1, 1, 4, 4), normal(1, 1, 2, 2)], {})


def test_every_operator_here_is_one_of_onnx():
    assert all(onnx.defs.has(name) for name in OPERATORS)
