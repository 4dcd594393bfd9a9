"""Alerts, dead letters and topics: identity, keys and the tables that documents and tools read."""

import re

import msgspec

from schemas import Alert, DeadLetter, alert_id
from schemas.codec import encode, encode_alert
from schemas.topics import ALL, REASONS
from tests.golden import MESSAGES


def test_alert_id_is_a_function_of_the_episode_alone():
    # Written down, because an id that changes with a release would raise every open alert a second time.
    assert alert_id("kyoto", "pump-07", "mewma", "0f1e2d3c4b5a6978", 41) == "99ed88e0ac3a63c2444b1f7e"


def test_alert_id_differs_when_any_part_differs():
    parts = ("kyoto", "pump-07", "mewma", "0f1e2d3c4b5a6978", 41)
    changed = [("osaka", *parts[1:]), ("kyoto", "pump-08", *parts[2:]), (*parts[:2], "silent", *parts[3:]),
               (*parts[:3], "ffffffffffffffff", 41), (*parts[:4], 42)]
    assert len({alert_id(*p) for p in [parts, *changed]}) == 6


def test_alert_id_does_not_confuse_where_one_part_ends_and_the_next_begins():
    assert alert_id("ab", "c", "r", "b", 1) != alert_id("a", "bc", "r", "b", 1)


def test_alert_state_key_keeps_two_alerts_of_one_asset_apart():
    alert = MESSAGES["alert-full.v1.json"]
    assert isinstance(alert, Alert)
    assert alert.state_key == b"line-1/pump-07|0123456789abcdef01234567"


def test_deadletter_key_is_the_place_of_the_original():
    letter = MESSAGES["deadletter-minimal.v1.bin"]
    assert isinstance(letter, DeadLetter)
    assert letter.message_key == b"kizashi.telemetry.v1|3|88121"


def test_largest_deadletter_fits_the_default_record_limit_of_a_broker():
    letter = DeadLetter("wrong_length", "d" * 1024, "acquire", "t" * 249, 2**31 - 1, 2**63 - 1, 2**63 - 1, 2**31 - 1,
                        "f" * 64, "a" * 128, b"k" * 128, b"\x00" * 65_536, True)
    assert len(encode(letter)) < 70_000


def test_encoding_an_alert_twice_gives_the_same_bytes():
    alert = MESSAGES["alert-full.v1.json"]
    assert isinstance(alert, Alert)
    assert encode_alert(alert) == encode_alert(msgspec.convert(msgspec.to_builtins(alert), Alert))


def test_reason_codes_are_stable_words_with_a_meaning():
    assert all(re.fullmatch(r"[a-z_]{3,32}", code) and meaning for code, meaning in REASONS.items())


def test_topics_carry_a_version_a_key_and_a_use():
    assert len({topic.name for topic in ALL}) == len(ALL)
    for topic in ALL:
        assert re.fullmatch(r"kizashi\.[a-z.]+\.v1", topic.name)
        assert topic.key and topic.what


def test_topics_whose_newest_record_is_a_state_are_compacted_and_histories_expire():
    for topic in ALL:
        compacted = topic.settings.get("cleanup.policy") == "compact"
        assert compacted != ("retention.ms" in topic.settings), topic.name
