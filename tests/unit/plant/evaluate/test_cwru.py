"""`kizashi evaluate cwru` on a simulated rig, by the shipped bundle: predictions, geometry, what is left out, why."""

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from engines import load_bundle, shipped_bundles
from engines.orders import KNOWN, Orders
from engines.recipes.bearing_front import WINDOW, Session
from pipeline.cli.main import app
from pipeline.errors import InputError
from pipeline.ops.settings import Settings
from pipeline.plant import bearingset, cwru
from pipeline.plant.evaluate import Options
from pipeline.plant.evaluate.bearings import HEADER, LABELS, Compared, Judged, Truth, area
from pipeline.plant.evaluate.cwru import evaluate, geometry, judge
from pipeline.plant.evaluate.report import Report
from pipeline.plant.evaluate.stream import routed
from tests.unit.plant import rigs

pytest.importorskip("onnx", reason="onnx (extra `train`) is not installed")
SETTINGS = routed(Settings(), cwru.ASSET_CLASS, "bearing-order")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rigs.folder(tmp_path_factory.mktemp("rig"), diameters=(7, 21))


def run(data: Path, out: Path, **options: object) -> tuple[list[dict[str, str]], list[str]]:
    report = evaluate(data, out, Settings(), Options(**options))  # type: ignore[arg-type]
    with (out / "pred.csv").open() as f:
        return list(csv.DictReader(f)), list(report.lines())


