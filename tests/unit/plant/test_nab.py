"""Slow series: replay, cold start, and labels that nothing but the table reads. All series here are simulated."""

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.errors import InputError
from pipeline.ops.settings import Settings
from pipeline.plant import datasets, nab, slowsim
from pipeline.plant.evaluate.nab import score
from pipeline.plant.evaluate.stream import assessed, patient, routed
from pipeline.plant.evaluate.watched import Watched
from schemas import AssetBirth

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS, SHIFT, DAY = 30, 20, 288


def a_series(days: int = DAYS, shift_day: int | None = SHIFT) -> np.ndarray:
    x = 80 + 3 * slowsim.slow(1, days, memory_h=6.0)
    if shift_day is not None:
        x[shift_day * DAY : (shift_day + 2) * DAY] -= 30
    return x


def write(data: Path, x: np.ndarray, name: str = "machine", step_s: float = 300, labels: bool = True) -> Path:
    (data / "known").mkdir(parents=True, exist_ok=True)
    times = [(START + timedelta(seconds=step_s * i)).strftime("%Y-%m-%d %H:%M:%S") for i in range(len(x))]
    lines = ["timestamp,value", *(f"{t},{v!r}" for t, v in zip(times, x.tolist(), strict=True))]
    (data / "known" / f"{name}.csv").write_text("\n".join(lines))
    if labels:
        window = [(START + timedelta(days=d)).strftime("%Y-%m-%d %H:%M:%S.%f") for d in (SHIFT, SHIFT + 2)]
        (data / "labels.json").write_text(json.dumps({f"known/{name}": {"labels": [], "windows": [window]}}))
    return data


def evaluated(data: Path, out: Path, name: str = "machine") -> list[dict[str, str]]:
    assert main(["evaluate", "nab", "--data", str(data), "--out", str(out)]) == 0
    return list(csv.DictReader((out / "known" / f"{name}.csv").read_text().splitlines()))


def test_series_are_births_and_samples_in_the_order_of_the_file(tmp_path):
    birth, *frames = datasets.messages("nab", write(tmp_path, np.arange(5.0)))
    assert isinstance(birth, AssetBirth) and birth.asset == "nab/known/machine"
    assert birth.rate_hz == pytest.approx(1 / 300)
    assert [np.frombuffer(f.data, "<f8")[0] for f in frames] == [0, 1, 2, 3, 4]


def test_a_lasting_shift_is_found_and_nothing_is_raised_elsewhere(tmp_path, capsys):
    rows = evaluated(write(tmp_path / "d", a_series()), tmp_path / "o")
    assert "1 of 1 stretches found, 0 false raises" in capsys.readouterr().out
    # Cold start: eight hours until the first row, a week until the first score
    assert {r["unknown"] for r in rows[: DAY * 6]} == {"not enough history", "calibrating"}
    assert {r["alarm"] for r in rows[: SHIFT * DAY]} == {"0"}
    assert "<svg" in (tmp_path / "o" / "report.html").read_text()


def test_predictions_are_the_same_without_labels_again_and_without_what_comes_later(tmp_path, capsys):
    x = a_series()
    whole = evaluated(write(tmp_path / "a", x), tmp_path / "1")
    assert whole == evaluated(write(tmp_path / "b", x, labels=False), tmp_path / "2")
    assert "No labels.json: predictions only." in capsys.readouterr().out
    cut = evaluated(write(tmp_path / "c", x[: 22 * DAY]), tmp_path / "3")
    assert cut == whole[: 22 * DAY]


def test_scores_do_not_depend_on_the_cut_into_polls():
    x, found = a_series(12, None), []
    for size in (1024, 5):
        settings, watched = routed(patient(Settings()), "slow-process", "slow-level"), Watched(len(x))
        for a in assessed(settings, slowsim.slow_messages("s", x), size):
            watched.take(a)
        found.append(watched.score)
    np.testing.assert_array_equal(*found)


