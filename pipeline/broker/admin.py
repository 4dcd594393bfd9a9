"""Topics and offsets as the broker has them."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin import NewTopic as WireTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import IncompatibleBrokerVersion, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code
from aiokafka.structs import TopicPartition

from pipeline.broker.config import BrokerConfig, reaching
from pipeline.broker.read import open_consumer

_CREATED_S = 10.0   # a new topic has leaders within 0.1 s on one node, within a few seconds on a busy cluster
_REPLICATION = 3    # survives one broker down while min.insync.replicas=2 still accepts writes


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as the broker has it. settings: broker-side configuration by name, defaults included."""

    name: str
    partitions: int
    replication: int
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic to create. replication -1: three, or as many as there are brokers."""

    name: str
    partitions: int
    replication: int = -1
    settings: Mapping[str, str] = field(default_factory=dict)


@asynccontextmanager
async def _admin(cfg: BrokerConfig) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(**cfg.client_kwargs())
    try:
        await client.start()
        yield client
    finally:
        await client.close()


async def _partitions(admin: AIOKafkaAdminClient) -> dict[str, list[Mapping[str, Any]]]:
    """Return the partitions of every topic. Asks for all topics: asking by name makes some brokers create them."""
    return {t["topic"]: t["partitions"] for t in await admin.describe_topics() if not t["error_code"]}


async def _need_controller(admin: AIOKafkaAdminClient) -> int:
    """Return the number of brokers. Without a controller there is no topic administration (librdkafka's mock)."""
    cluster = await admin.describe_cluster()
    if cluster["controller_id"] not in {broker["node_id"] for broker in cluster["brokers"]}:
        raise IncompatibleBrokerVersion("the cluster has no controller")
    return len(cluster["brokers"])


async def describe_topics(cfg: BrokerConfig, names: Iterable[str]) -> dict[str, TopicInfo | None]:
    """Describe topics with their settings; None where one does not exist. Raises Unsupported where nothing can."""
    out: dict[str, TopicInfo | None] = dict.fromkeys(names)
    with reaching(cfg, "describe topics"):
        async with _admin(cfg) as admin:
            await _need_controller(admin)
            found = await _partitions(admin)
            there = [name for name in out if name in found]
            wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in there]
            for answer in await admin.describe_configs(wanted) if wanted else ():
                for code, _, _, name, entries in answer.resources:
                    if code:
                        raise for_code(code)(name)
                    settings = {entry[0]: entry[1] or "" for entry in entries}
                    out[name] = TopicInfo(name, len(found[name]), len(found[name][0]["replicas"]), settings)
    return out


async def create_topics(cfg: BrokerConfig, topics: Iterable[NewTopic]) -> list[str]:
    """Create those topics that do not exist, wait until they have leaders, and return the names of the new ones.

    Raises BrokerError with the broker's reason for the first that it refuses.
    """
    with reaching(cfg, "create topics"):
        async with _admin(cfg) as admin:
            copies = min(_REPLICATION, await _need_controller(admin))
            found = await _partitions(admin)
            new = {t.name: t for t in topics if t.name not in found}
            wire = [WireTopic(t.name, t.partitions, t.replication if t.replication > 0 else copies,
                              topic_configs=dict(t.settings)) for t in new.values()]
            if wire:
                _raise_refusal((await admin.create_topics(wire)).topic_errors, TopicAlreadyExistsError)
                async with asyncio.timeout(_CREATED_S):
                    while not _led(await _partitions(admin), new):
                        await asyncio.sleep(0.05)
            return list(new)


def _led(found: dict[str, list[Mapping[str, Any]]], new: dict[str, NewTopic]) -> bool:
    return all(name in found and len(found[name]) == topic.partitions and all(p["leader"] >= 0 for p in found[name])
               for name, topic in new.items())


def _raise_refusal(answers: Iterable[tuple[Any, ...]], harmless: type[BaseException]) -> None:
    for topic, code, *message in answers:
        error = for_code(code)
        if code and error is not harmless:
            raise error(f"{topic}: {message[0] if message and message[0] else 'no reason given'}")


async def delete_topics(cfg: BrokerConfig, names: Iterable[str]) -> list[str]:
    """Delete those topics that exist; returns their names."""
    with reaching(cfg, "delete topics"):
        async with _admin(cfg) as admin:
            await _need_controller(admin)
            found = await _partitions(admin)
            there = [name for name in names if name in found]
            if there:
                _raise_refusal((await admin.delete_topics(there)).topic_error_codes, UnknownTopicOrPartitionError)
            return there


async def partition_count(cfg: BrokerConfig, topic: str) -> int | None:
    """Count a topic's partitions; None if it does not exist. Never creates it. Works on every broker."""
    with reaching(cfg, f"look up topic {topic}"):
        async with _admin(cfg) as admin:
            found = (await _partitions(admin)).get(topic)
    return len(found) if found else None


async def offset_ranges(cfg: BrokerConfig, topic: str) -> dict[int, tuple[int, int]]:
    """Return per partition the offset of the oldest record that is kept, and the offset that the next will get."""
    with reaching(cfg, f"look up the offsets of {topic}"):
        async with open_consumer(cfg, topic) as (consumer, partitions):
            tps = [TopicPartition(topic, p) for p in sorted(partitions)]
            first, end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    return {tp.partition: (first[tp], end[tp]) for tp in tps}


async def offsets_for_time(cfg: BrokerConfig, topic: str, partitions: Iterable[int], time_ms: int) -> dict[int, int]:
    """Return per partition the first offset whose timestamp is >= time_ms, the end offset where there is none."""
    with reaching(cfg, f"look up the offsets of {topic} at {time_ms} ms"):
        async with open_consumer(cfg, topic) as (consumer, _):
            tps = [TopicPartition(topic, p) for p in partitions]
            found, end = await consumer.offsets_for_times(dict.fromkeys(tps, time_ms)), await consumer.end_offsets(tps)
    return {tp.partition: found[tp].offset if found[tp] is not None else end[tp] for tp in tps}
