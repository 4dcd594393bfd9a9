"""`tail` and `deadletters replay` on Apache Kafka."""

import asyncio
import hashlib
import signal
import subprocess
import sys
import uuid

import pytest

from pipeline.broker import BrokerConfig, NewTopic, create_topics, make_producer, murmur2_partition
from pipeline.cli.main import main
from pipeline.ops.reader import Fetcher, read
from schemas import Alert, Assessment, AssetBirth, DeadLetter, TelemetryFrame
from schemas.codec import decode_frame, encode, encode_alert
from tests.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(90)
PARTITIONS = 3


class Stage:
    """A plant of its own (a prefix) on the session's broker, with the topics that these commands touch."""

    def __init__(self, address: str, capsys: pytest.CaptureFixture) -> None:
        self.cfg, self._capsys = BrokerConfig(address), capsys
        self.prefix = f"trial.{uuid.uuid4().hex[:8]}."
        new = [NewTopic(self.prefix + n, PARTITIONS) for n in ("telemetry.v1", "alert.v1", "asset.v1", "assessment.v1")]
        asyncio.run(create_topics(self.cfg, [*new, NewTopic(self.prefix + "deadletter.v1", 2)]))

    @property
    def options(self) -> list[str]:
        return ["--broker", self.cfg.bootstrap, "--set", f"topics.prefix={self.prefix}"]

    def kizashi(self, *args: str) -> tuple[int, list[str], str]:
        code = main([*args, *self.options])
        out, err = self._capsys.readouterr()
        return code, out.splitlines(), err

    def send(self, topic: str, *records: tuple[bytes | None, bytes | None]) -> list:
        async def send() -> list:
            producer = await make_producer(self.cfg, max_request_bytes=2 << 20)
            try:
                return [await producer.send_and_wait(self.prefix + topic, value, key=key) for key, value in records]
            finally:
                await producer.stop()

        return asyncio.run(send())

    def records(self, topic: str) -> list:
        async def collect() -> list:
            return [r async for r in read(self.cfg, self.prefix + topic, from_beginning=True, follow=False)]

        return asyncio.run(collect())

    def frames(self) -> list[TelemetryFrame]:
        return [decode_frame(r.value) for r in self.records("telemetry.v1")]

    def letter(self, original: bytes, *, kept: bool = True, partition: int = 0, offset: int = 0,
               reason: str = "unknown_birth") -> tuple[bytes, bytes]:
        letter = DeadLetter(
            reason=reason, detail="no birth came", stage="acquire", topic=self.prefix + "telemetry.v1", timestamp_ms=0,
            partition=partition, offset=offset, length=len(original), sha256=hashlib.sha256(original).hexdigest(),
            original=original if kept else None)
        return letter.message_key, encode(letter)


@pytest.fixture
def stage(kafka: KafkaBroker, capsys: pytest.CaptureFixture) -> Stage:
    return Stage(kafka.address, capsys)


def frame(seq: int, asset: str = "pump-1", data: bytes = b"\0" * 8) -> bytes:
    return encode(TelemetryFrame(asset=asset, birth_id="a" * 16, seq=seq, t0_ns=seq * 10, data=data))


def alert(i: int) -> tuple[bytes, bytes]:
    body = Alert(
        alert_id=f"{i:024x}", revision=1, state="raised", active=True, site="kyoto", asset=f"pump-{i}",
        asset_class="pump", rule="mewma", severity="high", criticality="B",
        annunciate=True, t_first=0, t_last=0, t_raised=0, score=4.2,
        threshold=1.0, why="flow down 61 %", birth_id="0" * 16, seq=7, model="m")
    return body.asset.encode(), encode_alert(body)


def test_tail_shows_what_is_there_and_ends(stage):
    stage.send("alert.v1", *map(alert, range(20)))
    code, lines, _ = stage.kizashi("tail", "alerts", "--from-beginning", "--no-follow")
    assert code == 0
    assert len(lines) == 20
    assert all("raised  high" in line and "flow down 61 %" in line for line in lines)


