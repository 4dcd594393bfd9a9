"""Ways to hurt a worker while it works, and what each cost."""

import random
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from confluent_kafka import OFFSET_END, Message, TopicPartition

from pipeline.terms import MANIFEST
from schemas.topics import ALERT, STATE
from tests.chaos.bed import Bed, Worker, eventually, reader
from tests.chaos.producer import Plant

Way = Literal["anywhere", "checkpoint", "zombie", "twice"]


@dataclass
class Kill:
    """What a kill cost. repeated: records processed again at most. half: a checkpoint was half-written."""

    way: Way
    repeated: int
    recovery_s: float
    half: bool = False


@dataclass
class Drill:
    """One worker at work on a plant that sends all the time; each fault is answered by a new worker."""

    bed: Bed
    plant: Plant
    rng: random.Random
    worker: Worker = field(init=False)
    kills: list[Kill] = field(default_factory=list)

    def start(self) -> None:
        self.plant.announce()
        self.plant.start()
        self.worker = self._worker()
        self.at_work()

    def _worker(self) -> Worker:
        return self.bed.worker(program=[sys.executable, "-m", "tests.chaos.stall", str(self.flag)])

    @property
    def flag(self) -> Path:
        """Return the file at which a worker stops itself with an alert on its way."""
        return self.bed.folder / "stall"

    @property
    def bound(self) -> int:
        """Return D: frames of one checkpoint interval, of the time to write it, and in flight."""
        conf = self.bed.settings
        interval = round(self.plant.rate * (conf.checkpoint.interval_s + 1.0))
        return interval + conf.worker.max_inflight * self.bed.partitions

    def at_work(self) -> None:
        """Wait until the worker has caught up with the plant, and sees its work through: alerts and commits move."""
        self.worker.owns(self.bed.partitions)
        eventually(lambda: self.lag() < self.plant.rate * (self.bed.settings.checkpoint.interval_s + 0.5), 90,
                   "the worker does not catch up\n" + self.worker.tail(), every_s=0.1)
        commits, alerts = sum(self.bed.committed().values()), self.bed.ends(ALERT)[0]
        eventually(lambda: sum(self.bed.committed().values()) > commits and self.bed.ends(ALERT)[0] > alerts, 60,
                   "the worker is not processing\n" + self.worker.tail(), every_s=0.1)

    def lag(self) -> int:
        committed, ends = self.bed.committed(), self.bed.ends()
        return sum(end - committed.get(p, 0) for p, end in ends.items())

    def hurt(self, way: Way) -> Kill:
        """Kill the worker -9 or leave it behind as a zombie; return when its successor is at work."""
        self.at_work()
        old, half = self.worker, False
        if way == "checkpoint":
            half = self._stop_in_checkpoint()
        elif way == "zombie":
            self.flag.touch()
            eventually(lambda: not self.flag.exists() and old.stands(), 30, "no alert was raised\n" + old.tail())
        else:
            time.sleep(self.rng.uniform(0.0, self.bed.settings.checkpoint.interval_s))  # anywhere in the interval
        old.pause()
        at, ends = time.time(), self.bed.ends()
        if way != "zombie":
            old.kill()
        if way == "twice":  # the successor dies as well: on its way, restoring, or in its first whole checkpoint
            second = self._worker()
            self.worker = second
            if self.rng.random() < 0.5:
                second.wait_for("restore_done")
            time.sleep(self.rng.uniform(0.0, 1.5))
            second.kill()
        self.worker = self._worker()
        self.worker.owns(self.bed.partitions)
        if way == "zombie":
            # its own clock, too, must say that it was away for longer than the group waits
            time.sleep(max(0.0, at + self.bed.settings.group.session_timeout_s + 2.0 - time.time()))
            old.resume()
            code = old.process.wait(30)
            assert code == 3, f"the zombie ended with {code}:\n{old.tail()}"
        self.at_work()
        restored = self.worker.events("restore_done")[:self.bed.partitions]
        repeated = sum(max(0, ends[e["partition"]] - e["position"]) for e in restored)
        took = max(datetime.fromisoformat(e["time"]).timestamp() for e in restored) - at
        self.kills.append(Kill(way, repeated, took, half))
        return self.kills[-1]

    def _stop_in_checkpoint(self, tries: int = 40) -> bool:
        """SIGSTOP the worker in the middle of a checkpoint; tell whether that came about."""
        for _ in range(tries):
            self._await_block()
            self.worker.pause()
            if self._half_written():
                return True
            self.worker.resume()
        return False

    def _await_block(self) -> None:
        """Return the moment that a block of a checkpoint is on the broker."""
        with reader(self.bed.address) as consumer:
            topic = self.bed.name(STATE)
            consumer.assign([TopicPartition(topic, p, OFFSET_END) for p in range(self.bed.partitions)])
            eventually(lambda: (m := consumer.poll(0.05)) is not None and _is_block(m), 30, "no checkpoint", every_s=0)

    def _half_written(self) -> bool:
        """Tell whether in some partition a block came last, without the manifest that would name it."""
        ends, topic = self.bed.ends(STATE), self.bed.name(STATE)
        with reader(self.bed.address) as consumer:
            wanted = {p: end - 1 for p, end in ends.items() if end}
            consumer.assign([TopicPartition(topic, p, offset) for p, offset in wanted.items()])
            last: dict[int, Message] = {}
            deadline = time.monotonic() + 5
            while len(last) < len(wanted) and time.monotonic() < deadline:
                message = consumer.poll(0.1)
                if message is not None and message.error() is None:
                    last[message.partition()] = message
        return any(_is_block(m) for m in last.values())

    def finish(self) -> None:
        """Stop the plant, let the worker finish and stop it in order."""
        self.plant.stop()
        self.bed.caught_up()
        code = self.worker.stop()
        assert code == 0, f"the worker ended with {code}:\n{self.worker.tail()}"


def _is_block(message: Message) -> bool:
    return message.error() is None and message.value() is not None and not message.key().endswith(MANIFEST.encode())
