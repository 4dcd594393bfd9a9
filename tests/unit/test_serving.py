"""Who computes a batch when a device is lost, hangs, gives no numbers or is not ready; none is lost, order is kept.

The loop's clock is moved by hand; threads are waited for by events.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from engines.base import Arrays, Engine, EngineError
from engines.bundle import BudgetSpec
from pipeline.batch import plain
from pipeline.enginethread import EngineThread
from pipeline.errors import ModelError
from pipeline.infer import Outcome
from pipeline.ops.health import Health
from pipeline.ops.metrics import Metrics
from pipeline.pace import MIN_BATCHES, WINDOW_S
from pipeline.serving import MAX_DOUBTFUL, Active, Engines, Limits, Serving
from pipeline.telemetry import Telemetry
from tests.devices import Device, Heard, Slow
from tests.rig import WindowMean, window_bundle

SHAPES = {"x": (2, 1, 1)}


@dataclass
class Bed:
    """A serving with a ground and perhaps a device, on a loop whose clock the test moves."""

    serving: Serving
    ground: Any
    device: Any
    heard: Heard
    telemetry: Telemetry
    clock: list[float]
    answers: list[tuple[float, Outcome | BaseException, str]] = field(default_factory=list)
    worn: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def submit(self, *values: float) -> None:
        staging = plain(self.serving.inputs, SHAPES, len(values))
        staging.arrays["x"][:] = np.array(values)[:, None, None, None]

        def done(outcome: Outcome | BaseException) -> None:
            self.answers.append((values[0], outcome, dict(self.serving.headers)["kizashi_backend"].decode()))
            self.news.set()

        self.serving.submit(staging.arrays, done)

    async def answered(self, n: int) -> None:
        async with asyncio.timeout(60):
            while len(self.answers) < n:
                self.news.clear()
                await self.news.wait()

    async def pass_time(self, seconds: float) -> None:
        self.clock[0] += seconds
        asyncio.get_running_loop().call_soon(lambda: None)  # wakes the selector, timers are looked at
        for _ in range(3):
            await asyncio.sleep(0)

    def check_all_right(self, n: int) -> None:
        """Answers 0..n-1 in order, each with the right number."""
        assert [v for v, _, _ in self.answers] == [float(i) for i in range(n)]
        for value, outcome, _ in self.answers:
            assert isinstance(outcome, Outcome) and not outcome.failed
            assert outcome.outputs["score"].tolist() == [value]


def run(test: Callable[[Bed], Awaitable[None]], ground: Engine, device: Engine | None = None, *, ready: bool = True,
        deadline_s: float = 1000.0, budget_ms: float | None = None) -> Bed:
    async def main() -> Bed:
        loop = asyncio.get_running_loop()
        clock = [loop.time()]
        loop.time = lambda: clock[0]  # type: ignore[method-assign]
        heard, metrics = Heard(), Metrics()
        telemetry = Telemetry(metrics, heard, Health(60.0, 0.0))  # type: ignore[arg-type]
        threads = [EngineThread(lambda e=e: e, 1, e.name) for e in (ground, device) if e is not None]  # type: ignore[misc]
        for thread in threads:
            thread.start()
        bundle = window_bundle()
        spec = msgspec.structs.replace(bundle.spec, budget=BudgetSpec(latency_ms=budget_ms))
        engines = Engines(replace(bundle, spec=spec), Active(threads[0], ground.name, "beside device"))
        if device is not None:
            engines.device = Active(threads[1], device.name, "chosen")
            engines.ready = {(("x", (2, 1, 1)),)} if ready else set()
        bed = Bed(Serving(engines, telemetry, Limits(deadline_s, 300.0)), ground, device, heard, telemetry, clock)
        bed.serving.on_worn = bed.worn.append
        try:
            await test(bed)
        finally:
            for engine in (ground, device):
                if engine is not None and hasattr(engine, "go"):
                    engine.go.set()
            await bed.serving.close()
        return bed

    return asyncio.run(main())


def test_a_device_serves_and_says_so_everywhere() -> None:
    async def test(bed: Bed) -> None:
        for n in range(10):
            bed.submit(float(n))
        await bed.answered(10)

    bed = run(test, WindowMean(), Device(WindowMean()))
    bed.check_all_right(10)
    assert {backend for _, _, backend in bed.answers} == {"device"}
    serving, = bed.heard.of("engine_serving")
    assert (serving["backend"], serving["why"], serving["degraded"]) == ("device", "chosen", False)
    text = bed.telemetry.metrics.text().decode()
    assert 'kizashi_engine_info{backend="device",bundle="win"} 1.0' in text
    assert 'kizashi_degraded{bundle="win"} 0.0' in text
    assert bed.device.closed.is_set()


@pytest.mark.parametrize("lose_at", [0, 1, 4, 9])
def test_a_lost_device_gives_its_batches_to_the_ground_in_order(lose_at: int) -> None:
    async def test(bed: Bed) -> None:
        for n in range(10):
            bed.submit(float(n))
        await bed.answered(10)
        bed.submit(10.0)
        await bed.answered(11)
        assert not bed.worn
        bed.telemetry.health.warm = bed.telemetry.health.joined = True
        ready = bed.telemetry.health.ready(0.0)
        assert ready.ok and "degraded: win on window_mean: device was lost: EngineLost: the device fell" in ready.why
        await bed.pass_time(301)
        assert "engine.restart_after_s" in bed.worn[0]

    bed = run(test, WindowMean(), Device(WindowMean(), lose_at=lose_at))
    bed.check_all_right(11)
    assert [b for _, _, b in bed.answers] == ["device"] * lose_at + ["window_mean"] * (11 - lose_at)
    assert len(bed.heard.of("engine_lost")) == len(bed.heard.of("degraded")) == 1
    assert dict(bed.serving.headers)["kizashi_degraded"] == b"1"
    text = bed.telemetry.metrics.text().decode()
    assert 'kizashi_engine_info{backend="window_mean",bundle="win"} 1.0' in text and 'backend="device"' not in text
    assert 'kizashi_degraded{bundle="win"} 1.0' in text


@pytest.mark.parametrize("pipelined", [True, False])
def test_a_device_that_hangs_past_its_deadline_is_given_up_and_what_it_says_later_is_not_heard(pipelined: bool) -> None:
    device: Any = Device(WindowMean()) if pipelined else Slow(WindowMean())
    entered: threading.Event = device.hung if pipelined else device.entered
    device.name = "device"
    device.go.clear()

    async def test(bed: Bed) -> None:
        for n in range(5):
            bed.submit(float(n))
        assert await asyncio.to_thread(entered.wait, 30)
        await bed.pass_time(9.9)
        assert not bed.heard.of("engine_lost") and not bed.answers
        await bed.pass_time(0.2)
        await bed.answered(5)
        assert "no answer for a batch of 1 rows within 10 s" in bed.heard.of("engine_lost")[0]["why"]
        device.go.set()
        await asyncio.to_thread(bed.serving._old[0].close, 30)
        for _ in range(5):
            await asyncio.sleep(0)
        bed.submit(5.0)
        await bed.answered(6)

    bed = run(test, WindowMean(), device, deadline_s=10.0)
    bed.check_all_right(6)


def test_a_process_that_stood_still_does_not_blame_its_engine() -> None:
    device = Device(WindowMean())
    device.go.clear()

    async def test(bed: Bed) -> None:
        bed.submit(0.0)
        assert await asyncio.to_thread(device.hung.wait, 30)
        await bed.pass_time(500.0)
        assert not bed.heard.of("engine_lost")
        device.go.set()
        await bed.answered(1)

    run(test, WindowMean(), device, deadline_s=10.0).check_all_right(1)


def test_a_deadline_counts_from_the_batch_before_it() -> None:
    slow = Slow(WindowMean())

    async def test(bed: Bed) -> None:
        for n in range(4):
            slow.go.clear()
            slow.entered.clear()
            bed.submit(float(n))
            assert await asyncio.to_thread(slow.entered.wait, 30)
            await bed.pass_time(8.0)
            slow.go.set()
            await bed.answered(n + 1)

    run(test, slow, deadline_s=10.0).check_all_right(4)


@pytest.mark.parametrize("breaks", ["hangs", "raises"])
def test_a_ground_that_hangs_or_breaks_ends_the_worker(breaks: str) -> None:
    class Bad(Slow):
        def infer(self, inputs: Arrays) -> Arrays:
            if breaks == "raises":
                raise ZeroDivisionError("a bug")
            return super().infer(inputs)

    bad = Bad(WindowMean())
    bad.go.clear()

    broken: list[tuple[str, str]] = []
    heard = list[str]()

    def note(name: str, why: str) -> None:
        broken.append((name, why))
        raise OSError("no space left on device")  # the batches are given back all the same

    async def test(bed: Bed) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, said: heard.append(str(said["exception"])))
        bed.serving.on_broken = note
        bed.submit(0.0)
        bed.submit(1.0)
        if breaks == "hangs":
            assert await asyncio.to_thread(bad.entered.wait, 30)
            await bed.pass_time(10.5)
        await bed.answered(2)

    bed = run(test, bad, deadline_s=10.0)
    assert all(isinstance(o, ModelError) and "the engine of win broke" in str(o) for _, o, _ in bed.answers)
    assert [name for name, _ in broken] == ["win"] and broken[0][1] in str(bed.answers[0][1])
    assert heard == ["no space left on device"]


def test_a_device_and_then_the_ground_breaking_ends_the_worker() -> None:
    class Bad(WindowMean):
        def infer(self, inputs: Arrays) -> Arrays:
            raise ZeroDivisionError("a bug")

    async def test(bed: Bed) -> None:
        bed.submit(0.0)
        await bed.answered(1)

    bed = run(test, Bad(), Device(WindowMean(), lose_at=0))
    assert isinstance(bed.answers[0][1], ModelError)


def test_rows_that_the_device_is_not_ready_for_are_computed_on_the_ground_until_it_is() -> None:
    asked: list[Any] = []

    async def test(bed: Bed) -> None:
        bed.serving.on_layout = lambda serving, shapes: asked.append(shapes)
        changed: list[str] = []
        bed.serving.on_change = changed.append
        assert not bed.serving.staging(SHAPES, 4).pinned
        bed.submit(0.0)
        await bed.answered(1)
        assert asked == [SHAPES] and bed.serving.shapes == [SHAPES]
        bed.serving.admit(SHAPES)
        assert changed == ["win"]
        staging = bed.serving.staging(SHAPES, 4)
        assert staging.pinned and staging.arrays["x"].dtype == "f4"
        bed.submit(1.0)
        await bed.answered(2)

    bed = run(test, WindowMean(), Device(WindowMean()), ready=False)
    bed.check_all_right(2)
    assert [b for _, _, b in bed.answers] == ["window_mean", "device"]


def test_numbers_that_only_the_device_lacks_are_the_grounds_and_a_device_without_any_is_given_up() -> None:
    async def test(bed: Bed) -> None:
        for n in range(2 * MAX_DOUBTFUL):
            bed.submit(float(n))
            await bed.answered(n + 1)

    bed = run(test, WindowMean(), Device(WindowMean(), nan_at=0))
    bed.check_all_right(2 * MAX_DOUBTFUL)
    assert len(bed.heard.of("engine_doubtful")) == MAX_DOUBTFUL
    assert "no numbers in 10 batches" in bed.heard.of("engine_lost")[0]["why"]


def test_numbers_that_the_ground_lacks_too_are_the_datas_fault() -> None:
    async def test(bed: Bed) -> None:
        for n in range(2 * MAX_DOUBTFUL):
            bed.submit(float("nan"))
            await bed.answered(n + 1)

    bed = run(test, WindowMean(), Device(WindowMean()))
    assert all(isinstance(o, Outcome) and np.isnan(o.outputs["score"]).all() for _, o, _ in bed.answers)
    assert not bed.heard.of("engine_lost") and not bed.heard.of("engine_doubtful")


def test_a_replaced_engine_finishes_what_it_has_and_is_closed_when_nothing_uses_its_arrays() -> None:
    old = Slow(WindowMean())
    old.go.clear()

    async def test(bed: Bed) -> None:
        bed.submit(0.0)
        assert await asyncio.to_thread(old.entered.wait, 30)
        thread = EngineThread(WindowMean, 1, "new")
        thread.start()
        bed.serving.replace(Engines(window_bundle(), Active(thread, "new", "a new version")))
        bed.submit(1.0)
        await asyncio.to_thread(thread.call, lambda engine: None, 30)  # the new one has done its part
        for _ in range(5):
            await asyncio.sleep(0)
        assert not bed.answers and not old.closed.is_set()
        old.go.set()
        await bed.answered(2)
        await bed.serving.release()
        assert old.closed.is_set()

    bed = run(test, old)
    bed.check_all_right(2)
    assert [b for _, _, b in bed.answers] == ["window_mean", "new"]


def test_a_replaced_engine_that_is_lost_leaves_its_batches_to_the_new_one() -> None:
    device = Device(WindowMean())
    device.go.clear()

    async def test(bed: Bed) -> None:
        bed.submit(0.0)
        assert await asyncio.to_thread(device.hung.wait, 30)
        thread = EngineThread(WindowMean, 1, "new")
        thread.start()
        bed.serving.replace(Engines(window_bundle(), Active(thread, "new", "a new version")))
        bed.submit(1.0)
        device.lose_at = 0
        device.go.set()
        await bed.answered(2)

    bed = run(test, WindowMean(), device)
    bed.check_all_right(2)
    assert not bed.heard.of("engine_lost")


def test_a_row_that_the_device_cannot_compute_fails_alone() -> None:
    async def test(bed: Bed) -> None:
        bed.submit(0.0, 99.0, 2.0)
        await bed.answered(1)

    bed = run(test, WindowMean(), Device(WindowMean(poison=99.0)))
    outcome = bed.answers[0][1]
    assert isinstance(outcome, Outcome) and list(outcome.failed) == [1]
    assert outcome.outputs["score"].tolist() == [0.0, 0.0, 2.0]


def test_inputs_are_cast_for_the_engine_that_takes_over() -> None:
    class Picky(WindowMean):
        def infer(self, inputs: Arrays) -> Arrays:
            if inputs["x"].dtype != "f8":
                raise EngineError("wants f8")
            return super().infer(inputs)

    picky = Picky()
    picky.inputs = (WindowMean.inputs[0].__class__("x", "f8", (None, None, None)),)

    async def test(bed: Bed) -> None:
        bed.submit(0.0)
        bed.submit(1.0)
        await bed.answered(2)

    run(test, picky, Device(picky, lose_at=1)).check_all_right(2)


@pytest.mark.parametrize(("budget_ms", "told"), [(1e-6, 1), (1e6, 0), (None, 0)])
def test_an_engine_that_is_slower_than_its_bundles_budget_for_a_minute_is_told_and_serves_on(
        budget_ms: float | None, told: int) -> None:
    async def test(bed: Bed) -> None:
        for n in range(MIN_BATCHES):
            bed.submit(float(n))
        await bed.answered(MIN_BATCHES)
        assert not bed.heard.of("engine_slow")
        await bed.pass_time(WINDOW_S)
        bed.submit(float(MIN_BATCHES))
        await bed.answered(MIN_BATCHES + 1)

    bed = run(test, WindowMean(), budget_ms=budget_ms)
    bed.check_all_right(MIN_BATCHES + 1)
    assert len(bed.heard.of("engine_slow")) == told
    for slow in bed.heard.of("engine_slow"):
        assert (slow["bundle"], slow["backend"]) == ("win", "window_mean")
        assert "101 of 101 batches took longer than the bundle's budget of 1e-06 ms" in slow["why"]
