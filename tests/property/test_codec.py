"""Codec: what we write we read, what any msgpack client writes we read, hostile bytes only ever end in a refusal."""

import math
import pickle
import random
import struct
import tracemalloc
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import (
    Alert,
    Assessment,
    AssetBirth,
    Calibration,
    CalibrationNotes,
    Channel,
    Component,
    Contribution,
    DeadLetter,
    MachineEvent,
    TelemetryFrame,
    Window,
)
from schemas.codec import (
    DECODE_ERRORS,
    decode_alert,
    decode_birth,
    decode_event,
    decode_frame,
    encode,
    encode_alert,
    fault,
    is_event,
)
from tests.golden import DECODERS, FOLDER, MESSAGES

MSGPACK = [kind for kind in DECODERS if kind is not Alert]

# Bytes a person's mistake or an attacker's hand would put there: type tags of every family, ends of ranges, JSON's.
SPICE = bytes.fromhex("00 7f 80 90 a0 c0 c1 c2 c4 c6 c7 c9 ca cb cf d3 d4 d8 d9 db dc dd de df e0 ff") + b'{}[]",:0e-'

text = st.text(max_size=20)
word = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
name = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,20}", fullmatch=True)
int63 = st.integers(0, 2**63 - 1)
int64 = st.integers(-2**63, 2**63 - 1)
real = st.floats(-1e300, 1e300)
birth_id = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)


def optional(values):
    return st.none() | values


@st.composite
def channels(draw):
    low, high = sorted(draw(st.lists(real, min_size=2, max_size=2, unique=True)))
    return Channel(draw(word), draw(text), draw(text), draw(st.sampled_from(["f4", "f8", "i2", "i4", "u1", "u2"])),
                   draw(real.filter(bool)), draw(real), draw(optional(st.just(low))), draw(optional(st.just(high))))


def rows(element, n=3):
    return st.lists(element, min_size=n, max_size=n).map(tuple)


STRATEGIES: dict[type, Any] = {
    TelemetryFrame: st.builds(
        TelemetryFrame, name, birth_id, int63, int63, st.binary(max_size=200), st.booleans(),
        st.sampled_from(["good", "uncertain", "bad"]), optional(st.floats(0, 1e6))),
    MachineEvent: st.builds(
        MachineEvent, name, st.sampled_from(["part_replaced", "recalibrate"]), int63, text, text),
    AssetBirth: st.builds(
        AssetBirth, name, birth_id, int63,
        st.lists(channels(), min_size=1, max_size=4, unique_by=lambda channel: channel.name).map(tuple),
        st.floats(1e-9, 1e7), st.integers(1, 1000), name, name, st.sampled_from("ABC"),
        st.lists(st.builds(Component, word, text, st.dictionaries(text, real, max_size=3)), max_size=3).map(tuple),
        optional(st.floats(0, 1e6))),
    Alert: st.builds(
        Alert, alert_id=st.from_regex(r"[0-9a-f]{24}", fullmatch=True), revision=st.integers(0, 2**31), why=text,
        site=name, asset=name, asset_class=name, rule=word, birth_id=birth_id, seq=int63, model=text,
        t_first=int63, t_last=int63, t_raised=int63, t_cleared=optional(int63), annunciate_why_not=optional(text),
        score=real, threshold=real, window=optional(st.builds(Window, int63, int63, st.integers(0, 10**9))),
        contributions=st.lists(
            st.builds(Contribution, word, st.floats(0, 1), st.sampled_from(["up", "down", "flat"]))).map(tuple)),
    Assessment: st.builds(
        Assessment, name, birth_id, text, rows(int63), rows(int63), rows(st.floats(allow_nan=False)), rows(real),
        rows(st.integers(0, 2)), st.booleans()),
    Calibration: st.builds(
        Calibration, name, birth_id, text, int63, int63, st.integers(0, 10**9), rows(word), rows(st.integers(0, 1)),
        rows(real), rows(real), rows(real, 9), real, st.sampled_from(["good", "suspect"]),
        notes=optional(st.builds(CalibrationNotes, text, rows(word), rows(real), rows(real), rows(real)))),
    DeadLetter: st.builds(
        DeadLetter, word, text, st.sampled_from(["acquire", "window", "condition", "infer"]), text,
        st.integers(0, 2**31 - 1), int63, int64, st.integers(0, 2**31 - 1),
        st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        optional(name), optional(st.binary(max_size=40)), optional(st.binary(max_size=200)), st.booleans()),
}
anything = st.one_of(*STRATEGIES.values())


