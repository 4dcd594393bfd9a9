"""Health: live, ready, and the one fault that ends the process."""

import pytest

from pipeline.ops.health import Health


@pytest.fixture
def health() -> Health:
    return Health(stall_s=60, now=0)


def beaten(health: Health, now: float) -> Health:
    health.beat(now)
    return health


def test_is_live_while_offsets_move(health):
    for now in range(0, 300, 10):
        health.progress(0, position=now, end=10_000, now=now)
        assert beaten(health, now).live(now).ok


def test_is_live_when_there_is_nothing_to_read(health):
    health.progress(0, position=7, end=7, now=0)
    assert beaten(health, 1000).live(1000) == beaten(health, 1000).live(1000)
    health.progress(0, position=7, end=7, now=1000)
    assert health.live(1000).ok
    assert health.live(1000).why == "there is nothing to read"


def test_is_at_fault_when_one_partition_stands_while_others_move(health):
    for now in range(0, 70, 10):
        health.progress(0, position=5, end=9, now=now)
        health.progress(1, position=now, end=1000, now=now)
        assert beaten(health, now).fault(now) is None
    why = beaten(health, 61).fault(61)
    assert why == "partition 0 stands at offset 5, 4 records behind, for 61 s (limit 60 s)"
    assert not health.live(61).ok


def test_patience_begins_when_records_arrive_not_before(health):
    health.progress(0, position=5, end=5, now=0)
    health.progress(0, position=5, end=5, now=500)
    health.progress(0, position=5, end=6, now=501)
    assert beaten(health, 559).fault(559) is None
    assert beaten(health, 561).fault(561) is not None


def test_a_seek_backwards_counts_as_progress(health):
    health.progress(0, position=50, end=90, now=0)
    health.progress(0, position=10, end=90, now=59)
    assert beaten(health, 100).fault(100) is None


def test_standing_still_on_purpose_is_no_fault_and_says_why(health):
    health.progress(0, position=5, end=9, now=0)
    assert health.hold("publishing", now=1)
    assert not health.hold("publishing", now=2)
    assert beaten(health, 500).live(500).ok
    assert "acknowledgement" in health.live(500).why
    assert health.holds == ("publishing",)


def test_a_hold_that_ends_gives_the_full_time_again(health):
    health.progress(0, position=5, end=9, now=0)
    health.hold("restoring", now=0)
    assert health.release("restoring", now=500) == 500
    assert health.release("restoring", now=500) is None
    assert beaten(health, 559).fault(559) is None
    assert beaten(health, 561).fault(561) is not None


def test_a_hold_needs_a_known_reason(health):
    with pytest.raises(ValueError, match="no reason to hold"):
        health.hold("tired", now=0)


def test_a_broker_that_does_not_answer_is_no_fault_and_gives_the_full_time_again(health):
    health.progress(0, position=5, end=9, now=0)
    health.broker(False, now=10)
    health.broker(False, now=400)
    assert beaten(health, 400).live(400).ok
    assert "broker is away for 390 s" in health.live(400).why
    health.broker(True, now=500)
    health.broker(True, now=550)
    assert beaten(health, 559).fault(559) is None
    assert beaten(health, 561).fault(561) is not None


def test_a_loop_that_does_not_run_is_a_fault_whatever_is_held(health):
    health.hold("rebalancing", now=0)
    health.broker(False, now=0)
    assert health.fault(60) is None
    assert health.fault(61) == "the event loop has not run for 61 s (limit 60 s)"


def test_a_process_that_stood_still_gets_its_time_again(health):
    health.progress(0, position=5, end=9, now=0)
    health.resumed(now=1000)
    assert health.fault(1059) is None
    assert beaten(health, 1061).fault(1061) is not None


def test_a_revoked_partition_is_nobody_s_fault(health):
    health.progress(0, position=5, end=9, now=0)
    health.revoked(0)
    assert beaten(health, 500).fault(500) is None


def test_is_ready_only_when_warm_and_joined_and_not_leaving(health):
    assert health.ready(0).why == "the engine is not warm"
    health.warm = True
    assert health.ready(0).why == "the group is not joined"
    health.joined = True
    assert health.ready(0).ok
    health.hold("draining", now=1)
    assert not health.ready(1).ok


def test_stays_ready_during_a_rebalance_so_that_a_rolling_update_is_not_stopped_by_itself(health):
    health.warm = health.joined = True
    health.hold("rebalancing", now=0)
    assert health.ready(0).ok
