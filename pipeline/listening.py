"""Listening: which channel of an asset hears which bearing, and how fast its shaft turns, by the asset's birth. Pure.

One bearing is judged per asset. What the birth leaves open is never guessed in silence: the row is computed all the
same (its probabilities are a best guess) and its answer is "unknown", with one of REASONS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil, nan, pi
from types import MappingProxyType
from typing import Final

from engines.kindspec import OrderSpec
from engines.orders import FAST_HZ, KNOWN, SLOW_HZ, Orders
from pipeline.resample import ratio
from schemas import AssetBirth, Channel, Component

REASONS: Final = (
    "no one channel listens: name one of quantity acceleration in components[].channel",
    "several bearings: name the channel of one, and send the others as assets of their own",
    "no geometry: components[] has no bearing with its orders or a known designation",
    "the bearing's orders are of no possible bearing",
    "no speed: rpm is neither one channel, nor in every frame, nor nominal in the birth",
    "the shaft does not turn",
    f"the shaft turns too slowly: the outer race's line is below {SLOW_HZ:g} Hz",
    f"the shaft turns too fast: twice the inner race's line is above {FAST_HZ:g} Hz",
    "the speed changes within the window",
    "the signal is dead",
    "the signal is clipped, or has too few levels",
    "samples are missing within the window",
)
(NO_CHANNEL, SEVERAL, NO_GEOMETRY, IMPOSSIBLE, NO_SPEED, STILL, SLOW, FAST, CHANGES, DEAD, CLIPPED,
 MISSING) = range(1, len(REASONS) + 1)  # fmt: skip

#: What an rpm is in each unit that a speed may have. UCUM has no unit for turns: they are annotated ("{rpm}", "/min"),
#: or written as plants do.
_PER_MINUTE: Mapping[str, float] = MappingProxyType({
    "{rpm}": 1.0, "rpm": 1.0, "/min": 1.0, "1/min": 1.0, "min-1": 1.0, "{rev}/min": 1.0, "{r}/min": 1.0,
    "/s": 60.0, "1/s": 60.0, "s-1": 60.0, "{rev}/s": 60.0, "{r}/s": 60.0, "Hz": 60.0, "rad/s": 30.0 / pi,
    "deg/s": 1.0 / 6.0,
})  # fmt: skip
_ONLY_SPEED = ("{rpm}", "rpm")  # whatever the quantity is called
_SPEED_WORDS = ("rotation", "speed", "rpm")


@dataclass(frozen=True, slots=True)
class Listening:
    """How an asset's frames become rows.

    channel: index of the one that is listened to, -1: none. speed: index of the channel of speed, -1: none, and its
    factor to rpm. nominal: rpm, NaN: none. up, down: from the asset's rate to the model's. size, hop: samples at the
    asset's rate. stretch: by what the lines must be multiplied because up / down is not exact. low, high: measuring
    range. reason: number of the one that the birth alone gives, 0: none. component: name of the bearing, "": none.
    """

    channel: int
    speed: int
    factor: float
    nominal: float
    orders: Orders | None
    up: int
    down: int
    size: int
    hop: int
    stretch: float
    low: float | None
    high: float | None
    reason: int
    component: str


@lru_cache(maxsize=256)
def _share(rate_hz: float, wanted_hz: float) -> Fraction:
    return ratio(rate_hz, wanted_hz)


def listen(birth: AssetBirth, channels: Sequence[Channel], spec: OrderSpec) -> Listening:
    """Read a birth. channels: of the asset, as the model gets them. Raises ValueError for a rate below the model's."""
    share = _share(birth.rate_hz, spec.rate_hz)
    bearing, which = _bearing(birth.components)
    heard, unheard = _channel(channels, bearing)
    orders, what = _orders(bearing)
    speed = [(i, factor) for i, c in enumerate(channels) if (factor := _to_rpm(c))]
    one = speed[0] if len(speed) == 1 else (-1, 1.0)
    nominal = nan if birth.nominal_rpm is None else birth.nominal_rpm
    return Listening(
        heard, *one, nominal, orders, share.numerator, share.denominator, ceil(spec.size / share),
        round(spec.hop / share), float(spec.rate_hz / (birth.rate_hz * share)),
        channels[heard].low if heard >= 0 else None, channels[heard].high if heard >= 0 else None,
        unheard or which or what, bearing.name if bearing else "",
    )  # fmt: skip


def is_bearing(part: Component) -> bool:
    """Say whether a component is a rolling bearing: by its kind, or because it has a bearing's orders."""
    return "bearing" in part.kind.lower() or {"bpfo", "bpfi"} <= {name.lower() for name in part.orders}


def orders_of(part: Component) -> Orders | None:
    """Return a bearing's orders: given, or of a known designation in its kind; None if neither is there."""
    given = {name.lower(): value for name, value in part.orders.items()}
    if {"bpfo", "bpfi", "bsf"} <= given.keys():
        # The cage's follows from the races': all three are multiples of the number of elements.
        total = given["bpfo"] + given["bpfi"]
        ftf = given.get("ftf", given["bpfo"] / total if total else 0.0)
        return Orders(given["bpfo"], given["bpfi"], given["bsf"], ftf)
    return next((orders for name, orders in KNOWN.items() if name.lower() in part.kind.lower()), None)


def _bearing(components: Sequence[Component]) -> tuple[Component | None, int]:
    """Return the bearing to judge: the only one, or the only one that a channel is named for."""
    bearings = [part for part in components if is_bearing(part)]
    heard = [part for part in bearings if part.channel is not None]
    picked = bearings if len(bearings) == 1 else heard
    if len(picked) == 1:
        return picked[0], 0
    return (bearings[0], SEVERAL) if bearings else (None, NO_GEOMETRY)


def _channel(channels: Sequence[Channel], bearing: Component | None) -> tuple[int, int]:
    named = [i for i, c in enumerate(channels) if bearing is not None and c.name == bearing.channel]
    if named:
        return named[0], 0
    found = [i for i, c in enumerate(channels) if "acceleration" in c.quantity.lower()]
    return found[0] if found else -1, 0 if len(found) == 1 else NO_CHANNEL


def _orders(bearing: Component | None) -> tuple[Orders | None, int]:
    orders = orders_of(bearing) if bearing is not None else None
    if orders is None:
        return None, NO_GEOMETRY
    return (None, IMPOSSIBLE) if orders.faults() else (orders, 0)


def _to_rpm(channel: Channel) -> float:
    """Return by what a channel's samples must be multiplied to be rpm, 0: it is no speed of a shaft."""
    unit, quantity = channel.unit.strip(), channel.quantity.lower()
    if unit in _ONLY_SPEED or any(word in quantity for word in _SPEED_WORDS):
        return _PER_MINUTE.get(unit, 0.0)
    return 0.0
