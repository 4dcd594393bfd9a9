"""The demo: two fleets, a worker and a view for a minute, and a verdict that a machine can check."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.broker import BrokerConfig, offset_ranges, read_compacted
from pipeline.checkpoint import key_prefix
from pipeline.ops.settings import Topics
from pipeline.plant.demofleet import TurbofanFleet, cycles_left
from pipeline.plant.demolaw import Law, law_of
from pipeline.plant.demolives import Lives
from pipeline.plant.demoscene import Scene
from pipeline.plant.demoview import View
from pipeline.plant.demowatch import Watcher
from pipeline.plant.demoworker import WorkerProcess, settings_toml
from pipeline.plant.faults import Fault, FaultKind
from pipeline.plant.publisher import Publisher, Schedule, publish_plant
from pipeline.plant.simulator import Plant
from pipeline.terms import sort_out
from schemas.topics import ASSET, STATE, TELEMETRY

#: The plant has run for this long when the demo begins; its gateway sends that past at once. A baseline needs 400
#: samples, 20 s at 20 Hz; the rest is there to be judged healthy.
HISTORY_S = 30.0
#: What is planted where, and when, as a share of the live time: late enough for a worker that needs 6 s to join the
#: group of a fresh broker, early enough that the last one is found before the end (in 3.6 s at most in 120 tries).
PLANTED: tuple[tuple[FaultKind, str, float], ...] = (
    ("bearing_wear", "line1/pump-05", 0.30), ("cavitation", "line1/pump-12", 0.42), ("leak", "line1/pump-19", 0.54),
)
#: A worker on a busy machine may be behind at the end; beyond this the law says by how much.
_CATCH_UP_S = 20.0
_STEP_S = 0.05  # of the view; ten times finer than an eye


def plant_of(seed: int, seconds: float, now_ns: int) -> Plant:
    """Return the demo's plant, with its past: 24 pumps of 8 channels, faults of three kinds on three of them."""
    faults = tuple(
        Fault(kind=kind, asset=asset, onset_s=round(HISTORY_S + share * seconds, 1), ramp_s=5.0, magnitude=8.0)
        for kind, asset, share in PLANTED
    )
    return Plant(seed=seed, start_ns=now_ns - round(HISTORY_S * 1e9), faults=faults, site="demo")


@dataclass(frozen=True, slots=True)
class Result:
    """What a demo came to. seconds: from the first process to here, by the wall clock.

    left: the turbofans' labels, cycles left after their last flights.
    """

    scene: Scene
    law: Law
    worker_exit: int
    seconds: float
    left: Mapping[str, float]


class Demo:
    """One run. All its topics and its group live under `kizashi.demo.<run>.`; `place` makes and removes them."""

    def __init__(self, cfg: BrokerConfig, run: str, plant: Plant, fleet: TurbofanFleet, seconds: float) -> None:
        self.cfg, self.run, self.plant, self.fleet, self.seconds = cfg, run, plant, fleet, seconds
        self.topics = Topics(prefix=f"kizashi.demo.{run}.", assessment=True)
        self.group = f"kizashi.demo.{run}"
        self.scene = Scene(plant.names, tuple(plant.faults), plant.start_ns, Lives(fleet.flights))
        self._worker: WorkerProcess | None = None
        self._last_seq, self._level = -1, False

    def hurry(self) -> None:
        """Do not wait for the worker to drain: whoever asked to stop has asked twice."""
        if self._worker is not None:
            self._worker.kill()

    async def play(self, view: View, place: AbstractAsyncContextManager[None]) -> Result:
        """Run the demo. Whatever ends it, cancellation included: the worker is drained, then the place is left."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kizashi-demo-")))
            await stack.enter_async_context(place)
            worker = self._worker = WorkerProcess(folder, settings_toml(self.cfg, self.run))
            await stack.enter_async_context(worker)
            watcher = Watcher(self.cfg, self.topics, self.scene)
            watching = await stack.enter_async_context(_running(watcher.run()))
            published = await self._live(view, watching)
            deadline = loop.time() + _CATCH_UP_S
            while not self._caught_up() and loop.time() < deadline:
                await self._step(view, "the last frames are judged", watching)
            view.update("the worker drains", loop.time())
            code = await worker.stop()
            await watcher.finish()
            await watching
            law = await self._law(published)
        # The labels are opened here, where no answer can come any more.
        return Result(self.scene, law, code, loop.time() - begin, cycles_left())

    def _caught_up(self) -> bool:
        return self.scene.caught_up(self._last_seq) and self.scene.lives.caught_up()

    async def _live(self, view: View, watching: "asyncio.Future[None]") -> int:
        """Publish the plant's past, then its present for `seconds`, the turbofans beside it; return how many frames."""
        loop, until = asyncio.get_running_loop(), asyncio.Event()
        end = loop.time() + self.seconds
        async with Publisher(self.cfg, self.topics.name(TELEMETRY), self.topics.name(ASSET)) as publisher:
            schedule = Schedule(loop.time(), self.plant.frame_period_s, HISTORY_S)
            publish = publish_plant(self.plant, publisher, schedule, until, sending=self._sending)
            flights = Schedule(loop.time(), self.fleet.frame_period_s)
            fly = publish_plant(self.fleet, publisher, flights, until, sending=self._flying)
            async with _running(publish) as publishing, _running(fly) as flying:
                while loop.time() < end:
                    phase = "live" if self._level else "the worker starts"
                    await self._step(view, phase, watching, publishing, flying)
                until.set()
                await publishing
                await flying
        return publisher.frames

    def _sending(self, seq: int, now: float) -> None:
        # What has to wait until the worker has started and caught up says nothing about its speed.
        self._level = self._level or self.scene.caught_up(seq - 3)
        if self._level:
            self.scene.sending(seq, now)
        self._last_seq = seq

    def _flying(self, seq: int, now: float) -> None:
        self.scene.lives.sending(seq)

    async def _step(self, view: View, phase: str, *tasks: "asyncio.Future[None]") -> None:
        """Show the scene and let a moment pass; raise what ended the worker or a task."""
        view.update(phase, asyncio.get_running_loop().time())
        assert self._worker is not None
        self._worker.check()
        for task in tasks:
            if task.done():
                task.result()
        await asyncio.sleep(_STEP_S)

    async def _law(self, published: int) -> Law:
        """Read the group's last checkpoints."""
        state, telemetry = self.topics.name(STATE), self.topics.name(TELEMETRY)
        prefix = key_prefix(self.group, telemetry).encode()
        partitions = []
        for number, (_, end) in sorted((await offset_ranges(self.cfg, telemetry)).items()):
            raw = await read_compacted(self.cfg, state, number, prefix)
            stored = sort_out({k.removeprefix(prefix).decode(): v for k, v in raw.items()})
            partitions.append((stored.records, end))
        return law_of(published, partitions)


@asynccontextmanager
async def _running(coroutine: Coroutine[Any, Any, None]) -> "AsyncIterator[asyncio.Future[None]]":
    """Run a coroutine beside us; leaving ends it."""
    task = asyncio.ensure_future(coroutine)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # its error has been raised by `_step`, or another one has
