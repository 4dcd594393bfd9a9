"""The driver: what it says of devices, and that no thread or process dies of a context."""

import pytest

from engines.gpu.driver import driver_name
from tests.gpu import bed

PROBE = """
import sys
from engines import EngineError
from engines.gpu.driver import probe
from engines.gpu.memory import choose_path
try:
    info = probe()
    print(info.cc, info.driver, info.integrated, info.coherent, choose_path(info).name, info.id.cc)
except EngineError as error:
    print(error)
assert "pycuda.autoinit" not in sys.modules
"""


@pytest.fixture(autouse=True)
def _bed():
    bed.need()


@pytest.mark.parametrize(("switches", "said"), [
    ({}, "False False discrete"), ({"integrated": True}, "True False integrated"),
    ({"coherent": True}, "False True coherent"),
])  # fmt: skip
def test_memory_path_follows_the_attributes_of_the_device(switches, said):
    assert said in bed.run(PROBE, **switches).stdout


def test_absent_device_driver_and_package_are_told_with_the_setting_for_a_cpu():
    cpu = 'set [engine] name = "onnx_cpu"'
    no_device = bed.run(PROBE, no_device=True).stdout
    assert "no usable NVIDIA GPU" in no_device and "no CUDA-capable device" in no_device and cpu in no_device
    no_driver = bed.run(PROBE, driver=False).stdout
    assert "no NVIDIA driver" in no_driver and cpu in no_driver
    no_package = bed.run("import sys; sys.modules['pycuda'] = None\n" + PROBE).stdout
    assert "package pycuda" in no_package and cpu in no_package


def test_probe_leaves_no_context_behind_and_may_be_called_on_any_thread():
    out = bed.run("""
import threading
from engines.gpu.driver import probe
from tests.gpu.bed.standin import Standin
threads = [threading.Thread(target=probe) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print("contexts", Standin().counters["contexts_live"])
""").stdout
    assert out == "contexts 0\n"


@pytest.mark.parametrize("end", [
    "pass", "engine.close()", "raise SystemExit(0)", "import os; os._exit(0)",
    "del engine, view; import gc; gc.collect()",
])  # fmt: skip
@pytest.mark.parametrize("where", ["main", "thread"])
def test_process_ends_in_order_and_in_silence_however_the_engine_was_left(end, where):
    done = bed.run(f"""
import sys, threading, warnings
warnings.simplefilter("error")
from engines import load_bundle, shipped_bundles
from engines.gpu.driver import PyCudaDriver
from engines.gpu.session import TensorRtEngine
from tests.gpu.inside.conftest import chart_rows, staged
from tests.gpu.plans import planner
kept = []
def work():
    bundle = load_bundle(shipped_bundles()["anomaly-mewma"])
    engine = TensorRtEngine(bundle, planner(bundle), PyCudaDriver())
    view = staged(engine, chart_rows(1, 9))
    engine.finish(engine.begin(view)); engine.begin(view)
    kept.append(view)
    if {where == "thread"} and {end!r} == "pass":
        engine.close()
    {end}
if {where == "thread"}:
    thread = threading.Thread(target=work, daemon={"exit" in end or "del" in end}); thread.start(); thread.join(20)
else:
    work()
""", check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_context_is_one_for_all_threads_and_memory_may_be_freed_by_another():
    bed.run("""
import threading
from engines.gpu.driver import PyCudaDriver
from tests.gpu.bed.standin import Standin
standin, made = Standin(), []
def first():
    driver = PyCudaDriver(); driver.open()
    made.append(driver.pinned(4096, mapped=True)); made.append(driver.buffer(4096))
    driver.close()
def second():
    driver = PyCudaDriver(); driver.open()
    assert standin.kind(made[0].address, 4096) == 2 and standin.kind(made[1].address, 4096) == 1
    for memory in made:
        driver.free(memory)
    driver.close(); driver.close()
for work in (first, second):
    thread = threading.Thread(target=work); thread.start(); thread.join()
counted = standin.counters
assert (counted["device_live_bytes"], counted["pinned_live_bytes"], counted["errors"]) == (0, 0, 0), counted
""")


def test_builds_of_a_driver_with_one_cuda_version_have_different_plans(tmp_path):
    told = tmp_path / "version"
    for text, driver in [
            ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 10:11:16 UTC 2025\nGCC 12",
             "13000 580.95.05"),
            ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n", "13000 540.4.0"),
            ("nothing that names one\n", "13000")]:  # fmt: skip
        told.write_text(text)
        assert driver_name(13000, told) == driver
    assert driver_name(13000, tmp_path / "absent") == "13000"
