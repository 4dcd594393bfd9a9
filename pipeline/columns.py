"""What flows between the steps: columns over frames or rows, never one object a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas import Alert, Assessment, Calibration, DeadLetter

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
Array = NDArray[Any]

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


@dataclass(slots=True)
class Poll:
    """Consecutive records of one partition, as read. timestamps_ms: the broker's; `next_offset` follows the last.

    decoded: what `acquire.decode` has made of the values already, if this is the rest of a poll that was cut.
    """

    partition: int
    offsets: I64
    timestamps_ms: I64
    values: Sequence[bytes | None]
    keys: Sequence[bytes | None]
    next_offset: int
    decoded: Any = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(slots=True)
class FrameBatch:
    """Accepted frames of one pool, sorted by (slot, arrival).

    slot, seq, offset, t0_ns, ts_ms: (n,). data: (n, channels, samples) float in physical units.
    restart: the frame follows a silence, so no window may span the gap before it. rpm: (n,) as the frames tell it, NaN
    where one does not; None: no model here asks for it.
    """

    slot: I64
    seq: I64
    offset: I64
    t0_ns: I64
    ts_ms: I64
    restart: Bool
    data: Array
    rpm: F64 | None = None

    def __len__(self) -> int:
        return len(self.slot)

    def only(self, keep: Bool) -> "FrameBatch":
        """Return the frames of a mask."""
        return FrameBatch(self.slot[keep], self.seq[keep], self.offset[keep], self.t0_ns[keep], self.ts_ms[keep],
                          self.restart[keep], self.data[keep], None if self.rpm is None else self.rpm[keep])


@dataclass(slots=True)
class Groups:
    """Where each slot's frames lie in a batch sorted by slot.

    head: (n,) True at a slot's first frame. start: (n,) index of that frame. first, last: (groups,) indices.
    """

    head: Bool
    start: I64
    first: I64
    last: I64

    @classmethod
    def of(cls, slot: I64) -> "Groups":
        n = len(slot)
        head = np.empty(n, bool)
        head[:1] = True
        np.not_equal(slot[1:], slot[:-1], out=head[1:])
        first: I64 = head.nonzero()[0]
        last = np.empty_like(first)
        np.subtract(first[1:], 1, out=last[:-1])
        last[-1:] = n - 1
        return cls(head, np.repeat(first, last - first + 1), first, last)

    def before(self, column: I64, carried: I64) -> I64:
        """Return what stood in `column` one frame earlier of the same slot; carried: (groups,) before the first."""
        out = np.empty_like(column)
        out[1:] = column[:-1]
        out[self.first] = carried
        return out

    @property
    def rank(self) -> I64:
        """Return each frame's place among its slot's frames, from 0."""
        return np.arange(len(self.head)) - self.start


@dataclass(frozen=True, slots=True)
class Silence:
    """An asset came back: frames stopped after number `seq` at broker time `since_ms`, the next came at `back_ms`."""

    slot: int
    seq: int
    since_ms: int
    back_ms: int


class Fill(Protocol):
    """Writes rows a..b into `views`, one (b - a, ...) array per input of the model."""

    def __call__(self, a: int, b: int, views: Mapping[str, Array]) -> None: ...


@dataclass(slots=True)
class Rows:
    """Rows ready for the engine, of one pool, in order. `fill` must be called before the pool's next step.

    slot, seq, offset, ts_ms: of the frame that completed each row, (rows,). t_end: time of its last sample, Unix ns.
    frames: how many frames one row rests on, (rows,) where they differ. doubt: (rows,) int, 0 or the number of a
    reason of `reasons`, from 1, why the model's answer counts for nothing whatever it will be; None: no row in doubt.
    below: from this number on a reason makes scores too low, never too high, and does not count for rows over their
    limit; 0: none does.
    """

    slot: I64
    seq: I64
    offset: I64
    ts_ms: I64
    t_end: I64
    frames: int | I64
    fill: Fill
    doubt: Array | None = None
    reasons: tuple[str, ...] = ()
    below: int = 0

    def __len__(self) -> int:
        return len(self.slot)

    @classmethod
    def of(cls, period_ns: F64, samples: int, batch: FrameBatch, done: I64, fill: Fill, frames: int) -> "Rows":
        """Take the columns of the frames `done`; period_ns: per slot, the time between two samples."""
        slot = batch.slot[done]
        t_end = batch.t0_ns[done] + np.rint((samples - 1) * period_ns[slot]).astype(np.int64)
        return cls(slot, batch.seq[done], batch.offset[done], batch.ts_ms[done], t_end, frames, fill)


@dataclass(slots=True)
class Calibrated:
    """A slot whose baseline is finished by the frame at `frame` of the batch, from `rows` samples.

    reason: why it is suspect, "" when it is good.
    """

    slot: int
    frame: int
    rows: int
    reason: str = ""


@dataclass(slots=True)
class Effects:
    """What a step wants done outside: the rim sends these, in this order."""

    alerts: list[Alert] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    assessments: list[Assessment] = field(default_factory=list)
    calibrations: list[Calibration] = field(default_factory=list)
    notes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # for the log: name of an event, its fields

    def extend(self, other: "Effects") -> None:
        self.alerts += other.alerts
        self.dead_letters += other.dead_letters
        self.assessments += other.assessments
        self.calibrations += other.calibrations
        self.notes += other.notes
