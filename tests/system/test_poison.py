"""All that a plant can send wrong, in one stream: each to the dead-letter topic with its reason; both laws hold."""

import pickle
from collections import Counter

import msgspec
import numpy as np
import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from pipeline import checkpoint
from pipeline.births import BirthBook
from pipeline.broker import murmur2_partition
from pipeline.seating import MAX_WAITING_FRAMES
from schemas.codec import decode_deadletter, encode
from schemas.topics import ALERT, DEADLETTER, TELEMETRY
from tests.chaos.bed import eventually
from tests.chaos.oracle import make_flow, sound, stored
from tests.chaos.producer import HEALTHY, Plant, make_birth, make_frame
from tests.kafka import KafkaBroker
from tests.system.conftest import MakeBed

HOUR_NS = 3_600_000_000_000
ASSET = 0
#: Frames of the asset that is poisoned: calibration, and some that are judged.
GOOD = HEALTHY + 20


class Unpickled:
    """Would tell on whoever loads it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('a payload was unpickled')",))


def poison(plant: Plant) -> dict[str, list[bytes]]:
    """Return records by the reason that each must end with."""
    birth = plant.births[ASSET]
    frame = make_frame(plant.seed, birth, ASSET, GOOD + 1)
    change = lambda **fields: encode(msgspec.structs.replace(frame, **fields))  # noqa: E731
    as_map = msgspec.msgpack.decode(encode(frame))
    nan = np.frombuffer(frame.data, "<f4").copy()
    nan[5] = np.nan
    infinite = np.frombuffer(frame.data, "<f4").copy()
    infinite[0] = np.inf
    now_ns = 4_000_000_000 * 10**9  # in any case further ahead than a minute
    return {
        "undecodable": [b"\xc1", b"not msgpack", pickle.dumps(Unpickled()), b"\x91" * 100_000 + b"\x00",
                        encode(frame)[:-3], msgspec.msgpack.encode([1, 2, 3])],
        "wrong_type": [msgspec.msgpack.encode({**as_map, "seq": "one"}),
                       msgspec.msgpack.encode({**as_map, "seq": -1})],
        "unknown_schema": [msgspec.msgpack.encode({**as_map, "v": 2})],
        "wrong_length": [change(data=frame.data[:-4]), change(data=frame.data + b"\0\0\0\0")],
        "not_finite": [change(data=nan.tobytes()), change(data=infinite.tobytes())],
        "empty": [change(data=b""), b""],
        "oversized": [b"\x00" * ((1 << 20) + 1)],
        "bad_quality": [change(quality="bad")],
        "bad_clock": [change(t0_ns=now_ns), change(t0_ns=frame.t0_ns + (1 << 61))],
    }


@pytest.mark.timeout(240)
def test_every_poison_ends_in_the_dead_letter_topic_and_nothing_else_suffers(kafka: KafkaBroker, beds: MakeBed) -> None:
    bed = beds(kafka)
    larger = bed.admin.incremental_alter_configs([_larger_records(bed.name(TELEMETRY))])
    next(iter(larger.values())).result(20)
    plant = Plant(bed, seed=10, assets=6)
    plant.announce()
    plant.rounds(GOOD)
    worker = bed.worker(owns=4)
    birth, frame = plant.births[ASSET], lambda seq: encode(make_frame(plant.seed, plant.births[ASSET], ASSET, seq))
    home, key = murmur2_partition(birth.asset.encode(), 4), birth.asset.encode()
    wanted = poison(plant)
    for values in wanted.values():
        for value in values:
            plant.send(TELEMETRY.name, key, value, partition=home)
    stranger = make_birth("elsewhere")
    plant.send("kizashi.asset.v1", stranger.key, encode(stranger))
    plant.producer.flush(20)
    away = (murmur2_partition(b"elsewhere", 4) + 1) % 4
    plant.send(TELEMETRY.name, b"elsewhere", encode(make_frame(1, stranger, 99, 0)), partition=away)
    unborn = make_birth("unborn")
    for seq in range(MAX_WAITING_FRAMES + 10):
        plant.send(TELEMETRY.name, b"unborn", encode(make_frame(1, unborn, 98, seq)))
    # what is odd and right: duplicates, a frame that comes late in order, a device whose clock says 1970
    old = encode(msgspec.structs.replace(make_frame(plant.seed, birth, ASSET, GOOD + 3), t0_ns=0))
    for value in (frame(GOOD - 1), frame(GOOD), frame(GOOD), frame(GOOD + 2), frame(GOOD + 1), old):
        plant.send(TELEMETRY.name, key, value)
    plant.flush()
    plant.seq = GOOD + 4
    for _ in range(5):
        plant.round(skip=(ASSET,))
    plant.flush()
    bed.caught_up(90)
    assert worker.rss_mib() < 300
    assert worker.stop() == 0
    letters = Counter(decode_deadletter(m.value()).reason for m in bed.read(DEADLETTER))
    assert letters == {reason: len(values) for reason, values in wanted.items()} | {"misrouted": 1, "unknown_birth": 10}
    sound(bed)
    flow, _ = make_flow(bed, BirthBook())
    totals: Counter[str] = Counter()
    for number, records in stored(bed).items():
        totals.update(checkpoint.restore(number, records, flow.seats.new_pool, 0).partition.totals())
    assert totals["received"] == plant.acked
    assert (totals["duplicate"], totals["reordered"]) == (2, 1)
    assert totals["dead_lettered"] == sum(letters.values())


def _larger_records(topic: str) -> ConfigResource:
    change = ConfigEntry("max.message.bytes", str(4 << 20), incremental_operation=AlterConfigOpType.SET)
    return ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[change])


@pytest.mark.timeout(240)
def test_while_no_dead_letter_can_be_written_nothing_is_committed_past_it_and_nothing_is_dropped(
        kafka: KafkaBroker, beds: MakeBed) -> None:
    bed = beds(kafka, partitions=1)
    plant = Plant(bed, seed=11, assets=2)
    plant.announce()
    worker = bed.worker(owns=1)
    plant.rounds(30)
    bed.caught_up()
    name = bed.name(DEADLETTER)
    bed.admin.delete_topics([name])[name].result(20)
    eventually(lambda: name not in bed.admin.list_topics(timeout=10).topics, 20)
    place = bed.ends()[0]
    plant.send(TELEMETRY.name, b"pump-00", b"\xc1")
    plant.rounds(150)  # calibration ends, faults come: alerts have a topic of their own and go out
    eventually(lambda: bed.ends(ALERT)[0] > 0, 60, worker.tail())
    assert bed.committed()[0] <= place
    bed.admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)
    bed.caught_up(90)
    assert worker.stop() == 0
    sound(bed)
    assert [decode_deadletter(m.value()).offset for m in bed.read(DEADLETTER)] == [place]
