"""The `[drift]` table of a passport: when an asset is no longer as it was at its beginning, and what follows."""

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

#: Largest factor that a band may be widened by. A score that is a sum of squares (T2) then alarms at 1.7 times the
#: deviation that it alarms at otherwise; a wider band would no longer be one.
MAX_WIDEN = 3.0

# Counts of a window of that many rows vary by chance alone: the PSI of rows from one distribution is chi-square over
# (reference, window) rows, with mean (bins - 1)(1 / reference + 1 / window). Three times that is exceeded by one window
# in 1,000 at 5 bins; a limit below it would report noise.
_NOISE = 3.0


class DriftSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Two detectors on the rows of an asset that are far from an alarm, and how they act.

    input: an input of the graph, as "z" or a window "x" (its mean per channel), or the features of a `[baseline]`.
    Their distribution is compared with that of the asset's first rows (population stability index); none: only the
    score's. every: one of so many rows is looked at, because rows of a recursion resemble their neighbours. reference:
    rows looked at for the place and width of the bins, and as many again for what lies in them. window: rows looked at
    before distributions are compared. bins: of equal probability for a normal variable. psi: limit of the index.
    confirm: windows in a row that a detector objects to and that make a drift. restore: windows in a row like the
    reference that end one.
    tolerance, trip: of the Page-Hinkley test on the score, in units of the alarm threshold.
    widen: factor on the threshold while an asset drifts. annunciate: whether the drift's own message calls somebody.
    """

    input: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    every: Annotated[int, Meta(ge=1, le=4096)] = 16
    reference: Annotated[int, Meta(ge=32, le=16_384)] = 256
    window: Annotated[int, Meta(ge=16, le=16_384)] = 64
    bins: Annotated[int, Meta(ge=3, le=16)] = 5
    psi: Annotated[float, Meta(gt=0.0, le=100.0)] = 0.6
    confirm: Annotated[int, Meta(ge=2, le=64)] = 2
    restore: Annotated[int, Meta(ge=1, le=1024)] = 4
    tolerance: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05
    trip: Annotated[float, Meta(gt=0.0, le=1000.0)] = 2.0
    widen: Annotated[float, Meta(gt=1.0, le=MAX_WIDEN)] = 1.5
    annunciate: bool = False

    def layout(self) -> tuple[object, ...]:
        """Return what shapes the state that is kept of an asset."""
        return self.input, self.every, self.reference, self.window, self.bins

    def faults(self, rows_to_alarm: int) -> Iterator[str]:
        """Yield what does not go together. rows_to_alarm: the judge's on-delay, rows."""
        noise = (self.bins - 1) * (1 / self.reference + 1 / self.window)
        if self.psi < _NOISE * noise:
            yield (f"drift.psi = {self.psi:g} is below {_NOISE * noise:.2f}, {_NOISE:g} times what {self.reference} "
                   f"and {self.window} rows in {self.bins} bins differ by chance: raise it, or look at more rows")
        if self.window * self.every <= rows_to_alarm:
            yield (f"drift.window = {self.window} of every {self.every} rows is over within judge.on = {rows_to_alarm} "
                   "rows: the band could be widened before a fault is an alarm")
