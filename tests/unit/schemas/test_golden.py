"""Golden bytes: old writers stay readable, and today's bytes are the golden ones or still mean the same."""

import msgspec
import pytest

from schemas import Alert, AssetBirth, TelemetryFrame
from schemas.codec import decode_frame
from schemas.jsonschema import MESSAGES as TOPIC_MESSAGES
from tests.golden import DECODERS, FOLDER, MESSAGES, today


def decoder(name):
    return DECODERS[type(MESSAGES[name])]


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_file_decodes_to_the_message_it_was_written_from(name):
    assert decoder(name)((FOLDER / name).read_bytes()) == MESSAGES[name]


@pytest.mark.parametrize("name", MESSAGES)
def test_encoder_of_today_writes_the_golden_bytes(name):
    # A field added later is left out while it has its default, so these bytes change only by mistake.
    assert today(MESSAGES[name]) == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_message_ignores_a_field_of_a_later_release(name):
    message = MESSAGES[name]
    raw = msgspec.to_builtins(message, builtin_types=(bytes,)) | {"later": {"deep": [1, 2.5, None, "x"]}}
    wire = msgspec.json.encode(raw) if isinstance(message, Alert) else msgspec.msgpack.encode(raw)
    assert decoder(name)(wire) == message


def test_every_message_has_a_minimal_and_a_full_golden_file():
    kinds = {type(message) for message in MESSAGES.values()}
    assert kinds == set(TOPIC_MESSAGES.values())
    for kind in {name.partition("-")[0] for name in MESSAGES}:
        assert f"{kind}-minimal.v1" in {name.rsplit(".", 1)[0] for name in MESSAGES}
        assert f"{kind}-full.v1" in {name.rsplit(".", 1)[0] for name in MESSAGES}


def test_every_field_is_filled_in_some_golden_message():
    # A field that is added later is filled in a file of its own: golden bytes are never written again.
    for kind in set(map(type, MESSAGES.values())):
        mine = [message for message in MESSAGES.values() if type(message) is kind]
        for field in msgspec.structs.fields(kind):
            if field.name != "v" and field.default is not msgspec.NODEFAULT:
                assert any(getattr(message, field.name) != field.default for message in mine), f"{kind}: {field.name}"


def test_every_golden_file_on_disk_is_expected():
    assert {path.name for path in FOLDER.iterdir() if path.suffix in {".bin", ".json"}} == set(MESSAGES)


@pytest.mark.parametrize("name", [name for name in MESSAGES if name.startswith("birth")])
def test_birth_id_of_a_golden_birth_is_the_hash_of_its_content(name):
    birth = MESSAGES[name]
    assert isinstance(birth, AssetBirth)
    assert birth.digest() == birth.birth_id


def test_golden_frame_is_a_map_that_any_msgpack_client_can_write():
    # Spelled out by hand from the msgpack specification: fixmap of five, str8 never used below 32 bytes, bin8.
    wire = (b"\x85\xa5asset\xa1p\xa8birth_id\xa1b\xa3seq\x07\xa5t0_ns\xcf" + (10**18).to_bytes(8, "big")
            + b"\xa4data\xc4\x02\x01\x02")
    assert decode_frame(wire) == TelemetryFrame("p", "b", 7, 10**18, b"\x01\x02")