def wire_of(message) -> bytes:
    return encode_alert(message) if isinstance(message, Alert) else encode(message)


def plain(message) -> Any:
    return msgspec.to_builtins(message, builtin_types=(bytes,))


@given(anything)
def test_every_message_survives_the_wire_unchanged(message):
    decode = DECODERS[type(message)]
    wire = wire_of(decode(wire_of(message)))  # the encoder leaves out defaults by identity: once through the decoder
    assert decode(wire) == message
    assert wire_of(decode(wire)) == wire


@given(STRATEGIES[MachineEvent], STRATEGIES[TelemetryFrame])
def test_a_machine_event_and_a_frame_are_never_taken_for_each_other(event, frame):
    assert is_event(encode(event)) and not is_event(encode(frame))
    for decode, message in ((decode_frame, event), (decode_event, frame)):
        with pytest.raises(DECODE_ERRORS):
            decode(encode(message))


@given(STRATEGIES[AssetBirth])
def test_birth_id_is_the_same_on_both_sides_of_the_wire(birth):
    assert decode_birth(encode(birth)).digest() == birth.digest()


@given(anything)
def test_any_msgpack_client_reads_what_we_write_and_we_read_what_it_writes(message):
    if isinstance(message, Alert):
        return
    theirs = msgpack.unpackb(encode(message), strict_map_key=True)
    assert theirs == msgpack.unpackb(msgpack.packb(plain(message)))
    assert DECODERS[type(message)](msgpack.packb(theirs)) == message
    assert DECODERS[type(message)](msgpack.packb(dict(reversed(theirs.items())))) == message


@given(STRATEGIES[TelemetryFrame])
def test_streaming_unpacker_reads_concatenated_frames_as_a_capture_file_holds_them(frame):
    unpacker = msgpack.Unpacker()
    unpacker.feed(encode(frame) * 3)
    assert list(unpacker) == [plain(frame)] * 3


@given(anything, st.dictionaries(st.text(min_size=1, max_size=8).map(lambda key: "x_" + key),
                                 st.recursive(st.none() | st.integers(-2**63, 2**64 - 1) | st.floats() | text,
                                              lambda inner: st.lists(inner, max_size=3), max_leaves=8), max_size=3))
def test_unknown_fields_are_ignored(message, extra):
    if isinstance(message, Alert):
        assert decode_alert(msgspec.json.encode(extra | plain(message))) == message
    else:
        assert DECODERS[type(message)](msgpack.packb(extra | plain(message))) == message


@given(anything, (st.integers() | text | st.none() | st.floats()).filter(lambda v: v != 1))
def test_another_version_is_refused_and_told_apart_from_a_wrong_type(message, version):
    if isinstance(version, int) and not -2**63 <= version < 2**64:
        return
    content = plain(message) | {"v": version}
    if isinstance(message, Alert):
        with pytest.raises(DECODE_ERRORS):
            decode_alert(msgspec.json.encode(content))
        return
    with pytest.raises(DECODE_ERRORS):
        DECODERS[type(message)](msgpack.packb(content))
    assert fault(msgpack.packb(content)) == "unknown_schema"
    assert fault(msgpack.packb(content | {"v": 1, "asset": 5})) == "wrong_type"
    # A later version may change other fields as well: it is still the version that is named.
    assert fault(msgpack.packb({"v": 2, "asset": [1], "data": {"a": 1}})) == "unknown_schema"


def refusal(decode, wire):
    """Return the decoded message or the error; anything but a declared error fails the test."""
    try:
        return decode(wire)
    except DECODE_ERRORS as error:
        return error


