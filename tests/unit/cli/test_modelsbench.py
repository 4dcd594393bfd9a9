"""`kizashi models bench`: a table per engine and size, and clear words where an engine is not to be had."""

import json

from engines import shipped_bundles
from engines.select import Backend
from pipeline.cli.main import main
from tests import models

FAST = ["--rounds", "10", "--set", "engine.threads=1"]


def test_bench_prints_a_row_for_each_size_of_each_engine(capsys):
    assert main(["models", "bench", "anomaly-mewma", "--engine", "onnx_cpu", *FAST]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if line.lstrip().startswith("rows"))
    assert head.split()[:4] == ["rows", "pack", "compute", "unpack"]
    rows = [line.split() for line in lines[lines.index(head) + 1 :]]
    assert [int(row[0]) for row in rows] == [1, 8, 32, 64, 128, 256]
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row)


def test_bench_gives_all_percentiles_as_json(capsys):
    assert main(["models", "bench", "anomaly-mewma", "--engine", "onnx_cpu", "--json", *FAST]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["rows"] for row in rows] == [1, 8, 32, 64, 128, 256]
    for row in rows:
        for spread in (row["latency"], row["total"], *row["stages"].values()):
            assert 0 < spread["p50"] <= spread["p99"] <= spread["p999"]


def test_engine_that_is_not_to_be_had_is_named_with_the_reason_and_the_exit_code_of_a_model(capsys, monkeypatch):
    lacking = [Backend("tensorrt", False, "no NVIDIA driver", "Install the driver, or ")]
    monkeypatch.setattr("engines.select.backends", lambda: lacking)
    assert main(["models", "bench", "anomaly-mewma", "--engine", "tensorrt", *FAST]) == 4
    told = capsys.readouterr().out
    assert "anomaly-mewma 1.1.0 on tensorrt: NOT MEASURED: " in told
    assert "no NVIDIA driver" in told and 'set [engine] name = "onnx_cpu"' in told


def test_unknown_bundle_is_refused_with_what_there_is(capsys):
    assert main(["models", "bench", "nothing", *FAST]) == 4
    assert "anomaly-mewma" in capsys.readouterr().err


def test_bundle_that_cannot_be_loaded_is_told_and_the_others_are_measured(capsys, tmp_path, monkeypatch):
    models.bundle(tmp_path / "made", models.dense())  # nobody signed it
    small = {"slow-level": shipped_bundles()["slow-level"]}
    monkeypatch.setattr("engines.bundle.shipped_bundles", lambda: small)
    here = [*FAST, "--set", f"models.folder={tmp_path}"]
    assert main(["models", "bench", "--engine", "onnx_cpu", *here]) == 4
    told = capsys.readouterr().out
    assert "\nmade: NOT MEASURED: " in told and "nobody signed it" in told
    assert "slow-level 1.0.0 on onnx_cpu: 10 batches per size" in told
    assert main(["models", "bench", "--json", *here]) == 4
    assert json.loads(capsys.readouterr().out.splitlines()[0])["bundle"] == "made"
