"""Pace: whether an engine takes longer than its bundle's budget, and when to try again what failed. Pure."""

from dataclasses import dataclass

#: p99 of fewer batches than a hundred is one batch; a minute bridges a checkpoint or another process's burst.
WINDOW_S, MIN_BATCHES = 60.0, 100
_SHARE = 0.01
#: When what failed for want of a device, memory or time is tried again. Another process's peak is over in a minute, a
#: device that restarts in five; after half an hour it is a person's job, and a build costs minutes of everything.
AGAIN_S = (60.0, 300.0, 1500.0)


def again_s(failures: int) -> float | None:
    """Return how long to wait after so many failures in a row (>= 1), None: it is not tried again."""
    return AGAIN_S[failures - 1] if failures <= len(AGAIN_S) else None


@dataclass(slots=True)
class Pace:
    """Counts batches over the budget in windows of a minute. budget_ms: of p99, None: no budget."""

    budget_ms: float | None
    began_at: float | None = None
    batches: int = 0
    over: int = 0
    worst_s: float = 0.0

    def note(self, seconds: float, now: float) -> str | None:
        """Count a batch; return what is wrong once a window ends in which p99 was over the budget. now: seconds."""
        if self.budget_ms is None:
            return None
        self.began_at = now if self.began_at is None else self.began_at
        self.batches += 1
        self.over += seconds * 1000 > self.budget_ms
        self.worst_s = max(self.worst_s, seconds)
        if now - self.began_at < WINDOW_S or self.batches < MIN_BATCHES:
            return None
        why = None
        if self.over > _SHARE * self.batches:
            why = (f"{self.over} of {self.batches} batches took longer than the bundle's budget of "
                   f"{self.budget_ms:g} ms (p99), the slowest {self.worst_s * 1000:.1f} ms")
        self.began_at, self.batches, self.over, self.worst_s = now, 0, 0, 0.0
        return why
