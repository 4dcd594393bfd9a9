"""The consumer's thread: fetches lists of records, seeks, commits with metadata, watches the group's answers."""
# ruff: noqa: TID251

import asyncio
import logging
import time
from collections.abc import Coroutine
from itertools import islice
from typing import Any, TypeVar

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    GroupCoordinatorNotAvailableError,
    IllegalStateError,
    KafkaError,
)
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as drv

from pipeline.errors import BrokerError
from pipeline.partitions import TP, Committed, RecordBatch

log = logging.getLogger(__name__)
T = TypeVar("T")

# Kafka's error codes; aiokafka has no class for the last
_UNKNOWN_MEMBER_ID, _REBALANCE_IN_PROGRESS, _FENCED_INSTANCE_ID = 25, 27, 82
# aiokafka leaves the group when nobody fetched for max.poll.interval (Faust: 1000 s), so also when every partition is
# full because we hold; and it does not come back, since with its partitions gone nobody fetches. Whether a silent
# worker is stuck is the watchdog's question.
_NEVER_MS = 1 << 53
_NO_JOIN_S = 0.1  # between two requests to join that a stopping worker does not send; it stops within a second


def _as_parsed(tp: TopicPartition, record: Any) -> Any:
    """Stand in for PartitionRecords._consumer_record: its 11-field dataclass is half of aiokafka's time per record."""
    return record


