"""A whole `kizashi run` on TensorRT: PyCUDA over the stand-in driver, the fake TensorRT, a real broker.

A plan computes in float32 what the CPU computes in float64: alerts have the same ids, revisions and states, and scores
that are equal to what float32 allows.
"""

import re
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import decode_alert
from schemas.topics import ALERT, DEADLETTER
from tests import models
from tests.chaos.bed import KIZASHI, Bed, Worker
from tests.chaos.oracle import uninterrupted
from tests.chaos.producer import EPISODE, HEALTHY, Plant
from tests.gpu import bed as gpu
from tests.kafka import KafkaBroker
from tests.system.conftest import beds

__all__ = ["beds"]  # a fixture of the system tests

pytestmark = pytest.mark.timeout(300)
FRAMES = HEALTHY + EPISODE
#: Frames are sent in bursts: only small batches are many.
SMALL = "batch.max_size=8"
#: The CPU's session is warm beside the device's: what this bounds is the way to the first alert that it decides.
TAKEN_OVER_S = 5.0


@pytest.fixture
def stage(kafka: KafkaBroker, beds: Any, tmp_path: Path) -> tuple[Bed, Plant]:
    gpu.need()
    made = beds(kafka, engine={"name": "tensorrt", "cache": str(tmp_path / "cache")})
    plant = Plant(made, seed=21, assets=6)
    plant.announce()
    return made, plant


def backends(worker: Worker, bundle: str) -> list[str]:
    return [e["backend"] for e in worker.events("engine_serving") if e["bundle"] == bundle]


def check_alerts(bed: Bed) -> list[dict[str, str]]:
    """Compare all alerts with an uninterrupted run on the CPU; return their headers in order."""
    wanted = {(a.alert_id, a.revision): a for a in map(decode_alert, uninterrupted(bed).said.values())}
    messages = bed.read(ALERT)
    found = {(a.alert_id, a.revision): a for a in (decode_alert(m.value()) for m in messages)}
    assert len(wanted) > 10
    odd = [of[key] for of, other in ((wanted, found), (found, wanted)) for key in of.keys() - other.keys()]
    assert not odd, "\n".join(map(str, odd))
    for key, want in wanted.items():
        got = found[key]
        assert (got.asset, got.state, got.seq, got.severity) == (want.asset, want.state, want.seq, want.severity)
        assert got.score == pytest.approx(want.score, rel=1e-5)
    assert not bed.read(DEADLETTER)
    return [{name: value.decode() for name, value in m.headers()} for m in messages]


def test_frames_are_served_by_the_cpu_while_plans_are_built_and_by_the_device_from_then_on(
        stage: tuple[Bed, Plant]) -> None:
    bed, plant = stage
    worker = bed.worker(SMALL, environment=gpu.environ(extra={"FAKE_TENSORRT_BUILD": "sleep:1"}), owns=4)
    plant.rounds(FRAMES)
    bed.caught_up()
    assert backends(worker, "anomaly-mewma") == ["onnx_cpu"], "it served before the first plan was built"
    worker.wait_for("engine_ready", 2)  # beyond the golden rows: rows of four channels
    assert backends(worker, "anomaly-mewma") == backends(worker, "made") == ["onnx_cpu", "tensorrt"]
    plant.rounds(EPISODE)
    bed.caught_up()
    assert worker.stop() == 0

    again = bed.worker(SMALL, environment=gpu.environ())  # what was built is found
    again.owns(4)
    assert backends(again, "anomaly-mewma") == backends(again, "made") == ["tensorrt"]
    plant.rounds(2 * EPISODE)
    bed.caught_up()
    assert again.stop() == 0
    assert not again.events("engine_build") and not again.events("engine_refused")
    assert not again.events("engine_lost") and not worker.events("engine_lost")
    headers = check_alerts(bed)
    assert {h["kizashi_backend"] for h in headers} == {"onnx_cpu", "tensorrt"}
    assert headers[0]["kizashi_degraded"] == "1" and "is being prepared" in headers[0]["kizashi_backend_why"]
    assert "kizashi_degraded" not in headers[-1] and "Stand-in" in headers[-1]["kizashi_backend_why"]


