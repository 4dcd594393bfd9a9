"""Folders and canonical .zip: what is read, what is refused, and that no bit of a bundle can change unseen."""

import io
import os
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.archive import LIMITS, pack, read_files, read_manifest, unpack
from engines.spec import BundleError

FILES = {"golden.msgpack": b"\x80", "manifest.json": b"{}\n", "model.onnx": b"onnx" * 99, "model.toml": b""}


def faults_of(path: Path) -> list[str]:
    with pytest.raises(BundleError) as raised:
        read_files(path)
    return raised.value.faults


def zipped(names: list[str], method: int = zipfile.ZIP_STORED, data: bytes = b"x" * 1000) -> bytes:
    """Write a .zip as other tools do, with today's date."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name in names:
            file.writestr(name, data)
    return out.getvalue()


def test_canonical_zip_is_read_again_and_by_other_tools(tmp_path):
    data = pack(FILES)
    assert unpack(data) == FILES
    assert pack(dict(reversed(FILES.items()))) == data
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in file.namelist()} == FILES
        assert file.namelist() == sorted(FILES)
    (tmp_path / "b.zip").write_bytes(data)
    assert read_files(tmp_path / "b.zip") == FILES
    assert read_manifest(tmp_path / "b.zip") == FILES["manifest.json"]


def test_folder_and_zip_give_the_same_files(tmp_path):
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    assert read_files(tmp_path) == FILES
    assert read_manifest(tmp_path) == FILES["manifest.json"]


@pytest.mark.parametrize(("data", "fault"), [
    (b"", "is neither a folder nor a .zip of a bundle"),
    (b"PK\5\6" + bytes(18), "is neither a folder nor a .zip of a bundle"),
    (zipped(["../../etc/passwd"]), "the .zip holds '../../etc/passwd'; a bundle has"),
    (zipped(["/model.onnx"]), "the .zip holds '/model.onnx'"),
    (zipped(["C:\\model.onnx"]), "the .zip holds"),
    (zipped(["model.onnx/"], data=b""), "the .zip holds 'model.onnx/'"),
    (zipped(["model.onnx", "plugin.so"]), "the .zip holds 'plugin.so'"),
    (zipped(["golden.msgpack"], zipfile.ZIP_DEFLATED, bytes(1 << 20)), "golden.msgpack in the .zip is compressed"),
    (zipped(["model.onnx"], zipfile.ZIP_BZIP2), "model.onnx in the .zip is compressed or encrypted (method 12"),
    (zipped(["model.onnx", "golden.msgpack"]), "golden.msgpack in the .zip comes after model.onnx; files are sorted"),
    (zipped(["manifest.json"]), "the .zip is not canonical, bytes beside the files differ"),
    (pack(FILES) + b"\0", "the .zip is not canonical"),
    (pack(FILES)[:-1], "the .zip is not canonical"),
    (b"\0" + pack(FILES), "is neither a folder nor"),
    (pack(FILES)[:60], "the .zip is broken at byte 45"),
    (pack(FILES)[:90], "manifest.json in the .zip is cut off"),
])  # fmt: skip
def test_zip_that_is_not_canonical_is_refused_with_the_reason(tmp_path, data, fault):
    (tmp_path / "b.zip").write_bytes(data)
    (only,) = faults_of(tmp_path / "b.zip")
    assert only.startswith(fault)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_with_a_file_twice_is_refused(tmp_path):
    (tmp_path / "b.zip").write_bytes(zipped(["model.onnx", "model.onnx"]))
    (only,) = faults_of(tmp_path / "b.zip")
    assert only.startswith("model.onnx in the .zip comes after model.onnx; files are sorted, each once")


@pytest.mark.parametrize("name", LIMITS)
def test_zip_that_declares_too_much_is_refused_before_it_is_read(tmp_path, name):
    """A bomb of sizes: the header says 4 GiB, the file has none of it."""
    size = LIMITS[name] + 1
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0x21, 0, size, size, len(name), 0) + name.encode()
    (tmp_path / "b.zip").write_bytes(head)
    assert faults_of(tmp_path / "b.zip") == [f"{name} is {size} bytes, the limit is {LIMITS[name]} bytes"]


def test_zip_of_more_than_all_files_may_have_is_refused_unread(tmp_path):
    with (tmp_path / "b.zip").open("wb") as file:
        file.truncate(1 << 34)  # sparse: takes no disk
    (only,) = faults_of(tmp_path / "b.zip")
    assert only.startswith(f"b.zip is {1 << 34} bytes, the limit is ")


@pytest.mark.parametrize("name", LIMITS)
def test_file_that_is_too_large_is_refused_unread(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(LIMITS[name] + 1)
    assert faults_of(tmp_path) == [f"{name} is {LIMITS[name] + 1} bytes, the limit is {LIMITS[name]} bytes"]


def test_folder_with_anything_else_is_refused_with_every_reason(tmp_path):
    (tmp_path / "plugin.so").write_bytes(b"\x7fELF")
    (tmp_path / "weights").mkdir()
    (tmp_path / "manifest.json").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "model.onnx")
    (tmp_path / "model.toml").mkdir()
    faults = faults_of(tmp_path)
    assert [f.split(" ")[0] for f in faults] == [
        "manifest.json", "model.onnx", "model.toml", "'plugin.so'", "'weights'"]
    assert "it is a symbolic link" in faults[0]
    assert "is not a regular file" in faults[1]
    assert "is not of a bundle, which has model.onnx, model.toml, " in faults[3]


def test_path_that_is_not_there_is_refused(tmp_path):
    assert faults_of(tmp_path / "nowhere") == ["cannot be read: No such file or directory"]
    assert "regular file" in faults_of(Path(os.devnull))[0]


def test_bundle_that_is_mounted_by_a_link_is_read(tmp_path):
    """As a ConfigMap of Kubernetes is: the user's own path may be a link, those inside may not."""
    (tmp_path / "data.zip").write_bytes(pack(FILES))
    (tmp_path / "b.zip").symlink_to("data.zip")
    assert read_files(tmp_path / "b.zip") == FILES


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_zip_is_the_same_or_refused_but_never_crashes(data):
    whole = pack(FILES)
    start = data.draw(st.integers(0, len(whole)))
    cut = data.draw(st.integers(0, 40))
    changed = whole[:start] + data.draw(st.binary(max_size=40)) + whole[start + cut :]
    try:
        assert pack(unpack(changed)) == changed
    except ValueError:
        assert changed != whole
