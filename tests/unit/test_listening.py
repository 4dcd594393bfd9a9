"""Which channel hears which bearing and how fast the shaft turns; what a birth leaves open is never guessed."""

from math import isnan, pi

import pytest

from engines.kindspec import OrderSpec
from engines.orders import KNOWN
from pipeline.listening import (
    IMPOSSIBLE,
    NO_CHANNEL,
    NO_GEOMETRY,
    SEVERAL,
    Listening,
    listen,
)
from schemas import AssetBirth

SPEC = OrderSpec(12_000.0, 12_000, 6_000)
ORDERS = {"bpfo": 3.585, "bpfi": 5.415, "bsf": 2.357, "ftf": 0.398}
ACC = {"name": "acc", "quantity": "acceleration", "unit": "m/s2"}
BEARING = {"name": "de", "kind": "bearing", "orders": ORDERS}


def ear(channels: tuple = (ACC,), components: tuple = (BEARING,), rate: float = 12_000.0,
        **content: object) -> Listening:
    birth = AssetBirth.make(**{
        "asset": "m", "start_ns": 1, "channels": channels, "rate_hz": rate, "samples_per_frame": 100,
        "asset_class": "motor", "site": "s", "components": components, **content})
    return listen(birth, birth.channels, SPEC)


def test_the_only_bearing_is_heard_by_the_only_acceleration() -> None:
    found = ear(({"name": "t", "quantity": "temperature", "unit": "Cel"}, ACC | {"low": -50.0, "high": 50.0}))
    assert (found.channel, found.reason, found.component, found.low, found.high) == (1, 0, "de", -50.0, 50.0)
    assert found.orders is not None and found.orders.bpfo == 3.585
    assert (found.size, found.hop, found.up, found.down, found.stretch) == (12_000, 6_000, 1, 1, 1.0)
    assert isnan(found.nominal) and ear(nominal_rpm=1797.0).nominal == 1797.0


@pytest.mark.parametrize(("rate", "size", "hop"), [(48_000, 48_000, 24_000), (25_600, 25_600, 12_800),
                                                   (51_200, 51_200, 25_600), (44_100, 44_100, 22_050)])
def test_a_window_is_a_second_at_any_rate(rate: float, size: int, hop: int) -> None:
    found = ear(rate=rate)
    assert (found.size, found.hop, found.stretch) == (size, hop, pytest.approx(1.0, abs=1e-12))


def test_a_rate_that_is_no_fraction_is_made_good_in_the_lines() -> None:
    found = ear(rate=24_007.3)
    assert found.stretch == pytest.approx(1.0, abs=4e-3) and found.stretch != 1.0
    assert found.stretch * 24_007.3 * found.up / found.down == pytest.approx(12_000)


def test_designations_are_known_and_given_orders_go_before() -> None:
    assert ear(components=({"name": "de", "kind": "bearing SKF 6205-2RS"},)).orders == KNOWN["6205-2RS"]
    assert ear(components=({"name": "fe", "kind": "Bearing 6203-2rs"},)).orders == KNOWN["6203-2RS"]
    assert ear(components=(BEARING | {"kind": "bearing 6203-2RS"},)).orders.bpfo == 3.585  # type: ignore[union-attr]


def test_the_cage_follows_from_the_races() -> None:
    some = {name.upper(): ORDERS[name] for name in ("bpfo", "bpfi", "bsf")}
    found = ear(components=({"name": "x", "kind": "roller", "orders": some},))
    assert found.reason == 0 and found.orders is not None and found.orders.ftf == pytest.approx(0.398, abs=1e-3)


@pytest.mark.parametrize(("components", "reason"), [
    ((), NO_GEOMETRY),
    (({"name": "seal", "kind": "seal"},), NO_GEOMETRY),
    (({"name": "b", "kind": "bearing 6301"},), NO_GEOMETRY),
    ((BEARING | {"orders": {"bpfo": 3.6}},), NO_GEOMETRY),
    ((BEARING | {"orders": {**ORDERS, "bpfo": 5.4, "bpfi": 3.6}},), IMPOSSIBLE),
    ((BEARING | {"orders": dict.fromkeys(ORDERS, 0.0)},), IMPOSSIBLE),
    ((BEARING, BEARING | {"name": "nde"}), SEVERAL),
    ((BEARING | {"channel": "acc"}, BEARING | {"name": "nde", "channel": "acc"}), SEVERAL),
])
def test_geometry_that_is_missing_or_impossible_has_its_reason(components: tuple, reason: int) -> None:
    assert ear(components=components).reason == reason


def test_of_several_bearings_the_one_with_a_channel_is_judged() -> None:
    found = ear((ACC, ACC | {"name": "acc2"}), (BEARING, BEARING | {"name": "nde", "channel": "acc2"}))
    assert (found.channel, found.component, found.reason) == (1, "nde", 0)


@pytest.mark.parametrize(("channels", "channel"), [
    ((ACC, ACC | {"name": "acc2"}), 0),  # two positions, and nobody said which: a best guess, marked as such
    ((ACC | {"quantity": "velocity"},), -1),
])
def test_a_channel_is_not_chosen_in_silence(channels: tuple, channel: int) -> None:
    found = ear(channels)
    assert (found.channel, found.reason) == (channel, NO_CHANNEL)


@pytest.mark.parametrize(("quantity", "unit", "factor"), [
    ("rotational speed", "{rpm}", 1.0), ("anything", "{rpm}", 1.0), ("rotational speed", "1/min", 1.0),
    ("speed", "/min", 1.0), ("rotational frequency", "Hz", 60.0), ("Rotation speed", "rad/s", 30 / pi),
])
def test_a_channel_of_speed_is_known_by_quantity_and_unit(quantity: str, unit: str, factor: float) -> None:
    found = ear((ACC, {"name": "n", "quantity": quantity, "unit": unit}))
    assert (found.speed, found.factor) == (1, pytest.approx(factor))


@pytest.mark.parametrize(("quantity", "unit"), [("speed", "m/s"), ("frequency", "Hz"), ("flow", "1/min")])
def test_other_channels_are_no_speed(quantity: str, unit: str) -> None:
    assert ear((ACC, {"name": "n", "quantity": quantity, "unit": unit})).speed == -1


def test_of_two_channels_of_speed_none_is_taken() -> None:
    turns = [{"name": n, "quantity": "rotational speed", "unit": "{rpm}"} for n in ("motor", "gear")]
    assert ear((ACC, *turns)).speed == -1
