"""The judge: what the broker holds after the faults against one uninterrupted run over the same log.

Nothing lost, nothing invented, the same bytes under the same id and revision, order per asset, state equal bit for bit.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import Message

from pipeline import assembly, checkpoint, terms
from pipeline.births import BirthBook, read_birth
from pipeline.broker import murmur2_partition
from pipeline.columns import Effects, Poll
from pipeline.errors import Rejected
from pipeline.flow import Flow, Step
from pipeline.infer import run
from pipeline.seating import Seating
from pipeline.state import Partition
from schemas import Alert
from schemas.codec import decode_alert, encode, encode_alert
from schemas.topics import ALERT, ALERT_STATE, ASSET, DEADLETTER, STATE, TELEMETRY
from tests.chaos.bed import Bed
from tests.chaos.compare import state_of

POLL = 500


@dataclass
class Truth:
    """What an uninterrupted run says of the log: alerts in order per asset and rule, dead letters, state."""

    alerts: dict[tuple[str, str], list[tuple[tuple[str, int], bytes]]] = field(
        default_factory=lambda: defaultdict(list))
    letters: dict[bytes, bytes] = field(default_factory=dict)
    partitions: dict[int, Partition] = field(default_factory=dict)
    flow: Flow | None = None

    def take(self, effects: Effects) -> None:
        for alert in effects.alerts:
            self.alerts[alert.asset, alert.rule].append(((alert.alert_id, alert.revision), encode_alert(alert)))
        for letter in effects.dead_letters:
            self.letters[letter.message_key] = encode(letter)

    @property
    def said(self) -> dict[tuple[str, int], bytes]:
        return {name: value for of in self.alerts.values() for name, value in of}


def make_flow(bed: Bed, book: BirthBook) -> tuple[Flow, dict[str, Any]]:
    settings = bed.settings
    bundles = assembly.bundles_of(settings)
    engines = assembly.open_engines(settings, bundles)
    seats = Seating(bundles, assembly.routes_of(settings), book, settings.worker.max_assets,
                    lambda asset: murmur2_partition(asset.encode(), bed.partitions))
    return Flow(assembly.flow_settings(settings), seats, {n: e.inputs for n, e in engines.items()}), engines


def uninterrupted(bed: Bed) -> Truth:
    """Run the flow in this process over everything that the telemetry topic has."""
    book, truth = BirthBook(), Truth()
    for message in bed.read(ASSET):
        if message.value() is not None:
            try:
                book.add(read_birth(message.key(), message.value()))
            except Rejected:
                continue
    truth.flow, engines = make_flow(bed, book)
    by_partition: dict[int, list[Message]] = defaultdict(list)
    for message in bed.read(TELEMETRY):
        by_partition[message.partition()].append(message)
    for number in range(bed.partitions):
        truth.partitions[number] = part = Partition(number)
        _settle(truth, engines, truth.flow.adopt(part, 0.0))
        records = by_partition[number]
        for at in range(0, len(records), POLL):
            poll: Poll | None = _poll(number, records[at:at + POLL])
            while poll is not None:
                step = truth.flow.admit(poll, 0.0)
                _settle(truth, engines, step)
                _settle(truth, engines, Step(batches=truth.flow.flush()))
                poll = step.rest
    return truth


def _poll(number: int, records: list[Message]) -> Poll:
    return Poll(number, np.array([m.offset() for m in records], np.int64),
                np.array([m.timestamp()[1] for m in records], np.int64), [m.value() for m in records],
                [m.key() for m in records], records[-1].offset() + 1)


def _settle(truth: Truth, engines: dict[str, Any], step: Step) -> None:
    assert truth.flow is not None
    truth.take(step.effects)
    for batch in step.batches:
        engine = engines[truth.flow.bundle_of(batch).spec.name]
        truth.take(truth.flow.settle(batch, run(engine, batch.inputs)))
    if step.more is not None:
        _settle(truth, engines, Step(batches=truth.flow.flush()))
        _settle(truth, engines, step.more())


@dataclass
class Verdict:
    """What the judge found. faults: empty if all is well."""

    frames: int = 0
    expected: int = 0
    lost: int = 0
    invented: int = 0
    duplicates: int = 0
    faults: list[str] = field(default_factory=list)


def judge(bed: Bed, *, state: bool = True) -> Verdict:
    """Compare what the broker holds with an uninterrupted run. state: the last checkpoints stand at the log's end."""
    truth, verdict = uninterrupted(bed), Verdict(frames=sum(bed.ends().values()))
    _judge_alerts(bed, truth, verdict)
    _judge_alert_state(bed, truth, verdict)
    _judge_letters(bed, truth, verdict)
    if state:
        _judge_state(bed, truth, verdict)
    return verdict


