"""`anomaly-convae` in the worker's flow on the simulated pump line: healthy pumps are quiet, faults are named."""

from collections.abc import Sequence

import numpy as np
import pytest

from engines import load_bundle, open_engine, shipped_bundles
from pipeline.plant.faults import Fault
from pipeline.plant.simulator import CHANNELS, NAMES, Plant
from schemas import TelemetryFrame
from schemas.codec import encode
from tests.rig import Rig

FRAMES = 800  # 1600 samples of 80 s; the first 400 calibrate


@pytest.fixture(scope="module")
def engine():
    opened = open_engine("onnx_cpu", load_bundle(shipped_bundles()["anomaly-convae"]))
    yield opened
    opened.close()


def run(engine, plant: Plant, frames: Sequence[Sequence[TelemetryFrame]]) -> Rig:
    rig = Rig.make(load_bundle(shipped_bundles()["anomaly-convae"]), plant.births, engine=engine, max_size=64)
    for at in range(0, len(frames), 40):
        values = [encode(frame) for round_ in frames[at:at + 40] for frame in round_]
        rig.poll(values, ts_ms=frames[at][0].t0_ns // 10**6 + 10_000)
    rig.drain()
    return rig


def test_a_fault_is_found_with_its_channel_and_healthy_pumps_are_quiet(engine):
    onset = 50.0
    plant = Plant(seed=11, assets=4, start_ns=10**18, faults=[
        Fault("bearing_wear", "line1/pump-02", onset), Fault("sensor_stuck", "line1/pump-03", onset, channel="flow",
                                                             magnitude=0.5)])
    rig = run(engine, plant, list(plant.rounds(0, FRAMES)))
    raised = {a.asset: a for a in rig.alerts if a.state == "raised"}
    assert sorted(raised) == ["line1/pump-02", "line1/pump-03"]
    assert raised["line1/pump-02"].contributions[0].channel == "vibration_de"
    assert raised["line1/pump-03"].contributions[0].channel == "flow"
    assert raised["line1/pump-03"].contributions[0].direction == "down"  # it moves less
    assert raised["line1/pump-02"].t_raised / 1e9 - 10**9 < onset + 5
    done = {c.asset: c for c in rig.effects.calibrations}
    assert len(done) == 4 and {c.status for c in done.values()} == {"good"}
    kept = dict(zip(done["line1/pump-01"].channels, done["line1/pump-01"].kept, strict=True))
    assert kept["vibration_de.shape"] == 1 and kept["bearing_temp.level"] == kept["motor_temp.shape"] == 0
    rig.totals()


def test_a_pattern_that_moves_neither_level_nor_size_is_found(engine):
    plant = Plant(seed=12, assets=1, start_ns=10**18)
    x = plant.values(0, 0, 2 * FRAMES)
    row = NAMES.index("discharge_pressure")
    healthy = x[row, :800]
    x[row, 800:] = healthy.mean() + healthy.std() * 2**0.5 * np.sin(2 * np.pi * np.arange(2 * FRAMES - 800) / 16)
    raw = np.ascontiguousarray(x.astype("<f4").reshape(len(CHANNELS), FRAMES, 2).transpose(1, 0, 2))
    birth = plant.births[0]
    frames = [[TelemetryFrame(birth.asset, birth.birth_id, k, plant.t0_ns(k), raw[k].tobytes())] for k in range(FRAMES)]
    (alert, *_) = run(engine, plant, frames).alerts
    assert alert.contributions[0].channel == "discharge_pressure"


def test_later_rows_never_change_an_earlier_score(engine):
    plant = Plant(seed=13, assets=1, start_ns=10**18)
    frames = list(plant.rounds(0, 400))
    whole, part = run(engine, plant, frames), run(engine, plant, frames[:300])
    assert part.rows == whole.rows[:len(part.rows)]
