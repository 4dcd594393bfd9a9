"""House rules that no linter knows: sizes, unfinished marks, addresses, and what the wheel holds."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"schemas", "engines", "pipeline"}

MAX_LINES = 400
# Registries and mirrors differ from site to site: whoever installs has one configured, and a lock that names another
# fails there. Split, so that this file does not hold what it forbids.
REGISTRY = re.compile("|".join((
    r"pypi\.(org|python)", r"python" + r"hosted", r"(repo1?|central|search)\.maven", r"registry\.(npm|yarn)",
    r"npm" + "js",
    r"index\.crates", r"static\.crates", r"proxy\.golang", r"ghcr\." + "io", r"docker\." + r"io/", r"quay\." + "io",
    r"deb\.debian", r"--" + r"(extra-)?index-url", r"--" + r"find-links", r"--" + r"trusted-host",
)))
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def lines_of(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except UnicodeDecodeError:
        return []  # golden bytes, models


def hits(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            for path in paths for number, line in enumerate(lines_of(path), 1) if pattern.search(line)]


def test_no_source_file_is_longer_than_400_lines():
    long = {str(p.relative_to(ROOT)): len(lines_of(p)) for p in tracked() if p.suffix == ".py"}
    assert {name: lines for name, lines in long.items() if lines > MAX_LINES} == {}


def test_no_file_names_a_package_registry():
    assert hits(REGISTRY, tracked()) == []


def test_no_file_is_marked_unfinished():
    assert hits(UNFINISHED, tracked()) == []


def test_no_file_names_a_folder_of_the_machine_it_was_written_on():
    assert hits(re.compile(r"/wo" + r"rk/(main|shared)|/tm" + r"p/kz|/ro" + r"ot/"), tracked()) == []


def test_no_module_is_called_utils():
    assert [p for p in tracked() if p.stem in {"utils", "util", "helpers", "common", "misc"}] == []


def test_no_installer_lock_that_names_a_registry_is_tracked():
    assert {p.name for p in tracked()} & {"uv.lock", "poetry.lock", "Pipfile.lock", "package-lock.json"} == set()


def test_locked_requirements_are_all_pinned_and_hashed():
    for path in ROOT.glob("requirements*.txt"):
        text = path.read_text().replace("\\\n", " ")
        for line in text.splitlines():
            pinned = re.match(r"^[a-z0-9.-]+==\S+ ( *;.*?)? *--hash=sha256:[0-9a-f]{64}", line)
            assert pinned, f"{path.name}: {line[:80]}"


def test_run_time_lock_agrees_with_the_lock_for_developers():
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9.-]+==\S+", (ROOT / name).read_text(), re.M))

    assert pins("requirements.txt") <= pins("requirements-dev.txt")
    assert pins("requirements-build.txt") <= pins("requirements-dev.txt")


def test_locked_requirements_satisfy_what_the_project_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = set(re.findall(r"^([a-z0-9.-]+==\S+)", (ROOT / "requirements.txt").read_text(), re.M))
    names = {pin.partition("==")[0] for pin in locked}
    for wanted in project["dependencies"]:
        name, exact, _ = wanted.partition("==")
        assert wanted in locked if exact else re.split(r"[<>=!~]", name)[0] in names, wanted


def test_streaming_libraries_whose_inside_we_override_are_pinned_exactly():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"faust-streaming", "mode-streaming", "aiokafka"} <= {d.partition("==")[0] for d in project["dependencies"]
                                                                 if "==" in d}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel as it would be released, built by the locked backend without the network."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)], cwd=ROOT, check=True,
                   capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_holds_exactly_the_three_packages(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == PACKAGES | {"kizashi-0.1.0.dist-info"}


def test_wheel_holds_the_data_beside_the_code(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(p.relative_to(ROOT)) for p in tracked() if p.relative_to(ROOT).parts[0] in PACKAGES}
    assert wanted <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert [name for name in names if name.endswith((".pyc", ".so"))] == []


def test_wheel_declares_the_command_and_the_licence(wheel):
    archive = zipfile.ZipFile(wheel)
    assert "kizashi = pipeline.cli.main:main" in archive.read("kizashi-0.1.0.dist-info/entry_points.txt").decode()
    assert "License-Expression: Apache-2.0" in archive.read("kizashi-0.1.0.dist-info/METADATA").decode()


def test_no_other_distribution_claims_our_generic_names(wheel, tmp_path, monkeypatch):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    claims = metadata.packages_distributions()
    assert {name: set(claims[name]) for name in PACKAGES} == {name: {"kizashi"} for name in PACKAGES}


def test_changelog_knows_the_version_or_what_is_unreleased():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{version}]" in changelog or "## [Unreleased]" in changelog


def catches_everything(node: ast.AST) -> bool:
    """Say whether `node` is a handler of any exception that does not pass it on."""
    return (isinstance(node, ast.ExceptHandler)
            and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
            and not (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None))


def test_every_net_for_all_exceptions_says_why():
    # The class of an error decides its handling; whoever catches them all needs a reason, in a comment beside it.
    naked = []
    for path in tracked():
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in PACKAGES:
            lines = lines_of(path)
            nets = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if catches_everything(node)]
            naked += [f"{path.relative_to(ROOT)}:{n}" for n in nets if not any("#" in x for x in lines[n - 2:n + 1])]
    assert naked == []
