"""The transport when the broker freezes or dies."""

import asyncio
import time

import pytest

from pipeline.broker import BrokerConfig, NewTopic, create_topics
from pipeline.partitions import TP
from pipeline.transport import TransportOptions
from tests.broker.test_rebalance import commit_what_was_seen
from tests.broker.test_transport import eventually, produce
from tests.broker.worker import running
from tests.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(90)


def test_stopping_is_bounded_when_the_broker_does_not_answer(own_kafka: KafkaBroker) -> None:
    async def main() -> None:
        await create_topics(BrokerConfig(own_kafka.address), [NewTopic("frames", 2)])
        produce(own_kafka.address, "frames", 100, 2)
        async with running(own_kafka.address, "frames", options=TransportOptions(release_timeout_s=0.5)) as one:
            await one.has_seen(100)
            one.owner.on_release = commit_what_was_seen(one)
            own_kafka.pause()
            start = time.monotonic()
        assert time.monotonic() - start < 5  # release 0.5, last commit 2, consumer thread 1 s
        assert len(one.owner.called("release")) == 1

    asyncio.run(asyncio.wait_for(main(), 80))  # a broker starts in between


def test_a_killed_broker_is_survived_without_a_rebalance_when_it_returns_in_time(own_kafka: KafkaBroker) -> None:
    async def main() -> None:
        await create_topics(BrokerConfig(own_kafka.address), [NewTopic("frames", 2)])
        produce(own_kafka.address, "frames", 100, 2)
        async with running(own_kafka.address, "frames", broker_session_timeout=30, broker_request_timeout=40) as one:
            await one.has_seen(100)
            own_kafka.kill()
            await asyncio.to_thread(own_kafka.start)
            produce(own_kafka.address, "frames", 100, 2)
            await one.has_seen(200, within_s=60)
            assert {p: o for p, o in one.offsets.items()} == {0: list(range(100)), 1: list(range(100))}
            one.consumer.set_safe_offset(TP("frames", 0), 90, "m")
            assert await one.consumer.commit_now([TP("frames", 0)])
            await eventually(lambda: one.consumer.committed([TP("frames", 0)]), {TP("frames", 0): (90, "m")})

    asyncio.run(asyncio.wait_for(main(), 80))  # a broker starts in between
