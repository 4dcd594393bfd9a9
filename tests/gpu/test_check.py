"""`kizashi models check` where there is a GPU: plans are built, and TensorRT is held to the golden rows too."""

import pytest

from engines import shipped_bundles
from tests.gpu import bed

CHECK = ["-m", "pipeline.cli.main", "models", "check", "--rounds", "20", str(shipped_bundles()["anomaly-mewma"])]


@pytest.fixture(autouse=True)
def _bed(tmp_path, monkeypatch):
    bed.need()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_tensorrt_is_built_and_held_to_the_golden_rows(tmp_path):
    done = bed.run(CHECK)
    for engine in ("tensorrt ", "onnx_cpu ", "reference "):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"  {engine}"))
        assert "parity ok on 382 rows, no decision changes" in line
    assert "tensorrt, 8 channels: " in done.stderr
    assert "1 checked, all in order" in done.stdout
    again = bed.run(CHECK)
    assert "tensorrt, " not in again.stderr  # the plans are there
    assert "parity ok on 382 rows" in again.stdout


def test_driver_without_a_device_is_said_and_is_no_fault():
    done = bed.run(CHECK, no_device=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("  tensorrt "))
    assert "not on this machine: " in line
    assert "1 checked, all in order" in done.stdout


def test_device_that_fails_is_a_fault_and_the_cpu_is_checked_all_the_same():
    done = bed.run(CHECK, memory=1 << 10, check=False)
    assert done.returncode == 4
    assert "  tensorrt     FAULT: " in done.stdout
    assert "  onnx_cpu     parity ok on 382 rows" in done.stdout
