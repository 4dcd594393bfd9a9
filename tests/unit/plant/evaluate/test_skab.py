"""Evaluation of SKAB: causal, by no label, one line a row; folders left out. The files here are made up."""

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engines import load_bundle, shipped_bundles
from pipeline.ops.settings import Settings
from pipeline.plant.csvmap import load_map
from pipeline.plant.evaluate import Options
from pipeline.plant.evaluate.detection import compare, intervals, pooled
from pipeline.plant.evaluate.skab import TRAIN_ROWS, judged
from pipeline.plant.evaluate.skabcv import GRID, alarms, chart, fitted, values_of
from pipeline.plant.labelled import read_experiment
from tests.plant import SKAB_COLUMNS, kizashi

SKAB_DATA = Path(__file__).resolve().parents[5] / "shared" / "data" / "skab"


def a_rig(folder: Path, rows: int = 700, fault_at: int | None = 550, labels: bool = True, shift: float = 0.0) -> Path:
    """Write an experiment of SKAB's layout; from row `fault_at` on the first accelerometer is 6 deviations off."""
    random = np.random.default_rng(4)
    values = random.normal(1.0, 0.1, (rows, 8))
    values[:, 3] += shift
    label = np.zeros(rows)
    if fault_at is not None:
        values[fault_at:, 0] += 0.6
        label[fault_at:] = 1
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.open("w") as f:
        f.write(f"datetime;{SKAB_COLUMNS}" + (";anomaly;changepoint\n" if labels else "\n"))
        for i, row in enumerate(values):
            cells = [f"2026-01-01 00:{i // 60:02d}:{i % 60:02d}", *(f"{v:.6f}" for v in row)]
            f.write(";".join(cells + ([f"{label[i]:.1f}", "0.0"] if labels else [])) + "\n")
    return folder


def table(path: Path) -> tuple[list[str], list[float], list[int]]:
    with path.open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == ["datetime", "score", "alarm", "unknown"]
    return [r["datetime"] for r in rows], [float(r["score"]) for r in rows], [int(r["alarm"]) for r in rows]


