"""What counts as acknowledged, and what happens to what fails."""

import asyncio
import time
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, TopicAuthorizationFailedError

from pipeline import publish
from pipeline.broker import Overtaken
from pipeline.columns import Effects
from pipeline.errors import BrokerError, ConfigError
from pipeline.ops.settings import Topics
from pipeline.publish import Publisher, alert_headers
from schemas import Alert, Assessment, DeadLetter

SERVED = [("kizashi_backend", b"onnx_cpu")]


def alert(n: int, **fields: Any) -> Alert:
    return Alert(**{"alert_id": f"{n:024x}", "revision": 1, "state": "raised", "active": True, "site": "s",
                    "asset": "a",
                    "asset_class": "pump", "rule": "r", "severity": "low", "criticality": "B", "annunciate": True,
                    "t_first": 0, "t_last": 10**18, "t_raised": 0, "score": 1.0, "threshold": 1.0, "why": "",
                    "birth_id": "0" * 16, "seq": n, "model": "m@1.0.0", **fields})


def letter(n: int) -> DeadLetter:
    return DeadLetter(reason="empty", detail="", stage="acquire", topic="t", partition=0, offset=n, timestamp_ms=0,
                      length=0, sha256="")


class Broker:
    """A producer whose acknowledgements the test gives. fails: topics whose next send is refused."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self.fails: list[str] = []
        self.hangs = False
        self.may_write: Any = None
        self.stopped = False

    async def stop(self) -> None:
        self.stopped = True

    async def send(self, topic: str, value: bytes, key: bytes, **options: Any) -> Any:
        if topic in self.fails:
            self.fails.remove(topic)
            raise KafkaTimeoutError
        if self.hangs:
            await asyncio.Event().wait()
        future = asyncio.get_running_loop().create_future()
        self.sent.append((topic, key, future))
        return future

    def topic(self, name: str) -> list[asyncio.Future[None]]:
        return [f for t, _, f in self.sent if t == name]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "RETRY_S", 0.0)


def run(test: Any) -> None:
    async def main() -> None:
        broker, heard = Broker(), list[str]()

        async def make(may_write: Any) -> Any:
            broker.may_write = may_write
            return broker

        publisher = Publisher(make, Topics(), served=lambda bundle: SERVED, stale_ms=1000,
                              on_retry=lambda topic, error: heard.append(topic))
        await publisher.start()
        await test(broker, publisher, heard)
        await publisher.stop()

    asyncio.run(main())


def test_acknowledged_waits_for_everything_before_the_mark_and_nothing_after_it() -> None:
    async def test(broker: Broker, publisher: Publisher, heard: list[str]) -> None:
        publisher.send(Effects(alerts=[alert(1)], dead_letters=[letter(1)]))
        waiting = asyncio.ensure_future(publisher.acknowledged(publisher.mark()))
        publisher.send(Effects(alerts=[alert(2)]))
        await settle()
        for future in (*broker.topic("kizashi.alert.v1")[:1], *broker.topic("kizashi.alert.state.v1")[:1]):
            future.set_result(None)
        await settle()
        assert not waiting.done()
        broker.topic("kizashi.deadletter.v1")[0].set_result(None)
        await settle()
        assert waiting.done() and publisher.pending == 2

    run(test)


def test_a_message_is_sent_again_until_it_is_acknowledged() -> None:
    async def test(broker: Broker, publisher: Publisher, heard: list[str]) -> None:
        broker.fails = ["kizashi.deadletter.v1"]
        publisher.send(Effects(dead_letters=[letter(1)]))
        await settle()
        broker.topic("kizashi.deadletter.v1")[0].set_exception(KafkaTimeoutError())
        await settle()
        assert publisher.pending == 1 and heard == ["kizashi.deadletter.v1"] * 2
        broker.topic("kizashi.deadletter.v1")[1].set_result(None)
        await settle()
        assert publisher.pending == 0

    run(test)


def test_an_unreachable_topic_holds_up_no_other() -> None:
    async def test(broker: Broker, publisher: Publisher, heard: list[str]) -> None:
        broker.fails = ["kizashi.deadletter.v1"] * 10**6
        publisher.send(Effects(dead_letters=[letter(1)], alerts=[alert(1)]))
        await settle()
        for future in broker.topic("kizashi.alert.v1") + broker.topic("kizashi.alert.state.v1"):
            future.set_result(None)
        await settle()
        assert publisher.pending == 1 and len(broker.topic("kizashi.alert.v1")) == 1

    run(test)


def test_what_failed_together_is_sent_again_in_its_order_and_not_overtaken() -> None:
    async def test(broker: Broker, publisher: Publisher, heard: list[str]) -> None:
        publisher.send(Effects(dead_letters=[letter(n) for n in range(3)]))
        await settle()
        first = broker.topic("kizashi.deadletter.v1")
        first[1].set_exception(KafkaTimeoutError())
        publisher.send(Effects(dead_letters=[letter(3)]))
        await settle()
        assert len(broker.topic("kizashi.deadletter.v1")) == 3  # the rest waits for what is out
        first[2].set_exception(KafkaTimeoutError())
        first[0].set_result(None)
        await settle()
        assert [key for _, key, _ in broker.sent[3:]] == [b"t|0|1", b"t|0|2", b"t|0|3"]

    run(test)


def test_a_refusal_that_no_retry_mends_ends_the_publisher() -> None:
    async def test(broker: Broker, publisher: Publisher, heard: list[str]) -> None:
        publisher.send(Effects(dead_letters=[letter(1)]))
        await settle()
        broker.topic("kizashi.deadletter.v1")[0].set_exception(TopicAuthorizationFailedError())
        with pytest.raises(BrokerError, match=r"kizashi\.deadletter\.v1 refuses"):
            await publisher.failed()

    run(test)


def test_too_much_or_too_old_unacknowledged_asks_for_patience() -> None:
    async def test(broker: Broker, publisher: Publisher, heard: list[str]) -> None:
        now = time.monotonic()
        assert not publisher.crowded(1, now)
        publisher.send(Effects(dead_letters=[letter(1)]))
        assert publisher.crowded(1, now) and not publisher.crowded(2, now)
        assert publisher.crowded(2, now + publish.MAX_PENDING_S + 1)
        relieved = asyncio.ensure_future(publisher.relieved(1))
        await settle()
        broker.topic("kizashi.deadletter.v1")[0].set_result(None)
        await settle()
        assert relieved.done()

    run(test)


def test_a_stopped_producers_cancelled_sends_are_not_acknowledged() -> None:
    async def test(broker: Broker, publisher: Publisher, heard: list[str]) -> None:
        publisher.send(Effects(dead_letters=[letter(1)]))
        await settle()
        broker.topic("kizashi.deadletter.v1")[0].cancel()
        await settle()
        assert publisher.pending == 1

    run(test)


async def test_write_sends_only_what_failed_again() -> None:
    broker, retries = Broker(), list[BaseException]()
    task = asyncio.ensure_future(publish.write(  # type: ignore[arg-type]
        broker, "state", 3, [(b"a", b"1"), (b"b", b"2")], retries.append))
    await settle()
    broker.sent[0][2].set_result(None)
    broker.sent[1][2].set_exception(KafkaTimeoutError())
    await settle()
    assert [key for _, key, _ in broker.sent] == [b"a", b"b", b"b"] and len(retries) == 1
    broker.sent[2][2].set_result(None)
    await task


def test_headers_say_stale_by_the_workers_clock_while_the_value_stays_the_same() -> None:
    fresh = dict(alert_headers(alert(1), SERVED, 10**12, 1000))
    old = dict(alert_headers(alert(1), SERVED, 10**12 + 2000, 1000))
    assert (fresh["kizashi_annunciate"], old["kizashi_annunciate"]) == (b"1", b"0")
    assert fresh["ce_id"] == f"{1:024x}.1".encode() and fresh["ce_time"] == b"2001-09-09T01:46:40.000Z"


def test_what_is_held_is_sent_in_order_by_release_or_forgotten_but_assessments_go_on() -> None:
    seen = Assessment(asset="a", birth_id="0" * 16, model="m@1.0.0", seq=(1,), t_end=(1,), score=(0.5,), limit=(1.0,),
                      state=(0,))

    async def test(broker: Broker, publisher: Publisher, heard: list[str]) -> None:
        publisher.send(Effects(alerts=[alert(1)]))
        mark = publisher.mark()
        publisher.hold()
        publisher.send(Effects(alerts=[alert(2), alert(3)], dead_letters=[letter(1)], assessments=[seen]))
        await settle()
        assert [t for t, _, _ in broker.sent] == ["kizashi.alert.v1", "kizashi.alert.state.v1", "kizashi.assessment.v1"]
        for _, _, future in broker.sent:
            future.set_result(None)
        await asyncio.wait_for(publisher.acknowledged(mark), 1)  # what is held does not keep a checkpoint waiting
        publisher.release()
        await settle()
        assert [key for t, key, _ in broker.sent if t == "kizashi.alert.state.v1"] == [
            alert(n).state_key for n in (1, 2, 3)]
        assert len(broker.topic("kizashi.deadletter.v1")) == 1
        for _, _, future in broker.sent:
            if not future.done():
                future.set_result(None)
        await settle()
        assert publisher.pending == 0
        publisher.hold()
        publisher.send(Effects(alerts=[alert(4)]))
        publisher.release(send=False)
        await settle()
        assert publisher.pending == 0 and len(broker.topic("kizashi.alert.v1")) == 3

    run(test)


def test_what_is_forgotten_is_neither_written_nor_waited_for_and_a_new_producer_goes_on() -> None:
    async def test(broker: Broker, publisher: Publisher, heard: list[str]) -> None:
        publisher.send(Effects(alerts=[alert(1)]))
        await settle()
        publisher.send(Effects(alerts=[alert(2)]))
        waiting, old = asyncio.ensure_future(publisher.acknowledged(publisher.mark())), broker.may_write
        assert old()
        publisher.forget()
        with pytest.raises(Overtaken):
            old()
        assert publisher.pending == 0
        await settle()
        assert waiting.done() and broker.stopped and broker.may_write is not old
        for future in broker.topic("kizashi.alert.v1"):
            future.set_exception(Overtaken())
        publisher.send(Effects(alerts=[alert(3)]))
        await settle()
        assert not heard and [key for t, key, _ in broker.sent if t == "kizashi.alert.state.v1"] == [
            alert(1).state_key, alert(3).state_key]
        assert publisher.pending == 2

    run(test)


def test_a_send_that_the_old_producer_never_returns_from_holds_up_nothing_once_it_is_forgotten() -> None:
    async def test(broker: Broker, publisher: Publisher, heard: list[str]) -> None:
        broker.hangs = True  # as aiokafka's first send to a topic does when its client is closed meanwhile
        publisher.send(Effects(alerts=[alert(1)]))
        await settle()
        publisher.forget()
        broker.hangs = False
        await settle()
        publisher.send(Effects(alerts=[alert(2)]))
        waiting = asyncio.ensure_future(publisher.acknowledged(publisher.mark()))
        await settle()
        assert [key for t, key, _ in broker.sent if t == "kizashi.alert.state.v1"] == [alert(2).state_key]
        for _, _, future in broker.sent:
            future.set_result(None)
        await settle()
        assert waiting.done() and publisher.pending == 0
        broker.hangs = True
        publisher.send(Effects(alerts=[alert(3)]))
        await settle()
        publisher.forget()  # and stopped in the same step: the lane ends

    run(test)


def test_any_error_of_a_new_producer_is_told_and_not_waited_out() -> None:
    async def test(broker: Broker, publisher: Publisher, heard: list[str]) -> None:
        async def refuse(may_write: Any) -> Any:
            raise ConfigError("the certificate is being rotated")

        publisher._make = refuse
        publisher.send(Effects(alerts=[alert(1)]))
        publisher.forget()
        with pytest.raises(ConfigError, match="rotated"):
            await asyncio.wait_for(publisher.failed(), 1)

    run(test)


def test_stop_waits_for_every_old_producer() -> None:
    ended: list[asyncio.Future[None]] = []

    async def test(broker: Broker, publisher: Publisher, heard: list[str]) -> None:
        async def ends() -> None:
            if len(ended) < 2:
                ended.append(asyncio.get_running_loop().create_future())
                await ended[-1]

        broker.stop = ends  # type: ignore[method-assign]
        for n in range(2):
            publisher.send(Effects(alerts=[alert(n)]))
            publisher.forget()
            await settle()

    run(test)
    assert [future.cancelled() for future in ended] == [True, True]
