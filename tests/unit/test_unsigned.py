"""A bundle that nobody vouches for serves only with leave, and each start of it is told."""

import pytest

from engines import load_bundle, shipped_bundles
from engines.select import Choice
from pipeline.assembly import bundles_of
from pipeline.errors import ModelError
from pipeline.fitting import Fitter
from pipeline.ops.settings import Models, Route, Settings
from tests import models
from tests.devices import Heard


def test_start_of_an_unsigned_bundle_is_told_and_that_of_a_shipped_one_is_not(tmp_path):
    heard = Heard()
    fitter = Fitter(Settings(), heard, Choice("onnx_cpu", "for a test"))  # type: ignore[arg-type]
    made, shipped = models.load(models.bundle(tmp_path, models.dense())), shipped_bundles()["anomaly-mewma"]
    for bundle in (made, load_bundle(shipped)):
        fitter.engines(bundle).ground.thread.close()
    assert heard.of("bundle_unsigned") == [{"bundle": "made", "version": "1.0.0", "why": "nobody signed it"}]


def test_unsigned_bundle_of_a_route_needs_leave(tmp_path):
    models.bundle(tmp_path / "a", models.dense())
    route = (Route(bundle="made"),)
    with pytest.raises(ModelError, match=r"is not trusted: nobody signed it; .* set models\.allow_unsigned = true"):
        bundles_of(Settings(models=Models(folder=tmp_path), routes=route))
    found = bundles_of(Settings(models=Models(folder=tmp_path, allow_unsigned=True), routes=route))
    assert found["made"].trust.status == "unsigned"
