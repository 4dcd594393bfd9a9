"""A plan that needs no TensorRT: it gives back its input, by a copy on the device. For driver, slots and graphs."""

import ctypes
from pathlib import Path

from onnx import TensorProto, helper

from engines import Bundle
from engines.gpu.plan import PlanTensor
from tests import models


class CopyPlan:
    """Input x f4 (n, width), output score f4 (n, width)."""

    device_memory_bytes = 0

    def __init__(self, width: int, copies: int = 1) -> None:
        """copies: how often the copy is made; more of them keep the device busy for longer."""
        self.width, self.copies = width, copies
        self.tensors = tuple(PlanTensor(name, "f4", (-1, width), name == "x") for name in ("x", "score"))
        self.cuda = ctypes.CDLL("libcuda.so.1")

    def context(self) -> "CopyContext":
        return CopyContext(self)

    def close(self) -> None: ...


class CopyContext:
    def __init__(self, plan: CopyPlan) -> None:
        self.plan, self.rows, self.addresses = plan, 0, {}

    def set_memory(self, ptr: int, size: int) -> None: ...

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.rows = shape[0]

    def set_address(self, name: str, ptr: int) -> None:
        self.addresses[name] = ptr

    def capturable(self, stream_handle: int) -> bool:
        return True

    def enqueue(self, stream_handle: int) -> None:
        to, source = ctypes.c_uint64(self.addresses["score"]), ctypes.c_uint64(self.addresses["x"])
        size, stream = ctypes.c_size_t(self.rows * self.plan.width * 4), ctypes.c_void_p(stream_handle)
        for _ in range(self.plan.copies):
            code = self.plan.cuda.cuMemcpyDtoDAsync_v2(to, source, size, stream)
            assert code == 0, f"cuMemcpyDtoDAsync answers {code}"

    def close(self) -> None: ...


def copy_bundle(width: int) -> Bundle:
    """The model of that plan."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["score"])], "copy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", width])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return Bundle(models.spec(), Path("copy"), model.SerializeToString(), "")