def test_tail_ends_after_as_many_as_asked_for(stage):
    stage.send("alert.v1", *map(alert, range(20)))
    code, lines, err = stage.kizashi("tail", "alerts", "--from-beginning", "--max", "3")
    assert (code, len(lines), err) == (0, 3, "")


def test_tail_shows_assessments_of_one_asset_row_by_row(stage):
    for asset in ("pump-1", "pump-2"):
        told = Assessment(asset, "0" * 16, "m@1", (7, 8), (0, 10**9), (0.5, 1.5), (1.0, 1.0), (0, 1))
        stage.send("assessment.v1", (asset.encode(), encode(told)))
    there = ("tail", "assessments", "--from-beginning", "--no-follow", "--set", "topics.assessment=true")
    code, lines, err = stage.kizashi(*there)
    assert (code, err) == (0, "")
    assert sorted(line.split()[3] for line in lines) == ["pump-1", "pump-2"]
    assert all("over" in line and "(2 rows, this is the newest)" in line for line in lines)
    code, lines, err = stage.kizashi(*there[:-2], "--asset", "pump-2", "--rows")
    assert [line.split()[2:4] for line in lines] == [["normal", "pump-2"], ["over", "pump-2"]]
    assert "topics.assessment is false" in err


def test_tail_of_an_empty_topic_ends_with_nothing(stage):
    assert stage.kizashi("tail", "deadletters", "--from-beginning", "--no-follow") == (0, [], "")


def test_tail_follows_until_it_is_interrupted(stage):
    command = [sys.executable, "-m", "pipeline.cli.main", "tail", "alerts", "--from-beginning", *stage.options]
    stage.send("alert.v1", alert(1))
    # A shell without job control starts what it puts in the background with SIGINT ignored, and a child inherits that.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as tail:
        try:
            assert "pump-1 " in tail.stdout.readline()
            stage.send("alert.v1", alert(2))
            assert "pump-2 " in tail.stdout.readline()
            tail.send_signal(signal.SIGINT)
            assert tail.wait(20) == 130
            assert tail.stderr.read() == ""
        finally:
            tail.kill()


def test_tail_shows_births_and_retirements(stage):
    birth = AssetBirth.make(
        asset="pump-1", start_ns=1, rate_hz=20.0, samples_per_frame=2, asset_class="pump", site="kyoto",
        channels=[{"name": "flow", "quantity": "flow", "unit": "m3/h"}])
    stage.send("asset.v1", (birth.key, encode(birth)), (birth.key, None))
    _, lines, _ = stage.kizashi("tail", "assets", "--from-beginning", "--no-follow")
    assert "born    pump-1 (pump, site kyoto, B) 20 Hz x 2 a frame: flow [m3/h]" in lines[0]
    assert "retired pump-1" in lines[1]


def test_a_topic_that_is_not_there_exits_3_and_is_not_created_by_looking(stage):
    stage.prefix = "nowhere."
    for _ in range(2):
        code, _, err = stage.kizashi("tail", "alerts")
        assert code == 3
        assert "topic nowhere.alert.v1 does not exist" in err
        assert "kizashi topics apply" in err


def test_replay_sends_the_originals_as_historical_frames_to_their_asset_s_partition(stage):
    letters = [stage.letter(frame(seq, asset)) for asset, seq in (("pump-2", 5), ("pump-1", 9), ("pump-1", 2))]
    stage.send("deadletter.v1", *letters)
    code, lines, _ = stage.kizashi("deadletters", "replay")
    assert (code, lines) == (0, ["replayed 3 frames of 2 assets"])
    found = stage.records("telemetry.v1")
    for record in found:
        sent = decode_frame(record.value)
        assert sent.historical
        assert record.key == sent.asset.encode()
        assert record.partition == murmur2_partition(record.key, PARTITIONS)
    assert [f.seq for f in stage.frames() if f.asset == "pump-1"] == [2, 9]


