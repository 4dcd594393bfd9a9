"""Whether the broker answers, by a real one that stops, freezes and comes back."""

import asyncio
import time

import pytest

from pipeline.broker import BrokerConfig
from pipeline.ops.events import Events
from pipeline.ops.health import Health
from pipeline.ops.metrics import Metrics
from pipeline.ops.reach import BrokerWatch, answers
from tests.kafka import KafkaBroker, free_ports

pytestmark = pytest.mark.timeout(120)


def ask(broker: KafkaBroker, timeout_s: float = 5.0) -> bool:
    return asyncio.run(answers(BrokerConfig(broker.address), timeout_s))


def test_a_broker_answers_unless_it_is_dead_or_hangs(own_kafka):
    assert ask(own_kafka)
    own_kafka.kill()
    assert not ask(own_kafka)
    own_kafka.restart()
    assert ask(own_kafka)
    own_kafka.pause()
    try:
        start = time.monotonic()
        assert not ask(own_kafka, timeout_s=1.0)
        assert time.monotonic() - start < 5
    finally:
        own_kafka.resume()
    assert ask(own_kafka, timeout_s=20.0)


def test_an_address_where_nobody_listens_does_not_answer():
    assert not asyncio.run(answers(BrokerConfig(f"127.0.0.1:{free_ports(1)[0]}")))


class Watched:
    def __init__(self) -> None:
        self.health, self.metrics = Health(stall_s=60, now=0), Metrics()
        self.watch = BrokerWatch(BrokerConfig("plant:9092"), self.health, Events(self.metrics))

    def count(self, event: str) -> float:
        return self.metrics.registry.get_sample_value("kizashi_events_total", {"event": event}) or 0.0


def test_one_missed_answer_is_no_loss_and_two_are():
    watched = Watched()
    watched.watch.heard(False, 10)
    assert watched.count("broker_lost") == 0
    watched.watch.heard(False, 20)
    watched.watch.heard(False, 30)
    assert watched.count("broker_lost") == 1
    watched.health.beat(30)
    assert "broker is away for 10 s" in watched.health.live(30).why


def test_the_watchdog_waits_while_the_broker_is_away_and_gives_full_time_once_it_is_back():
    watched = Watched()
    watched.health.progress(0, position=5, end=9, now=0)
    for now in (10, 20):
        watched.watch.heard(False, now)
    watched.health.beat(500)
    assert watched.health.fault(500) is None
    watched.watch.heard(True, 500)
    assert watched.count("broker_back") == 1
    watched.health.beat(559)
    assert watched.health.fault(559) is None
    watched.health.beat(561)
    assert watched.health.fault(561) is not None
