"""Recorder: from topics to a capture file, without a group, births first."""

import asyncio
from collections.abc import Callable

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.broker import BrokerConfig, partition_count
from pipeline.errors import BrokerError
from pipeline.plant.capture import Record

#: How long a fetch may wait for news; bounds how late `until` and the end of a topic are noticed.
_WAIT_MS = 200


async def record(  # noqa: PLR0913  (what, from where, until when)
    cfg: BrokerConfig, births: str, telemetry: str, write: Callable[[Record], None], *, follow: bool, new_only: bool,
    until: asyncio.Event,
) -> None:
    """Write the births there are, then the telemetry topic's records, oldest first within each partition.

    follow: go on with new records until `until` is set, and with births that come later; else stop where the topic
    ended at the start. new_only: leave out the frames that are there already. Raises BrokerError.
    """
    consumer = AIOKafkaConsumer(enable_auto_commit=False, auto_offset_reset="earliest", **cfg.client_kwargs())
    try:
        await consumer.start()
        asset_parts, parts = [await _partitions(cfg, t) for t in (births, telemetry)]
        await _copy(consumer, asset_parts, write, until)
        if new_only:
            consumer.assign(parts)
            await consumer.seek_to_end(*parts)
            begin = {tp: await consumer.position(tp) for tp in parts}
        else:
            begin = dict(await consumer.beginning_offsets(parts))
        if not follow:
            await _copy(consumer, parts, write, until)
            return
        begin |= await consumer.end_offsets(asset_parts)
        consumer.assign([*asset_parts, *parts])
        for tp, offset in begin.items():
            consumer.seek(tp, offset)
        while not until.is_set():
            for records in (await consumer.getmany(timeout_ms=_WAIT_MS)).values():
                for r in records:
                    write(_record(r))
    except KafkaError as error:
        raise BrokerError(
            f"{cfg.bootstrap}: reading {telemetry} failed: {type(error).__name__} {error}. "
            "`kizashi doctor` says what is wrong"
        ) from error
    finally:
        await consumer.stop()


async def _partitions(cfg: BrokerConfig, topic: str) -> list[TopicPartition]:
    count = await partition_count(cfg, topic)
    if not count:
        raise BrokerError(f"{cfg.bootstrap} has no topic {topic}; `kizashi topics apply` creates it")
    return [TopicPartition(topic, p) for p in range(count)]


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
