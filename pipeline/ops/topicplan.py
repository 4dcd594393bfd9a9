"""Compares the topics that a broker has with those that Kizashi needs. Pure: the broker's answer is a parameter."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.broker import TopicInfo
from pipeline.ops.settings import Settings
from schemas import topics
from schemas.topics import Topic

#: Partitions bound how many workers can share the work; eight leave room and cost an idle worker nothing.
DEFAULT_PARTITIONS = 8
#: Set when a topic is created and left alone afterwards: how long a plant keeps its data is the plant's choice.
_PREFERENCES = frozenset({"retention.ms"})
#: What a record of ours may need; Kafka's default of max.message.bytes is just above.
_RECORD_BYTES = 1 << 20

Action = Literal["create", "alter", "grow", "keep", "impossible"]


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done about one topic. settings: to be set; partitions: to be created or grown to."""

    action: Action
    topic: str
    why: str
    partitions: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        mark = {"create": "+", "alter": "~", "grow": "~", "keep": "=", "impossible": "!"}[self.action]
        return f"{mark} {self.topic:<28} {self.why}"


def needed(settings: Settings) -> tuple[Topic, ...]:
    """Return the topics that this configuration reads or writes."""
    return tuple(t for t in topics.ALL if t is not topics.ASSESSMENT or settings.topics.assessment)


def plan(settings: Settings, have: Mapping[str, TopicInfo | None], partitions: int) -> list[Step]:
    """Return the steps that bring the topics to what is needed, in the order of `schemas.topics.ALL`.

    have: by full name, None where a topic does not exist. partitions: of a telemetry topic that is to be created.
    """
    telemetry = have.get(settings.topics.name(topics.TELEMETRY))
    count = telemetry.partitions if telemetry else partitions
    steps: list[Step] = []
    for topic in needed(settings):
        # Every worker reads all births, so one partition does; all others keep an asset's records on its own partition.
        wanted = 1 if topic is topics.ASSET else count
        steps += _steps(topic, settings.topics.name(topic), have.get(settings.topics.name(topic)), wanted)
    return steps


def _steps(topic: Topic, name: str, found: TopicInfo | None, partitions: int) -> Iterator[Step]:
    if found is None:
        shown = "".join(f", {key} = {value}" for key, value in topic.settings.items())
        why = f"create: {topic.what}; {partitions} partition{'s' * (partitions > 1)}{shown}"
        yield Step("create", name, why, partitions, topic.settings)
        return
    wrong = {
        key: value for key, value in topic.settings.items()
        if key not in _PREFERENCES and not _same(found.settings.get(key), value)
    }
    if int(found.settings.get("max.message.bytes", _RECORD_BYTES)) < _RECORD_BYTES:
        wrong["max.message.bytes"] = str(_RECORD_BYTES + 12_288)
    if wrong:
        changes = ", ".join(f"{key}: {found.settings.get(key, 'unset')} -> {value}" for key, value in wrong.items())
        yield Step("alter", name, f"alter {changes}", settings=wrong)
    if topic is topics.STATE and found.partitions < partitions:
        # Blocks name their partition themselves, so partitions may be added without moving a key.
        yield Step("grow", name, f"grow from {found.partitions} to {partitions} partitions, as the telemetry topic has",
                   partitions)
    elif topic is topics.STATE and found.partitions > partitions:
        yield Step("impossible", name, (
            f"has {found.partitions} partitions, the telemetry topic {partitions}; was that one created anew? "
            "Delete this topic (every asset calibrates anew), then `kizashi topics apply`"
        ))
    elif not wrong:
        yield Step("keep", name, f"as wanted; {found.partitions} partition{'s' * (found.partitions > 1)}")


def _same(found: str | None, wanted: str) -> bool:
    if found is None:
        return False
    try:
        return float(found) == float(wanted)
    except ValueError:
        return sorted(found.split(",")) == sorted(wanted.split(","))


def pending(steps: Iterable[Step]) -> list[Step]:
    """Return the steps that change something or say that nothing can."""
    return [step for step in steps if step.action != "keep"]
