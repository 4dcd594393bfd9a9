"""A small Faust worker for the transport's tests: counts what it is handed, notes what its owner is told."""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import faust

from pipeline.errors import BrokerError
from pipeline.transport import TP, BatchTopic, RecordBatch, TransportOptions, batch_consumer, bind


class Owner:
    """A partitions' owner that starts where it is told, and at the first record elsewhere."""

    def __init__(self) -> None:
        self.start: dict[TP, int] = {}
        self.calls: list[tuple[str, Any]] = []
        self.restoring = asyncio.Event()
        self.may_restore = asyncio.Event()
        self.may_restore.set()
        self.on_release: Any = None

    async def restore(self, partitions: set[TP]) -> dict[TP, int]:
        self.calls.append(("restore", partitions))
        self.restoring.set()
        try:
            await self.may_restore.wait()
        except asyncio.CancelledError:
            self.calls.append(("cancelled", partitions))
            raise
        return {tp: self.start[tp] for tp in partitions if tp in self.start}

    async def release(self, partitions: set[TP]) -> None:
        self.calls.append(("release", partitions))
        if self.on_release is not None:
            await self.on_release(partitions)

    def lost(self, partitions: set[TP]) -> None:
        self.calls.append(("lost", partitions))

    def hole(self, tp: TP, expected: int, got: int) -> None:
        self.calls.append(("hole", (tp, expected, got)))

    def fenced(self, error: BrokerError) -> None:
        self.calls.append(("fenced", error))

    def called(self, name: str) -> list[Any]:
        return [what for call, what in self.calls if call == name]


class Worker:
    """One app with one batch agent; `hold`: keep batches unacknowledged, all or those that it says."""

    def __init__(self, address: str, topic: str, group: str, *, options: TransportOptions | None = None,
                 max_batch: int = 100, max_inflight: int = 1000, **settings: Any) -> None:
        self.app = faust.App(
            group, broker=f"kafka+batch://{address}", value_serializer="raw", key_serializer="raw", web_enabled=False,
            topic_disable_leader=True, consumer_auto_offset_reset="earliest", stream_wait_empty=False,
            **{"broker_session_timeout": 6.0, "broker_heartbeat_interval": 0.5, "broker_request_timeout": 10.0,
               "consumer_metadata_max_age_ms": 700, "broker_commit_interval": 0.2, **settings},
        )
        self.owner = Owner()
        bind(self.app, self.owner, options)
        self.topic = BatchTopic(self.app, topics=[topic], max_batch=max_batch, max_inflight=max_inflight)
        self.batches: list[RecordBatch] = []
        self.offsets: dict[int, list[int]] = defaultdict(list)
        self.held: list[RecordBatch] = []
        self.hold: bool | Callable[[RecordBatch], bool] = False
        self._news = asyncio.Event()

        @self.app.agent(self.topic)
        async def ingest(stream: Any) -> None:
            async for batch in stream.noack():
                self._take(batch)

    def _take(self, batch: RecordBatch) -> None:
        self.batches.append(batch)
        self.offsets[batch.tp.partition].extend(r.offset for r in batch.records)
        if self.hold(batch) if callable(self.hold) else self.hold:
            self.held.append(batch)
        else:
            batch.ack()
        self._news.set()

    def let_go(self) -> None:
        self.hold = False
        held, self.held = self.held, []
        for batch in held:
            batch.ack()

    @property
    def seen(self) -> int:
        return sum(map(len, self.offsets.values()))

    async def has_seen(self, n: int, within_s: float = 20) -> None:
        async with asyncio.timeout(within_s):
            while self.seen < n:
                self._news.clear()
                await self._news.wait()

    @property
    def consumer(self) -> Any:
        return batch_consumer(self.app)


@asynccontextmanager
async def running(
    worker: Worker | str, topic: str = "", group: str | None = None, **settings: Any
) -> AsyncIterator[Worker]:
    """Run a worker, or a new one for a broker's address."""
    if isinstance(worker, str):
        worker = Worker(worker, topic, group or f"g-{uuid.uuid4().hex[:8]}", **settings)
    try:
        await worker.app.start()
        yield worker
    finally:
        await worker.app.stop()
