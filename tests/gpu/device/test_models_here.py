"""Shipped bundles on this machine's GPU by its TensorRT: parity, graphs, latency per size, rate end to end."""

import time

import numpy as np
import pytest

from engines import EngineError, load_bundle, open_engine
from engines.gpu.driver import PyCudaDriver
from engines.gpu.session import TensorRtEngine
from engines.measure import measure, sample_rows
from engines.parity import compare
from engines.trust import TrustPolicy
from pipeline import parity
from pipeline.cli.modelsbench import table
from pipeline.enginethread import EngineThread
from tests.bench.models import HOP, NO_LIMIT, SAMPLES, save_bundle
from tests.gpu.framesflow import FramesFlow, polls
from tests.gpu.plans import planner, session

ROWS = 256
#: 512 frames of each asset of W1: a second or so of work.
FRAMES = 102_400


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_every_bundle_keeps_its_decisions_on_this_device(bundle, tensorrt, say, precision):
    with session(bundle, precision=precision, name=tensorrt) as engine:
        report = compare(engine, bundle, parity, ROWS)
        farthest = ", ".join(f"{name} {share:.3g}" for name, share in report.worst.items())
        say(f"{bundle.spec.name} {tensorrt} {precision}: {report.rows} rows, farthest in tolerances: {farthest}, "
            f"{len(report.near)} too near to count, {'ok' if report.ok else report.why()}; graphs {engine.captured}")
    # Whether a model bears float16 is for its golden vectors to say: told here, asked for in float32.
    assert report.ok or precision == "f16", report.why()


def test_launches_are_captured(bundle, tensorrt, say):
    with session(bundle, name=tensorrt) as engine:
        rows = sample_rows(engine.inputs, bundle, 64)
        engine.infer(rows)
        say(f"{bundle.spec.name}: graphs {engine.captured}, memory {engine.path}")
        assert engine.captured == "yes"


def test_row_alone_is_within_tolerance_of_the_row_in_any_batch(bundle, tensorrt):
    """Another bucket may use another kernel: equal bits are not promised on a GPU, the bundle's tolerance is."""
    with session(bundle, name=tensorrt) as engine:
        rows = sample_rows(engine.inputs, bundle, ROWS)
        whole = {name: np.array(a) for name, a in engine.infer(rows).items()}
        for n in (1, 7, 33, 100):
            part = engine.infer({name: a[:n] for name, a in rows.items()})
            for name, array in part.items():
                allowed = bundle.spec.golden.tolerance.get(name)
                rtol, atol = (allowed.rel, allowed.abs) if allowed else (1e-5, 1e-5)
                np.testing.assert_allclose(array, whole[name][:n], rtol=2 * rtol, atol=2 * atol)


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_latency_per_size_beside_onnx_runtime(bundle, tensorrt, say, precision):
    with session(bundle, precision=precision, name=tensorrt) as engine:
        rows = measure(engine, bundle, time.perf_counter, rounds=300)
        say(f"{bundle.spec.name} on {tensorrt} {precision}, us\n" + "\n".join(table(rows)))
    if precision == "f32":
        cpu = open_engine("onnx_cpu", bundle)
        say(f"{bundle.spec.name} on onnx_cpu, one thread, us\n"
            + "\n".join(table(measure(cpu, bundle, time.perf_counter, rounds=100))))
        cpu.close()
    assert all(row.rows_per_s > 0 for row in rows)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_rate_with_one_to_four_slots(bundle, tensorrt, say, depth):
    with session(bundle, name=tensorrt, depth=depth) as engine:
        (row,) = measure(engine, bundle, time.perf_counter, (ROWS,), rounds=300)
        say(f"{bundle.spec.name}, {depth} in flight: {row.rows_per_s:,.0f} rows/s, "
            f"queue p50 {row.stages['queue'].p50:.0f} us")
        assert engine.depth == row.depth == depth


def test_frames_end_to_end_against_the_engines_own_rate(tensorrt, say, tmp_path):
    """What the worker adds to workload W1: decoding, rings, batches gathered beside the engine, results judged."""
    bundle = load_bundle(save_bundle(tmp_path, "onnx", NO_LIMIT["onnx"]), TrustPolicy(allow_unsigned=True))
    with session(bundle, name=tensorrt) as engine:
        (alone,) = measure(engine, bundle, time.perf_counter, (ROWS,), rounds=300)
    plan_for = planner(bundle)
    thread = EngineThread(lambda: TensorRtEngine(bundle, plan_for, PyCudaDriver(), name=tensorrt), ROWS)
    thread.start(60)
    try:
        flow = FramesFlow(bundle, thread, ROWS)
        flow.run(polls(FRAMES))
        sent = list(polls(FRAMES, FRAMES))
        start = time.perf_counter()
        rows = flow.run(sent)
        took = time.perf_counter() - start
    finally:
        assert thread.close(20)
    say(f"W1: {FRAMES / took:,.0f} frames/s and {rows / took:,.0f} rows/s end to end, the engine's own "
        f"{alone.rows_per_s:,.0f} rows/s")
    assert rows == FRAMES * SAMPLES // HOP  # every frame brings half a window


def test_row_shape_of_another_model_is_refused_and_the_engine_goes_on(bundle, tensorrt):
    with session(bundle, name=tensorrt) as engine:
        rows = sample_rows(engine.inputs, bundle, 4)
        first = next(iter(rows))
        with pytest.raises(EngineError, match=f"input '{first}'"):
            engine.infer({**rows, first: rows[first].astype("f8")})
        assert len(next(iter(engine.infer(rows).values()))) == 4
