"""Limits repeated lines: by key, and all keys together. Pure; time is a parameter."""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class _Key:
    next_at: float
    held: int = 0


class Limiter:
    """Lets a key speak once per `every_s`, and all keys together `rate_per_s` times a second after a burst.

    What is not let through is counted and handed out with the key's next line, so nothing goes unreported.
    """

    def __init__(self, every_s: float, rate_per_s: float, burst: int, keys: int = 256) -> None:
        self._every_s, self._rate, self._burst, self._most = every_s, rate_per_s, float(burst), keys
        self._keys: OrderedDict[str, _Key] = OrderedDict()
        self._tokens, self._at = float(burst), 0.0
        self._forgotten = 0

    def admit(self, key: str, now: float, count: int = 1) -> int | None:
        """Return how much to report under `key`: `count` and what was held back before; None to hold back.

        now: seconds of any clock that never goes back.
        """
        state = self._keys.get(key)
        if state is None:
            state = self._keys[key] = _Key(now)
            if len(self._keys) > self._most:  # texts made of endless different values must not fill the memory
                self._forgotten += self._keys.popitem(last=False)[1].held
        self._keys.move_to_end(key)
        state.held += count
        return self._release(state, now)

    def due(self, now: float) -> dict[str, int]:
        """Return what was held back under keys that may speak again, and count it as reported.

        For a timer: a key that went quiet would otherwise never report its rest. Costs no share of the common rate.
        """
        ripe = {key: state for key, state in self._keys.items() if state.held and now >= state.next_at}
        counts = {key: state.held for key, state in ripe.items()}
        for state in ripe.values():
            state.held, state.next_at = 0, now + self._every_s
        return counts

    def take_forgotten(self) -> int:
        """Return, once, how much was held back under keys that had to make room."""
        count, self._forgotten = self._forgotten, 0
        return count

    def _release(self, state: _Key, now: float) -> int | None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        if now < state.next_at or self._tokens < 1:
            return None
        self._tokens -= 1
        count, state.held, state.next_at = state.held, 0, now + self._every_s
        return count
