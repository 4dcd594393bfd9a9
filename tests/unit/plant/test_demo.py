"""What the demo makes of what it sees: its figures, its verdict, the law from checkpoints, and the picture."""

import io
import tomllib
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipeline import checkpoint
from pipeline.broker import BrokerConfig
from pipeline.columns import Poll
from pipeline.ops.config import load_settings
from pipeline.ops.settings import Settings
from pipeline.plant.demo import HISTORY_S, PLANTED, Demo, Result, plant_of
from pipeline.plant.demofleet import TurbofanFleet
from pipeline.plant.demolaw import Law, counts_of, law_of
from pipeline.plant.demoreport import print_verdict, problems, report
from pipeline.plant.demoscene import Finding, Scene, findings, quantiles_ms
from pipeline.plant.demoview import PlainView, bar, picture, view_for
from pipeline.plant.demoworker import settings_toml
from pipeline.plant.faults import Fault
from pipeline.plant.replay import Replay
from pipeline.plant.simulator import Plant
from pipeline.state import COUNTERS
from schemas import Alert, Assessment, Contribution
from schemas.codec import encode
from schemas.topics import ALL

START_NS = 1_700_000_000 * 10**9
FAULTS = (Fault(kind="leak", asset="a/1", onset_s=10.0), Fault(kind="cavitation", asset="a/2", onset_s=12.0))
ASSETS = ("a/1", "a/2", "a/3")


def an_alert(asset: str, raised_s: float, *, revision: int = 1, seq: int = 7, **more: object) -> Alert:
    raised_ns = START_NS + round(raised_s * 1e9)
    content = {
        "alert_id": f"{asset}@{seq}", "revision": revision, "state": "raised", "active": True, "site": "demo",
        "asset": asset, "asset_class": "pump", "rule": "anomaly", "severity": "medium", "criticality": "B",
        "annunciate": True, "t_first": START_NS, "t_last": raised_ns, "t_raised": raised_ns, "score": 2.5,
        "threshold": 1.0, "why": "discharge_pressure down (80%)", "birth_id": "0" * 16, "seq": seq, "model": "m@1",
        "contributions": (Contribution("discharge_pressure", 0.8, "down"), Contribution("flow", 0.2, "up")),
    }
    return Alert(**{**content, **more})  # type: ignore[arg-type]


def scores(asset: str, *seqs: int, state: int = 0) -> Assessment:
    n = len(seqs)
    return Assessment(asset, "0" * 16, "m@1", seqs, (0,) * n, (0.5,) * n, (1.0,) * n, (state,) * n)


def a_scene() -> Scene:
    return Scene(ASSETS, FAULTS, START_NS)


def test_scene_follows_the_state_of_each_asset() -> None:
    scene = a_scene()
    assert scene.count("calibrating") == 3 and not scene.caught_up(-1)
    scene.calibrated("a/1")
    scene.assessed(scores("a/2", 5, state=1), 1.0)
    scene.assessed(scores("a/3", 5, 6, state=2), 1.0)
    assert [scene.states[a] for a in ASSETS] == ["normal", "over", "alert"]
    assert not scene.caught_up(5)
    scene.assessed(scores("a/1", 5, 6), 1.0)
    assert scene.caught_up(5) and not scene.caught_up(6)


def test_scene_counts_the_rate_over_the_last_seconds_only() -> None:
    scene = a_scene()
    scene.assessed(scores("a/1", *range(50)), 1.0)
    scene.assessed(scores("a/2", *range(20)), 4.0)
    assert scene.frames_per_s(5.0) == 14.0
    assert scene.frames_per_s(7.0) == 4.0
    assert scene.judged == 70


def test_scene_times_frames_that_were_noted_and_raised_alerts_alone() -> None:
    scene = a_scene()
    scene.sending(7, 1.0)
    scene.assessed(scores("a/1", 6, 7), 1.25)
    assert list(scene.score_s) == [0.25]
    scene.alerted(an_alert("a/1", 11.0, seq=7), 1.5)
    scene.alerted(an_alert("a/1", 11.0, seq=7, state="updated", revision=2), 1.9)
    scene.alerted(an_alert("a/2", 13.0, seq=6), 1.9)  # never noted: it waited for the worker to start
    assert scene.alert_s == [0.5]
    assert quantiles_ms(scene.alert_s) == (500.0, 500.0)
    assert quantiles_ms([]) is None


def test_scene_ignores_a_revision_that_comes_twice() -> None:
    scene = a_scene()
    for revision in (1, 2, 1, 2):
        scene.alerted(an_alert("a/1", 11.0, revision=revision), 1.0)
    assert [a.revision for a in scene.alerts] == [1, 2]


