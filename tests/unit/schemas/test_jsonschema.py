"""JSON Schemas: committed ones are fresh, valid, and accept what we write and refuse what we would refuse."""

import jsonschema
import msgspec
import pytest

from schemas.jsonschema import EVENT, FOLDER, MESSAGES, files, schema
from schemas.topics import ALL
from tests.golden import MESSAGES as GOLDEN


def validator(topic):
    return jsonschema.Draft202012Validator(msgspec.json.decode((FOLDER / f"{topic}.json").read_bytes()))


def test_committed_schemas_are_those_that_the_types_give():
    on_disk = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert on_disk == files(), "stale: run `python -m schemas.jsonschema` and commit schemas/json"


def plain(message):
    """Return what a reader without our types holds: dictionaries, lists, and base64 text for bytes."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(msgspec.to_builtins(message)))


@pytest.mark.parametrize("topic", MESSAGES)
def test_schema_is_a_valid_draft_2020_12_schema_named_by_its_topic(topic):
    jsonschema.Draft202012Validator.check_schema(schema(topic))
    assert schema(topic)["$id"] == topic


@pytest.mark.parametrize("name", GOLDEN)
def test_schema_accepts_every_golden_message(name):
    message = GOLDEN[name]
    topic = next(topic for topic, kind in MESSAGES.items() if isinstance(message, kind))
    validator(topic).validate(plain(message))


@pytest.mark.parametrize("topic", MESSAGES)
def test_schema_allows_a_field_of_a_later_release(topic):
    message = next(m for m in GOLDEN.values() if isinstance(m, MESSAGES[topic]))
    validator(topic).validate(plain(message) | {"later": 1})


@pytest.mark.parametrize("topic", MESSAGES)
def test_schema_refuses_another_version_and_a_missing_field(topic):
    message = plain(next(m for m in GOLDEN.values() if isinstance(m, MESSAGES[topic])))
    assert not validator(topic).is_valid(message | {"v": 2})
    assert not validator(topic).is_valid({key: value for key, value in message.items() if key != "asset"
                                          and key != "reason"})


def test_every_message_topic_has_a_schema():
    described = set(MESSAGES) | {"kizashi.alert.state.v1"}  # the same alerts as kizashi.alert.v1
    assert described - {topic.name for topic in ALL} == {EVENT}
    assert {topic.name for topic in ALL} - described == {"kizashi.state.v1"}  # private: blocks and manifests
