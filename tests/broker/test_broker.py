"""The broker's helpers on Apache Kafka, and what they say to a broker that lacks half of it."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from pipeline.broker import (
    BrokerConfig,
    Follower,
    NewTopic,
    Unsupported,
    create_topics,
    delete_topics,
    describe_topics,
    make_producer,
    murmur2_partition,
    offset_ranges,
    offsets_for_time,
    partition_count,
    read_compacted,
)
from pipeline.errors import BrokerError, ConfigError, Retryable
from tests.conftest import MakeTopics
from tests.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def cfg(kafka: KafkaBroker) -> BrokerConfig:
    return BrokerConfig(kafka.address)


@pytest.fixture
def names(cfg: BrokerConfig) -> Iterator[list[str]]:
    made: list[str] = []
    yield made
    asyncio.run(delete_topics(cfg, made))


async def _send(cfg: BrokerConfig, topic: str, *records: tuple[bytes | None, bytes | None], partition: int = 0) -> None:
    producer = await make_producer(cfg, max_request_bytes=2 << 20)
    try:
        for key, value in records:
            await producer.send(topic, value, key=key, partition=partition)
        await producer.flush()
    finally:
        await producer.stop()


def test_read_compacted_keeps_the_last_value_per_key_and_drops_tombstones(
    cfg: BrokerConfig, make_topics: MakeTopics
) -> None:
    topic = make_topics("state", 2, cleanup_policy="compact")
    records = (b"a|1", b"old"), (b"a|2", b"x"), (b"b|1", b"other"), (b"a|1", b"new"), (b"a|2", None)
    asyncio.run(_send(cfg, topic, *records))
    assert asyncio.run(read_compacted(cfg, topic, 0)) == {b"a|1": b"new", b"b|1": b"other"}
    assert asyncio.run(read_compacted(cfg, topic, 0, b"a|")) == {b"a|1": b"new"}
    assert asyncio.run(read_compacted(cfg, topic, 1)) == {}


def test_read_compacted_passes_transaction_markers_at_the_end(kafka: KafkaBroker, make_topics: MakeTopics) -> None:
    topic = make_topics("state", 1)
    producer = Producer({"bootstrap.servers": kafka.address, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, b"v", b"k")
    producer.commit_transaction(20)
    deadline = time.monotonic() + 10
    while asyncio.run(offset_ranges(BrokerConfig(kafka.address), topic))[0][1] < 2:  # the record, then its marker
        assert time.monotonic() < deadline
    assert asyncio.run(read_compacted(BrokerConfig(kafka.address), topic, 0)) == {b"k": b"v"}


def test_read_compacted_reads_50_mb_in_about_a_second(cfg: BrokerConfig, make_topics: MakeTopics) -> None:
    topic = make_topics("state", 1, cleanup_policy="compact")
    block = bytes(500_000)
    asyncio.run(_send(cfg, topic, *((b"block %d" % i, block) for i in range(100))))
    start = time.monotonic()
    assert len(asyncio.run(read_compacted(cfg, topic, 0))) == 100
    assert time.monotonic() - start < 3  # 0.1 s on an idle machine


def test_read_compacted_names_the_remedy_when_the_topic_or_partition_is_missing(
    cfg: BrokerConfig, make_topics: MakeTopics
) -> None:
    with pytest.raises(BrokerError, match=r"nowhere\[0\].*does not exist.*kizashi topics apply"):
        asyncio.run(read_compacted(cfg, "nowhere", 0))
    topic = make_topics("state", 1)
    with pytest.raises(BrokerError, match=rf"{topic}\[5\].*does not exist"):
        asyncio.run(read_compacted(cfg, topic, 5))


def test_read_compacted_ignores_records_without_a_key(cfg: BrokerConfig, make_topics: MakeTopics) -> None:
    topic = make_topics("state", 1)  # not compacted: there Kafka itself refuses them, with all records of their request
    asyncio.run(_send(cfg, topic, (None, b"no key"), (b"k", b"v")))
    assert asyncio.run(read_compacted(cfg, topic, 0)) == {b"k": b"v"}


def test_a_broker_that_is_away_is_retryable() -> None:
    away = BrokerConfig("127.0.0.1:1", request_timeout_s=2)
    for call in (partition_count(away, "t"), read_compacted(away, "t", 0), make_producer(away)):
        with pytest.raises(Retryable, match="127.0.0.1:1"):
            asyncio.run(call)  # type: ignore[arg-type]


async def test_follower_hands_over_the_past_then_what_comes(cfg: BrokerConfig, make_topics: MakeTopics) -> None:
    topic = make_topics("births", 4, cleanup_policy="compact")
    await _send(cfg, topic, (b"a", b"1"), (b"b", b"2"), partition=0)
    await _send(cfg, topic, (b"c", b"3"), partition=3)
    got: dict[bytes | None, bytes | None] = {}
    news = asyncio.Event()

    def take(key: bytes | None, value: bytes | None) -> None:
        got[key] = value
        news.set()

    async with Follower(cfg, topic, take) as follower:
        await follower.caught_up()
        assert got == {b"a": b"1", b"b": b"2", b"c": b"3"}
        await _send(cfg, topic, (b"a", None), partition=0)
        async with asyncio.timeout(10):
            while got[b"a"] is not None:
                news.clear()
                await news.wait()


async def test_follower_neither_skips_nor_repeats_when_the_broker_is_killed(own_kafka: KafkaBroker) -> None:
    cfg = BrokerConfig(own_kafka.address)
    await create_topics(cfg, [NewTopic("births", 1)])
    got: list[bytes | None] = []
    news = asyncio.Event()

    def take(key: bytes | None, value: bytes | None) -> None:
        got.append(value)
        news.set()

    async with Follower(cfg, "births", take) as follower:
        await _send(cfg, "births", (b"k", b"1"))
        await follower.caught_up()
        own_kafka.kill()
        await asyncio.to_thread(own_kafka.start)
        await _send(cfg, "births", (b"k", b"2"))
        async with asyncio.timeout(20):
            while len(got) < 2:
                news.clear()
                await news.wait()
    assert got == [b"1", b"2"]


async def test_follower_ends_with_the_callbacks_error(cfg: BrokerConfig, make_topics: MakeTopics) -> None:
    topic = make_topics("births", 1)

    def refuse(key: bytes | None, value: bytes | None) -> None:
        raise ValueError("not a birth")
    await _send(cfg, topic, (b"k", b"v"))
    async with Follower(cfg, topic, refuse) as follower:
        with pytest.raises(ValueError, match="not a birth"):
            await follower.failed()


async def test_follower_says_so_when_its_topic_is_missing(cfg: BrokerConfig) -> None:
    async with Follower(cfg, "nowhere", lambda key, value: None) as follower:
        with pytest.raises(BrokerError, match="nowhere.*kizashi topics apply"):
            await follower.caught_up()


async def test_topics_are_created_once_described_and_deleted(cfg: BrokerConfig, names: list[str]) -> None:
    names.append("kz-made")
    new = NewTopic("kz-made", 3, settings={"cleanup.policy": "compact", "segment.bytes": "67108864"})
    assert await partition_count(cfg, "kz-made") is None
    assert await create_topics(cfg, [new]) == ["kz-made"]
    assert await create_topics(cfg, [new]) == []
    assert await partition_count(cfg, "kz-made") == 3
    info = await describe_topics(cfg, ["kz-made", "nowhere"])
    assert info["nowhere"] is None
    made = info["kz-made"]
    assert made is not None and (made.partitions, made.replication) == (3, 1)
    assert made.settings["cleanup.policy"] == "compact" and made.settings["segment.bytes"] == "67108864"
    assert await delete_topics(cfg, ["kz-made", "nowhere"]) == ["kz-made"]
    assert await partition_count(cfg, "kz-made") is None


def test_create_topics_gives_the_brokers_reason_when_it_refuses(cfg: BrokerConfig) -> None:
    with pytest.raises(BrokerError, match=r"kz-bad: Invalid value wrong for configuration cleanup\.policy"):
        asyncio.run(create_topics(cfg, [NewTopic("kz-bad", 1, settings={"cleanup.policy": "wrong"})]))


def test_offsets_are_found_by_time_and_at_both_ends(cfg: BrokerConfig, make_topics: MakeTopics) -> None:
    topic = make_topics("frames", 2)
    asyncio.run(_send(cfg, topic, (b"k", b"1"), (b"k", b"2"), (b"k", b"3")))
    now = int(time.time() * 1000)
    assert asyncio.run(offset_ranges(cfg, topic)) == {0: (0, 3), 1: (0, 0)}
    assert asyncio.run(offset_ranges(cfg, topic))[0][0] == 0
    assert asyncio.run(offsets_for_time(cfg, topic, [0, 1], now - 60_000)) == {0: 0, 1: 0}
    assert asyncio.run(offsets_for_time(cfg, topic, [0, 1], now + 60_000)) == {0: 3, 1: 0}


@pytest.mark.parametrize("partitions", [1, 4, 5])
def test_producer_chooses_the_partitions_of_librdkafkas_murmur2(
    kafka: KafkaBroker, make_topics: MakeTopics, partitions: int
) -> None:
    topic = make_topics("frames", partitions)
    keys = [b"pump-%d" % i for i in range(20)]
    theirs: dict[bytes, int] = {}
    librdkafka = Producer({"bootstrap.servers": kafka.address, "partitioner": "murmur2_random", "log_level": 0})
    for key in keys:
        librdkafka.produce(topic, b"", key, on_delivery=lambda _, m: theirs.__setitem__(m.key(), m.partition()))
    assert librdkafka.flush(20) == 0

    async def ours() -> dict[bytes, int]:
        producer = await make_producer(BrokerConfig(kafka.address))
        try:
            return {key: (await producer.send_and_wait(topic, b"", key=key)).partition for key in keys}
        finally:
            await producer.stop()

    assert asyncio.run(ours()) == theirs == {key: murmur2_partition(key, partitions) for key in keys}


def test_topic_administration_is_unsupported_on_librdkafkas_mock(mock_broker: str) -> None:
    cfg = BrokerConfig(mock_broker)
    for call in (create_topics(cfg, [NewTopic("t", 1)]), describe_topics(cfg, ["t"]), delete_topics(cfg, ["t"])):
        with pytest.raises(Unsupported, match="does not offer"):
            asyncio.run(call)  # type: ignore[arg-type]
    assert asyncio.run(partition_count(cfg, "t")) is None


async def test_a_producer_that_may_not_write_holds_back_what_is_queued(mock_broker: str) -> None:
    allowed = False
    producer = await make_producer(BrokerConfig(mock_broker), linger_ms=0, may_write=lambda: allowed)
    sent = await producer.send("frames", b"x")
    assert not (await asyncio.wait([sent], timeout=0.3))[0]
    allowed = True
    assert (await sent).offset == 0  # the first that the broker has
    await producer.stop()


async def test_mock_broker_serves_producer_reader_and_follower(mock_broker: str) -> None:
    cfg = BrokerConfig(mock_broker)
    got: dict[bytes | None, bytes | None] = {}
    await _send(cfg, "t", (b"k", b"v"))
    assert await read_compacted(cfg, "t", 0) == {b"k": b"v"}
    assert await read_compacted(cfg, "never-written", 0) == {}
    async with Follower(cfg, "t", got.__setitem__) as follower:
        await follower.caught_up()
    assert got == {b"k": b"v"}


def test_tls_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="authority .*ca.pem"):
        BrokerConfig("h:1", "SSL", ssl_ca=tmp_path / "ca.pem").client_kwargs()


def test_passwords_do_not_show() -> None:
    assert "hunter2" not in repr(BrokerConfig("h:1", sasl_password="hunter2"))
