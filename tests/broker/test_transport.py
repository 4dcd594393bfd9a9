"""The transport on Apache Kafka: delivery, back-pressure, commits."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as ConfluentTP
from confluent_kafka.admin import AdminClient

from pipeline.broker import BrokerConfig, delete_topics
from pipeline.partitions import TP, Committed
from tests.broker.worker import Worker, running
from tests.conftest import MakeTopics
from tests.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(60)


def produce(address: str, topic: str, n: int, partitions: int = 1) -> None:
    """Append n records, evenly over the partitions."""
    producer = Producer({"bootstrap.servers": address, "linger.ms": 5, "log_level": 0})
    for i in range(n):
        producer.produce(topic, b"value %d" % i, b"key", partition=i % partitions, headers={"h": b"1"})
    assert producer.flush(20) == 0


async def eventually(ask: Callable[[], Coroutine[Any, Any, Any]], wanted: Any, within_s: float = 15) -> None:
    """Ask the broker until it answers what is wanted."""
    async with asyncio.timeout(within_s):
        while await ask() != wanted:
            await asyncio.sleep(0.02)


async def test_batches_arrive_whole_in_order_and_without_gaps(kafka: KafkaBroker, make_topics: MakeTopics) -> None:
    topic = make_topics("frames", 4)
    produce(kafka.address, topic, 4000, 4)
    async with running(kafka.address, topic, max_batch=150) as worker:
        await worker.has_seen(4000)
        assert all(worker.offsets[p] == list(range(1000)) for p in range(4))
        expected = dict.fromkeys(range(4), 0)
        for batch in worker.batches:
            assert batch.start == expected[batch.tp.partition] and len(batch) <= 150
            assert [r.offset for r in batch.records] == list(range(batch.start, batch.next_offset))
            expected[batch.tp.partition] = batch.next_offset
        assert len(worker.batches) < 100  # 4000 events one by one otherwise
        record = worker.batches[0].records[0]
        assert (record.key, record.value[:6], record.headers[0]) == (b"key", b"value ", ("h", b"1"))
        assert abs(record.timestamp / 1000 - time.time()) < 60
        assert abs(worker.batches[0].fetched_at - time.time()) < 60


async def test_unacknowledged_records_of_a_partition_never_exceed_the_limit(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic = make_topics("frames", 2)
    produce(kafka.address, topic, 10_000, 2)
    async with running(kafka.address, topic, max_inflight=1000) as worker:
        worker.hold = True
        await worker.has_seen(2000)
        high = 0
        while worker.seen < 10_000:
            tps = [TP(topic, 0), TP(topic, 1)]
            high = max(high, *(worker.consumer.in_flight(tp) for tp in tps))
            before, held, worker.held = worker.seen, worker.held, []
            for batch in held:
                batch.ack()
            await worker.has_seen(before + 1)
        worker.let_go()
        assert high == 1000
        assert [worker.consumer.in_flight(tp) for tp in tps] == [0, 0]
        assert all(worker.offsets[p] == list(range(5000)) for p in (0, 1))


async def test_a_held_partition_does_not_hold_up_the_others(kafka: KafkaBroker, make_topics: MakeTopics) -> None:
    topic = make_topics("frames", 2)
    produce(kafka.address, topic, 10_000, 2)
    async with running(kafka.address, topic, max_inflight=500) as worker:
        worker.hold = lambda batch: batch.tp.partition == 0
        async with asyncio.timeout(20):
            while len(worker.offsets[1]) < 5000:
                await worker.has_seen(worker.seen + 1)
        assert worker.consumer.in_flight(TP(topic, 0)) == len(worker.offsets[0]) == 500
        worker.let_go()
        await worker.has_seen(10_000)


async def test_acknowledging_commits_nothing(kafka: KafkaBroker, make_topics: MakeTopics) -> None:
    topic = make_topics("frames", 1)
    produce(kafka.address, topic, 500)
    async with running(kafka.address, topic, "g-ack-" + topic) as worker:
        await worker.has_seen(500)
        await worker.app.consumer.force_commit()
        assert await worker.consumer.committed([TP(topic, 0)]) == {TP(topic, 0): None}
    async with running(kafka.address, topic, "g-ack-" + topic) as worker:  # nor did the stop
        assert await worker.consumer.committed([TP(topic, 0)]) == {TP(topic, 0): None}


async def test_commits_carry_the_safe_offset_and_its_metadata(kafka: KafkaBroker, make_topics: MakeTopics) -> None:
    topic = make_topics("frames", 2)
    produce(kafka.address, topic, 1000, 2)
    one, two = TP(topic, 0), TP(topic, 1)
    async with running(kafka.address, topic, broker_commit_interval=1000) as worker:
        consumer = worker.consumer
        await worker.has_seen(1000)
        consumer.set_safe_offset(one, 300, "manifest 7")
        consumer.set_safe_offset(two, 200, "manifest 8")
        assert await consumer.commit_now([one])
        assert await consumer.committed([one, two]) == {one: Committed(300, "manifest 7"), two: None}
        consumer.set_safe_offset(one, 100, "manifest 9")  # a longer replay after an operator's reset
        assert await consumer.commit_now([one, two])
        assert await consumer.committed([one, two]) == {one: (100, "manifest 9"), two: (200, "manifest 8")}
        consumer.set_safe_offset(TP("elsewhere", 0), 5, "not ours")
        assert await consumer.commit_now([TP("elsewhere", 0)])


async def test_fausts_commit_timer_sends_safe_offsets_too(kafka: KafkaBroker, make_topics: MakeTopics) -> None:
    topic = make_topics("frames", 1)
    produce(kafka.address, topic, 100)
    tp = TP(topic, 0)
    async with running(kafka.address, topic, broker_commit_interval=0.1) as worker:
        await worker.has_seen(100)
        worker.consumer.set_safe_offset(tp, 40, "m")
        await eventually(lambda: worker.consumer.committed([tp]), {tp: (40, "m")})


async def test_reading_starts_where_restore_says_else_at_the_commit_else_at_the_beginning(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic, group = make_topics("frames", 4), "g-restore"
    produce(kafka.address, topic, 400, 4)
    async with running(kafka.address, topic, group) as worker:
        await worker.has_seen(400)
        for partition in (0, 1, 2):
            worker.consumer.set_safe_offset(TP(topic, partition), 50, "m")
        assert await worker.consumer.commit_now(TP(topic, p) for p in (0, 1, 2))
    worker = Worker(kafka.address, topic, group)
    worker.owner.start = {TP(topic, 0): 20, TP(topic, 1): 80}
    async with running(worker):
        await worker.has_seen(80 + 20 + 50 + 100)
        assert {p: o[0] for p, o in worker.offsets.items()} == {0: 20, 1: 80, 2: 50, 3: 0}
        assert worker.owner.called("hole") == []


async def test_a_hole_is_reported_when_retention_took_what_restore_asks_for(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic = make_topics("frames", 1)
    produce(kafka.address, topic, 100)
    admin = AdminClient({"bootstrap.servers": kafka.address, "log_level": 0})
    for future in admin.delete_records([ConfluentTP(topic, 0, 60)]).values():
        future.result(20)
    worker = Worker(kafka.address, topic, "g-hole")
    worker.owner.start = {TP(topic, 0): 10}
    async with running(worker):
        await worker.has_seen(40)
        assert worker.owner.called("hole") == [(TP(topic, 0), 10, 60)]
        assert worker.offsets[0] == list(range(60, 100))


async def test_a_topic_that_is_deleted_and_made_again_is_read_from_its_start_and_reported(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic = make_topics("frames", 1)
    produce(kafka.address, topic, 100)
    async with running(kafka.address, topic) as worker:
        await worker.has_seen(100)
        await delete_topics(BrokerConfig(kafka.address), [topic])
        make_topics(topic, 1, exact=True)
        await asyncio.to_thread(produce, kafka.address, topic, 20)
        await worker.has_seen(120)
        assert worker.offsets[0] == [*range(100), *range(20)]
        restored_again = len(worker.owner.called("restore")) > 1  # if the group saw the topic gone in between
        assert restored_again or worker.owner.called("hole") == [(TP(topic, 0), 100, 0)]


async def test_an_ordinary_topic_in_the_same_app_keeps_single_events_and_its_own_commits(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    frames, orders = make_topics("frames", 1), make_topics("orders", 1)
    produce(kafka.address, frames, 5000)
    produce(kafka.address, orders, 60)
    tp = TP(orders, 0)
    worker = Worker(kafka.address, frames, "g-both", max_inflight=500)
    worker.hold = True
    values: list[bytes] = []

    @worker.app.agent(worker.app.topic(orders, value_type=bytes, value_serializer="raw"))
    async def each(stream: Any) -> None:
        async for value in stream:
            values.append(value)

    async with running(worker):
        await worker.has_seen(500)
        await eventually(lambda: worker.consumer.committed([tp]), {tp: (60, "")})
        assert values == [b"value %d" % i for i in range(60)]
        assert worker.seen == 500  # held: the two topics' back-pressure is apart
        assert await worker.consumer.committed([TP(frames, 0)]) == {TP(frames, 0): None}


async def test_a_missing_topic_is_named_and_read_once_it_exists(kafka: KafkaBroker, make_topics: MakeTopics) -> None:
    existing = make_topics("frames", 1)
    missing = existing + "-later"
    async with running(kafka.address, missing) as worker:
        assert worker.consumer.missing_topics() == {missing}
        make_topics(missing, 1, exact=True)
        await asyncio.to_thread(produce, kafka.address, missing, 10)
        await worker.has_seen(10)
        assert worker.consumer.missing_topics() == set()


async def test_batches_flow_from_librdkafkas_mock_broker_too(mock_broker: str) -> None:
    produce(mock_broker, "frames", 400, 4)
    async with running(mock_broker, "frames") as worker:
        await worker.has_seen(400)
        worker.consumer.set_safe_offset(TP("frames", 0), 100, "m")
        assert await worker.consumer.commit_now([TP("frames", 0)])
        assert (await worker.consumer.committed([TP("frames", 0)]))[TP("frames", 0)].offset == 100
