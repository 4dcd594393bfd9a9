"""Workers as processes on Apache Kafka, each test with topics of its own."""

import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.broker import BrokerConfig
from pipeline.ops.reader import read
from pipeline.ops.settings import Settings
from schemas import Assessment
from schemas.codec import decode_assessment
from tests.chaos.bed import KIZASHI, ROOT, Bed, Worker
from tests.kafka import KafkaBroker

MakeBed = Callable[..., Bed]


@pytest.fixture
def beds(tmp_path: Path) -> Iterator[MakeBed]:
    """Return make(broker, partitions=4, **settings) -> a Bed with its topics; its workers end with the test."""
    made: list[Bed] = []

    def make(broker: KafkaBroker, **options: Any) -> Bed:
        folder = tmp_path / f"bed-{len(made)}"
        folder.mkdir()
        made.append(Bed(broker.address, folder, **options))
        made[-1].create_topics()
        return made[-1]

    yield make
    for bed in made:
        bed.close()


def kizashi(*words: str) -> None:
    """Run a command that must succeed."""
    subprocess.run([*KIZASHI, *words], check=True, cwd=ROOT, timeout=120, stdout=subprocess.DEVNULL)


def configured(address: str, folder: Path, more: str = "") -> Path:
    """Write the settings of a worker that publishes assessments, under a prefix of its own; make its topics."""
    prefix, path = f"own-{uuid.uuid4().hex[:8]}.", folder / "worker.toml"
    path.write_text(f'[broker]\nbootstrap = "{address}"\n[topics]\nprefix = "{prefix}"\nassessment = true\n'
                    f'[group]\nid = "{prefix}g"\n[worker]\nstart = "earliest"\n[metrics]\nenabled = false\n{more}')
    kizashi("topics", "apply", "-c", str(path))
    return path


@pytest.fixture
def worker(config: Path, tmp_path: Path) -> Iterator[Worker]:
    """A worker by the test's own `config`."""
    started = Worker(config, tmp_path / "worker.log")
    yield started
    started.kill()


async def values(settings: Settings, topic: str) -> list[bytes]:
    """Return what a topic holds now."""
    cfg, name = BrokerConfig(settings.broker.bootstrap), settings.topics.name(topic)
    return [record.value or b"" async for record in read(cfg, name, from_beginning=True, follow=False)]


async def assessed(settings: Settings, rows: int) -> list[Assessment]:
    """Read assessments until `rows` rows are there, 90 s at most."""
    found, deadline = list[Assessment](), time.monotonic() + 90
    while sum(len(a.seq) for a in found) < rows and time.monotonic() < deadline:
        found = [decode_assessment(value) for value in await values(settings, "kizashi.assessment.v1")]
    return found