def test_replay_twice_sends_the_same_frames_again_which_are_duplicates_by_asset_birth_and_seq(stage):
    stage.send("deadletter.v1", stage.letter(frame(2)), stage.letter(frame(3)))
    stage.kizashi("deadletters", "replay")
    stage.kizashi("deadletters", "replay")
    sent = [(f.asset, f.birth_id, f.seq, f.historical) for f in stage.frames()]
    assert sent == [("pump-1", "a" * 16, 2, True), ("pump-1", "a" * 16, 3, True)] * 2


def test_dry_run_sends_nothing(stage):
    stage.send("deadletter.v1", stage.letter(frame(2)))
    code, lines, _ = stage.kizashi("deadletters", "replay", "--dry-run")
    assert (code, lines) == (0, ["would replay 1 frames of 1 assets"])
    assert stage.frames() == []


def test_large_originals_come_from_the_source_topic_or_are_reported_unrecoverable(stage):
    large = frame(2, data=b"\1" * 200_000)
    (there,) = stage.send("telemetry.v1", (b"pump-1", large))
    gone = frame(3, data=b"\2" * 200_000)
    other = frame(4, data=b"\3" * 200_000)
    stage.send(
        "deadletter.v1",
        stage.letter(large, kept=False, partition=there.partition, offset=there.offset),
        stage.letter(gone, kept=False, partition=there.partition, offset=there.offset + 100),
        stage.letter(other, kept=False, partition=there.partition, offset=there.offset),
    )
    code, lines, _ = stage.kizashi("deadletters", "replay")
    assert code == 0
    place = f"{stage.prefix}telemetry.v1[{there.partition}]@{there.offset}"
    assert sorted(lines[:2]) == sorted([
        f"unrecoverable {place} unknown asset: {len(other)} bytes, unknown_birth",
        f"unrecoverable {place[:-1]}100 unknown asset: {len(gone)} bytes, unknown_birth",
    ])
    assert lines[2:] == [
        "replayed 1 frames of 1 assets",
        "left 2: the original is larger than 64 KiB and the source topic no longer has it",
    ]
    assert [(f.seq, f.historical, len(f.data)) for f in stage.frames()] == [(2, False, 200_000), (2, True, 200_000)]


def test_reasons_narrow_the_replay_and_an_unknown_one_is_refused(stage):
    stage.send("deadletter.v1", stage.letter(frame(2)), stage.letter(frame(3), reason="not_finite"))
    assert stage.kizashi("deadletters", "replay", "--reason", "not_finite")[1] == ["replayed 1 frames of 1 assets"]
    assert [f.seq for f in stage.frames()] == [3]
    code, _, err = stage.kizashi("deadletters", "replay", "--reason", "not_finate")
    assert code == 2
    assert "known are undecodable, " in err


def test_garbage_in_the_dead_letter_topic_does_not_stop_the_replay(stage):
    stage.send("deadletter.v1", (b"k", b"\xc1"), (b"k", None), stage.letter(b"no frame"), stage.letter(frame(2)))
    code, lines, _ = stage.kizashi("deadletters", "replay")
    assert (code, lines[0]) == (0, "replayed 1 frames of 1 assets")
    assert lines[1].startswith("left 3: ")


def test_a_single_record_is_read_by_its_offset(stage):
    sent = stage.send("telemetry.v1", *[(b"pump-1", frame(i)) for i in range(50)])

    async def fetch() -> list:
        async with Fetcher(stage.cfg, stage.prefix + "telemetry.v1") as source:
            return [await source.fetch(m.partition, m.offset) for m in reversed(sent)] + [
                await source.fetch(sent[0].partition, 50), await source.fetch(99, 0)]

    *found, beyond, no_partition = asyncio.run(fetch())
    assert [decode_frame(r.value).seq for r in found] == list(reversed(range(50)))
    assert beyond is None
    assert no_partition is None
