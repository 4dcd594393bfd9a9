"""Recorded plant data through a real broker, a real worker process and `replay`: the same bits."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from pipeline.ops.config import load_settings
from pipeline.plant.csvmap import load_map
from pipeline.plant.replay import Replay
from pipeline.plant.source import Source
from schemas import Assessment
from schemas.codec import decode_alert
from tests.chaos.bed import ROOT, Worker
from tests.kafka import KafkaBroker
from tests.system.conftest import assessed, configured, kizashi, values

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


@pytest.fixture
def config(kafka: KafkaBroker, tmp_path: Path) -> Path:
    return configured(kafka.address, tmp_path)


def rows(assessments: Iterable[Assessment]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for a in assessments:
        found.setdefault(a.asset, []).extend(zip(a.seq, a.score, a.state, strict=True))
    return found


async def test_scores_and_alerts_through_kafka_equal_those_of_a_replay(
        files: list[Path], config: Path, worker: Worker) -> None:
    settings = load_settings(config, {})
    with Replay(settings) as run:
        effects = list(run.run(Source(files, load_map(Path("skab")))))
    want = rows(a for e in effects for a in e.assessments)
    alerts = {(x.alert_id, x.revision): x for e in effects for x in e.alerts if x.rule == "anomaly"}
    kizashi("import", "csv", "--map", "skab", *map(str, files), "--to", "topic", "-c", str(config))
    assert rows(await assessed(settings, sum(map(len, want.values())))) == want
    assert worker.stop(20) == 0  # it says everything that it has to say before it goes
    said = await values(settings, "kizashi.alert.v1")
    # silence is judged by the records' times, which are the import's here and the files' in a replay
    mine = [x for x in map(decode_alert, said) if x.rule == "anomaly"]
    live_alerts = {(x.alert_id, x.revision): x for x in mine}
    assert live_alerts.keys() == alerts.keys() and len(mine) == len(alerts) > 0
    for key, one in live_alerts.items():
        assert (one.score, one.contributions, one.severity) == (
            alerts[key].score, alerts[key].contributions, alerts[key].severity)
