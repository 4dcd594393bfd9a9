"""Watchdog: fires once for a fault, never for a process that was suspended."""

import threading

from pipeline.ops.health import Health
from pipeline.ops.watchdog import Watchdog


class Stage:
    """A watchdog with a clock that we set and an exit that we see."""

    def __init__(self) -> None:
        self.now, self.faults, self.left = 0.0, [], threading.Event()
        self.health = Health(stall_s=60, now=0)
        self.watchdog = Watchdog(self.health, lambda: self.now, self.faults.append, self.leave)

    def leave(self, code: int) -> None:
        assert code == 1
        self.left.set()

    def check_until(self, end: int) -> bool:
        for second in range(int(self.now) + 1, end + 1):
            self.now = float(second)
            if not self.watchdog.check():
                return False
        return True


def test_leaves_with_code_1_when_the_loop_stands():
    stage = Stage()
    assert stage.check_until(60)
    assert not stage.check_until(61)
    assert stage.left.is_set()
    assert stage.faults == ["the event loop has not run for 61 s (limit 60 s)"]


def test_leaves_even_when_reporting_fails():
    stage = Stage()
    stage.watchdog = Watchdog(stage.health, lambda: stage.now, {}.__getitem__, stage.leave)
    try:
        stage.check_until(70)
    except KeyError:
        pass
    assert stage.left.is_set()


def test_gives_a_suspended_process_its_time_again():
    stage = Stage()
    assert stage.check_until(10)
    stage.now = 1000.0
    assert stage.watchdog.check()
    assert stage.check_until(1060)
    assert not stage.check_until(1061)


def test_its_thread_finds_a_fault_by_itself():
    stage = Stage()
    ticks = iter(range(0, 10_000, 4))
    watchdog = Watchdog(stage.health, lambda: float(next(ticks)), stage.faults.append, stage.leave)
    for _ in range(15):
        assert watchdog.check()
    watchdog.start()
    assert stage.left.wait(10)
    watchdog.stop()
