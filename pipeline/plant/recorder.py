"""Recorder: from topics to a capture file, without a group, births first."""

import asyncio
from collections.abc import Callable

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from pipeline.broker import BrokerConfig
from pipeline.ops.reader import assigned
from pipeline.plant.capture import Record

#: How long a fetch may wait for news; bounds how late `until` and the end of a topic are noticed.
_WAIT_MS = 200


async def record(  # noqa: PLR0913  (what, from where, until when)
    cfg: BrokerConfig, births: str, telemetry: str, write: Callable[[Record], None], *, follow: bool, new_only: bool,
    until: asyncio.Event,
) -> None:
    """Write the births there are, then the telemetry topic's records, oldest first within each partition.

    follow: go on with new records until `until` is set, and with births that come later; else stop where the topic
    ended at the start. new_only: leave out the frames that are there already. Raises BrokerError, Retryable.
    """
    async with assigned(cfg, births, telemetry) as (consumer, tps):
        asset_parts, parts = ([tp for tp in tps if tp.topic == topic] for topic in (births, telemetry))
        await _copy(consumer, asset_parts, write, until)
        if not follow:
            await _copy(consumer, parts, write, until)
            return
        begin = await (consumer.end_offsets if new_only else consumer.beginning_offsets)(parts)
        begin |= await consumer.end_offsets(asset_parts)
        consumer.assign(tps)
        for tp, offset in begin.items():
            consumer.seek(tp, offset)
        while not until.is_set():
            for records in (await consumer.getmany(timeout_ms=_WAIT_MS)).values():
                for r in records:
                    write(_record(r))


async def _copy(
    consumer: AIOKafkaConsumer, parts: list[TopicPartition], write: Callable[[Record], None], until: asyncio.Event
) -> None:
    """Write what the partitions hold now, from their beginning."""
    consumer.assign(parts)
    await consumer.seek_to_beginning(*parts)
    ends = await consumer.end_offsets(parts)
    left = {tp for tp in parts if await consumer.position(tp) < ends[tp]}
    while left and not until.is_set():
        for tp, records in (await consumer.getmany(*left, timeout_ms=_WAIT_MS)).items():
            for r in records:
                if r.offset < ends[tp]:
                    write(_record(r))
        # Positions, not offsets seen: the newest record may have been compacted away, or be a transaction's marker.
        left = {tp for tp in left if await consumer.position(tp) < ends[tp]}


def _record(r: "ConsumerRecord[bytes | None, bytes | None]") -> Record:
    return Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value)
