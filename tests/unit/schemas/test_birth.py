"""Births: identity by content, and refusal of what no frame could satisfy."""

import hashlib
import math

import msgspec
import pytest

from schemas import AssetBirth, Channel
from schemas.codec import decode_birth, encode

CHANNEL = {"name": "pressure", "quantity": "pressure", "unit": "bar"}
CONTENT = {
    "asset": "line-1/pump-07", "start_ns": 1, "channels": [CHANNEL], "rate_hz": 1.0, "samples_per_frame": 10,
    "asset_class": "pump", "site": "kyoto",
}


def test_birth_id_is_the_same_for_the_same_content():
    assert AssetBirth.make(**CONTENT) == AssetBirth.make(**dict(reversed(CONTENT.items())))


@pytest.mark.parametrize("change", [
    {"start_ns": 2}, {"rate_hz": 2.0}, {"samples_per_frame": 11}, {"criticality": "A"}, {"site": "osaka"},
    {"channels": [CHANNEL | {"unit": "kPa"}]}, {"channels": [CHANNEL | {"scale": 2.0}]},
    {"channels": [CHANNEL, CHANNEL | {"name": "flow"}]}, {"components": [{"name": "seal", "kind": "seal"}]},
])
def test_birth_id_differs_when_any_content_differs(change):
    assert AssetBirth.make(**CONTENT).birth_id != AssetBirth.make(**CONTENT | change).birth_id


def test_birth_id_depends_on_the_order_of_channels():
    two = [CHANNEL, CHANNEL | {"name": "flow"}]
    assert (AssetBirth.make(**CONTENT | {"channels": two}).birth_id
            != AssetBirth.make(**CONTENT | {"channels": two[::-1]}).birth_id)


@pytest.mark.parametrize("explicit", [
    {"criticality": "B", "components": []},
    {"channels": [CHANNEL | {"dtype": "f4", "scale": float("1.0"), "offset": float("0.0"), "low": None}]},
])
def test_birth_id_ignores_a_value_that_equals_the_default(explicit):
    assert AssetBirth.make(**CONTENT) == AssetBirth.make(**CONTENT | explicit)


def test_birth_id_can_be_computed_without_our_code():
    canonical = ('{"asset":"line-1/pump-07","asset_class":"pump","channels":[{"name":"pressure","quantity":"pressure",'
                 '"unit":"bar"}],"rate_hz":1.0,"samples_per_frame":10,"site":"kyoto","start_ns":1}')
    assert AssetBirth.make(**CONTENT).birth_id == hashlib.sha256(canonical.encode()).hexdigest()[:16]


def test_key_and_frame_length_follow_from_the_content():
    dtypes = ("f4", "f8", "i2", "i4", "u1", "u2")
    channels = [CHANNEL | {"name": f"of_{dtype}", "dtype": dtype} for dtype in dtypes]
    birth = AssetBirth.make(**CONTENT | {"channels": channels})
    assert birth.key == f"line-1/pump-07|{birth.birth_id}".encode()
    assert birth.frame_bytes == 10 * (4 + 8 + 2 + 4 + 1 + 2)


@pytest.mark.parametrize(("change", "where"), [
    ({"asset": "pump|07"}, "$.asset"),
    ({"asset": "pump-07\n"}, "$.asset"),
    ({"asset": ""}, "$.asset"),
    ({"asset": "p" * 129}, "$.asset"),
    ({"rate_hz": math.nan}, "$.rate_hz"),
    ({"rate_hz": 0.0}, "$.rate_hz"),
    ({"samples_per_frame": 0}, "$.samples_per_frame"),
    ({"samples_per_frame": 65_537}, "$.samples_per_frame"),
    ({"start_ns": -1}, "$.start_ns"),
    ({"channels": []}, "$.channels"),
    ({"channels": [CHANNEL | {"name": f"c{i}"} for i in range(33)]}, "$.channels"),
    ({"channels": [CHANNEL, CHANNEL]}, "given twice: pressure"),
    ({"channels": [CHANNEL | {"scale": 0.0}]}, "$.channels[0]"),
    ({"channels": [CHANNEL | {"scale": math.nan}]}, "$.channels[0].scale"),
    ({"channels": [CHANNEL | {"offset": math.inf}]}, "$.channels[0].offset"),
    ({"channels": [CHANNEL | {"low": 5.0, "high": 5.0}]}, "low < high"),
    ({"channels": [CHANNEL | {"dtype": "O"}]}, "$.channels[0].dtype"),
    ({"channels": [CHANNEL | {"dtype": "f8"}], "samples_per_frame": 65_536, "rate_hz": 1e7, "criticality": "D"},
     "$.criticality"),
    ({"channels": [CHANNEL | {"name": f"c{i}", "dtype": "f8"} for i in range(3)], "samples_per_frame": 65_536},
     "limit 1048576"),
])
def test_birth_is_refused_with_the_place_named_when(change, where):
    with pytest.raises(msgspec.ValidationError) as refusal:
        AssetBirth.make(**CONTENT | change)
    assert where in str(refusal.value)


def test_refused_birth_is_refused_on_the_wire_as_well():
    wire = msgspec.msgpack.encode(CONTENT | {"birth_id": "0" * 16, "channels": [CHANNEL, CHANNEL]})
    with pytest.raises(msgspec.ValidationError, match="given twice"):
        decode_birth(wire)


def test_birth_survives_the_wire_with_its_id():
    birth = AssetBirth.make(**CONTENT)
    assert decode_birth(encode(birth)).digest() == birth.birth_id


def test_make_checks_channels_that_come_ready_made():
    with pytest.raises(msgspec.ValidationError, match="name"):
        AssetBirth.make(asset="a", start_ns=1, channels=(Channel("no spaces", "q", "u"),), rate_hz=1.0,
                        samples_per_frame=1, asset_class="c", site="s")


def test_a_component_listens_by_a_channel_that_is_there():
    part = {"name": "bearing", "kind": "bearing 6205-2RS", "channel": "pressure"}
    assert AssetBirth.make(**CONTENT | {"components": [part]}).components[0].channel == "pressure"
    with pytest.raises(msgspec.ValidationError, match="component bearing: channel flow is none of pressure"):
        AssetBirth.make(**CONTENT | {"components": [part | {"channel": "flow"}]})


@pytest.mark.parametrize("rpm", [-1.0, math.nan, math.inf, 2e6])
def test_a_speed_that_no_shaft_has_is_refused(rpm):
    with pytest.raises(msgspec.ValidationError):
        AssetBirth.make(**CONTENT | {"nominal_rpm": rpm})
