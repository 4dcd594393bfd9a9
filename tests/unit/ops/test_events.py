"""Events: line and counter agree, names and labels are closed lists."""

import ast
import io
import json
import logging
from pathlib import Path

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

import pipeline
from pipeline.ops import logs
from pipeline.ops.events import EVENTS, LABELS, Events
from pipeline.ops.metrics import Metrics
from pipeline.ops.settings import Log
from schemas import Alert, DeadLetter


class Stage:
    def __init__(self) -> None:
        self.now, self.stream, self.metrics = 0.0, io.StringIO(), Metrics()
        self.handler = logs.configure(Log(level="DEBUG"), stream=self.stream)
        self.events = Events(self.metrics, clock=lambda: self.now)

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def stage():
    level, stage = logging.root.level, Stage()
    yield stage
    logging.captureWarnings(False)
    logging.root.removeHandler(stage.handler)
    logging.root.setLevel(level)
    structlog.reset_defaults()


def letter(offset: int, reason: str = "not_finite") -> DeadLetter:
    return DeadLetter(reason=reason, detail="channel flow has NaN", stage="acquire", topic="t", partition=1,
                      offset=offset, timestamp_ms=0, length=1, sha256="", asset="pump-1")


def alert(severity: str, asset: str = "pump-1") -> Alert:
    return Alert(alert_id="a" * 24, revision=1, state="raised", active=True, site="s", asset=asset, asset_class="pump",
                 rule="mewma", severity=severity, criticality="B", annunciate=True, t_first=0, t_last=0, t_raised=0,
                 score=1.5, threshold=1.0, why="flow down", birth_id="0" * 16, seq=1, model="m")


def test_one_call_writes_the_line_and_moves_both_counters(stage):
    stage.events.emit("held", hold="publishing", pending=10_000)
    (line,) = stage.lines()
    assert (line["event"], line["level"], line["hold"], line["pending"]) == ("held", "warning", "publishing", 10_000)
    assert stage.count("kizashi_events_total", event="held") == 1
    assert stage.count("kizashi_holds_total", hold="publishing") == 1


def test_fields_that_are_amounts_are_added_and_observed(stage):
    stage.events.emit("checkpoint_written", partition=0, bytes=1000, pause_s=0.02, seconds=0.3)
    stage.events.emit("checkpoint_written", partition=1, bytes=500)
    assert stage.count("kizashi_checkpoint_bytes_total") == 1500
    assert stage.count("kizashi_checkpoints_total") == 2
    assert stage.count("kizashi_checkpoint_pause_seconds_count") == 1
    assert stage.count("kizashi_checkpoint_seconds_sum") == 0.3


def test_lines_of_repeated_events_add_up_to_their_counter(stage):
    for second in range(35):
        stage.now = float(second)
        stage.events.emit("frames_late", count=3, partition=0)
        stage.events.report()
    stage.events.report(final=True)
    lines = stage.lines()
    assert len(lines) <= 5
    assert sum(line["count"] for line in lines) == 105 == stage.count("kizashi_events_total", event="frames_late")


def test_a_repeated_event_that_went_quiet_is_told_by_the_timer(stage):
    stage.events.emit("frames_late", count=1)
    stage.events.emit("frames_late", count=7)
    assert [line["count"] for line in stage.lines()] == [1]
    stage.now = 11.0
    stage.events.report()
    assert [line["count"] for line in stage.lines()] == [1, 7]


def test_counters_of_the_state_that_move_are_told_as_events(stage):
    totals = {"received": 9, "late": 1, "duplicate": 0, "gap_frames": 0, "shed": 0}
    stage.events.frames(3, totals)
    assert stage.lines() == []
    stage.events.frames(3, totals | {"received": 12, "late": 3, "gap_frames": 7})
    assert {(line["event"], line["count"], line["partition"]) for line in stage.lines()} == {
        ("frames_late", 2, 3), ("frames_missing", 7, 3)}


def test_a_count_that_another_worker_restored_is_no_news(stage):
    totals = {"late": 1, "duplicate": 0, "gap_frames": 0, "shed": 0}
    stage.events.frames(3, totals)
    stage.events.forget(3)
    stage.events.frames(3, totals | {"late": 500})
    assert stage.lines() == []


def test_dead_letters_are_counted_by_reason_and_stage_with_an_example(stage):
    stage.events.dead_letters([letter(5), letter(6), letter(7, "wrong_length")])
    assert stage.count("kizashi_dead_letters_total", reason="not_finite", stage="acquire") == 2
    assert stage.count("kizashi_dead_letters_total", reason="wrong_length", stage="acquire") == 1
    first = stage.lines()[0]
    assert (first["count"], first["at"], first["asset"]) == (2, "t[1]@6", "pump-1")
    assert first["detail"] == "channel flow has NaN"


def test_alerts_are_counted_by_state_and_severity(stage):
    stage.events.alerts([alert("low"), alert("low", "pump-2"), alert("critical")])
    assert stage.count("kizashi_alerts_total", state="raised", severity="low") == 2
    assert stage.count("kizashi_alerts_total", state="raised", severity="critical") == 1
    assert [(line["count"], line["asset"]) for line in stage.lines()] == [(2, "pump-2"), (1, "pump-1")]


def test_a_label_value_outside_its_list_is_counted_as_other(stage):
    for text in ("nonsense", None, 3):
        stage.events.emit("dead_letters", reason=text, stage="acquire")
    assert stage.count("kizashi_dead_letters_total", reason="other", stage="acquire") == 3


def test_an_event_that_is_not_listed_is_refused(stage):
    with pytest.raises(KeyError):
        stage.events.emit("something_happened")


def test_a_flood_of_alerts_leaves_a_readable_log(stage):
    for i in range(20_000):
        stage.now = i / 2000
        stage.events.alerts([alert("high", f"pump-{i}")])
    stage.events.report(final=True)
    assert len(stage.lines()) <= 12
    assert sum(line["count"] for line in stage.lines()) == 20_000


def test_every_metric_has_our_prefix_a_unit_and_labels_from_closed_lists(stage):
    for event in EVENTS.values():
        assert set(event.labels) <= set(LABELS)
    for family in text_string_to_metric_families(stage.metrics.text().decode()):
        assert family.name.startswith(("kizashi_", "process_")), family.name
        assert family.documentation
        for sample in family.samples:
            assert set(sample.labels) <= {*LABELS, "event", "partition", "le", "version", "python"}


def test_every_event_named_in_the_code_is_listed():
    unknown = []
    for path in Path(pipeline.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name == "emit" and node.args[0].value not in EVENTS:
                    unknown.append(f"{path.name}:{node.lineno} {node.args[0].value}")
    assert unknown == []
