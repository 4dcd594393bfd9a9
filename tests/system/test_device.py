"""A worker whose device is lost, hangs, or gives no numbers in mid-stream: nothing lost, and everybody is told."""

import json
import sys
from typing import Any

import pytest

from schemas.codec import decode_alert
from schemas.topics import ALERT
from tests.chaos.bed import Bed
from tests.chaos.oracle import judge, sound
from tests.chaos.producer import EPISODE, HEALTHY, Plant
from tests.kafka import KafkaBroker
from tests.system.conftest import MakeBed

pytestmark = pytest.mark.timeout(240)
FRAMES = HEALTHY + EPISODE
#: Frames are sent in bursts: only small batches are many.
SMALL = "batch.max_size=8"


def program(**fate: Any) -> list[str]:
    return [sys.executable, "-m", "tests.system.deviceworker", json.dumps(fate)]


def headers(bed: Bed) -> list[dict[str, str]]:
    """Return the headers of every alert that a model raised, in order."""
    return [{name: value.decode() for name, value in message.headers()} for message in bed.read(ALERT)
            if decode_alert(message.value()).model != "clock"]


# Row shapes beyond the golden ones are compared in two batches first: no numbers from the fourth are in mid-stream.
@pytest.mark.parametrize("fate", [{"lose_at": 20}, {"hang_at": 20}, {"nan_at": 4}], ids=["lost", "hangs", "no-numbers"])
def test_a_worker_whose_device_fails_goes_on_degraded_with_the_alerts_of_the_cpu(
        kafka: KafkaBroker, beds: MakeBed, fate: dict[str, Any]) -> None:
    bed = beds(kafka)
    plant = Plant(bed, seed=11, assets=6)
    plant.announce()
    worker = bed.worker(SMALL, "engine.deadline_s=2", program=program(**fate), owns=4)
    assert {e["backend"] for e in worker.events("engine_serving")} == {"tensorrt"}
    plant.rounds(FRAMES)
    worker.wait_for("engine_ready", 2)  # until then the CPU takes the rows: of one burst it may take them all
    plant.rounds(FRAMES)
    lost = worker.wait_for("engine_lost", 2)
    assert {e["bundle"] for e in lost} == {"anomaly-mewma", "made"}
    plant.rounds(2 * EPISODE)
    bed.caught_up()
    assert worker.stop() == 0
    verdict = sound(bed)
    assert verdict.expected > 20 and verdict.lost == verdict.invented == 0
    said = headers(bed)
    assert {h["kizashi_backend"] for h in said} <= {"tensorrt", "onnx_cpu"}
    assert said[-1]["kizashi_backend"] == "onnx_cpu" and "tensorrt was lost" in said[-1]["kizashi_backend_why"]
    assert all(h.get("kizashi_degraded") == ("1" if h["kizashi_backend"] == "onnx_cpu" else None) for h in said)
    assert {len(h["kizashi_bundle"]) for h in said} == {64}


def test_a_worker_that_lost_its_device_ends_in_order_and_the_next_goes_on(kafka: KafkaBroker, beds: MakeBed) -> None:
    bed = beds(kafka)
    plant = Plant(bed, seed=12, assets=6)
    plant.announce()
    worker = bed.worker(SMALL, "engine.restart_after_s=2", program=program(lose_at=20), owns=4)
    plant.rounds(FRAMES)
    worker.wait_for("engine_ready", 2)
    plant.rounds(FRAMES)
    assert worker.process.wait(60) == 1
    assert worker.events("worker_stopped")[-1]["exit_code"] == 1
    assert not worker.events("drain_incomplete")
    after = bed.worker(SMALL, program=program())
    plant.rounds(2 * EPISODE)
    bed.caught_up()
    assert after.stop() == 0
    verdict = judge(bed)
    assert not verdict.faults and verdict.expected > 20, verdict.faults[:5]
    assert verdict.duplicates == 0, "the stop was in order: nothing was done twice"
