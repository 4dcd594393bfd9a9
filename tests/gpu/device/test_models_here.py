"""Shipped bundles on this machine's GPU by its TensorRT: parity, graphs, latency per size, rate end to end."""

import queue
import time

import numpy as np
import pytest

from engines import Bundle, EngineError, open_engine
from engines.base import Array
from engines.gpu.driver import PyCudaDriver
from engines.gpu.session import TensorRtEngine
from engines.measure import measure, sample_rows
from engines.parity import compare
from pipeline.cli.modelsbench import table
from pipeline.enginethread import EngineThread
from pipeline.parity import decide
from tests.gpu.plans import planner, session

ROWS = 256


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_every_bundle_keeps_its_decisions_on_this_device(bundle, tensorrt, say, precision):
    with session(bundle, precision=precision, name=tensorrt) as engine:
        report = compare(engine, bundle, decide, ROWS)
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


def test_rate_through_the_engine_thread_against_the_engines_own(bundle, tensorrt, say):
    """What the worker adds: rows gathered by one thread, batches on another, results copied and handed back."""
    with session(bundle, name=tensorrt) as engine:
        (alone,) = measure(engine, bundle, time.perf_counter, (ROWS,), rounds=300)
    rate = _through_thread(bundle, tensorrt, 600)
    share = rate / alone.rows_per_s
    say(f"{bundle.spec.name}: {rate:,.0f} rows/s end to end, the engine's own {alone.rows_per_s:,.0f}: {share:.0%}")
    assert share > 0.5


def _through_thread(bundle: Bundle, name: str, batches: int) -> float:
    plan_for = planner(bundle)
    thread = EngineThread(lambda: TensorRtEngine(bundle, plan_for, PyCudaDriver(), name=name), ROWS)
    thread.start(60)
    try:
        source = sample_rows(thread.engine.inputs, bundle, 2 * ROWS)
        shapes = {key: array.shape[1:] for key, array in source.items()}
        free: queue.SimpleQueue[dict[str, Array]] = queue.SimpleQueue()
        failed: list[BaseException] = []
        for _ in range(8):
            free.put(thread.call(lambda engine: engine.staging(shapes, ROWS)).arrays)
        start = time.perf_counter()
        for i in range(batches):
            arrays = free.get(timeout=20)
            index = (np.arange(ROWS) + i) % (2 * ROWS)
            for key, array in source.items():
                np.take(array, index, axis=0, out=arrays[key], mode="clip")

            def done(outcome, arrays=arrays) -> None:
                if isinstance(outcome, BaseException):
                    failed.append(outcome)
                free.put(arrays)

            thread.submit(arrays, done)
        for _ in range(8):
            free.get(timeout=20)
        took = time.perf_counter() - start
        assert not failed, failed[0]
    finally:
        assert thread.close(20)
    return ROWS * batches / took


def test_row_shape_of_another_model_is_refused_and_the_engine_goes_on(bundle, tensorrt):
    with session(bundle, name=tensorrt) as engine:
        rows = sample_rows(engine.inputs, bundle, 4)
        first = next(iter(rows))
        with pytest.raises(EngineError, match=f"input '{first}'"):
            engine.infer({**rows, first: rows[first].astype("f8")})
        assert len(next(iter(engine.infer(rows).values()))) == 4
