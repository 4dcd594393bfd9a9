"""Decisions over golden sequences: baseline and judge as the flow runs them. Pure."""

from collections.abc import Sequence

import numpy as np

from engines.bundle import Bundle
from engines.golden import GoldenCase
from pipeline import baseline, judge
from pipeline.columns import F64, Array
from pipeline.state import Pool


def hear(bundle: Bundle, case: GoldenCase, said: Sequence[Array]) -> list[F64]:
    """Return what the judge hears (n,) of each of `said`: one output of the case's rows, as engines gave it.

    The output is the score; with a `[baseline]` it is the features (n, F), which are scored against what is normal for
    the half of the case's rows that has the lower golden scores, over and over until it is learnt: golden sequences are
    too short to begin with a baseline of their own. Every sequence of every one of `said` begins with that one. Rows
    that are made to vary may all be within its limit, and nothing would be decided: it is then where a quarter of the
    golden rows are over it.
    """
    spec, outputs = bundle.spec.baseline, bundle.spec.outputs
    if spec is None:
        return [np.asarray(one, np.float64).reshape(-1) for one in said]
    features = case.outputs[outputs.features or ""]
    calm = np.argsort(case.outputs[outputs.score].reshape(-1), kind="stable")[: (case.rows + 1) // 2]
    channels = features.shape[1] // len(spec.features) if spec.per_channel else 1
    pool = Pool("golden", bundle, channels, 1, (*baseline.columns(spec, channels), *judge.COLUMNS))
    sequences, said = len(case.starts), (features, *said)
    for _ in range(1 + sequences * len(said)):
        pool.take(0)
    normal = features[np.resize(np.sort(calm), spec.rows)]
    baseline.step(pool, spec, np.zeros(spec.rows, np.int64), normal, np.ones(spec.rows, bool))
    for slot in range(1, 1 + sequences * len(said)):
        baseline.inherit(pool, 0, slot)
    of_case = _sequences(case.starts, case.rows)
    slots = np.concatenate([1 + i * sequences + of_case for i in range(len(said))])
    known = np.ones(case.rows, bool)
    if outputs.unknown is not None:
        known = case.outputs[outputs.unknown.name].reshape(-1) < 1
    settled = baseline.step(pool, spec, slots, np.concatenate(said), np.tile(known, len(said)))
    golden, *found = np.split(settled.score, len(said))
    quarter = np.sort(golden)[-len(golden) // 4 - 1:][:2]  # between two rows: one on the limit would go either way
    limit = min(1.0, float(quarter.mean())) or 1.0
    return [score / limit for score in found]


def decide(bundle: Bundle, scores: F64, starts: tuple[int, ...]) -> Array:
    """Return the judge's state of each row (n,): normal, over, active.

    scores: (n,), as `hear` gives them. starts: first row of each sequence; a sequence is one asset's rows in order.
    """
    n = len(scores)
    slot = _sequences(starts, n)
    pool = Pool("golden", bundle, 1, 1, judge.COLUMNS)
    for _ in range(len(starts)):
        pool.take(0)
    rounded = np.round(scores, judge.SCORE_DECIMALS)
    order = np.arange(n, dtype=np.int64)
    state, _ = judge.step(pool, slot, rounded, order, order, np.isfinite(rounded))
    return state


def _sequences(starts: tuple[int, ...], rows: int) -> Array:
    """Return the number of the sequence that each row belongs to, from 0."""
    return np.searchsorted(np.asarray(starts, np.int64), np.arange(rows), side="right") - 1
