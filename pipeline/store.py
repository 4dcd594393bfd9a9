"""Store: where a partition's state is read from, and where a partition without any begins."""

from pipeline import broker
from pipeline.broker import BrokerConfig
from pipeline.ops.settings import Worker as WorkerSettings
from pipeline.partitions import Committed


class Store:
    """Reads checkpoints and offsets from the broker. state, telemetry: topic names."""

    def __init__(self, cfg: BrokerConfig, state: str, telemetry: str, worker: WorkerSettings) -> None:
        self._cfg, self._state, self._telemetry, self._worker = cfg, state, telemetry, worker

    async def read(self, partition: int, prefix: str) -> dict[str, bytes]:
        """Return the newest value of every key of this partition's checkpoints, keys without the prefix."""
        raw = await broker.read_compacted(self._cfg, self._state, partition, prefix.encode())
        return {key.decode()[len(prefix):]: value for key, value in raw.items()}

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset that the log still has, and its end."""
        return (await broker.log_start_offset(self._cfg, self._telemetry, partition),
                await broker.end_offset(self._cfg, self._telemetry, partition))

    async def begin(self, partition: int, committed: Committed | None, first: int, end: int) -> int:
        """Return where a partition without a checkpoint begins: what an operator committed, else `worker.start`."""
        if committed is not None:
            return max(first, committed.offset)
        if self._worker.start_ms is not None:
            offsets = await broker.offsets_for_time(self._cfg, self._telemetry, [partition], self._worker.start_ms)
            return offsets[partition]
        return first if self._worker.start == "earliest" else end
