"""Talk to a broker without a group: read and follow compacted topics, produce, inspect and create topics.

Every failure that waiting can mend raises Retryable; what it cannot (authorisation, TLS) raises BrokerError. A broker that
lacks an admin call (librdkafka's mock cluster has no CreateTopics, DescribeConfigs or DeleteTopics) raises Unsupported: callers
skip the check with a log line.
"""

import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaProducer

from pipeline.errors import BrokerError


class Unsupported(BrokerError):
    """This broker does not offer the call; the message names it."""


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """How to reach a broker. bootstrap: "host:port,host:port". Passwords never show in repr."""

    bootstrap: str
    security_protocol: str = "PLAINTEXT"  # PLAINTEXT | SSL | SASL_PLAINTEXT | SASL_SSL
    ssl_ca: Path | None = None
    ssl_cert: Path | None = None
    ssl_key: Path | None = None
    ssl_key_password: str | None = field(default=None, repr=False)
    sasl_mechanism: str | None = None  # PLAIN | SCRAM-SHA-256 | SCRAM-SHA-512
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    client_id: str = "kizashi"
    request_timeout_s: float = 10.0

    def ssl_context(self) -> ssl.SSLContext | None:
        """Build the TLS context, or None for a plain connection. Raises ConfigError naming the file that cannot be read."""
        raise NotImplementedError

    def client_kwargs(self) -> dict[str, object]:
        """Return the keyword arguments that aiokafka's consumer, producer and admin client share."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as the broker has it. settings: broker-side configuration by name, defaults included."""

    name: str
    partitions: int
    replication: int
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic to create. replication -1: the broker's default."""

    name: str
    partitions: int
    replication: int = -1
    settings: Mapping[str, str] = field(default_factory=dict)


def murmur2_partition(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's own clients choose for `key` (murmur2, sign bit cleared, modulo)."""
    raise NotImplementedError


async def make_producer(cfg: BrokerConfig, *, linger_ms: int = 5, max_request_bytes: int = 1 << 20) -> AIOKafkaProducer:
    """Start a producer: acks=all, idempotent, murmur2 partitions. The caller stops it.

    Raises BrokerError if the broker has no idempotent producers (Tansu 0.6 has none; Kafka and librdkafka's mock have).
    """
    raise NotImplementedError


async def read_compacted(cfg: BrokerConfig, topic: str, partition: int, key_prefix: bytes = b"") -> dict[bytes, bytes]:
    """Read a partition from its beginning to its end at call time; keep the last value per key that has the prefix.

    Tombstones drop their key. Raises Retryable if the broker goes away, BrokerError if the topic or partition does not exist.
    """
    raise NotImplementedError


class Follower:
    """Follow all partitions of a compacted topic from their beginning, without a group, for ever.

    callback(key, value): called on the event loop in offset order per partition; value None is a tombstone. After a
    reconnect nothing is skipped and nothing is repeated. An exception of the callback ends the follower: `caught_up` and
    `failed` raise it.
    """

    def __init__(self, cfg: BrokerConfig, topic: str, callback: Callable[[bytes | None, bytes | None], None]) -> None:
        self.cfg, self.topic, self.callback = cfg, topic, callback

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin to read in a task of its own; returns at once."""
        raise NotImplementedError

    async def stop(self) -> None:
        """End the task and close the connection."""
        raise NotImplementedError

    async def caught_up(self) -> None:
        """Wait until everything up to the end offsets at the start was handed to the callback."""
        raise NotImplementedError

    async def failed(self) -> None:
        """Wait until the follower ends by an error, and raise it. For `asyncio.wait` beside the app's own tasks."""
        raise NotImplementedError


async def follow(cfg: BrokerConfig, topic: str, callback: Callable[[bytes | None, bytes | None], None]) -> Follower:
    """Start a Follower."""
    follower = Follower(cfg, topic, callback)
    await follower.start()
    return follower


async def describe_topics(cfg: BrokerConfig, names: Iterable[str]) -> dict[str, TopicInfo | None]:
    """Describe topics with their settings; None where a topic does not exist. Raises Unsupported without DescribeConfigs."""
    raise NotImplementedError


async def create_topics(cfg: BrokerConfig, topics: Iterable[NewTopic]) -> list[str]:
    """Create those topics that do not exist, wait until they have leaders, and return the names of the new ones."""
    raise NotImplementedError


async def delete_topics(cfg: BrokerConfig, names: Iterable[str]) -> list[str]:
    """Delete those topics that exist; returns their names."""
    raise NotImplementedError


async def partition_count(cfg: BrokerConfig, topic: str) -> int | None:
    """Count a topic's partitions; None if it does not exist. Never creates it. Works on every broker."""
    raise NotImplementedError


async def log_start_offset(cfg: BrokerConfig, topic: str, partition: int) -> int:
    """Return the offset of the oldest record that the broker still has (or would give the next one)."""
    raise NotImplementedError


async def end_offset(cfg: BrokerConfig, topic: str, partition: int) -> int:
    """Return the offset that the next record will get."""
    raise NotImplementedError


async def offsets_for_time(cfg: BrokerConfig, topic: str, partitions: Iterable[int], time_ms: int) -> dict[int, int]:
    """Return per partition the first offset whose timestamp is >= time_ms, the end offset where there is none."""
    raise NotImplementedError