def mutate(rng: random.Random, wire: bytes) -> bytes:
    """Change `wire` as a broken gateway or an attacker would: flip, spice, cut, double, splice, insert."""
    out = bytearray(wire)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.choice(SPICE)
            case 2:
                out[at:at] = bytes(rng.choice(SPICE) for _ in range(rng.randrange(1, 9)))
            case 3:
                del out[at:at + rng.randrange(1, 9)]
            case 4:
                out[at:at] = out[max(0, at - rng.randrange(1, 40)):at]
            case _:
                out[at:] = out[at:at + rng.randrange(1 + len(out) - at)]
    return bytes(out)


@pytest.mark.parametrize("golden", MESSAGES)
def test_two_thousand_mutations_of_a_message_decode_or_are_refused(golden):
    rng = random.Random(golden)
    decode = DECODERS[type(MESSAGES[golden])]
    wire = (FOLDER / golden).read_bytes()
    refused = decoded = 0
    for _ in range(2_000):
        result = refusal(decode, mutate(rng, wire))
        if isinstance(result, Exception):
            refused += 1
        else:
            decoded += 1
            again = refusal(decode, wire_of(result))
            # NaN is unequal to itself on msgpack and becomes null in JSON, which is refused.
            assert again == result or "nan" in repr(result) or isinstance(result, Alert)
    assert refused > 500 and refused + decoded == 2_000


@pytest.mark.parametrize("kind", MSGPACK)
def test_fault_names_a_reason_for_whatever_a_decoder_refuses(kind):
    rng = random.Random(7)
    wires = [(FOLDER / golden).read_bytes() for golden, message in MESSAGES.items() if isinstance(message, kind)]
    for _ in range(1_000):
        wire = mutate(rng, rng.choice(wires))
        if isinstance(refusal(DECODERS[kind], wire), Exception):
            assert fault(wire) in {"empty", "undecodable", "unknown_schema", "wrong_type"}


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_random_bytes_decode_or_are_refused(wire):
    for decode in DECODERS.values():
        refusal(decode, wire)
    assert fault(wire) in {"empty", "undecodable", "unknown_schema", "wrong_type"}


