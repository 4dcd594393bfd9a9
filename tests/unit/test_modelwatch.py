"""The model watch swaps what is good, refuses what is not, and never leaves the flow without a model."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from engines.base import EngineError, EngineLost, Unready
from engines.bundle import Bundle, BundleError
from engines.spec import WindowSpec
from pipeline import modelwatch
from pipeline.columns import Effects
from pipeline.errors import ModelError
from pipeline.modelwatch import ModelWatch
from tests.rig import Levels, Rig, baseline_bundle, birth, frame, window_bundle

ASSETS = [birth("a"), birth("b")]


def version(of: Bundle, number: str, **changes: object) -> Bundle:
    return replace(of, spec=msgspec.structs.replace(of.spec, version=number, **changes))


@dataclass
class Bed:
    """A flow with two assets, a folder that is a dict, and a custody that swaps at once."""

    rig: Rig
    folder: dict[str, list[Any]] = field(default_factory=dict)  # best first
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    served: dict[str, tuple[Bundle, str]] = field(default_factory=dict)
    fault: Exception | None = None
    good: str = ""  # the version that has no fault
    lost: bool = False  # the new version's engine, while heirs learn from it

    def teach(self, inputs: Any) -> Any:
        return None if self.lost else (self.rig.engine.infer(inputs), ())

    # -- Models
    def offers(self) -> dict[str, Any]:
        if isinstance(self.fault, (OSError, RuntimeError)):
            raise self.fault
        return dict(self.folder)

    def serving(self) -> dict[str, tuple[Bundle, str]]:
        return self.served

    def prepare(self, candidate: Any) -> Any:
        self.log.append(f"prepare {candidate.version}")
        if candidate.bundle is self.served[candidate.name][0]:
            self.served[candidate.name] = candidate.bundle, candidate.mark
            return None
        if self.fault is not None and candidate.version != self.good:
            raise self.fault

        def install() -> None:
            assert self.rig.part().unsettled == 0
            self.served[candidate.name] = candidate.bundle, candidate.mark
            self.log.append("install")

        return SimpleNamespace(bundle=candidate.bundle, inputs=self.rig.engine.inputs, install=install,
                               discard=lambda: self.log.append("discard"), infer=self.teach)

    def record(self, prepared: Any, candidate: Any) -> None:
        self.log.append(f"record {candidate.version}")

    # -- custody
    async def swap(self, change: Callable[[], Effects | None]) -> bool:
        self.rig.drain()
        if change() is None:
            return False
        self.log.append("durable")
        return True

    # -- events
    def emit(self, name: str, **fields: Any) -> None:
        self.events.append((name, fields))

    def offer(self, *bundles: tuple[Bundle, str]) -> None:
        self.folder = {bundle.spec.name: [] for bundle, _ in bundles}
        for bundle, mark in bundles:
            self.folder[bundle.spec.name].append(SimpleNamespace(
                name=bundle.spec.name, version=bundle.spec.version, mark=mark, bundle=bundle))

    def feed(self, first: int, last: int) -> None:
        for seq in range(first, last):
            self.rig.poll([frame(a, seq, np.full((2, 2), float(seq))) for a in ASSETS])
        self.rig.drain()


@pytest.fixture
def bed(monkeypatch: pytest.MonkeyPatch) -> Bed:
    monkeypatch.setattr(modelwatch, "WARM_POLL_S", 0.0)
    old = window_bundle(8, 4, threshold=1e6)
    made = Bed(Rig.make(old, ASSETS))
    made.served["win"] = old, "m1"
    made.offer((old, "m1"))
    made.feed(0, 6)
    return made


async def look(watcher: ModelWatch) -> None:
    await asyncio.gather(*await watcher.look())
    watcher._trying.clear()


async def heirs(bed: Bed) -> None:
    """Wait until heirs follow: what is fed before teaches them nothing."""
    async with asyncio.timeout(30):
        while not bed.rig.flow.successions:
            await asyncio.sleep(0)


def watch(bed: Bed, **options: Any) -> ModelWatch:
    return ModelWatch(bed, bed.rig.flow, bed, bed, poll_s=0.0, **options)  # type: ignore[arg-type]


def test_nothing_is_touched_while_the_folder_offers_what_serves(bed: Bed) -> None:
    asyncio.run(look(watch(bed)))
    assert bed.log == [] and bed.events == []


def test_what_serves_goes_on_when_its_files_were_touched(bed: Bed) -> None:
    old = bed.served["win"][0]
    bed.offer((old, "m1 touched"), (version(old, "0.9.0"), "m0"))
    watcher = watch(bed)
    for _ in range(3):
        asyncio.run(look(watcher))
    assert bed.log == ["prepare 1.0.0"] and bed.events == [] and bed.served["win"] == (old, "m1 touched")


def test_a_new_version_with_the_same_state_is_swapped_at_once(bed: Bed) -> None:
    new = version(bed.served["win"][0], "1.1.0", threshold=2.0)
    bed.offer((new, "m2"))
    asyncio.run(look(watch(bed)))
    assert bed.log == ["prepare 1.1.0", "install", "durable", "record 1.1.0"]
    assert bed.rig.part().order[0].bundle is new
    (event,) = bed.events
    assert event[0] == "swapped" and (event[1]["replaced"], event[1]["state"]) == ("1.0.0", "kept")
    bed.feed(6, 10)
    assert [a.model for a in bed.rig.alerts] == ["win@1.1.0"] * 2


def test_a_new_version_with_another_state_serves_when_the_assets_are_warm(bed: Bed) -> None:
    new = version(bed.served["win"][0], "2.0.0", window=WindowSpec(16, 4))
    bed.offer((new, "m2"))

    async def main() -> None:
        task = asyncio.create_task(look(watch(bed)))
        await heirs(bed)
        for seq in range(6, 16):
            await asyncio.sleep(0)
            assert "install" not in bed.log
            bed.feed(seq, seq + 1)
        await asyncio.wait_for(task, 10)

    asyncio.run(main())
    assert bed.log == ["prepare 2.0.0", "install", "durable", "record 2.0.0"]
    assert bed.events[-1][0] == "swapped" and bed.events[-1][1]["state"] == "new"
    assert not bed.rig.flow.successions
    assert bed.rig.totals()["duplicate"] == 0


@pytest.mark.parametrize("lost", [False, True])
def test_a_version_with_a_baseline_serves_when_heirs_have_learnt_it_and_never_on_a_lost_engine(
        monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    monkeypatch.setattr(modelwatch, "WARM_POLL_S", 0.0)
    old, rng = baseline_bundle(rows=40), np.random.default_rng(1)
    bed = Bed(Rig.make(old, ASSETS, engine=Levels()), lost=lost)
    bed.served["own"] = old, "m1"

    def feed(first: int, last: int) -> None:
        for seq in range(first, last):
            bed.rig.poll([frame(a, seq, rng.normal(size=(2, 2))) for a in ASSETS])
        bed.rig.drain()

    feed(0, 60)
    bed.offer((baseline_bundle(rows=40, version="2.0.0", sha="1" * 64), "m2"))

    async def main() -> None:
        task = asyncio.create_task(look(watch(bed)))
        await heirs(bed)
        for seq in range(60, 101):
            await asyncio.sleep(0)
            assert "install" not in bed.log
            feed(seq, seq + 1)
        await asyncio.wait_for(task, 10)

    asyncio.run(main())
    if lost:
        assert bed.log == ["prepare 2.0.0", "discard"]
        assert bed.events[-1][0] == "swap_refused" and "lost or hung" in bed.events[-1][1]["why"]
        return
    assert bed.log == ["prepare 2.0.0", "install", "durable", "record 2.0.0"]
    seen = len(bed.rig.effects.assessments)
    feed(101, 110)
    told = bed.rig.effects.assessments[seen:]
    assert {a.model for a in told} == {"own@2.0.0"} and not any(w for a in told for w in a.answers.unknown)


def test_a_version_that_is_taken_back_while_it_warms_up_is_given_up(bed: Bed) -> None:
    old, new = bed.served["win"][0], version(bed.served["win"][0], "2.0.0", window=WindowSpec(16, 4))
    bed.offer((new, "m2"))

    async def main() -> None:
        task = asyncio.create_task(look(watch(bed)))
        await heirs(bed)
        bed.offer((old, "m1"))
        await asyncio.wait_for(task, 10)

    asyncio.run(main())
    assert bed.log == ["prepare 2.0.0", "discard"] and not bed.rig.flow.successions
    assert bed.rig.part().order[0].bundle is old
    ((name, told),) = bed.events
    assert (name, told["version"], told["serving"]) == ("swap_refused", "2.0.0", "1.0.0")
    assert "taken back" in told["why"]


@pytest.mark.parametrize("fault", [
    BundleError(Path("x"), ["model.onnx is not what the manifest says"]), EngineError("no such operator"),
    ModelError("parity: case row 3 differs"), MemoryError("64 MiB")])
def test_what_cannot_serve_is_refused_once_with_the_reason(bed: Bed, fault: Exception) -> None:
    bed.offer((version(bed.served["win"][0], "1.1.0"), "m2"))
    bed.fault = fault
    watcher = watch(bed)
    asyncio.run(look(watcher))
    asyncio.run(look(watcher))
    assert bed.log == ["prepare 1.1.0"]
    assert [name for name, _ in bed.events] == ["swap_refused"] and str(fault) in bed.events[0][1]["why"]
    bed.fault = None
    bed.offer((version(bed.served["win"][0], "1.1.1"), "m3"))  # mended
    asyncio.run(look(watcher))
    assert bed.events[-1][0] == "swapped"


def test_what_a_lost_device_refuses_is_tried_again_later_and_later_and_then_left(bed: Bed) -> None:
    bed.offer((version(bed.served["win"][0], "1.1.0"), "m2"))
    bed.fault, now = Unready("the device fell off"), [0.0]
    watcher = watch(bed, clock=lambda: now[0])
    for now[0], tries in ((0, 1), (59, 1), (60, 2), (359, 2), (360, 3), (1859, 3), (1860, 4), (1e9, 4)):
        asyncio.run(look(watcher))
        assert len(bed.log) == tries, now
    assert [fields.get("again_s") for _, fields in bed.events] == [60.0, 300.0, 1500.0, None]


def test_the_next_best_version_is_tried_when_a_better_one_is_refused_but_none_older_than_what_serves(bed: Bed) -> None:
    old = bed.served["win"][0]
    bed.offer((version(old, "9.0.0"), "m9"), (version(old, "1.1.0"), "m2"), (old, "m1"), (version(old, "0.9.0"), "m0"))
    bed.fault, bed.good = BundleError(Path("x"), ["nobody signed it"]), "1.1.0"
    watcher = watch(bed)
    for _ in range(4):
        asyncio.run(look(watcher))
    assert bed.log == ["prepare 9.0.0", "prepare 1.1.0", "install", "durable", "record 1.1.0"]


def test_a_better_version_that_failed_for_want_of_a_device_is_tried_again_while_the_next_best_warms_up(
        bed: Bed) -> None:
    old, now = bed.served["win"][0], [0.0]
    bed.offer((version(old, "9.0.0"), "m9"), (version(old, "2.0.0", window=WindowSpec(16, 4)), "m2"), (old, "m1"))
    bed.fault, bed.good = Unready("the device fell off"), "2.0.0"
    watcher = watch(bed, clock=lambda: now[0])

    async def main() -> None:
        await look(watcher)
        task = asyncio.create_task(look(watcher))
        await heirs(bed)
        now[0] = 59.0
        bed.feed(6, 7)
        await asyncio.sleep(0.05)
        assert not task.done()
        for now[0] in (61.0, 400.0, 2000.0):  # 9.0.0 is tried again three times
            await asyncio.wait_for(task, 30)
            assert "another is offered, 9.0.0" in bed.events[-1][1]["why"]
            await look(watcher)
            assert bed.log[-2:] == ["discard", "prepare 9.0.0"]
            task = asyncio.create_task(look(watcher))
            await heirs(bed)
        now[0] = 1e9
        for seq in range(7, 17):
            await asyncio.sleep(0)
            bed.feed(seq, seq + 1)
        await asyncio.wait_for(task, 30)

    asyncio.run(main())
    assert bed.log[-4:] == ["prepare 2.0.0", "install", "durable", "record 2.0.0"]


def test_a_device_that_is_back_lets_the_version_in_that_it_refused(bed: Bed) -> None:
    bed.offer((version(bed.served["win"][0], "1.1.0"), "m2"))
    bed.fault, now = EngineLost("the device fell off"), [0.0]
    watcher = watch(bed, clock=lambda: now[0])
    asyncio.run(look(watcher))
    bed.fault, now[0] = None, 60.0
    asyncio.run(look(watcher))
    assert [name for name, _ in bed.events] == ["swap_refused", "swapped"]


def test_a_swap_that_waits_for_a_standing_alert_says_so_once_as_a_warning(bed: Bed) -> None:
    bed.offer((version(bed.served["win"][0], "2.0.0", window=WindowSpec(16, 4)), "m2"))
    bed.rig.part().order[0].open[bed.rig.part().order[0].slots.index(None) - 1, "win"] = b"{}"  # of "b"
    now = [0.0]

    async def main() -> None:
        task = asyncio.create_task(look(watch(bed, clock=lambda: now[0], stuck_s=100.0)))
        await heirs(bed)
        for now[0] in (99.0, 101.0, 300.0):
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    (stuck,) = [fields for name, fields in bed.events if name == "swap_stuck"]
    assert (stuck["cold"], stuck["alerting"], stuck["learning"]) == (2, ["b"], ["a"]) and stuck["seconds"] >= 100.0


def test_a_version_that_would_not_fit_the_assets_is_refused_and_given_back(bed: Bed) -> None:
    bed.offer((version(bed.served["win"][0], "2.0.0", rule="other"), "m2"))
    asyncio.run(look(watch(bed)))
    assert bed.log == ["prepare 2.0.0", "discard"] and "'other'" in bed.events[0][1]["why"]


@pytest.mark.parametrize("fault", [PermissionError("denied"), RuntimeError("denied")])
def test_a_folder_that_cannot_be_read_is_told_and_looked_at_again(bed: Bed, fault: Exception) -> None:
    bed.fault = fault
    asyncio.run(look(watch(bed)))
    assert bed.events[0][0] == "swap_refused" and "denied" in bed.events[0][1]["why"]


def test_a_folder_that_is_away_for_a_while_does_not_end_a_swap_that_warms_up(bed: Bed) -> None:
    bed.offer((version(bed.served["win"][0], "2.0.0", window=WindowSpec(16, 4)), "m2"))

    async def main() -> None:
        task = asyncio.create_task(look(watch(bed)))
        await heirs(bed)
        bed.fault = PermissionError("denied")
        for seq in range(6, 16):
            await asyncio.sleep(0.01)
            bed.feed(seq, seq + 1)
        await asyncio.wait_for(task, 10)

    asyncio.run(main())
    assert [name for name, _ in bed.events] == ["swap_refused", "swapped"]  # told once


def test_a_swap_that_changes_state_waits_while_the_worker_owns_nothing_or_lets_go(bed: Bed) -> None:
    bed.offer((version(bed.served["win"][0], "2.0.0", window=WindowSpec(16, 4)), "m2"))
    part = bed.rig.part()

    async def main() -> None:
        task = asyncio.create_task(look(watch(bed)))
        await heirs(bed)
        bed.rig.flow.drop(0)  # a rebalance takes the partition and brings it back
        await asyncio.sleep(0.05)
        assert "install" not in bed.log
        bed.rig.flow.adopt(part, 0.0)
        bed.feed(6, 16)
        part.closed = True
        await asyncio.sleep(0.05)
        assert "install" not in bed.log
        part.closed = False
        await asyncio.wait_for(task, 10)

    asyncio.run(main())
    assert bed.log == ["prepare 2.0.0", "install", "durable", "record 2.0.0"]


def test_what_is_new_for_one_bundle_does_not_wait_for_another_that_warms_up(bed: Bed) -> None:
    bed.offer((version(bed.served["win"][0], "2.0.0", window=WindowSpec(16, 4)), "m2"))

    async def main() -> None:
        watcher = watch(bed)
        (first,) = await watcher.look()
        await heirs(bed)
        assert await watcher.look() == [] and not first.done()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    asyncio.run(main())
    assert bed.log == ["prepare 2.0.0", "discard"] and not bed.rig.flow.successions
