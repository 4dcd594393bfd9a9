"""What the demo shows, as plain state: fed with messages and times, asked for figures. No I/O, no clock."""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipeline.plant.demolives import Lives
from pipeline.plant.faults import Fault
from schemas import Alert, Assessment

AssetState = Literal["calibrating", "normal", "over", "alert", "unknown"]
_STATES: tuple[AssetState, ...] = ("normal", "over", "alert", "unknown")  # by the state of an assessment's row
#: The rule of the turbofans' alerts.
REMAINING_LIFE = "remaining-life"
#: A rate over less jumps with every poll, over more it hides what happens.
RATE_WINDOW_S = 5.0
#: Latencies kept for the quantiles: the newest minute at 240 frames/s.
_KEPT = 15_000


@dataclass(slots=True)
class Scene:
    """The plant as its watcher sees it. faults: what was planted; start_ns: event time that their onset counts from.

    assets: the pumps; lives: the turbofans. Latencies are those of the pumps' frames, the rate is that of both fleets.
    Times `now` are seconds of one monotonic clock.
    """

    assets: tuple[str, ...]
    faults: tuple[Fault, ...] = ()
    start_ns: int = 0
    lives: Lives = field(default_factory=Lives)
    states: dict[str, AssetState] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    judged: int = 0
    last_seq: dict[str, int] = field(default_factory=dict)
    score_s: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    alert_s: list[float] = field(default_factory=list)
    _sent: dict[int, float] = field(default_factory=dict)
    _recent: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.states = dict.fromkeys(self.assets, "calibrating")

    def sending(self, seq: int, now: float) -> None:
        """Note when frames `seq` of all assets go out; those without a note are not timed."""
        self._sent[seq] = now

    def assessed(self, a: Assessment, now: float) -> None:
        """Take the scores of one asset and poll."""
        self.judged += len(a.seq)
        self._recent.append((now, len(a.seq)))
        if a.asset in self.lives.flights:
            self.lives.assessed(a)
            return
        self.states[a.asset] = _STATES[a.state[-1]]
        self.last_seq[a.asset] = max(self.last_seq.get(a.asset, -1), *a.seq)
        self.score_s.extend(now - at for at in map(self._sent.get, a.seq) if at is not None)

    def alerted(self, alert: Alert, now: float) -> None:
        """Take an alert; a revision that has been seen changes nothing."""
        if any(a.alert_id == alert.alert_id and a.revision >= alert.revision for a in self.alerts):
            return
        self.alerts.append(alert)
        at = self._sent.get(alert.seq) if alert.asset not in self.lives.flights else None
        if alert.state == "raised" and at is not None:  # its seq is that of the frame which raised it
            self.alert_s.append(now - at)

    def newest(self, count: int) -> list[Alert]:
        """Return the last revision of the alerts that changed last, newest first."""
        found: dict[str, Alert] = {}
        for alert in reversed(self.alerts):
            found.setdefault(alert.alert_id, alert)
        return list(found.values())[:count]

    def calibrated(self, asset: str) -> None:
        """Note that an asset has its baseline."""
        if self.states[asset] == "calibrating":
            self.states[asset] = "normal"

    def frames_per_s(self, now: float) -> float:
        """Return the frames judged per second over the last few seconds."""
        while self._recent and self._recent[0][0] < now - RATE_WINDOW_S:
            self._recent.popleft()
        return sum(n for _, n in self._recent) / RATE_WINDOW_S

    def count(self, state: AssetState) -> int:
        """Return how many assets are in a state."""
        return Counter(self.states.values())[state]

    def caught_up(self, seq: int) -> bool:
        """Tell whether frame `seq` of every pump is judged."""
        return all(a in self.last_seq and self.last_seq[a] >= seq for a in self.assets)


def quantiles_ms(seconds: "deque[float] | list[float]") -> tuple[float, float] | None:
    """Return p50 and p99 in milliseconds, None without values."""
    if not seconds:
        return None
    p50, p99 = np.quantile(np.array(seconds), (0.5, 0.99)) * 1e3
    return float(p50), float(p99)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one planted fault. Times in seconds after the plant's start; None: it was not found."""

    fault: Fault
    alert: Alert | None
    raised_s: float | None = None

    @property
    def delay_s(self) -> float | None:
        return None if self.raised_s is None else self.raised_s - self.fault.onset_s

    @property
    def named(self) -> str | None:
        """Return the channel that the alert named first."""
        return self.alert.contributions[0].channel if self.alert and self.alert.contributions else None


def findings(scene: Scene) -> tuple[list[Finding], list[Alert]]:
    """Match alerts with planted faults; return a finding per fault, and the alerts that no fault explains.

    A fault is found by the first alert raised on its asset at or after its onset. One that was raised on an asset
    without a fault, or before the onset, is a false alarm. That a turbofan has little life left is neither.
    """
    lives = scene.lives.flights
    raised = [a for a in scene.alerts if a.state == "raised" and not (a.asset in lives and a.rule == REMAINING_LIFE)]
    since = {a.alert_id: (a.t_raised - scene.start_ns) / 1e9 for a in raised}
    onset = {f.asset: f.onset_s for f in scene.faults}
    false = [a for a in raised if a.asset not in onset or since[a.alert_id] < onset[a.asset]]
    found = []
    for fault in scene.faults:
        own = [a for a in raised if a.asset == fault.asset and a not in false]
        first = min(own, key=lambda a: a.t_raised, default=None)
        found.append(Finding(fault, first, None if first is None else since[first.alert_id]))
    return found, false
