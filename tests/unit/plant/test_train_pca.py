"""`kizashi train pca-t2q` on files as a plant has them, and the bundle it makes in the worker's flow."""

from pathlib import Path

import numpy as np
import pytest

from engines import load_bundle
from engines.trust import TrustPolicy
from pipeline.errors import InputError
from pipeline.ops.settings import Match, Models, Route, Settings
from pipeline.plant.csvhistory import CsvHistory
from pipeline.plant.csvmap import load_map
from pipeline.plant.process import NAMES, ProcessFault
from pipeline.plant.processfiles import write
from pipeline.plant.replay import Replay
from pipeline.plant.series import series
from pipeline.plant.source import Source
from pipeline.plant.train.pca_t2q import PlanFile, Running, channels_of, read_plan
from schemas import Alert, Assessment
from tests.plant import kizashi


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pca")
    write(folder / "data", units=2, samples=6000)
    code, out, err = kizashi("train", "pca-t2q", "--data", folder / "data", "--out", folder / "models" / "pca-t2q")
    assert code == 0, err
    assert "2 histories of 12000 samples in 2 files" in out and "unit1.csv: SHA-256" in out
    return folder


def run(
    trained: Path, folder: Path, *faults: ProcessFault, samples: int = 3000
) -> tuple[list[Assessment], list[Alert]]:
    files = write(folder, units=1, samples=samples, seed=31, stops=0, faults=faults)
    settings = Settings(models=Models(folder=trained / "models", allow_unsigned=True),
                        routes=(Route(match=Match(asset_class="process"), bundle="pca-t2q"),))
    rows, alerts = list[Assessment](), list[Alert]()
    with Replay(settings) as replay:
        for effects in replay.run(Source(tuple(files), load_map(folder / "map.toml"))):
            rows += effects.assessments
            alerts += effects.alerts
    return rows, alerts


def test_healthy_run_with_a_start_up_raises_nothing_and_says_when_it_does_not_know(trained, tmp_path):
    rows, alerts = run(trained, tmp_path)
    assert alerts == []
    states = [s for a in rows for s in a.state]
    assert len(states) == 3000 and states[:299] == [3] * 299 and states[-1000:].count(3) < 50
    reasons = {w for a in rows if a.answers and a.answers.unknown for w in a.answers.unknown}
    assert "not enough history" in reasons


def test_fault_raises_an_alert_that_names_the_sensor(trained, tmp_path):
    _, alerts = run(trained, tmp_path, ProcessFault("bias", 1500, 8.0, "pump_current"))
    assert alerts and alerts[0].rule == "process"
    assert alerts[0].contributions[0].channel == "pump_current"
    assert "pump_current" in alerts[0].why


def test_flow_scores_as_the_formula_that_was_fitted(trained, tmp_path):
    from engines.recipes.pca_model import Plan, fit, states

    rows, _ = run(trained, tmp_path, samples=1200)
    flow = np.array([s for a in rows for s in a.score])
    order = [NAMES.index(n) for n in load_bundle(
        trained / "models" / "pca-t2q", TrustPolicy(allow_unsigned=True)).spec.match.channels]
    histories = series(CsvHistory(load_map(trained / "data" / "map.toml")).read(
        [trained / "data" / f"unit{k}.csv" for k in (1, 2)]))
    names = [NAMES[i] for i in order]
    plan = Plan(tuple(n for n in names if not n.endswith("_set")), tuple(n for n in names if n.endswith("_set")),
                ("outlet_flow", 4.0))
    made = fit([values[:, order] for _, values in histories.values()], plan)
    ((_, mine),) = series(CsvHistory(load_map(tmp_path / "map.toml")).read([tmp_path / "unit1.csv"])).values()
    np.testing.assert_allclose(flow, made.model.answers(states(mine[:, order]))["score"], rtol=1e-4, atol=2e-6)


def test_same_data_give_the_same_bundle(trained, tmp_path):
    assert kizashi("train", "pca-t2q", "--data", trained / "data", "--out", tmp_path / "again")[0] == 0
    for file in ("model.onnx", "golden.msgpack", "model.toml", "manifest.json"):
        assert (tmp_path / "again" / file).read_bytes() == (trained / "models" / "pca-t2q" / file).read_bytes()


def test_file_that_is_there_twice_is_refused_and_named(trained, tmp_path):
    write(tmp_path, units=1, samples=300)
    (tmp_path / "copy.csv").write_bytes((tmp_path / "unit1.csv").read_bytes())
    code, _, err = kizashi("train", "pca-t2q", "--data", tmp_path, "--out", tmp_path / "out")
    assert code == 5 and "leaks" in err and "unit1.csv" in err and "copy.csv" in err


def test_folder_without_tables_without_map_or_with_too_little_says_so(tmp_path):
    command = ("train", "pca-t2q", "--data", tmp_path, "--out", tmp_path / "out")
    assert "holds no .csv" in kizashi(*command)[2]
    write(tmp_path, units=1, samples=500)
    assert "rows in operation after the first 300" in kizashi(*command)[2]
    (tmp_path / "plan.toml").unlink()
    (tmp_path / "map.toml").unlink()
    assert "map.toml" in kizashi(*command)[2]


def test_plan_names_channels_or_takes_them_from_their_quantities(tmp_path):
    write(tmp_path, units=1, samples=400)
    ((birth, rows),) = series(CsvHistory(load_map(tmp_path / "map.toml")).read([tmp_path / "unit1.csv"])).values()
    plan = read_plan(tmp_path)
    assert plan.running == Running("outlet_flow", 4.0)
    rows = rows.copy()
    rows[:, NAMES.index("level")] = 1.5
    sensors, sets, dead = channels_of(plan, birth, [rows])
    assert "feed_set" in sets and "feed_flow" in sensors
    assert "level" in dead and "level" not in sensors
    for wrong, text in ((PlanFile(sensors=("nothing",)), "there is no channel 'nothing'"),
                        (PlanFile(sensors=("level", "feed_set"), set_points=("feed_set",)), "a sensor and a set point"),
                        (PlanFile(sensors=("feed_flow",)), "1 sensors change"),
                        (PlanFile(running=Running("level", 1.0)), "running.channel = 'level' never changes")):
        with pytest.raises(InputError, match=text):
            channels_of(wrong, birth, [rows])
    (tmp_path / "plan.toml").write_text('setpoints = ["a"]')
    with pytest.raises(InputError, match="setpoints"):
        read_plan(tmp_path)
