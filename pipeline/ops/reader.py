"""Reads records of a topic without a group, so that looking at a topic changes nothing for its consumers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, Self

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from pipeline.broker import BrokerConfig, partition_count
from pipeline.broker.config import reaching
from pipeline.errors import BrokerError

#: Longest wait for one answer to a fetch; a topic at rest costs ten such questions a second.
_POLL_MS = 100


class Record(Protocol):
    """A record as the client hands it over. timestamp: ms since 1970."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


@asynccontextmanager
async def assigned(
    cfg: BrokerConfig, *topics: str, poll_ms: int = _POLL_MS
) -> AsyncIterator[tuple[Any, list[TopicPartition]]]:
    """Yield a consumer that has all partitions of the topics, and these. poll_ms: how long a fetch waits for news.

    Raises BrokerError if a topic does not exist, Retryable if the broker goes away.
    """
    tps = []
    for topic in topics:
        # Asked first: a consumer that asks for a topic by name creates it where brokers create topics by themselves.
        partitions = await partition_count(cfg, topic)
        if partitions is None:
            raise BrokerError(f"topic {topic} does not exist at {cfg.bootstrap}. Create it: kizashi topics apply")
        tps += [TopicPartition(topic, p) for p in range(partitions)]
    with reaching(cfg, f"read {', '.join(topics)}"):
        consumer = AIOKafkaConsumer(
            group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=poll_ms,
            **cfg.client_kwargs(),
        )
        try:
            await consumer.start()
            consumer.assign(tps)
            yield consumer, tps
        finally:
            await consumer.stop()


async def read(cfg: BrokerConfig, topic: str, *, from_beginning: bool, follow: bool) -> AsyncIterator[Record]:
    """Yield the topic's records: per partition in order, across partitions as they come.

    from_beginning: else only what comes from now on. follow: go on for ever, else end where the topic ends now.
    Raises BrokerError if the topic does not exist, Retryable if the broker goes away.
    """
    async with assigned(cfg, topic) as (consumer, tps):
        ends: dict[TopicPartition, int] = await consumer.end_offsets(tps)
        starts = await consumer.beginning_offsets(tps) if from_beginning else ends
        for tp in tps:
            consumer.seek(tp, starts[tp])
        unread = {tp for tp in tps if follow or starts[tp] < ends[tp]}
        while unread:
            for tp, records in (await consumer.getmany(*unread, timeout_ms=_POLL_MS)).items():
                for record in records:
                    if follow or record.offset < ends[tp]:
                        yield record
            if not follow:  # by position, since markers of transactions are no records
                unread = {tp for tp in unread if await consumer.position(tp) < ends[tp]}


class Fetcher:
    """Reads single records of a topic by their offset; use as an async context."""

    def __init__(self, cfg: BrokerConfig, topic: str) -> None:
        self._cfg, self._topic, self._stack = cfg, topic, AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._consumer, tps = await self._stack.enter_async_context(assigned(self._cfg, self._topic))
        self._starts = await self._consumer.beginning_offsets(tps)
        self._ends = await self._consumer.end_offsets(tps)
        self._consumer.pause(*tps)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    async def fetch(self, partition: int, offset: int) -> Record | None:
        """Return the record, or None if the broker no longer has it."""
        tp = TopicPartition(self._topic, partition)
        if not self._starts.get(tp, 0) <= offset < self._ends.get(tp, 0):
            return None
        self._consumer.seek(tp, offset)
        self._consumer.resume(tp)
        try:
            while await self._consumer.position(tp) <= offset:
                found = await self._consumer.getmany(tp, timeout_ms=_POLL_MS, max_records=1)
                for record in found.get(tp, ()):
                    return record if record.offset == offset else None
        finally:
            self._consumer.pause(tp)
        return None
