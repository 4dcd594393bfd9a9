"""Custody: whose state a partition's is. Restores it when the group assigns the partition, makes it durable while we
own it, lets it go when the group takes it away (a PartitionOwner of pipeline.partitions).

A checkpoint goes in this order, each step acknowledged before the next: alerts, blocks, manifest, offset.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer

from pipeline import checkpoint, terms
from pipeline.checkpoint import Manifest, Snapshot
from pipeline.columns import Effects
from pipeline.errors import BrokerError, Rejected
from pipeline.flow import Flow, Step
from pipeline.ops import heap
from pipeline.ops.settings import Settings
from pipeline.partitions import TP, Committed
from pipeline.publish import Publisher, write
from pipeline.state import Partition, Pool
from pipeline.store import Store
from pipeline.telemetry import Telemetry
from pipeline.worker import Worker
from schemas import AssetBirth
from schemas.codec import decode_alert
from schemas.topics import STATE, TELEMETRY


class Custody:
    """Keeps the partitions' state in the broker. partitions: how many the telemetry topic has."""

    def __init__(self, settings: Settings, flow: Flow, worker: Worker, publisher: Publisher, producer: AIOKafkaProducer,
                 store: Store, partitions: int, telemetry: Telemetry) -> None:
        self._settings, self._flow, self._worker, self._publisher = settings, flow, worker, publisher
        self._producer, self._store, self._partitions, self._telemetry = producer, store, partitions, telemetry
        self._topic, self._state = settings.topics.name(TELEMETRY), settings.topics.name(STATE)
        self._prefix = checkpoint.key_prefix(settings.group.id, self._topic)
        self.consumer: Any = None
        self.births_known = asyncio.Event()
        self._writing, self._swapping = asyncio.Lock(), asyncio.Lock()
        self._last: dict[int, Manifest] = {}
        self._state_bytes: dict[int, int] = {}  # of each partition's last checkpoint

    def unfinished(self) -> int:
        """Return how many records since the last manifests the next owner will process again."""
        return sum(p.position - self._last[n].offset for n, p in self._flow.partitions.items() if n in self._last)

    # -- partitions come and go

    async def restore(self, partitions: set[TP]) -> dict[TP, int]:
        """Read back state and say where to go on."""
        self._telemetry.hold("restoring")
        await self.births_known.wait()
        numbers = sorted(tp.partition for tp in partitions)
        self._telemetry.events.emit("partitions_assigned", partitions=numbers)
        committed = await self.consumer.committed(partitions)
        positions = {}
        try:
            async with self._worker.admission:
                await self._worker.drain()
                for tp in sorted(partitions):
                    positions[tp] = await self._restore(tp, committed.get(tp))
            # Where a partition begins is durable before the first record is read: a crash would else begin elsewhere
            # and leave open what the first records raised.
            await self.checkpoint([n for n in numbers if n not in self._last])
        except BaseException:  # a new rebalance cancels us: nothing of this assignment may stay
            for tp in partitions:
                self._flow.drop(tp.partition)
            self._publisher.forget()
            raise
        self._telemetry.health.joined = True
        self._telemetry.release("restoring")
        self._telemetry.release("starting")
        return positions

    async def _restore(self, tp: TP, committed: Committed | None) -> int:
        start = time.monotonic()
        stored = terms.sort_out(await self._store.read(tp.partition, self._prefix))
        records = stored.records
        first, end = await self._store.bounds(tp.partition)
        manifest = checkpoint.decode_manifest(records[terms.MANIFEST]) if records else None
        if manifest is not None and manifest.partitions != self._partitions:
            raise BrokerError(f"topic {self._topic} has {self._partitions} partitions, its checkpoints were "
                              f"written for {manifest.partitions}. Assets live on other partitions now: use a new "
                              "group.id, and start = a time, to begin anew")
        why = None
        if manifest is not None and manifest.offset > end:
            why = f"the checkpoint stands at offset {manifest.offset}, the log ends at {end}: the topic was re-created"
        elif manifest is not None and committed is not None and not committed.metadata:
            why = f"an operator committed offset {committed.offset}"
            self._telemetry.events.emit("offset_reset_obeyed", partition=tp.partition, offset=committed.offset)
        if why is not None:
            self._telemetry.events.emit("state_discarded", partition=tp.partition, why=why)
            records, manifest = {}, None
        # of a topic that was re-created everything is new, whatever the group had committed
        cut = max(manifest.offset if manifest else 0, committed.offset if committed else 0) > end
        if cut:
            records, manifest = {}, None
        begin = first if cut else await self._store.begin(tp.partition, committed, first, end)
        restored = checkpoint.restore(tp.partition, records, self._pool_for, begin, self._flow.births.share)
        part, position = restored.partition, restored.position
        part.term, part.stale = stored.next_term(uuid.uuid4().hex[:8]), stored.keys
        for name, fields in restored.notes:
            self._telemetry.events.emit(name, partition=tp.partition, **fields)
        if position < first:
            self.hole(tp, position, first)
            self._flow.skip(part)
            position = part.position = first
        if manifest is not None:
            self._last[tp.partition] = manifest
        await self._worker.carry(self._flow.adopt(part, time.monotonic(), end))
        self._republish(part)
        self._telemetry.events.emit("restore_done", partition=tp.partition, position=position, assets=part.assets,
                          seconds=round(time.monotonic() - start, 3))
        return position

    def _pool_for(self, birth: AssetBirth) -> Pool | None:
        try:
            return self._flow.seats.new_pool(birth)
        except Rejected as error:
            self._telemetry.events.emit("birth_unroutable", asset=birth.asset, why=str(error))
            return None

    def _republish(self, part: Partition) -> None:
        """Say again which alerts are open: a predecessor's late write may have overtaken its own clear."""
        now_ms = time.time_ns() // 1_000_000
        for pool in part.order:
            for value in pool.open.values():
                self._publisher.send_alert(decode_alert(value), value, now_ms, history=False)

    async def release(self, partitions: set[TP]) -> None:
        """Drain, checkpoint, and forget the partitions; called while we still own them."""
        numbers = [tp.partition for tp in partitions if tp.partition in self._flow.partitions]
        self._telemetry.hold("rebalancing")
        try:
            await self.checkpoint(numbers, last=True)
        finally:
            self._forget(numbers)
            self._telemetry.release("rebalancing")

    def lost(self, partitions: set[TP]) -> None:
        self._forget([tp.partition for tp in partitions])

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._last.pop(number, None)
            self._state_bytes.pop(number, None)
            self._flow.drop(number)
            self._telemetry.health.revoked(number)
            self._telemetry.metrics.forget(number)
            self._telemetry.events.forget(number)
        self._publisher.forget()
        self._telemetry.events.emit("partitions_revoked", partitions=sorted(numbers))

    def hole(self, tp: TP, expected: int, got: int) -> None:
        part = self._flow.partitions.get(tp.partition)
        if got < expected and part is not None:
            self._start_over(part, got, f"offset {expected} was due, the log goes on at {got}: the topic is a new one")
            return
        self._telemetry.events.emit("log_hole", partition=tp.partition, expected=expected, got=got,
                                    records=max(0, got - expected))
        if part is not None:
            self._flow.skip(part)

    def _start_over(self, old: Partition, position: int, why: str) -> None:
        """Discard a partition's state: offsets no longer mean what they meant."""
        self._telemetry.events.emit("state_discarded", partition=old.number, why=why)
        part = Partition(old.number, position)
        part.term = terms.renewed(old.term)
        self._last.pop(old.number, None)
        self._worker.run(self._flow.adopt(part, time.monotonic(), position))

    def fenced(self, error: BrokerError) -> None:
        self._telemetry.events.emit("fenced", why=str(error))
        self._worker.fail(error)

    # -- checkpoints

    async def checkpoints(self) -> None:
        """Write a checkpoint every `interval_s`, or every `every_frames`; a task for the worker's life.

        One partition after the other: the flow pauses, and memory holds a copy, for one at a time.
        """
        conf, last = self._settings.checkpoint, time.monotonic()
        while True:
            await asyncio.sleep(0.05 if conf.every_frames else min(0.25, conf.interval_s))
            budget = sum(self._state_bytes.values()) / (conf.write_budget_mb_s * 1e6)
            due = time.monotonic() - last >= max(conf.interval_s, budget)
            if due or (conf.every_frames and self._worker.frames >= conf.every_frames):
                last, self._worker.frames = time.monotonic(), 0
                for number in list(self._flow.partitions):
                    await self.checkpoint([number])
                heap.give_back()  # the blocks' bytes are sent and of no use any more

    async def swap(self, change: Callable[[], Effects | None]) -> bool:
        """Let `change` put another version of a bundle in the old one's place, between two batches.

        What the new version alerts is kept back until it is durable where it began: after a crash the old one goes on
        from before, and nobody has heard of the other. Returns whether `change` did it (None: it did not).
        """
        async with self._swapping:
            try:
                return await self.checkpoint((), change=change)
            except BaseException:  # the process ends by this: the next owner says what there is to say
                self._publisher.release(send=False)
                raise

    async def checkpoint(self, numbers: Sequence[int], *, last: bool = False,
                         change: Callable[[], Effects | None] | None = None) -> bool:
        """Take a checkpoint of these partitions and make it durable: alerts, blocks, manifest, offset.

        last: admit nothing afterwards, for the next owner would do it once more. change: called while nothing is in
        flight, right before the checkpoint of all partitions, unless it returns None; what it causes is held.
        Returns whether there was a checkpoint.
        """
        async with self._writing:
            async with self._worker.admission:
                start = time.monotonic()
                await self._worker.drain()
                numbers = numbers if change is None else list(self._flow.partitions)
                for number in numbers:
                    self._worker.run(self._flow.obey_tombstones(number))
                mark = self._publisher.mark()
                if change is not None:
                    effects = change()
                    if effects is None:
                        return False
                    self._publisher.hold()
                    self._worker.run(Step(effects=effects))
                snaps = list(self._snapshots(numbers, last))
                pause = time.monotonic() - start
            self._state_bytes |= dict.fromkeys(numbers, 0)
            try:
                await self._publisher.acknowledged(mark)
                # What of a lost partition was not acknowledged is forgotten by now: its next owner begins before it.
                snaps = [snap for snap in snaps if self._flow.partitions.get(snap[0].number) is snap[0]]
                # One after the other: a checkpoint never doubles the state in memory, and a broker that gets all of it
                # at once keeps frames and alerts waiting behind it.
                while snaps:
                    await self._write(*snaps[0], pause, start)
                    del snaps[0]
            finally:
                for part, snap in snaps:  # cancelled: what it copied is still to be written
                    checkpoint.put_back(part, snap)
            if change is not None:
                self._publisher.release()
            durable = {TP(self._topic, n): self._last[n] for n in numbers if n in self._last}
            for tp, manifest in durable.items():
                self.consumer.set_safe_offset(tp, manifest.offset, manifest.id)
            await self.consumer.commit_now(durable)
            return True

    def _snapshots(self, numbers: Iterable[int], last: bool) -> Iterator[tuple[Partition, Snapshot]]:
        for number in numbers:
            part, known = self._flow.partitions.get(number), self._last.get(number)
            if part is None:
                continue
            part.closed = last
            if known is None or known.offset != part.position or _dirty(part):
                yield part, checkpoint.take(part, uuid.uuid4().hex, self._partitions)

    async def _write(self, part: Partition, snap: Snapshot, pause: float, start: float) -> None:
        def retry(error: BaseException) -> None:
            self._telemetry.events.emit("checkpoint_failed", partition=part.number, why=repr(error))

        size, prefix = 0, f"{self._prefix}{snap.term}|"
        for key, record in snap.blocks:  # encoded one by one: a checkpoint never doubles the state in memory
            value = checkpoint.encode(record)
            size += len(value)
            await write(self._producer, self._state, part.number, [((prefix + key).encode(), value)], retry)
        self._state_bytes[part.number] = size
        manifest = checkpoint.encode(snap.manifest)
        await write(self._producer, self._state, part.number, [((prefix + terms.MANIFEST).encode(), manifest)], retry)
        stale = [((self._prefix + key).encode(), None) for key in snap.stale]
        await write(self._producer, self._state, part.number, stale, retry)
        if self._flow.partitions.get(part.number) is not part:
            return
        self._last[part.number] = snap.manifest
        checkpoint.durable(part, snap.manifest)
        self._telemetry.events.emit(
            "checkpoint_written", partition=part.number, offset=snap.manifest.offset, bytes=size,
            blocks=len(snap.blocks), pause_s=pause, seconds=time.monotonic() - start)


def _dirty(part: Partition) -> bool:
    return part.unassigned.dirty or any(pool.dirty for pool in part.order)
