"""`doctor --live` asks a real ops server."""

import pytest

from pipeline.cli.main import main
from pipeline.ops.health import Health
from pipeline.ops.metrics import Metrics
from pipeline.ops.server import OpsServer


@pytest.fixture
def worker():
    """A worker's ops server; set `clock[0]` to let time pass."""
    clock = [0.0]
    server = OpsServer(Metrics(), Health(stall_s=60, now=0), lambda: clock[0], "127.0.0.1", 0)
    server.start()
    yield server.port, clock
    server.stop()


def test_a_live_worker_is_0_and_a_stuck_one_is_1(worker, capsys):
    port, clock = worker
    args = ["doctor", "--live", "--set", f"metrics.port={port}"]
    assert main(args) == 0
    clock[0] = 100.0
    assert main(args) == 1
    assert capsys.readouterr().out == (
        "live: there is nothing to read\nnot live: the event loop has not run for 100 s (limit 60 s)\n"
    )


def test_no_worker_is_1(worker, capsys):
    assert main(["doctor", "--live", "--set", "metrics.port=1"]) == 1
    assert "no worker answers at 127.0.0.1:1" in capsys.readouterr().out


def test_a_worker_that_cannot_be_found_by_its_settings_is_a_configuration_error(capsys):
    assert main(["doctor", "--live", "--set", "metrics.port=0"]) == 2
    assert "needs metrics.enabled = true and a fixed metrics.port" in capsys.readouterr().err
