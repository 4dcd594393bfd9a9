"""Windows of bearing recordings as the flow has judged them, and how they compare with what was true.

Balanced accuracy is the mean recall of the classes; where the answer was "unknown" the largest probability counts
(a forced choice), and how many were answered stands beside it. Windows of a recording are near-copies of each other, so
intervals are over bearings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.plant.evaluate.bootstrap import DRAWS, Interval

LABELS = ("normal", "inner", "ball", "outer")
SHORT = {"normal": "N", "inner": "IR", "ball": "B", "outer": "OR"}
F64 = NDArray[np.float64]
#: Of the largest probability, 0 to 1: as usual, and with some hundred windows in each that is used.
BINS = 10


@dataclass(frozen=True, slots=True)
class Judged:
    """One window. start: its first sample, at the recording's own rate. state: the judge's (2: an alert was active).

    unknown: why the answer counts for nothing, "" where it counts. probabilities: of LABELS. line: expected Hz, found
    Hz, order found, dB above chance.
    """

    recording: str
    start: int
    score: float
    state: int
    unknown: str
    probabilities: tuple[float, ...]
    line: tuple[float, ...]

    @property
    def forced(self) -> str:
        """The likeliest class, whether the model stands by it or not."""
        return LABELS[int(np.argmax(self.probabilities))]

    def cells(self) -> list[object]:
        """Return the line of the prediction file: see HEADER."""
        p = dict(zip(LABELS, self.probabilities, strict=True))
        return [self.recording, self.start, "U" if self.unknown else SHORT[self.forced], p["normal"], p["ball"],
                p["inner"], p["outer"], self.score, int(self.state == 2), self.unknown, *self.line]  # fmt: skip


HEADER = ("recording", "start", "pred", "prob_N", "prob_B", "prob_IR", "prob_OR", "score", "alarm", "unknown",
          "expected_hz", "found_hz", "order", "snr_db")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Truth:
    """What a recording is of: a label, and the physical bearing."""

    label: str
    bearing: str


class Compared:
    """Windows beside their truth. Figures over classes that do not occur are left out, NaN without any."""

    def __init__(self, rows: Sequence[Judged], truth: Mapping[str, Truth]) -> None:
        self.rows = [r for r in rows if r.recording in truth]
        self.truth = truth
        self.label = np.array([truth[r.recording].label for r in self.rows], object)
        self.bearing = np.array([truth[r.recording].bearing for r in self.rows], object)
        self.said = np.array([r.forced for r in self.rows], object)
        self.known = np.array([not r.unknown for r in self.rows], bool)

    def recall(self, label: str) -> float:
        """Return the share of a class's windows that were named right."""
        return _mean((self.said == label)[self.label == label])

    def balanced(self) -> float:
        """Return the mean recall over the classes that occur."""
        return _mean([self.recall(c) for c in LABELS if (self.label == c).any()])

    def balanced_interval(self) -> Interval:
        """Return it with the interval over bearings, drawn within their class."""
        right = {c: [_mean((self.said == c)[self.bearing == b]) for b in np.unique(self.bearing[self.label == c])]
                 for c in LABELS if (self.label == c).any()}  # fmt: skip
        rng = np.random.default_rng(0)
        draws = DRAWS if any(len(v) > 1 for v in right.values()) else 0  # one bearing of each class has no interval
        drawn = [float(np.mean([np.mean(rng.choice(v, len(v))) for v in right.values()])) for _ in range(draws)]
        return Interval.of(self.balanced(), drawn)

    def false_alarms(self) -> float:
        """Return the share of healthy windows that were called a defect, forced."""
        return _mean((self.said != "normal")[self.label == "normal"])

    def answered(self) -> float:
        """Return the share of windows that the model stands by."""
        return _mean(self.known)

    def right_of_answered(self) -> float:
        """Return the share of right ones among those."""
        return _mean((self.said == self.label)[self.known])

    def auroc(self) -> float:
        """Return the mean over defects of the area under ROC, one against the rest."""
        if not self.rows:
            return float("nan")
        p = np.array([r.probabilities for r in self.rows])
        return _mean([area(self.label == c, p[:, LABELS.index(c)]) for c in LABELS[1:] if (self.label == c).any()])

    def brier(self) -> float:
        """Return the mean over windows of the squared error of the four probabilities, summed; 0 to 2, uniform 0.75."""
        if not self.rows:
            return float("nan")
        p = np.array([r.probabilities for r in self.rows])
        return float(((p - (self.label[:, None] == np.array(LABELS, object))) ** 2).sum(1).mean())

    def log_loss(self) -> float:
        """Return the mean over windows of -log of the probability of what was true; uniform 1.386, at most 13.8."""
        p = [r.probabilities[LABELS.index(label)] for r, label in zip(self.rows, self.label, strict=True)]
        return float(-np.log(np.maximum(p, 1e-6)).mean()) if p else float("nan")

    def calibration_error(self) -> float:
        """Return the expected calibration error: by how much the largest probability misses the share that is right.

        Mean over windows, in BINS bins of equal width (Guo et al. 2017).
        """
        if not self.rows:
            return float("nan")
        confidence, right = np.array([max(r.probabilities) for r in self.rows]), self.said == self.label
        which = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        off = [abs(float((confidence - right)[which == b].sum())) for b in np.unique(which)]
        return sum(off) / len(self.rows)

    def confusion(self) -> NDArray[np.int64]:
        """Return counts (true, said) of LABELS, and a last column of "unknown"."""
        counts = np.zeros((len(LABELS), len(LABELS) + 1), np.int64)
        for label, said, known in zip(self.label, self.said, self.known, strict=True):
            counts[LABELS.index(label), LABELS.index(said) if known else len(LABELS)] += 1
        return counts


def area(positive: NDArray[np.bool_], score: F64) -> float:
    """Return the chance that a positive has the higher score; ties count half. NaN without both."""
    n = int(positive.sum())
    if n in (0, len(positive)):
        return float("nan")
    order = np.unique(score, return_inverse=True)[1]
    count = np.bincount(order)
    rank = (np.cumsum(count) - (count - 1) / 2)[order]
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def _mean(values: Sequence[float] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
