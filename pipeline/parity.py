"""Decisions over golden sequences: the judge as the flow runs it, on scores alone. Pure."""

import numpy as np

from engines.bundle import Bundle
from pipeline import judge
from pipeline.columns import F64, Array
from pipeline.state import Pool


def decide(bundle: Bundle, scores: F64, starts: tuple[int, ...]) -> Array:
    """Return the judge's state of each row (n,): normal, over, active.

    scores: (n,). starts: first row of each sequence; a sequence is one asset's rows in order.
    """
    n = len(scores)
    slot = np.searchsorted(np.asarray(starts, np.int64), np.arange(n), side="right") - 1
    pool = Pool("golden", bundle, 1, 1, judge.COLUMNS)
    for _ in range(len(starts)):
        pool.take(0)
    rounded = np.round(scores, judge.SCORE_DECIMALS)
    order = np.arange(n, dtype=np.int64)
    state, _ = judge.step(pool, slot, rounded, order, order, np.isfinite(rounded))
    return state
