"""Rows of many assets give the same bits however they are cut into batches."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.baselinespec import BaselineSpec, FeatureSpec
from pipeline import baseline
from pipeline.state import Pool
from tests.rig import window_bundle


@given(order=st.lists(st.integers(0, 2), min_size=1, max_size=120), cuts=st.sets(st.integers(1, 119), max_size=8),
       bad=st.sets(st.integers(0, 119), max_size=5), combine=st.sampled_from(["max", "rms"]),
       per_channel=st.booleans(), count=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=120, deadline=None)
def test_scores_are_the_same_bits_for_any_cut_and_any_company(order, cuts, bad, combine, per_channel, count, seed):
    features = (FeatureSpec("a", "up", log=True), FeatureSpec("b"), FeatureSpec("c", "down"))[:count]
    spec = BaselineSpec(features, rows=12, smoothing=0.4, folds=3, combine=combine, per_channel=per_channel)
    n, slot = len(order), np.array(order)
    x = np.random.default_rng(seed).gamma(2.0, size=(n, spec.width(3))).astype("f4")
    usable = np.array([i not in bad for i in range(n)])

    def play(edges: list[int], only: int | None = None) -> tuple[bytes, bytes, list[tuple[int, str]]]:
        pool = Pool("p", window_bundle(), 3, 1, baseline.columns(spec, 3))
        for _ in range(3):
            pool.take(0)
        scores, shares, done = [], [], []
        for a, b in zip(edges[:-1], edges[1:], strict=True):
            at = np.arange(a, b) if only is None else a + np.flatnonzero(slot[a:b] == only)
            settled = baseline.step(pool, spec, slot[at], x[at], usable[at])
            scores.append(settled.score)
            shares.append(settled.shares)
            done += [(int(at[f.row]), f.reason) for f in settled.finished]
        return np.concatenate(scores).tobytes(), np.concatenate(shares).tobytes(), done

    whole = play([0, n])
    assert play(sorted({0, n, *(c for c in cuts if c < n)})) == whole
    assert play(list(range(n + 1))) == whole
    alone = np.frombuffer(play([0, n], only=1)[0])
    assert alone.tobytes() == np.frombuffer(whole[0])[slot == 1].tobytes()
