"""The demo's own broker: enough of Kafka for a worker in another process, and gone when it should be."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from pipeline.plant.demobroker import DemoBroker

pytest.importorskip("confluent_kafka")

ROOT = Path(__file__).resolve().parents[2]
#: A client in a process of its own, as the worker is: a group reads everything, commits and says where it stands.
GROUP = """
import asyncio, sys
from aiokafka import AIOKafkaConsumer

async def main():
    consumer = AIOKafkaConsumer("demo.in", bootstrap_servers=sys.argv[1], group_id="demo", auto_offset_reset="earliest",
                                enable_auto_commit=False)
    await consumer.start()
    seen = 0
    while seen < int(sys.argv[2]):
        seen += sum(map(len, (await consumer.getmany(timeout_ms=500)).values()))
    await consumer.commit()
    print(sorted(tp.partition for tp in consumer.assignment()), seen)
    await consumer.stop()

asyncio.run(main())
"""


def group_in_another_process(address: str, records: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", GROUP, address, str(records)], capture_output=True, text=True, timeout=60, check=True,
    )
    return done.stdout


async def publish(address: str, records: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True)
    await producer.start()
    try:
        for n in range(records):
            await producer.send("demo.in", b"%d" % n, key=b"asset-%d" % (n % 24))
        await producer.flush()
    finally:
        await producer.stop()


async def offsets(address: str) -> tuple[dict[int, int | None], dict[int, int]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=address, group_id="demo", enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition("demo.in", p) for p in range(4)]
        consumer.assign(partitions)
        committed = {tp.partition: await consumer.committed(tp) for tp in partitions}
        return committed, {tp.partition: o for tp, o in (await consumer.end_offsets(partitions)).items()}
    finally:
        await consumer.stop()


def test_demo_broker_serves_a_group_in_another_process_and_keeps_its_commits() -> None:
    with DemoBroker() as broker:
        broker.create(["demo.in"])
        asyncio.run(publish(broker.address, 2000))
        assert group_in_another_process(broker.address, 2000) == "[0, 1, 2, 3] 2000\n"
        committed, ends = asyncio.run(offsets(broker.address))
        assert sum(ends.values()) == 2000
        assert committed == ends


def test_demo_broker_is_gone_after_its_context() -> None:
    with DemoBroker() as broker:
        host, port = broker.address.split(":")
        with socket.create_connection((host, int(port)), timeout=5):
            pass
    with pytest.raises(OSError), socket.create_connection((host, int(port)), timeout=5):
        pass
