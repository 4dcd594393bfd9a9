"""Whole record batches as single Faust events: the `kafka+batch://` transport.

    app = faust.App("id", broker="kafka+batch://host:9092", value_serializer="raw")
    frames = BatchTopic(app, topics=["kizashi.telemetry.v1"], max_batch=1024, max_inflight=8192)
    bind(app, owner)                              # a PartitionOwner: restore, release, hole, fenced

    @app.agent(frames)
    async def ingest(stream):
        async for batch in stream.noack():        # always noack: auto-ack acknowledges on an exception or a cancel
            for record in batch.records: ...      # .offset .timestamp (ms) .key .value .headers
            batch.ack()                           # processed: frees back-pressure, never moves the commit

    consumer = batch_consumer(app)                # after the app has started
    consumer.set_safe_offset(tp, offset, metadata)
    await consumer.commit_now({tp})
    await consumer.committed({tp})                # {tp: Committed(offset, metadata) or None}
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from faust.topics import Topic
from faust.transport.drivers import aiokafka as drv
from faust.types.tuples import TP

__all__ = [
    "TP", "BatchConsumer", "BatchTopic", "BatchTransport", "Committed", "PartitionOwner", "Record", "RecordBatch",
    "TransportOptions", "batch_consumer", "bind",
]


class Record(Protocol):
    """One record as the client parsed it. timestamp: ms since 1970; key, value: bytes or None."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(slots=True, eq=False)
class RecordBatch:
    """Records of one partition in offset order; no other record lies in [start, next_offset).

    fetched_at: seconds since 1970, when the client handed them over. Offsets may have gaps (transaction markers, compaction).
    Constructible without Kafka; `ack()` then does nothing.
    """

    tp: TP
    records: Sequence[Record]
    start: int
    next_offset: int
    fetched_at: float = field(default_factory=time.time)
    _message: Any = None
    _consumer: Any = None

    def __len__(self) -> int:
        return len(self.records)

    def ack(self) -> None:
        """Say that the batch is processed; frees back-pressure, never moves the commit.

        Any order, from any task, but on the event loop's thread; a second call does nothing.
        """
        if self._message is not None:
            self._message.ack(self._consumer)


class Committed(NamedTuple):
    """What the group has committed for a partition: next offset to read, and the committer's metadata string."""

    offset: int
    metadata: str


class PartitionOwner(Protocol):
    """What the application does when partitions of batch topics come and go. All calls are on the app's loop."""

    async def restore(self, partitions: set[TP]) -> dict[TP, int]:
        """Prepare state for the partitions just assigned and return the position to read each from.

        Called after the assigned callback returned (heartbeats go out) and before any record is handed over. A partition left
        out of the result starts at its committed offset, or where auto.offset.reset says if there is none. A new
        rebalance cancels it: on CancelledError leave nothing behind, `release` will not be called. May take longer than any
        of Faust's timeouts. Any other exception crashes the app with it.
        """

    async def release(self, partitions: set[TP]) -> None:
        """Drain, checkpoint and set safe offsets while the worker still owns the partitions.

        Called on revoke and on shutdown, only for partitions whose `restore` finished, at most once per assignment; no new batch
        arrives meanwhile. Cancelled after `TransportOptions.release_timeout_s`. What `set_safe_offset` was told by then is
        committed right after it returns.
        """

    def hole(self, tp: TP, expected: int, got: int) -> None:
        """Hear that the records [expected, got) were not delivered: retention or a truncated log took them."""

    def fenced(self, error: BaseException) -> None:
        """Hear that another member took over our group instance id: stop now, its output is the valid one."""


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Choices of the transport.

    fetch_max_wait_ms: longest the broker may hold a fetch that finds nothing. One fetch is in flight per broker, so a busy
    partition waits for an idle one's fetch; Faust's fixed 1500 ms costs up to that in latency on brokers whose long poll
    does not wake on every partition, and 10 to 1500 ms could not be told apart on Apache Kafka.
    release_timeout_s: bound of `PartitionOwner.release`; must stay below the group's rebalance timeout.
    stop_timeout_s: bound of the consumer thread's own stop.
    """

    fetch_max_wait_ms: int = 50
    release_timeout_s: float = 8.0
    stop_timeout_s: float = 1.0


class BatchConsumer(drv.Consumer):
    """Consumer whose commits for batch topics come from `set_safe_offset` alone."""

    def set_safe_offset(self, tp: TP, offset: int, metadata: str) -> None:
        """Make `offset` (next to read after a restart) the one that the next commit carries, with its metadata.

        May be lower than what is committed (an operator's reset is replayed by setting it). Ignored for partitions that we do not own.
        """
        raise NotImplementedError

    async def commit_now(self, tps: Iterable[TP]) -> bool:
        """Commit the safe offsets of `tps` and wait for the broker's answer; False if the group has rebalanced."""
        raise NotImplementedError

    async def committed(self, tps: Iterable[TP]) -> dict[TP, Committed | None]:
        """Read from the group coordinator what is committed for `tps`; None where nothing is."""
        raise NotImplementedError

    def unacked(self, tp: TP) -> int:  # type: ignore[override]
        """Count the records of `tp` that were handed over and not acknowledged."""
        raise NotImplementedError


class BatchTransport(drv.Transport):
    """Transport behind `kafka+batch://`."""

    Consumer = BatchConsumer
    owner: PartitionOwner | None = None
    options: TransportOptions = TransportOptions()


class BatchTopic(Topic):
    """Topic that delivers RecordBatch events.

    max_batch: records per event at most. max_inflight: records of one partition handed over and not acknowledged before the
    partition pauses (up to twice that may be out, since one fetch is handed over whole).
    """

    def __init__(self, app: Any, *, max_batch: int = 1024, max_inflight: int = 8192, **kwargs: Any) -> None:
        self.max_batch, self.max_inflight = max_batch, max_inflight
        super().__init__(app, **kwargs)


def bind(app: Any, owner: PartitionOwner, options: TransportOptions = TransportOptions()) -> None:
    """Attach the owner and the options to the app's transport; before the app starts.

    Raises ConfigError if the app's broker URL is not kafka+batch://.
    """
    raise NotImplementedError


def batch_consumer(app: Any) -> BatchConsumer:
    """Return the running app's consumer, typed."""
    raise NotImplementedError
