"""Workload W1: frames of 8 channels x 16 samples (float32, 512 B) of 200 assets on 4 partitions, like the peers'.

    python -m tests.bench.workload BROKER PREFIX FRAMES [ASSETS] [RATE]     fill the topics, paced if RATE > 0
"""

import sys
import time
import uuid
from collections.abc import Iterator
from itertools import islice

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from schemas import AssetBirth, TelemetryFrame
from schemas.codec import encode
from schemas.topics import ALERT, ALL, ASSET, TELEMETRY, Topic
from tests.bench.models import CHANNELS, SAMPLES

ASSETS, PARTITIONS, RATE_HZ = 200, 4, 1000.0
#: A paced producer sends groups of this many frames (2 ms at 5,000 frames/s), so that its sleeping is honest.
GROUP = 10


def fresh_prefix() -> str:
    return f"bench-{uuid.uuid4().hex[:8]}."


def name_of(topic: Topic, prefix: str) -> str:
    return prefix + topic.name.removeprefix("kizashi.")


def births(assets: int = ASSETS) -> list[AssetBirth]:
    """Announce the assets, all alike."""
    channels = [{"name": f"c{i}", "quantity": "vibration", "unit": "m/s2"} for i in range(CHANNELS)]
    return [AssetBirth.make(asset=f"pump-{i:03d}", start_ns=1, channels=channels, rate_hz=RATE_HZ,
                            samples_per_frame=SAMPLES, asset_class="pump", site="bench") for i in range(assets)]


def create(broker: str, prefix: str, assets: int = ASSETS, timestamps: tuple[Topic, ...] = (ALERT,)) -> None:
    """Create all topics under `prefix` and publish the births. timestamps: topics that carry the broker's own time."""
    admin = AdminClient({"bootstrap.servers": broker})
    wanted = []
    for topic in ALL:
        config = dict(topic.settings)
        if topic in timestamps:
            config["message.timestamp.type"] = "LogAppendTime"
        wanted.append(NewTopic(name_of(topic, prefix), PARTITIONS, 1, config=config))
    for done in admin.create_topics(wanted).values():
        done.result(30)
    producer = _producer(broker)
    for birth in births(assets):
        producer.produce(name_of(ASSET, prefix), encode(birth), key=birth.key)
    producer.flush()


def remove(broker: str, prefix: str) -> None:
    """Delete the topics under `prefix`."""
    admin = AdminClient({"bootstrap.servers": broker})  # held: its futures end with it
    for done in admin.delete_topics([name_of(t, prefix) for t in ALL]).values():
        done.result(30)


def frames(n: int, assets: int = ASSETS, first: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Yield n frames as (key, value): asset i % assets, data i % 512 of seed 1, time of production as t0."""
    rng = np.random.default_rng(1)
    data = [rng.normal(size=(CHANNELS, SAMPLES)).astype("f4").tobytes() for _ in range(512)]
    known = [(b.asset, b.birth_id, b.asset.encode()) for b in births(assets)]
    for i in range(first, first + n):
        asset, birth_id, key = known[i % assets]
        yield key, encode(TelemetryFrame(asset, birth_id, i // assets, time.time_ns(), data[i % 512]))


def fill(broker: str, prefix: str, n: int, assets: int = ASSETS, rate: float = 0.0) -> None:
    """Produce n frames: as fast as they go, or `rate` frames/s."""
    producer, topic = _producer(broker, linger_ms=0 if rate else 20), name_of(TELEMETRY, prefix)
    source, began, late = frames(n, assets), time.time(), 0.0
    for i in range(0, n, GROUP):
        if rate:
            ahead = began + i / rate - time.time()
            late = max(late, -ahead)
            time.sleep(max(0.0, ahead))
        for key, value in islice(source, GROUP):
            while True:
                try:
                    producer.produce(topic, value, key=key)
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.poll(0)
    producer.flush()
    print(f"produced {n} frames, {n / (time.time() - began):.0f} a second, latest group {late * 1e3:.1f} ms late",
          flush=True)


def read(broker: str, topic: str) -> Iterator[tuple[int, bytes]]:
    """Yield broker timestamp, ms, and value of every record that the topic has now."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "bench-reader", "enable.auto.commit": False})
    places = [TopicPartition(topic, i, 0) for i in range(PARTITIONS)]
    left = sum(consumer.get_watermark_offsets(place)[1] for place in places)
    consumer.assign(places)
    while left > 0:
        for record in consumer.consume(min(left, 10_000), 5.0):
            left -= 1
            yield record.timestamp()[1], record.value()
    consumer.close()


def _producer(broker: str, linger_ms: int = 20) -> Producer:
    return Producer({"bootstrap.servers": broker, "linger.ms": linger_ms, "batch.size": 1 << 19,
                     "queue.buffering.max.messages": 200_000, "partitioner": "murmur2_random"})


if __name__ == "__main__":
    where, under, count, *rest = sys.argv[1:]
    fill(where, under, int(count), int(rest[0]) if rest else ASSETS, float(rest[1]) if len(rest) > 1 else 0.0)