def test_findings_match_a_fault_with_the_first_alert_after_its_onset() -> None:
    scene = a_scene()
    for alert in (an_alert("a/1", 13.0, seq=9), an_alert("a/1", 11.5, seq=8), an_alert("a/1", 20.0, seq=10)):
        scene.alerted(alert, 1.0)
    found, false = findings(scene)
    assert [f.alert.seq if f.alert else None for f in found] == [8, None]
    assert found[0].delay_s == 1.5 and found[0].named == "discharge_pressure"
    assert found[1].delay_s is None and found[1].named is None
    assert false == []


def test_findings_call_alerts_on_healthy_assets_and_before_the_onset_false() -> None:
    scene = a_scene()
    early, healthy = an_alert("a/1", 9.0, seq=1), an_alert("a/3", 15.0, seq=2, rule="silent")
    for alert in (early, healthy, an_alert("a/1", 11.0, seq=3)):
        scene.alerted(alert, 1.0)
    found, false = findings(scene)
    assert false == [early, healthy]
    assert found[0].alert is not None and found[0].alert.seq == 3


def a_law(**changes: int) -> Law:
    counts = dict.fromkeys(COUNTERS, 0) | {"received": 10, "judged": 10, "rows": 4, "rows_scored": 4}
    return Law(10, counts | changes, at_end=True)


def test_the_law_holds_only_if_every_frame_and_row_has_an_end() -> None:
    assert a_law().holds
    assert a_law(judged=7, dead_lettered=1, late=1, duplicate=1).holds
    assert not a_law(judged=9).holds
    assert not a_law(rows_scored=3).holds
    assert not a_law(received=9, judged=9).holds  # one that was published never arrived
    assert not Law(10, a_law().counts, at_end=False).holds


