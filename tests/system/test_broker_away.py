"""The broker goes away, for half a minute or killed with its data kept: the worker recovers alone, loses nothing."""

import time

import pytest

from schemas.topics import ALERT
from tests.chaos.bed import eventually
from tests.chaos.oracle import sound
from tests.chaos.producer import Plant
from tests.kafka import KafkaBroker
from tests.system.conftest import MakeBed

pytestmark = pytest.mark.timeout(300)

AWAY_S = 30.0
#: The plant's frames pile up in the producer meanwhile, not in the worker: what it gains is clients' books.
GAIN_MIB = 32.0


def test_a_worker_waits_for_a_broker_that_is_away_and_recovers_alone(own_kafka: KafkaBroker, beds: MakeBed) -> None:
    bed = beds(own_kafka)
    plant = Plant(bed, seed=8, rate=500)
    plant.announce()
    worker = bed.worker(owns=4)
    plant.start()
    eventually(lambda: bed.ends(ALERT)[0] > 10, 60)
    memory = worker.rss_mib()
    own_kafka.stop()
    lines = len(worker.log.read_text().splitlines())
    time.sleep(AWAY_S)
    assert worker.process.poll() is None, worker.tail()
    said = len(worker.log.read_text().splitlines()) - lines
    own_kafka.start()
    back = time.monotonic()
    plant.stop()
    bed.caught_up(90)
    took = time.monotonic() - back
    assert worker.rss_mib() - memory < GAIN_MIB
    assert said <= AWAY_S, worker.tail(int(said))
    assert worker.stop() == 0
    assert took < 60, f"caught up {took:.0f} s after the broker's return"
    verdict = sound(bed)
    assert verdict.frames >= plant.acked


def test_a_broker_that_is_killed_with_its_data_kept_loses_nothing(own_kafka: KafkaBroker, beds: MakeBed) -> None:
    bed = beds(own_kafka)
    plant = Plant(bed, seed=9, rate=500)
    plant.announce()
    worker = bed.worker(owns=4)
    plant.start()
    for _ in range(2):
        alerts = bed.ends(ALERT)[0]
        eventually(lambda seen=alerts: bed.ends(ALERT)[0] > seen + 5, 90)
        own_kafka.kill()
        own_kafka.start()
    plant.stop()
    bed.caught_up(90)
    assert worker.stop() == 0
    sound(bed)
