"""A worker starts with the best version that runs here and says what its golden vectors say."""

from pathlib import Path

import pytest

from pipeline.app import Runtime
from pipeline.errors import ModelError
from pipeline.fitting import Fitter
from pipeline.modelbook import record_active
from pipeline.ops.settings import Models, Route, Settings
from tests import models


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
