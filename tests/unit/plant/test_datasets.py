"""Public data sets by name: one way in for import, replay and evaluation. The folders here are made up."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.errors import InputError
from pipeline.plant import datasets
from pipeline.plant.capture import read_capture
from schemas import AssetBirth

HEAD = ("datetime;Accelerometer1RMS;Accelerometer2RMS;Current;Pressure;Temperature;Thermocouple;Voltage;"
        "Volume Flow RateRMS;anomaly;changepoint")


def a_loop(folder: Path, rows: int = 30) -> Path:
    """Write a table in SKAB's shape, of noise."""
    rng = np.random.default_rng(0)
    lines = [HEAD, *(f"2026-01-01 00:00:{i:02d};" + ";".join(f"{v:.6f}" for v in rng.normal(size=8)) + ";0;0"
                     for i in range(rows))]
    (folder / "valve1").mkdir(parents=True)
    (folder / "valve1" / "0.csv").write_text("\n".join(lines))
    return folder


def test_a_set_is_births_and_frames_whoever_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, capture = a_loop(tmp_path / "data"), tmp_path / "x.capture"
    found = list(datasets.messages("skab", data))
    assert isinstance(found[0], AssetBirth) and found[0].asset == "skab/valve1/0" and len(found) == 31
    assert main(["import", "dataset", "skab", str(data), "--to", str(capture)]) == 0
    assert "skab: 1 births and 30 frames" in capsys.readouterr().out
    assert len(list(read_capture(capture))) == 31
    for inputs, out in (([str(data), "--dataset", "skab"], "a"), ([str(capture)], "b")):
        assert main(["replay", *inputs, "--out", str(tmp_path / out)]) == 0
    for name in ("alerts.jsonl", "deadletters.jsonl", "scores.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_imported_as_historical_every_frame_says_so(tmp_path: Path) -> None:
    data, capture = a_loop(tmp_path / "data"), tmp_path / "x.capture"
    assert main(["import", "dataset", "skab", str(data), "--to", str(capture), "--historical"]) == 0
    assert sum(b"historical" in (r.value or b"") for r in read_capture(capture)) == 30


def test_unknown_sets_and_folders_are_named_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'iris' is unknown; there are skab"):
        list(datasets.messages("iris", tmp_path))
    with pytest.raises(InputError, match=r"is no folder; one with skab holds FOLDER/NUMBER\.csv"):
        list(datasets.messages("skab", tmp_path / "absent"))
    assert main(["replay", str(tmp_path), "--dataset", "skab", "--map", "skab", "--out", str(tmp_path / "o")]) == 2
    assert main(["import", "parquet", str(tmp_path / "x.txt"), "--map", "skab", "--to", "x"]) == 5


def test_fleets_of_turbofans_come_in_the_order_of_time(tmp_path: Path) -> None:
    rows = np.arange(26.0)
    for subset, units in (("FD001", {1: 3, 2: 5}), ("FD003", {1: 4})):
        lines = [np.concatenate([[unit, cycle], rows[2:]]) for unit, n in units.items() for cycle in range(1, n + 1)]
        np.savetxt(tmp_path / f"test_{subset}.txt", lines, "%g")
    found = list(datasets.messages("cmapss", tmp_path))
    births = [m for m in found if isinstance(m, AssetBirth)]
    times = [m.start_ns if isinstance(m, AssetBirth) else m.t0_ns for m in found]
    assert len(births) == 3 and len(found) == 3 + 12 and times == sorted(times)
    known: set[str] = set()
    for m in found:
        known.add(m.asset) if isinstance(m, AssetBirth) else None
        assert m.asset in known
    with pytest.raises(InputError, match=r"holds no test_FD00k\.txt"):
        (tmp_path / "empty").mkdir()
        list(datasets.messages("cmapss", tmp_path / "empty"))


@pytest.mark.parametrize("name", sorted(datasets.DATASETS))
def test_every_set_says_what_is_missing_in_a_folder_without_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no"):
        list(datasets.messages(name, tmp_path))
