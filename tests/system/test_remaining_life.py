"""Remaining life through a real broker and a real worker: the predictions of `kizashi evaluate`, bit for bit."""

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.broker import BrokerConfig
from pipeline.ops.config import load_settings
from pipeline.ops.reader import read
from pipeline.ops.settings import Settings
from pipeline.plant import cmapss
from pipeline.plant.cmapss import Engine
from pipeline.plant.evaluate.cmapss import forecasts
from pipeline.plant.publisher import Publisher
from schemas import AssetBirth
from schemas.codec import decode_assessment
from schemas.topics import ASSET, TELEMETRY
from tests.kafka import KafkaBroker

ROOT = Path(__file__).parents[2]
NASA = Path(os.environ.get("KIZASHI_CMAPSS", ROOT.parent / "shared" / "data" / "cmapss"))
#: Engines of FD001: some 1,300 flights, of lives of every length.
ENGINES = 12
Said = dict[str, dict[int, tuple[float, float, float, int, str]]]


@dataclass
class Case:
    """What is streamed, and the model that serves it."""

    fleet: list[Engine]
    models: str  # lines of [models]


@pytest.fixture(params=["made_up", "nasa"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param == "nasa":
        if not NASA.is_dir():
            pytest.skip(f"NOT TESTED on NASA's engines: {NASA} is not there")
        return Case(cmapss.engines(NASA, "test_FD001.txt")[:ENGINES], "")
    pytest.importorskip("jax", reason="the extra `train` is not installed")
    from tests.unit.plant.evaluate import turbofans

    bundle = turbofans.trained(tmp_path / "models", turbofans.train_data(tmp_path / "train"))
    data = turbofans.test_data(tmp_path / "test", count=4)
    return Case(cmapss.engines(data, "test_FD001.txt"), f'folder = "{bundle.parent}"\nallow_unsigned = true\n')


@pytest.fixture
def config(kafka: KafkaBroker, case: Case, tmp_path: Path) -> Path:
    prefix = f"life-{uuid.uuid4().hex[:8]}."
    path = tmp_path / "worker.toml"
    path.write_text(
        f'[broker]\nbootstrap = "{kafka.address}"\n[topics]\nprefix = "{prefix}"\nassessment = true\n'
        f'[group]\nid = "{prefix}g"\n[worker]\nstart = "earliest"\n[metrics]\nenabled = false\n'
        f'[models]\nstate = "{tmp_path / "state"}"\n{case.models}'
        f'[[routes]]\nbundle = "rul-ewma"\nmatch = {{ asset_class = "{cmapss.ASSET_CLASS}" }}\n')
    kizashi("topics", "apply", "-c", str(path))
    return path


def kizashi(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pipeline.cli.main", *words], check=True, cwd=ROOT, timeout=120,
                   stdout=subprocess.DEVNULL)


@pytest.fixture
def worker(config: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with open(tmp_path / "worker.log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "pipeline.cli.main", "run", "-c", str(config)], cwd=ROOT,
                                   stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


async def publish(settings: Settings, fleet: list[Engine]) -> None:
    cfg = BrokerConfig(settings.broker.bootstrap)
    async with Publisher(cfg, settings.topics.name(TELEMETRY), settings.topics.name(ASSET)) as publisher:
        for message in cmapss.messages("FD001", fleet):
            if isinstance(message, AssetBirth):
                await publisher.birth(message)
            else:
                await publisher.frame(message)


async def assessed(settings: Settings, rows: int) -> Said:
    """Read assessments until `rows` rows are there."""
    topic, deadline, said = settings.topics.name("kizashi.assessment.v1"), time.monotonic() + 90, Said()
    while sum(map(len, said.values())) < rows and time.monotonic() < deadline:
        said = {}
        async for record in read(BrokerConfig(settings.broker.bootstrap), topic, from_beginning=True, follow=False):
            a = decode_assessment(record.value or b"")
            assert a.answers is not None and a.answers.life is not None and a.answers.unknown is not None
            for k, seq in enumerate(a.seq):
                mean, p10, _, p90 = a.answers.life[k]
                said.setdefault(a.asset, {})[seq] = mean, p10, p90, a.state[k], a.answers.unknown[k]
    return said


@pytest.mark.timeout(240)  # the made-up case trains its bundle
def test_predictions_through_kafka_equal_those_of_evaluate(
        case: Case, config: Path, worker: subprocess.Popen[bytes]) -> None:
    settings = load_settings(config, {})
    want = forecasts(settings, "FD001", case.fleet)
    asyncio.run(publish(settings, case.fleet))
    said = asyncio.run(assessed(settings, sum(len(e.rows) for e in case.fleet)))
    assert worker.poll() is None
    for engine, told in zip(case.fleet, want, strict=True):
        columns = zip(told.rul.tolist(), told.low.tolist(), told.high.tolist(), told.state.tolist(), told.unknown,
                      strict=True)
        assert said[cmapss.asset_of("FD001", engine)] == dict(enumerate(columns))
