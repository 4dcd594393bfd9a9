"""Which engine a name means on which machine, and what is said when it cannot be had."""

import subprocess
import sys

import pytest

from engines import EngineError
from engines.select import Backend, backends, choose

GPU = Backend("tensorrt", True, "Some GPU (sm_90, tensorrt 11.4)")
RTX = Backend("tensorrt_rtx", True, "Some GPU (sm_90, tensorrt_rtx 1.6)")
NO_GPU = Backend("tensorrt", False, "no NVIDIA driver (libcuda.so.1)", "Install the driver, or ")
NO_RTX = Backend("tensorrt_rtx", False, "package tensorrt_rtx missing", "Install it with pip, or ")
CPU = Backend("onnx_cpu", True, "package onnxruntime")


@pytest.mark.parametrize(("there", "name", "why"), [
    ([GPU, RTX, CPU], "tensorrt", "auto: on Some GPU (sm_90, tensorrt 11.4)"),
    ([NO_GPU, RTX, CPU], "tensorrt_rtx", "auto: on Some GPU (sm_90, tensorrt_rtx 1.6)"),
    ([NO_GPU, NO_RTX, CPU], "onnx_cpu", "auto: tensorrt: no NVIDIA driver (libcuda.so.1); tensorrt_rtx: package "
                                        "tensorrt_rtx missing"),
])
def test_auto_takes_the_first_that_can_be_had_and_says_why(there: list[Backend], name: str, why: str) -> None:
    choice = choose("auto", lambda: there)
    assert (choice.name, choice.why) == (name, why)


def test_a_named_engine_is_taken_or_refused_with_what_is_missing_and_the_setting_for_a_cpu() -> None:
    assert choose("tensorrt", lambda: [GPU, RTX, CPU]).name == "tensorrt"
    with pytest.raises(EngineError) as raised:
        choose("tensorrt", lambda: [NO_GPU, RTX, CPU])
    for part in ('engine.name = "tensorrt"', "no NVIDIA driver", "Install the driver", '[engine] name = "onnx_cpu"'):
        assert part in str(raised.value)


def test_names_of_the_cpu_ask_nobody() -> None:
    def never() -> list[Backend]:
        raise AssertionError

    assert [choose(name, never).name for name in ("onnx_cpu", "reference")] == ["onnx_cpu", "reference"]


def test_auto_without_any_engine_names_all_that_is_missing() -> None:
    with pytest.raises(EngineError, match=r"no engine can be had: tensorrt: .*; tensorrt_rtx: .*; onnx_cpu: gone"):
        choose("auto", lambda: [NO_GPU, NO_RTX, Backend("onnx_cpu", False, "gone")])


def test_looking_for_engines_imports_none_of_them_where_there_is_no_gpu() -> None:
    script = ("import sys; from engines.select import backends; found = backends(); "
              "print([b.ok for b in found], sorted({'tensorrt', 'tensorrt_rtx', 'pycuda', 'onnxruntime'} & "
              "set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    if any(b.ok for b in backends() if b.name != "onnx_cpu"):
        pytest.skip("this machine has a GPU")
    assert done.stdout.strip() == "[False, False, True] []"


def test_backends_say_what_to_install() -> None:
    absent = [b for b in backends() if not b.ok]
    assert all(b.fix.endswith(", or ") for b in absent)
