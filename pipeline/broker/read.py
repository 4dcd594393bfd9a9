"""Read compacted topics without a group: one partition to its end, or all of them for ever."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.structs import TopicPartition

from pipeline.broker.config import BrokerConfig, reaching
from pipeline.errors import Retryable

log = logging.getLogger(__name__)

# A block of state is up to 512 KiB: with the client's 1 MiB per fetch every second one costs a round trip.
_FETCH_BYTES = 16 << 20
# How long a new topic may take to get leaders; librdkafka's mock creates what is asked for.
_LEADERS_S = 5.0
_RECONNECT_S = 1.0  # one attempt, and one log line, per second while the broker is away


@asynccontextmanager
async def open_consumer(
    cfg: BrokerConfig, topic: str, **kwargs: Any
) -> AsyncIterator[tuple[AIOKafkaConsumer, set[int]]]:
    """Connect without a group and find the topic's partitions; UnknownTopicOrPartitionError if it has none."""
    consumer = AIOKafkaConsumer(
        group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", max_partition_fetch_bytes=_FETCH_BYTES,
        fetch_max_wait_ms=100, **cfg.client_kwargs(), **kwargs,
    )
    try:
        await consumer.start()
        await consumer._client.add_topic(topic)  # asks by name: a broker that creates topics by itself does it now
        deadline = asyncio.get_running_loop().time() + _LEADERS_S
        while not (found := consumer.partitions_for_topic(topic)):
            if topic not in await consumer.topics() or asyncio.get_running_loop().time() > deadline:
                raise UnknownTopicOrPartitionError(topic)
            await consumer._client.force_metadata_update()
            await asyncio.sleep(0.1)
        yield consumer, found
    finally:
        await consumer.stop()


async def read_compacted(cfg: BrokerConfig, topic: str, partition: int, key_prefix: bytes = b"") -> dict[bytes, bytes]:
    """Read a partition from its beginning to its end at call time; keep the last value per key that has the prefix.

    Tombstones drop their key. Raises Retryable if the broker goes away, BrokerError if the topic or partition does not
    exist.
    """
    tp = TopicPartition(topic, partition)
    kept: dict[bytes, bytes] = {}
    with reaching(cfg, f"read {topic}[{partition}]"):
        async with open_consumer(cfg, topic) as (consumer, partitions):
            if partition not in partitions:
                raise UnknownTopicOrPartitionError(str(tp))
            consumer.assign([tp])
            end = (await consumer.end_offsets([tp]))[tp]
            position = (await consumer.beginning_offsets([tp]))[tp]
            consumer.seek(tp, position)
            # The position, not the last record's offset: what lies at the end may be a transaction's marker.
            while position < end:
                async with asyncio.timeout(cfg.request_timeout_s):
                    records = (await consumer.getmany(tp, timeout_ms=200)).get(tp, ())
                    while not records and await consumer.position(tp) == position:
                        records = (await consumer.getmany(tp, timeout_ms=200)).get(tp, ())
                for record in records:
                    if record.key is None or not record.key.startswith(key_prefix):
                        continue
                    if record.value is None:
                        kept.pop(record.key, None)
                    else:
                        kept[record.key] = record.value
                position = await consumer.position(tp)
    return kept


class Follower:
    """Follow all partitions of a compacted topic from their beginning, without a group, for ever.

    callback(key, value): called on the event loop in offset order per partition; value None is a tombstone. After a
    reconnect nothing is skipped and nothing is repeated. An exception of the callback and a missing topic end the
    follower: `caught_up` and `failed` raise it.
    """

    def __init__(self, cfg: BrokerConfig, topic: str, callback: Callable[[bytes | None, bytes | None], None]) -> None:
        self.cfg, self.topic, self.callback = cfg, topic, callback
        self._positions: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._caught_up = asyncio.Event()
        self._asked: list[asyncio.Future[None]] = []
        self._due: list[tuple[dict[TopicPartition, int], list[asyncio.Future[None]]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin to read in a task of its own; returns at once."""
        self._task = asyncio.create_task(self._run(), name=f"follow {self.topic}")

    async def stop(self) -> None:
        """End the task and close the connection."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # has been told by `failed`, or nobody asked

    async def caught_up(self) -> None:
        """Wait until everything up to the end offsets at the start was handed to the callback."""
        await self._first(self._caught_up.wait())

    async def refresh(self) -> None:
        """Wait until everything that the topic holds at the time of this call was handed to the callback."""
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        await self._first(asked)

    async def failed(self) -> None:
        """Wait until the follower ends by an error, and raise it. For `asyncio.wait` beside the app's own tasks."""
        await self._first(asyncio.Event().wait())

    async def _first(self, event: Any) -> None:
        task, waiting = self._task, asyncio.ensure_future(event)
        assert task is not None, "the follower was not started"
        try:
            await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if task.done():
            task.result()

    async def _run(self) -> None:
        while True:
            try:
                with reaching(self.cfg, f"follow {self.topic}"):
                    await self._read()
            except Retryable as exc:
                log.warning("%s; trying again", exc)
                await asyncio.sleep(_RECONNECT_S)

    async def _read(self) -> None:
        # Metadata every 5 s instead of 5 min: a partition that is added must not stay unread.
        async with open_consumer(self.cfg, self.topic, metadata_max_age_ms=5000) as (consumer, partitions):
            while True:
                tps = [TopicPartition(self.topic, p) for p in sorted(partitions)]
                self._ends = self._ends or await consumer.end_offsets(tps)
                fresh = [tp for tp in tps if tp not in self._positions]
                self._positions |= await consumer.beginning_offsets(fresh) if fresh else {}
                consumer.assign(tps)
                for tp in tps:
                    consumer.seek(tp, self._positions[tp])
                while consumer.partitions_for_topic(self.topic) in (partitions, None):
                    await self._hand_over(consumer)
                partitions = set(consumer.partitions_for_topic(self.topic))

    async def _hand_over(self, consumer: AIOKafkaConsumer) -> None:
        if not self._caught_up.is_set() and all(self._positions[tp] >= end for tp, end in self._ends.items()):
            self._caught_up.set()
        if self._asked:
            asked, self._asked = self._asked, []
            self._due.append((await consumer.end_offsets(list(self._positions)), asked))
        for tp, records in (await consumer.getmany(timeout_ms=50 if self._due else 200)).items():
            for record in records:
                self.callback(record.key, record.value)
                self._positions[tp] = record.offset + 1
        for tp in self._positions:
            self._positions[tp] = await consumer.position(tp)  # passes markers of transactions
        for ends, waiting in list(self._due):
            if all(self._positions.get(tp, 0) >= end for tp, end in ends.items()):
                self._due.remove((ends, waiting))
                for future in waiting:
                    if not future.done():
                        future.set_result(None)
