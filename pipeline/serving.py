"""Serving: which engine computes a bundle's batches, and what happens when it does not.

There is always a *ground* engine, on the CPU and warm. Where a GPU is used there is a *device* engine besides, which
takes the row shapes that it is ready for. If the device is lost, or hangs past the deadline, the ground takes over
every batch that has no answer yet. Batches come back in the order in which they were submitted, whoever computed them.
All of it runs on the event loop; engines run on threads of their own.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from engines.base import Array, Staging, TensorSpec
from engines.bundle import Bundle
from pipeline.aside import aside
from pipeline.batch import plain
from pipeline.enginethread import EngineThread
from pipeline.errors import ModelError
from pipeline.infer import Outcome
from pipeline.pace import Pace
from pipeline.telemetry import Telemetry

#: A timer that fires this late says that the whole process stood still, the engine with it.
LATE_S = 1.0
#: A closing engine has its queue to finish and memory to free. One that hangs is left to the end of the process.
CLOSE_S = 2.0
#: Letters of the reason that an alert carries: the log has all of it.
MAX_WHY = 200
#: Batches in a row without numbers where the ground finds some: the device is broken, not the data.
MAX_DOUBTFUL = 10

Done = Callable[[Outcome | BaseException], None]
#: Shapes of one row of each input; as a key, sorted by the input's name.
Shapes = Mapping[str, tuple[int, ...]]
Layout = tuple[tuple[str, tuple[int, ...]], ...]


def layout_of(shapes: Shapes) -> Layout:
    """Return row shapes as a key."""
    return tuple(sorted(shapes.items()))


def fit(inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> Mapping[str, Array]:
    """Return the inputs in the dtypes that an engine wants; as they are where they fit."""
    if all(inputs[s.name].dtype == s.dtype for s in specs):
        return inputs
    return {s.name: inputs[s.name].astype(s.dtype, copy=False) for s in specs}


@dataclass(frozen=True, slots=True)
class Active:
    """An engine that serves, warm. why: this one, in one clause. degraded: another one was chosen."""

    thread: EngineThread
    backend: str
    why: str
    degraded: bool = False

    def headers(self, bundle: Bundle) -> list[tuple[str, bytes]]:
        """Return what an alert says about how it came to be."""
        said = [("kizashi_backend", self.backend), ("kizashi_backend_why", self.why[:MAX_WHY]),
                ("kizashi_bundle", bundle.manifest_sha256), *([("kizashi_degraded", "1")] if self.degraded else [])]
        return [(name, value.encode()) for name, value in said]


@dataclass(frozen=True, slots=True)
class Limits:
    """deadline_s: of one batch. restart_after_s: of service after the device was lost, 0: no end."""

    deadline_s: float = 10.0
    restart_after_s: float = 300.0


@dataclass(slots=True)
class Engines:
    """The engines of one bundle. ready: row shapes that the device takes."""

    bundle: Bundle
    ground: Active
    device: Active | None = None
    ready: set[Layout] = field(default_factory=set)

    @property
    def threads(self) -> list[EngineThread]:
        return [self.ground.thread, *([self.device.thread] if self.device is not None else [])]


@dataclass(slots=True, eq=False)
class _Flight:
    """A batch without an answer. by: who has it, None while nobody does."""

    inputs: Mapping[str, Array]
    done: Done
    by: Active | None = None
    sent_at: float = 0.0
    outcome: Outcome | None = None


class Serving:
    """Serves one bundle."""

    def __init__(self, engines: Engines, telemetry: Telemetry, limits: Limits) -> None:
        self._telemetry, self._limits = telemetry, limits
        self._loop = asyncio.get_running_loop()
        self._flights: deque[_Flight] = deque()
        self._moved_at = 0.0  # when an answer last came, loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._speaks: Active | None = None
        self._old: list[EngineThread] = []
        self._asked: dict[Layout, Shapes] = {}
        self._manifest = ""
        self._worn: asyncio.TimerHandle | None = None
        self.on_change: Callable[[str], None] = lambda name: None  # batches want arrays of another engine
        self.on_layout: Callable[[Serving, Shapes], None] = lambda serving, shapes: None  # the device is not ready
        self.on_broken: Callable[[str, str], None] = lambda name, why: None  # nothing can compute: the worker ends
        self.on_worn: Callable[[str], None] = lambda why: None  # it is time for a new process
        self._install(engines)

    @property
    def name(self) -> str:
        return self.engines.bundle.spec.name

    @property
    def bundle(self) -> Bundle:
        return self.engines.bundle

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Return the inputs of the ground."""
        return self.engines.ground.thread.engine.inputs

    @property
    def shapes(self) -> list[Shapes]:
        """Return the row shapes that have been asked for so far."""
        return list(self._asked.values())

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """Return what an alert says about how it came to be: of the batch whose `done` is called, or of now."""
        return (self._speaks or self._main).headers(self.bundle)

    def staging(self, shapes: Shapes, rows: int) -> Staging:
        """Return arrays for batches of `rows` rows: the device's where it is ready for them, else ordinary ones."""
        layout, device = layout_of(shapes), self.engines.device
        self._asked[layout] = shapes
        if device is not None and layout in self.engines.ready:
            return device.thread.staging(shapes, rows)
        if device is not None:
            self.on_layout(self, shapes)
        return plain(self.inputs, shapes, rows)

    def submit(self, inputs: Mapping[str, Array], done: Done) -> None:
        """Compute a batch; `done` is called on the loop, in order, with its outcome or with what ends the worker."""
        flight = _Flight(inputs, done)
        self._flights.append(flight)
        self._send(flight)

    def replace(self, engines: Engines) -> None:
        """Let other engines, and perhaps another version of the bundle, compute what is submitted from now on.

        The old ones finish what they have, and are closed by `release`.
        """
        self._old += [thread for thread in self.engines.threads if thread not in engines.threads]
        self._install(engines)
        self.on_change(self.name)

    def admit(self, shapes: Shapes) -> None:
        """Let the device take rows of these shapes: it is warm for them."""
        self.engines.ready.add(layout_of(shapes))
        self._telemetry.events.emit("engine_ready", bundle=self.name, backend=self._main.backend, rows=dict(shapes))
        self.on_change(self.name)

    async def release(self) -> None:
        """Close the engines that served before. Call once nothing in flight uses their arrays."""
        old, self._old = self._old, []
        if old:
            await asyncio.gather(*(aside(thread.close, CLOSE_S) for thread in old))

    async def close(self) -> None:
        """Close every engine."""
        if self._timer is not None:
            self._timer.cancel()
        self._old += self.engines.threads
        await self.release()

    def _install(self, engines: Engines) -> None:
        if engines.device is not None and self._worn is not None:
            self._worn.cancel()  # the device is back
        if self._manifest != engines.bundle.manifest_sha256:  # another version may want other rows
            self._asked, self._manifest = {}, engines.bundle.manifest_sha256
        self.engines, self._doubtful = engines, 0
        self._pace = Pace(engines.bundle.spec.budget.latency_ms)
        self._main = main = engines.device or engines.ground
        self._stopgap = replace(engines.ground, why=f"{main.backend} is not ready for these rows", degraded=True)
        self._telemetry.serves(self.name, main.backend, main.why, degraded=main.degraded)
        self._telemetry.events.emit(
            "engine_serving", bundle=self.name, version=engines.bundle.spec.version, backend=main.backend, why=main.why,
            manifest=engines.bundle.manifest_sha256, degraded=main.degraded)

    # -- batches

    def _send(self, flight: _Flight) -> None:
        engines, inputs = self.engines, flight.inputs
        by = engines.ground
        if engines.device is not None:
            ready = layout_of({name: array.shape[1:] for name, array in inputs.items()}) in engines.ready
            by = engines.device if ready else self._stopgap
        flight.by, flight.sent_at = by, self._loop.time()

        def done(outcome: Outcome | BaseException) -> None:
            with suppress(RuntimeError):  # the loop is closed: an engine that hung comes back too late for anybody
                self._loop.call_soon_threadsafe(self._on_outcome, flight, by, outcome)

        by.thread.submit(fit(inputs, by.thread.engine.inputs), done)
        if self._timer is None:
            at = flight.sent_at + self._limits.deadline_s
            self._timer = self._loop.call_at(at, self._check, at)

    def _on_outcome(self, flight: _Flight, by: Active, outcome: Outcome | BaseException) -> None:
        if flight.by is not by:
            return  # too late: another engine has this batch
        if isinstance(outcome, BaseException):
            self._give_up(by, f"{type(outcome).__name__}: {outcome}")
        elif by is self.engines.device and not self._sound(outcome):
            self._ask_ground(flight, outcome)
        else:
            self._doubtful = self._doubtful if by is not self.engines.device else 0
            self._accept(flight, outcome)

    def _accept(self, flight: _Flight, outcome: Outcome) -> None:
        flight.outcome = outcome
        self._moved_at = now = self._loop.time()
        slow = self._pace.note(outcome.seconds, now)
        if slow is not None:
            self._telemetry.events.emit("engine_slow", bundle=self.name, backend=self._main.backend, why=slow)
        while self._flights and (ready := self._flights[0].outcome) is not None:
            first = self._flights.popleft()
            self._speaks = first.by
            try:
                first.done(ready)
            finally:
                self._speaks = None

    # -- an engine that does not do its work

    def _check(self, due: float) -> None:
        """Look whether the oldest batch is past its deadline."""
        self._timer, now = None, self._loop.time()
        if not self._flights:
            return
        head = self._flights[0]
        if now - due > LATE_S:
            self._moved_at = now
        at = max(head.sent_at, self._moved_at) + self._limits.deadline_s
        if at > now or head.by is None:
            self._timer = self._loop.call_at(at, self._check, at)
            return
        rows = len(next(iter(head.inputs.values())))
        self._give_up(head.by, f"no answer for a batch of {rows} rows within {self._limits.deadline_s:g} s "
                               "(engine.deadline_s)")

    def _give_up(self, by: Active, why: str) -> None:
        """Take every batch from an engine that is broken, and let the ground compute it."""
        engines = self.engines
        lost = [flight for flight in self._flights if flight.by is not None and flight.by.thread is by.thread
                and flight.outcome is None]
        if by.thread is engines.ground.thread:
            self._fail(why)
            return
        if engines.device is not None and by.thread is engines.device.thread:
            self._telemetry.events.emit("engine_lost", bundle=self.name, backend=by.backend, why=why)
            why = f"{by.backend} was lost: {why}"
            self.replace(Engines(engines.bundle, replace(engines.ground, why=why, degraded=True)))
            self._telemetry.events.emit("degraded", why=f"{self.name}: {why}; {self._main.backend} has taken over")
            patience = self._limits.restart_after_s
            if patience:
                self._worn = self._loop.call_later(
                    patience, self.on_worn, f"{self.name} was served without {by.backend} for {patience:g} s "
                    "(engine.restart_after_s); a new process may have it again")
        for flight in lost:
            self._send(flight)

    def _fail(self, why: str) -> None:
        """Give every batch back: nothing can compute them."""
        error = ModelError(f"the engine of {self.name} broke: {why}. Check the bundle with this ONNX Runtime, "
                           "or restart the worker")
        flights, self._flights = self._flights, deque()
        try:
            for flight in flights:
                flight.by = None
                flight.done(error)
        finally:
            self.on_broken(self.name, why)  # last: it writes files, and whoever drains waits for the batches

    # -- numbers that are none

    def _usable(self, outcome: Outcome) -> int:
        """Return how many rows have a number for a score."""
        usable = np.isfinite(outcome.outputs[self.bundle.spec.outputs.score]).reshape(-1)
        usable[list(outcome.failed)] = False
        return int(usable.sum())

    def _sound(self, outcome: Outcome) -> bool:
        scores = outcome.outputs[self.bundle.spec.outputs.score]
        return bool(np.isfinite(scores).all()) or self._usable(outcome) + len(outcome.failed) == len(scores)

    def _ask_ground(self, flight: _Flight, outcome: Outcome) -> None:
        """Let the CPU compute the batch too: where it finds numbers, they count, and the device is in doubt."""
        ground, device = self.engines.ground, flight.by

        def hear(other: Outcome | BaseException) -> None:
            if flight.by is not device or device is None:
                return  # given up meanwhile
            if not isinstance(other, Outcome) or self._usable(other) <= self._usable(outcome):
                self._doubtful = 0
                self._accept(flight, outcome)
                return
            self._doubtful += 1
            self._telemetry.events.emit("engine_doubtful", bundle=self.name, backend=device.backend,
                                        rows=self._usable(other) - self._usable(outcome))
            flight.by = replace(ground, why=f"{device.backend} gave no numbers for this batch", degraded=True)
            self._accept(flight, other)
            if self._doubtful >= MAX_DOUBTFUL and device is self.engines.device:
                self._give_up(device, f"no numbers in {MAX_DOUBTFUL} batches in a row where the CPU finds some")

        def done(other: Outcome | BaseException) -> None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(hear, other)

        ground.thread.submit(fit(flight.inputs, ground.thread.engine.inputs), done)
