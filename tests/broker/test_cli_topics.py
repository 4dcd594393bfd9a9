"""`topics` and `doctor` on Apache Kafka, and on a broker that lacks their calls."""

import subprocess
import sys
import time
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from pipeline.cli.main import main
from schemas import topics
from tests.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(90)


def wait_until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    """Ask the broker again until it says so: a change is confirmed before it is shown."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline


class Stage:
    """A plant of its own (a prefix) on the session's broker."""

    def __init__(self, address: str, capsys: pytest.CaptureFixture) -> None:
        self.address, self._capsys = address, capsys
        self.prefix = f"trial.{uuid.uuid4().hex[:8]}."
        self.admin = AdminClient({"bootstrap.servers": address, "log_level": 0})

    def kizashi(self, *args: str) -> tuple[int, str, str]:
        code = main([*args, "--broker", self.address, "--set", f"topics.prefix={self.prefix}"])
        out, err = self._capsys.readouterr()
        return code, out, err

    def name(self, topic: topics.Topic) -> str:
        return self.prefix + topic.name.removeprefix("kizashi.")

    def ours(self) -> dict[str, int]:
        found = self.admin.list_topics(timeout=10).topics
        return {name: len(t.partitions) for name, t in found.items() if name.startswith(self.prefix)}

    def settings(self, topic: topics.Topic) -> dict[str, str]:
        (answer,) = self.admin.describe_configs([ConfigResource("topic", self.name(topic))]).values()
        return {name: entry.value for name, entry in answer.result().items()}

    def set(self, topic: topics.Topic, **settings: str) -> None:
        set_ = AlterConfigOpType.SET
        entries = [ConfigEntry(k.replace("_", "."), v, incremental_operation=set_) for k, v in settings.items()]
        change = ConfigResource("topic", self.name(topic), incremental_configs=entries)
        (done,) = self.admin.incremental_alter_configs([change]).values()
        done.result()
        wanted = {k.replace("_", "."): v for k, v in settings.items()}
        wait_until(lambda: wanted.items() <= self.settings(topic).items())

    def create(self, topic: topics.Topic, partitions: int) -> None:
        self.admin.create_topics([NewTopic(self.name(topic), partitions, 1)])[self.name(topic)].result()
        wait_until(lambda: self.ours().get(self.name(topic)) == partitions)


@pytest.fixture
def stage(kafka: KafkaBroker, capsys: pytest.CaptureFixture) -> Stage:
    return Stage(kafka.address, capsys)


def test_plan_shows_what_is_missing_and_touches_nothing(stage):
    code, out, _ = stage.kizashi("topics", "plan", "--partitions", "3")
    assert code == 0
    assert [line[0] for line in out.splitlines()] == ["+"] * 7
    assert "retention.ms = 172800000, message.timestamp.type = LogAppendTime" in out
    assert stage.ours() == {}


def test_apply_creates_what_is_missing_and_a_second_time_nothing(stage):
    code, out, _ = stage.kizashi("topics", "apply", "--partitions", "3")
    assert (code, out.splitlines()[-1]) == (0, "7 changes made")
    wanted = {stage.name(t): 3 for t in topics.ALL if t is not topics.ASSESSMENT} | {stage.name(topics.ASSET): 1}
    assert stage.ours() == wanted
    for topic in (topics.TELEMETRY, topics.STATE, topics.ALERT_STATE):
        assert topic.settings.items() <= stage.settings(topic).items()
    code, out, _ = stage.kizashi("topics", "apply")
    assert (code, out.splitlines()[-1]) == (0, "0 changes made")
    assert {line[0] for line in out.splitlines()[:-1]} == {"="}


def test_topics_that_exist_are_changed_only_on_request_and_keep_what_else_is_set(stage):
    stage.kizashi("topics", "apply", "--partitions", "2")
    stage.set(topics.STATE, cleanup_policy="delete", min_compaction_lag_ms="7")
    stage.set(topics.TELEMETRY, retention_ms="1000000")
    code, out, _ = stage.kizashi("topics", "apply")
    assert code == 0
    assert "~ " + stage.name(topics.STATE) in out
    assert "cleanup.policy: delete -> compact" in out
    assert "topics that exist are changed only with --yes\n0 changes made" in out
    assert stage.settings(topics.STATE)["cleanup.policy"] == "delete"
    code, out, _ = stage.kizashi("topics", "apply", "--yes")
    assert (code, out.splitlines()[-1]) == (0, "1 change made")
    state = stage.settings(topics.STATE)
    assert state["cleanup.policy"] == "compact"
    assert state["min.compaction.lag.ms"] == "7"
    assert state["segment.bytes"] == "67108864"
    assert stage.settings(topics.TELEMETRY)["retention.ms"] == "1000000"


