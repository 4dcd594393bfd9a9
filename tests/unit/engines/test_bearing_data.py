"""Reading recordings, the simulator, and inputs without the physics; the real recordings where they are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

from engines.orders import KNOWN
from pipeline.errors import InputError
from pipeline.plant import bearingset, bearingsim, cwru
from tests.bench import bearingprobe

ORDERS = KNOWN["6205-2RS"]


def recording(folder: Path, name: str, rate: int, seconds: float = 2.0, tone_hz: float = 1000.0) -> None:
    t = np.arange(int(rate * seconds)) / rate
    counts = np.round(1000 * np.sin(2 * np.pi * tone_hz * t)).astype(np.int16)
    np.savez(folder / f"{name}.npz", counts=counts, step=np.float64(1e-3), fs=np.int32(rate), rpm=np.int32(1797))


def index(folder: Path, *lines: str) -> None:
    (folder / "index.csv").write_text("\n".join(["file,fault,diameter_mil,load_hp,rpm", *lines]) + "\n")


def test_recordings_are_read_at_12_khz(tmp_path: Path) -> None:
    recording(tmp_path, "IR007_0", 12_000)
    recording(tmp_path, "N_0", 48_000)
    recording(tmp_path, "OR6014_1", 12_000)
    index(tmp_path, "IR007_0.npz,IR,7.0,0,1797", "N_0.npz,N,,0,1797", "OR6014_1.npz,OR6,14.0,1,1797")
    inner, normal, outer = cwru.read(tmp_path)
    assert (inner.label, inner.bearing, normal.bearing, outer.bearing) == ("inner", "inner 007", "normal", "outer 014")
    assert len(inner.samples) == len(normal.samples) == 24_000
    for r in (inner, normal):
        spectrum = np.abs(np.fft.rfft(r.samples[6000:18_000]))
        assert spectrum.argmax() == 1000 and r.samples[6000:18_000].std() == pytest.approx(2**-0.5, rel=0.01)


def test_labels_are_not_needed_and_not_read_when_told(tmp_path: Path) -> None:
    recording(tmp_path, "X", 12_000)
    assert cwru.read(tmp_path)[0].label is None
    index(tmp_path, "X.npz,IR,7.0,0,1797")
    assert cwru.read(tmp_path)[0].label == "inner" and cwru.read(tmp_path, labels=False)[0].label is None


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recording"):
        cwru.read(tmp_path)
    recording(tmp_path, "odd", 10_000)
    with pytest.raises(InputError, match="odd.npz has 10000 samples/s"):
        cwru.read(tmp_path)
    (tmp_path / "odd.npz").write_bytes(b"PK\x05\x06" + bytes(18))
    with pytest.raises(InputError, match="odd.npz"):
        cwru.read(tmp_path)


def test_windows_are_causal() -> None:
    """A window holds samples from its start on and none beyond its length: later rows change no earlier window."""
    x = np.arange(50_000.0)
    starts, windows = cwru.cut(x, 12_000, 5000)
    shorter = cwru.cut(x[:30_000], 12_000, 5000)[1]
    np.testing.assert_array_equal(windows[: len(shorter)], shorter)
    assert (windows[:, 0] == starts).all() and (windows[:, -1] == starts + 11_999).all()
    assert len(cwru.cut(x[:100], 12_000, 5000)[1]) == 0


@pytest.mark.parametrize(("fault", "order"), [
    ("outer", ORDERS.bpfo), ("inner", ORDERS.bpfi), ("ball", 2 * ORDERS.bsf), ("cage", ORDERS.ftf),
])  # fmt: skip
def test_simulated_impacts_come_at_their_order(fault: str, order: float) -> None:
    rng = np.random.default_rng(0)
    machine = bearingsim.Machine(ORDERS, 1800.0, ((4000.0, 0.1, 1.0),), strength=3.0, jitter=0.001, harmonics=())
    for rate in (12_000, 25_600):
        x = bearingsim.vibration(rng, machine, fault, rate, 4.0)
        envelope = np.abs(x)
        spectrum = np.abs(np.fft.rfft(envelope - envelope.mean()))
        f = np.fft.rfftfreq(len(x), 1 / rate)
        near = spectrum[np.abs(f - 30 * order) < 1.0].max()
        assert near > 8 * np.median(spectrum[(f > 5) & (f < 400)]), (fault, rate)


def test_the_simulator_repeats_itself_and_knows_its_faults() -> None:
    machine = bearingsim.machine(np.random.default_rng(2))
    a, b = (bearingsim.vibration(np.random.default_rng(1), machine, "ball", 12_000, 1) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="rust"):
        bearingsim.vibration(np.random.default_rng(1), machine, "rust", 12_000, 1)


def test_deleting_the_lines_deletes_the_lines() -> None:
    rng = np.random.default_rng(3)
    machine = bearingsim.Machine(ORDERS, 1797.0, strength=3.0, jitter=0.003)
    x = np.array([bearingsim.vibration(rng, machine, "outer", 12_000, 1.0)], np.float32)
    lines = ORDERS.lines_hz(1797.0)[None]
    extract = bearingset.extractor()
    before, after = extract(x, lines)[0], extract(bearingprobe.without_lines(x, lines), lines)[0]
    assert before[1] > 1.5 and after[1] < 0.2 * before[1]
    # What is not a line stays: the level within 3 dB, the shape of the spectrum.
    assert bearingprobe.without_lines(x, lines).std() == pytest.approx(x.std(), rel=0.4)
    np.testing.assert_allclose(after[-13:], before[-13:], atol=1.2)
    phases = bearingprobe.surrogate(rng, x)
    made, wanted = (np.abs(np.fft.rfft(v))[:, 1:-1] for v in (phases, x))  # the ends have no phase to change
    np.testing.assert_allclose(made, wanted, rtol=1e-2, atol=1.0)


def test_real_recordings_are_split_by_bearing() -> None:
    data = os.environ.get("KIZASHI_CWRU")
    if not data:
        pytest.skip("KIZASHI_CWRU does not name a folder with the recordings of the bearing data centre")
    recordings = cwru.read(Path(data))
    rows = bearingset.windows(recordings, ORDERS)
    assert len(set(rows.bearing[rows.label > 0].tolist())) == 9 and (rows.label == 0).any()
    assert all(len(r.samples) > 12_000 and r.rpm > 1000 for r in recordings)
