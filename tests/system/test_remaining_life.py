"""Remaining life through a real broker and a real worker: the predictions of `kizashi evaluate`, bit for bit."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.broker import BrokerConfig
from pipeline.ops.config import load_settings
from pipeline.ops.settings import Settings
from pipeline.plant import cmapss
from pipeline.plant.cmapss import Engine
from pipeline.plant.evaluate.cmapss import forecasts
from pipeline.plant.publisher import Publisher
from schemas import Assessment, AssetBirth
from schemas.topics import ASSET, TELEMETRY
from tests.chaos.bed import ROOT, Worker
from tests.kafka import KafkaBroker
from tests.system.conftest import assessed, configured

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
    return configured(kafka.address, tmp_path,
                      f'[models]\nstate = "{tmp_path / "state"}"\n{case.models}'
                      f'[[routes]]\nbundle = "rul-ewma"\nmatch = {{ asset_class = "{cmapss.ASSET_CLASS}" }}\n')


async def publish(settings: Settings, fleet: list[Engine]) -> None:
    cfg = BrokerConfig(settings.broker.bootstrap)
    async with Publisher(cfg, settings.topics.name(TELEMETRY), settings.topics.name(ASSET)) as publisher:
        for message in cmapss.messages("FD001", fleet):
            if isinstance(message, AssetBirth):
                await publisher.birth(message)
            else:
                await publisher.frame(message)


def answers(assessments: Iterable[Assessment]) -> Said:
    said = Said()
    for a in assessments:
        assert a.answers is not None and a.answers.life is not None and a.answers.unknown is not None
        for k, seq in enumerate(a.seq):
            mean, p10, _, p90 = a.answers.life[k]
            said.setdefault(a.asset, {})[seq] = mean, p10, p90, a.state[k], a.answers.unknown[k]
    return said


@pytest.mark.timeout(240)  # the made-up case trains its bundle
async def test_predictions_through_kafka_equal_those_of_evaluate(case: Case, config: Path, worker: Worker) -> None:
    settings = load_settings(config, {})
    want = forecasts(settings, "FD001", case.fleet)
    await publish(settings, case.fleet)
    said = answers(await assessed(settings, sum(len(e.rows) for e in case.fleet)))
    assert worker.process.poll() is None
    for engine, told in zip(case.fleet, want, strict=True):
        columns = zip(told.rul.tolist(), told.low.tolist(), told.high.tolist(), told.state.tolist(), told.unknown,
                      strict=True)
        assert said[cmapss.asset_of("FD001", engine)] == dict(enumerate(columns))
