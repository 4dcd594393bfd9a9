"""Bundles: what is read, what is refused, and what a state hash depends on."""

import hashlib
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import BundleError, load_bundle, shipped_bundles
from engines.bundle import MAX_MODEL_BYTES
from engines.wire import read_model
from tests import models

MEWMA = {"kind": "mewma", "window": None, "mewma": {"smoothing": 0.2}}


def made(folder: Path) -> dict[str, bytes]:
    """Write the bundle of `models.dense` and return its three files, to be changed and written again."""
    models.bundle(folder, models.dense())
    return {name: (folder / name).read_bytes() for name in ("golden.msgpack", "model.onnx", "model.toml")}


def faults_of(folder: Path) -> list[str]:
    with pytest.raises(BundleError) as raised:
        models.load(folder)
    assert str(folder) in str(raised.value)
    return raised.value.faults


@pytest.mark.parametrize("name", shipped_bundles())
def test_shipped_bundle_loads_and_is_called_as_its_folder(name):
    bundle = load_bundle(shipped_bundles()[name])
    assert bundle.spec.name == name
    assert bundle.sha256 == hashlib.sha256((bundle.path / "model.onnx").read_bytes()).hexdigest()
    assert len(bundle.model) < 200_000
    assert bundle.trust.status == "pinned"
    assert bundle.spec.inputs
    assert bundle.spec.budget.latency_ms
    assert bundle.golden is not None


def test_bundle_keeps_the_bytes_that_were_hashed_when_the_file_changes_later(tmp_path):
    bundle = models.load(models.bundle(tmp_path, models.dense()))
    (tmp_path / "model.onnx").write_bytes(b"something else")
    assert hashlib.sha256(bundle.model).hexdigest() == bundle.sha256


def test_all_faults_of_a_passport_are_reported_at_once(tmp_path):
    folder = models.bundle(
        tmp_path, models.dense(), name="No Good", version="1", colour="red", rule=None,
        window={"size": 0, "hop": "often"}, card={"purpose": ""},
        judge={"on": [0, 65], "deadband": 1.5, "severity": [1.0, 2.0]},
    )  # fmt: skip
    faults = faults_of(folder)
    for start in (
        "colour: unknown key", "name = 'No Good': ", "version = '1': ", "rule: missing", "window.size = 0: ",
        "window.hop = 'often': ", "card.purpose = '': ", "card.limits: missing", "judge.on = [0, 65]: ",
        "judge.deadband = 1.5: ", "judge.severity = [1.0, 2.0]: ",
    ):  # fmt: skip
        assert [f for f in faults if f.startswith(start)], start
    assert len(faults) == 14


@pytest.mark.parametrize(("changes", "fault"), [
    ({"window": {"size": 16, "hop": 32}}, "window.hop = 32 is above window.size = 16"),
    ({"window": None}, "kind is 'window', so [window] must be there"),
    ({"mewma": {"smoothing": 0.1}}, "kind is 'window', so [mewma] must go"),
    ({"judge": {"on": [4, 3]}}, "judge.on = [4, 3]: n of m needs n <= m"),
    ({"judge": {"severity": [1.0, 4.0, 2.0, 8.0]}}, "judge.severity = [1.0, 4.0, 2.0, 8.0]: must rise"),
    ({"judge": {"severity": [0.5, 2, 4, 8]}}, "judge.severity = [0.5, 2.0, 4.0, 8.0]: must rise and start at 1.0"),
    ({"match": {"min_channels": 9, "max_channels": 8}}, "match.min_channels = 9 is above max_channels 8"),
    ({**MEWMA, "mewma": {"smoothing": 0.01}}, "mewma.calibration_rows = 400 are fewer than 20 times the memory"),
])  # fmt: skip
def test_passport_that_contradicts_itself_is_refused(tmp_path, changes, fault):
    (only,) = faults_of(models.bundle(tmp_path, models.dense(), **changes))
    assert only.startswith(fault)


def test_folder_without_files_is_refused_with_both_names(tmp_path):
    *missing, remedy = faults_of(tmp_path)
    assert missing == [f"{name} is missing" for name in ("golden.msgpack", "manifest.json", "model.onnx", "model.toml")]
    assert "models sign" in remedy


def test_passport_that_is_no_toml_is_refused(tmp_path):
    models.write(tmp_path, {**made(tmp_path), "model.toml": b"name = \xff"})
    (only,) = faults_of(tmp_path)
    assert only.startswith("model.toml is not TOML")


