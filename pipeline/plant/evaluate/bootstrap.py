"""Bootstrap intervals over groups: whole files, units or bearings are drawn, because rows of one of them are alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from numpy.typing import NDArray

#: Draws: the ends of a 95 % interval then vary by a twentieth of its width from seed to seed.
DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the interval that holds it in 95 of 100 samples of groups like these; NaN where there is none."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, drawn: Sequence[float] | NDArray[np.float64]) -> "Interval":
        """Return the percentile interval of draws; those that are NaN (no anomaly in them, say) are left out."""
        finite = np.asarray(drawn, np.float64)
        finite = finite[np.isfinite(finite)]
        low, high = np.quantile(finite, (0.025, 0.975)) if len(finite) else (np.nan, np.nan)
        return cls(float(value), float(low), float(high))

    def text(self, digits: int = 2) -> str:
        """Return `value [low, high]`, or the value alone, or "-"."""
        value, low, high = ("-" if isnan(v) else f"{v:.{digits}f}" for v in (self.value, self.low, self.high))
        return value if isnan(self.low) else f"{value} [{low}, {high}]"


def interval(groups: int, figure: Callable[[NDArray[np.int64]], float]) -> Interval:
    """Return `figure` over all groups, and its interval over groups drawn with replacement; one group has none.

    figure: takes indices of groups, some of them repeated. Source: Efron, Tibshirani, An Introduction to the
    Bootstrap, 1993, ch. 13.
    """
    rng = np.random.default_rng(0)
    drawn = [figure(rng.integers(0, groups, groups)) for _ in range(DRAWS if groups > 1 else 0)]
    return Interval.of(figure(np.arange(groups)), drawn)


def rmse(errors: NDArray[np.float64]) -> Interval:
    """Return the root mean square of one error a group, with its interval."""
    square = np.asarray(errors, np.float64) ** 2
    return interval(len(square), lambda i: float(np.sqrt(square[i].mean())) if len(i) else float("nan"))
