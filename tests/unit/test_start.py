"""A worker starts with the best version that runs here and says what its golden vectors say."""

import shutil
from pathlib import Path

import pytest

from engines import Bundle, EngineError
from pipeline.app import Runtime
from pipeline.assembly import bundles_of
from pipeline.errors import ModelError
from pipeline.fitting import Fitter
from pipeline.modelbook import Rollback, fall_back, read_record, record_active, record_rollback
from pipeline.ops.settings import Models, Route, Settings
from tests import models
from tests.unit.test_modelbook import WHEN


def settings_of(place: Path, poll_s: float = 5.0) -> Settings:
    return Settings(routes=(Route(bundle="made"),), models=Models(
        folder=place / "models", state=place / "state", allow_unsigned=True, poll_s=poll_s, fallback=None))


def start(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """Return the version that serves, and those that were tried in a process of their own."""
    tried: list[str] = []
    monkeypatch.setattr(Fitter, "try_out", lambda self, bundle, shapes: tried.append(bundle.spec.version))
    runtime = Runtime(settings)
    (engines,) = runtime.engines.values()
    engines.ground.thread.close()
    assert engines.bundle is runtime.bundles["made"]
    return engines.bundle.spec.version, tried


def test_a_version_that_does_not_say_what_its_golden_vectors_say_gives_way_to_an_older_one(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models.lying(tmp_path / "models" / "b", models.dense(), models.dense(7), version="1.1.0")
    with pytest.raises(ModelError, match=r"bundle .*b: onnx_cpu does not say what the golden vectors say"):
        start(settings_of(tmp_path), monkeypatch)
    models.bundle(tmp_path / "models" / "a", models.dense(), version="1.0.0")
    assert start(settings_of(tmp_path), monkeypatch) == ("1.0.0", ["1.1.0", "1.0.0"])


@pytest.mark.parametrize("poll_s", [0.0, 5.0])
def test_what_never_served_here_is_tried_at_the_start_whether_the_folder_is_watched_or_not(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poll_s: float) -> None:
    models.bundle(tmp_path / "models" / "a", models.dense(), version="1.0.0")
    settings = settings_of(tmp_path, poll_s)
    assert start(settings, monkeypatch) == ("1.0.0", ["1.0.0"])
    record_active(settings, "made", "1.0.0")
    assert start(settings, monkeypatch) == ("1.0.0", [])


def test_a_version_whose_engine_broke_gives_way_to_the_one_before_it_at_the_next_start(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path)
    for version in ("1.0.0", "1.0.5", "1.1.0"):  # 1.0.5 never served
        models.bundle(tmp_path / "models" / version, models.dense(), version=version)
    for version in ("1.0.0", "1.1.0", "1.1.0"):  # a restart is no upgrade
        record_active(settings, "made", version)
    assert start(settings, monkeypatch) == ("1.1.0", [])
    for _ in range(2):
        fall_back(settings, "made", "1.1.0", models.UNSIGNED, WHEN, "no answer within 10 s")
    (back,) = read_record(settings).rollbacks
    assert (back.from_, back.to, back.who) == ("1.1.0", "1.0.0", "kizashi")
    assert start(settings, monkeypatch) == ("1.0.0", ["1.0.0"])
    record_active(settings, "made", "1.0.0")
    assert fall_back(settings, "made", "1.0.0", models.UNSIGNED, WHEN, "no answer within 10 s") == ""
    assert start(settings, monkeypatch) == ("1.0.0", [])


def test_a_version_whose_engine_broke_before_its_swap_was_noted_is_not_swapped_in_again(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    models.bundle(tmp_path / "models" / "a", models.dense(), version="1.0.0")
    record_active(settings, "made", "1.0.0")
    assert fall_back(settings, "made", "1.1.0", models.UNSIGNED, WHEN, "a bug") == "1.0.0"
    assert "rolled back" in read_record(settings).refuses("made", "1.1.0")


@pytest.mark.parametrize("fault", ["gone", "changed"])
def test_a_version_whose_engine_broke_serves_on_where_the_one_before_it_cannot(tmp_path: Path, fault: str) -> None:
    settings = settings_of(tmp_path)
    old = models.bundle(tmp_path / "models" / "a", models.dense(), version="1.0.0")
    for version in ("1.0.0", "1.1.0"):
        record_active(settings, "made", version)
    (old / "model.onnx").write_bytes(b"changed") if fault == "changed" else shutil.rmtree(old)
    assert fall_back(settings, "made", "1.1.0", models.UNSIGNED, WHEN, "a bug") == ""
    assert not read_record(settings).rollbacks


def test_a_version_that_kizashi_rolled_back_starts_again_where_the_one_before_it_cannot(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path)
    models.lying(tmp_path / "models" / "a", models.dense(), models.dense(7), version="1.0.0")  # in order until it runs
    for version in ("1.1.0", "1.2.0"):
        models.bundle(tmp_path / "models" / version, models.dense(), version=version)
    for version in ("1.0.0", "1.2.0", "1.1.0"):  # 1.1.0 after the rollback to it
        record_active(settings, "made", version)
    record_rollback(settings, Rollback("made", "1.2.0", "1.1.0", WHEN, "ops", "false alarms"))
    assert fall_back(settings, "made", "1.1.0", models.UNSIGNED, WHEN, "a bug") == "1.0.0"
    assert start(settings, monkeypatch)[0] == "1.1.0", "not what a person rolled back"
    refused: list[str] = []
    bundles_of(settings, refused, resume=True, start=not_the_first)
    assert "golden" in refused[0] and "1.1.0 was rolled back to 1.0.0 by kizashi" in refused[1]
    (tmp_path / "models" / "1.1.0" / "model.onnx").write_bytes(b"changed")
    with pytest.raises(ModelError, match=r"golden.*model\.onnx.*1\.2\.0 was rolled back to 1\.0\.0 by kizashi"):
        start(settings, monkeypatch)


def not_the_first(bundle: Bundle, unknown: bool) -> None:
    if bundle.spec.version == "1.0.0":
        raise EngineError("does not say what the golden vectors say")
