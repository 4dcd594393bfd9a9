"""Dead letters replayed into a running worker: assessed as history, and the second time nothing changes."""

import asyncio
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pipeline.broker import BrokerConfig, make_producer, offset_ranges
from schemas import AssetBirth, TelemetryFrame
from schemas.codec import encode
from tests.broker.rim import KIZASHI, Run, totals
from tests.kafka import KafkaBroker, free_ports

pytestmark = pytest.mark.timeout(120)
#: So many frames of a partition may wait for a birth; what comes beyond is dead-lettered.
WAITING, BEYOND = 256, 40

BIRTH = AssetBirth.make(
    asset="pump-1", start_ns=1, rate_hz=20.0, samples_per_frame=2, asset_class="pump", site="kyoto",
    channels=[{"name": name, "quantity": name, "unit": "1"} for name in ("a", "b", "c")])


def frame(seq: int) -> bytes:
    data = np.random.default_rng(seq).normal(size=(3, 2)).astype("<f4").tobytes()
    t0_ns = 1 + seq * 100_000_000
    return encode(TelemetryFrame(asset=BIRTH.asset, birth_id=BIRTH.birth_id, seq=seq, t0_ns=t0_ns, data=data))


class Plant:
    """A plant of one partition, with a running worker."""

    def __init__(self, address: str, prefix: str, run: Run, worker: subprocess.Popen) -> None:
        self.cfg, self.prefix, self.run, self.worker = BrokerConfig(address), prefix, run, worker
        self.options = ["--broker", address, "--set", f"topics.prefix={prefix}"]

    def send(self, topic: str, records: list[tuple[bytes, bytes]]) -> None:
        async def send() -> None:
            producer = await make_producer(self.cfg)
            try:
                sent = [await producer.send(self.prefix + topic, value, key=key) for key, value in records]
                await asyncio.gather(*sent)
            finally:
                await producer.stop()

        asyncio.run(send())

    def records(self, topic: str) -> int:
        ranges = asyncio.run(offset_ranges(self.cfg, self.prefix + topic))
        return sum(end - start for start, end in ranges.values())

    def metric(self, name: str) -> float:
        return totals(self.run.ask("/metrics")[1]).get(name, 0.0)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert self.worker.poll() is None, "the worker ended"
            assert time.monotonic() < deadline, self.run.ask("/metrics")[1]
            time.sleep(0.1)

    def replay(self) -> str:
        command = [*KIZASHI, "deadletters", "replay", *self.options]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def plant(kafka: KafkaBroker) -> Iterator[Plant]:
    prefix, run = f"trial.{uuid.uuid4().hex[:8]}.", Run(free_ports(1)[0])
    options = ["--broker", kafka.address, "--set", f"topics.prefix={prefix}"]
    subprocess.run([*KIZASHI, "topics", "apply", "--partitions", "1", *options], check=True, capture_output=True)
    command = [*KIZASHI, "run", *options, "--set", f"metrics.port={run.port}", "--set", f"group.id={prefix}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as worker:
        try:
            run.wait_for("/ready", worker)
            yield Plant(kafka.address, prefix, run, worker)
        finally:
            worker.terminate()
            worker.wait(30)


def test_replaying_dead_letters_twice_changes_nothing_the_second_time(plant):
    plant.send("telemetry.v1", [(b"pump-1", frame(seq)) for seq in range(WAITING + BEYOND)])
    plant.until(lambda: plant.records("deadletter.v1") == BEYOND)
    plant.send("asset.v1", [(BIRTH.key, encode(BIRTH))])
    plant.until(lambda: plant.metric("kizashi_frames_judged_total") == WAITING)

    assert plant.replay() == f"replayed {BEYOND} frames of 1 assets\n"
    plant.until(lambda: plant.metric("kizashi_frames_judged_total") == WAITING + BEYOND)
    assert plant.metric("kizashi_frames_duplicate_total") == 0

    assert plant.replay() == f"replayed {BEYOND} frames of 1 assets\n"
    plant.until(lambda: plant.metric("kizashi_frames_duplicate_total") == BEYOND)
    assert plant.metric("kizashi_frames_judged_total") == WAITING + BEYOND
    assert plant.metric("kizashi_frames_dead_lettered_total") == BEYOND
    assert plant.records("deadletter.v1") == BEYOND
    assert plant.records("alert.v1") == 0
