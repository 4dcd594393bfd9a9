"""Pace: whether an engine takes longer than its bundle's budget, over a while. Pure."""

from dataclasses import dataclass

#: p99 of fewer batches than a hundred is one batch; a minute bridges a checkpoint or another process's burst.
WINDOW_S, MIN_BATCHES = 60.0, 100
_SHARE = 0.01


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
