"""Health: live, ready, and when the watchdog must end the process. Pure; `now` is seconds of a monotonic clock.

The loop reports what happens; any thread may ask. Live = offsets move or there is nothing to read. Ready = the engine
is warm and the group is joined.
"""

from dataclasses import dataclass

#: Why reading may stand still on purpose; a restart would mend none of these.
HOLDS = {
    "starting": "the worker has not joined its group yet",
    "restoring": "state is read from the checkpoints",
    "rebalancing": "the group is being redistributed",
    "publishing": "too many alerts or dead letters wait for their acknowledgement",
    "draining": "the worker is stopping",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer, and why in one readable clause."""

    ok: bool
    why: str


@dataclass(slots=True)
class _Progress:
    position: int
    end: int
    moved_at: float


class Health:
    """What the loop has reported, and what follows from it.

    stall_s: lag without progress, or a loop without a beat, for longer than this is a fault.
    """

    def __init__(self, stall_s: float, now: float) -> None:
        self._stall_s = stall_s
        self._beat_at = now
        self._partitions: dict[int, _Progress] = {}
        self._holds: dict[str, float] = {}
        self._broker_lost_at: float | None = None
        self._excused_until = now
        self.warm = False
        self.joined = False
        self.degraded: dict[str, str] = {}  # bundle -> which engine serves it instead of the chosen one, and why

    def beat(self, now: float) -> None:
        """Say that the event loop runs; about once a second."""
        self._beat_at = now

    def progress(self, partition: int, position: int, end: int, now: float) -> None:
        """Report a partition: offset of the next record to process, and the partition's end.

        Counts as progress when the position moves, backwards (a seek) included, and when nothing is left to read.
        """
        known = self._partitions.get(partition)
        moved = known is None or position != known.position or position >= end
        self._partitions[partition] = _Progress(position, end, now if known is None or moved else known.moved_at)

    def revoked(self, partition: int) -> None:
        """Forget a partition that another worker owns now."""
        self._partitions.pop(partition, None)

    def hold(self, why: str, now: float) -> bool:
        """Say that reading stands still on purpose; returns False if that was known. why: a key of HOLDS."""
        if why not in HOLDS:
            raise ValueError(f"{why!r} is no reason to hold, known are {', '.join(HOLDS)}")
        if why in self._holds:
            return False
        self._holds[why] = now
        return True

    def release(self, why: str, now: float) -> float | None:
        """Say that a reason to hold is gone; returns how long it lasted, seconds, or None if there was none."""
        since = self._holds.pop(why, None)
        if since is None:
            return None
        self._excuse(now)
        return now - since

    def broker(self, answers: bool, now: float) -> None:
        """Report whether the broker answers."""
        if answers and self._broker_lost_at is not None:
            self._broker_lost_at = None
            self._excuse(now)
        elif not answers and self._broker_lost_at is None:
            self._broker_lost_at = now

    def resumed(self, now: float) -> None:
        """Say that the whole process stood still (SIGSTOP, suspend): all clocks of patience start over."""
        self._beat_at = now
        self._excuse(now)

    @property
    def holds(self) -> tuple[str, ...]:
        """Return the reasons for which reading is held now."""
        return tuple(self._holds)

    def live(self, now: float) -> Verdict:
        """Tell whether a supervisor should leave this process alone."""
        fault = self.fault(now)
        if fault is not None:
            return Verdict(False, fault)
        if self._broker_lost_at is not None:
            return Verdict(True, f"the broker is away for {now - self._broker_lost_at:.0f} s, held until it is back")
        if self._holds:
            return Verdict(True, f"held: {HOLDS[next(iter(self._holds))]}")
        lag = sum(max(0, p.end - p.position) for p in list(self._partitions.values()))
        return Verdict(True, f"offsets move, {lag} records behind" if lag else "there is nothing to read")

    def ready(self, now: float) -> Verdict:
        """Tell whether this worker does its share of the work."""
        if not self.warm:
            return Verdict(False, "the engine is not warm")
        if not self.joined:
            return Verdict(False, "the group is not joined")
        for why in ("starting", "draining"):
            if why in self._holds:
                return Verdict(False, HOLDS[why])
        return Verdict(True, "; degraded: ".join([f"{len(self._partitions)} partitions", *self.degraded.values()]))

    def fault(self, now: float) -> str | None:
        """Return why the process must end (exit code 1), or None.

        Lag and no progress for `stall_s` while the broker answers and nothing is held on purpose; or a loop that
        has not run for as long, which nothing excuses.
        """
        if now - self._beat_at > self._stall_s:
            return f"the event loop has not run for {now - self._beat_at:.0f} s (limit {self._stall_s:g} s)"
        if self._broker_lost_at is not None or self._holds:
            return None
        for number, seen in list(self._partitions.items()):
            still = now - max(seen.moved_at, self._excused_until)
            if seen.end > seen.position and still > self._stall_s:
                return (
                    f"partition {number} stands at offset {seen.position}, {seen.end - seen.position} records behind, "
                    f"for {still:.0f} s (limit {self._stall_s:g} s)"
                )
        return None

    def _excuse(self, now: float) -> None:
        # What stood still for a reason gets the full time again once the reason is gone.
        self._excused_until = now
