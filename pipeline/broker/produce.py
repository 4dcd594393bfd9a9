"""Produce: acknowledged, idempotent, and on the partitions that Kafka's own clients choose."""

import asyncio
import random
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from pipeline.broker.config import BrokerConfig, reaching


def murmur2_partition(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's own clients choose for `key` (murmur2, sign bit cleared, modulo)."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def _partitioner(key: bytes | None, all_partitions: Sequence[int], available: Sequence[int]) -> int:
    if key is None:
        return random.choice(available or all_partitions)
    return murmur2_partition(key, len(all_partitions))


async def make_producer(cfg: BrokerConfig, *, linger_ms: int = 5, max_request_bytes: int = 1 << 20,
                        delivery_timeout_s: float = 60.0) -> AIOKafkaProducer:
    """Start a producer: acks=all, idempotent, murmur2 partitions. The caller stops it.

    delivery_timeout_s: a record not acknowledged by then fails with KafkaTimeoutError; it outlasts a broker's restart.
    Raises Retryable if the broker is away, BrokerError if it has no idempotent producers (Apache Kafka and librdkafka's
    mock have them; Tansu 0.6 does not).
    """
    kwargs = cfg.client_kwargs() | {"request_timeout_ms": int(delivery_timeout_s * 1000)}
    producer = AIOKafkaProducer(
        **kwargs, acks="all", enable_idempotence=True, linger_ms=linger_ms, max_request_size=max_request_bytes,
        partitioner=_partitioner,
    )
    try:
        with reaching(cfg, "start an idempotent producer"):
            async with asyncio.timeout(cfg.request_timeout_s):
                await producer.start()
    except BaseException:
        await producer.stop()
        raise
    return producer
