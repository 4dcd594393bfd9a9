"""Every bit of a small bundle, flipped one at a time: refused before anything in it is parsed, or nothing changed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import BundleError, bundle, load_bundle
from engines.archive import pack, read_files
from engines.bundle import TrustPolicy
from engines.golden import Golden, GoldenCase, encode
from engines.sealing import sealed
from engines.trust import PublicKey, make_key
from tests import models

TOML = """name = "m"
version = "1.0.0"
kind = "window"
rule = "r"
window = {size = 1, hop = 1}
inputs = [{name = "x", dtype = "f2", shape = [1, 1, 1], unit = "1", meaning = "x"}]
card = {purpose = "t", protocol = "t", figures = "t", limits = "t", failures = "t"}
"""
PEM, PUBLIC = make_key()
POLICY = TrustPolicy((PublicKey("k", PUBLIC),))


def tiny() -> dict[str, bytes]:
    """Return the files of the smallest bundle that loads, signed: 2 kB."""
    x, score = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape)
                for name, shape in (("x", ["n", 1, 1, 1]), ("score", ["n"])))
    graph = helper.make_graph([helper.make_node("Reshape", ["x", "s"], ["score"])], "t", [x], [score],
                              [numpy_helper.from_array(np.array([-1]), "s")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    scores = np.linspace(0.95, 1.05, 256).astype("f2")
    golden = Golden((GoldenCase("g", {"x": scores.reshape(-1, 1, 1, 1)}, {"score": scores}),))
    return {"golden.msgpack": encode(golden), "model.onnx": model.SerializeToString(), "model.toml": TOML.encode()}


@pytest.fixture
def folder(tmp_path) -> Path:
    files = sealed(models.write(tmp_path / "made", tiny(), "m"), PEM, "k")
    (tmp_path / "tiny").mkdir()
    for name, data in files.items():
        (tmp_path / "tiny" / name).write_bytes(data)
    return tmp_path / "tiny"


@pytest.fixture
def unparsed(monkeypatch) -> None:
    def parse(files: object) -> None:
        raise AssertionError("contents were parsed although a bit had changed")

    monkeypatch.setattr(bundle, "inspect", parse)


def flips(path: Path) -> Iterator[str]:
    """Write the file with each of its bits flipped, in turn, and say which; in the end it is as it was."""
    data = bytearray(path.read_bytes())
    with path.open("r+b", buffering=0) as file:
        for at in range(len(data)):
            for bit in range(8):
                file.seek(at)
                file.write(bytes([data[at] ^ 1 << bit]))
                yield f"{path.name}, byte {at}, bit {bit}"
            file.seek(at)
            file.write(data[at : at + 1])


def test_small_bundle_itself_loads_from_folder_and_zip(folder, tmp_path):
    (tmp_path / "tiny.zip").write_bytes(pack(read_files(folder)))
    for path in (folder, tmp_path / "tiny.zip"):
        loaded = load_bundle(path, POLICY)
        assert (loaded.trust.status, loaded.trust.key_id) == ("signed", "k")
        assert loaded.golden is not None
        assert loaded.golden.rows == 256


def test_every_flipped_bit_of_a_signed_folder_is_refused_unparsed(folder, unparsed):
    count = 0
    for file in sorted(folder.iterdir()):
        for where in flips(file):
            count += 1
            with pytest.raises(BundleError):
                load_bundle(folder, POLICY)
                pytest.fail(where)
    assert count == 8 * sum(len(data) for data in read_files(folder).values()) > 15_000


def test_every_flipped_bit_of_a_signed_zip_is_refused_unparsed(folder, tmp_path, unparsed):
    path = tmp_path / "tiny.zip"
    path.write_bytes(pack(read_files(folder)))
    for where in flips(path):
        with pytest.raises(BundleError):
            load_bundle(path, POLICY)
            pytest.fail(where)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig"])
def test_flipped_bit_of_what_vouches_is_refused_or_changes_no_file_where_unsigned_is_allowed(folder, name):
    before, refused = read_files(folder), 0
    for where in flips(folder / name):
        try:
            loaded = load_bundle(folder, TrustPolicy(POLICY.keys, allow_unsigned=True))
        except BundleError:
            refused += 1
            continue
        after = read_files(folder)
        assert all(after[file] == data for file, data in before.items() if file != name), where
        assert loaded.trust.status == "unsigned", where
        assert name == "manifest.sig", where  # another key's id: as if nobody had signed
    assert refused > 1000


@pytest.mark.parametrize("name", ["golden.msgpack", "manifest.json", "model.onnx", "model.toml"])
def test_file_that_is_missing_cut_or_longer_is_refused(folder, name, unparsed):
    data = (folder / name).read_bytes()
    for changed in (data[:-1], data + b"\0", data[: len(data) // 2], b""):
        (folder / name).write_bytes(changed)
        with pytest.raises(BundleError, match=name):
            load_bundle(folder, POLICY)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        load_bundle(folder, POLICY)
