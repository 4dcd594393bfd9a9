"""`kizashi demo` as a person runs it: on its own broker, on Apache Kafka, and stopped half-way."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.kafka import KafkaBroker

ROOT = Path(__file__).resolve().parents[2]


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def demo() -> Iterator[Start]:
    """Start `kizashi demo` with arguments; what still runs after the test is killed."""
    # A plant's settings in the environment must not reach the demo's worker.
    environment = {**os.environ, "KIZASHI_BROKER__BOOTSTRAP": "192.0.2.1:9092", "KIZASHI_GROUP__ID": "the-plant"}
    with ExitStack() as stack:

        def start(*args: object) -> "subprocess.Popen[str]":
            process = stack.enter_context(subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli.main", "demo", *map(str, args)], cwd=ROOT, env=environment,
                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            ))
            stack.callback(process.kill)
            return process

        yield start


def verdict(process: "subprocess.Popen[str]", report: Path) -> dict[str, object]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    assert err == ""
    assert "every planted fault found, no false alarm, nothing lost" in out
    found: dict[str, object] = json.loads(report.read_text())
    return found


def test_demo_finds_its_faults_and_keeps_the_law_on_its_own_broker_and_on_kafka(
    kafka: KafkaBroker, demo: Start, tmp_path: Path
) -> None:
    inside = demo("--seconds", 20, "--report", tmp_path / "inside.json")
    outside = demo("--seconds", 20, "--report", tmp_path / "outside.json", "--broker", kafka.address)
    reports = [verdict(inside, tmp_path / "inside.json"), verdict(outside, tmp_path / "outside.json")]
    for report in reports:
        assert report["ok"] is True and report["problems"] == [] and report["worker_exit"] == 0
        assert report["seconds"] < 60  # type: ignore[operator]
        assert [f["channel_named"] for f in report["faults"]] == [  # type: ignore[attr-defined]
            "vibration_de", "suction_pressure", "discharge_pressure"]
        engines = {e["asset"]: e for e in report["engines"]}  # type: ignore[attr-defined]
        assert len(engines) == 10 and engines["FD001/unit-16"]["unknown"] == "not enough history"
        assert report["engines_error"]["answered"] == 9  # type: ignore[index]
        assert report["engines_error"]["rmse_capped"] < 15  # type: ignore[index]  # see test_demofleet
        law = report["law"]
        assert law["published"] == law["received"] == law["judged"] > 10_000  # type: ignore[index]
    # One seed, one plant: the same verdict to the sample, whatever the broker.
    times = [[(f["kind"], f["raised_s"]) for f in r["faults"]] for r in reports]  # type: ignore[attr-defined]
    assert times[0] == times[1]
    assert reports[0]["engines"] == reports[1]["engines"]  # to the last bit
    admin = AdminClient({"bootstrap.servers": kafka.address, "log_level": 0})
    assert [t for t in admin.list_topics(timeout=10).topics if t.startswith("kizashi.demo.")] == []
    groups = admin.list_consumer_groups().result(10).valid
    assert [g.group_id for g in groups if g.group_id.startswith("kizashi.demo.")] == []


@pytest.mark.parametrize("after_s", [0.0, 7.0])
def test_demo_ends_cleanly_at_ctrl_c(demo: Start, after_s: float) -> None:
    process = demo("--seconds", 20)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("kizashi demo")
    while after_s and not _past(process.stdout.readline(), after_s):
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=40)
    assert process.returncode == 130
    assert err == ""
    assert "stopped: the worker has drained, nothing is left behind" in out


def _past(line: str, seconds: float) -> bool:
    """Say whether a line of the plain view was printed later than this after the start."""
    assert line, "the demo ended by itself"
    stamp = re.match(r"\s*([\d.]+) s ", line)  # lines without one go on with what came before
    return stamp is not None and float(stamp[1]) >= seconds


def test_demo_cleans_kafka_up_when_it_is_stopped_half_way(kafka: KafkaBroker, demo: Start) -> None:
    process = demo("--seconds", 20, "--broker", kafka.address)
    assert process.stdout is not None
    while "live" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, err) == (130, "")
    assert "nothing is left behind" in out
    admin = AdminClient({"bootstrap.servers": kafka.address, "log_level": 0})
    assert [t for t in admin.list_topics(timeout=10).topics if t.startswith("kizashi.demo.")] == []


def test_demo_says_what_is_wrong_when_the_broker_is_not_there(demo: Start) -> None:
    process = demo("--seconds", 20, "--broker", "127.0.0.1:9")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "127.0.0.1:9" in err and "Traceback" not in err
