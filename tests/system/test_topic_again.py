"""A telemetry topic that is deleted and created again, under a running worker and under a stopped one."""

import pytest
from confluent_kafka.admin import NewTopic

from pipeline import checkpoint
from pipeline.births import BirthBook
from schemas.topics import TELEMETRY
from tests.chaos.bed import Bed, eventually
from tests.chaos.oracle import make_flow, stored
from tests.chaos.producer import Plant
from tests.kafka import KafkaBroker
from tests.system.conftest import MakeBed

pytestmark = pytest.mark.timeout(240)


def create_again(bed: Bed) -> None:
    name = bed.name(TELEMETRY)
    bed.admin.delete_topics([name])[name].result(20)
    eventually(lambda: name not in bed.admin.list_topics(timeout=10).topics, 20)
    again = NewTopic(name, bed.partitions, 1, config=dict(TELEMETRY.settings))
    eventually(lambda: bed.admin.create_topics([again])[name].exception(20) is None, 30)


def received(bed: Bed) -> tuple[int, int]:
    """Return the newest checkpoint's offset and how many frames it has counted."""
    flow, _ = make_flow(bed, BirthBook())
    done = checkpoint.restore(0, stored(bed)[0], flow.seats.new_pool, 0)
    return done.position, done.partition.totals()["received"]


def fresh_plant(bed: Bed, seq: int) -> Plant:
    """Return a plant whose producer has never heard of the old topic."""
    plant = Plant(bed, seed=12, assets=3)
    plant.seq = seq
    return plant


@pytest.mark.parametrize("running", [True, False])
def test_a_topic_that_is_created_again_is_read_from_its_start(
        kafka: KafkaBroker, beds: MakeBed, running: bool) -> None:
    bed = beds(kafka, partitions=1)
    plant = fresh_plant(bed, 0)
    plant.announce()
    plant.rounds(80)
    worker = bed.worker(owns=1)
    bed.caught_up()
    if not running:
        assert worker.stop() == 0
    create_again(bed)
    fresh_plant(bed, 80).rounds(50)
    if not running:
        worker = bed.worker()
    eventually(lambda: received(bed) == (150, 150), 90, worker.tail(), every_s=0.5)
    assert worker.events("state_discarded")
    assert worker.stop() == 0
    assert bed.committed() == {0: 150}
