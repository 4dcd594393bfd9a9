"""The simulated plant: reproducible, healthy when healthy, and ill as the script says."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.plant.faults import SIGNATURES, Fault, load_faults
from pipeline.plant.simulator import CHANNELS, NAMES, Plant
from schemas.codec import decode_birth, decode_frame, encode

PLANT = Plant(seed=7, assets=3, start_ns=1_700_000_000_000_000_000)


@settings(max_examples=60, deadline=None)
@given(asset=st.integers(0, 2), seq=st.integers(0, 5000), before=st.integers(0, 700))
def test_any_frame_is_the_same_however_far_back_the_generation_began(asset: int, seq: int, before: int) -> None:
    first = max(0, seq - before)
    stream = PLANT.frames(asset, first, seq - first + 1)
    assert stream[-1] == Plant(seed=7, assets=3, start_ns=PLANT.start_ns).frames(asset, seq, 1)[0]


def test_a_pump_is_the_same_in_a_line_of_any_length() -> None:
    longer = Plant(seed=7, assets=40, start_ns=PLANT.start_ns)
    assert longer.frames(2, 100, 5) == PLANT.frames(2, 100, 5)


def test_rounds_bring_one_frame_of_every_asset_in_order_of_time() -> None:
    rounds = list(PLANT.rounds(first_seq=3, count=600))
    assert [f.asset for f in rounds[0]] == list(PLANT.names)
    assert [r[1].seq for r in rounds] == list(range(3, 603))
    assert rounds[40][1] == PLANT.frames(1, 43, 1)[0]
    assert rounds[40][1].t0_ns - rounds[39][1].t0_ns == 100_000_000  # 2 samples at 20 Hz


def test_frames_are_as_long_as_their_birth_says_and_inside_the_measuring_range() -> None:
    birth = PLANT.births[0]
    frame = PLANT.frames(0, 0, 1)[0]
    assert len(birth.channels) == 8
    assert birth.birth_id == birth.digest() == frame.birth_id
    assert len(frame.data) == birth.frame_bytes
    x = PLANT.values(0, 0, 20_000)
    for row, channel in zip(x, CHANNELS, strict=True):
        assert channel.low is not None and channel.high is not None
        assert channel.low < row.min() and row.max() < channel.high
    assert decode_frame(encode(frame)) == frame
    assert decode_birth(encode(birth)) == birth


def test_frame_data_holds_the_values_channel_by_channel() -> None:
    data = np.frombuffer(PLANT.frames(1, 50, 1)[0].data, "<f4").reshape(8, 2)
    assert np.array_equal(data, PLANT.values(1, 100, 2).astype("<f4"))


def test_healthy_channels_are_stationary_and_temperatures_drift() -> None:
    x = PLANT.values(0, 0, 1200)
    von_neumann = (np.diff(x) ** 2).mean(axis=1) / x.var(axis=1)  # 2 for white noise, near 0 for a drift
    fast = np.array(["temp" not in name for name in NAMES])
    assert (von_neumann[fast] > 1.2).all()
    assert (von_neumann[~fast] < 0.1).all()
    correlation = np.corrcoef(x)
    assert correlation[NAMES.index("vibration_de"), NAMES.index("vibration_nde")] > 0.2
    assert abs(correlation[NAMES.index("flow"), NAMES.index("motor_current")]) > 0.1


@pytest.mark.parametrize("kind", [k for k in SIGNATURES if k != "sensor_stuck"])
def test_a_fault_moves_its_channel_most_and_only_after_its_onset_and_on_its_asset(kind: str) -> None:
    fault = Fault(kind=kind, asset="line1/pump-02", onset_s=30.0, ramp_s=5.0, magnitude=6.0)  # type: ignore[arg-type]
    ill, well = Plant(seed=7, assets=3, faults=(fault,)), Plant(seed=7, assets=3)
    assert np.array_equal(ill.values(1, 0, 600), well.values(1, 0, 600))
    assert np.array_equal(ill.values(0, 0, 1200), well.values(0, 0, 1200))
    healthy = well.values(1, 0, 600)
    moved = np.abs(ill.values(1, 700, 500) - well.values(1, 700, 500)).mean(axis=1) / healthy.std(axis=1)
    assert NAMES[int(np.argmax(moved))] == fault.first_channel
    assert moved.max() == pytest.approx(6.0, rel=0.1)


def test_a_stuck_sensor_holds_one_value() -> None:
    fault = Fault(kind="sensor_stuck", asset="line1/pump-01", onset_s=10.0, channel="flow", magnitude=4.0)
    flow = Plant(seed=7, assets=1, faults=(fault,)).values(0, 0, 400)[NAMES.index("flow")]
    assert len(set(flow[200:])) == 1
    assert len(set(flow[:200])) == 200


def test_a_fault_script_is_read_and_its_errors_name_file_and_key(tmp_path: Path) -> None:
    script = tmp_path / "faults.toml"
    script.write_text('[[fault]]\nkind = "leak"\nasset = "line1/pump-03"\nonset_s = 12\n')
    assert load_faults(script) == (Fault(kind="leak", asset="line1/pump-03", onset_s=12.0),)
    script.write_text('[[fault]]\nkind = "rust"\nasset = "line1/pump-03"\nonset_s = 12\n')
    with pytest.raises(InputError, match=r"faults\.toml.*rust.*fault\[0\]|faults\.toml.*fault"):
        load_faults(script)
    script.write_text("[[fault]\n")
    with pytest.raises(InputError, match=r"faults\.toml: is no TOML"):
        load_faults(script)
    with pytest.raises(InputError, match=r"absent\.toml"):
        load_faults(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(kind="leak", asset="line9/pump-01", onset_s=0), r"no asset 'line9/pump-01'"),
        (Fault(kind="leak", asset="line1/pump-01", onset_s=0, channel="colour"), r"no channel 'colour'"),
        (Fault(kind="sensor_stuck", asset="line1/pump-01", onset_s=0), r"names no channel"),
    ],
)
def test_a_plant_refuses_a_fault_that_it_cannot_have(fault: Fault, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plant(seed=1, assets=2, faults=(fault,))


def test_the_generator_keeps_ahead_of_twenty_thousand_frames_a_second() -> None:
    plant = Plant(seed=3)
    start = time.perf_counter()
    frames = sum(len(encode(f)) > 0 for r in plant.rounds(count=1000) for f in r)
    assert frames / (time.perf_counter() - start) > 20_000