def sound(bed: Bed) -> Verdict:
    """Judge, and insist that nothing is wrong."""
    verdict = judge(bed)
    assert not verdict.faults, verdict.faults[:10]
    return verdict


def _judge_alerts(bed: Bed, truth: Truth, verdict: Verdict) -> None:
    said, first = truth.said, defaultdict[tuple[str, str], list[tuple[str, int]]](list)
    seen: set[tuple[str, int]] = set()
    for message in bed.read(ALERT):
        alert = decode_alert(message.value())
        name = (alert.alert_id, alert.revision)
        if name not in said:
            verdict.invented += 1
            verdict.faults.append(f"invented: {alert}")
        elif said[name] != message.value():
            other = differing(alert, decode_alert(said[name]))
            verdict.faults.append(f"other bytes: {alert.asset} seq {alert.seq} {other}")
        if name in seen:
            verdict.duplicates += 1
        else:
            first[alert.asset, alert.rule].append(name)
        seen.add(name)
    verdict.expected, lost = len(said), [name for name in said if name not in seen]
    verdict.lost = len(lost)
    verdict.faults += [f"lost: {decode_alert(said[name])}" for name in lost]
    for who, names in truth.alerts.items():
        known = [name for name in first[who] if name in said]
        if known != [name for name, _ in names if name in seen]:
            verdict.faults.append(f"order of {who}: {known}")


def differing(one: Alert, other: Alert) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two alerts differ."""
    both = {name: (getattr(one, name), getattr(other, name)) for name in one.__struct_fields__}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def _judge_alert_state(bed: Bed, truth: Truth, verdict: Verdict) -> None:
    newest: dict[bytes, bytes] = {m.key(): m.value() for m in bed.read(ALERT_STATE)}
    wanted: dict[bytes, bytes] = {}
    for names in truth.alerts.values():
        for _, value in names:
            wanted[decode_alert(value).state_key] = value
    for key in wanted.keys() | newest.keys():
        if wanted.get(key) != newest.get(key):
            verdict.faults.append(f"alert state {key!r}: {newest.get(key)!r} for {wanted.get(key)!r}")


def _judge_letters(bed: Bed, truth: Truth, verdict: Verdict) -> None:
    there = {m.key(): m.value() for m in bed.read(DEADLETTER)}
    for key in there.keys() | truth.letters.keys():
        if there.get(key) != truth.letters.get(key):
            verdict.faults.append(f"dead letter {key!r}: {there.get(key)!r} for {truth.letters.get(key)!r}")


def stored(bed: Bed) -> dict[int, dict[str, bytes]]:
    """Return the newest checkpoint of every partition: its records by key."""
    prefix = checkpoint.key_prefix(bed.settings.group.id, bed.name(TELEMETRY))
    values: dict[int, dict[str, bytes]] = {p: {} for p in range(bed.partitions)}
    for message in bed.read(STATE):
        key = message.key().decode().removeprefix(prefix)
        if message.value() is None:
            values[message.partition()].pop(key, None)
        else:
            values[message.partition()][key] = message.value()
    return {p: terms.sort_out(found).records for p, found in values.items()}


def _judge_state(bed: Bed, truth: Truth, verdict: Verdict) -> None:
    assert truth.flow is not None
    ends = bed.ends()
    for number, records in stored(bed).items():
        if not records and not ends[number]:
            continue
        restored = checkpoint.restore(number, records, truth.flow.seats.new_pool, 0)
        part, want = restored.partition, truth.partitions[number]
        if restored.position != ends[number] or part.replay_until != ends[number]:
            verdict.faults.append(f"partition {number}: checkpoint at {restored.position}, log ends at {ends[number]}")
        here, there = state_of(part), state_of(want)
        for key in here["seats"].keys() | there["seats"].keys():
            if here["seats"].get(key) != there["seats"].get(key):
                verdict.faults.append(f"state of {key} differs")
        for what in ("totals", "waiting"):
            if here[what] != there[what]:
                verdict.faults.append(f"partition {number}: {what} {here[what]} for {there[what]}")
        verdict.faults += laws(number, part)


def laws(number: int, part: Partition) -> list[str]:
    """Check both conservation laws of a partition."""
    t, found = part.totals(), []
    ends = t["judged"] + t["dead_lettered"] + t["late"] + t["duplicate"] + t["shed"]
    if t["received"] != ends + part.unassigned.frames_waiting():
        found.append(f"partition {number}: received {t['received']}, ends {ends}")
    if t["rows"] != t["rows_scored"] + t["rows_dead_lettered"]:
        found.append(f"partition {number}: rows {t}")
    return found
