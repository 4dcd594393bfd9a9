"""The consumer: hands batches over, bounds what is in flight, lets the partitions' owner restore, release, commit."""
# ruff: noqa: TID251

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Any

from aiokafka.errors import IllegalStateError
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as drv

from pipeline.errors import BrokerError, ConfigError, Retryable
from pipeline.partitions import TP, Committed, PartitionOwner, RecordBatch
from pipeline.transport.thread import BatchThread
from pipeline.transport.topic import BatchMessage, BatchTopic, Flight

log = logging.getLogger(__name__)

# A commit is one request to the coordinator; on a revoke or a shutdown a broker that is away must not hold us longer.
_LAST_COMMIT_S = 2.0
_RETRY_S = 1.0  # one attempt, and one log line, per second while the broker is away


class BatchConsumer(drv.Consumer):  # type: ignore[misc]
    """Consumer whose positions and commits for batch topics come from the partitions' owner alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.batch_topics: dict[str, tuple[int, int]] = {}  # name -> (max_batch, max_inflight)
        self._flights: dict[TP, Flight] = {}               # partitions that we own, their restore finished
        self._safe: dict[TP, Committed] = {}
        self._sent: dict[TP, Committed] = {}
        self._waiting: set[TP] = set()                      # assigned, not restored yet
        self._restoring: asyncio.Task[None] | None = None
        self._restored = asyncio.Event()
        self._accept = -1                                   # the epoch whose batches are handed over
        self._fenced = False
        self._drainer: asyncio.Task[Any] | None = None
        self._room = asyncio.Event()
        self._commit_lock, self._release_lock = asyncio.Lock(), asyncio.Lock()
        super().__init__(*args, **kwargs)
        self._hand_on: Any = self.callback
        self.callback: Any = self._deliver

    def _new_consumer_thread(self) -> BatchThread:
        return BatchThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _owner(self) -> PartitionOwner | None:
        owner: PartitionOwner | None = self.transport.owner
        return owner

    # -- for the application

    def set_safe_offset(self, tp: TP, offset: int, metadata: str) -> None:
        """Make `offset` (next to read after a restart) the one that the next commit carries, with its metadata.

        May be lower than what is committed. Ignored for partitions that we do not own.
        """
        if tp in self._flights:
            self._safe[tp] = Committed(offset, metadata)

    async def commit_now(self, tps: Iterable[TP]) -> bool:
        """Commit the safe offsets of `tps` and wait for the broker's answer; False if the group has rebalanced.

        Waits as long as the broker is away. Raises BrokerError if the broker refuses.
        """
        async with self._commit_lock:
            due = {tp: safe for tp in tps if (safe := self._safe.get(tp)) and safe != self._sent.get(tp)}
            if not due:
                return True
            if self._fenced or not await self._thread.here(self._thread.commit_safe(due)):
                return False
            self._sent.update(due)
            return True

    async def committed(self, tps: Iterable[TP]) -> dict[TP, Committed | None]:
        """Read from the group coordinator what is committed for `tps`; None where nothing is."""
        thread: BatchThread = self._thread
        return await thread.here(thread.fetch_committed(set(tps)))

    def in_flight(self, tp: TP) -> int:
        """Count the records of `tp` that were handed over and not acknowledged."""
        flight = self._flights.get(tp)
        return flight.unacked if flight is not None else 0

    def open_to(self, epoch: int) -> bool:
        """Say whether batches of this epoch would be handed over. Called by the consumer's thread."""
        return bool(self.flow_active) and epoch == self._accept

    def missing_topics(self) -> set[str]:
        """Name the batch topics that the broker does not have. Known once the group has been joined."""
        cluster = self._thread._ensure_consumer()._client.cluster
        return {name for name in self.batch_topics if cluster.partitions_for_topic(name) is None}

    @property
    def heartbeat_age_s(self) -> float | None:
        """Seconds since the group last confirmed our membership; None before the first join."""
        at = self._thread.heartbeat_at
        return time.monotonic() - at if at else None

    # -- delivery and back-pressure

    def _to_message(self, tp: TP, record: Any) -> Any:
        if type(record) is not RecordBatch:
            return super()._to_message(tp, record)
        self._read_offset[tp] = None  # Faust drops what lies below it: wrong after a restore behind the commit
        first, last = record.records[0], record.records[-1]
        message = BatchMessage(
            tp.topic, tp.partition, last.offset, first.timestamp / 1000.0, 0, None, None, record, None, 0, 0, record.tp,
            generation_id=self.app.consumer_generation_id,
        )
        message.count = len(record)
        record._message, record._consumer = message, self
        return message

    async def _deliver(self, message: Any) -> Any:
        if type(message) is BatchMessage:
            batch, flight = message.value, self._flights.get(message.tp)
            if flight is None or batch._epoch != self._accept:
                return None  # fetched before the last seek: it is read again, or is no longer ours
            if flight.expected is not None and batch.start != flight.expected and self._owner is not None:
                self._owner.hole(batch.tp, flight.expected, batch.start)
            flight.expected = batch.next_offset
            message.flight = flight
            flight.add(message.count)
        return await self._hand_on(message)

    def on_buffer_drop(self, tp: TP) -> None:
        # Upstream sleeps 1 s when every partition is full, and up to 1 s until a resumed one is fetched.
        super().on_buffer_drop(ensure_TP(tp))
        self._room.set()
        self._thread.wake_fetch()

    def resume_flow(self) -> None:
        super().resume_flow()
        self._thread.wake_fetch()  # what was found while the flow was stopped, or it waits up to 1 s

    async def _wait_next_records(self, timeout: float) -> Any:
        self._drainer = asyncio.current_task()
        if self.flow_active and self._buffered_partitions and not self._get_active_partitions():
            self._room.clear()
            await self.wait_first(self._room.wait(), self.suspend_flow.wait(), timeout=timeout)
        return await super()._wait_next_records(timeout)

    # -- commits

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        # Faust's timer and its last commit at the stop; BatchTopic has acks=False, so Faust commits none of ours.
        done = await super().force_commit(topics, start_new_transaction)
        return await self.commit_now(list(self._flights)) or done

    # -- partitions come and go

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        if self.app.should_stop:
            return  # upstream closes aiokafka's client from the wrong thread here
        batch = [t for t in self.app.topics if isinstance(t, BatchTopic)]
        self.batch_topics = {name: (t.max_batch, t.max_inflight) for t in batch for name in t.topics}
        both = {n for t in self.app.topics if t not in batch for n in t.topics if n in self.batch_topics}
        if both:
            await self.crash(ConfigError(f"consumed as batches and as single events in one app: {sorted(both)}"))
        self._waiting = {tp for tp in assigned if tp.topic in self.batch_topics}
        self._restored.clear() if self._waiting else self._restored.set()
        self._restoring = None
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Seek ordinary topics to their committed offsets, restore batch topics; recovery resumes the flow after it."""
        self.pause_partitions(self._waiting)
        await super().perform_seek()
        # The fetching task seeks too, when the flow stopped under it: it must not wait for a restore.
        if self._waiting and asyncio.current_task() is not self._drainer:
            if self._restoring is None:
                self._restoring = asyncio.create_task(self._restore(set(self._waiting)))
            # Back within the time that Faust gives us: after that its recovery takes itself for stopped and ends, and
            # no later rebalance resumes the flow. Back in time, it resumes the flow now; our partitions stay paused.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.app.conf.broker_request_timeout / 2):
                    await self._restored.wait()

    async def _positions(self, tps: set[TP]) -> dict[TP, int]:
        while self._owner is not None:
            try:
                return await self._owner.restore(set(tps))
            except Retryable as exc:
                log.warning("restore is tried again in %.0f s: %r", _RETRY_S, exc)
                await asyncio.sleep(_RETRY_S)
        return {}

    async def _restore(self, tps: set[TP]) -> None:
        try:
            positions = await self._positions(tps)
            unsaid = await self.committed(tps - positions.keys())
            positions |= {tp: committed.offset for tp, committed in unsaid.items() if committed}
            # Before the seek: a fetch that began before the pause hands over what comes right after the seek, and a
            # batch that is not accepted by then would be a hole in the log.
            self._flights = {tp: Flight(tp, self.batch_topics[tp.topic][1], self, positions.get(tp)) for tp in tps}
            self._accept = self._thread.epoch + 1
            await self._thread.here(self._thread.seek_all(positions, tps - positions.keys()))
        except IllegalStateError:  # the next rebalance has begun: the partitions are no longer assigned
            self._flights, self._accept = {}, -1
            if self._owner is not None:
                self._owner.lost(tps)
            return
        except Exception as exc:  # a fault of the owner's: its state is unknown, so nothing of it may be committed
            await self.crash(exc)
            return
        self._waiting.clear()
        self.resume_partitions(tps)
        self._restored.set()
        self._thread.wake_fetch()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        if not self.app.should_stop:
            self.stop_flow()
            self.app.flow_control.suspend()
            self.app.flow_control.clear()  # batches not yet taken by the agent: they are read again
        await self.release()
        if not self.app.should_stop:  # else upstream closes aiokafka's client from the wrong thread
            await super().on_partitions_revoked(revoked)

    async def release(self) -> None:
        """Let the owner checkpoint, and commit, while the partitions are ours. Rebalances are eager: all of them."""
        async with self._release_lock:
            self._accept = -1
            if self._restoring is not None and not self._restoring.done():
                self._restoring.cancel()
                await asyncio.wait([self._restoring])
            tps, owner = set(self._flights), self._owner
            if tps and owner is not None and not self._fenced:
                if self._thread.lost_membership():
                    owner.lost(tps)
                elif not self.app.crashed:
                    await self._release_to(owner, tps)
            for flight in self._flights.values():
                flight.live = False
            self._buffered_partitions -= tps
            self._flights, self._safe, self._sent = {}, {}, {}

    async def _release_to(self, owner: PartitionOwner, tps: set[TP]) -> None:
        try:
            async with asyncio.timeout(self.transport.options.release_timeout_s):
                await owner.release(tps)
        except (TimeoutError, Retryable) as exc:
            log.warning("partitions released without a last checkpoint, the next owner repeats work: %r", exc)
        except Exception as exc:  # a fault of the owner's: its state is unknown, so nothing of it may be committed
            await self.crash(exc)
            return
        try:
            async with asyncio.timeout(_LAST_COMMIT_S):
                await self.commit_now(tps)
        except (TimeoutError, BrokerError) as exc:
            log.warning("last commit failed, the next owner repeats work: %r", exc)

    def on_fenced(self) -> None:
        """Stop: the group instance id is another member's now."""
        instance, group = self.app.conf.consumer_group_instance_id, self.app.conf.id
        error = BrokerError(f"group instance id {instance!r} of group {group!r} was taken over by another worker. "
                            "Give each worker its own instance id.")
        if not self._fenced:
            self._fenced, self._accept = True, -1
            if self._owner is not None:
                self._owner.fenced(error)
            self.add_future(self.crash(error))
