"""The batcher: nothing lost, nothing reordered, never too large, never too late."""

from collections.abc import Mapping

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engines.base import Staging, TensorSpec
from pipeline.batch import MAX_SPARE, Batch, Batcher, plain
from pipeline.columns import Array, Rows
from pipeline.state import Partition, Pool
from tests.rig import window_bundle

SPEC = (TensorSpec("x", "f4", (None,)),)
POOL = Pool("p", window_bundle(), 1, 1, ())


def rows(first: int, n: int) -> Rows:
    numbers = np.arange(first, first + n)

    def fill(a: int, b: int, views: Mapping[str, Array]) -> None:
        views["x"][:] = numbers[a:b, None]

    return Rows(numbers, numbers, numbers, numbers, numbers, 1, fill)


events = st.lists(st.one_of(st.integers(0, 12), st.just("tick")), max_size=40)


@given(events=events, max_size=st.integers(1, 8), delay=st.sampled_from([0.0, 2.5, 100.0]))
def test_batcher_keeps_order_size_and_delay_when_rows_and_time_come_in_any_mix(
        events: list[int | str], max_size: int, delay: float) -> None:
    batcher = Batcher("k", lambda: plain(SPEC, {"x": (2,)}, max_size), max_size, delay)
    part, now, next_row = Partition(0), 0.0, 0
    out: list[Batch] = []
    entered: dict[int, float] = {}
    left: dict[int, float] = {}

    def take(batches: list[Batch]) -> None:
        for batch in batches:
            assert 1 <= batch.n <= max_size and batch.inputs["x"].shape == (batch.n, 2)
            for seg in batch.segments:
                assert (batch.inputs["x"][seg.here, 0] == seg.column("slot")).all()
                left.update(dict.fromkeys(seg.column("slot").tolist(), now))
            out.append(batch)

    for event in events:
        if event == "tick":
            now += 1.0
            take(batcher.due(now))
            assert batcher.deadline is None or batcher.deadline > now
        else:
            entered |= dict.fromkeys(range(next_row, next_row + int(event)), now)
            take(batcher.add(part, POOL, rows(next_row, int(event)), now))
            next_row += int(event)
    take(batcher.flush())
    assert [s for b in out for seg in b.segments for s in seg.column("slot").tolist()] == list(range(next_row))
    assert all(left[r] - entered[r] <= delay + 1.0 for r in entered) or delay == 100.0
    assert batcher.flush() == [] and batcher.deadline is None


def test_batcher_uses_a_settled_batchs_buffers_again() -> None:
    batcher, part = Batcher("k", lambda: plain(SPEC, {"x": (2,)}, 4), 4, 1.0), Partition(0)
    first, = batcher.add(part, POOL, rows(0, 4), 0.0)
    batcher.recycle(first)
    second, = batcher.add(part, POOL, rows(4, 4), 0.0)
    assert second.buffers["x"] is first.buffers["x"]


@given(events=st.lists(st.one_of(st.integers(1, 9), st.just("settle"), st.just("flush")), max_size=60),
       pinned=st.integers(0, 4))
def test_pinned_arrays_are_never_lost_and_no_two_batches_share_arrays(events: list[int | str], pinned: int) -> None:
    made: list[Staging] = []

    def allocate() -> Staging:
        made.append(Staging(plain(SPEC, {"x": (2,)}, 4).arrays, pinned=len(made) < pinned))
        return made[-1]

    batcher, part, next_row, flying = Batcher("k", allocate, 4, 1.0), Partition(0), 0, list[Batch]()
    for event in events:
        if event == "settle":
            if flying:
                done = flying.pop(0)
                assert (np.concatenate([s.column("slot") for s in done.segments]) == done.inputs["x"][:, 0]).all()
                batcher.recycle(done)
        elif event == "flush":
            flying += batcher.flush()
        else:
            flying += batcher.add(part, POOL, rows(next_row, int(event)), 0.0)
            next_row += int(event)
        assert len({id(b.staging) for b in flying}) == len(flying)
        assert sum(s.pinned for s in made) <= pinned
    flying += batcher.flush()
    most = len(flying)
    for batch in flying:
        batcher.recycle(batch)
    taken = len(made)
    again = [b for _ in range(most) for b in batcher.add(part, POOL, rows(0, 4), 0.0)]
    have = sum(s.pinned for s in made[:taken])
    old = {id(s) for s in made[:taken] if s.pinned}
    assert len(old & {id(b.staging) for b in again}) == min(have, most), "a pinned set was lost"
    assert len({id(b.staging) for b in again}) == len(again)
    assert len(made) - taken <= max(0, most - have - MAX_SPARE) + max(0, pinned - have)
