"""Alert: a transition that a person or a system should know of. [ISO 13374 AG, ISA-18.2 alarm]"""

import hashlib
from typing import Literal

from msgspec import Struct

Severity = Literal["low", "medium", "high", "critical"]
State = Literal["raised", "updated", "cleared"]


def alert_id(site: str, asset: str, rule: str, birth_id: str, seq: int) -> str:
    """Return the pure id of an episode: the same after any replay, restart or move.

    seq: that of the last frame of the first raising window (for rule `silent`: broker time of the last frame, ms).
    """
    text = "\x1f".join((site, asset, rule, birth_id, str(seq)))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Contribution(Struct, frozen=True):
    """Share of one channel in the score (shares of all channels sum to 1) and which way it moved."""

    channel: str
    share: float
    direction: Literal["up", "down", "flat"]


class Life(Struct, frozen=True, omit_defaults=True):
    """Remaining life in `unit`: mean, and what it exceeds with 90, 50 and 10 % (p10, p50, p90).

    at_least: the mean is the most that the model tells, so the life may be longer.
    """

    mean: float
    p10: float
    p50: float
    p90: float
    unit: str
    at_least: bool = False


class Line(Struct, frozen=True):
    """A spectral line that speaks for the failure mode: where it should be, where it is, how clear.

    order: found, in multiples of the shaft's speed. snr_db: above what chance would give.
    """

    expected_hz: float
    found_hz: float
    order: float
    snr_db: float


class Window(Struct, frozen=True):
    """The samples that the decision rests on: event time, Unix nanoseconds, and frames of it."""

    start_ns: int
    end_ns: int
    frames: int


class Alert(Struct, frozen=True, omit_defaults=True):
    """Topics `kizashi.alert.v1` (history, key = asset) and `kizashi.alert.state.v1` (key = asset|alert_id).

    Value bytes are a function of the log alone; a consumer keeps the highest `revision` per `alert_id`.
    Times are event time in Unix nanoseconds. mode: the failure, with the model's confidence in it, 0 to 1.
    component: the part of the asset that was judged, by its name in the birth.
    """

    alert_id: str
    revision: int
    state: State
    active: bool
    site: str
    asset: str
    asset_class: str
    rule: str
    severity: Severity
    criticality: Literal["A", "B", "C"]
    annunciate: bool
    t_first: int
    t_last: int
    t_raised: int
    score: float
    threshold: float
    why: str
    birth_id: str
    seq: int
    model: str
    iso13374_block: Literal["DA", "SD", "HA"] = "SD"
    t_cleared: int | None = None
    annunciate_why_not: str | None = None
    provisional: bool = False
    contributions: tuple[Contribution, ...] = ()
    window: Window | None = None
    mode: str | None = None
    confidence: float | None = None
    life: Life | None = None
    line: Line | None = None
    component: str | None = None
    v: Literal[1] = 1

    @property
    def state_key(self) -> bytes:
        return f"{self.asset}|{self.alert_id}".encode()
