"""`anomaly-convae`: the graph computes what the recipe says, for any number of channels and any unit; what it costs."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import load_bundle, open_engine, shipped_bundles
from engines.recipes import convae
from engines.recipes.convae_net import SIZE, Weights, errors, shapes
from engines.trust import TrustPolicy

SHIPPED = shipped_bundles()["anomaly-convae"]


@pytest.fixture(scope="module")
def engine():
    opened = open_engine("onnx_cpu", load_bundle(SHIPPED))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Read the shipped weights out of the graph."""
    onnx = pytest.importorskip("onnx")
    from onnx import numpy_helper

    model = onnx.load(SHIPPED / "model.onnx")
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found, after = [], {node.input[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type == "Conv":
            found.append((values[node.input[1]][:, :, 0], values[node.input[2]]))
        elif node.op_type == "MatMul" and node.input[1] in values and values[node.input[1]].shape[1] > 1:
            found.append((values[node.input[1]], values[after[node.output[0]].input[1]]))
    return Weights(*found)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), channels=st.integers(1, 9), scale=st.floats(1e-3, 1e3), off=st.floats(-100, 100),
       cut=st.sampled_from([1, 2, 8, 32]))  # fmt: skip
def test_graph_computes_what_the_recipe_says_for_any_channels_units_and_frames(
        engine, weights, seed, channels, scale, off, cut):
    rng = np.random.default_rng(seed)
    x = (scale * (np.cumsum(rng.normal(size=(3, 1, channels, SIZE)), axis=3) + off)).astype("f4")
    frames = np.ascontiguousarray(x.reshape(3, channels, cut, SIZE // cut).swapaxes(1, 2))
    found = engine.infer({"x": frames})
    limit = float(np.mean(convae.expected(weights, 1.0, x)["score"] / found["score"]))
    wanted = convae.expected(weights, limit, x)
    np.testing.assert_allclose(found["score"], wanted["score"], rtol=2e-3)
    got, right = (a.reshape(3, channels, 3) for a in (found["features"], wanted["features"]))
    np.testing.assert_allclose(got[..., 0], right[..., 0], rtol=1e-5, atol=2e-6 * scale * (abs(off) + 10))
    np.testing.assert_allclose(got[..., 1], right[..., 1], rtol=1e-3)
    np.testing.assert_allclose(got[..., 2], right[..., 2], rtol=1e-2, atol=1e-4)


def test_shape_knows_no_level_and_no_size(engine):
    x = np.random.default_rng(3).normal(size=(20, 1, 2, SIZE)).astype("f4")
    plain, other = (engine.infer({"x": rows})["features"].reshape(20, 2, 3).copy() for rows in (x, x * 40 + 1000))
    np.testing.assert_allclose(other[..., 2], plain[..., 2], rtol=2e-3)
    np.testing.assert_allclose(other[..., 1], plain[..., 1] * 40, rtol=1e-3)


def test_a_channel_is_told_alike_whatever_the_others_are(engine):
    x = np.random.default_rng(4).normal(size=(10, 1, 8, SIZE)).astype("f4")
    whole = engine.infer({"x": x})["features"].reshape(10, 8, 3).copy()
    alone = engine.infer({"x": np.ascontiguousarray(x[:, :, 5:6])})["features"]
    np.testing.assert_allclose(alone, whole[:, 5], rtol=1e-5, atol=1e-6)


def test_what_stands_still_has_no_size_and_one_shape_and_a_mad_value_gives_no_nan(engine):
    x = np.full((3, 1, 1, SIZE), 5.0, "f4")
    x[1], x[2, 0, 0, 7] = -3e6, 1e18
    found = engine.infer({"x": x})["features"]
    assert found[0, :2].tolist() == [5.0, 0.0] and found[1, :2].tolist() == [-3e6, 0.0]
    assert found[0, 2] == found[1, 2] < 0.1  # what the net makes of nothing
    assert np.isfinite(found).all()


def test_a_bundle_is_small(weights):
    assert weights.parameters < 20_000
    assert (SHIPPED / "model.onnx").stat().st_size < 200_000


def test_noise_of_training_is_told_from_waves_and_jumps(weights):
    rng = np.random.default_rng(5)
    noise = errors(weights, shapes(rng.normal(size=(2000, SIZE))))
    wave = errors(weights, shapes(np.sin(2 * np.pi * np.arange(SIZE) / 16 + rng.uniform(0, 6, (200, 1)))))
    assert np.mean(wave < np.quantile(noise, 0.001)) > 0.9


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="the extra `train` is not installed")
@pytest.mark.timeout(600)  # 12 s of one core
def test_training_on_the_simulator_again_gives_the_shipped_manifest(tmp_path):
    from pipeline.cli import main as cli

    assert cli.main(["train", "anomaly-convae", "--data", "simulator", "--out", str(tmp_path / "again")]) == 0
    for file in ("model.onnx", "golden.msgpack", "model.toml", "manifest.json"):
        assert (tmp_path / "again" / file).read_bytes() == (SHIPPED / file).read_bytes(), file


CSV_MAP = """
[time]
column = "t"
format = "unix_s"
[asset]
file = '(?P<name>[^/]+)\\.csv$'
name = "plant/{name}"
[birth]
asset_class = "press"
site = "works"
rate_hz = 1.0
samples_per_frame = 4
[[channel]]
column = "a"
name = "force"
quantity = "force"
unit = "N"
[[channel]]
column = "b"
name = "speed"
quantity = "speed"
unit = "m/s"
"""


def write_tables(folder: Path, assets: int = 3, rows: int = 900) -> Path:
    folder.mkdir()
    (folder / "map.toml").write_text(CSV_MAP)
    for k in range(assets):
        x = np.random.default_rng(k).normal(size=(rows, 2))
        lines = [f"{1_000_000 + i + (500 if i > 600 else 0)},{a:.6f},{b:.6f}" for i, (a, b) in enumerate(x.tolist())]
        (folder / f"press{k}.csv").write_text("\n".join(["t,a,b", *lines, ""]))
    return folder


@pytest.fixture
def train(capsys):
    pytest.importorskip("jax", reason="the extra `train` is not installed")
    from pipeline.cli import main as cli

    def run(data: Path, out: Path, *more: str) -> tuple[int, str, str]:
        code = cli.main(["train", "anomaly-convae", "--sample", "--data", str(data), "--out", str(out), *more])
        return (code, *capsys.readouterr())

    return run


def test_a_detector_is_trained_on_ones_own_tables(train, tmp_path):
    data = write_tables(tmp_path / "data")
    code, out, err = train(data, tmp_path / "b")
    assert code == 0, err
    assert "3 assets, 2700 samples of 2 channels" in out
    bundle = load_bundle(tmp_path / "b", TrustPolicy(allow_unsigned=True))
    assert sorted(bundle.spec.card.trained_on) == [
        "plant/press0", "plant/press1", "plant/press2", "press0.csv", "press1.csv", "press2.csv"]
    assert "not for use" in bundle.spec.card.figures
    assert train(data, tmp_path / "c")[0] == 0
    assert (tmp_path / "b" / "manifest.json").read_bytes() == (tmp_path / "c" / "manifest.json").read_bytes()


def test_a_gap_ends_a_part_so_that_no_window_spans_it(tmp_path):
    from pipeline.plant import healthy
    from pipeline.plant.csvmap import load_map

    data = write_tables(tmp_path / "data", assets=1)
    (signals,) = healthy.of_files([data / "press0.csv"], load_map(data / "map.toml"))
    assert [part.shape for part in signals.parts] == [(2, 604), (2, 296)]


def test_what_cannot_be_trained_on_is_refused_with_the_reason(train, tmp_path):
    data = write_tables(tmp_path / "data")
    shutil.copy(data / "press0.csv", data / "press9.csv")
    code, _, err = train(data, tmp_path / "b")
    assert code == 5 and "press9" in err and "leaks" in err
    (data / "press9.csv").unlink()
    (data / "map.toml").unlink()
    assert "map.toml: is not there" in train(data, tmp_path / "b")[2]
    short = write_tables(tmp_path / "short", rows=20)
    assert "no signal of 32 samples" in train(short, tmp_path / "b")[2]
    code, _, err = train(tmp_path / "nowhere", tmp_path / "b")
    assert code == 5 and "is no folder" in err
