"""What the demo knows of the turbofans, as plain state: fed with assessments, asked for answers. No I/O, no clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schemas import Assessment

EngineState = Literal["waiting", "normal", "over", "alert", "unknown"]
_STATES: tuple[EngineState, ...] = ("normal", "over", "alert", "unknown")  # by the state of an assessment's row


@dataclass(frozen=True, slots=True)
class Answer:
    """The newest answer about one engine. life: mean, p10, p50, p90 in cycles; unknown: why it does not count, or "".

    flight: the number of the flight after which it was given.
    """

    seq: int
    flight: int
    state: EngineState
    life: tuple[float, float, float, float]
    unknown: str


@dataclass(frozen=True, slots=True)
class Error:
    """How far off the answers that counted were. rmse: labels capped as in training; raw: not. held: intervals."""

    answered: int
    rmse: float
    raw: float
    held: int


@dataclass(slots=True)
class Lives:
    """The fleet as its watcher sees it. flights: per asset the numbers of its flights, in the order of its frames.

    sent: frames of each asset that have been sent. cap: the life from which on an answer means "at least".
    """

    flights: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    cap: float = float("inf")

    def sending(self, round_: int) -> None:
        """Note that the flights of a round go out."""
        longest = max(map(len, self.flights.values()))
        self.sent = {
            asset: min(len(own), max(0, round_ + 1 - longest + len(own))) for asset, own in self.flights.items()}

    def assessed(self, a: Assessment) -> None:
        """Take the answers about one engine; an older one than is known changes nothing."""
        known, told = self.answers.get(a.asset), a.answers
        if told is None or told.life is None or (known is not None and known.seq >= a.seq[-1]):
            return
        self.cap = told.life_cap if told.life_cap is not None else self.cap
        unknown = told.unknown[-1] if told.unknown is not None else ""
        state, flight = _STATES[a.state[-1]], self.flights[a.asset][a.seq[-1]]
        self.answers[a.asset] = Answer(a.seq[-1], flight, state, told.life[-1], unknown)

    def state(self, asset: str) -> EngineState:
        """Return an engine's state, "waiting" before the first answer."""
        return self.answers[asset].state if asset in self.answers else "waiting"

    def caught_up(self) -> bool:
        """Tell whether there is an answer to every flight sent."""
        return all(n == 0 or (a in self.answers and self.answers[a].seq >= n - 1) for a, n in self.sent.items())

    def error(self, left: Mapping[str, float]) -> Error | None:
        """Compare with the labels: cycles left after the last flight. None if no answer counts."""
        counted = {k: self.answers[k] for k in self.flights if k in self.answers and not self.answers[k].unknown}
        if not counted:
            return None
        truth = np.array([self.left_at(asset, left[asset]) for asset in counted])
        mean, low, _, high = np.array([a.life for a in counted.values()]).T
        capped = np.minimum(truth, self.cap)
        held = int(((low <= capped) & (capped <= high)).sum())
        return Error(len(counted), _rms(mean - capped), _rms(mean - truth), held)

    def left_at(self, asset: str, left: float) -> float:
        """Return the cycles left when the newest answer was given. left: after the last flight."""
        return left + self.flights[asset][-1] - self.answers[asset].flight


def _rms(error: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(error**2)))
