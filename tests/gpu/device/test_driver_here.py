"""Driver, memory, slots and graphs on this machine's GPU. No TensorRT is needed for any of this."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from engines import EngineError
from engines.gpu.driver import PyCudaDriver, probe
from engines.gpu.memory import choose_path
from engines.gpu.session import Lending, TensorRtEngine
from tests.gpu.device.doubleplan import CopyPlan, copy_bundle

ROOT = Path(__file__).resolve().parents[3]
WIDTH = 6144  # 3 x 2048 float32, 24 KiB a row

# A kernel that writes to no memory of anybody: the one error that no driver call can be talked into.
STICKY = r'''
import ctypes
import numpy as np
from engines import EngineError, EngineLost
from engines.gpu.driver import PyCudaDriver
from engines.gpu.session import TensorRtEngine
from tests.gpu.device.doubleplan import CopyPlan, copy_bundle
PTX = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry wild() { .reg .b64 %a; .reg .b32 %v; mov.u64 %a, 64; mov.u32 %v, 1; st.global.u32 [%a], %v; ret; }
\0"""
class Wild(CopyPlan):
    armed = False
    def context(self):
        made = super().context()
        plain = made.enqueue
        def enqueue(handle):
            plain(handle)
            if Wild.armed:
                module, function = ctypes.c_void_p(), ctypes.c_void_p()
                assert self.cuda.cuModuleLoadData(ctypes.byref(module), PTX) == 0
                assert self.cuda.cuModuleGetFunction(ctypes.byref(function), module, b"wild") == 0
                one, none = ctypes.c_uint(1), ctypes.c_uint(0)
                assert self.cuda.cuLaunchKernel(function, one, one, one, one, one, one, none, ctypes.c_void_p(handle),
                                                None, None) == 0
        made.enqueue = enqueue
        made.capturable = lambda handle: False
        return made
engine = TensorRtEngine(copy_bundle(16), lambda dims: Wild(16), PyCudaDriver())
rows = {"x": np.ones((4, 16), "f4")}
assert (engine.infer(rows)["score"] == 1).all()
Wild.armed = True
try:
    engine.infer(rows)
    raise SystemExit("no error")
except EngineLost as error:
    print(error)
try:
    engine.infer(rows)
    raise SystemExit("served after a sticky error")
except EngineLost:
    pass
engine.close()
try:
    PyCudaDriver()
    raise SystemExit("opened after a sticky error")
except EngineError:
    pass
print("closed")
'''


def rows_of(seed: int, n: int = 256) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(n, WIDTH)).astype("f4")}


def open_copy(copies: int = 1, **options) -> TensorRtEngine:
    return TensorRtEngine(copy_bundle(WIDTH), lambda dims: CopyPlan(WIDTH, copies), PyCudaDriver(), **options)


@pytest.fixture(autouse=True)
def _gpu(gpu):
    """All of this needs one."""


def test_device_says_what_it_is_and_the_memory_path_follows(say):
    info = probe()
    say(f"{info}\nmemory path: {choose_path(info).name}")
    assert info.memory_bytes > 1 << 30
    assert info.cc >= (7, 5)
    assert info.driver >= 12000


def test_rows_come_back_in_order_and_whole_with_batches_in_flight_and_by_graphs(say):
    engine = open_copy()
    batches = [rows_of(seed, n) for seed, n in enumerate((256, 1, 7, 100, 256, 33, 8, 200, 256))]
    views = []
    for batch in batches:
        arrays = engine.staging({"x": (WIDTH,)}, 256)
        assert arrays.pinned
        view = arrays.arrays["x"][: len(batch["x"])]
        view[:] = batch["x"]
        views.append({"x": view})
    tickets, got = [], []
    for view in views:
        if len(tickets) - len(got) == engine.depth:
            got.append(engine.finish(tickets[len(got)])["score"].copy())
        tickets.append(engine.begin(view))
    got += [engine.finish(ticket)["score"].copy() for ticket in tickets[len(got):]]
    say(f"graphs: {engine.captured}; rows copied on the host: {engine.copied_rows}")
    assert engine.captured == "yes"
    assert engine.copied_rows == 0
    engine.close()
    for mine, batch in zip(got, batches, strict=True):
        assert mine.tobytes() == batch["x"].tobytes()


def test_slots_in_flight_from_one_to_four(say):
    """Copies of one batch run beside the work of another: more than one slot must not be slower than one."""
    rates = {}
    for depth in (1, 2, 3, 4):
        engine = open_copy(copies=8, depth=depth)
        views = [engine.staging({"x": (WIDTH,)}, 256).arrays for _ in range(depth + 1)]
        rounds, tickets = 300, []
        for i in range(rounds + 20):
            if i == 20:
                start = time.perf_counter()
            if len(tickets) == depth:
                engine.finish(tickets.pop(0))
            tickets.append(engine.begin(views[i % len(views)]))
        for ticket in tickets:
            engine.finish(ticket)
        rates[depth] = 256 * rounds / (time.perf_counter() - start)
        engine.close()
    say("slots: rows/s  " + "  ".join(f"{depth}: {rate:,.0f}" for depth, rate in rates.items()))
    assert max(rates[2], rates[3]) > 0.9 * rates[1]


def test_pinned_rows_reach_the_device_faster_than_pageable_ones(say):
    engine = open_copy()
    view = {"x": engine.staging({"x": (WIDTH,)}, 256).arrays["x"]}
    view["x"][:] = 1
    plain, times = rows_of(1), {}
    for name, rows in (("staged", view), ("elsewhere", plain)):
        taken = []
        for _ in range(60):
            start = time.perf_counter()
            engine.finish(engine.begin(rows))
            taken.append(time.perf_counter() - start)
        times[name] = float(np.median(taken)) * 1e6
    h2d = float(np.median([engine.profile(view)[0] for _ in range(60)]))
    engine.close()
    rate = f", {view['x'].nbytes / h2d / 1e9:.1f} GB/s" if h2d > 0 else ""
    say(f"256 rows of 24 KiB: staged {times['staged']:.0f} us, from elsewhere {times['elsewhere']:.0f} us{rate}")
    assert times["staged"] < times["elsewhere"]


def test_memory_that_is_not_there_is_an_error_and_the_engine_goes_on(say):
    engine = open_copy(lending=Lending(sets=1))
    engine.infer(rows_of(2, 4))
    huge = TensorRtEngine(copy_bundle(WIDTH), lambda dims: Hungry(WIDTH), PyCudaDriver())
    with pytest.raises(EngineError, match="memory") as told:
        huge.infer(rows_of(2, 4))
    say(str(told.value))
    huge.close()
    assert engine.infer(rows_of(3, 4))["score"].tobytes() == rows_of(3, 4)["x"].tobytes()
    engine.close()


class Hungry(CopyPlan):
    """Wants more scratch memory than any device has."""

    device_memory_bytes = 1 << 44


def test_illegal_access_on_the_device_loses_the_engine_and_not_the_process(say):
    command = [sys.executable, "-c", STICKY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    say(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "restart the worker" in done.stdout and done.stdout.endswith("closed\n")
    assert done.stderr == ""
