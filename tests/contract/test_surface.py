"""Public face: what the packages export, and what importing them costs and does."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("schemas", "engines", "pipeline") for path in (ROOT / package).rglob("*.py")
    if path.name != "__main__.py")

#: Imports one after the other in a fresh interpreter where every warning is an error; says what it left behind.
PROBE = """
import importlib, json, sys, threading
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({"modules": sorted(sys.modules), "threads": threading.active_count()}))
"""


def probe(*names: str) -> dict:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROBE, *names], cwd=ROOT, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("package", ["schemas", "engines"])
def test_every_exported_name_exists_and_explains_itself(package):
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        exported = getattr(module, name)
        assert not callable(exported) or exported.__doc__, f"{package}.{name} has no docstring"


def test_pipeline_exports_nothing_since_its_surface_is_commands_topics_and_settings():
    import pipeline

    assert not getattr(pipeline, "__all__", None)


def test_every_module_imports_without_a_warning_and_starts_no_thread():
    assert probe(*MODULES)["threads"] == 1


@pytest.mark.parametrize(("name", "heavy"), [
    ("schemas", {"numpy", "pydantic", "faust", "aiokafka", "onnxruntime"}),
    ("engines", {"onnxruntime", "onnx", "faust", "aiokafka", "pydantic"}),
    ("pipeline.flow", {"onnxruntime", "onnx", "faust", "aiokafka", "asyncio", "pydantic"}),
    ("pipeline.cli.main", {"onnxruntime", "onnx", "faust", "confluent_kafka"}),
])
def test_import_does_not_bring_what_it_does_not_need(name, heavy):
    assert heavy & set(probe(name)["modules"]) == set()


@pytest.mark.parametrize("command", ["--help", "run --help"])
def test_help_starts_without_faust_or_an_engine(command):
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "pipeline.cli.main", *command.split()], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert imported & {"faust", "onnxruntime", "confluent_kafka"} == set()