DEPTH = 100_000
BOMBS = {
    "arrays": b"\x91" * DEPTH,
    "arrays inside an unknown field": b"\x82\xa1x" + b"\x91" * DEPTH + b"\xc0\xa1y\xc0",
    "maps inside an unknown field": b"\x81\xa1x" + b"\x81\xa1x" * DEPTH + b"\xc0",
    "arrays inside data": b"\x81\xa4data" + b"\x91" * DEPTH + b"\xc0",
    "array of four billion": b"\xdd\xff\xff\xff\xff",
    "map of four billion": b"\xdf\xff\xff\xff\xff\xa1a",
    "four billion bytes of data": b"\x81\xa4data\xc6\xff\xff\xff\xff",
    "string of four billion": b"\x81\xa5asset\xdb\xff\xff\xff\xffp",
    "extension of four billion": b"\x81\xa4data\xc9\xff\xff\xff\xff\x01",
    "channels of four billion": b"\x81\xa8channels\xdd\xff\xff\xff\xff",
    "scores of four billion": b"\x81\xa5score\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("kind", MSGPACK)
def test_bomb_is_refused_without_memory_when(kind, bomb):
    tracemalloc.start()
    try:
        with pytest.raises(DECODE_ERRORS):
            DECODERS[kind](BOMBS[bomb])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fault(BOMBS[bomb]) == "undecodable"
    assert peak < 4 << 20, f"{peak} bytes"


def test_deep_json_is_refused_as_an_alert():
    for wire in (b"[" * DEPTH, b'{"later":' + b"[" * DEPTH + b"]" * DEPTH + b"}", b'{"later":' * DEPTH):
        with pytest.raises(DECODE_ERRORS):
            decode_alert(wire)


class Tripwire:
    """Counts its unpicklings: the codec must never run one."""

    sprung = 0

    def __reduce__(self):
        return (Tripwire.spring, ())

    @staticmethod
    def spring():
        Tripwire.sprung += 1
        return Tripwire()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_payload_is_refused_and_never_run(protocol):
    for payload in (pickle.dumps(Tripwire(), protocol), pickle.dumps(plain(MESSAGES["frame-full.v1.bin"]), protocol)):
        for decode in DECODERS.values():
            with pytest.raises(DECODE_ERRORS):
                decode(payload)
        assert fault(payload) == "undecodable" or protocol == 0
    assert Tripwire.sprung == 0


@pytest.mark.parametrize("field", ["data", "asset"])
def test_msgpack_timestamp_or_extension_in_place_of_a_value_is_a_wrong_type(field):
    content = plain(MESSAGES["frame-full.v1.bin"]) | {field: msgpack.Timestamp(1, 1)}
    with pytest.raises(DECODE_ERRORS):
        decode_frame(msgpack.packb(content))
    assert fault(msgpack.packb(content)) == "wrong_type"


@pytest.mark.parametrize(("field", "value"), [
    ("seq", -1), ("seq", 2**63), ("seq", 2**64 - 1), ("seq", 1.0), ("seq", True), ("seq", "1"), ("seq", None),
    ("t0_ns", -1), ("t0_ns", 2**63), ("t0_ns", math.nan), ("data", "text"), ("data", [1, 2]), ("data", None),
    ("asset", b"pump"), ("asset", ""), ("asset", "p" * 129), ("asset", None), ("birth_id", 7), ("birth_id", "b" * 17),
    ("historical", 1), ("historical", "false"), ("quality", "excellent"), ("quality", 192),
])
def test_frame_with_a_wrong_field_is_refused_and_the_field_is_named(field, value):
    content = plain(MESSAGES["frame-full.v1.bin"]) | {field: value}
    with pytest.raises(msgspec.ValidationError, match=rf"`\$\.{field}`"):
        decode_frame(msgpack.packb(content))
    assert fault(msgpack.packb(content)) == "wrong_type"


@pytest.mark.parametrize("missing", ["asset", "birth_id", "seq", "t0_ns", "data"])
def test_frame_without_a_field_is_refused_and_the_field_is_named(missing):
    content = {key: value for key, value in plain(MESSAGES["frame-full.v1.bin"]).items() if key != missing}
    with pytest.raises(msgspec.ValidationError, match=f"missing required field `{missing}`"):
        decode_frame(msgpack.packb(content))


@pytest.mark.parametrize("raw", [math.nan, math.inf, -math.inf])
def test_birth_with_a_number_that_is_not_finite_is_refused(raw):
    good = plain(MESSAGES["birth-full.v1.bin"])
    for change in ({"rate_hz": raw}, {"channels": [good["channels"][0] | {"scale": raw}]},
                   {"components": [{"name": "b", "kind": "b", "orders": {"bpfo": raw}}]}):
        with pytest.raises(msgspec.ValidationError):
            decode_birth(msgpack.packb(good | change))


def test_alert_never_says_that_a_score_that_is_no_number_is_one():
    # JSON has no NaN: the encoder writes null, and a reader refuses it instead of taking it for zero.
    alert = msgspec.structs.replace(MESSAGES["alert-minimal.v1.json"], score=math.nan)
    with pytest.raises(msgspec.ValidationError, match=r"\$\.score"):
        decode_alert(encode_alert(alert))


def test_frame_keys_may_come_in_any_order_and_any_integer_width():
    wide = b"\xd3" + struct.pack(">q", 7)  # int64 where one byte would do, as Java clients write it
    content = plain(MESSAGES["frame-minimal.v1.bin"])
    wire = b"\x85" + b"".join(
        msgpack.packb(key) + (wide if key == "seq" else msgpack.packb(content[key]))
        for key in ("data", "t0_ns", "seq", "birth_id", "asset"))
    assert decode_frame(wire).seq == 7


def test_trailing_bytes_after_a_frame_are_refused():
    wire = encode(MESSAGES["frame-minimal.v1.bin"])
    with pytest.raises(DECODE_ERRORS):
        decode_frame(wire + b"\x00")
    assert fault(wire + b"\x00") == "undecodable"


def test_duplicated_keys_do_not_crash_and_the_last_one_counts():
    pairs = [*plain(MESSAGES["frame-minimal.v1.bin"]).items(), ("seq", 5)]
    wire = b"\x86" + b"".join(msgpack.packb(key) + msgpack.packb(value) for key, value in pairs)
    assert decode_frame(wire).seq == 5
