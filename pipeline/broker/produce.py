"""Produce: acknowledged, idempotent, and on the partitions that Kafka's own clients choose."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaClient, AIOKafkaProducer
from aiokafka.errors import KafkaError, NodeNotReadyError
from aiokafka.partitioner import murmur2
from aiokafka.protocol.produce import ProduceRequest

from pipeline.broker.config import BrokerConfig, reaching

#: A broker that starts again needs seconds; asking it more often than this only costs.
_METADATA_S = 0.2
#: How often a producer that may not write asks whether it may: a heartbeat's answer takes milliseconds.
_MAY_WRITE_S = 0.02


def murmur2_partition(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's own clients choose for `key` (murmur2, sign bit cleared, modulo)."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def _partitioner(key: bytes | None, all_partitions: Sequence[int], available: Sequence[int]) -> int:
    if key is None:
        return random.choice(available or all_partitions)
    return murmur2_partition(key, len(all_partitions))


def _calm(client: AIOKafkaClient) -> None:
    """Let the client ask for metadata at most every `_METADATA_S`.

    With a batch pending and its leader unknown, aiokafka's sender asks again without a pause: 52,000 log lines and a
    core of CPU in ten seconds without a broker.
    """
    ask, last = client.force_metadata_update, 0.0

    async def later(wait_s: float) -> Any:
        await asyncio.sleep(wait_s)
        return await ask()

    def asked() -> "asyncio.Future[Any]":
        nonlocal last
        now = asyncio.get_running_loop().time()
        wait_s, last = last + _METADATA_S - now, max(now, last + _METADATA_S)
        return asyncio.ensure_future(ask() if wait_s <= 0 else later(wait_s))

    client.force_metadata_update = asked


class Overtaken(KafkaError):  # type: ignore[misc]
    """What a producer still holds is another worker's to say."""


def _only_while(client: AIOKafkaClient, may_write: Callable[[], bool]) -> None:
    """Ask right before records go on the wire, where all that was queued before the process stood still comes by.

    That is on an open connection: TCP, TLS and SASL may take longer than the answer holds.
    """
    send = client.send

    async def guarded(node_id: int, request: Any, **options: Any) -> Any:
        while isinstance(request, ProduceRequest):
            if not await client.ready(node_id, **options):
                raise NodeNotReadyError(f"no connection to node {node_id}")  # as `send` does
            if may_write():
                break
            await asyncio.sleep(_MAY_WRITE_S)
        return await send(node_id, request, **options)

    client.send = guarded


async def make_producer(cfg: BrokerConfig, *, linger_ms: int = 5, max_request_bytes: int = 1 << 20,
                        delivery_timeout_s: float = 60.0,
                        may_write: Callable[[], bool] | None = None) -> AIOKafkaProducer:
    """Start a producer: acks=all, idempotent, murmur2 partitions. The caller stops it.

    delivery_timeout_s: a record not acknowledged by then fails with KafkaTimeoutError; it outlasts a broker's restart.
    may_write: False holds records back, Overtaken makes them fail.
    Raises Retryable if the broker is away, BrokerError if it has no idempotent producers (Apache Kafka and librdkafka's
    mock have them; Tansu 0.6 does not).
    """
    kwargs = cfg.client_kwargs() | {"request_timeout_ms": int(delivery_timeout_s * 1000)}
    producer = AIOKafkaProducer(
        **kwargs, acks="all", enable_idempotence=True, linger_ms=linger_ms, max_request_size=max_request_bytes,
        partitioner=_partitioner,
    )
    _calm(producer.client)
    if may_write is not None:
        _only_while(producer.client, may_write)
    try:
        with reaching(cfg, "start an idempotent producer"):
            async with asyncio.timeout(cfg.request_timeout_s):
                await producer.start()
    except BaseException:
        await producer.stop()
        raise
    return producer
