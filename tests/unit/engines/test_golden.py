"""Golden vectors: their file, what of them does not fit a model, and rows that are made to be near its limit."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import BundleError
from engines.archive import read_files
from engines.golden import MANY, MAX_BYTES, Golden, GoldenCase, decode, encode, make_golden, toward_limit
from engines.golden import faults as golden_faults
from engines.onnx_cpu import OnnxCpu
from engines.wire import ModelFacts, TensorFacts
from tests import models
from tests.rig import baseline_bundle

F4 = np.arange(6, dtype="f4").reshape(3, 2)


def case(**fields: object) -> GoldenCase:
    return replace(GoldenCase("c", {"x": F4}, {"score": np.ones(3, "f8")}, (0, 2)), **fields)


def written(**changes: object) -> bytes:
    """Encode one case with fields of its document changed."""
    document = msgspec.msgpack.decode(encode(Golden((case(),))))
    document["cases"][0].update(changes)
    return msgspec.msgpack.encode(document)


def of_golden(folder, golden: bytes) -> list[str]:
    files = read_files(models.bundle(folder, models.dense()))
    del files["manifest.json"]
    with pytest.raises(BundleError) as raised:
        models.load(models.write(folder, {**files, "golden.msgpack": golden}))
    return raised.value.faults


@settings(max_examples=100, deadline=None)
@given(dtype=st.sampled_from(["f2", "f4", "f8", "i4", "i8", "u1", "b1"]), rows=st.integers(1, 5),
       shape=st.lists(st.integers(0, 3), max_size=3), seed=st.integers(0, 99))
def test_arrays_come_back_as_they_were(dtype, rows, shape, seed):
    array = np.random.default_rng(seed).integers(0, 2, (rows, *shape)).astype(dtype)
    (back,) = decode(encode(Golden((GoldenCase("c", {"x": array}, {"score": array}),)))).cases
    assert back.inputs["x"].dtype == array.dtype
    np.testing.assert_array_equal(back.inputs["x"], array)
    assert not back.inputs["x"].flags.writeable
    assert (back.starts, back.rows) == ((0,), rows)


def test_many_small_whole_numbers_lie_as_bytes_and_come_back_as_floats():
    rng = np.random.default_rng(0)
    whole = rng.integers(-127, 128, (4, MANY // 4)).astype("f4")
    signed, few = np.where(whole == 0, np.float32(-0.0), whole), whole[:, 1:]
    for array, width in ((whole, 1), (whole + np.float32(0.5), 4), (whole * 2, 4), (signed, 4), (few, 4)):
        raw = encode(Golden((GoldenCase("c", {"x": array}, {"score": np.ones(4)}),)))
        assert 0 < len(raw) - width * array.size < 300
        back = decode(raw).cases[0].inputs["x"]
        assert back.dtype == array.dtype and back.tobytes() == np.ascontiguousarray(array).tobytes()
        assert not back.flags.writeable


def test_rows_that_are_the_same_lie_once_and_no_file_grows_without_bound():
    once = np.random.default_rng(0).integers(-127, 128, (4, MANY // 4)).astype("f4")
    for array, width in ((np.repeat(once, 4, axis=0), 1), (np.tile(once + np.float32(0.5), (16, 1)), 4)):
        raw = encode(Golden((GoldenCase("c", {"x": array}, {"score": np.ones(len(array))}),)))
        assert 0 < len(raw) - width * once.size < 1000
        back = decode(raw).cases[0].inputs["x"]
        assert back.dtype == array.dtype and back.tobytes() == array.tobytes() and not back.flags.writeable
    many = GoldenCase("c", {"x": np.tile(once, (17, 1))}, {"score": np.ones(68)})
    assert len(encode(Golden((many,)))) > 17 * once.size


def test_same_vectors_have_the_same_bytes_whatever_their_memory():
    assert encode(Golden((case(),))) == encode(Golden((case(inputs={"x": np.asfortranarray(F4)}),)))


@pytest.mark.parametrize(("data", "fault"), [
    (b"", "Input data was truncated"),
    (b"\x80", "Object missing required field `cases`"),
    (b"\x80\x04\x95" + bytes(99), "Object missing required field `cases`"),  # a pickle
    (written(starts=[]), "Expected `array` of length >= 1"),
    (written(starts=[1]), "c: starts must rise from 0 to below its 3 rows"),
    (written(starts=[0, 2, 2]), "c: starts must rise"),
    (written(starts=[0, 3]), "c: starts must rise"),
    (written(more=1), "Object contains unknown field `more`"),
    (written(inputs={"x": {"dtype": "O", "shape": [3], "data": bytes(24)}}), "Invalid enum value 'O'"),
    (written(inputs={"x": {"dtype": "f4", "shape": [3, 2], "data": bytes(23)}}), "c: x: 23 bytes are not f4[3, 2]"),
    (written(inputs={"x": {"dtype": "f4", "shape": [-1], "data": b""}}), "Expected `int` >= 0"),
    (written(inputs={"x": {"dtype": "f4", "shape": [], "data": bytes(4)}}), "Expected `array` of length >= 1"),
    (written(inputs={"x": {"dtype": "f4", "shape": [3], "data": bytes(4), "rows": [0, 0]}}), "c: x: 2 rows of 1"),
    (written(inputs={"x": {"dtype": "f4", "shape": [17], "data": bytes(4), "rows": [0] * 17}}), "c: x: 17 rows of 1"),
    (written(inputs={"x": {"dtype": "f4", "shape": [3], "data": bytes(4), "rows": [0, 9, 0]}}), "c: x: 4 bytes are"),
    (written(inputs={"x": {"dtype": "f4", "shape": [2], "data": bytes(8)}}), "c: rows differ: {'x': 2, 'score': 3}"),
    (written(inputs={"x": {"dtype": "b1", "shape": [3], "data": b"\0\1\2"}}), "c: x: bytes of b1 are 0 or 1"),
    (written(inputs={}), "Expected `object` of length"),
])  # fmt: skip
def test_file_that_is_none_is_refused(tmp_path, data, fault):
    (only,) = of_golden(tmp_path, data)
    assert only.startswith(f"golden.msgpack: {fault}")


def rows_of(n: int = 256, **fields: object) -> Golden:
    x = np.zeros((n, 1, 4, 32), "f4")
    return Golden((replace(GoldenCase("c", {"x": x}, {"score": np.ones(n, "f4")}), **fields),))


@pytest.mark.parametrize(("golden", "fault"), [
    (rows_of(255), "255 rows; 256 to 65536 are wanted"),
    (rows_of(1025, starts=tuple(range(1025))), "1025 sequences; at most 1024 are allowed"),
    (rows_of(outputs={"score": np.where(np.arange(256) < 51, 1.0, 2.0).astype("f4")}),
     "51 of 256 rows have a score within 10% of the limit 1, at least 20% are wanted"),
    (rows_of(inputs={"y": np.zeros((256, 1, 4, 32), "f4")}), "c: has y, the model x"),
    (rows_of(outputs={}), "Expected `object`"),
    (rows_of(outputs={"score": np.ones(256, "f4"), "b": np.ones(256, "f4")}), "c: has b, score, the model score"),
    (rows_of(inputs={"x": np.zeros((256, 1, 5, 32), "f4")}), "c: x is float32[256, 1, 5, 32], the model has f4['n', "),
    (rows_of(inputs={"x": np.zeros((256, 4, 32), "f4")}), "c: x is float32[256, 4, 32], the model has"),
    (rows_of(inputs={"x": np.zeros((256, 1, 4, 32), "f8")}), "c: x is float64[256, 1, 4, 32], the model has"),
    (rows_of(outputs={"score": np.full(256, np.nan, "f4")}), "c: score holds NaN or infinite values"),
    (rows_of(inputs={"x": np.full((256, 1, 4, 32), np.inf, "f4")}), "c: x holds NaN or infinite values"),
])  # fmt: skip
def test_vectors_that_do_not_fit_or_are_too_few_are_refused(tmp_path, golden, fault):
    (only,) = of_golden(tmp_path, encode(golden))
    assert only.startswith(f"golden.msgpack: {fault}")


@pytest.mark.parametrize(("tolerance", "faults"), [
    ({"abs": 1e9}, ["the tolerance of 'score' is 1e+09, at most 10% of the limit, 1, are allowed"]),
    ({"abs": 0.05, "rel": 0.06}, ["the tolerance of 'score' is 0.11, at most 10% of the limit, 1, are allowed"]),
    ({"abs": 0.04, "rel": 0.05}, []),
])
def test_tolerance_that_would_let_another_model_pass_is_refused(tolerance, faults):
    golden = rows_of(outputs={"score": np.where(np.arange(256) < 128, 1.04, 0.5).astype("f4")})
    facts = ModelFacts((TensorFacts("x", "f4", ("n", 1, 4, 32)),), (TensorFacts("score", "f4", ("n",)),))
    assert golden_faults(golden, models.spec(golden={"tolerance": {"score": tolerance}}), facts) == faults


def test_tolerance_of_any_output_is_held_against_what_its_values_span():
    golden = rows_of(outputs={"score": np.ones(256, "f4"), "rul": np.linspace(0, 120, 256)})
    facts = ModelFacts((TensorFacts("x", "f4", ("n", 1, 4, 32)),),
                       (TensorFacts("score", "f4", ("n",)), TensorFacts("rul", "f8", ("n",))))
    wide, fine = ({"rul": {"abs": width, "rel": 0.0}} for width in (12.5, 11.5))
    found = golden_faults(golden, models.spec(golden={"tolerance": wide}), facts)
    assert found[-1] == "the tolerance of 'rul' is 12.5, at most 10% of what its golden values span, 120, are allowed"
    assert len(golden_faults(golden, models.spec(golden={"tolerance": fine}), facts)) == len(found) - 1


def test_relative_tolerance_is_weighed_by_the_values_and_not_by_what_they_span():
    golden = rows_of(outputs={"score": np.ones(256, "f4"), "rul": np.linspace(1000, 1001, 256)})
    facts = ModelFacts((TensorFacts("x", "f4", ("n", 1, 4, 32)),),
                       (TensorFacts("score", "f4", ("n",)), TensorFacts("rul", "f8", ("n",))))
    for rel, said in ((0.099, ["the tolerance of 'rul' is 99.099, at most 10% of what its golden values span, 1, are "
                               "allowed"]), (9e-5, [])):
        tolerance = {"rul": {"abs": 0.0, "rel": rel}}
        found = golden_faults(golden, models.spec(golden={"tolerance": tolerance}), facts)
        assert [fault for fault in found if "'rul'" in fault] == said


def test_features_that_a_baseline_of_each_sequence_would_have_no_memory_for_are_refused():
    spec = baseline_bundle(rows=40).spec
    features, score = spec.outputs.features, spec.outputs.score
    for width, faults in ((1024, []), (1025, ["c: 262400 features in 256 rows; at most 262144 are allowed"])):
        golden = rows_of(outputs={score: np.full(256, spec.threshold), features: np.zeros((256, width), "f4")})
        facts = ModelFacts((TensorFacts("x", "f4", ("n", 1, 4, 32)),),
                           (TensorFacts(score, "f8", ("n",)), TensorFacts(features, "f4", ("n", width))))
        assert golden_faults(golden, spec, facts) == faults


def test_numbers_that_are_missing_may_come_in_and_not_go_out(tmp_path):
    x = np.zeros((256, 1, 4, 32), "f4")
    x[3, 0, 1] = np.nan
    scores = np.where(np.arange(256) < 52, 0.91, 2.0).astype("f4")
    files = read_files(models.bundle(tmp_path, models.dense()))
    del files["manifest.json"]
    golden = encode(rows_of(inputs={"x": x}, outputs={"score": scores}))
    (case,) = models.load(models.write(tmp_path, {**files, "golden.msgpack": golden})).golden.cases
    np.testing.assert_array_equal(case.inputs["x"], x)


def test_arrays_that_would_take_more_memory_than_the_limit_are_refused_before_they_are_made():
    """31 MiB of signed bytes as float64 took 373 MiB of memory."""
    wide = {"dtype": "f8", "shape": [3, MAX_BYTES // 48 + 1], "data": b"", "stored": "i1"}
    with pytest.raises(ValueError, match="its arrays take 64 MiB, the limit is 64 MiB"):
        decode(written(inputs={"x": wide, "y": wide}))
    with pytest.raises(ValueError, match="Expected `array` of length <= 65536"):
        decode(written(starts=[0] * 65_537))


def test_fifty_two_of_256_rows_near_the_limit_are_enough(tmp_path):
    files = read_files(models.bundle(tmp_path, models.dense()))
    del files["manifest.json"]
    scores = np.where(np.arange(256) < 52, 0.91, 2.0).astype("f4")
    golden = encode(rows_of(outputs={"score": scores}))
    assert models.load(models.write(tmp_path, {**files, "golden.msgpack": golden})).golden.rows == 256


def test_rows_are_scaled_to_the_scores_that_are_wanted(tmp_path):
    engine = OnnxCpu(models.load(models.bundle(tmp_path, models.dense(), threshold=4.0)))
    wanted = np.linspace(3.0, 5.0, 50)
    rows = toward_limit(engine, "score", {"x": np.random.default_rng(0).normal(size=(50, 2, 4, 16)).astype("f4")}, "x",
                        wanted)
    golden = make_golden(engine, [("c", rows, (0, 25))])
    np.testing.assert_allclose(golden.cases[0].outputs["score"], wanted, rtol=1e-4)
    assert golden.cases[0].starts == (0, 25)


def test_array_that_no_engine_takes_is_not_written():
    with pytest.raises(ValueError, match="dtype complex128 is none of"):
        encode(Golden((case(inputs={"x": np.zeros(3, complex)}),)))


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 500), new=st.binary(max_size=9), cut=st.integers(0, 9))
def test_damaged_vectors_are_read_or_refused_but_never_crash(at, new, cut):
    whole = encode(Golden((case(),)))
    at %= len(whole)
    try:
        read = decode(whole[:at] + new + whole[at + cut :])
    except ValueError:
        return
    assert all(len(array) == c.rows for c in read.cases for array in (*c.inputs.values(), *c.outputs.values()))
