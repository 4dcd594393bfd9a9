"""`kizashi train`: sealed bundles with the same bytes each time, resumed where it ended, and no split that leaks."""

import hashlib
import importlib.util
import shutil
import types
from pathlib import Path

import numpy as np
import pytest

from engines.bundle import TrustPolicy, load_bundle
from engines.trust import PublicKey
from pipeline.cli import main as cli
from pipeline.errors import InputError
from pipeline.plant.train import Job, Work, refuse_leak
from tests.unit.plant.evaluate import turbofans

pytest.importorskip("jax", reason="the extra `train` is not installed")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return turbofans.train_data(tmp_path_factory.mktemp("data"))


def train(*args: object) -> int:
    return cli.main(["train", "rul-ewma", "--sample", *map(str, args)])


def test_a_bundle_is_sealed_says_what_it_was_trained_on_and_can_be_signed(data, tmp_path, capsys):
    from pipeline.cli import main

    assert main.main(["models", "keygen", str(tmp_path / "key"), "--id", "plant"]) == 0
    entry = capsys.readouterr().out
    assert train("--data", data, "--out", tmp_path / "b", "--key", tmp_path / "key") == 0
    out, err = capsys.readouterr()
    import base64

    key = base64.b64decode(entry.split('key = "')[1].split('"')[0])
    bundle = load_bundle(tmp_path / "b", TrustPolicy((PublicKey("plant", key),)))
    assert bundle.trust.status == "signed" and bundle.manifest_sha256 in out
    assert "fold 1 of 3" in err and "cross-validation, RMSE" in out
    trained_on = bundle.spec.card.trained_on
    assert trained_on["train_FD001.txt"] == hashlib.sha256((data / "train_FD001.txt").read_bytes()).hexdigest()
    assert len(trained_on["engines of FD001 from 1"].split()) == 24
    assert "not for use" in bundle.spec.card.protocol and "NASA" not in bundle.spec.card.figures
    assert {path.name for path in tmp_path.iterdir()} == {"b", "key"}  # no parts are left


def test_an_interrupted_training_goes_on_and_ends_with_the_same_bytes(data, tmp_path, monkeypatch, capsys):
    from engines.recipes import rul_ewma

    assert train("--data", data, "--out", tmp_path / "whole") == 0
    fitted, real = [], rul_ewma.fit_once

    def interrupted(histories, *rest):
        if len(fitted) == 2:
            raise KeyboardInterrupt
        fitted.append(len(histories))
        return real(histories, *rest)

    monkeypatch.setattr(rul_ewma, "fit_once", interrupted)
    assert train("--data", data, "--out", tmp_path / "b") == 130
    assert not (tmp_path / "b").exists()
    monkeypatch.setattr(rul_ewma, "fit_once", lambda h, *rest: (fitted.append(len(h)), real(h, *rest))[1])
    assert train("--data", data, "--out", tmp_path / "b") == 0
    assert fitted == [16, 16, 16, 24]  # each fold once, then all
    for name in ("manifest.json", "model.onnx", "golden.msgpack", "model.toml"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_same_engine_on_both_sides_is_refused_and_named(data, tmp_path, capsys):
    leaking = shutil.copytree(data, tmp_path / "data")
    known = turbofans.engines(24, 0)[3][40:90]  # cut on both ends and under another number
    turbofans.write_file(leaking / "test_FD001.txt", [turbofans.engines(1, 7)[0], known])
    assert train("--data", leaking, "--out", tmp_path / "b") == 5
    assert "unit test FD001/2, which is train FD001/4 under another name, is on both sides" in capsys.readouterr().err
    turbofans.write_file(leaking / "train_FD001.txt", [*turbofans.engines(24, 0), known])
    (leaking / "test_FD001.txt").unlink()
    assert train("--data", leaking, "--out", tmp_path / "b") == 5
    assert "the split leaks" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_nothing_is_written_over_and_too_little_is_refused(data, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    assert train("--data", data, "--out", tmp_path / "mine") == 5
    assert train("--data", data, "--out", tmp_path / "b", "--work", tmp_path / "mine") == 5
    assert "holds thesis.txt, which is no part of a training" in capsys.readouterr().err
    assert train("--data", tmp_path, "--out", tmp_path / "b") == 5
    assert "holds no train_FD00k.txt" in capsys.readouterr().err
    few = turbofans.train_data(tmp_path / "few", 4)
    assert train("--data", few, "--out", tmp_path / "b") == 5
    assert "4 engines, the interval needs 6 at least" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "few"}
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_recipe_without_parts_leaves_a_given_folder_alone(tmp_path, monkeypatch):
    from pipeline.cli import train as command

    def module(recipe):
        return types.SimpleNamespace(train=lambda job: (job.out / "model.toml").write_text("x"))

    monkeypatch.setattr(command, "_module", module)
    monkeypatch.setattr(command, "_seal", lambda folder, signer: b"")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    (tmp_path / "b.part").mkdir()
    assert train("--data", tmp_path, "--out", tmp_path / "b", "--work", tmp_path / "mine") == 0
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "b", "b.part", "b/model.toml", "mine", "mine/thesis.txt"]


