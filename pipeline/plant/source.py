"""Source: capture files and tables of history as one deterministic stream of births and polls, with no broker."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.births import read_birth, read_key
from pipeline.columns import Poll
from pipeline.errors import InputError, Rejected
from pipeline.plant.capture import Record, read_capture
from pipeline.plant.csvhistory import CsvHistory, Progress, is_table
from pipeline.plant.csvmap import CsvMap
from schemas import AssetBirth, MachineEvent, TelemetryFrame
from schemas.codec import encode
from schemas.topics import ASSET, TELEMETRY

#: Records of one poll: what a worker takes at once when it catches up (scores do not depend on the cut).
POLL_RECORDS = 1024


@dataclass(frozen=True, slots=True)
class Retired:
    """A tombstone in the asset topic: this birth is over."""

    asset: str
    birth_id: str


@dataclass(slots=True)
class Ignored:
    """Records that are no part of the journey. bad_births: why, one line each."""

    other_topics: dict[str, int] = field(default_factory=dict)
    bad_births: list[str] = field(default_factory=list)


def message_records(messages: Iterable[AssetBirth | TelemetryFrame | MachineEvent]) -> Iterator[Record]:
    """Yield births, frames and events as records of partition 0, each stamped with the time of its last sample.

    So time passes as it did at the plant: an asset whose frames end falls silent while those of others go on.
    """
    offsets, births = {TELEMETRY.name: 0, ASSET.name: 0}, dict[str, AssetBirth]()
    for message in messages:
        if isinstance(message, AssetBirth):
            births[message.asset] = message
            topic, key, end_ns = ASSET.name, message.key, message.start_ns
        elif isinstance(message, MachineEvent):
            topic, key, end_ns = TELEMETRY.name, message.asset.encode(), message.t_ns
        else:
            topic, key = TELEMETRY.name, message.asset.encode()
            end_ns = end_of_frame_ns(births[message.asset], message)
        yield Record(topic, 0, offsets[topic], -(-end_ns // 10**6), key, encode(message))
        offsets[topic] += 1


def end_of_frame_ns(birth: AssetBirth, frame: TelemetryFrame) -> int:
    """Return the event time of a frame's last sample, Unix ns."""
    return frame.t0_ns + round((birth.samples_per_frame - 1) * 1e9 / birth.rate_hz)


@dataclass(slots=True)
class Source:
    """Births, retirements and polls of input files, in the order of the files and of the records in them.

    csv_map: needed when a file is a table. progress: called with the bytes read of a table. Iterating raises InputError
    where a file is damaged, after everything before the damage has been yielded.
    """

    files: tuple[Path, ...]
    csv_map: CsvMap | None = None
    progress: Progress = lambda path, position: None
    ignored: Ignored = field(default_factory=Ignored)

    def __post_init__(self) -> None:
        needs = next((f for f in self.files if is_table(f)), None)
        if needs is not None and self.csv_map is None:
            raise InputError(f"{needs}: what its columns mean is not known; name a map with --map (as --map skab)")

    def __iter__(self) -> Iterator[AssetBirth | Retired | Poll]:
        return items(self._records(), self.ignored)

    def _records(self) -> Iterator[Record]:
        history = None if self.csv_map is None else CsvHistory(self.csv_map, progress=self.progress)
        for tables, files in _runs(self.files):
            if tables and history is not None:
                yield from message_records(history.read(files))
            else:
                for path in files:
                    yield from read_capture(path)


def items(
    records: Iterable[Record], ignored: Ignored | None = None, poll_records: int = POLL_RECORDS
) -> Iterator[AssetBirth | Retired | Poll]:
    """Yield what records hold, in their order: births and tombstones one by one, frames as polls of one partition.

    ignored: told what is no part of the journey. Where reading raises InputError, everything before is yielded first.
    """
    ignored = Ignored() if ignored is None else ignored
    pending: list[Record] = []
    try:
        for record in records:
            kind = _kind(record.topic)
            if kind == "telemetry.v1":
                if pending and (pending[0].partition != record.partition or len(pending) == poll_records):
                    yield _poll(pending)
                    pending = []
                pending.append(record)
            elif kind == "asset.v1":
                if pending:
                    yield _poll(pending)
                    pending = []
                yield from _birth(record, ignored)
            else:
                ignored.other_topics[record.topic] = ignored.other_topics.get(record.topic, 0) + 1
    except InputError:
        if pending:
            yield _poll(pending)
        raise
    if pending:
        yield _poll(pending)


def _birth(record: Record, ignored: Ignored) -> Iterator[AssetBirth | Retired]:
    if not record.value:
        if record.key:
            yield Retired(*read_key(record.key))
        return
    try:
        yield read_birth(record.key, record.value)
    except Rejected as error:
        ignored.bad_births.append(f"{record.topic}[{record.partition}]@{record.offset}: {error}")


def _kind(topic: str) -> str:
    """Return a topic's name without its prefix, which differs from plant to plant."""
    return ".".join(topic.split(".")[-2:])


def _runs(files: tuple[Path, ...]) -> Iterator[tuple[bool, list[Path]]]:
    """Group neighbours of one format, so that an asset may go on from one table to the next."""
    run: list[Path] = []
    for path in files:
        if run and is_table(path) != is_table(run[0]):
            yield is_table(run[0]), run
            run = []
        run.append(path)
    if run:
        yield is_table(run[0]), run


def _poll(records: list[Record]) -> Poll:
    return Poll(
        records[0].partition, np.array([r.offset for r in records], np.int64),
        np.array([r.timestamp_ms for r in records], np.int64), [r.value for r in records], [r.key for r in records],
        records[-1].offset + 1,
    )