def test_the_state_topic_grows_to_the_partitions_of_a_telemetry_topic_that_was_there_first(stage):
    stage.create(topics.TELEMETRY, 6)
    stage.create(topics.STATE, 2)
    code, out, _ = stage.kizashi("topics", "apply", "--yes", "--partitions", "3")
    assert code == 0, out
    assert stage.ours()[stage.name(topics.STATE)] == 6
    assert stage.ours()[stage.name(topics.ALERT)] == 6
    assert stage.ours()[stage.name(topics.TELEMETRY)] == 6


def test_what_apply_cannot_mend_exits_3_and_says_what_a_person_can_do(stage):
    stage.create(topics.TELEMETRY, 2)
    stage.create(topics.STATE, 4)
    for command in ("plan", "apply"):
        code, out, _ = stage.kizashi("topics", command)
        assert code == 3
        assert f"! {stage.name(topics.STATE)}" in out
        assert "Delete this topic" in out


def test_a_worker_is_told_which_topics_are_missing_and_the_command_that_creates_them(stage):
    command = [sys.executable, "-m", "pipeline.cli.main", "run", "--broker", stage.address,
               "--set", f"topics.prefix={stage.prefix}", "--set", "metrics.port=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"kizashi: {stage.address}: no topic {stage.name(topics.TELEMETRY)}, ")
    assert "kizashi topics apply" in last
    assert "Traceback" not in done.stderr


def test_doctor_finds_missing_topics_and_afterwards_nothing(stage):
    code, out, _ = stage.kizashi("doctor", "--set", "metrics.enabled=false")
    assert code == 3
    assert f"wrong topics missing: {stage.name(topics.TELEMETRY)}, " in out
    assert "-> kizashi topics apply" in out
    stage.kizashi("topics", "apply")
    code, out, _ = stage.kizashi("doctor", "--set", "metrics.enabled=false")
    assert code == 0, out
    lines = {line.split()[1]: line for line in out.splitlines()}
    for subject in ("config", "broker", "topics", "clock", "disk", "engine"):
        assert lines[subject].startswith("ok "), out
    assert "7 topics are as wanted" in lines["topics"]
    assert "(+-" in lines["clock"]
    assert "onnx_cpu runs anomaly-mewma" in lines["engine"]


def test_doctor_leaves_nothing_behind(stage):
    stage.kizashi("topics", "apply")
    before = stage.ours()
    stage.kizashi("doctor")
    assert stage.ours() == before


def test_doctor_names_a_wrong_setting_with_the_fix(stage):
    stage.kizashi("topics", "apply")
    stage.set(topics.TELEMETRY, message_timestamp_type="CreateTime")
    code, out, _ = stage.kizashi("doctor")
    assert code == 3
    assert "message.timestamp.type: CreateTime -> LogAppendTime\n" in out
    assert "-> kizashi topics apply --yes" in out


def test_doctor_names_an_engine_that_cannot_serve(stage):
    stage.kizashi("topics", "apply")
    code, out, _ = stage.kizashi("doctor", "--set", "routes=[{bundle='nowhere'}]")
    assert code == 4
    assert "wrong engine there is no bundle 'nowhere'" in out


def test_doctor_without_a_broker_still_checks_the_rest(capsys):
    assert main(["doctor", "--broker", "127.0.0.1:1"]) == 3
    out = capsys.readouterr().out
    assert "wrong broker cannot" in out
    assert "-> start the broker, or set broker.bootstrap" in out
    assert "ok    engine" in out
    assert "topics" not in out.replace("look up topic", "")


@pytest.fixture
def mock_stage(mock_broker: str, capsys: pytest.CaptureFixture) -> Stage:
    return Stage(mock_broker, capsys)


def test_doctor_leaves_out_what_a_broker_for_demonstrations_cannot_tell(mock_stage):
    code, out, _ = mock_stage.kizashi("doctor", "--set", "metrics.enabled=false")
    assert code == 0, out
    assert "note  topics not checked: " in out
    assert "note  clock  not compared" in out


def test_topics_says_that_a_broker_for_demonstrations_cannot_describe_its_topics(mock_stage):
    code, _, err = mock_stage.kizashi("topics", "plan")
    assert code == 3
    assert "does not offer what is needed to describe topics" in err
