"""What application and transport say to each other: record batches, and whose a partition is. Knows no Faust."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from pipeline.errors import BrokerError


class TP(NamedTuple):
    """A topic's partition; equal to Faust's and aiokafka's tuples of the same name."""

    topic: str
    partition: int


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

    fetched_at: seconds since 1970, when the client handed them over. Offsets may have gaps (transaction markers,
    compaction). Constructible without Kafka; `ack()` then does nothing.
    """

    tp: TP
    records: Sequence[Record] = field(repr=False)
    start: int
    next_offset: int
    fetched_at: float = 0.0
    _epoch: int = field(default=0, init=False, repr=False)
    _message: Any = field(default=None, init=False, repr=False)
    _consumer: Any = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.records)

    def ack(self) -> None:
        """Say that the batch is processed; frees back-pressure, never moves the commit.

        Any order, from any task, but on the event loop's thread; a second call does nothing.
        """
        # The message holds the batch: without this cut every batch waits for the garbage collector with its records.
        message, self._message = self._message, None
        if message is not None:
            message.ack(self._consumer)


class Committed(NamedTuple):
    """What the group has committed for a partition: next offset to read, and the committer's metadata string."""

    offset: int
    metadata: str


class PartitionOwner(Protocol):
    """What the application does when partitions of batch topics come and go. All calls are on the app's loop."""

    async def restore(self, partitions: set[TP]) -> dict[TP, int]:
        """Prepare state for the partitions just assigned and return the position to read each from.

        Called once per assignment, after the assigned callback returned (heartbeats go out) and before any record is
        handed over; may outlast every timeout of Faust. A partition left out of the result starts at its committed
        offset, or where auto.offset.reset says. A new rebalance cancels it: on CancelledError leave nothing
        behind, neither `release` nor `lost` will be called. Retryable: it is called again, after a second. Any other
        exception crashes the app with it.
        """

    async def release(self, partitions: set[TP]) -> None:
        """Drain, checkpoint and set safe offsets while the worker still owns the partitions.

        Called on revoke and on a shutdown that is no crash, only for partitions whose `restore` finished; no new batch
        arrives meanwhile. Cancelled after `TransportOptions.release_timeout_s`. What `set_safe_offset` was told by
        then is committed right after. Retryable is logged: the next owner repeats work.
        """

    def lost(self, partitions: set[TP]) -> None:
        """Hear that the group gave our partitions away while we were silent: drop their state and what is in flight."""

    def hole(self, tp: TP, expected: int, got: int) -> None:
        """Hear that the records [expected, got) are gone (retention); got < expected: the log was cut, read again."""

    def fenced(self, error: BrokerError) -> None:
        """Hear that another member took over our instance id: its output is the valid one. The app crashes next."""
