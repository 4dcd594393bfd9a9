"""Batteries: discharges become frames, capacity by integration; nothing of the file's own capacity is read."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.errors import InputError
from pipeline.plant import battery, datasets
from pipeline.plant.evaluate.battery import Told
from pipeline.plant.evaluate.cells import end_of, error, faded, linear
from schemas import AssetBirth, TelemetryFrame

HEAD = ("cycle_num", "cycle_time_start", "Capacity", "Voltage_measured", "Current_measured", "Time")


def discharge(ah: float, amps: float = 2.0) -> list[tuple[float, float, float]]:
    """Return (Time, Current, Voltage) of a discharge that reaches 2.7 V after `ah`, and goes on a little."""
    t = np.linspace(0.0, ah / amps * 3600, 6)
    volts = [4.2, 3.9, 3.7, 3.5, 3.3, 2.65]
    return [*zip(t.tolist(), [-amps] * 6, volts, strict=True), (t[-1] + 60, 0.0, 3.2)]


def write_cell(folder: Path, name: str, capacities: list[float], label: bool = True, broken: int | None = None,
               first: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_discharge.csv"
    with path.open("w", newline="") as f:
        table = csv.writer(f)
        table.writerow([h for h in HEAD if label or h != "Capacity"])
        for cycle, ah in enumerate(capacities, first):
            for t, amps, volts in discharge(ah):
                row = [cycle, "2008-04-02 15:25:41", 9.9, "" if cycle == broken else volts, amps, t]
                table.writerow(row if label else [v for h, v in zip(HEAD, row, strict=True) if h != "Capacity"])
    return path


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def fading(n: int = 130, rate: float = 0.008, seed: int = 0) -> list[float]:
    rng = np.random.default_rng(seed)
    return (2 * (0.5 + 0.45 * (1 - rate) ** np.arange(n)) + 0.003 * rng.standard_normal(n)).round(5).tolist()


def test_capacity_is_the_charge_drawn_until_the_cell_is_empty(tmp_path):
    cell = battery.read(write_cell(tmp_path, "C1", [1.9, 1.8, 1.7]))
    np.testing.assert_allclose(cell.capacity_ah, [1.9, 1.8, 1.7], rtol=1e-12)
    assert cell.name == "C1" and cell.cycle.tolist() == [1, 2, 3]


def test_a_discharge_with_a_gap_is_left_out_and_seen_in_the_cycle_numbers(tmp_path):
    cell = battery.read(write_cell(tmp_path, "C1", [1.9, 1.8, 1.7, 1.6], broken=2))
    assert cell.cycle.tolist() == [1, 3, 4]
    frames = [m for m in battery.messages(tmp_path) if isinstance(m, TelemetryFrame)]
    assert [f.seq for f in frames] == [0, 1, 2]
    assert np.diff([f.t0_ns for f in frames]).tolist() == [12 * 3600 * 10**9, 6 * 3600 * 10**9]


def test_messages_are_the_same_without_the_capacity_column(tmp_path):
    write_cell(tmp_path / "a", "C1", [1.9, 1.8])
    write_cell(tmp_path / "b", "C1", [1.9, 1.8], label=False)
    with_label, without = (list(datasets.messages("battery", tmp_path / side)) for side in "ab")
    assert with_label == without
    assert isinstance(with_label[0], AssetBirth) and with_label[0].asset == "battery/C1"


@pytest.mark.parametrize(("text", "fault"), [
    ("", "has no column"), ("cycle_num,Time\n1,2", "has no column cycle_time_start"),
    (",".join(HEAD) + "\n1,when,1,4,-2,0\n", "is no table of discharges"),
    (",".join(HEAD) + "\n1,2008-04-02 15:25:41,1,high,-2,0\n", "is no table of discharges"),
])  # fmt: skip
def test_broken_files_are_named(tmp_path, text, fault):
    (tmp_path / "C1_discharge.csv").write_text(text)
    with pytest.raises(InputError, match=fault):
        battery.read(tmp_path / "C1_discharge.csv")
    with pytest.raises(InputError, match="holds no CELL_discharge"):
        battery.files(tmp_path.parent)


def test_a_forecast_that_is_right_has_no_error_and_linear_fade_has_one():
    cycle = np.arange(1.0, 161)
    q = 2 * (0.5 + 0.45 * (1 - 0.008) ** cycle)
    end = end_of(cycle, q)
    assert end == 101
    life = np.log((q[79] / 2 - 0.5) / 0.2) / -np.log(1 - 0.008)
    curve = faded(cycle, q, 80, float(life))
    found = error(cycle, q, 80, curve, float(life))
    assert found.capacity_ah < 0.01 and abs(found.end) < 2
    straight, left = linear(cycle, q, 80)
    assert error(cycle, q, 80, straight, left).capacity_ah > 0.1
    assert faded(cycle, q, 150, 0.0) is None  # at its end


def test_evaluate_writes_the_same_bytes_again_and_needs_no_label(tmp_path, capsys):
    for side, label in (("a", True), ("b", False)):
        for k in range(3):
            write_cell(tmp_path / side, f"C{k}", fading(130, 0.007 + 0.001 * k, k), label)
    for data, out in (("a", "1"), ("a", "2"), ("b", "3")):
        assert main(["evaluate", "battery", "--data", str(tmp_path / data), "--out", str(tmp_path / out)]) == 0
    assert "C0, C1, C2, from cycle 80: capacity RMSE" in capsys.readouterr().out
    for name in ("pred_C0.csv", "forecast_C1.csv"):
        first = (tmp_path / "1" / name).read_bytes()
        assert first == (tmp_path / "2" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()
    rows = table(tmp_path / "1" / "pred_C0.csv")
    assert [r["unknown"] for r in rows[:64:63]] == ["not enough history", ""]
    assert rows[62]["rul"] == "" and float(rows[63]["rul_lo"]) < float(rows[63]["rul"]) < float(rows[63]["rul_hi"])
    assert rows[-1]["alarm"] == "1"
    assert "<svg" in (tmp_path / "1" / "report.html").read_text()


def test_later_discharges_never_change_an_earlier_prediction(tmp_path):
    write_cell(tmp_path / "whole", "C1", fading(100))
    write_cell(tmp_path / "cut", "C1", fading(100)[:80])
    for side in ("whole", "cut"):
        data, out = str(tmp_path / side), str(tmp_path / f"{side}-out")
        assert main(["evaluate", "battery", "--data", data, "--out", out]) == 0
    whole, cut = ((tmp_path / f"{side}-out" / "pred_C1.csv").read_text().splitlines() for side in ("whole", "cut"))
    assert cut == whole[: len(cut)]


def test_held_out_cells_are_forecast_by_the_others(tmp_path, capsys):
    for k in range(3):
        write_cell(tmp_path / "d", f"C{k}", fading(120, 0.008 + 0.001 * k, k))
    args = ["evaluate", "battery", "--data", str(tmp_path / "d"), "--out", str(tmp_path / "o"), "--protocol", "cv"]
    assert main(args) == 0
    assert "each cell by a bundle fitted on the others" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "package"), [("battery", "onnx"), ("cwru", "scipy"), ("cmapss", "jax")])
def test_without_the_extra_cross_validation_says_what_to_install(tmp_path, monkeypatch, capsys, name, package):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda said, *a: None if said == package else real(said, *a))
    args = ["evaluate", name, "--data", str(tmp_path), "--out", str(tmp_path / "o"), "--protocol", "cv"]
    assert main(args) == 2
    said = capsys.readouterr().err
    assert f"evaluate {name} --protocol cv needs {package}" in said and "pip install 'kizashi[train]'" in said


def test_a_short_history_is_told_as_such(tmp_path):
    write_cell(tmp_path / "d", "C1", [1.9, 1.89, 1.88])
    assert main(["evaluate", "battery", "--data", str(tmp_path / "d"), "--out", str(tmp_path / "o")]) == 0
    rows = table(tmp_path / "o" / "pred_C1.csv")
    assert [(r["rul"], r["unknown"]) for r in rows] == [("", "not enough history")] * 3


def test_a_record_that_begins_late_is_scored_from_the_same_cycle(tmp_path):
    whole = fading(130)
    cells = [battery.read(write_cell(tmp_path / "d", "C1", whole)),
             battery.read(write_cell(tmp_path / "d", "C2", whole[10:], first=11)),
             battery.read(write_cell(tmp_path / "d", "C3", whole[90:], first=91)),
             battery.read(write_cell(tmp_path / "d", "C4", whole[:80]))]
    told = [Told(cell) for cell in cells]
    assert [t.first for t in told] == [80, 70, None, None]
    assert [int(t.cell.cycle[t.starts()[0] - 1]) for t in told[:3]] == [80, 80, 92] and told[3].starts() == []
    assert told[0].plain(80, whole=False).end == pytest.approx(told[1].plain(70, whole=False).end, abs=3)
    assert main(["evaluate", "battery", "--data", str(tmp_path / "d"), "--out", str(tmp_path / "o")]) == 0
    ahead = [table(tmp_path / "o" / f"forecast_{name}.csv") for name in ("C1", "C2")]
    assert [rows[0]["cycle"] for rows in ahead] == ["81", "81"]
    assert not (tmp_path / "o" / "forecast_C3.csv").exists()


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_scored(tmp_path, capsys):
    data = write_cell(tmp_path / "d", "C1", fading(120)).parent
    (data / "C2_discharge.csv").write_text("cycle_num,Time\n1,2\n")
    path = write_cell(data, "C3", fading(20))
    path.write_text(path.read_text().rstrip()[:-40])
    args = ["evaluate", "battery", "--data", str(data), "--out", str(tmp_path / "o")]
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "C3_discharge.csv:141: the line ends early" in out and "(left out) C3_discharge.csv" in out
    assert "C2_discharge.csv:1: has no column cycle_time_start" in out and "(left out) C2_discharge.csv" in out
    assert main([*args, "--protocol", "cv"]) == 5
    assert "takes two or more; left out: " in capsys.readouterr().err
    (data / "C1_discharge.csv").unlink()
    assert main(args) == 5
    assert "none of its files can be read; left out: " in capsys.readouterr().err
