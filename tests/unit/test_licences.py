"""No recording, window or row-wise statistic of SKAB, CWRU, FEMTO or NAB is passed on; cards name their sources."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import pytest

from engines.bundle import load_bundle, shipped_bundles
from tests import licences

ROOT = Path(__file__).parents[2]
#: Folder with the sets skab, cwru, femto and nab, each in a folder of its name.
DATA = Path(os.environ.get("KIZASHI_DATA", ROOT.parent / "shared" / "data"))
#: What numbers of a recording come in, and what a bundle, a golden message or a fixture may be.
KNOWN = {"", ".bin", ".c", ".h", ".in", ".json", ".md", ".msgpack", ".onnx", ".properties", ".py", ".toml", ".txt",
         ".typed", ".xml", ".yaml", ".yml", ".html", ".css", ".js"}


#: Packed files, which are unpacked before they are looked into: an extract of C-MAPSS (US government work).
UNPACKED = {"pipeline/plant/turbofan/test_FD001.txt.gz"}


def tracked() -> list[Path]:
    """List the files of the repository, or of an unpacked source distribution where there is none."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        return [p for folder in ("schemas", "engines", "pipeline", "tests", "infra") for p in (ROOT / folder).rglob("*")
                if p.is_file() and "__pycache__" not in p.parts]
    return [p for p in (ROOT / name for name in listed.stdout.decode().split("\0") if name) if p.is_file()]


def recorded() -> np.ndarray:
    """Make a recording: what a file of the sets could hold."""
    return np.round(np.random.default_rng(0).normal(size=4096), 3)


@pytest.mark.parametrize("hide", [
    lambda x: ("a,b\n" + "\n".join(f"{v:.3f},{w:.3f}" for v, w in zip(x[:40], x[1:], strict=False))).encode(),
    lambda x: f'"data": {np.round(x[100:160], 3).tolist()}'.encode(),
    lambda x: b"\xff" * 3 + x[7:40].astype("<f4").tobytes(),
    lambda x: msgpack.packb({"name": "golden", "x": x[:64].astype("<f8").tobytes()}),
    lambda x: b"\xfe\x00" + np.round(x * 1000).astype("<i2")[500:530].tobytes(),
    lambda x: b"RMS " + " ".join(f"{v:.5f}" for v in np.sqrt((x.reshape(-1, 64)**2).mean(axis=1))[:5]).encode(),
], ids=["csv", "json", "f4", "golden", "counts", "rms"])  # fmt: skip
def test_a_stretch_of_a_recording_is_found_in_whatever_it_was_written(hide) -> None:
    x = recorded()
    theirs = np.unique(np.concatenate([
        licences.grams_of_table(x[:, None], (64,)), licences.grams_of_series(np.round(x * 1000)),
        licences.grams_of_series(x)]))
    assert np.isin(licences.grams_in(hide(x)), theirs).any()
    assert not np.isin(licences.grams_in(hide(np.round(np.random.default_rng(1).normal(size=4096), 3))), theirs).any()


def test_constants_ramps_and_what_is_no_number_are_nobodys() -> None:
    assert len(licences.grams(np.zeros(100), 8)) == len(licences.grams(np.full(100, np.nan), 8)) == 0
    assert len(licences.grams(np.repeat([1.0, 2.0, 3.0], 30), 8)) == 0


def test_no_file_is_of_a_kind_that_data_comes_in() -> None:
    """Archives, images, notebooks and tables are not looked into below, so there are none."""
    assert {p.relative_to(ROOT).as_posix() for p in tracked() if p.suffix not in KNOWN} <= UNPACKED


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", licences.SETS)
def test_no_tracked_file_holds_what_a_data_set_recorded(name: str, request: pytest.FixtureRequest) -> None:
    if not (DATA / name).is_dir():
        if "data" in os.environ.get("KIZASHI_REQUIRE", "").replace(",", " ").split():
            pytest.fail(f"KIZASHI_REQUIRE=data, but {DATA / name} is not there", pytrace=False)
        pytest.skip(f"NOT TESTED whether files hold recordings of {name}: {DATA / name} is not there (KIZASHI_DATA)")
    every, by_file = request.getfixturevalue("ours")  # takes 20 s: not where it is not needed
    found, recordings = [], 0
    for label, theirs in licences.grams_of(name, DATA):
        recordings += 1
        at = np.searchsorted(every, theirs).clip(max=len(every) - 1)
        same = theirs[every[at] == theirs]
        if len(same):
            found += [f"{path.relative_to(ROOT)}: {n} runs of {label}" for path, mine in by_file.items()
                      if (n := int(np.isin(same, mine).sum()))]
    assert recordings and found == []


@pytest.fixture(scope="module")
def ours() -> tuple[np.ndarray, dict[Path, np.ndarray]]:
    """Return the grams of all tracked files, and of each."""
    by_file = {path: licences.grams_in(path.read_bytes()) for path in tracked() if path.name[:12] != "requirements"}
    return np.unique(np.concatenate(list(by_file.values()))), by_file


def test_the_wheel_holds_nothing_that_is_not_tracked(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    contents = {p.read_bytes() for p in tracked()}
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(io.BytesIO(wheel.read_bytes())) as packed:
        names = [n for n in packed.namelist() if ".dist-info/" not in n]
        assert names and [n for n in names if packed.read(n) not in contents] == []


@pytest.mark.parametrize(("name", "sources"), [
    ("anomaly-convae", ("simulat",)), ("battery-fade", ("NASA", "US government work")),
    ("bearing-order", ("CWRU", "Case Western")), ("pca-t2q", ("simulat",)),
    ("rul-ewma", ("C-MAPSS", "US government work")),
])  # fmt: skip
def test_the_card_of_weights_names_what_they_were_fitted_to_and_its_licence(name: str, sources: tuple[str, ...]
                                                                            ) -> None:
    if name not in shipped_bundles():
        pytest.skip(f"{name} is not shipped")
    card = load_bundle(shipped_bundles()[name]).spec.card
    text = " ".join((card.purpose, card.protocol, card.figures, card.limits, card.failures)).replace("\n", " ")
    assert [s for s in sources if s.casefold() not in text.casefold()] == []


def test_no_weights_are_fitted_to_what_may_not_be_passed_on() -> None:
    """SKAB, FEMTO and NAB are only measured with; of CWRU a head is fitted, and its card says so."""
    allowed = {"bearing-order"}
    for name, path in shipped_bundles().items():
        fitted = " ".join(load_bundle(path).spec.card.trained_on).casefold()
        assert name in allowed or not any(word in fitted for word in ("skab", "femto", "nab", "cwru")), name


def test_packed_extracts_say_where_they_are_from_and_under_which_terms() -> None:
    for name in UNPACKED:
        text = ((ROOT / name).parent / "README.md").read_text()
        assert "Source:" in text and "Licence:" in text, name
