"""Splitting a failing batch."""

import numpy as np
import pytest

from pipeline.infer import run
from tests.rig import WindowMean


def rows(values: list[float]) -> dict[str, np.ndarray]:
    return {"x": np.broadcast_to(np.array(values, "f4")[:, None, None, None], (len(values), 2, 1, 1)).copy()}


@pytest.mark.parametrize("bad", [[0], [7], [3, 4], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_run_scores_all_rows_but_the_poisonous(bad: list[int]) -> None:
    values = [99.0 if i in bad else float(i) for i in range(8)]
    outcome = run(WindowMean(poison=99.0), rows(values))
    assert sorted(outcome.failed) == bad
    assert all(outcome.outputs["score"][i] == i for i in range(8) if i not in bad)


def test_run_finds_one_poison_row_of_256_in_few_calls() -> None:
    engine = WindowMean(poison=99.0)
    outcome = run(engine, rows([99.0 if i == 200 else 1.0 for i in range(256)]))
    assert list(outcome.failed) == [200] and engine.calls == outcome.calls == 17
