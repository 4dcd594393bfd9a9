"""Recorded plant data through a real broker, a real worker process and `replay`: the same bits."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.broker import BrokerConfig
from pipeline.ops.config import load_settings
from pipeline.ops.reader import read
from pipeline.plant.csvmap import load_map
from pipeline.plant.replay import Replay
from pipeline.plant.source import Source
from schemas.codec import decode_alert, decode_assessment
from tests.kafka import KafkaBroker

ROOT = Path(__file__).parents[2]
SKAB = ROOT.parent / "shared" / "data" / "skab"
Row = tuple[int, float, int]

HEADER = ("datetime;Accelerometer1RMS;Accelerometer2RMS;Current;Pressure;Temperature;Thermocouple;Voltage;"
          "Volume Flow RateRMS;anomaly;changepoint")


def made_up(folder: Path) -> list[Path]:
    """Write three files of SKAB's form, the last with a fault, so that the test has something to read anywhere."""
    rng, files = np.random.default_rng(5), []
    for number in range(3):
        x = rng.normal(size=(700, 8)) * [0.01, 0.01, 0.1, 0.3, 0.2, 0.1, 3, 0.5] + [0.2, 0.3, 2, 0.2, 90, 26, 230, 32]
        if number == 2:
            x[550:, 7] -= 6
        path = folder / "valve1" / f"{number}.csv"
        path.parent.mkdir(exist_ok=True)
        lines = (f"2020-03-09 10:{i // 60:02d}:{i % 60:02d};" + ";".join(f"{v:.6f}" for v in row) + ";0.0;0.0"
                 for i, row in enumerate(x))
        path.write_text("\n".join([HEADER, *lines]) + "\n")
        files.append(path)
    return files


@pytest.fixture(params=["made_up", "skab"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    if request.param == "made_up":
        return made_up(tmp_path)
    if not SKAB.is_dir():
        pytest.skip(f"NOT TESTED on recorded data: {SKAB} is not there")
    return sorted(SKAB.glob("*/*.csv.gz"))


def kizashi(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pipeline.cli.main", *words], check=True, cwd=ROOT, timeout=120,
                   stdout=subprocess.DEVNULL)


@pytest.fixture
def config(kafka: KafkaBroker, tmp_path: Path) -> Path:
    prefix = f"history-{uuid.uuid4().hex[:8]}."
    path = tmp_path / "worker.toml"
    path.write_text(f'[broker]\nbootstrap = "{kafka.address}"\n[topics]\nprefix = "{prefix}"\nassessment = true\n'
                    f'[group]\nid = "{prefix}g"\n[worker]\nstart = "earliest"\n[metrics]\nenabled = false\n')
    kizashi("topics", "apply", "-c", str(path))
    return path


@pytest.fixture
def worker(config: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with open(tmp_path / "worker.log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "pipeline.cli.main", "run", "-c", str(config)], cwd=ROOT,
                                   stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        try:
            yield process
        finally:
            process.kill()
            process.wait()


async def assessed(config: Path, rows: int) -> dict[str, list[Row]]:
    """Read assessments until `rows` rows are there."""
    settings = load_settings(config, {})
    cfg = BrokerConfig(settings.broker.bootstrap)
    live: dict[str, list[Row]] = {}
    count, deadline = 0, time.monotonic() + 90
    while count < rows and time.monotonic() < deadline:
        live, count = {}, 0
        async for record in read(cfg, settings.topics.name("kizashi.assessment.v1"), from_beginning=True, follow=False):
            a = decode_assessment(record.value or b"")
            live.setdefault(a.asset, []).extend(zip(a.seq, a.score, a.state, strict=True))
            count += len(a.seq)
    return live


async def alerts_of(config: Path) -> list[bytes]:
    settings = load_settings(config, {})
    topic = settings.topics.name("kizashi.alert.v1")
    return [r.value or b"" async for r in read(BrokerConfig(settings.broker.bootstrap), topic, from_beginning=True,
                                               follow=False)]


def test_scores_and_alerts_through_kafka_equal_those_of_a_replay(
        files: list[Path], config: Path, worker: subprocess.Popen[bytes]) -> None:
    want: dict[str, list[Row]] = {}
    alerts = {}
    with Replay(load_settings(config, {})) as run:
        for effects in run.run(Source(files, load_map(Path("skab")))):
            for a in effects.assessments:
                want.setdefault(a.asset, []).extend(zip(a.seq, a.score, a.state, strict=True))
            alerts |= {(x.alert_id, x.revision): x for x in effects.alerts if x.rule == "anomaly"}
    kizashi("import", "csv", "--map", "skab", *map(str, files), "--to", "topic", "-c", str(config))
    assert asyncio.run(assessed(config, sum(map(len, want.values())))) == want
    worker.send_signal(signal.SIGTERM)  # it says everything that it has to say before it goes
    assert worker.wait(20) == 0
    said = asyncio.run(alerts_of(config))
    # silence is judged by the records' times, which are the import's here and the files' in a replay
    mine = [x for x in map(decode_alert, said) if x.rule == "anomaly"]
    live_alerts = {(x.alert_id, x.revision): x for x in mine}
    assert live_alerts.keys() == alerts.keys() and len(mine) == len(alerts) > 0
    for key, one in live_alerts.items():
        assert (one.score, one.contributions, one.severity) == (
            alerts[key].score, alerts[key].contributions, alerts[key].severity)
