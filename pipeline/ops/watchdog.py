"""Ends a worker that makes no progress although nothing stands in its way, so that a supervisor starts it again."""

import os
import threading
from collections.abc import Callable

from pipeline.ops.health import Health

#: Often enough beside a limit of 5 s or more, and nothing in CPU.
_EVERY_S = 1.0
#: A check that comes this much late means that the whole process stood still (SIGSTOP, a suspended machine): that is no
#: fault of the loop, which gets its time again to notice that it has been gone.
_STOOD_STILL_S = 5.0


class Watchdog:
    """Asks the health every second, in a thread: a stuck event loop cannot ask about itself.

    on_fault(why): called once, from the thread; then the process exits with code 1 at once. State is safe: it is what
    the last checkpoint says, as after any crash.
    """

    def __init__(
        self, health: Health, clock: Callable[[], float], on_fault: Callable[[str], None],
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._health, self._clock, self._on_fault, self._leave = health, clock, on_fault, leave
        self._stopped = threading.Event()
        self._asked_at = clock()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; idempotent. A drain has a budget of its own."""
        self._stopped.set()

    def check(self) -> bool:
        """Look once; returns False after a fault. Called by the thread."""
        now = self._clock()
        if now - self._asked_at > _STOOD_STILL_S:
            self._health.resumed(now)
        self._asked_at = now
        why = self._health.fault(now)
        if why is None:
            return True
        try:
            self._on_fault(why)
        finally:
            self._leave(1)
        return False

    def _run(self) -> None:
        while not self._stopped.wait(_EVERY_S) and self.check():
            pass
