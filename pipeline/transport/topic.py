"""Topics that deliver record batches, the envelopes of those batches, and the back-pressure of one partition."""

from dataclasses import dataclass
from typing import Any, Protocol

from faust.topics import Topic
from faust.types.tuples import ConsumerMessage

from pipeline.partitions import TP


class Buffers(Protocol):
    """What back-pressure moves: Faust's set of partitions that are fetched."""

    def on_buffer_full(self, tp: TP) -> None: ...
    def on_buffer_drop(self, tp: TP) -> None: ...


@dataclass(slots=True, eq=False)
class Flight:
    """Back-pressure of one partition of the present assignment. expected: the offset that should come next."""

    tp: TP
    high: int
    consumer: Buffers
    expected: int | None
    unacked: int = 0
    paused: bool = False
    live: bool = True

    def add(self, n: int) -> None:
        self.unacked += n
        if self.unacked >= self.high and not self.paused:
            self.paused = True
            self.consumer.on_buffer_full(self.tp)

    def settle(self, n: int) -> None:
        self.unacked -= n
        # Resume at half: a partition that hovers at the limit would be fetched in crumbs.
        if self.live and self.paused and self.unacked <= self.high // 2:
            self.paused = False
            self.consumer.on_buffer_drop(self.tp)


class BatchMessage(ConsumerMessage):  # type: ignore[misc]
    """Faust's envelope. Both its ack routes, `Consumer.ack` and the one inlined in its Cython stream, set `acked`."""

    flight: Flight | None = None
    count = 0
    done = False

    @property
    def acked(self) -> bool:
        return self.done

    @acked.setter
    def acked(self, value: bool) -> None:
        if value and not self.done:
            self.done = True
            if self.flight is not None:
                self.flight.settle(self.count)


class BatchTopic(Topic):  # type: ignore[misc]
    """Topic that delivers RecordBatch events.

    max_batch: records per event at most. max_inflight: records of one partition handed over and not acknowledged,
    at most.
    """

    def __init__(self, app: Any, *, max_batch: int = 1024, max_inflight: int = 8192, **kwargs: Any) -> None:
        self.max_batch, self.max_inflight = max_batch, max_inflight
        # acks=False: Faust keeps no books of our offsets, so nothing but the checkpoint can commit one. The queue is
        # unbounded because back-pressure is per partition: a full queue would block the one fetch task of the app.
        super().__init__(app, **{**kwargs, "acks": False, "maxsize": 1 << 30})

    def _compile_decode(self) -> None:
        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return self.app.create_event(None, message.value, None, message)

        self.decode = decode

    def _clone_args(self) -> dict[str, Any]:
        return {**super()._clone_args(), "max_batch": self.max_batch, "max_inflight": self.max_inflight}
