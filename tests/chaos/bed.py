"""A plant on a real broker for fault tests: its topics, its frames, its workers as processes."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.ops.config import load_settings
from pipeline.ops.settings import Settings
from schemas.topics import ALL, ASSESSMENT, STATE, TELEMETRY
from tests import models

KIZASHI = [sys.executable, "-m", "pipeline.cli.main"]
ROOT = Path(__file__).resolve().parent.parent.parent
ROUTES = """
[[routes]]
bundle = "made"
match = {asset_class = "fan"}
[[routes]]
bundle = "anomaly-mewma"
"""
#: What a worker may take to come up on two busy cores.
START_S = 60.0


def eventually(what: Callable[[], Any], within_s: float, why: str = "", every_s: float = 0.05) -> Any:
    """Ask until the answer is true; return it. Fails with `why` when the time is over."""
    deadline = time.monotonic() + within_s
    while True:
        answer = what()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {why or what}"
        time.sleep(every_s)


class Worker:
    """A `kizashi run` process and its log. program: instead of kizashi; environment: of the process, None: ours."""

    def __init__(self, config: Path, log: Path, assignments: Sequence[str] = (), program: Sequence[str] = (),
                 environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        options = [part for assignment in assignments for part in ("--set", assignment)]
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*(program or KIZASHI), "run", "-c", str(config), *options], cwd=ROOT, stdout=stderr, stderr=stderr,
                env=dict(environment) if environment is not None else os.environ | {"PYTHONPATH": str(ROOT)})

    @property
    def pid(self) -> int:
        return self.process.pid

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Return the log's events, all or those of one name."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("{")]
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:  # the line that is being written
                continue
        return [e for e in found if not name or e["event"] == name]

    def wait_for(self, name: str, count: int = 1, within_s: float = START_S) -> list[dict[str, Any]]:
        """Wait until the log has `count` events of this name."""
        def seen() -> list[dict[str, Any]]:
            assert self.process.poll() is None, f"the worker ended with {self.process.returncode}:\n{self.tail()}"
            found = self.events(name)
            return found if len(found) >= count else []
        found: list[dict[str, Any]] = eventually(seen, within_s, f"{count} {name}\n{self.tail()}")
        return found

    def owns(self, partitions: int, within_s: float = START_S) -> None:
        """Wait until it has restored so many partitions since its newest assignment."""
        def restored() -> bool:
            assert self.process.poll() is None, f"the worker ended with {self.process.returncode}:\n{self.tail()}"
            return len(self.owned()) == partitions
        eventually(restored, within_s, f"{partitions} partitions restored\n{self.tail()}")

    def owned(self) -> set[int]:
        mine: set[int] = set()
        for event in self.events():
            if event["event"] == "partitions_revoked":
                mine -= set(event["partitions"])
            elif event["event"] == "restore_done":
                mine.add(event["partition"])
        return mine

    def tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def stands(self) -> bool:
        """Tell whether the process is stopped (SIGSTOP)."""
        return "\nState:\tT" in Path(f"/proc/{self.pid}/status").read_text()

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self, within_s: float = 30.0) -> int:
        """SIGTERM; return the exit code."""
        self.process.terminate()
        return self.process.wait(within_s)

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


class Bed:
    """Topics under a prefix of their own on `address`, a configuration file, and the workers that were started."""

    def __init__(self, address: str, folder: Path, *, partitions: int = 4, **settings: Mapping[str, Any]) -> None:
        self.address, self.folder, self.partitions = address, folder, partitions
        self.prefix = f"chaos.{uuid.uuid4().hex[:8]}."
        self.admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
        self.config = folder / "kizashi.toml"
        self.workers: list[Worker] = []
        # not by the admin client: its offsets of a topic may for ever fail with FENCED_LEADER_EPOCH (librdkafka 2.16)
        self._reader = Consumer({"bootstrap.servers": address, "group.id": "chaos-ends", "log_level": 0})
        sections: dict[str, dict[str, Any]] = {
            "broker": {"bootstrap": address}, "topics": {"prefix": self.prefix},
            "group": {"id": self.prefix + "g", "session_timeout_s": 6, "heartbeat_s": 1},
            # the clock of the worker must not decide what an asset's silence is: the oracle has no such clock
            "worker": {"start": "earliest", "silent_after_s": 3600, "max_batch": 256, "max_inflight": 512},
            "checkpoint": {"interval_s": 1}, "metrics": {"enabled": False},
        }
        # beside the chart a model over windows: rings, matrix products in float32, an on-delay of its own
        models.bundle(folder / "models" / "made", models.dense(), threshold=4.0,
                      judge={"on": [2, 3], "off": 3, "deadband": 0.1})
        sections["models"] = {"folder": str(folder / "models"), "allow_unsigned": True,
                              "state": str(folder / "state")}
        for name, section in settings.items():
            sections.setdefault(name, {}).update(section)
        self.config.write_text("\n".join(
            f"[{name}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in section.items())
            for name, section in sections.items()) + ROUTES)
        self.settings: Settings = load_settings(self.config, {}, {})

    def create_topics(self, **partitions: int) -> None:
        """Create all topics as the product wants them."""
        new = []
        for topic in (t for t in ALL if t is not ASSESSMENT):
            count = self.partitions if topic in (TELEMETRY, STATE) else 1
            new.append(NewTopic(self.name(topic.name), partitions.get(topic.name.split(".")[1], count), 1,
                                config=dict(topic.settings)))
        for done in self.admin.create_topics(new).values():
            done.result(20)

    def name(self, topic: Any) -> str:
        return self.settings.topics.name(topic)

    def worker(self, *assignments: str, program: Sequence[str] = (),
               environment: Mapping[str, str] | None = None, owns: int = 0) -> Worker:
        """Start a worker; owns: partitions to wait for."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        self.workers.append(Worker(self.config, log, assignments, program, environment))
        if owns:
            self.workers[-1].owns(owns)
        return self.workers[-1]

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
        self._reader.close()

    # -- what the broker has

    def ends(self, topic: Any = TELEMETRY) -> dict[int, int]:
        """Return the end offset of every partition."""
        count = self.partitions if topic in (TELEMETRY, STATE) else 1
        name = self.name(topic)

        def ask() -> dict[int, int] | None:
            try:
                return {p: self._reader.get_watermark_offsets(TopicPartition(name, p), timeout=10)[1]
                        for p in range(count)}
            except KafkaException:  # the broker is on its way back
                return None
        ends: dict[int, int] = eventually(ask, 90, "the broker does not say where the log ends")
        return ends

    def committed(self) -> dict[int, int]:
        """Return what the group has committed; partitions without a commit are left out."""
        group = self.settings.group.id

        def ask() -> dict[int, int] | None:
            try:
                found = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)],
                                                               request_timeout=20)
                return {tp.partition: tp.offset for tp in found[group].result().topic_partitions if tp.offset >= 0}
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
                return None
        deadline = time.monotonic() + 90
        while (offsets := ask()) is None:
            assert time.monotonic() < deadline, "the broker does not say what is committed"
            time.sleep(0.2)
        return offsets

    def caught_up(self, within_s: float = 60.0) -> None:
        """Wait until everything that the log has is committed."""
        def level() -> bool:
            ends = {p: end for p, end in self.ends().items() if end}
            return {p: o for p, o in self.committed().items() if p in ends} == ends
        eventually(level, within_s, f"{self.committed()} for {self.ends()}\n"
                   + "\n".join(w.tail(8) for w in self.workers if w.process.poll() is None), every_s=0.2)

    def read(self, topic: Any) -> list[Message]:
        """Read a topic from its beginning to its end now, in the order of each partition."""
        return read_all(self.address, self.name(topic))


@contextmanager
def reader(address: str, group: str = "chaos-reader") -> Iterator[Consumer]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": group, "enable.auto.commit": False,
                         "auto.offset.reset": "earliest", "log_level": 0, "fetch.wait.max.ms": 10,
                         "fetch.message.max.bytes": 16 << 20})
    try:
        yield consumer
    finally:
        consumer.close()


def read_all(address: str, topic: str) -> list[Message]:
    found: list[Message] = []
    with reader(address) as consumer:
        parts = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        for p in sorted(parts):
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)
            if first == end:
                continue
            consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING)])
            # the position, not the last record: compaction may have removed that one
            while consumer.position([TopicPartition(topic, p)])[0].offset < end:
                found += [m for m in consumer.consume(5000, timeout=0.05) if m.error() is None and m.offset() < end]
    return found
