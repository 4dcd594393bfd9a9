"""How a device comes to serve: built and judged while the CPU serves, refused with a reason, ready shape by shape."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from engines import Bundle, Engine, EngineError, EngineLost, load_bundle, open_engine, shipped_bundles
from engines.base import Unready
from engines.select import Choice
from pipeline import pace
from pipeline.errors import ModelError
from pipeline.fitting import Differs, Fitter, golden_shapes
from pipeline.fleet import Fleet
from pipeline.infer import Outcome
from pipeline.ops.health import Health
from pipeline.ops.metrics import Metrics
from pipeline.ops.settings import Settings
from pipeline.serving import Limits, Serving, Shapes, layout_of
from pipeline.telemetry import Telemetry
from tests.devices import Device
from tests.unit.test_serving import Heard

NAME = "anomaly-mewma"
ROWS5: Shapes = {"z": (5,), "center": (5,), "whitening": (5, 5), "limit": ()}


class Supply:
    """Plans that are made by saying so. build: called for each; skew: what every score is multiplied by."""

    def __init__(self, bundle: Bundle, *, skew: float = 1.0, stored: bool = False) -> None:
        self.bundle, self.skew, self.stored = bundle, skew, stored
        self.built: list[Any] = []
        self.notes: list[bytes] = []
        self.devices: list[Device] = []
        self.build: Callable[[Shapes], None] = lambda shapes: None
        self.may_build = threading.Event()
        self.may_build.set()

    def missing(self, shapes: Shapes) -> str:
        return "" if self.stored or layout_of(shapes) in self.built else "never built"

    def ensure(self, shapes: Shapes, *, stop: Callable[[], bool]) -> None:
        while not self.may_build.wait(0.01):
            if stop():
                raise EngineError("the build was stopped")
        self.build(shapes)
        self.built.append(layout_of(shapes))

    def note(self, shapes: Shapes, text: bytes) -> None:
        self.notes.append(text)

    def open(self) -> Engine:
        device = Device(open_engine("onnx_cpu", self.bundle), pinned=6)  # the gate takes one for a while
        if self.skew != 1.0:
            infer, skew = device.of.infer, self.skew
            device.of.infer = lambda inputs: {n: a * skew for n, a in infer(inputs).items()}  # type: ignore[method-assign]
        self.devices.append(device)
        return device


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "AGAIN_S", (0.01, 0.02))


@dataclass
class Bed:
    fleet: Fleet
    fitter: Fitter
    supply: Supply
    heard: Heard
    restaged: list[str] = field(default_factory=list)

    @property
    def serving(self) -> Serving:
        return self.fleet.servings[NAME]

    async def until(self, what: Callable[[], Any]) -> None:
        async with asyncio.timeout(60):
            while not what():
                await asyncio.sleep(0.005)

    async def score(self, shapes: Shapes) -> tuple[float, str]:
        """Compute one row of these shapes in arrays that the serving gives; return its score and who computed it."""
        got: asyncio.Future[tuple[Outcome | BaseException, str]] = asyncio.get_running_loop().create_future()
        staging = self.serving.staging(shapes, 4)
        for name, array in staging.arrays.items():
            array[:] = np.eye(5) if name == "whitening" else 0.5 if name == "limit" else 1.0 if name == "z" else 0.0
        inputs = {name: array[:1] for name, array in staging.arrays.items()}
        backend = lambda: dict(self.serving.headers)["kizashi_backend"].decode()  # noqa: E731
        self.serving.submit(inputs, lambda outcome: got.set_result((outcome, backend())))
        outcome, by = await got
        assert isinstance(outcome, Outcome) and not outcome.failed
        return float(outcome.outputs["score"][0]), by


def run(test: Callable[[Bed], Awaitable[None]], **supply: Any) -> Bed:
    async def main() -> Bed:
        bundle, heard = load_bundle(shipped_bundles()[NAME]), Heard()
        made = Supply(bundle, **supply)
        telemetry = Telemetry(Metrics(), heard, Health(60.0, 0.0))  # type: ignore[arg-type]
        fitter = Fitter(Settings(), heard, Choice("tensorrt", "on a GPU"), lambda b: made)  # type: ignore[arg-type]
        serving = Serving(fitter.engines(bundle), telemetry, Limits())
        bed = Bed(Fleet({NAME: serving}, fitter), fitter, made, heard)

        async def restage(name: str) -> None:
            bed.restaged.append(name)

        try:
            made.may_build.clear()
            bed.fleet.start(restage)
            await test(bed)
        finally:
            await bed.fleet.stop()
        return bed

    return asyncio.run(main())


def test_the_cpu_serves_until_the_device_is_built_and_judged_and_then_row_shape_by_row_shape() -> None:
    async def test(bed: Bed) -> None:
        await bed.until(lambda: bed.heard.of("engine_build"))
        score, by = await bed.score(ROWS5)  # rows that nobody knew of when the build began
        assert by == "onnx_cpu" and bed.serving.headers[-1] == ("kizashi_degraded", b"1")
        bed.supply.may_build.set()
        await bed.until(lambda: bed.heard.of("engine_ready"))
        assert await bed.score(ROWS5) == (pytest.approx(score), "tensorrt")
        assert bed.serving.staging(ROWS5, 4).pinned and "kizashi_degraded" not in dict(bed.serving.headers)

    bed = run(test)
    golden = [layout_of(s) for s in golden_shapes(bed.supply.bundle)]
    assert len(golden) == 4 and bed.supply.built == [*golden, layout_of(ROWS5)]
    assert len(bed.supply.notes) == 5, "a report beside each plan, also for rows beyond the golden ones"
    assert all(b'"ok": true' in note for note in bed.supply.notes)
    assert [e["backend"] for e in bed.heard.of("engine_serving")] == ["onnx_cpu", "tensorrt"]
    assert bed.restaged == [NAME, NAME], "once for the device, once for the rows that it became ready for"
    assert len(bed.heard.of("engine_build")) == 5
    assert all(d.closed.is_set() for d in bed.supply.devices)


def test_a_device_whose_plans_are_stored_serves_from_the_start() -> None:
    async def test(bed: Bed) -> None:
        assert bed.heard.of("engine_serving")[0]["backend"] == "tensorrt"
        await bed.score(ROWS5)
        await bed.until(lambda: bed.heard.of("engine_ready"))
        assert (await bed.score(ROWS5))[1] == "tensorrt"

    assert not run(test, stored=True).heard.of("engine_build")


def test_a_device_that_says_other_things_than_the_golden_vectors_is_refused_with_the_row() -> None:
    async def test(bed: Bed) -> None:
        bed.supply.may_build.set()
        await bed.until(lambda: bed.heard.of("engine_refused"))
        assert (await bed.score(ROWS5))[1] == "onnx_cpu"

    bed = run(test, skew=1.001)
    assert "does not say what the golden vectors say: " in bed.heard.of("engine_refused")[0]["why"]
    assert " row " in bed.heard.of("engine_refused")[0]["why"] and b'"ok": false' in bed.supply.notes[0]
    last = bed.heard.of("engine_serving")[-1]
    assert last["backend"] == "onnx_cpu" and last["degraded"] and "tensorrt cannot serve" in last["why"]


def test_rows_whose_plan_cannot_be_built_stay_on_the_cpu_and_are_tried_again_a_few_times(quick: None) -> None:
    tries = []

    def build(shapes: Shapes) -> None:
        if shapes["z"] == (5,):
            tries.append(shapes)
            raise EngineError("no kernel")

    async def test(bed: Bed) -> None:
        bed.supply.build = build
        bed.supply.may_build.set()
        await bed.until(lambda: len(bed.heard.of("engine_serving")) == 2)
        for _ in range(3):
            assert (await bed.score(ROWS5))[1] == "onnx_cpu"
            await bed.until(lambda: len(bed.heard.of("engine_refused")) == 3)

    bed = run(test)
    refused = bed.heard.of("engine_refused")
    assert len(tries) == 3 and "stay on the CPU: no kernel" in refused[0]["why"]
    assert [e.get("again_s") for e in refused] == [0.01, 0.02, None]


@pytest.mark.parametrize("error", [EngineError("no memory"), EngineLost("the device fell off")])
def test_a_build_that_fails_leaves_the_cpu_serving(error: Exception) -> None:
    def build(shapes: Shapes) -> None:
        raise error

    async def test(bed: Bed) -> None:
        bed.supply.build = build
        bed.supply.may_build.set()
        await bed.until(lambda: bed.heard.of("engine_refused"))
        assert (await bed.score(ROWS5))[1] == "onnx_cpu"

    assert str(error) in run(test).heard.of("engine_refused")[0]["why"]


def test_a_build_that_failed_is_tried_again_and_the_device_takes_over(quick: None) -> None:
    failures = [EngineError("no memory"), EngineLost("busy")]

    def build(shapes: Shapes) -> None:
        if failures:
            raise failures.pop()

    async def test(bed: Bed) -> None:
        bed.supply.build = build
        bed.supply.may_build.set()
        await bed.until(lambda: bed.serving.engines.device)

    bed = run(test)
    assert [(e["why"], e["again_s"]) for e in bed.heard.of("engine_refused")] == [("busy", 0.01), ("no memory", 0.02)]
    assert [e["backend"] for e in bed.heard.of("engine_serving")] == ["onnx_cpu"] * 3 + ["tensorrt"]


def test_a_device_that_says_other_things_is_not_tried_again(quick: None) -> None:
    async def test(bed: Bed) -> None:
        bed.supply.may_build.set()
        await bed.until(lambda: bed.heard.of("engine_refused"))
        await asyncio.sleep(0.05)

    (event,) = run(test, skew=1.001).heard.of("engine_refused")
    assert "again_s" not in event


def test_a_build_that_waits_to_be_tried_again_is_left_where_a_new_version_has_come() -> None:
    def build(shapes: Shapes) -> None:
        raise EngineError("no memory")

    async def test(bed: Bed) -> None:
        bed.supply.build = build
        bed.supply.may_build.set()
        await bed.until(lambda: bed.heard.of("engine_refused"))

    assert run(test).heard.of("engine_refused")[0]["again_s"] == 60.0  # `stop` does not wait for it


def test_a_change_of_engines_at_the_moment_of_the_stop_leaves_nothing_unawaited() -> None:
    async def test(bed: Bed) -> None:
        bed.serving.replace(bed.serving.engines)  # and no step of the loop until `stop`

    assert run(test).restaged == []


def test_a_worker_that_stops_ends_its_builds() -> None:
    async def test(bed: Bed) -> None:
        await bed.until(lambda: bed.heard.of("engine_build"))

    bed = run(test)  # never allowed to build: `stop` is what ends it
    assert bed.supply.built == []


def test_a_new_version_waits_for_its_device_and_is_refused_without() -> None:
    async def test(bed: Bed) -> None:
        bed.supply.may_build.set()
        engines = await asyncio.to_thread(bed.fitter.engines, bed.supply.bundle, [ROWS5], build=True)
        assert engines.device is not None and engines.ready == {layout_of(ROWS5)}
        for thread in engines.threads:
            await asyncio.to_thread(thread.close, 30)
        bed.supply.skew = 2.0
        with pytest.raises(Differs, match="golden vectors"):
            await asyncio.to_thread(bed.fitter.engines, bed.supply.bundle, [ROWS5], build=True)

        def build(shapes: Shapes) -> None:
            raise EngineLost("the device fell off")

        bed.supply.skew, bed.supply.build, bed.supply.built = 1.0, build, []
        with pytest.raises(Unready, match="fell off"):
            await asyncio.to_thread(bed.fitter.engines, bed.supply.bundle, [ROWS5], build=True)

    run(test)


def test_an_engine_that_cannot_be_had_ends_the_start_with_what_is_missing() -> None:
    with pytest.raises(ModelError, match=r'engine.name = "tensorrt" cannot be had: .* missing.*"onnx_cpu"'):
        Fitter(Settings(engine={"name": "tensorrt"}), Heard())  # type: ignore[arg-type]


def test_alerts_that_the_clock_tells_have_no_engine() -> None:
    async def test(bed: Bed) -> None:
        assert bed.fleet.headers("clock") == [("kizashi_backend", b"none")]
        assert dict(bed.fleet.headers(NAME))["kizashi_bundle"].decode() == bed.supply.bundle.manifest_sha256

    run(test)