def test_evaluate_writes_a_line_for_every_row_in_the_layout_of_the_data(tmp_path: Path) -> None:
    a_rig(tmp_path / "data" / "valve1" / "0.csv")
    a_rig(tmp_path / "data" / "other" / "12.csv", rows=300, fault_at=None)
    a_rig(tmp_path / "data" / "anomaly-free" / "anomaly-free.csv", fault_at=None, labels=False)
    code, out, err = kizashi("evaluate", "skab", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    times, scores, alarms = table(tmp_path / "out" / "valve1" / "0.csv")
    assert len(times) == 700 and times[61] == "2026-01-01 00:01:01"
    assert scores[:400] == [0.0] * 400 and sum(alarms[:550]) == 0
    assert max(scores[400:550]) < 1.0 < min(scores[570:])
    assert alarms[570:] == [1] * 130
    assert table(tmp_path / "out" / "other" / "12.csv")[1] == [0.0] * 300  # never calibrated
    assert len(table(tmp_path / "out" / "anomaly-free" / "anomaly-free.csv")[0]) == 700
    assert "valve1/0" in out and "all labelled files, pooled" in out


def test_evaluate_is_causal_and_judges_each_file_by_itself(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    a_rig(whole / "valve1" / "0.csv")
    a_rig(whole / "valve2" / "3.csv", shift=40.0)
    text = (whole / "valve1" / "0.csv").read_text().splitlines(keepends=True)
    (cut / "valve1").mkdir(parents=True)
    (cut / "valve1" / "0.csv").write_text("".join(text[:561]))  # the header and 560 rows
    for data in (whole, cut):
        assert kizashi("evaluate", "skab", "--data", data, "--out", data / "out")[0] == 0
    longer, shorter = table(whole / "out" / "valve1" / "0.csv"), table(cut / "out" / "valve1" / "0.csv")
    assert [column[:560] for column in longer] == list(shorter)


def test_evaluate_refuses_a_folder_without_files(tmp_path: Path) -> None:
    code, _, err = kizashi("evaluate", "skab", "--data", tmp_path, "--out", tmp_path / "out")
    assert code == 5 and "holds no FOLDER/NUMBER.csv" in err


def test_a_folder_too_deep_is_answered_with_the_one_above(tmp_path: Path) -> None:
    a_rig(tmp_path / "skab" / "valve1" / "0.csv", rows=20)
    code, _, err = kizashi("evaluate", "skab", "--data", tmp_path / "skab" / "valve1", "--out", tmp_path / "out")
    assert code == 5 and err.endswith(f"give the folder above, {tmp_path / 'skab'}\n")


def test_one_file_has_figures_and_no_interval(tmp_path: Path) -> None:
    a_rig(tmp_path / "data" / "valve1" / "0.csv")
    out = kizashi("evaluate", "skab", "--data", tmp_path / "data", "--out", tmp_path / "out")[1]
    (line,) = (line for line in out.splitlines() if "files, pooled" in line)
    assert "[" not in line and "1 of 1" in line


def test_another_bundle_goes_the_same_way_and_is_named(tmp_path: Path) -> None:
    data = a_rig(tmp_path / "data" / "valve1" / "0.csv").parents[1]
    asked = ("evaluate", "skab", "--data", data, "--out", tmp_path / "out", "--bundle")
    code, out, _ = kizashi(*asked, "anomaly-convae")
    assert code == 0 and "bundle: anomaly-convae 1." in out and "1 of 1" in out
    assert "--bundle anomaly-convae" in (tmp_path / "out" / "report.html").read_text()
    assert kizashi(*asked, "nothing")[0] == 4
    code, _, err = kizashi(*asked, "anomaly-convae", "--protocol", "cv")
    assert code == 5 and "anomaly-convae is scored as it is" in err


@pytest.mark.skipif(not SKAB_DATA.exists(), reason=f"SKAB's files are not at {SKAB_DATA}")
def test_evaluate_skab_meets_the_bar_and_the_data_sets_own_judge_agrees(tmp_path: Path) -> None:
    code, out, err = kizashi("evaluate", "skab", "--data", SKAB_DATA, "--out", tmp_path)
    assert (code, err) == (0, "")
    ours = [float(cell.split()[0]) for cell in out.split("files, pooled")[1].split("]")[:3]]
    judge = SKAB_DATA.parents[1] / "eval" / "eval_skab.py"
    command = [sys.executable, str(judge), "--data", str(SKAB_DATA), "--pred", str(tmp_path)]
    theirs = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert theirs["notes"] == []
    assert ours == [round(theirs["F1"], 3), round(theirs["FAR"], 1), round(theirs["MAR"], 1)]
    assert theirs["F1"] >= 0.84 and theirs["FAR"] <= 17 and theirs["MAR"] <= 18
    (ours,) = (line.split("]")[-2:] for line in out.splitlines() if "files, pooled" in line)
    assert float(ours[0].split()[0]) <= 8.0  # false alarms an hour
    found, anomalies = (int(n) for n in ours[1].split()[:3:2])
    assert found >= 0.9 * anomalies


def broken(folder: Path) -> dict[str, str]:
    """Write files that cannot be read beside one that can; return what is said of each."""
    good = a_rig(folder / "valve1" / "0.csv").read_text().splitlines()
    head, first, *rest = good
    cells = first.split(";")
    texts = {
        "valve1/1.csv": [head, ";".join([*cells[:3], "", *cells[4:]]), *rest],
        "valve1/2.csv": [*good[:-1], good[-1][:30]],
        "valve1/3.csv": [head, first.replace("2026-01-01", "yesterday"), *rest],
    }  # fmt: skip
    for name, lines in texts.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "valve1" / "4.csv.gz").write_bytes(b"\x1f\x8b no more")
    (folder / "valve1" / "0.csv.gz").write_bytes(gzip.compress("\n".join(good).encode()))
    return {"valve1/1.csv": "Current is empty", "valve1/2.csv": "cells, the header has", "valve1/3.csv": "is no time",
            "valve1/4.csv.gz": "cannot be read", "valve1/0.csv.gz": "is the same asset as "}


def test_files_that_cannot_be_read_are_named_and_left_out_and_the_rest_is_scored(tmp_path: Path) -> None:
    said = broken(tmp_path / "data")
    code, out, _ = kizashi("evaluate", "skab", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert code == 0 and "1 of 1" in out
    for name, why in said.items():
        assert [line for line in out.splitlines() if line.startswith("left out") and name in line and why in line], out
        assert f"(left out) {name}" in out
    assert list(files_of(tmp_path / "out")) == ["valve1/0.csv"]
    (tmp_path / "data" / "valve1" / "0.csv").unlink(), (tmp_path / "data" / "valve1" / "0.csv.gz").unlink()
    code, _, err = kizashi("evaluate", "skab", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert code == 5 and "none of its files can be read; left out: " in err


@pytest.mark.parametrize(("start", "name"), [("\ufeff", "datetime"), ("", " datetime ")])
def test_a_byte_order_mark_or_a_blank_in_the_header_changes_nothing(tmp_path: Path, start: str, name: str) -> None:
    plain = a_rig(tmp_path / "plain" / "valve1" / "0.csv").read_text()
    (tmp_path / "odd" / "valve1").mkdir(parents=True)
    (tmp_path / "odd" / "valve1" / "0.csv").write_text(start + plain.replace("datetime", name, 1), "utf-8")
    for kind in ("plain", "odd"):
        assert kizashi("evaluate", "skab", "--data", tmp_path / kind, "--out", tmp_path / f"{kind}.out")[0] == 0
    assert files_of(tmp_path / "plain.out") == files_of(tmp_path / "odd.out")


def test_labels_that_cannot_be_read_cost_no_prediction(tmp_path: Path) -> None:
    path = a_rig(tmp_path / "data" / "valve1" / "0.csv")
    a_rig(tmp_path / "data" / "valve2" / "0.csv")
    empty = a_rig(tmp_path / "data" / "valve2" / "1.csv")
    path.write_text(path.read_text().replace(";1.0;", ";2.0;"))
    empty.write_text(empty.read_text().replace(";1.0;", ";;").replace(";0.0;", ";;"))
    code, out, _ = kizashi("evaluate", "skab", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert code == 0 and "1 of 1" in out and len(files_of(tmp_path / "out")) == 3
    assert "taken as without labels: " in out and "neither 0 nor 1" in out and "valve2/1: no labels" in out


def test_a_sensor_that_died_or_is_missing_is_unknown_by_name_and_told(tmp_path: Path) -> None:
    path = a_rig(tmp_path / "data" / "valve1" / "0.csv", fault_at=None)
    head, *lines = path.read_text().splitlines()
    dead, gone = lines.copy(), lines.copy()
    for i in range(450, 650):
        cells = lines[i].split(";")
        dead[i] = ";".join([*cells[:8], "1.0", *cells[9:]])
        gone[i] = ";".join([*cells[:8], "", *cells[9:]])
    for name, text in (("1", dead), ("2", gone)):
        (path.parent / f"{name}.csv").write_text("\n".join([head, *text]) + "\n")
    code, out, _ = kizashi("evaluate", "skab", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert code == 0
    assert "valve1/1: 168 rows unknown: a channel stands still: volume_flow" in out
    assert "valve1/2: 200 rows with empty cells, held at the last value" in out
    assert "valve1/2: 169 rows unknown: a channel stands still: volume_flow" in out and "valve1/0: 1" not in out
    with (tmp_path / "out" / "valve1" / "1.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert {r["unknown"] for r in rows[:400]} == {"calibrating"} and {r["unknown"] for r in rows[400:482]} == {""}
    assert {(r["score"], r["unknown"]) for r in rows[482:650]} == {("0.0", "a channel stands still: volume_flow")}


def test_figures_stand_beside_those_of_good_baselines_alone(tmp_path: Path) -> None:
    a_rig(tmp_path / "data" / "valve1" / "0.csv")
    path = a_rig(tmp_path / "data" / "valve1" / "1.csv")
    head, *lines = path.read_text().splitlines()
    for i in range(200, 400):  # a step within the calibration
        cells = lines[i].split(";")
        lines[i] = ";".join([cells[0], *(f"{float(c) + 0.3:.6f}" for c in cells[1:9]), *cells[9:]])
    path.write_text("\n".join([head, *lines]) + "\n")
    out = kizashi("evaluate", "skab", "--data", tmp_path / "data", "--out", tmp_path / "out")[1]
    assert "good baseline, 1 files" in out and "suspect baseline, 1 files" in out
    (on,) = (line for line in out.splitlines() if "always on" in line)
    assert "2 of 2" in on


def write_set(folder: Path, **how: bool) -> Path:
    for k, name in enumerate(("valve1/0", "valve1/1", "valve2/0", "other/3")):
        a_rig(folder / f"{name}.csv", rows=640, fault_at=520 + 10 * k, **how)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.csv"))}


def test_predictions_are_the_same_without_labels_and_the_table_says_that_nothing_was_scored(tmp_path: Path) -> None:
    write_set(tmp_path / "with"), write_set(tmp_path / "without", labels=False)
    said = {}
    for kind in ("with", "without"):
        code, said[kind], _ = kizashi("evaluate", "skab", "--data", tmp_path / kind, "--out", tmp_path / f"{kind}.out")
        assert code == 0
    assert files_of(tmp_path / "with.out") == files_of(tmp_path / "without.out")
    assert "no file carries labels" in said["without"] and "no file carries labels" not in said["with"]


def test_shuffled_labels_give_chance(tmp_path: Path) -> None:
    """A score that had anything from the labels would go with them; ours is as good as a coin with its own rate."""
    data = write_set(tmp_path / "data")
    random = np.random.default_rng(0)
    for path in data.glob("*/*.csv"):
        head, *lines = path.read_text().splitlines()
        cells = [line.rsplit(";", 2) for line in lines]
        mixed = random.permutation([c[1] for c in cells[TRAIN_ROWS:]])
        for c, label in zip(cells[TRAIN_ROWS:], mixed, strict=True):
            c[1] = str(label)
        path.write_text("\n".join([head, *(";".join(c) for c in cells)]) + "\n")
    _, out, _ = kizashi("evaluate", "skab", "--data", data, "--out", tmp_path / "out")
    far, mar = (float(cell.split()[0]) for cell in out.split("files, pooled")[1].split("]")[1:3])
    assert far + mar == pytest.approx(100.0, abs=10.0)


def test_report_shows_truth_limit_and_alarm_and_is_the_same_each_time(tmp_path: Path) -> None:
    data = write_set(tmp_path / "data")
    pages = []
    for _ in range(2):
        assert kizashi("evaluate", "skab", "--data", data, "--out", tmp_path / "out")[0] == 0
        pages.append((tmp_path / "out" / "report.html").read_bytes())
    assert pages[0] == pages[1]
    page = pages[0].decode()
    assert page.count("<figcaption>valve1/0</figcaption>") == 1
    assert "true anomaly" in page and 'class="alarm"' in page and "always on" in page and "http" not in page


def test_files_of_another_kind_are_left_out_and_named(tmp_path: Path) -> None:
    write_set(tmp_path / "data")
    (tmp_path / "data" / "notes").mkdir()
    (tmp_path / "data" / "notes" / "1.csv").write_text("who,what\nme,hello\n")
    code, out, _ = kizashi("evaluate", "skab", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert code == 0 and "notes/1.csv: is no file of SKAB, it has no column 'datetime'" in out
    assert not (tmp_path / "out" / "notes").exists()


def test_one_folder_left_out_is_scored_by_what_was_chosen_on_the_others(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"exceedance": (2e-5,), "slow_stationarity": (0.35, 0.2), "smoothing": (0.12, 0.15)}
    monkeypatch.setattr("pipeline.plant.evaluate.skabcv.GRID", GRID | small)
    data = write_set(tmp_path / "data")
    command = ("evaluate", "skab", "--protocol", "cv", "--data", data, "--out", tmp_path / "out")
    code, out, err = kizashi(*command)
    assert (code, err) == (0, "")
    chosen = out.split("What was chosen")[1]
    assert "leave one folder out" in out and "288 choices" in out and "temperatures" in chosen
    before = [line for line in chosen.splitlines() if line.startswith("  other ")]
    # what is in the folder left out has no say in the choice
    text = (data / "other" / "3.csv").read_text()
    (data / "other" / "3.csv").write_text(text.replace(";1.0;", ";0.0;"))
    again = kizashi(*command)[1].split("What was chosen")[1]
    assert [line for line in again.splitlines() if line.startswith("  other ")] == before


def test_folders_cannot_be_left_out_without_labels_or_with_one_folder(tmp_path: Path) -> None:
    a_rig(tmp_path / "data" / "valve1" / "0.csv")
    code, _, err = kizashi("evaluate", "skab", "--protocol", "cv", "--data", tmp_path / "data", "--out", tmp_path)
    assert code == 5 and "two folders or more" in err


def test_arrays_that_the_choice_looks_at_are_what_the_flow_says(tmp_path: Path) -> None:
    flow = read_experiment(a_rig(tmp_path / "valve1" / "0.csv"), load_map(Path("skab")))
    judged([flow], Settings(), Options())
    spec = load_bundle(shipped_bundles()["anomaly-mewma"]).spec
    assert spec.mewma is not None
    rows, quantities = values_of(flow)
    score = chart(rows, fitted(rows, quantities, spec.mewma), spec.mewma)
    np.testing.assert_allclose(score, flow.score[TRAIN_ROWS:], rtol=1e-5, atol=1e-6)
    assert alarms(score, spec.judge).tolist() == (flow.alarm[TRAIN_ROWS:] == 1).tolist()


def test_comparison_counts_rows_episodes_delays_and_overruns() -> None:
    truth = np.array([0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1], bool)
    alarm = np.array([0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0], bool)
    found = compare(np.arange(12.0) * 2, truth, alarm)
    assert found.rows == (2, 2, 4, 4)
    assert found.episodes == 1 and found.normal_s == 12.0
    assert found.delays[0] == 4.0 and np.isnan(found.delays[1]) and found.clears == (2.0,)
    figures = pooled([found, found])
    assert (figures.found, figures.anomalies, figures.f1) == (2, 4, pytest.approx(2 / 5))
    assert figures.per_hour == pytest.approx(2 / (24 / 3600))
    f1, far, mar, per_hour = intervals([found, found])
    assert (f1.value, far.value, mar.value) == (figures.f1, figures.far, figures.mar) == (f1.low, far.low, mar.low)
    assert per_hour.high == pytest.approx(figures.per_hour)


def test_always_on_and_always_off_are_what_they_are() -> None:
    truth = np.arange(100) % 10 < 5
    on, off = (pooled([compare(np.arange(100.0), truth, np.full(100, said))]) for said in (True, False))
    assert (on.far, on.mar, on.f1) == (100.0, 0.0, pytest.approx(2 / 3))
    assert (off.far, off.mar, off.f1, off.found) == (0.0, 100.0, 0.0, 0)
