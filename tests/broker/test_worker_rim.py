"""A worker as its surroundings see it: ports, log, metrics, memory, start and end. One process for most tests."""

import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.ops.events import EVENTS
from tests.broker.rim import KIZASHI, Run, listening, totals
from tests.kafka import KafkaBroker, free_ports

pytestmark = pytest.mark.timeout(120)
SECRET = "hunter2-secret"  # planted; must show nowhere


@pytest.fixture(scope="module")
def run(kafka: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Start a worker, look at it idle and at work, stop it by SIGTERM."""
    prefix, log = f"trial.{uuid.uuid4().hex[:8]}.", tmp_path_factory.mktemp("worker") / "log"
    options = ["--broker", kafka.address, "--set", f"topics.prefix={prefix}"]
    subprocess.run([*KIZASHI, "topics", "apply", "--partitions", "2", *options], check=True, capture_output=True)
    seen = Run(free_ports(1)[0])
    command = [*KIZASHI, "run", *options, "--set", f"metrics.port={seen.port}", "--set", f"group.id={prefix}",
               "--set", "log.level=DEBUG", "--set", "checkpoint.interval_s=1"]
    with log.open("w") as stderr, subprocess.Popen(
            command, stderr=stderr, env=os.environ | {"KIZASHI_BROKER__PASSWORD": SECRET}) as worker:
        try:
            seen.wait_for("/ready", worker)
            (size,) = [line for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines() if "VmRSS" in line]
            seen.idle_mib = int(size.split()[1]) / 1024
            seen.sockets = listening(worker.pid)
            paths = ("/", "/live", "/ready", "/metrics", "/table", "/stats", "/router")
            seen.answers = {path: seen.ask(path) for path in paths}
            subprocess.run([*KIZASHI, "simulate", *options, "--assets", "4", "--frames", "50"], check=True,
                           capture_output=True)
            deadline = time.monotonic() + 30
            while seen.metrics.get("kizashi_frames_judged_total", 0) < 200 and time.monotonic() < deadline:
                seen.metrics = totals(seen.ask("/metrics")[1])
                time.sleep(0.1)
            start = time.monotonic()
            worker.send_signal(signal.SIGTERM)
            seen.code = worker.wait(30)
            seen.stop_s = time.monotonic() - start
        finally:
            worker.kill()
    seen.log = log.read_text()
    yield seen


def test_a_worker_listens_on_its_metrics_port_on_the_loopback_and_nowhere_else(run):
    assert run.sockets == [f"127.0.0.1:{run.port}"]


def test_a_worker_answers_three_paths_and_no_others(run):
    assert {path: status for path, (status, _) in run.answers.items()} == {
        "/": 404, "/live": 200, "/ready": 200, "/metrics": 200, "/table": 404, "/stats": 404, "/router": 404,
    }


def test_an_idle_worker_fits_an_edge_box(run):
    assert run.idle_mib <= 160


def test_sigterm_ends_a_worker_with_0_within_its_budget(run):
    assert run.code == 0
    assert run.stop_s < 10
    assert run.lines[-1]["event"] == "worker_stopped"
    assert run.lines[-1]["exit_code"] == 0


def test_every_line_of_the_log_is_a_listed_event_in_json(run):
    events = {line["event"] for line in run.lines}
    assert events <= {*EVENTS, "library", "library_lines_suppressed"}
    assert events >= {"worker_started", "partitions_assigned", "restore_done", "worker_stopping"}
    for line in run.lines:
        assert list(line)[:3] == ["time", "level", "event"]


def test_a_secret_shows_neither_in_the_log_nor_in_any_answer(run):
    assert SECRET not in run.log
    for _, body in run.answers.values():
        assert SECRET not in body


def test_metrics_of_a_worker_at_work_obey_the_conservation_law(run):
    m = run.metrics
    assert m["kizashi_frames_received_total"] == 200
    ends = ("judged", "dead_lettered", "late", "duplicate", "shed")
    assert m["kizashi_frames_received_total"] == (
        sum(m[f"kizashi_frames_{end}_total"] for end in ends) + m["kizashi_frames_in_flight"])
    assert m["kizashi_assets"] == 4
    assert m["kizashi_admit_seconds_count"] > 0


def test_a_second_worker_on_the_same_port_exits_2_and_says_how_to_give_it_one(kafka):
    port = free_ports(1)[0]
    with socket.create_server(("127.0.0.1", port)):
        done = subprocess.run([*KIZASHI, "run", "--broker", kafka.address, "--set", f"metrics.port={port}"],
                              capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "KIZASHI_METRICS__PORT" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
