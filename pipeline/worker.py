"""Worker: drives the flow between broker, engine and topics. The async rim around the functional core.

One lock, `admission`, guards the state: whoever holds it may admit records or, once everything in flight is settled,
copy or change what a slot means. Everything here runs on the event loop; engines run in threads of their own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from pipeline import refuse
from pipeline.batch import Batch
from pipeline.births import read_birth, read_key
from pipeline.columns import Effects, Poll
from pipeline.errors import BrokerError, Rejected
from pipeline.flow import Flow, Step
from pipeline.infer import Outcome
from pipeline.ops.metrics import PartitionView
from pipeline.ops.settings import Settings
from pipeline.partitions import TP, RecordBatch
from pipeline.publish import Publisher
from pipeline.serving import Serving
from pipeline.state import Partition
from pipeline.telemetry import Telemetry
from schemas.topics import ASSET, TELEMETRY

_offset, _timestamp, _value = attrgetter("offset"), attrgetter("timestamp"), attrgetter("value")


class _Keys(Sequence[bytes | None]):
    """Keys of records, read only for the few that become dead letters."""

    def __init__(self, records: Sequence[Any]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: Any) -> Any:
        return _Keys(self._records[i]) if isinstance(i, slice) else self._records[i].key


def poll_of(batch: RecordBatch, latest_ms: int) -> Poll:
    """Turn a batch of records into columns.

    Times are the broker's (LogAppendTime). Where a topic takes the producers' (CreateTime), none may lie far ahead of
    the worker's clock (latest_ms), or one broken clock would make every other asset of the partition look silent.
    """
    records, n = batch.records, len(batch)
    dense = batch.next_offset - batch.start == n
    offsets = np.arange(batch.start, batch.next_offset) if dense else np.fromiter(map(_offset, records), np.int64, n)
    stamps = np.fromiter(map(_timestamp, records), np.int64, n)
    if getattr(records[0], "timestamp_type", 0) == 0:
        stamps = np.minimum(stamps, latest_ms)
    return Poll(batch.tp.partition, offsets, stamps, list(map(_value, records)), _Keys(records), batch.next_offset)


async def _nothing() -> None: ...


class Worker:
    """Carries records through the flow. engines: by bundle name."""

    def __init__(self, settings: Settings, flow: Flow, engines: Mapping[str, Serving], publisher: Publisher,
                 telemetry: Telemetry) -> None:
        self._settings, self._flow, self._engines, self._publisher = settings, flow, engines, publisher
        self._telemetry, self._topic = telemetry, settings.topics.name(TELEMETRY)
        self._loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[BaseException] = self._loop.create_future()
        self.highwater: Callable[[TP], int | None] = lambda tp: None
        self.refresh_births: Callable[[], Awaitable[None]] = _nothing
        self.heartbeat_age_s: Callable[[], float | None] = lambda: None
        self._read_at: dict[int, float] = {}  # when a partition's time was last read from its log, monotonic
        self.admission = asyncio.Lock()
        self.frames = 0  # admitted since the last checkpoint
        self._queue: deque[Batch] = deque()
        self._in_flight = 0
        self._settled = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._births: deque[tuple[bytes | None, bytes | None]] = deque()  # heard of, not yet applied
        self._births_heard, self._births_applied = asyncio.Event(), asyncio.Event()
        self._births_applied.set()
        self._beat_at = time.monotonic()

    # -- records

    async def on_batch(self, batch: RecordBatch) -> None:
        """Carry records as far as the engine; returns when the next ones may come (back-pressure)."""
        limit = self._settings.worker.max_pending_alerts
        if self._publisher.crowded(limit, time.monotonic()):
            self._telemetry.hold("publishing")
            await self._publisher.relieved(limit)
            self._telemetry.release("publishing")
        async with self.admission:
            part = self._flow.partitions.get(batch.tp.partition)
            poll = None if part is None else self._due(part, batch)
            if poll is None:
                return
            self.frames += len(poll)
            self._read_at[batch.tp.partition] = time.monotonic()
            while poll is not None and self._flow.partitions.get(poll.partition) is part:
                start = time.perf_counter()
                step = self._flow.admit(poll, time.monotonic())
                self._telemetry.metrics.admit_seconds.observe(time.perf_counter() - start)
                self.run(step)
                poll = step.rest
                if poll is not None:
                    await self.drain()
            if self._flow.partitions.get(batch.tp.partition) is part and self._flow.overdue(batch.tp.partition):
                await self._give_up(batch.tp.partition)
            while self._queue:  # the engine is busy with what came before
                await self._next_settled()

    def _due(self, part: Partition, batch: RecordBatch) -> Poll | None:
        """Return what of a batch is to be admitted, None if nothing is.

        A batch that waited here while its partition was given away and came back is read again after the restore: by
        the partition's position each record is admitted once.
        """
        if part.closed or batch.next_offset <= part.position:
            return None
        poll = poll_of(batch, round((time.time() + self._settings.worker.max_future_s) * 1000))
        done = int(np.searchsorted(poll.offsets, part.position))
        return poll if not done else Poll(poll.partition, poll.offsets[done:], poll.timestamps_ms[done:],
                                          poll.values[done:], poll.keys[done:], poll.next_offset)

    async def _give_up(self, number: int) -> None:
        """Dead-letter frames without a birth, but not before every birth that was published is known."""
        await self.refresh_births()
        await self._apply_births()
        if number in self._flow.partitions:
            self._report(self._flow.give_up(number))

    def run(self, step: Step) -> None:
        self._report(step.effects)
        self._queue += step.batches
        self._pump()

    async def carry(self, step: Step) -> None:
        """Run a step and what goes on after it once that is settled. Call with `admission` held."""
        self.run(step)
        while step.more is not None:
            await self.drain()
            step = step.more()
            self.run(step)

    def _pump(self) -> None:
        """Hand batches to the engine, in order, as long as it is not busy; set the timer for the open one."""
        now = time.monotonic()
        if self._in_flight < self._settings.batch.in_flight and not self._queue:
            self._queue += self._flow.tick(now).batches
        while self._queue and self._in_flight < self._settings.batch.in_flight:
            batch = self._queue.popleft()
            self._in_flight += 1
            self._telemetry.metrics.queue_seconds.observe(now - batch.opened_at)
            self._telemetry.metrics.batch_rows.observe(batch.n)

            def done(outcome: Outcome | BaseException, batch: Batch = batch, started: float = now) -> None:
                self._on_outcome(batch, outcome, started)

            self._engines[self._flow.bundle_of(batch).spec.name].submit(batch.inputs, done)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._flow.deadline
        if deadline is not None and self._in_flight < self._settings.batch.in_flight:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - now), self._pump)

    def _on_outcome(self, batch: Batch, outcome: Outcome | BaseException, started: float) -> None:
        self._in_flight -= 1
        if isinstance(outcome, BaseException):
            self.fail(outcome)
            return
        self._telemetry.metrics.inference_seconds.observe(time.monotonic() - started)
        if outcome.failed:
            self._telemetry.events.emit("batch_split", rows=batch.n, failed=len(outcome.failed), calls=outcome.calls)
        try:
            self._report(self._flow.settle(batch, outcome))
        except Exception as error:  # a callback's exception would only be logged, its rows lost
            self.fail(error)
            raise
        self._settled.set()
        self._pump()

    async def restage(self, name: str) -> None:
        """Let a bundle's batches be filled into arrays of the engine that serves it now."""
        async with self.admission:
            await self.drain()
            self._flow.restage(name)
        await self._engines[name].release()

    async def _next_settled(self) -> None:
        if self.failed.done():
            raise self.failed.result()
        self._settled.clear()
        await self._settled.wait()

    async def drain(self) -> None:
        """Settle everything admitted so far. Call with `admission` held."""
        self._queue += self._flow.flush()
        self._pump()
        while self._in_flight or self._queue:
            await self._next_settled()

    def _report(self, effects: Effects) -> None:
        for event, fields in effects.notes:
            self._telemetry.events.emit(event, **fields)
        if not (effects.alerts or effects.dead_letters or effects.assessments or effects.calibrations):
            return
        if time.monotonic() - self._beat_at > self._settings.group.session_timeout_s:
            # The process stood still: somebody else owns our partitions by now and says what there is to say.
            self.fail(BrokerError(f"the process stood still for over {self._settings.group.session_timeout_s:g} s; its "
                                  "output is discarded, the partitions' new owner repeats the work"))
            return
        if effects.dead_letters:
            self._telemetry.events.dead_letters(effects.dead_letters)
        if effects.alerts:
            self._telemetry.events.alerts(effects.alerts)
        if effects.calibrations:
            done = effects.calibrations
            self._telemetry.events.emit("calibrated", count=len(done), asset=done[-1].asset)
            for suspect in (c for c in done if c.status == "suspect"):
                why = suspect.notes.reason if suspect.notes else ""
                self._telemetry.events.emit("calibration_suspect", asset=suspect.asset, why=why)
        self._publisher.send(effects)

    def fail(self, error: BaseException) -> None:
        """End the worker with this error."""
        if not self.failed.done():
            self.failed.set_result(error)
        self._settled.set()

    def give_up(self) -> None:
        """After a fault: publish and write nothing more, the partitions' next owner repeats the work."""
        for number in list(self._flow.partitions):
            self._flow.drop(number)
        self._publisher.forget()

    async def published(self) -> None:
        """Wait until everything queued is acknowledged."""
        await self._publisher.acknowledged(self._publisher.mark())

    # -- births

    def on_birth(self, key: bytes | None, value: bytes | None) -> None:
        """Hear of a record of the asset topic; what changes slots or releases frames waits for its turn."""
        if value is not None:
            try:
                birth = read_birth(key, value)
            except Rejected as error:
                self._telemetry.events.emit("births_refused", key=repr(key), why=str(error))
                topic = self._settings.topics.name(ASSET)
                self._report(Effects(dead_letters=[refuse.birth(topic, key, value, error)]))
                return
            if not self._births and not self._flow.awaited(birth):
                self._flow.births.add(birth)
                return
        self._births.append((key, value))
        self._births_heard.set()
        self._births_applied.clear()

    async def births_applied(self) -> None:
        """Wait until every birth and tombstone heard of so far is applied."""
        await self._births_applied.wait()

    async def births(self) -> None:
        """Apply births and tombstones that touch slots; a task for the worker's life."""
        while True:
            await self._births_heard.wait()
            async with self.admission:
                await self._apply_births()

    async def _apply_births(self) -> None:
        """Obey what was heard of, in order. Call with `admission` held."""
        while self._births:
            key, value = self._births[0]
            await self.drain()
            if value is not None:
                await self.carry(self._flow.announce(read_birth(key, value), time.monotonic()))
            elif key is not None:
                asset, birth_id = read_key(key)
                self._telemetry.events.emit("asset_retired", asset=asset, birth_id=birth_id)
                self.run(self._flow.retire(asset, birth_id))
            self._births.popleft()
        self._births_heard.clear()
        self._births_applied.set()

    # -- once a second

    async def housekeeping(self) -> None:
        """Beat, show where we are, let silence be noticed; a task for the worker's life."""
        while True:
            now = time.monotonic()
            if now - self._beat_at > self._settings.group.session_timeout_s:
                self.fail(BrokerError("the process stood still for longer than the group waits; another worker owns "
                                      "its partitions now"))
            self._beat_at = now
            self._telemetry.health.beat(now)
            clocks = {}
            heard = self.heartbeat_age_s()
            if heard is None or heard > 3 * self._settings.group.heartbeat_s:
                # No broker, no frames: nobody's silence says anything until frames have had their time to come again.
                self._read_at = dict.fromkeys(self._flow.partitions, now)
            for number, part in self._flow.partitions.items():
                end = self.highwater(TP(self._topic, number))
                end = part.position if end is None else max(end, part.position)
                self._telemetry.health.progress(number, part.position, end, now)
                if part.position >= end and part.now_ms:
                    # the broker's time moved on by our monotonic clock: wall clocks of two machines are never compared
                    clocks[number] = part.now_ms + round((now - self._read_at.setdefault(number, now)) * 1000)
                totals = part.totals()
                self._telemetry.events.frames(number, totals)
                ends = ("judged", "dead_lettered", "late", "duplicate", "shed")
                self._telemetry.metrics.show(number, PartitionView(
                    totals, totals["received"] - sum(totals[e] for e in ends), part.unsettled, end - part.position,
                    part.assets))
            if not self.admission.locked():
                self.run(self._flow.tick(now, clocks))
            self._telemetry.metrics.pending_alerts.set(self._publisher.pending)
            self._telemetry.events.report()
            await asyncio.sleep(1.0)
