"""The transport on Apache Kafka when partitions come and go: release, restore, loss, fencing, shutdown."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pipeline.errors import BrokerError, Retryable
from pipeline.partitions import TP
from pipeline.transport import TransportOptions
from tests.broker.test_transport import produce
from tests.broker.worker import Worker, running
from tests.conftest import MakeTopics
from tests.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(60)


async def until(happened: Callable[[], Any], within_s: float = 20) -> None:
    """Wait for something that other tasks of this loop bring about."""
    async with asyncio.timeout(within_s):
        while not happened():
            await asyncio.sleep(0.01)


def commit_what_was_seen(worker: Worker) -> Callable[[set[TP]], Coroutine[Any, Any, None]]:
    """Return a release that declares all that the worker has seen safe."""

    async def release(partitions: set[TP]) -> None:
        for tp in partitions:
            if worker.offsets[tp.partition]:
                worker.consumer.set_safe_offset(tp, worker.offsets[tp.partition][-1] + 1, "released")

    return release


async def test_two_workers_share_the_partitions_and_nothing_is_read_twice_or_lost(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic, group = make_topics("frames", 4), "g-two"
    produce(kafka.address, topic, 4000, 4)
    one, two = Worker(kafka.address, topic, group), Worker(kafka.address, topic, group)
    for worker in (one, two):
        worker.owner.on_release = commit_what_was_seen(worker)
    async with running(one):
        await one.has_seen(4000)
        async with running(two):
            await until(lambda: len(one.owner.called("restore")) == 2)
            assert [len(tps) for tps in one.owner.called("release")] == [4]
            assert [len(tps) for tps in one.owner.called("restore")] == [4, 2]
            assert [len(tps) for tps in two.owner.called("restore")] == [2]
            await asyncio.to_thread(produce, kafka.address, topic, 4000, 4)
            await until(lambda: one.seen + two.seen >= 8000)
        await until(lambda: len(one.owner.called("restore")[-1]) == 4)
        await asyncio.to_thread(produce, kafka.address, topic, 400, 4)
        await until(lambda: one.seen + two.seen >= 8400)
    for partition in range(4):
        assert sorted(one.offsets[partition] + two.offsets[partition]) == list(range(2100))


async def test_release_runs_and_commits_while_the_worker_still_owns_the_partitions(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic, group = make_topics("frames", 1), "g-owner"
    produce(kafka.address, topic, 100)
    tp = TP(topic, 0)
    async with running(kafka.address, topic, group) as one:
        await one.has_seen(100)
        accepted: list[Any] = []

        async def release(partitions: set[TP]) -> None:
            one.consumer.set_safe_offset(tp, 70, "checkpoint")
            accepted.append(await one.consumer.commit_now(partitions))
            accepted.append(await one.consumer.committed(partitions))

        one.owner.on_release = release
        async with running(kafka.address, topic, group):
            await until(lambda: len(accepted) == 2)
            assert accepted == [True, {tp: (70, "checkpoint")}]


async def test_release_that_takes_too_long_is_cut_off_and_what_was_safe_is_committed(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic, group = make_topics("frames", 1), "g-slow-release"
    produce(kafka.address, topic, 100)
    tp = TP(topic, 0)
    async with running(kafka.address, topic, group, options=TransportOptions(release_timeout_s=0.2)) as one:
        await one.has_seen(100)

        async def release(partitions: set[TP]) -> None:
            one.consumer.set_safe_offset(tp, 30, "half")
            await asyncio.Event().wait()

        one.owner.on_release = release
        start = time.monotonic()
        await one.app.stop()
        assert time.monotonic() - start < 2
    async with running(kafka.address, topic, group) as two:
        assert await two.consumer.committed([tp]) == {tp: (30, "half")}


async def test_a_release_that_cannot_reach_the_broker_does_not_stop_the_rebalance(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic, group = make_topics("frames", 2), "g-retryable"
    produce(kafka.address, topic, 100, 2)
    async with running(kafka.address, topic, group) as one:
        await one.has_seen(100)

        async def release(partitions: set[TP]) -> None:
            raise Retryable("the state topic is away")

        one.owner.on_release = release
        async with running(kafka.address, topic, group):
            await until(lambda: len(one.owner.called("restore")) == 2)
            assert not one.app.crashed


async def test_a_restore_is_cancelled_by_the_next_rebalance_and_nothing_is_handed_over_before_the_new_one(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic, group = make_topics("frames", 4), "g-cancel"
    produce(kafka.address, topic, 400, 4)
    one = Worker(kafka.address, topic, group)
    one.owner.may_restore.clear()
    starting = asyncio.create_task(one.app.start())
    await one.owner.restoring.wait()
    async with running(kafka.address, topic, group) as two:
        await until(lambda: len(one.owner.called("restore")) == 2)
        assert [len(tps) for tps in one.owner.called("cancelled")] == [4]
        assert one.owner.called("release") == [] and one.seen == 0
        one.owner.may_restore.set()
        await starting
        await until(lambda: one.seen + two.seen == 400)
        assert one.seen == 200
        await one.app.stop()


async def test_nothing_is_lost_when_records_are_fetched_between_the_seek_and_the_resumed_flow(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic, group = make_topics("frames", 4), "g-race"
    produce(kafka.address, topic, 400, 4)
    async with running(kafka.address, topic, group) as one:
        await one.has_seen(400)
        one.owner.on_release = commit_what_was_seen(one)  # at the end: only the seek brings records
        one.owner.start = dict.fromkeys((TP(topic, p) for p in range(4)), 0)
        resume = one.consumer.resume_partitions

        def resume_then_stall(tps: set[TP]) -> None:
            resume(tps)
            asyncio.get_running_loop().call_soon(time.sleep, 0.3)  # a busy loop: the client's thread is faster

        one.consumer.resume_partitions = resume_then_stall
        async with running(kafka.address, topic, group):
            await until(lambda: len(one.owner.called("restore")) == 2)
            await one.has_seen(600)
            twice = one.owner.called("restore")[1]
            assert all(one.offsets[tp.partition] == [*range(100), *range(100)] for tp in twice) and len(twice) == 2
            assert one.owner.called("hole") == []


async def test_a_restore_may_outlast_fausts_timeouts(kafka: KafkaBroker, make_topics: MakeTopics) -> None:
    topic, orders = make_topics("frames", 1), make_topics("orders", 1)
    produce(kafka.address, topic, 100)
    produce(kafka.address, orders, 10)
    one = Worker(kafka.address, topic, "g-slow", broker_request_timeout=1.5, broker_session_timeout=1.5)
    one.owner.start = {TP(topic, 0): 40}
    values: list[bytes] = []

    @one.app.agent(one.app.topic(orders, value_type=bytes, value_serializer="raw"))
    async def each(stream: Any) -> None:
        async for value in stream:
            values.append(value)

    one.owner.may_restore.clear()
    async with running(one):  # returns when Faust has given up waiting for the restore and resumed the flow
        await until(lambda: len(values) == 10)
        assert one.seen == 0 and one.owner.called("cancelled") == []
        one.owner.may_restore.set()
        await one.has_seen(60)
        assert one.offsets[0] == list(range(40, 100))
        assert len(one.owner.called("restore")) == 1


async def test_an_error_in_restore_crashes_the_app_with_it(kafka: KafkaBroker, make_topics: MakeTopics) -> None:
    topic = make_topics("frames", 1)
    one = Worker(kafka.address, topic, "g-crash")

    async def restore(partitions: set[TP]) -> dict[TP, int]:
        raise BrokerError("8 partitions, the state has 4")

    one.owner.restore = restore  # type: ignore[method-assign]
    await one.app.start()
    await until(lambda: one.app.crashed)
    assert isinstance(one.app.crash_reason, BrokerError)
    await one.app.stop()
    assert one.owner.called("release") == []


async def test_a_restore_that_cannot_reach_the_broker_is_tried_again(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic = make_topics("frames", 1)
    produce(kafka.address, topic, 100)
    one = Worker(kafka.address, topic, "g-again")
    attempts: list[set[TP]] = []

    async def restore(partitions: set[TP]) -> dict[TP, int]:
        attempts.append(partitions)
        if len(attempts) == 1:
            raise Retryable("the state topic is away")
        return {tp: 90 for tp in partitions}

    one.owner.restore = restore  # type: ignore[method-assign]
    async with running(one):
        await one.has_seen(10)
        assert len(attempts) == 2


async def test_holding_for_longer_than_the_poll_interval_does_not_cost_the_membership(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic = make_topics("frames", 2)
    produce(kafka.address, topic, 2000, 2)
    async with running(kafka.address, topic, broker_max_poll_interval=0.5, max_inflight=100) as one:
        one.hold = True
        await one.has_seen(200)
        await asyncio.sleep(1.5)  # time itself is the subject: three intervals, and three heartbeats
        one.let_go()
        await one.has_seen(2000)
        assert len(one.owner.called("restore")) == 1 and one.owner.called("release") == []


async def test_a_crash_does_not_release(kafka: KafkaBroker, make_topics: MakeTopics) -> None:
    topic = make_topics("frames", 1)
    produce(kafka.address, topic, 10)
    async with running(kafka.address, topic) as one:
        await one.has_seen(10)
        await one.app.crash(RuntimeError("state is in doubt"))
    assert one.owner.called("release") == []


async def test_a_worker_that_was_silent_too_long_hears_that_its_partitions_are_lost(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic, group = make_topics("frames", 1), "g-lost"
    produce(kafka.address, topic, 10)
    short = {"broker_session_timeout": 1.5, "broker_heartbeat_interval": 0.3}
    async with running(kafka.address, topic, group, **short) as one:
        await one.has_seen(10)
        assert one.consumer.heartbeat_age_s < 1.5
        one.consumer._thread.thread_loop.call_soon_threadsafe(time.sleep, 3)  # the thread that sends heartbeats
        await until(lambda: one.consumer.heartbeat_age_s > 1.6)
        await until(lambda: len(one.owner.called("restore")) == 2)
        assert one.owner.called("lost") == [{TP(topic, 0)}] and one.owner.called("release") == []
        assert one.consumer.heartbeat_age_s < 1.5


async def test_a_worker_whose_instance_id_is_taken_over_is_fenced_and_the_other_goes_on(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic, group = make_topics("frames", 2), "g-fenced"
    produce(kafka.address, topic, 20, 2)
    static = {"consumer_group_instance_id": "press-line-1"}
    async with running(kafka.address, topic, group, **static) as one:
        await one.has_seen(20)
        async with running(kafka.address, topic, group, **static) as two:
            await until(lambda: one.app.crashed)
            (error,) = one.owner.called("fenced")
            assert one.app.crash_reason is error
            assert "'press-line-1'" in str(error) and "own instance id" in str(error)
            assert one.owner.called("release") == []
            await asyncio.to_thread(produce, kafka.address, topic, 20, 2)
            await two.has_seen(40)
            assert not two.app.crashed and len(two.owner.called("restore")) == 1


async def test_a_static_member_that_restarts_has_its_partitions_back_without_a_rebalance(
    kafka: KafkaBroker, make_topics: MakeTopics
) -> None:
    topic, group = make_topics("frames", 4), "g-static"
    produce(kafka.address, topic, 400, 4)
    first = {"consumer_group_instance_id": "one"}
    async with running(kafka.address, topic, group, consumer_group_instance_id="two") as two:
        async with running(kafka.address, topic, group, **first) as one:
            await until(lambda: len(two.owner.called("restore")) == 2)
            await until(lambda: one.owner.called("restore"))
            mine = one.owner.called("restore")[0]
        async with running(kafka.address, topic, group, **first) as again:
            await until(lambda: again.owner.called("restore"))
            assert again.owner.called("restore") == [mine]
        assert len(two.owner.called("restore")) == 2 and len(two.owner.called("release")) == 1


async def test_stopping_releases_and_takes_less_than_a_second(kafka: KafkaBroker, make_topics: MakeTopics) -> None:
    topic = make_topics("frames", 2)
    produce(kafka.address, topic, 100, 2)
    async with running(kafka.address, topic) as one:
        await one.has_seen(100)
        start = time.monotonic()
    assert time.monotonic() - start < 1
    assert [len(tps) for tps in one.owner.called("release")] == [2]
