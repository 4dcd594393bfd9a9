"""The demo's second fleet: ten of NASA's turbofan engines in fast motion, as `turbofan/README.md` describes them.

The data has no clock. Here a flight takes `period_s`, its time is the time at which it is sent, and births say so. All
engines fly until the same moment, so the young ones join late, and each has flown as often as in NASA's file by then.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.plant import cmapss
from schemas import AssetBirth, Channel, TelemetryFrame

SUBSET = "FD001"
_FOLDER = Path(__file__).with_name("turbofan")
#: Unit -> its first flight that anybody hears of. An engine whose recorder was fitted after 59 flights and has seen 54
#: since: of such an engine the model wants 120, and should say so. Its error, had it been heard from the start, is 7.
HEARD_FROM = {16: 60}
#: The last flights land so long before the end, so that their answers are seen.
_REST_S = 5.0


@dataclass(frozen=True)
class TurbofanFleet:
    """Births and frames of the fleet. start_ns: when the oldest engine takes off. engines: with the flights heard."""

    start_ns: int
    period_s: float
    engines: tuple[cmapss.Engine, ...]
    site: str = "demo"

    @classmethod
    def read(cls, seconds: float, start_ns: int) -> "TurbofanFleet":
        """Return the shipped engines, which fly for `seconds` less a rest."""
        heard = []
        for engine in cmapss.engines(_FOLDER, f"test_{SUBSET}.txt"):
            heard.append(cmapss.Engine(engine.unit, engine.rows[engine.flights >= HEARD_FROM.get(engine.unit, 1)]))
        longest = max(len(e.rows) for e in heard)
        return cls(start_ns, (seconds - _REST_S) / longest, tuple(heard))

    @property
    def frame_period_s(self) -> float:
        """Return the time from one flight to the next, which a frame holds one of."""
        return self.period_s

    @cached_property
    def flights(self) -> dict[str, tuple[int, ...]]:
        """Return the numbers of the flights of each asset, in the order of its frames."""
        return {cmapss.asset_of(SUBSET, e): tuple(e.flights.tolist()) for e in self.engines}

    @cached_property
    def births(self) -> tuple[AssetBirth, ...]:
        channels = tuple(Channel(name, quantity, unit, "f8") for name, quantity, unit in cmapss.COLUMNS)
        return tuple(
            AssetBirth.make(
                asset=asset, start_ns=self.start_ns, channels=channels, rate_hz=1 / self.period_s, samples_per_frame=1,
                asset_class=cmapss.ASSET_CLASS, site=self.site)
            for asset in self.flights)

    def rounds(self) -> Iterator[list[TelemetryFrame]]:
        """Yield, flight period by flight period, a frame of every engine that flies then."""
        longest = max(len(e.rows) for e in self.engines)
        for now in range(longest):
            t0_ns, found = self.start_ns + round(now * self.period_s * 1e9), []
            for birth, engine in zip(self.births, self.engines, strict=True):
                seq = now - longest + len(engine.rows)
                if seq >= 0:
                    data = engine.rows[seq, 1:].astype("<f8").tobytes()
                    found.append(TelemetryFrame(birth.asset, birth.birth_id, seq, t0_ns, data))
            yield found


def cycles_left() -> Mapping[str, float]:
    """Open the labels: what each engine had left after its last flight. For the verdict alone."""
    engines = cmapss.engines(_FOLDER, f"test_{SUBSET}.txt")
    left = cmapss.remaining(_FOLDER, SUBSET, len(engines))
    return {cmapss.asset_of(SUBSET, e): n for e, n in zip(engines, left, strict=True)}
