"""Publish: send alerts, dead letters and the rest to their topics and know what the broker has acknowledged. [AG]

Sending never drops: what fails is sent again until it is acknowledged or the process ends. A checkpoint waits for
`acknowledged`, so that an offset is only committed when everything that its frames caused is safe.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from pipeline.broker import Overtaken
from pipeline.columns import NS_PER_MS, Effects
from pipeline.errors import BrokerError, Retryable
from pipeline.ops.settings import Topics
from schemas import Alert
from schemas.codec import encode, encode_alert
from schemas.topics import ALERT, ALERT_STATE, ASSESSMENT, CALIBRATION, DEADLETTER, Topic

#: What no retry mends: a person must act, so the worker ends and says so.
HOPELESS = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError, MessageSizeTooLargeError)
#: Dead letters hold up to 64 KiB each: bytes are bounded beside numbers. 64 MiB are a thousand of the largest.
MAX_PENDING_BYTES = 64 << 20
#: No checkpoint completes while a message waits: beyond this, taking on more only makes the repeated work longer.
MAX_PENDING_S = 30.0

#: Between two tries of a message that failed; aiokafka has by then tried for its own request timeout (40 s).
RETRY_S = 1.0

Headers = list[tuple[str, bytes]]
#: Makes a producer that writes only while what it is given allows it (`make_producer`).
Make = Callable[[Callable[[], bool]], Awaitable[AIOKafkaProducer]]


@dataclass(slots=True)
class _Message:
    topic: str
    key: bytes
    value: bytes
    headers: Headers
    made_ms: int = 0  # broker time of the record that caused it, 0 if that is not to be measured


def alert_headers(alert: Alert, served: Headers, now_ms: int, stale_ms: int) -> Headers:
    """CloudEvents binary mode, and what must not be in the value because it depends on when and where it was made.

    served: how the model is served (kizashi_backend and so on). kizashi_annunciate: "0" when the alert is stale by the
    worker's clock (catching up after an outage), whatever the value says by the log's time.
    """
    fresh = alert.annunciate and now_ms - alert.t_last // NS_PER_MS <= stale_ms
    return [
        ("ce_specversion", b"1.0"), ("ce_id", f"{alert.alert_id}.{alert.revision}".encode()),
        ("ce_source", f"kizashi/{alert.site}".encode()), ("ce_type", f"kizashi.alert.v1.{alert.state}".encode()),
        ("ce_subject", alert.asset.encode()), ("ce_time", _rfc3339(alert.t_last).encode()),
        ("ce_dataschema", b"kizashi.alert.v1.json"), ("content-type", b"application/json"),
        ("kizashi_annunciate", b"1" if fresh else b"0"), *served,
    ]


def _rfc3339(t_ns: int) -> str:
    seconds, ns = divmod(t_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ns // NS_PER_MS:03d}Z"


class _Lane:
    """The queue of one topic: a topic that cannot be written to holds up itself and the checkpoint, no other topic."""

    def __init__(self) -> None:
        self.queue: deque[tuple[int, _Message]] = deque()
        self.failed: list[tuple[int, _Message]] = []
        self.out = 0  # handed to the client, neither acknowledged nor failed
        self.sending: asyncio.Future[Any] | None = None  # what the client has not yet taken
        self.wake = asyncio.Event()

    def again(self) -> None:
        """Put what failed back at the head, in its old order; only when nothing is out, or it would be overtaken."""
        self.queue.extendleft(sorted(self.failed, key=lambda item: item[0], reverse=True))
        self.failed = []

    def clear(self) -> None:
        self.queue.clear()
        self.failed, self.out = [], 0
        if self.sending is not None:
            self.sending.cancel()


class Publisher:
    """Sends in order per topic and counts what is not yet acknowledged. All calls are on the event loop's thread."""

    _producer: AIOKafkaProducer

    def __init__(self, make: Make, topics: Topics, *, served: Callable[[str], Headers], stale_ms: int,
                 may_write: Callable[[], bool] = lambda: True,
                 on_acked: Callable[[int], None] = lambda made_ms: None,
                 on_retry: Callable[[str, BaseException], None] = lambda topic, error: None) -> None:
        """served: bundle -> headers on how it is served. may_write: whether the group still counts on us.

        on_acked: hears the event time (Unix ms) of each acknowledged alert. on_retry: hears what is tried again.
        """
        self._make, self._may_write, self._served, self._stale_ms = make, may_write, served, stale_ms
        self._era = 0  # counts how often what was not acknowledged was forgotten
        self._ready = asyncio.Event()
        self._on_acked, self._on_retry = on_acked, on_retry
        self._names = {t.name: topics.name(t) for t in (ALERT, ALERT_STATE, ASSESSMENT, CALIBRATION, DEADLETTER)}
        self._lanes = {name: _Lane() for name in self._names.values()}
        self._pending: dict[int, tuple[int, float]] = {}  # number -> bytes, queued at; oldest first
        self._bytes = 0
        self._next = 0
        self._progress = asyncio.Event()
        self._held: list[tuple[int, _Message]] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._reopening: set[asyncio.Task[None]] = set()  # one may begin while another's old producer still ends
        self._hopeless: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pending(self) -> int:
        """Return how many messages are not yet acknowledged."""
        return len(self._pending)

    async def start(self) -> None:
        await self._open()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(lane), name=f"publish {name}") for name, lane in self._lanes.items()]

    async def stop(self) -> None:
        """End at once; what is not acknowledged is sent again by whoever restores the partition."""
        tasks = [*self._tasks, *self._reopening]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._ready.is_set():
            await self._producer.stop()
        if not self._hopeless.cancel():
            self._hopeless.exception()  # was told by `failed`, or nobody asked

    async def _open(self) -> None:
        era = self._era

        def may_write() -> bool:
            if era != self._era:
                raise Overtaken
            return self._may_write()

        self._producer = await self._make(may_write)
        self._ready.set()

    def forget(self) -> None:
        """Forget what is not acknowledged, and let nothing of it be written any more.

        For when partitions are given up: their next owner says it again from the last checkpoint. Written after what
        that one says, an older revision would be what the compacted topic keeps.
        """
        if not self._pending:
            return
        self._pending.clear()
        self._bytes = 0
        self._held = None if self._held is None else []
        for lane in self._lanes.values():
            lane.clear()
        if self._ready.is_set():
            self._era += 1
            self._ready.clear()
            reopening = asyncio.get_running_loop().create_task(self._reopen(self._producer))
            self._reopening.add(reopening)
            reopening.add_done_callback(self._reopening.discard)
        self._progress.set()

    async def _reopen(self, old: AIOKafkaProducer) -> None:
        """Go on with a producer that has nothing queued; the old one's records fail by `Overtaken`."""
        ending = asyncio.ensure_future(old.stop())
        while not self._ready.is_set():
            try:
                await self._open()
            except Retryable as error:
                self._on_retry(self._names[ALERT.name], error)
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # `failed` tells it; else everyone would wait for `_ready` for ever
                if not self._hopeless.done():
                    self._hopeless.set_exception(error)
                break
        await ending

    def send(self, effects: Effects) -> None:
        """Queue everything that a step wants published, in order."""
        now_ms = time.time_ns() // NS_PER_MS
        for letter in effects.dead_letters:
            self._put(DEADLETTER, letter.message_key, encode(letter), [("kizashi_reason", letter.reason.encode())])
        for alert in effects.alerts:
            self.send_alert(alert, encode_alert(alert), now_ms)
        for done in effects.calibrations:
            self._put(CALIBRATION, done.asset.encode(), encode(done), [])
        for seen in effects.assessments:  # an audit, not a decision; each names its model
            self._put(ASSESSMENT, seen.asset.encode(), encode(seen), [], holds=False)

    def send_alert(self, alert: Alert, value: bytes, now_ms: int, *, history: bool = True) -> None:
        """Queue an alert for both topics, or (history=False) for the state topic alone."""
        headers = alert_headers(alert, self._served(alert.model.partition("@")[0]), now_ms, self._stale_ms)
        if history:
            self._put(ALERT, alert.asset.encode(), value, headers, made_ms=alert.t_last // NS_PER_MS)
        self._put(ALERT_STATE, alert.state_key, value, headers)

    def hold(self) -> None:
        """Keep back what is sent from now on, but for assessments, until `release`."""
        self._held = [] if self._held is None else self._held

    def release(self, *, send: bool = True) -> None:
        """Send what was kept back, in order; or forget it, because the process ends and the next owner repeats it."""
        held, self._held = self._held or (), None
        for number, message in held:
            if send:
                self._queue(number, message)
            else:
                self._bytes -= self._pending.pop(number)[0]
        self._progress.set()

    def mark(self) -> int:
        """Return a mark for `acknowledged`: everything queued so far."""
        return self._next

    async def acknowledged(self, mark: int) -> None:
        """Wait until everything queued before `mark` is acknowledged."""
        while self._pending and next(iter(self._pending)) < mark:
            self._progress.clear()
            await self._progress.wait()

    def crowded(self, limit: int, now: float) -> bool:
        """Say whether too much is unacknowledged, or for too long, to take on more. now: seconds, monotonic."""
        if not self._pending:
            return False
        waits_s = now - next(iter(self._pending.values()))[1]
        return len(self._pending) >= limit or self._bytes >= MAX_PENDING_BYTES or waits_s >= MAX_PENDING_S

    async def relieved(self, limit: int) -> None:
        """Wait until no more than half of `limit` is unacknowledged, and none of it for long."""
        while self.crowded(max(1, limit // 2), time.monotonic()):
            self._progress.clear()
            await self._progress.wait()

    async def failed(self) -> None:
        """Wait until a lane ends by an error that no retry mends, and raise it."""
        done, _ = await asyncio.wait([*self._tasks, self._hopeless], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def _put(self, topic: Topic, key: bytes, value: bytes, headers: Headers, made_ms: int = 0, *,
             holds: bool = True) -> None:
        name = self._names[topic.name]
        self._pending[self._next] = (len(value), time.monotonic())
        self._bytes += len(value)
        message = self._next, _Message(name, key, value, headers, made_ms)
        self._next += 1
        if self._held is None or not holds:
            self._queue(*message)
        else:
            self._held.append(message)

    def _queue(self, number: int, message: _Message) -> None:
        lane = self._lanes[message.topic]
        lane.queue.append((number, message))
        lane.wake.set()

    async def _run(self, lane: _Lane) -> None:
        while True:
            if lane.failed and not lane.out:
                await asyncio.sleep(RETRY_S)
                lane.again()
            if lane.failed or not lane.queue:
                lane.wake.clear()
                await lane.wake.wait()
                continue
            await self._ready.wait()
            if not lane.queue:
                continue
            number, message = lane.queue.popleft()
            lane.sending = asyncio.ensure_future(
                self._producer.send(message.topic, message.value, message.key, headers=message.headers))
            try:
                sent = await lane.sending
            except asyncio.CancelledError:
                if number in self._pending or _cancelled():
                    raise
                continue  # forgotten; a stopped client that still waited for metadata would never return
            except KafkaError as error:
                self._fail(lane, number, message, error)
                continue
            if number in self._pending:
                lane.out += 1
            sent.add_done_callback(lambda done, n=number, m=message: self._done(lane, n, m, done))

    def _done(self, lane: _Lane, number: int, message: _Message, done: "asyncio.Future[Any]") -> None:
        error = None if done.cancelled() else done.exception()
        if number not in self._pending:
            return  # forgotten
        lane.out -= 1
        lane.wake.set()
        if done.cancelled():
            return  # the producer was stopped: nobody may take this message for acknowledged
        if error is not None:
            self._fail(lane, number, message, error)
            return
        self._bytes -= self._pending.pop(number)[0]
        self._progress.set()
        if message.made_ms:
            self._on_acked(message.made_ms)

    def _fail(self, lane: _Lane, number: int, message: _Message, error: BaseException) -> None:
        if number not in self._pending:
            return
        lane.failed.append((number, message))
        self._on_retry(message.topic, error)
        if isinstance(error, HOPELESS) and not self._hopeless.done():
            self._hopeless.set_exception(_refused(message.topic, error))


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _refused(topic: str, error: BaseException) -> BrokerError:
    return BrokerError(f"topic {topic} refuses what this worker writes: {error!r}. Grant it the right to write, or "
                       "raise max.message.bytes (kizashi topics plan shows what is needed)")


def _despair(topic: str, error: BaseException) -> None:
    if isinstance(error, HOPELESS):
        raise _refused(topic, error) from error


async def write(producer: AIOKafkaProducer, topic: str, partition: int, records: Iterable[tuple[bytes, bytes | None]],
                on_retry: Callable[[BaseException], None]) -> None:
    """Write records to one partition and wait until all are acknowledged; tries again until that is so.

    Raises BrokerError where no retry helps.
    """
    left = list(records)
    while left:
        sent = []
        try:
            for key, value in left:
                sent.append(await producer.send(topic, value, key, partition=partition))
        except KafkaError as error:
            _despair(topic, error)
            on_retry(error)
        results = await asyncio.gather(*sent, return_exceptions=True)
        errors = [r for r in results if isinstance(r, BaseException)]
        for failure in errors:
            _despair(topic, failure)
        left = [r for i, r in enumerate(left) if i >= len(results) or isinstance(results[i], BaseException)]
        if left:
            if errors:
                on_retry(errors[0])
            await asyncio.sleep(RETRY_S)
