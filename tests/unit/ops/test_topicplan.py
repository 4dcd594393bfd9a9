"""The topic plan: what is missing, wrong, a matter of taste, or beyond mending."""

import pytest

from pipeline.broker import TopicInfo
from pipeline.ops.config import Settings, load_settings
from pipeline.ops.topicplan import needed, pending, plan
from schemas import topics


def as_wanted(partitions: int = 4, settings: Settings | None = None) -> dict[str, TopicInfo | None]:
    settings = settings or Settings()
    return {
        (name := settings.topics.name(t)): TopicInfo(
            name, 1 if t is topics.ASSET else partitions, 1, {"max.message.bytes": "1048588"} | t.settings)
        for t in needed(settings)
    }


def changed(have: dict, topic: topics.Topic, **change: object) -> dict:
    info = have[topic.name]
    settings = dict(info.settings) | {k.replace("_", "."): str(v) for k, v in change.items() if k != "partitions"}
    return have | {topic.name: TopicInfo(info.name, change.get("partitions", info.partitions), 1, settings)}


def test_an_empty_broker_needs_everything_created():
    steps = plan(Settings(), dict.fromkeys(as_wanted()), partitions=6)
    assert [s.action for s in steps] == ["create"] * 7
    assert {s.topic: s.partitions for s in steps} == dict.fromkeys(as_wanted(), 6) | {"kizashi.asset.v1": 1}
    assert steps[0].settings == topics.TELEMETRY.settings


def test_topics_as_wanted_need_nothing():
    assert pending(plan(Settings(), as_wanted(), partitions=8)) == []


def test_new_topics_get_the_partitions_that_the_telemetry_topic_has():
    have = as_wanted(12) | {topics.STATE.name: None, topics.ALERT.name: None}
    assert {s.topic: s.partitions for s in pending(plan(Settings(), have, partitions=8))} == {
        topics.STATE.name: 12, topics.ALERT.name: 12,
    }


def test_a_wrong_setting_is_altered_and_the_step_shows_both_values():
    have = changed(as_wanted(), topics.TELEMETRY, message_timestamp_type="CreateTime")
    (step,) = pending(plan(Settings(), have, 8))
    assert (step.action, step.settings) == ("alter", {"message.timestamp.type": "LogAppendTime"})
    assert "message.timestamp.type: CreateTime -> LogAppendTime" in str(step)


def test_how_long_a_plant_keeps_its_data_is_its_own_choice():
    assert pending(plan(Settings(), changed(as_wanted(), topics.TELEMETRY, retention_ms=604_800_000), 8)) == []


@pytest.mark.parametrize("value", ["0.10", "0.1", "1e-1"])
def test_numbers_are_compared_as_numbers(value):
    have = as_wanted()
    info = have[topics.STATE.name]
    settings = info.settings | {"min.cleanable.dirty.ratio": value}
    have[topics.STATE.name] = TopicInfo(info.name, info.partitions, 1, settings)
    assert pending(plan(Settings(), have, 8)) == []


def test_a_topic_that_refuses_our_largest_record_is_altered():
    (step,) = pending(plan(Settings(), changed(as_wanted(), topics.STATE, max_message_bytes=1000), 8))
    assert int(step.settings["max.message.bytes"]) > 1 << 20


def test_a_state_topic_with_too_few_partitions_grows():
    (step,) = pending(plan(Settings(), changed(as_wanted(8), topics.STATE, partitions=4), 8))
    assert (step.action, step.partitions) == ("grow", 8)


def test_a_state_topic_with_more_partitions_than_telemetry_is_for_a_person():
    (step,) = pending(plan(Settings(), changed(as_wanted(4), topics.STATE, partitions=8), 8))
    assert step.action == "impossible"
    assert "Delete this topic" in step.why


def test_the_assessment_topic_is_needed_only_when_it_is_switched_on():
    on = load_settings(None, {"topics.assessment": True}, {})
    assert topics.ASSESSMENT not in needed(Settings())
    assert topics.ASSESSMENT in needed(on)


def test_a_prefix_moves_every_topic():
    settings = load_settings(None, {"topics.prefix": "trial."}, {})
    steps = plan(settings, {}, 2)
    assert all(s.topic.startswith("trial.") for s in steps)
    assert pending(plan(settings, as_wanted(settings=settings), 2)) == []