def test_a_sensor_that_stands_still_and_another_rate_are_told_as_such(tmp_path, capsys):
    x = a_series(20, None)
    x[15 * DAY :] = 80.0
    rows = evaluated(write(tmp_path / "d", x), tmp_path / "o")
    assert rows[-1]["unknown"] == "a channel stands still" and rows[-1]["score"] == ""
    assert {r["alarm"] for r in rows} == {"0"}
    evaluated(write(tmp_path / "h", a_series(20, None), "hourly", 3600), tmp_path / "oh", "hourly")
    assert "no answer: no_route: bundle slow-level cannot serve it: 0.000277778 samples/s" in capsys.readouterr().out


def test_values_that_are_missing_are_left_out_and_broken_files_are_named(tmp_path):
    (tmp_path / "known").mkdir()
    path = tmp_path / "known" / "x.csv"
    path.write_text("timestamp,value\n2024-01-01 00:00:00,1\n2024-01-01 00:05:00,\n2024-01-01 00:10:00,nan\n"
                    "2024-01-01 00:15:00,2\n")
    assert nab.read(path).value.tolist() == [1, 2]
    for text, fault in (("timestamp,value\n1 o'clock,1\n", "is no table"), ("a,b\n1,2\n", "is no table"),
                        ("timestamp,value\n2024-01-01,1\n", "1 values")):
        path.write_text(text)
        with pytest.raises(InputError, match=fault):
            nab.read(path)
    (tmp_path / "labels.json").write_text('{"known/x": {"windows": "soon"}}')
    with pytest.raises(InputError, match="are no labels"):
        nab.windows(tmp_path)


def test_stretches_in_the_probation_do_not_count_and_an_alarm_that_was_on_finds_nothing():
    t = np.arange(100) * 3600 * 10**9
    alarm = np.zeros(100, int)
    alarm[[5, 25, 30, 31, 62]] = 1  # in probation, elsewhere, in a stretch (twice the same), in a stretch
    alarm[70:90] = 1  # on before the last stretch begins
    windows = [(int(t[a]), int(t[b])) for a, b in ((4, 8), (28, 34), (60, 64), (80, 85))]
    found = score(t, alarm, windows, 15)
    assert found.found == (2.0, 2.0, None)
    assert found.false == 2
    assert score(t, np.ones(100, int), windows, 15).cells()[:2] == (0, 3)


def test_a_series_that_no_label_names_has_no_figures_and_one_without_stretches_has(tmp_path, capsys):
    data = write(tmp_path / "d", a_series())
    x = a_series(20, None)
    write(data, x, "unnamed", labels=False)
    write(data, x, "steady", labels=False)
    labels = json.loads((data / "labels.json").read_text())
    (data / "labels.json").write_text(json.dumps(labels | {"known/steady": {"labels": [], "windows": []}}))
    evaluated(data, tmp_path / "o")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "known/unnamed: no figures: labels.json does not name it" in lines
    assert "known/steady: 0 of 0 stretches found, 0 false raises (0.00 a month)" in lines
    (row,) = [line.split() for line in lines if line.startswith("known/unnamed  ")]
    assert row[1:] == ["-"] * 6


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_scored(tmp_path, capsys):
    data = write(tmp_path / "d", a_series())
    (data / "known" / "notes.csv").write_text("who,what\nme,hello\n")
    evaluated(data, tmp_path / "o")
    out = capsys.readouterr().out
    assert "1 of 1 stretches found" in out and "(left out) known/notes.csv" in out
    assert "notes.csv: is no table of timestamp,value" in out
    (data / "labels.json").write_text("{")
    evaluated(data, tmp_path / "p")
    assert "taken as without labels: " in capsys.readouterr().out
    (data / "known" / "machine.csv").unlink()
    assert main(["evaluate", "nab", "--data", str(data), "--out", str(tmp_path / "o")]) == 5
