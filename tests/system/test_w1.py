"""Workload W1 by the full product counts what its peers count."""

import pytest

from tests.bench import report, rig


@pytest.mark.parametrize(("engine", "limit", "over"), [("null", 1.2, 1_553), ("onnx", 1.05, 68_086)])
def test_w1_counts_the_windows_and_rows_over_the_limit_that_its_peers_count(kafka, engine, limit, over):
    env = {"BROKER": kafka.address, "N": 200_000, "ENGINE": engine, "THRESH": limit, "PREFIX": ""}
    name, figures = report.parse(rig.run_child("tests.bench.w1", env=env, timeout_s=120))
    assert (name, figures["frames"], figures["windows"], figures["alerts"]) == ("kizashi", 200_000, 99_400, over)
