"""Bootstrap intervals over groups: whole files, units or bearings are drawn, because rows of one of them are alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Draws: the ends of a 95 % interval then vary by a twentieth of its width from seed to seed.
DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the interval that holds it in 95 of 100 samples of groups like these."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """Return `value [low, high]`."""
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def interval(
    groups: int, figure: Callable[[NDArray[np.int64]], float], share: float = 0.95, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Return `figure` over all groups, and the percentile interval of it over groups drawn with replacement.

    figure: takes indices of groups, some of them repeated. A draw for which it is NaN (no anomaly in it, say) is left
    out. Source: Efron, Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13.
    """
    everything = np.arange(groups)
    rng = np.random.default_rng(seed)
    drawn = np.array([figure(rng.integers(0, groups, groups)) for _ in range(draws if groups else 0)])
    drawn = drawn[np.isfinite(drawn)]
    tail = (1 - share) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail)) if len(drawn) else (np.nan, np.nan)
    return Interval(float(figure(everything)), float(low), float(high))


def rmse(errors: Sequence[float] | NDArray[np.float64], **how: int) -> Interval:
    """Return the root mean square of one error a group, with its interval."""
    square = np.asarray(errors, np.float64) ** 2
    return interval(len(square), lambda i: float(np.sqrt(square[i].mean())) if len(i) else float("nan"), **how)
