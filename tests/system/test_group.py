"""Workers of one group: orderly stops, rebalances, static membership, an operator's hand."""

import time
from datetime import datetime

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from schemas.topics import ALERT, STATE, TELEMETRY
from tests.chaos.bed import Worker, eventually
from tests.chaos.oracle import sound, stored
from tests.chaos.producer import Plant
from tests.kafka import KafkaBroker
from tests.system.conftest import MakeBed

pytestmark = pytest.mark.timeout(240)


def test_sigterm_repeats_nothing_and_commits_what_was_processed(kafka: KafkaBroker, beds: MakeBed) -> None:
    bed = beds(kafka)
    plant = Plant(bed, seed=1, rate=800)
    plant.announce()
    one = bed.worker(owns=4)
    plant.start()
    eventually(lambda: bed.ends(ALERT)[0] > 20, 60)
    start = time.monotonic()
    code = one.stop()
    took, committed = time.monotonic() - start, bed.committed()
    assert (code, one.events("drain_incomplete")) == (0, []) and took < bed.settings.worker.drain_s
    two = bed.worker(owns=4)
    assert {e["partition"]: e["position"] for e in two.events("restore_done")} == committed
    plant.stop()
    bed.caught_up()
    assert two.stop() == 0
    assert bed.committed() == bed.ends()
    verdict = sound(bed)
    assert verdict.duplicates == 0 and verdict.frames == plant.acked


def test_three_workers_share_the_work_of_one_and_give_it_back_without_a_cold_start(
        kafka: KafkaBroker, beds: MakeBed) -> None:
    bed = beds(kafka, partitions=8)
    plant = Plant(bed, seed=2, assets=24, rate=1000)
    plant.announce()
    one = bed.worker(owns=8)
    plant.start()
    eventually(lambda: bed.ends(ALERT)[0] > 20, 60)
    others = [bed.worker(), bed.worker()]
    workers = [one, *others]

    def shared() -> bool:
        owned = [w.owned() for w in workers]
        return all(len(o) >= 2 for o in owned) and sorted(p for o in owned for p in o) == list(range(8))
    eventually(shared, 60, "the partitions are not shared")
    alerts = bed.ends(ALERT)[0]
    eventually(lambda: bed.ends(ALERT)[0] > alerts + 20, 60)
    for worker in others:
        assert worker.stop() == 0
    one.owns(8)
    plant.stop()
    bed.caught_up()
    assert one.stop() == 0
    verdict = sound(bed)
    assert verdict.duplicates == 0 and verdict.frames == plant.acked
    assert sum(e["count"] for w in workers for e in w.events("calibrated")) == plant.assets // 2  # every pump, once
    assert not any(w.events("log_hole") + w.events("state_discarded") for w in workers)


def restored_s(worker: Worker, partitions: int) -> float:
    """Return the seconds from the worker's start to its last restore."""
    at = [datetime.fromisoformat(e["time"]).timestamp() for e in worker.events("restore_done")[:partitions]]
    return max(at) - datetime.fromisoformat(worker.events("worker_started")[0]["time"]).timestamp()


def test_a_static_member_has_its_partitions_back_within_seconds_of_a_kill(kafka: KafkaBroker, beds: MakeBed) -> None:
    bed = beds(kafka, group={"instance_id": "edge-1", "session_timeout_s": 30})
    plant = Plant(bed, seed=3, rate=400)
    plant.announce()
    one = bed.worker(owns=4)
    plant.rounds(80)
    bed.caught_up()
    one.kill()
    plant.rounds(80)
    two = bed.worker()
    two.owns(4, within_s=25)  # less than the session timeout: nobody waited for it
    assert restored_s(two, 4) < 4
    bed.caught_up()
    assert two.stop() == 0
    sound(bed)


def test_a_worker_whose_instance_id_is_taken_over_exits_3_and_the_other_goes_on(
        kafka: KafkaBroker, beds: MakeBed) -> None:
    bed = beds(kafka, group={"instance_id": "edge-1"})
    plant = Plant(bed, seed=4, rate=400)
    plant.announce()
    one = bed.worker(owns=4)
    plant.rounds(70)
    two = bed.worker()
    assert one.process.wait(60) == 3
    assert one.events("fenced") and "instance id" in one.tail(1)
    two.owns(4)
    plant.rounds(70)
    bed.caught_up()
    assert two.stop() == 0
    sound(bed)


def test_an_offset_that_an_operator_committed_is_obeyed(kafka: KafkaBroker, beds: MakeBed) -> None:
    bed = beds(kafka, partitions=1)
    plant = Plant(bed, seed=5, assets=3)
    plant.announce()
    plant.rounds(80)
    one = bed.worker(owns=1)
    bed.caught_up()
    assert one.stop() == 0
    wanted = ConsumerGroupTopicPartitions(bed.settings.group.id, [TopicPartition(bed.name(TELEMETRY), 0, 150)])
    next(iter(bed.admin.alter_consumer_group_offsets([wanted]).values())).result(20)
    two = bed.worker(owns=1)
    assert [e["offset"] for e in two.events("offset_reset_obeyed")] == [150]
    assert [(e["position"], e["assets"]) for e in two.events("restore_done")] == [(150, 0)]
    bed.caught_up()
    assert two.stop() == 0
    three = bed.worker()  # obeyed once: what it wrote since is what counts
    three.owns(1)
    assert [(e["position"], e["assets"]) for e in three.events("restore_done")] == [(240, 3)]
    assert three.stop() == 0


def test_a_telemetry_topic_that_grew_ends_the_worker_with_3_and_what_to_do(kafka: KafkaBroker, beds: MakeBed) -> None:
    from confluent_kafka.admin import NewPartitions

    bed = beds(kafka, partitions=2)
    plant = Plant(bed, seed=6, assets=3)
    plant.announce()
    plant.rounds(5)
    one = bed.worker(owns=2)
    bed.caught_up()
    assert one.stop() == 0 and len(stored(bed)[0]) > 1
    bed.admin.create_partitions([NewPartitions(bed.name(TELEMETRY), 3)])[bed.name(TELEMETRY)].result(20)
    two = bed.worker()
    assert two.process.wait(60) == 3
    assert "they must be equal" in two.tail(1) and "kizashi topics apply" in two.tail(1)
    bed.admin.create_partitions([NewPartitions(bed.name(STATE), 3)])[bed.name(STATE)].result(20)
    three = bed.worker()
    assert three.process.wait(60) == 3
    assert "were written for 2" in three.tail(1) and "group.id" in three.tail(1)