def test_a_sticky_error_of_the_device_in_mid_stream_loses_nothing(stage: tuple[Bed, Plant]) -> None:
    bed, plant = stage
    first = bed.worker(SMALL, environment=gpu.environ(), owns=4)
    first.wait_for("engine_serving", 4)
    plant.rounds(FRAMES)
    first.wait_for("engine_ready", 2)
    assert first.stop() == 0
    worker = bed.worker(SMALL, environment=gpu.environ(faults="graph:300=700:sticky"), owns=4)
    assert backends(worker, "anomaly-mewma") == backends(worker, "made") == ["tensorrt"]
    for _ in range(4):
        plant.rounds(EPISODE)
        bed.caught_up()
    lost = worker.wait_for("engine_lost", 2)  # both bundles: the context was theirs together
    assert all("illegal address" in event["why"] or "CUDA was lost" in event["why"] for event in lost)
    assert worker.stop() == 0
    headers = check_alerts(bed)
    assert headers[-1]["kizashi_backend"] == "onnx_cpu" and headers[-1]["kizashi_degraded"] == "1"
    after = [m.timestamp()[1] / 1e3 for m in bed.read(ALERT) if ("kizashi_degraded", b"1") in m.headers()]
    took = min(after) - datetime.fromisoformat(lost[0]["time"]).timestamp()
    assert took < TAKEN_OVER_S, f"the first alert of the CPU came {took:.1f} s after the device was lost"


def test_a_new_version_takes_over_on_the_device(stage: tuple[Bed, Plant]) -> None:
    bed, plant = stage
    worker = bed.worker(SMALL, "models.poll_s=0.2", environment=gpu.environ(), owns=4)
    plant.rounds(FRAMES)
    worker.wait_for("engine_ready", 2)
    made = bed.folder / "models"
    models.bundle(bed.folder / "next", models.dense(), threshold=4.0, version="1.1.0",
                  judge={"on": [2, 3], "off": 3, "deadband": 0.1})
    (bed.folder / "next").rename(made / "next")
    worker.wait_for("swapped", 1)
    (serving,) = [e for e in worker.events("engine_serving") if e["bundle"] == "made" and e["version"] == "1.1.0"]
    assert serving["backend"] == "tensorrt" and not serving["degraded"]
    plant.rounds(2 * EPISODE)
    bed.caught_up()
    assert worker.stop() == 0
    assert not worker.events("engine_lost") and not worker.events("swap_refused")
    said = {decode_alert(m.value()).model for m in bed.read(ALERT)}
    assert {"made@1.0.0", "made@1.1.0"} <= said
    assert not bed.read(DEADLETTER)


@pytest.mark.parametrize(("switches", "why"), [
    ({"extra": {"FAKE_TENSORRT_BUILD": "fail"}}, "tensorrt"),
    ({"extra": {"FAKE_TENSORRT_OUTPUT": "scale:1.01"}}, "does not say what the golden vectors say"),
    ({"extra": {"FAKE_TENSORRT_LOAD": "fail"}}, "tensorrt"),
], ids=["build", "parity", "load"])
def test_a_device_that_cannot_serve_is_refused_with_the_reason_and_the_cpu_goes_on(
        stage: tuple[Bed, Plant], switches: dict[str, Any], why: str) -> None:
    bed, plant = stage
    worker = bed.worker(SMALL, environment=gpu.environ(**switches), owns=4)
    refused = worker.wait_for("engine_refused", 2)
    assert all(why in event["why"] for event in refused)
    plant.rounds(FRAMES + 2 * EPISODE)
    bed.caught_up()
    assert worker.stop() == 0
    headers = check_alerts(bed)
    assert {h["kizashi_backend"] for h in headers} == {"onnx_cpu"}
    assert "tensorrt cannot serve" in headers[-1]["kizashi_backend_why"]


def test_without_a_device_a_named_engine_is_a_clear_error_and_auto_serves_on_the_cpu(stage: tuple[Bed, Plant]) -> None:
    bed, plant = stage
    environment = gpu.environ(no_device=True)
    named = subprocess.run([*KIZASHI, "run", "-c", str(bed.config)], env=environment, capture_output=True, text=True,
                           timeout=60, check=False)
    assert named.returncode == 4
    assert re.search(r"tensorrt.*cannot be had.*GPU.*set \[engine\] name = \"onnx_cpu\"", named.stderr + named.stdout)
    worker = bed.worker(SMALL, "engine.name=auto", environment=environment, owns=4)
    serving = worker.events("engine_serving")
    assert {e["backend"] for e in serving} == {"onnx_cpu"} and not any(e["degraded"] for e in serving)
    assert "tensorrt: " in serving[0]["why"]
    plant.rounds(FRAMES + EPISODE)
    bed.caught_up()
    assert worker.stop() == 0
    assert "kizashi_degraded" not in check_alerts(bed)[-1]
