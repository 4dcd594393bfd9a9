"""What the flow said of an asset, frame by frame."""

from dataclasses import dataclass, field

import numpy as np

from engines.base import Array
from pipeline.judge import ACTIVE
from schemas import Assessment


@dataclass(slots=True)
class Watched:
    """Of `frames` frames: score relative to the limit, NaN without one; alarm 0 or 1; why there is no answer.

    What a row says holds from its frame on, until the next row.
    """

    frames: int
    score: Array = field(init=False)
    alarm: Array = field(init=False)
    why: Array = field(init=False)
    rows: int = 0

    def __post_init__(self) -> None:
        self.score, self.alarm = np.full(self.frames, np.nan), np.zeros(self.frames, np.int8)
        self.why = np.full(self.frames, "not enough history", object)

    def take(self, a: Assessment) -> None:
        """Take rows; `seq` is the frame that finished one."""
        unknown = (a.answers.unknown if a.answers else None) or ("",) * len(a.seq)
        for seq, score, limit, state, why in zip(a.seq, a.score, a.limit, a.state, unknown, strict=True):
            self.score[seq:] = np.nan if why else score / limit
            self.alarm[seq:] = state == ACTIVE
            self.why[seq:] = why
            self.rows += 1

    def raises(self) -> list[int]:
        """List the frames at which an alarm began."""
        return np.flatnonzero(np.diff(self.alarm, prepend=0) == 1).tolist()
