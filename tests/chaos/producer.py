"""A plant whose every frame is a function of (seed, asset, seq), with faults by schedule.

An acknowledged frame is an obligation: the oracle computes what has to become of it.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import Producer

from schemas import AssetBirth, MachineEvent, TelemetryFrame
from schemas.codec import encode
from tests.chaos.bed import Bed

CHANNELS, SAMPLES = 4, 8
#: Frames of calibration (400 samples), then a fault in the last third of every episode.
HEALTHY, EPISODE, FAULT = 60, 120, 40
#: The first assets have machine events, where a plant has any: in their faults, out of them, while they learn.
EVENTFUL = 4


def make_birth(asset: str, asset_class: str = "pump", start_ns: int = 1_700_000_000_000_000_000) -> AssetBirth:
    channels = [{"name": f"c{i}", "quantity": "acceleration", "unit": "m/s2"} for i in range(CHANNELS)]
    return AssetBirth.make(asset=asset, start_ns=start_ns, channels=channels, rate_hz=800.0, samples_per_frame=SAMPLES,
                           asset_class=asset_class, site="chaos")


def make_frame(seed: int, birth: AssetBirth, number: int, seq: int) -> TelemetryFrame:
    """Return frame `seq` of asset `number`: noise, and in a fault one channel off by six deviations."""
    rng = np.random.default_rng((seed, number, seq))
    data = rng.normal(size=(CHANNELS, SAMPLES)).astype("<f4")
    place = seq - HEALTHY - number * 7  # not all assets at once
    if place >= 0 and place % EPISODE >= EPISODE - FAULT:
        data[place // EPISODE % CHANNELS] += np.float32(6.0)
    t0 = birth.start_ns + round(seq * SAMPLES * 1e9 / birth.rate_hz)
    return TelemetryFrame(birth.asset, birth.birth_id, seq, t0, data.tobytes())


@dataclass
class Plant:
    """Publishes rounds of one frame per asset, at a steady rate, in a thread of its own."""

    bed: Bed
    seed: int = 0
    assets: int = 12
    rate: float = 1000.0
    events_every: int = 0  # rounds between two machine events of an asset that has any, 0: none
    births: list[AssetBirth] = field(default_factory=list)
    seq: int = 0
    acked: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        kinds = ("pump", "fan")  # a chart over samples, a model over windows
        self.births = [make_birth(f"{kinds[i % 2]}-{i:02d}", kinds[i % 2]) for i in range(self.assets)]
        # an hour of retries: while the broker is away nothing is given up
        self.producer = Producer({
            "bootstrap.servers": self.bed.address, "partitioner": "murmur2_random", "acks": "all", "linger.ms": 5,
            "enable.idempotence": True, "message.timeout.ms": 3_600_000, "log_level": 0,
            "queue.buffering.max.messages": 1_000_000, "message.max.bytes": 4 << 20})
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def announce(self) -> None:
        for birth in self.births:
            self.send("kizashi.asset.v1", birth.key, encode(birth))
        self.producer.flush(20)

    def send(self, topic: str, key: bytes | None, value: bytes | None, **where: Any) -> None:
        """Send a record; `acked` counts those of the telemetry topic."""
        counts = topic == "kizashi.telemetry.v1"

        def done(error: Any, message: Any) -> None:
            self.acked += counts and error is None
            self.failed += counts and error is not None

        self.producer.produce(self.bed.name(topic), value, key, on_delivery=done, **where)
        self.producer.poll(0)

    def round(self, skip: Iterable[int] = ()) -> None:
        """Send the next frame of every asset, and before some of them a machine event."""
        for number, birth in enumerate(self.births):
            if number < EVENTFUL and self.events_every and self.seq % self.events_every == (number + 1) * HEALTHY:
                kind = "part_replaced" if number % 2 else "recalibrate"
                self.send("kizashi.telemetry.v1", birth.asset.encode(),
                          encode(MachineEvent(birth.asset, kind, self.seq, "chaos")))
            if number not in set(skip):
                self.send("kizashi.telemetry.v1", birth.asset.encode(),
                          encode(make_frame(self.seed, birth, number, self.seq)))
        self.seq += 1

    def rounds(self, count: int) -> None:
        """Send rounds at once and wait for their acknowledgement."""
        for _ in range(count):
            self.round()
        self.flush()

    def flush(self, within_s: float = 60.0) -> None:
        left = self.producer.flush(within_s)
        assert not left and not self.failed, f"{left} frames not acknowledged, {self.failed} failed"

    # -- at a rate

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self.round()
            due += self.assets / self.rate
            self._stop.wait(max(0.0, due - time.monotonic()))

    def stop(self) -> None:
        """Stop sending and wait until everything is acknowledged."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()


def feeding(plant: Plant, during: Callable[[], Any]) -> Any:
    """Let the plant send while something happens."""
    plant.start()
    try:
        return during()
    finally:
        plant.stop()
