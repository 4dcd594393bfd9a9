"""Bearings run to failure: snapshots become frames, warnings come from the flow. All recordings here are simulated."""

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.errors import InputError
from pipeline.ops.settings import Settings
from pipeline.plant import datasets, femto, slowsim
from pipeline.plant.evaluate.femto import Life, latest_age
from pipeline.plant.evaluate.stream import assessed, routed
from pipeline.plant.evaluate.watched import Watched
from schemas import AssetBirth

SNAPSHOTS, HEALTHY = 300, 95


@pytest.fixture(scope="module")
def worn() -> np.ndarray:
    return slowsim.bearing(6, SNAPSHOTS, HEALTHY).snapshots


def save(folder: Path, name: str, snapshots: np.ndarray, **more: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    counts = np.round(100 * snapshots).astype(np.int32)
    np.savez(folder / f"{name}.npz", acc_h_mg=counts, fs=np.int32(25_600), t_s=np.zeros(len(counts)), **more)
    return folder / f"{name}.npz"


def evaluated(data: Path, out: Path) -> list[dict[str, str]]:
    assert main(["evaluate", "femto", "--data", str(data), "--out", str(out)]) == 0
    (first, *_) = sorted(out.glob("pred_*.csv"))
    return list(csv.DictReader(first.read_text().splitlines()))


def told(messages, frames: int, poll_records: int = 1024) -> Watched:
    settings, watched = routed(Settings(), "vibration-snapshots", "vibration-health"), Watched(frames)
    for a in assessed(settings, messages, poll_records):
        watched.take(a)
    return watched


def test_snapshots_are_frames_ten_seconds_apart_whatever_the_clock_of_the_file_says(tmp_path, worn):
    save(tmp_path, "Bearing9_1", worn[:5], acc_v_mg=np.round(50 * worn[:5]).astype(np.int32))
    birth, *frames = datasets.messages("femto", tmp_path)
    assert isinstance(birth, AssetBirth) and birth.asset == "femto/Bearing9_1"
    assert [c.name for c in birth.channels] == ["acc_h", "acc_v"]
    assert np.diff([f.t0_ns for f in frames]).tolist() == [10 * 10**9] * 4
    counts = np.frombuffer(frames[2].data, "<i4").reshape(2, -1)
    np.testing.assert_array_equal(counts[0], np.round(100 * worn[2]).astype(np.int32))


def test_broken_recordings_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no BearingX_Y"):
        femto.recordings(tmp_path)
    (tmp_path / "Bearing1_1.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match="is no recording"):
        femto.read(tmp_path / "Bearing1_1.npz")
    np.savez(tmp_path / "Bearing1_2.npz", acc_h_mg=np.zeros(5), fs=25_600)
    with pytest.raises(InputError, match="must be numbers"):
        femto.read(tmp_path / "Bearing1_2.npz")


def test_a_growing_defect_is_warned_of_and_a_healthy_bearing_is_not(tmp_path, worn, capsys):
    save(tmp_path / "data", "Bearing9_1", worn)
    save(tmp_path / "data", "Bearing9_2", slowsim.bearing(6, SNAPSHOTS).snapshots)
    rows = evaluated(tmp_path / "data", tmp_path / "out")
    assert "Warned 10 min or more before the end: 1 of 2" in capsys.readouterr().out
    assert [r["unknown"] for r in rows[:90]] == ["calibrating"] * 90
    assert {r["alarm"] for r in rows[:HEALTHY]} == {"0"} and rows[-1]["alarm"] == "1"
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    other = list(csv.DictReader((tmp_path / "out" / "pred_Bearing9_2.csv").read_text().splitlines()))
    assert {r["alarm"] for r in other} == {"0"}


def test_same_bytes_again_and_no_later_snapshot_changes_an_earlier_score(tmp_path, worn):
    save(tmp_path / "whole", "Bearing9_1", worn)
    save(tmp_path / "cut", "Bearing9_1", worn[:200])
    whole, again = evaluated(tmp_path / "whole", tmp_path / "1"), evaluated(tmp_path / "whole", tmp_path / "2")
    cut = evaluated(tmp_path / "cut", tmp_path / "3")
    assert whole == again and cut == whole[:200]
    assert (tmp_path / "1" / "report.html").read_text() == (
        (tmp_path / "2" / "report.html").read_text().replace(str(tmp_path / "2"), str(tmp_path / "1")))


def test_scores_do_not_depend_on_the_cut_into_polls_nor_on_a_second_channel_that_is_healthy(worn):
    alone = told(slowsim.bearing_messages("b", worn), SNAPSHOTS)
    cut = told(slowsim.bearing_messages("b", worn), SNAPSHOTS, poll_records=7)
    np.testing.assert_array_equal(alone.score, cut.score)
    healthy = slowsim.bearing(4, SNAPSHOTS).snapshots
    both = told(slowsim.bearing_messages("b", np.stack([healthy, worn], axis=1)), SNAPSHOTS)
    assert abs(both.raises()[0] - alone.raises()[0]) <= 10  # its limit is a little wider: more features


def test_scale_changes_nothing(worn):
    small, large = (told(slowsim.bearing_messages("b", k * worn), SNAPSHOTS) for k in (0.01, 100.0))
    assert small.raises() == large.raises() and len(small.raises()) == 1
    np.testing.assert_allclose(small.score, large.score, atol=1e-3)


def test_a_gap_and_a_dead_channel_are_told_as_such_and_raise_nothing(worn):
    x = worn[:200].copy()
    x[120] = 0.25
    x[130, 17] = np.nan
    said = told(slowsim.bearing_messages("b", x), 200)
    assert said.why[120] == "a channel stands still" and np.isnan(said.score[120])
    assert said.why[130] == said.why[129] == ""  # the frame never got so far: what was said before stands
    assert said.raises() == []


def test_growth_lead_and_early_alarms_are_counted_as_the_note_says():
    rms, watched = np.ones(400), Watched(400)
    rms[300:] = 1.6
    watched.alarm[200:210], watched.alarm[310:] = 1, 1
    life = Life("b", rms, watched)
    assert (life.grown(), life.grown(1), life.since, life.early()) == (302, 300, 310, 1)
    assert life.lead_min() == pytest.approx(89 / 6)
    assert latest_age([life]) == 339
    watched.alarm[-1] = 0
    assert life.lead_min() is None


def test_floats_say_what_integers_do_and_a_bad_file_is_named(tmp_path, worn, capsys):
    path = save(tmp_path / "d", "Bearing9_1", worn)
    np.savez(tmp_path / "d" / "Bearing9_2.npz", acc_h_mg=np.load(path)["acc_h_mg"].astype(np.float64), fs=25_600)
    (tmp_path / "d" / "Bearing9_3.npz").write_bytes(b"no zip")
    (tmp_path / "d" / "Bearing9_4.npz").touch()
    whole = tmp_path / "d" / "Bearing9_5.npz"
    np.savez_compressed(whole, acc_h_mg=np.load(path)["acc_h_mg"], fs=25_600)
    raw = bytearray(whole.read_bytes())
    raw[2000:2400] = b"\xff" * 400
    whole.write_bytes(raw)
    with (tmp_path / "d" / "Bearing9_6.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    evaluated(tmp_path / "d", tmp_path / "o")
    first, second = ((tmp_path / "o" / f"pred_Bearing9_{k}.csv").read_bytes() for k in (1, 2))
    assert first == second
    out = capsys.readouterr().out
    for k in (3, 4, 5, 6):
        assert f"Bearing9_{k}.npz: is no recording" in out and f"(left out) Bearing9_{k}.npz" in out
    for k in (1, 2):
        (tmp_path / "d" / f"Bearing9_{k}.npz").unlink()
    assert main(["evaluate", "femto", "--data", str(tmp_path / "d"), "--out", str(tmp_path / "o")]) == 5
