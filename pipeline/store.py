"""Store: where a partition's state is read from, and where a partition without any begins."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pipeline import broker
from pipeline.broker import BrokerConfig
from pipeline.errors import Retryable
from pipeline.ops.settings import Worker as WorkerSettings
from pipeline.partitions import Committed

T = TypeVar("T")
#: Between two tries while the broker is away: a restore that gave up would only be started again.
RETRY_S = 1.0


class Store:
    """Reads checkpoints and offsets from the broker; waits while it is away. state, telemetry: topic names."""

    def __init__(self, cfg: BrokerConfig, state: str, telemetry: str, worker: WorkerSettings,
                 on_retry: Callable[[Retryable], None]) -> None:
        self._cfg, self._state, self._telemetry, self._worker = cfg, state, telemetry, worker
        self._on_retry = on_retry

    async def read(self, partition: int, prefix: str) -> dict[str, bytes]:
        """Return the newest value of every key of this partition's checkpoints, keys without the prefix."""
        raw = await self._patiently(lambda: broker.read_compacted(self._cfg, self._state, partition, prefix.encode()))
        return {key.decode()[len(prefix):]: value for key, value in raw.items()}

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset that the log still has, and its end.

        Ask after `read`: a checkpoint that was written in between would else stand beyond the end and look foreign.
        """
        return (await self._patiently(lambda: broker.offset_ranges(self._cfg, self._telemetry)))[partition]

    async def begin(self, partition: int, committed: Committed | None, first: int, end: int) -> int:
        """Return where a partition without a checkpoint begins: what an operator committed, else `worker.start`."""
        start_ms = self._worker.start_ms
        if committed is not None:
            return max(first, committed.offset)
        if start_ms is not None:
            offsets = await self._patiently(
                lambda: broker.offsets_for_time(self._cfg, self._telemetry, [partition], start_ms))
            return offsets[partition]
        return first if self._worker.start == "earliest" else end

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except Retryable as error:
                self._on_retry(error)
                await asyncio.sleep(RETRY_S)
