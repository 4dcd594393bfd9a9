"""`kizashi models bench` where there is a GPU: the plan is built, and all stages of a batch are told."""

import json

import pytest

from tests.gpu import bed

BENCH = ["-m", "pipeline.cli.main", "models", "bench", "anomaly-mewma", "--rounds", "20"]


@pytest.fixture(autouse=True)
def _bed(tmp_path, monkeypatch):
    bed.need()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_table_has_the_stages_of_a_device_and_a_row_for_each_size():
    out = bed.run(BENCH).stdout
    assert "tensorrt: Stand-in (no GPU)" in out
    assert "anomaly-mewma 1.1.0 on tensorrt: 20 batches per size, 3 in flight, memory discrete, graphs yes; us" in out
    head = next(line.split() for line in out.splitlines() if line.lstrip().startswith("rows"))
    assert head[:8] == ["rows", "queue", "pack", "enqueue", "h2d", "compute", "d2h", "unpack"]
    assert "on onnx_cpu" in out


def test_json_says_how_the_engine_works_and_every_percentile():
    out = bed.run([*BENCH, "--engine", "tensorrt", "--json"], integrated=True).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["rows"] for row in rows] == [1, 8, 32, 64, 128, 256]
    assert {row["memory"] for row in rows} == {"integrated"}
    assert {row["graphs"] for row in rows} == {"yes"}
    for row in rows:
        assert row["stages"]["enqueue"]["p50"] > 0 and row["latency"]["p99"] >= row["latency"]["p50"] > 0


def test_device_that_fails_is_told_and_is_the_exit_code_of_a_model():
    done = bed.run([*BENCH, "--engine", "tensorrt"], check=False, memory=1 << 10)
    assert done.returncode == 4
    assert "NOT MEASURED: " in done.stdout and "out of memory" in done.stdout