def test_the_law_is_read_from_blocks_and_manifests_of_checkpoints() -> None:
    plant = Plant(seed=2, assets=3, start_ns=START_NS)
    frames = [encode(f) for r in plant.rounds(count=300) for f in r]
    values = [*frames, b"\xc1", frames[-1]]
    n = len(values)
    poll = Poll(0, np.arange(n), np.full(n, START_NS // 10**6 + 40_000), values, [None] * n, n)
    with Replay(Settings()) as run:
        list(run.run([*plant.births, poll]))
        snapshot = checkpoint.take(run.flow.partitions[0], "id", 1)
        records = {key: checkpoint.encode(r) for key, r in snapshot.blocks} | {
            "manifest": checkpoint.encode(snapshot.manifest)}
        counts, manifest = counts_of(records)
        assert counts == run.totals()
    assert manifest is not None and manifest.offset == 902
    assert (counts["received"], counts["judged"], counts["dead_lettered"], counts["duplicate"]) == (902, 900, 1, 1)
    assert counts["rows"] == counts["rows_scored"] == 3 * 100
    assert law_of(902, [(records, 902), ({}, 0)]).holds
    assert not law_of(902, [(records, 903)]).holds


def a_result(scene: Scene, law: Law | None = None, worker_exit: int = 0) -> Result:
    return Result(scene, law or a_law(), worker_exit, 41.0, {})


def found_all() -> Scene:
    scene = a_scene()
    scene.alerted(an_alert("a/1", 11.5, seq=8), 1.0)
    scene.alerted(an_alert("a/2", 14.0, seq=9), 1.0)
    return scene


def test_verdict_names_everything_that_went_wrong() -> None:
    assert problems(a_result(found_all())) == []
    scene = found_all()
    scene.alerts.pop()
    scene.alerted(an_alert("a/3", 14.0, seq=9), 1.0)
    wrong = problems(a_result(scene, a_law(judged=9), worker_exit=-9))
    assert [w.split(":")[0] for w in wrong] == [
        "cavitation on a/2 was not found", "false alarm on a/3", "the conservation law does not hold",
        "the worker ended with exit code -9",
    ]


def printed(result: Result, width: int = 80) -> str:
    out = io.StringIO()
    print_verdict(Console(file=out, width=width), result)
    return out.getvalue()


def test_verdict_prints_the_table_the_law_and_one_line_that_says_it_all() -> None:
    text = printed(a_result(found_all()))
    assert "planted fault" in text and "first channel named" in text
    (line,) = [x for x in text.splitlines() if x.startswith("leak")]
    assert line.split() == ["leak", "a/1", "10.0", "s", "11.5", "s", "1.5", "s", "discharge_pressure"]
    assert "frames   published 10 = received 10\n         = judged 10 + dead-lettered 0 + late 0" in text
    assert max(map(len, text.splitlines())) < 80
    assert text.rstrip().endswith("every planted fault found, no false alarm, nothing lost (41 s)")


def a_demo(seconds: float) -> Demo:
    cfg, plant = BrokerConfig("127.0.0.1:1"), plant_of(1, seconds, START_NS)
    return Demo(cfg, "r1", plant, TurbofanFleet.read(seconds, START_NS), seconds)


def test_report_is_json_with_the_numbers_of_the_verdict() -> None:
    demo = a_demo(30.0)
    out = report(demo, a_result(found_all()), "in-process broker")
    assert out["ok"] is True and out["run"] == "r1"
    assert out["faults"][0]["delay_s"] == 1.5 and out["faults"][0]["channel_named"] == "discharge_pressure"
    assert out["law"]["received"] == 10 and out["law"]["holds"] is True


def test_demo_plants_three_kinds_of_faults_while_the_worker_is_there_to_see_them() -> None:
    plant = plant_of(1, 20.0, START_NS)
    assert len({kind for kind, _, _ in PLANTED}) == len({asset for _, asset, _ in PLANTED}) == 3
    assert plant.assets == 24 and len(plant.births[0].channels) == 8
    for fault in plant.faults:
        assert 6.0 <= fault.onset_s - HISTORY_S <= 20.0 - 9.0
    assert plant.start_ns == START_NS - round(HISTORY_S * 1e9)


def test_demo_stays_under_its_own_prefix(tmp_path: Path) -> None:
    demo = a_demo(20.0)
    assert {demo.topics.name(t).removeprefix("kizashi.demo.r1.") for t in ALL} == {
        t.name.removeprefix("kizashi.") for t in ALL}
    cfg = BrokerConfig("h:9092", "SASL_SSL", sasl_mechanism="PLAIN", sasl_username='a"b', sasl_password="p\\w")
    (tmp_path / "w.toml").write_text(settings_toml(cfg, "r1"))
    settings = load_settings(tmp_path / "w.toml", {}, {})
    assert settings.topics == demo.topics and settings.group.id == demo.group
    assert settings.broker.bootstrap == "h:9092" and settings.broker.username == 'a"b'
    assert settings.broker.password is not None and settings.broker.password.get_secret_value() == "p\\w"
    assert settings.worker.start == "earliest" and not settings.metrics.enabled
    assert tomllib.loads(settings_toml(cfg, "r1"))["topics"]["prefix"] == "kizashi.demo.r1."


@pytest.mark.parametrize("width", [80, 100, 160])
def test_picture_fits_a_terminal_of_24_lines_and_shows_states_and_why(width: int) -> None:
    plant = plant_of(1, 30.0, START_NS)
    scene = Scene(plant.names, tuple(plant.faults), plant.start_ns)
    scene.assessed(scores("line1/pump-05", 400, state=2), 9.0)
    for n in range(6):
        for revision in (1, 2):
            why = f"{'was' if revision == 1 else 'flow'} down (98%), " * 20
            scene.alerted(an_alert("line1/pump-05", 40.0, revision=revision, seq=n, why=why), 9.0)
    out = io.StringIO()
    Console(file=out, width=width).print(picture(scene, "title", bar("live", 9.0, 30.0), 9.0, width - 2))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 23 and max(map(len, lines)) == width - 2
    assert "✖ pump-05" in out.getvalue() and "9 of 30 s  live" in out.getvalue()
    assert sum("line1/pump-05  flow down (98%)" in line and "…" in line for line in lines) == 6
    assert "was down" not in out.getvalue()  # an alert is shown once, by its last revision


def test_view_is_plain_lines_where_there_is_no_terminal() -> None:
    out, scene = io.StringIO(), a_scene()
    view = view_for(Console(file=out, width=60), scene, "title", 100.0, 30.0)
    assert isinstance(view, PlainView)
    with view:
        view.update("the worker starts", 100.0)
        view.update("the worker starts", 101.0)
        scene.alerted(an_alert("a/1", 11.5), 1.0)
        view.update("live", 103.0)
        view.update("live", 108.1)
    lines = out.getvalue().splitlines()
    assert lines[0] == "title"
    assert [line.split(" s ")[0].strip() for line in lines[1:]] == ["0.0", "3.0", "3.0", "8.1"]
    assert "raised  medium   a/1  discharge_pressure down (80%)" in lines[2]
    assert "· 3 calibrating" in lines[1]


def test_finding_without_an_alert_names_nothing() -> None:
    assert Finding(FAULTS[0], None).named is None
