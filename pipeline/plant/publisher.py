"""Publisher: births and frames to a broker, keyed by asset, with a bounded number under way."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Protocol, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from pipeline.broker import BrokerConfig, make_producer
from pipeline.errors import BrokerError
from schemas import AssetBirth, TelemetryFrame
from schemas.codec import encode

#: Frames sent and not yet acknowledged. 4096 of 200 bytes are under 1 MB, and fill several requests; waiting for each
#: frame's acknowledgement would bound the rate to one a round trip.
_UNDER_WAY = 4096
_STOP_S = 10.0


class Publisher:
    """Send births and frames; leaving the context waits until all are acknowledged.

    telemetry, asset: names of the topics. Raises BrokerError when the broker refuses or stays away.
    """

    def __init__(self, cfg: BrokerConfig, telemetry: str, asset: str) -> None:
        self.cfg, self.telemetry, self.asset = cfg, telemetry, asset
        self.births = self.frames = 0
        self._pending: list[asyncio.Future[object]] = []
        self._producer: AIOKafkaProducer | None = None

    async def __aenter__(self) -> Self:
        self._producer = await make_producer(self.cfg)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._producer is not None
        try:
            if error is None:
                await self.flush()
        finally:
            # A broker that is gone must not hold up Ctrl-C for the producer's whole delivery timeout.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._producer.stop(), _STOP_S)
            await asyncio.gather(*self._pending, return_exceptions=True)

    async def birth(self, birth: AssetBirth) -> None:
        """Announce an asset. A worker that sees its frames first lets them wait for this."""
        await self._send(self.asset, birth.key, encode(birth))
        self.births += 1

    async def frame(self, frame: TelemetryFrame) -> None:
        """Send one frame; waits only while too many are under way."""
        await self._send(self.telemetry, frame.asset.encode(), encode(frame))
        self.frames += 1

    async def flush(self) -> None:
        """Wait until everything sent is acknowledged."""
        pending, self._pending = self._pending, []
        try:
            await asyncio.gather(*pending)
        except KafkaError as error:
            raise self._refused(error) from error

    async def _send(self, topic: str, key: bytes, value: bytes) -> None:
        assert self._producer is not None, "use the publisher as a context"
        try:
            self._pending.append(await self._producer.send(topic, value, key=key))
        except KafkaError as error:
            raise self._refused(error) from error
        if len(self._pending) >= _UNDER_WAY:
            await self.flush()

    def _refused(self, error: KafkaError) -> BrokerError:
        return BrokerError(
            f"{self.cfg.bootstrap} did not take a record of {self.telemetry} or {self.asset}: {type(error).__name__} "
            f"{error}. `kizashi doctor` says what is wrong"
        )


@dataclass(frozen=True, slots=True)
class Schedule:
    """When frames go out. The plant's first `burst_s` seconds at once, then `speed` plant seconds a second.

    begin: the event loop's time at the start. period_s: of one frame, in plant time.
    """

    begin: float
    period_s: float
    burst_s: float = 0.0
    speed: float = 1.0

    def due(self, seq: int) -> float:
        """Return when frame `seq`, complete only with its last sample, is sent, by the event loop's clock."""
        return self.begin + max(0.0, (seq + 1) * self.period_s - self.burst_s) / self.speed


class Source(Protocol):
    """Assets that send a frame each, period by period."""

    @property
    def births(self) -> Sequence[AssetBirth]: ...

    def rounds(self) -> Iterable[Sequence[TelemetryFrame]]:
        """Yield the frames of each period."""


async def publish_plant(
    plant: Source, publisher: Publisher, schedule: Schedule, until: asyncio.Event, *, rounds: int | None = None,
    sending: Callable[[int, float], None] = lambda seq, now: None,
) -> None:
    """Publish the plant's births, then a frame of every asset each frame period until `until` is set.

    rounds: how many periods, None for all. sending: called with seq and the event loop's time before each of them.
    """
    loop = asyncio.get_running_loop()
    for birth in plant.births:
        await publisher.birth(birth)
    await publisher.flush()  # a frame must not overtake its birth, or it would have to wait
    for seq, frames in enumerate(islice(plant.rounds(), rounds)):
        wait = schedule.due(seq) - loop.time()
        if wait > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(until.wait(), wait)
        if until.is_set():
            return
        sending(seq, loop.time())
        for frame in frames:
            await publisher.frame(frame)
