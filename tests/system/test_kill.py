"""kill -9 and SIGSTOP of a worker at work, on Apache Kafka, judged by an uninterrupted run; `make chaos` for more."""

import random

import pytest

from schemas.codec import decode_alert
from schemas.topics import ALERT
from tests.chaos.kills import Drill
from tests.chaos.oracle import sound
from tests.chaos.producer import Plant
from tests.kafka import KafkaBroker
from tests.system.conftest import MakeBed


@pytest.mark.timeout(300)
def test_nothing_is_lost_invented_or_changed_when_workers_are_killed_and_left_behind(
        kafka: KafkaBroker, beds: MakeBed) -> None:
    bed = beds(kafka)
    drill = Drill(bed, Plant(bed, seed=7, rate=800, events_every=290), random.Random(7))
    drill.start()
    for way in ("twice", "checkpoint", "zombie"):
        drill.hurt(way)
    drill.finish()
    verdict = sound(bed)
    assert verdict.expected > 100 and verdict.frames == drill.plant.acked
    whys = [decode_alert(m.value()).why for m in bed.read(ALERT)]
    assert any("a part was replaced by chaos" in why for why in whys), "no event cleared an alert"
    assert drill.kills[1].half, "no checkpoint was caught half-written"
    for kill in drill.kills:
        assert kill.repeated <= drill.bound, kill
        assert kill.recovery_s <= bed.settings.group.session_timeout_s + 14, kill