def test_every_window_of_every_recording_is_predicted(rig: Path, tmp_path: Path) -> None:
    rows, lines = run(rig, tmp_path)
    assert list(rows[0]) == list(HEADER)
    for name, rate, seconds in (("N_0", 48_000, 8.0), ("IR007_0", 12_000, 3.0)):
        starts = [int(r["start"]) for r in rows if r["recording"] == name]
        assert starts == list(range(0, round((seconds - 1) * rate) + 1, rate // 2))
    assert {r["pred"] for r in rows} <= {"N", "B", "IR", "OR", "U"}
    for r in rows:
        assert sum(float(r[f"prob_{c}"]) for c in ("N", "B", "IR", "OR")) == pytest.approx(1.0, abs=1e-5)
    forced = {name: [max(("N", "B", "IR", "OR"), key=lambda c, r=r: float(r[f"prob_{c}"])) for r in rows
                     if r["recording"] == name] for name in ("IR021_0", "OR6021_0")}
    assert set(forced["IR021_0"]) == {"IR"} and set(forced["OR6021_0"]) == {"OR"}
    assert {r["pred"] for r in rows if r["recording"] == "N_0"} <= {"N", "U"}
    best = max((r for r in rows if r["recording"] == "OR6021_0"), key=lambda r: float(r["snr_db"]))
    assert float(best["order"]) == pytest.approx(3.585, rel=0.013) and float(best["snr_db"]) > 6
    assert any(r["alarm"] == "1" for r in rows if r["recording"] == "IR021_0")
    assert not any(r["alarm"] == "1" for r in rows if r["recording"] == "N_0")
    assert any("recordings that the bundle has not seen" in line for line in lines)


def test_the_flow_gives_what_the_model_says_of_the_windows(rig: Path) -> None:
    recordings = cwru.read(rig, labels=False)
    rows = judge(SETTINGS, recordings, cwru.frames(recordings))
    session = Session(load_bundle(shipped_bundles()["bearing-order"]).model)
    for r in recordings:
        starts, windows = cwru.cut(r.samples, WINDOW, WINDOW // 2)
        direct = session(windows, np.tile(KNOWN["6205-2RS"].lines_hz(r.rpm), (len(windows), 1)))["probabilities"]
        mine = [row for row in rows if row.recording == r.name]
        assert [row.start * 12_000 / r.rate_hz for row in mine] == starts.tolist()
        # A window resampled by itself ends in zeros where the recording goes on: half a thousandth of it.
        np.testing.assert_allclose([row.probabilities for row in mine], direct,
                                   atol=0.05 if r.rate_hz > 12_000 else 1e-3)


def test_labels_are_not_needed_and_change_no_prediction(rig: Path, tmp_path: Path) -> None:
    rows, _ = run(rig, tmp_path / "with")
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in rig.glob("*.npz"):
        (bare / path.name).write_bytes(path.read_bytes())
    other, lines = run(bare, tmp_path / "without")
    assert other == rows and "no labels: predictions were written, nothing could be scored" in lines
    assert (tmp_path / "with/pred.csv").read_bytes() == (tmp_path / "without/pred.csv").read_bytes()


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_the_scale_of_a_signal_changes_no_decision(rig: Path, factor: float) -> None:
    plain = cwru.read(rig, labels=False)
    scaled = [replace(r, raw=(r.raw * factor).astype(np.float32)) for r in plain]
    one, other = (judge(SETTINGS, rs, cwru.frames(rs)) for rs in (plain, scaled))
    assert [(r.start, r.forced, r.unknown, r.state) for r in one] == [
        (r.start, r.forced, r.unknown, r.state) for r in other]


def test_what_comes_later_changes_no_earlier_window(rig: Path) -> None:
    whole = [r for r in cwru.read(rig, labels=False) if r.name in ("N_0", "IR007_0")]
    part = [replace(r, raw=r.raw[: round(2.2 * r.rate_hz)]) for r in whole]
    after, before = (judge(SETTINGS, rs, cwru.frames(rs)) for rs in (whole, part))
    assert len(before) == 6 and set(before) < set(after)


def test_without_a_speed_every_answer_is_unknown_with_a_best_guess(tmp_path: Path) -> None:
    rigs.recording(tmp_path, "silent", "IR", rpm=None)
    rows, _ = run(tmp_path, tmp_path / "out")
    assert {r["pred"] for r in rows} == {"U"} and {r["unknown"][:8] for r in rows} == {"no speed"}
    assert all(r["prob_IR"] for r in rows)


def test_what_is_no_recording_is_left_out_and_named(tmp_path: Path) -> None:
    rigs.recording(tmp_path, "good one", "N", seconds=1.6)
    rigs.recording(tmp_path, "good@one", "N", seconds=1.6)
    rigs.recording(tmp_path, "slow", "N", rate=8000)
    np.savez(tmp_path / "table.npz", x=np.zeros(3))
    (tmp_path / "torn.npz").write_bytes(b"PK")
    (tmp_path / "empty.npz").touch()
    rigs.recording(tmp_path, "wide", "N", seconds=1.6)
    np.savez_compressed(tmp_path / "damaged.npz", **np.load(tmp_path / "wide.npz"))
    raw = bytearray((tmp_path / "damaged.npz").read_bytes())
    raw[2000:2400] = b"\xff" * 400
    (tmp_path / "damaged.npz").write_bytes(raw)
    (tmp_path / "wide.npz").unlink()
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    (tmp_path / "notes.txt").write_text("not ours")
    rigs.recording(tmp_path, "short", "N", seconds=0.75)
    np.savez(tmp_path / "both.npz", counts=np.ones((2, 24_000), "i2"), step=1e-3, fs=12_000, rpm=1797)
    rows, lines = run(tmp_path, tmp_path / "out")
    assert [r["recording"] for r in rows[:2]] == ["good one", "good one"]
    rest = {r["recording"]: r for r in rows[2:]}  # whoever reads the file finds every name in it
    assert rest.keys() == {"good@one", "slow", "table", "torn", "short", "both", "empty", "damaged", "array"}
    assert len(rows) == 11
    assert {(r["pred"], r["start"], r["prob_N"], r["prob_OR"]) for r in rest.values()} == {("U", "0", "0.25", "0.25")}
    assert rest["short"]["unknown"] == "it has 0.75 s, a window takes a second"
    assert "counts is [2, 24000]; one channel is wanted" in rest["both"]["unknown"]
    said = " ".join(line for line in lines if line.startswith("left out: "))
    assert "slow.npz has 8000 samples/s" in said and "table.npz is no recording" in said and "torn.npz" in said
    assert "good@one.npz and good one.npz would be one asset" in said


def test_an_index_without_labels_and_a_recording_too_fast_for_the_bundle_are_told(tmp_path: Path) -> None:
    rigs.recording(tmp_path, "fast", "IR", rate=64_000)
    (tmp_path / "index.csv").write_text("file,load\nfast.npz,0\n")
    rows, lines = run(tmp_path, tmp_path / "out")
    (row,) = rows
    assert row["pred"] == "U" and "64000 samples/s, bearing-order is made for 12000 to 51200" in row["unknown"]
    assert any("index.csv tells no labels: it has no column fault" in line for line in lines)
    assert any("no labels: predictions were written" in line for line in lines)


def test_a_diameter_that_is_no_number_costs_the_label_of_its_recording_only(tmp_path: Path) -> None:
    data = rigs.folder(tmp_path / "rig", diameters=(7,), seconds=1.6, healthy=2.0)
    index = data / "index.csv"
    index.write_text(index.read_text().replace("B,7.0,", "B,7 mil,"))
    rows, lines = run(data, tmp_path / "out")
    assert any("B007_0.npz: index.csv says diameter_mil '7 mil', which is no number" in line for line in lines)
    assert "B007_0" in {r["recording"] for r in rows} and any("balanced accuracy" in line for line in lines)


def test_recordings_of_small_floats_are_told_apart(tmp_path: Path) -> None:
    for k in range(2):
        np.savez(tmp_path / f"r{k}.npz", counts=np.full(24_000, 0.1 * k), step=1.0, fs=12_000, rpm=1797)
    assert len({r.content for r in cwru.read(tmp_path)}) == 2


def test_another_bearing_is_named_or_described(tmp_path: Path) -> None:
    rigs.recording(tmp_path, "fan_end", "OR6", bearing="6203-2RS", rate=48_000, strength=6.0)
    wrong, _ = run(tmp_path, tmp_path / "a")
    right, _ = run(tmp_path, tmp_path / "b", bearing="6203-2RS")
    told, _ = run(tmp_path, tmp_path / "c", orders=(4.9469, 3.0530, 1.9937, 0.3817))
    assert right == told and {r["pred"] for r in right} == {"OR"} and {r["pred"] for r in wrong} != {"OR"}
    assert float(right[0]["expected_hz"]) == pytest.approx(3.053 * rigs.RPM / 60, rel=1e-4)


@pytest.mark.parametrize(("options", "why"), [
    (Options(bearing="6301"), "--bearing 6301: known are 6205-2RS, 6203-2RS"),
    (Options(orders=(1.0, 2.0)), "--orders has 2 numbers"),
    (Options(orders=(3.58, 5.41, 2.36, 0.398)), "were they swapped"),
    (Options(bearing="6203-2RS", orders=(1.0, 2.0, 3.0, 4.0)), "one of them says the geometry"),
])
def test_a_geometry_that_cannot_be_is_refused(options: Options, why: str) -> None:
    with pytest.raises(InputError, match=why):
        geometry(options)
    assert geometry(Options(orders=(5.4152, 3.5848, 2.3568, 0.39828)))[1] == Orders(3.5848, 5.4152, 2.3568, 0.39828)


def test_figures_by_hand() -> None:
    truth = {"a": Truth("normal", "normal"), "b": Truth("inner", "inner 7"), "c": Truth("inner", "inner 14")}
    p = {"normal": (0.9, 0.1, 0.0, 0.0), "inner": (0.2, 0.8, 0.0, 0.0), "outer": (0.1, 0.3, 0.0, 0.6)}
    rows = [Judged(name, 0, 0.0, 0, why, p[said], (0.0,) * 4) for name, said, why in (
        ("a", "normal", ""), ("a", "inner", ""), ("b", "inner", ""), ("b", "outer", "no class is clear"),
        ("c", "inner", ""), ("c", "inner", ""), ("d", "inner", ""))]
    s = Compared(rows, truth)
    assert len(s.rows) == 6 and s.balanced() == pytest.approx((0.5 + 0.75) / 2)
    assert (s.false_alarms(), s.answered(), s.right_of_answered()) == (0.5, pytest.approx(5 / 6), pytest.approx(4 / 5))
    assert s.confusion().tolist() == [[1, 1, 0, 0, 0], [0, 3, 0, 0, 1], [0] * 5, [0] * 5]
    # inner against the rest: 0.8, 0.3, 0.8, 0.8 against 0.1, 0.8
    assert s.auroc() == pytest.approx((1 + 1 + 1 + 1 + 0.5 * 3) / 8)
    assert s.log_loss() == pytest.approx(-np.log([0.9, 0.2, 0.8, 0.3, 0.8, 0.8]).mean())
    low, high = s.balanced_interval().low, s.balanced_interval().high
    assert low == pytest.approx(0.5) and high == pytest.approx(0.75)
    assert np.isnan(area(np.array([True, True]), np.array([0.1, 0.2]))) and set(LABELS) == {*p, "ball"}


def test_files_with_labels_that_were_trained_on_are_left_out(rig: Path, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    inner = next(r for r in cwru.read(rig) if r.name == "IR007_0")
    monkeypatch.setattr("pipeline.plant.evaluate.cwru._trained_on", lambda settings: {"x": inner.content})
    _, lines = run(rig, tmp_path)
    assert any(line.strip().startswith("(left out) IR007_0") for line in lines)
    assert any(line.strip().startswith("IR007_0.npz") and "trained on" in line for line in lines)
    assert sum("trained on: left out" in line for line in lines) == 1


def test_the_command_writes_predictions_and_a_page(rig: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["evaluate", "cwru", "--data", str(rig), "--out", str(tmp_path), "--bearing",
                                    "6205-2RS"])
    assert told.exit_code == 0, told.output
    page = (tmp_path / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "") and page.count("<svg") >= 1
    assert (tmp_path / "pred.csv").exists() and "balanced accuracy" in told.output


def test_evaluating_loads_no_training_library(rig: Path, tmp_path: Path) -> None:
    code = ("import sys\nfrom pathlib import Path\nfrom pipeline.ops.settings import Settings\n"
            "from pipeline.plant.evaluate import Options\nfrom pipeline.plant.evaluate.cwru import evaluate\n"
            f"evaluate(Path({str(rig)!r}), Path({str(tmp_path)!r}), Settings(), Options())\n"
            "bad = {'onnx', 'scipy', 'sklearn', 'jax'} & set(sys.modules)\nassert not bad, bad\n")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cross_validation_trains_without_each_diameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy", reason="scipy (extra `train`) is not installed")
    monkeypatch.setattr(bearingset, "SIMULATED", 200)
    data = rigs.folder(tmp_path / "rig", seconds=2.0, healthy=6.0)
    (data / "empty.npz").touch()
    rows, lines = run(data, tmp_path / "out", protocol="cv", seeds=1)
    assert {r["recording"] for r in rows} == {p.stem for p in data.glob("*.npz")} - {"empty"}
    assert any(line.startswith("1 seeds: balanced accuracy") for line in lines)
    assert sum(line.startswith("left out: ") and "empty.npz" in line for line in lines) == 1
    starts = [int(r["start"]) for r in rows if r["recording"] == "N_0"]
    assert len(starts) == len(set(starts)) > 20
    (data / "index.csv").unlink()
    with pytest.raises(InputError, match=r"labels no recording.*empty.npz is no recording"):
        run(data, tmp_path / "out", protocol="cv", seeds=1)


def test_the_spread_over_seeds_is_that_of_a_sample() -> None:
    pytest.importorskip("scipy", reason="scipy (extra `train`) is not installed")
    from pipeline.plant.evaluate.cwrucv import _describe

    truth = {"a": Truth("normal", "normal"), "b": Truth("inner", "inner 7")}
    sure, wrong = ((0.9, 0.1, 0.0, 0.0), (0.1, 0.9, 0.0, 0.0))
    seeds = [Compared([Judged("a", 0, 0.0, 0, "", sure, (0.0,) * 4), Judged("b", 0, 0.0, 0, "", said, (0.0,) * 4)],
                      truth) for said in (sure, wrong)]
    report = Report("R", "c", [], [], [])
    _describe(report, seeds)
    assert report.summary[0].startswith("2 seeds: balanced accuracy 0.750 (sd 0.354); ")