def test_parts_of_another_key_are_forgotten_and_nothing_else(tmp_path):
    Work(tmp_path / "w", {"seed": 0}).once("x", lambda: {"a": np.ones(1)})
    (tmp_path / "w" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        Work(tmp_path / "w", {"seed": 1})
    assert len(list((tmp_path / "w").iterdir())) == 3
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "about.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match="an about.json of something else"):
        Work(tmp_path / "theirs", {"seed": 1})


def test_without_the_extra_the_command_says_what_to_install(data, tmp_path, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "jax" else real(name, *a))
    assert train("--data", data, "--out", tmp_path / "b") == 2
    assert "training needs jax" in capsys.readouterr().err
    assert cli.main(["train", "rul-magic", "--data", str(data), "--out", str(tmp_path / "b")]) == 2
    assert "'rul-magic' is none of rul-ewma" in capsys.readouterr().err


def test_work_keeps_exact_arrays_and_forgets_those_of_another_key(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"a": np.array([0.1, np.nan]), "b c": np.arange(3, dtype=np.int32)}

    first = Work(tmp_path / "w", {"seed": 0}).once("fold 0", make)
    again = Work(tmp_path / "w", {"seed": 0}).once("fold 0", make)
    assert len(made) == 1 and all(first[k].tobytes() == again[k].tobytes() for k in first)
    Work(tmp_path / "w", {"seed": 1}).once("fold 0", make)
    assert len(made) == 2
    Work(None, {}).once("fold 0", make)
    assert len(made) == 3


def test_a_half_written_part_is_made_again(tmp_path):
    work = Work(tmp_path / "w", {})
    (tmp_path / "w" / f"{'0' * 16}.part").write_bytes(b"half")
    assert work.once("x", lambda: {"a": np.ones(2)})["a"].tolist() == [1, 1]


def test_a_leak_is_found_by_name_and_by_content():
    refuse_leak("bearing", {"a": ["1"]}, {"b": ["2"]})
    with pytest.raises(InputError, match="bearing a is on both sides"):
        refuse_leak("bearing", {"a": ["1"]}, {"a": ["2"]})
    with pytest.raises(InputError, match="recording b, which is a under another name"):
        refuse_leak("recording", {"a": ["1"]}, {"b": ["1"]})


def test_a_job_opens_its_work_by_seed_and_sample(tmp_path):
    one = Job(tmp_path, tmp_path, 3, work_folder=tmp_path / "w")
    one.work(data="d").once("x", lambda: {"a": np.ones(1)})
    two = Job(tmp_path, tmp_path, 4, work_folder=tmp_path / "w")
    assert two.work(data="d").once("x", lambda: {"a": np.zeros(1)})["a"].tolist() == [0.0]
