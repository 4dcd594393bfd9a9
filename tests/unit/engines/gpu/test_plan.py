"""What names a plan, and how a model's batch sizes are cut."""

import platform
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.gpu import plan as plans
from engines.gpu.plan import BuildSpec, DeviceId, EngineKey, buckets

SHA = "12" * 32
SPEC = BuildSpec(dims={"channels": 8})
DEVICE = DeviceId("NVIDIA RTX A2000", "8.6", "13000")


@dataclass(frozen=True)
class Library:
    name: str = "tensorrt_rtx"
    version: str = "1.7.1.116"


KEY = EngineKey.of(SHA, SPEC, Library(), DEVICE)


def _changed(**changes: object) -> BuildSpec:
    return msgspec.structs.replace(SPEC, **changes)


def test_the_same_ingredients_give_the_same_key() -> None:
    same = BuildSpec(dims=dict(channels=8))
    assert EngineKey.of(SHA, same, Library(), DeviceId(*DEVICE)) == KEY
    assert len(KEY) == 64 and int(KEY, 16)


def test_the_order_in_which_dimensions_are_given_does_not_matter() -> None:
    one, two = BuildSpec(dims={"a": 1, "b": 2}), BuildSpec(dims={"b": 2, "a": 1})
    assert EngineKey.of(SHA, one, Library(), DEVICE) == EngineKey.of(SHA, two, Library(), DEVICE)


@pytest.mark.parametrize("spec", [
    _changed(precision="f16"), _changed(max_batch=128, buckets=()), _changed(buckets=(64, 256)),
    _changed(dims={"channels": 9}), _changed(dims={"channel": 8}), _changed(dims={}), _changed(tf32=True),
    _changed(workspace_bytes=1 << 28), _changed(targets=("8.6",)),
], ids=lambda s: str(msgspec.to_builtins(s)))  # fmt: skip
def test_each_part_of_the_spec_changes_the_key(spec: BuildSpec) -> None:
    assert EngineKey.of(SHA, spec, Library(), DEVICE) != KEY


@pytest.mark.parametrize("model, library, device", [
    ("13" * 32, Library(), DEVICE),
    (SHA, Library(name="tensorrt"), DEVICE),
    (SHA, Library(version="1.7.1.117"), DEVICE),
    (SHA, Library(), DEVICE._replace(name="NVIDIA RTX A4000")),
    (SHA, Library(), DEVICE._replace(cc="8.9")),
    (SHA, Library(), DEVICE._replace(driver="13010")),
], ids=["model", "flavour", "version", "name", "cc", "driver"])  # fmt: skip
def test_model_library_and_device_change_the_key(model: str, library: Library, device: DeviceId) -> None:
    assert EngineKey.of(model, SPEC, library, device) != KEY


@pytest.mark.parametrize("asked", ["system", "machine", "libc_ver"])
def test_operating_system_and_architecture_change_the_key(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ("musl", "1.2") if asked == "libc_ver" else "another"
    plans._system.cache_clear()
    monkeypatch.setattr(platform, asked, lambda: answer)
    try:
        assert EngineKey.of(SHA, SPEC, Library(), DEVICE) != KEY
    finally:
        plans._system.cache_clear()


def test_every_file_that_decides_what_is_built_changes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {KEY}
    for changed in plans._CODE:
        copies = []
        for file in plans._CODE:
            copy = tmp_path / file.name
            copy.write_bytes(file.read_bytes() + (b"# changed\n" if file == changed else b""))
            copies.append(copy)
        plans._code.cache_clear()
        monkeypatch.setattr(plans, "_CODE", tuple(copies))
        seen.add(EngineKey.of(SHA, SPEC, Library(), DEVICE))
        monkeypatch.undo()
    plans._code.cache_clear()
    assert len(seen) == 1 + len(plans._CODE)
    assert EngineKey.of(SHA, SPEC, Library(), DEVICE) == KEY


@given(st.integers(1, 4096))
def test_buckets_rise_to_the_largest_batch_and_waste_is_bounded(max_batch: int) -> None:
    sizes = buckets(max_batch)
    assert list(sizes) == sorted(set(sizes)) and sizes[-1] == max_batch
    spec = BuildSpec(max_batch=max_batch)
    assert spec.buckets == sizes
    for rows in {1, max_batch // 3 or 1, max_batch}:
        bucket = spec.bucket(rows)
        assert rows <= bucket <= max_batch
        assert bucket <= max(2 * rows, 32) or bucket == 8, "more than half of a large batch is padding"


@pytest.mark.parametrize("sizes", [(8, 4, 256), (8, 8, 256), (1, 8)])
def test_buckets_that_do_not_rise_to_the_largest_batch_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must rise and end at max_batch = 256"):
        BuildSpec(buckets=sizes)
