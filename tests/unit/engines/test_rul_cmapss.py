"""rul-ewma on NASA's engines, where they are: a short training beats knowing nothing, and says when it cannot know."""

import os
from pathlib import Path

import numpy as np
import pytest

from engines.recipes.rul_ewma import Recipe, fit_once
from engines.recipes.rul_model import BAD, CAP, KNOWN, OUTSIDE, forecast
from engines.recipes.rul_state import History, run
from engines.recipes.rul_train import Net
from pipeline.plant import cmapss

pytest.importorskip("jax", reason="the extra `train` is not installed")
DATA = Path(os.environ.get("KIZASHI_CMAPSS", Path(__file__).resolve().parents[4] / "shared" / "data" / "cmapss"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"C-MAPSS is not here: {DATA}; KIZASHI_CMAPSS names another")

#: Seconds; the shipped schedule takes ten times as long.
SHORT = Recipe(Net(members=2, hidden=(16,), steps=800, batch=256))


@pytest.fixture(scope="module")
def fitted():
    return fit_once(cmapss.train(DATA, ("FD001", "FD002")), 0, SHORT)


@pytest.mark.parametrize("subset", ["FD001", "FD002"])
def test_forecasts_at_the_end_of_the_test_engines(fitted, subset):
    blind = cmapss.test(DATA, (subset,))
    rows = run(blind)
    said, last = forecast(fitted, rows), np.flatnonzero(np.diff(np.append(rows.owner, -1)))
    truth = np.minimum([h.remaining for h in cmapss.test(DATA, (subset,), labels=True)], CAP)
    assert np.sqrt(((said.rul[last] - truth) ** 2).mean()) < 0.45 * truth.std()
    assert (said.unknown[last] == KNOWN).mean() > 0.97
    assert (said.unknown >= OUTSIDE).mean() < 0.01  # of all cycles of engines that training never saw


def test_an_engine_of_another_kind_is_outside(fitted):
    engine = cmapss.test(DATA, ("FD002",))[0]
    celsius, stuck, elsewhere = (engine.rows.copy() for _ in range(3))
    celsius[:, 4:7] = celsius[:, 4:7] / 1.8 - 273.15
    stuck[30:, 12] = stuck[30, 12]
    elsewhere[:, 1:3] = elsewhere[:, 1:3] * 0.5 + [1.0, 0.05]
    ends = [forecast(fitted, run([History("x", rows)])) for rows in (celsius, stuck, elsewhere)]
    assert [said.unknown[-1] for said in ends] == [OUTSIDE, BAD, OUTSIDE]
    assert all((said.p10[-1], said.p90[-1]) == (0, CAP) for said in ends)
