"""What a passport says and what the model is must agree: inputs, outputs, size; and which assets it can judge."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from engines import BundleError
from engines.archive import read_files
from engines.spec import read_spec
from tests import models

X = {"name": "x", "dtype": "f4", "shape": ["frames", 4, "samples"], "unit": "m/s2", "meaning": "acceleration"}

DB = {"unit": "dB", "meaning": "height"}


def faults_of(folder: Path, model: bytes = b"", **changes: object) -> list[str]:
    files = read_files(models.bundle(folder, models.dense(), **changes))
    del files["manifest.json"]
    with pytest.raises(BundleError) as raised:
        models.load(models.write(folder, {**files, "model.onnx": model or files["model.onnx"]}))
    return raised.value.faults


@pytest.mark.parametrize(("changes", "fault"), [
    ({"inputs": [{**X, "dtype": "f8"}]}, "inputs: 'x' is f8['frames', 4, 'samples'], in model.onnx f4['frames', 4,"),
    ({"inputs": [{**X, "shape": ["frames", 5, "samples"]}]}, "inputs: 'x' is f4['frames', 5, 'samples'], in"),
    ({"inputs": [{**X, "shape": [4, "samples"]}]}, "inputs: 'x' is f4[4, 'samples'], in model.onnx f4["),
    ({"inputs": [X, {**X, "name": "y"}]}, "inputs: 'y' is none of model.onnx, which has x"),
    ({"inputs": []}, "inputs: 'x' of model.onnx is not described"),
    ({"inputs": [X, X]}, "inputs: a name is there twice"),
    ({"inputs": [{**X, "unit": ""}]}, "inputs = [{'name': 'x'"),
    ({"inputs": [{"name": "x"}]}, "inputs = [{'name': 'x'}]: Object missing required field `dtype`"),
    ({"inputs": [{**X, "dtype": "i2"}]}, "inputs = [{'name': 'x'"),
    ({"outputs": {"score": "anomaly"}}, "outputs.score = 'anomaly' is none of model.onnx, which has score"),
    ({"outputs": {"contributions": "c"}}, "outputs.contributions = 'c' is none of model.onnx, which has score"),
    ({"outputs": {"others": {"c": DB}}}, "outputs.others.c = 'c' is none of model.onnx, which has score"),
    ({"outputs": {"others": {"score": DB}}}, "outputs.others.score: it has its meaning by another key of [outputs]"),
    ({"outputs": {"others": {"c": {"unit": "dB"}}}}, "outputs.others = {'c': {'unit': 'dB'}}: Object missing required"),
    ({"golden": {"tolerance": {"c": {"abs": 1.0}}}}, "golden.tolerance: 'c' is no output of model.onnx"),
    ({"golden": {"tolerance": {"score": {"abs": -1.0}}}}, "golden.tolerance = {'score'"),
    ({"budget": {"model_kb": 10.0}}, "model.onnx is 49.79 kB, budget.model_kb = 10"),
    ({"match": {"min_rate_hz": 100.0, "max_rate_hz": 99.0}}, "match.min_rate_hz = 100 is above max_rate_hz 99"),
    ({"kind": "mewma", "window": None, "mewma": {"smoothing": 0.2}},
     "kind 'mewma' feeds z of 1 dimensions, center of 1 dimensions, whitening of 2 dimensions, limit of 0 dimensions"),
])  # fmt: skip
def test_passport_that_the_model_contradicts_is_refused(tmp_path, changes, fault):
    (only,) = faults_of(tmp_path, **changes)
    assert only.startswith(fault)


def test_outputs_that_nobody_describes_are_refused_and_described_ones_are_told(tmp_path):
    two = onnx.load_from_string(models.dense())
    two.graph.output.append(helper.make_tensor_value_info("error", TensorProto.FLOAT, ["n", 128]))
    (only,) = faults_of(tmp_path / "a", two.SerializeToString())
    assert only == ("outputs: 'error' of model.onnx is not described: give its unit and meaning in "
                    "[outputs.others.error]")
    folder = models.bundle(tmp_path / "b", two.SerializeToString(), outputs={"others": {"error": DB}})
    assert models.load(folder).spec.outputs.described()["error"].unit == "dB"


def typed(elem_type: int, shape: list[object]) -> bytes:
    """Return a model whose input x has this type and shape."""
    model = onnx.load_from_string(models.dense())
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", elem_type, shape))
    return model.SerializeToString()


def test_model_of_a_type_that_engines_do_not_take_or_of_one_batch_size_is_refused(tmp_path):
    found = faults_of(tmp_path / "a", typed(TensorProto.INT16, ["n", "frames", 4, "samples"]))
    assert found[1] == ("model.onnx: 'x' is of ONNX type 5; engines take float32, float64, int32, int64, uint8, bool "
                        "(int16 samples: as pairs of uint8)")
    found = faults_of(tmp_path / "b", typed(TensorProto.FLOAT, [8, "frames", 4, "samples"]))
    assert found == ["model.onnx: 'x' has dimensions [8, 'frames', 4, 'samples']: the first must be an open batch"]


@pytest.mark.parametrize(("line", "fault"), [
    (f"threshold.{'a.' * 20_000}a = 1", "threshold = tables within tables: Expected `float`"),
    (f"judge.{'a.' * 20_000}a = 1", "judge.a: unknown key"),
    (f"name = \"{'b' * 9000}\"", "name = 'bbb"),
])
def test_key_of_many_dots_and_long_text_are_told_in_part(line, fault):
    spec, faults = read_spec(line.encode())
    assert spec is None
    (told,) = (f for f in faults if f.startswith(fault))
    assert len(told) < 500


def test_faults_of_a_model_of_another_kind_are_cut_to_what_can_be_read(tmp_path):
    model = onnx.load_from_string(models.dense())
    for i in range(100):
        model.graph.node.append(helper.make_node("Loop", [], [f"y{i}"]))
    found = faults_of(tmp_path, model.SerializeToString())
    assert len(found) == 31
    assert found[-1] == "and more"


@pytest.mark.parametrize(("asset", "misfit"), [
    ((4, 16, 1000.0, ["m/s2"]), []),
    ((4, 16), []),
    ((5, 16, 1000.0, ["m/s2"]), ["its rows have x[2, 5, 16], made takes x['frames', 4, 'samples']"]),
    ((4, 16, 999.0, ["m/s2"]), ["999 samples/s, made is made for 1000 to 2000"]),
    ((4, 16, 2001.0, []), ["2001 samples/s, made is made for 1000 to 2000"]),
    ((4, 16, 1000.0, ["m/s2", "Cel", "bar"]),
     ["a channel in 'Cel', made takes m/s2, g", "a channel in 'bar', made takes m/s2, g"]),
])  # fmt: skip
def test_asset_of_another_rate_unit_or_shape_is_a_misfit(asset, misfit):
    match = {"min_rate_hz": 1000.0, "max_rate_hz": 2000.0, "units": ["m/s2", "g"]}
    assert models.spec(inputs=[X], match=match).misfits(*asset) == misfit


def test_import_of_engines_is_quick_and_brings_no_gpu_no_cryptography_and_no_onnx():
    probe = ("import sys, time; start = time.process_time(); import engines; took = time.process_time() - start; "
             "print(took, *sorted({'cryptography', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'pycuda', "
             "'ctypes.util'} & set(sys.modules)))")
    runs = [subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True,
                           cwd=Path(__file__).parents[3]).stdout.split() for _ in range(5)]
    assert [extra for _, *extra in runs] == [[]] * 5
    assert min(float(took) for took, *_ in runs) < 0.3


def test_loading_the_shipped_bundle_needs_no_cryptography_and_no_onnx():
    probe = ("from engines import load_bundle, shipped_bundles; import sys; "
             "[load_bundle(path) for path in shipped_bundles().values()]; "
             "print(*sorted({'cryptography', 'onnx', 'onnxruntime'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[3])
    assert done.stdout.split() == []
