"""Limiter: who may speak, and that nothing held back goes unreported."""

import math

from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops.limiter import Limiter


def test_a_key_speaks_at_once_and_then_once_per_interval_with_what_was_held():
    limiter = Limiter(every_s=10, rate_per_s=100, burst=100)
    assert [limiter.admit("a", t) for t in (0.0, 0.1, 9.9, 10.0, 10.1)] == [1, None, None, 3, None]


def test_keys_do_not_silence_each_other_within_the_burst():
    limiter = Limiter(every_s=10, rate_per_s=1, burst=2)
    assert [limiter.admit(key, 0.0) for key in "abc"] == [1, 1, None]


def test_all_keys_together_keep_to_the_rate():
    limiter = Limiter(every_s=0, rate_per_s=0.5, burst=1)
    spoken = [t for t in range(100) if limiter.admit(f"key {t}", float(t)) is not None]
    assert len(spoken) == 50


def test_a_key_that_went_quiet_is_due_once():
    limiter = Limiter(every_s=10, rate_per_s=100, burst=100)
    for t in (0.0, 1.0, 2.0):
        limiter.admit("a", t)
    assert limiter.due(9.0) == {}
    assert limiter.due(10.0) == {"a": 2}
    assert limiter.due(math.inf) == {}


def test_endless_different_keys_take_bounded_memory_and_their_counts_survive():
    limiter = Limiter(every_s=10, rate_per_s=0, burst=0, keys=4)
    for i in range(1000):
        limiter.admit(f"key {i}", 0.0)
    assert len(limiter.due(math.inf)) == 4
    assert limiter.take_forgotten() == 996
    assert limiter.take_forgotten() == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 5), st.integers(1, 9)), max_size=200))
def test_counts_spoken_held_and_forgotten_add_up(calls):
    limiter = Limiter(every_s=3, rate_per_s=0.7, burst=2, keys=3)
    now, spoken = 0.0, 0
    for key, wait, count in calls:
        now += wait
        spoken += limiter.admit(key, now, count) or 0
    spoken += sum(limiter.due(math.inf).values()) + limiter.take_forgotten()
    assert spoken == sum(count for _, _, count in calls)
