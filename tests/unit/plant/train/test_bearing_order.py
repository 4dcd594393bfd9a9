"""`kizashi train bearing-order` on a simulated rig, and the shipped bundle: its bytes, its card, its golden vectors."""

import hashlib
import os
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from engines import load_bundle, open_engine, shipped_bundles
from engines.archive import MANIFEST
from engines.recipes import bearing_bundle
from engines.trust import PINS, TrustPolicy
from pipeline.cli.main import app
from pipeline.errors import InputError
from pipeline.plant import bearingset, cwru
from tests.unit.plant import rigs

pytest.importorskip("scipy", reason="scipy (extra `train`) is not installed")
pytest.importorskip("onnx", reason="onnx (extra `train`) is not installed")

NAME = "bearing-order"


def train(data: Path, out: Path, *more: str) -> str:
    """Return what the command prints, or why it refuses."""
    told = CliRunner().invoke(app, ["train", NAME, "--data", str(data), "--out", str(out), *more])
    if told.exit_code:
        assert isinstance(told.exception, InputError), told.output
    return f"{told.output}{told.exception or ''}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rigs.folder(tmp_path_factory.mktemp("rig"), diameters=(7, 21), seconds=2.0, healthy=5.0)


def test_training_again_gives_the_same_manifest_and_the_card_says_where_from(data: Path, tmp_path: Path) -> None:
    first, second = (train(data, tmp_path / name, "--sample") for name in "ab")
    assert f"{tmp_path / 'a'}: manifest " in first, first
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes(), second
    bundle = load_bundle(tmp_path / "a", TrustPolicy(allow_unsigned=True))
    assert "A trial" in bundle.spec.card.protocol and "--protocol cv" in bundle.spec.card.figures
    inner = next(r for r in cwru.read(data) if r.name == "IR007_0")
    assert bundle.spec.card.trained_on["IR007_0"].split() == [inner.sha256, inner.content]


def test_a_recording_under_two_names_is_a_leak_and_is_named(data: Path, tmp_path: Path) -> None:
    twice = tmp_path / "twice"
    twice.mkdir()
    for path in data.iterdir():
        (twice / path.name).write_bytes(path.read_bytes())
    counts = np.load(data / "IR007_0.npz")
    np.savez_compressed(twice / "IR014_0.npz", **counts)  # other bytes, the same recording
    with (twice / "index.csv").open("a") as f:
        f.write("IR014_0.npz,IR,14.0,0,1790\n")
    said = train(twice, tmp_path / "out", "--sample")
    assert "recording IR014_0 is IR007_0 under another name" in said


def test_a_folder_without_what_is_needed_is_refused(tmp_path: Path) -> None:
    rigs.recording(tmp_path, "IR007_0", "IR")
    (tmp_path / "index.csv").write_text("file,fault,diameter_mil\nIR007_0.npz,IR,7.0\n")
    assert "needs recordings of a healthy bearing and of defects of two sizes" in train(tmp_path, tmp_path / "out")


def test_the_shipped_bundle_is_pinned_and_says_what_it_was_trained_on() -> None:
    folder = shipped_bundles()[NAME]
    pins = tomllib.loads(PINS.read_text())
    assert hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest() == pins[NAME]
    bundle = load_bundle(folder)
    assert len(bundle.spec.card.trained_on) == 28 and bundle.trust.status == "pinned"
    assert bearing_bundle.digest(bundle.spec.card.trained_on) == bearing_bundle.SHIPPED_DATA
    text = bearing_bundle.passport(bearing_bundle.CARD, bundle.spec.card.trained_on)
    assert (folder / "model.toml").read_text() == text


def test_golden_vectors_come_from_the_simulator_in_small_steps() -> None:
    bundle = load_bundle(shipped_bundles()[NAME])
    assert bundle.golden is not None and bundle.golden.rows == 256
    samples = bundle.golden.cases[0].inputs["samples"]
    assert (samples == np.round(samples)).all() and np.abs(samples).max() <= 127
    assert (bundle.path / "golden.msgpack").stat().st_size < 850_000


def test_a_row_has_the_same_bits_in_every_batch() -> None:
    bundle = load_bundle(shipped_bundles()[NAME])
    assert bundle.golden is not None and bundle.spec.budget.rows_at_once == 16
    rows = {name: array[:40] for name, array in bundle.golden.cases[0].inputs.items()}
    engine = open_engine("onnx_cpu", bundle)
    whole = engine.infer(rows)
    for n in (1, 3, 16, 17):
        for a in (0, 5, 23):
            part = engine.infer({name: np.ascontiguousarray(array[a : a + n]) for name, array in rows.items()})
            for name, values in part.items():
                assert values.tobytes() == whole[name][a : a + n].tobytes(), (n, a, name)
    engine.close()


def test_training_on_the_real_recordings_gives_the_shipped_manifest(tmp_path: Path) -> None:
    if not os.environ.get("KIZASHI_CWRU"):
        pytest.skip("KIZASHI_CWRU does not name a folder with the recordings of the bearing data centre")
    said = train(Path(os.environ["KIZASHI_CWRU"]), tmp_path / "out")
    pin = tomllib.loads(PINS.read_text())[NAME]
    assert f"manifest {pin}" in said, said
    assert bearingset.SIMULATED == 3000