@pytest.mark.parametrize("content", [b"", b"\x00", b"<html>not found</html>", b"\x3a\xff\xff\xff\xff\x0f"])
def test_model_that_is_no_onnx_is_refused(tmp_path, content):
    only, *_ = faults_of(models.write(tmp_path, {**made(tmp_path), "model.onnx": content}))
    assert only.startswith("model.onnx is not an ONNX model")


def test_model_that_is_too_large_is_refused_unread(tmp_path):
    folder = models.bundle(tmp_path, models.dense())
    with (folder / "model.onnx").open("r+b") as file:
        file.truncate(MAX_MODEL_BYTES + 1)  # sparse: takes no disk
    (only,) = faults_of(folder)
    assert only == f"model.onnx is {MAX_MODEL_BYTES + 1} bytes, the limit is {MAX_MODEL_BYTES} bytes"


def test_model_whose_weights_lie_in_another_file_is_refused(tmp_path):
    whole = onnx.load_from_string(models.dense())
    onnx.save(whole, tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    faults = faults_of(models.write(
        tmp_path / "made", {**made(tmp_path / "made"), "model.onnx": (tmp_path / "m.onnx").read_bytes()}))
    assert [f"model.onnx: tensor {n!r} lies in another file; save the model with all data inside"
            for n in ("down", "bias", "up", "flat")] == faults


def outside(name: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    return tensor


def test_tensor_in_another_file_is_found_in_weights_and_attributes():
    model = onnx.load_from_string(models.dense())
    model.graph.initializer.append(outside("weight"))
    node = model.graph.node.add(op_type="Constant")
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=outside("constant"))
    node.attribute.add(name="many", type=onnx.AttributeProto.TENSORS, tensors=[outside("one of many")])
    found = [f for f in read_model(model.SerializeToString()).faults if "lies in another file" in f]
    assert sorted(f.split("'")[1] for f in found) == ["constant", "one of many", "weight"]


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 2000), byte=st.integers(0, 255), cut=st.integers(0, 2000))
def test_damaged_model_is_read_or_refused_but_never_crashes(at, byte, cut):
    model = bytearray((shipped_bundles()["anomaly-mewma"] / "model.onnx").read_bytes())
    model[at % len(model)] = byte
    try:
        read_model(bytes(model[: 1 + cut % len(model)]))
    except ValueError:
        pass


def test_state_hash_is_twelve_hex_digits_and_ignores_what_does_not_shape_state(tmp_path):
    first = models.load(models.bundle(tmp_path / "a", models.dense(0)))
    other = models.load(models.bundle(
        tmp_path / "b", models.dense(1), name="other", version="2.0.0", threshold=3.0, rule="x", judge={"on": [2, 3]},
    ))  # fmt: skip
    assert len(first.state_hash(4, 2)) == 12
    int(first.state_hash(4, 2), 16)
    assert first.sha256 != other.sha256
    assert first.state_hash(4, 2) == other.state_hash(4, 2)


def test_state_hash_differs_when_layout_window_recursion_or_recipe_differ(tmp_path):
    made = models.load(models.bundle(tmp_path, models.dense()))

    def hashes(**changes: object) -> set[str]:
        bundle = replace(made, spec=models.spec(**changes))
        return {bundle.state_hash(channels, samples) for channels in (4, 5) for samples in (2, 4)}

    kinds = [
        hashes(), hashes(window={"size": 64, "hop": 16}), hashes(window={"size": 32, "hop": 32}),
        hashes(**MEWMA), hashes(**{**MEWMA, "mewma": {"smoothing": 0.3}}),
        hashes(**{**MEWMA, "mewma": {"smoothing": 0.2, "exceedance": 1e-4}}),
        hashes(**{**MEWMA, "mewma": {"smoothing": 0.2, "slow_quantities": ["temperature"]}}),
    ]  # fmt: skip
    assert len(set().union(*kinds)) == 4 * len(kinds)


def test_state_hash_of_the_shipped_chart_is_known():
    """A checkpoint in the field is found by this hash: changing it makes every asset calibrate anew."""
    assert load_bundle(shipped_bundles()["anomaly-mewma"]).state_hash(8, 2) == "f0a2d4fea66b"


def test_misfits_say_what_an_asset_would_have_to_change(tmp_path):
    spec = models.load(models.bundle(tmp_path, models.dense(), match={"min_channels": 2, "max_channels": 4})).spec
    assert spec.misfits(4, 16) == []
    assert spec.misfits(5, 16) == ["5 channels, made wants 2 to 4"]
    assert spec.misfits(1, 3) == [
        "1 channels, made wants 2 to 4",
        "3 samples per frame do not divide window.size = 32 samples of made",
        "3 samples per frame do not divide window.hop = 16 samples of made",
    ]
