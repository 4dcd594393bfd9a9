"""The judge against an oracle in plain words, one asset and one row at a time."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import judge
from pipeline.state import Pool
from tests.rig import window_bundle


class Oracle:
    """n of m, off-delay below the deadband, severity that only rises."""

    def __init__(self, on: tuple[int, int], off: int, deadband: float, limit: float) -> None:
        self.on, self.off, self.deadband, self.limit = on, off, deadband, limit
        self.recent: list[bool] = []
        self.below, self.active, self.level, self.revision = 0, False, 0, 0

    def row(self, score: float) -> str | None:
        self.recent = [*self.recent, score >= self.limit][-self.on[1]:]
        self.below = self.below + 1 if score < self.limit * (1 - self.deadband) else 0
        level = sum(score >= self.limit * s for s in (1.0, 2.0, 4.0, 8.0)) - 1
        if not self.active:
            if score >= self.limit and sum(self.recent) >= self.on[0]:
                self.active, self.level, self.revision = True, level, 1
                return "raised"
            return None
        if self.below >= self.off:
            self.active, self.recent, self.below = False, [], 0
            self.revision += 1
            return "cleared"
        if level > self.level:
            self.level = level
            self.revision += 1
            return "updated"
        return None


levels = st.sampled_from([0.0, 0.5, 0.85, 0.95, 1.0, 1.3, 2.0, 3.9, 9.0])
scores = st.lists(st.tuples(st.integers(0, 2), levels), max_size=60)


@given(rows=scores, n=st.integers(1, 4), extra=st.integers(0, 3), off=st.integers(1, 4),
       cuts=st.sets(st.integers(0, 60), max_size=4))
@settings(max_examples=300, deadline=None)
def test_judge_agrees_with_the_oracle_when_assets_share_batches(
        rows: list[tuple[int, float]], n: int, extra: int, off: int, cuts: set[int]) -> None:
    bundle = window_bundle(threshold=1.0, on=(n, n + extra), off=off, deadband=0.1)
    pool = Pool("p", bundle, 1, 1, judge.COLUMNS)
    oracles = [Oracle((n, n + extra), off, 0.1, 1.0) for _ in range(3)]
    want = [(i, a, kind) for i, (a, s) in enumerate(rows) if (kind := oracles[a].row(s))]
    got = []
    edges = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        slot = np.array([k for k, _ in rows[a:b]], np.int64)
        score = np.array([s for _, s in rows[a:b]])
        place = np.arange(a, b)
        states, changes = judge.step(pool, slot, score, place, place, np.ones(b - a, bool))
        got += [(a + t.row, t.slot, t.kind) for t in changes]
        assert set(states.tolist()) <= {judge.NORMAL, judge.OVER, judge.ACTIVE}
    assert got == want
    assert [int(r) for r in pool.table["revision"][:3]] == [o.revision for o in oracles]


@given(rows=st.lists(st.floats(0.91, 1.4), min_size=1, max_size=60))
def test_judge_raises_once_and_stays_when_the_score_chatters_inside_the_deadband(rows: list[float]) -> None:
    pool = Pool("p", window_bundle(threshold=1.0, on=(1, 1), off=3, deadband=0.1), 1, 1, judge.COLUMNS)
    place = np.arange(len(rows))
    _, changes = judge.step(pool, np.zeros(len(rows), np.int64), np.array(rows), place, place, np.ones(len(rows), bool))
    assert [t.kind for t in changes] == (["raised"] if max(rows) >= 1.0 else [])


def test_judge_ignores_rows_without_a_score() -> None:
    pool = Pool("p", window_bundle(threshold=1.0), 1, 1, judge.COLUMNS)
    place, usable = np.arange(3), np.array([True, False, True])
    states, changes = judge.step(pool, np.zeros(3, np.int64), np.array([0.0, 9.0, 0.0]), place, place, usable)
    assert changes == [] and states.tolist() == [0, 0, 0]


@given(raw=st.lists(st.floats(0, 1e6), min_size=1, max_size=32))
def test_shares_are_ranked_and_sum_to_one(raw: list[float]) -> None:
    found = judge.shares(np.array(raw), tuple(f"c{i}" for i in range(len(raw))), None)
    assert (found == []) == (sum(raw) == 0)
    if found:
        assert abs(sum(share for _, share, _ in found) - 1.0) < 1e-9
        # the first also takes what rounding left, at most half a thousandth a channel
        assert all(a[1] >= b[1] - 0.02 for a, b in zip(found[:-1], found[1:], strict=True))