class BatchThread(drv.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The consumer thread: fetches lists, seeks, commits with metadata, watches the group's answers."""

    epoch = 0             # counts the seeks; written in this thread only
    heartbeat_at = 0.0    # monotonic time at which we sent the last request whose answer confirmed our membership
    fenced = False        # another member has our group instance id
    _known_member = ""    # our member id at the last join, for static members

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = transport.options.fetch_max_wait_ms  # Faust passes a literal 1500
        consumer._fetch_min_bytes = transport.options.fetch_min_bytes      # and leaves this at 1
        consumer._max_poll_interval_ms = _NEVER_MS
        return consumer

    async def on_start(self) -> None:
        try:
            await super().on_start()
        except KafkaError as exc:
            raise BrokerError(f"cannot reach {self.app.conf.broker_consumer}: {exc!r}") from exc
        if not self.app.client_only:
            coordinator = self._consumer._coordinator
            self._send, coordinator._send_req = coordinator._send_req, self._watched_send

    async def on_thread_stop(self) -> None:
        # With the broker away the farewell to the group waits for a request timeout; a rebalance that waits for the
        # main thread, which waits for us, would wait for ever.
        try:
            async with asyncio.timeout(self.transport.options.stop_timeout_s):
                await super().on_thread_stop()
        except TimeoutError:
            log.warning("consumer did not close within %.1f s; left to the session timeout",
                        self.transport.options.stop_timeout_s)
            await self._consumer._client.close()  # the connections: needs no answer from the broker

    async def _watched_send(self, request: Any) -> Any:
        """Send to the group coordinator, note heartbeats, find out whether another member took over our instance id.

        aiokafka's heartbeats carry no instance id, so the broker calls a displaced member unknown; aiokafka then
        forgets its member id, joins anew and displaces the other in turn, for ever. The old id makes the broker say it.
        """
        join = isinstance(request, JoinGroupRequest)
        if join and self.app.should_stop:
            # A worker that ends has nothing to join for: the partitions it got would stand still for a session timeout.
            await asyncio.sleep(_NO_JOIN_S)
            raise GroupCoordinatorNotAvailableError("the worker is stopping")
        if join and request._group_instance_id and not request._member_id:
            request._member_id = self._known_member
        # Not of the answer: it may have lain in the socket while this process stood still.
        sent_at = time.monotonic()
        response = await self._send(request)
        if join or isinstance(request, (SyncGroupRequest, HeartbeatRequest)):
            if response.error_code in (0, _REBALANCE_IN_PROGRESS):  # the second waits for us to let go, and knows us
                self.heartbeat_at = sent_at
                self._known_member = response.member_id if join else self._known_member
            elif response.error_code == _FENCED_INSTANCE_ID:
                self.fenced = True
                self.parent_loop.call_soon_threadsafe(self.consumer.on_fenced)
            elif join and response.error_code == _UNKNOWN_MEMBER_ID:
                self._known_member = ""
        return response

    def lost_membership(self) -> bool:
        return bool(self._consumer is None or self._consumer._coordinator.generation == drv.DEFAULT_GENERATION_ID)

    async def here(self, work: Coroutine[Any, Any, T]) -> T:
        """Run in this thread without Faust's method queue: its two workers may both be waiting for the broker."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.thread_loop))

    async def _fetch_records(self, consumer: Any, active_partitions: Any, timeout: float | None = None,
                             max_records: int | None = None) -> dict[Any, Any]:
        """Drain aiokafka's fetcher as its own `fetched_records` does, but batch topics as lists of RecordBatch."""
        if not self.consumer.flow_active or self.fenced:
            return {}
        try:
            return await self._wait_and_drain(consumer, active_partitions, timeout, max_records)
        except KafkaError as exc:
            if self.fenced:
                return {}  # KafkaError('UnknownError()') must not crash the app before our error does
            raise BrokerError(f"cannot read as group {self.app.conf.id} from {self.app.conf.broker_consumer}: {exc!r}. "
                              "Check the account's rights on group and topic.") from exc

    async def _wait_and_drain(self, consumer: Any, active_partitions: Any, timeout: float | None,
                              max_records: int | None) -> dict[Any, Any]:
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        deadline = time.monotonic() + (timeout or 0)
        with fetcher._subscriptions.fetch_context():
            while True:
                if fetcher._subscriptions.reassignment_in_progress:
                    await fetcher._subscriptions.wait_for_assignment()
                drained = self._drain(fetcher, active_partitions, max_records)
                left = deadline - time.monotonic()
                if drained or left <= 0:
                    return drained
                waiter = fetcher._create_fetch_waiter()
                done, _ = await asyncio.wait([waiter], timeout=left)
                if not done or fetcher._closed:
                    waiter.cancel()
                    return {}
                waiter.result()  # raises what the coordinator found: authorisation, a fatal error

    def _drain(self, fetcher: Any, active: Any, max_records: int | None) -> dict[Any, Any]:
        drained: dict[Any, Any] = {}
        for tp in list(fetcher._records):
            # `is not None`: upstream tests the truth of a set that may be empty because everything is paused.
            if active is not None and tp not in active:
                if not fetcher._subscriptions.is_assigned(tp):
                    del fetcher._records[tp]
                continue
            result = fetcher._records[tp]
            if type(result) is FetchResult:
                batch = tp.topic in self.consumer.batch_topics
                # A call that outlasts a rebalance finds what comes after the seek while the flow is still stopped;
                # Faust would drop it, and it would be a hole in the log.
                if batch and not self.consumer.open_to(self.epoch):
                    continue
                records = self._take(result, tp) if batch else result.getall(max_records)
                if records:
                    drained[tp] = records
                if result.has_more():
                    continue
            elif drained:
                break  # an error: raised by the next call
            del fetcher._records[tp]
            fetcher._notify(fetcher._wait_consume_future)
            if type(result) is not FetchResult:
                result.check_raise()
        return drained

    def _take(self, result: Any, tp: TopicPartition) -> list[RecordBatch]:
        """Cut what back-pressure allows into batches; the rest stays unparsed. aiokafka goes on checking CRCs."""
        if not result.check_assignment(tp) or not result.has_more():
            return []
        max_batch, max_inflight = self.consumer.batch_topics[tp.topic]
        room = max(1, max_inflight - self.consumer.in_flight(tp))
        parsed = result._partition_records
        parsed._consumer_record = _as_parsed
        start, now, out, exhausted = parsed.next_fetch_offset, time.time(), [], False
        while room > 0 and not exhausted:
            wanted = min(max_batch, room)
            records = list(islice(parsed._records_iterator, wanted))
            exhausted = len(records) < wanted
            if records:
                out.append(RecordBatch(TP(*tp), records, start, parsed.next_fetch_offset, now))
                out[-1]._epoch = self.epoch
            elif out:
                out[-1].next_offset = parsed.next_fetch_offset  # control records at the end
            start, room = parsed.next_fetch_offset, room - len(records)
        result._update_position()
        if exhausted:
            result._partition_records = None
        return out

    def wake_fetch(self) -> None:
        """Look at the fetched records now: aiokafka wakes a parked fetch call for new data only, else after 1 s."""
        fetcher = self._consumer._fetcher if self._consumer is not None else None
        if fetcher is not None:
            self.thread_loop.call_soon_threadsafe(lambda: [fetcher._notify(w) for w in list(fetcher._fetch_waiters)])

    async def seek_to_committed(self) -> dict[Any, Any]:
        # Faust seeks whenever the flow was interrupted; positions of batch topics come from their owner alone.
        consumer = self._ensure_consumer()
        ordinary = [tp for tp in consumer.assignment() if tp.topic not in self.consumer.batch_topics]
        return await self.call_thread(consumer.seek_to_committed, *ordinary) if ordinary else {}

    async def seek_all(self, positions: dict[TP, int], reset: set[TP]) -> None:
        """Seek; what is read from there on has the next epoch. No await: no fetch comes between counter and seek."""
        fetcher = self._ensure_consumer()._fetcher
        self.epoch += 1
        for tp, offset in positions.items():
            fetcher.seek_to(TopicPartition(*tp), offset)
        fetcher.request_offset_reset([TopicPartition(*tp) for tp in reset], fetcher._default_reset_strategy)

    async def commit_safe(self, offsets: dict[TP, Committed]) -> bool:
        wire = {TopicPartition(*tp): OffsetAndMetadata(*safe) for tp, safe in offsets.items()}
        try:
            await self._ensure_consumer().commit(wire)  # Faust's own commit sends an empty metadata string
        except (CommitFailedError, IllegalStateError):
            return False  # the group has rebalanced; the next owner starts from the checkpoint
        except KafkaError as exc:
            raise BrokerError(f"broker refuses the commit of {offsets} for group {self.app.conf.id}: {exc!r}. "
                              "Check the group's ACL and the broker's offset.metadata.max.bytes.") from exc
        return True

    async def fetch_committed(self, tps: set[TP]) -> dict[TP, Committed | None]:
        ask = self._ensure_consumer()._coordinator.fetch_committed_offsets
        try:
            found = await ask([TopicPartition(*tp) for tp in tps])
        except KafkaError as exc:
            raise BrokerError(f"cannot read the offsets of group {self.app.conf.id}: {exc!r}") from exc
        return {tp: Committed(found[tp].offset, found[tp].metadata or "") if tp in found else None for tp in tps}
