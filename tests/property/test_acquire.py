"""Sequence checks against an oracle that takes one frame at a time."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rig import Rig, birth, frame, window_bundle

ASSETS = [birth(f"p{i}") for i in range(3)]


class Oracle:
    """What the rules say, in words: seen before = duplicate, more than 63 behind = late, else accepted."""

    def __init__(self) -> None:
        self.seen: dict[str, set[int]] = {}
        self.count: Counter[str] = Counter()

    def frame(self, asset: str, seq: int) -> None:
        seen = self.seen.setdefault(asset, set())
        last = max(seen, default=None)
        self.count["received"] += 1
        if last is not None and last - seq >= 64:
            self.count["late"] += 1
        elif seq in seen:
            self.count["duplicate"] += 1
        else:
            if last is not None and seq < last:
                self.count["reordered"] += 1
            elif last is not None:
                self.count["gap_frames"] += seq - last - 1
            self.count["judged"] += 1
            seen.add(seq)


streams = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 150)), max_size=80)


@given(stream=streams, cuts=st.sets(st.integers(0, 80), max_size=5))
@settings(max_examples=300, deadline=None)
def test_sequence_agrees_with_the_oracle_when_frames_come_in_any_order(
        stream: list[tuple[int, int]], cuts: set[int]) -> None:
    rig, oracle = Rig.make(window_bundle(), ASSETS), Oracle()
    values = []
    for a, seq in stream:
        oracle.frame(ASSETS[a].asset, seq)
        values.append(frame(ASSETS[a], seq))
    edges = sorted({0, len(values), *(c for c in cuts if c < len(values))})
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        rig.poll(values[a:b])
    totals = rig.totals()
    assert {k: totals[k] for k in ("received", "judged", "late", "duplicate", "reordered", "gap_frames")} == {
        k: oracle.count[k] for k in ("received", "judged", "late", "duplicate", "reordered", "gap_frames")}


@given(start=st.integers(0, 2**40), n=st.integers(1, 200), cut=st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_sequence_accepts_every_frame_when_they_come_in_order_from_any_start(start: int, n: int, cut: int) -> None:
    rig = Rig.make(window_bundle(), ASSETS)
    values = [frame(ASSETS[0], start + i, t0_ns=1) for i in range(n)]
    rig.poll(values[:cut])
    rig.poll(values[cut:])
    totals = rig.totals()
    assert totals["judged"] == n and totals["gap_frames"] == totals["reordered"] == 0
