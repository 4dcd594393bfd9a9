"""Replay: the worker's flow over files, the same bytes every time."""

import csv
import json
from pathlib import Path

import msgspec
import pytest

from pipeline.columns import Effects
from pipeline.errors import ModelError
from pipeline.ops.settings import Route, Settings
from pipeline.plant.capture import Record
from pipeline.plant.faults import Fault
from pipeline.plant.replay import Replay
from pipeline.plant.simulator import Plant
from pipeline.plant.source import Source
from schemas import MachineEvent
from schemas.codec import encode
from tests.plant import a_capture, kizashi, records_of

SKAB_DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "skab"
ROOT = Path(__file__).resolve().parents[3]
FAULTS = (
    Fault(kind="bearing_wear", asset="line1/pump-02", onset_s=50.0, ramp_s=4.0, magnitude=8.0),
    Fault(kind="leak", asset="line1/pump-04", onset_s=55.0, ramp_s=4.0, magnitude=8.0),
)
PLANT = Plant(seed=11, assets=4, start_ns=1_700_000_000 * 10**9, faults=FAULTS)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_capture(tmp_path_factory.mktemp("replay") / "plant.capture", records_of(PLANT, 800))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def effects_of(path: Path) -> list[Effects]:
    with Replay(Settings()) as run:
        return list(run.run(Source((path,))))


def test_replay_names_the_planted_faults_and_no_other_asset(capture: Path) -> None:
    raised = [a for e in effects_of(capture) for a in e.alerts if a.state == "raised"]
    assert sorted(a.asset for a in raised) == ["line1/pump-02", "line1/pump-04"]
    for alert, fault in zip(sorted(raised, key=lambda a: a.asset), FAULTS, strict=True):
        assert alert.contributions[0].channel == fault.first_channel
        assert 0 < (alert.t_raised - PLANT.start_ns) / 1e9 - fault.onset_s < 4.0


def test_replay_writes_the_same_bytes_twice_and_scores_one_row_a_frame_after_calibration(
    capture: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        code, out, err = kizashi("replay", capture, "--out", tmp_path / name)
        assert (code, err) == (0, "")
        assert "frames: received 3200 = judged 3200 + dead-lettered 0 + late 0 + duplicate 0" in out
    for file in ("alerts.jsonl", "deadletters.jsonl", "scores.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with (tmp_path / "a" / "scores.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    first = [r for r in rows if r["asset"] == "line1/pump-01"]
    assert [int(r["seq"]) for r in first] == list(range(200, 800))  # 400 samples of calibration are 200 frames
    assert first[0]["t_end"] == "2023-11-14T22:13:40.050000000Z"  # the second sample of frame 200, at 20 Hz
    ill = [r for r in rows if r["asset"] == "line1/pump-02"]
    assert {r["state"] for r in ill[-50:]} == {"2"}
    assert min(float(r["score"]) for r in ill[-50:]) > 1.0


def test_replay_judges_what_it_can_of_a_damaged_capture_and_ends_as_bad_input(capture: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.capture"
    cut.write_bytes(capture.read_bytes()[:-5])
    code, _, err = kizashi("replay", cut, "--out", tmp_path / "out")
    assert code == 5
    assert "cut.capture: byte" in err and "ends within a record" in err
    assert len(lines(tmp_path / "out" / "alerts.jsonl")) >= 2
    assert len((tmp_path / "out" / "scores.csv").read_text().splitlines()) == 1 + 4 * 600 - 1


def test_replay_dead_letters_what_a_worker_would_and_keeps_the_law(tmp_path: Path) -> None:
    good = records_of(PLANT, 210)
    at = len(good) - 40
    bad = Record("kizashi.telemetry.v1", 0, 9_000, good[at].timestamp_ms, b"line1/pump-01", b"\xc1 no frame")
    path = a_capture(tmp_path / "x.capture", [*good[:at], bad, good[at - 1], *good[at:]])
    code, out, err = kizashi("replay", path, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "frames: received 842 = judged 840 + dead-lettered 1 + late 0 + duplicate 1 + waiting for a birth 0" in out
    letters = lines(tmp_path / "out" / "deadletters.jsonl")
    assert [(d["reason"], d["offset"]) for d in letters] == [("undecodable", 9_000)]


def test_replay_lets_frames_wait_for_a_birth_that_comes_later(tmp_path: Path) -> None:
    content = records_of(PLANT, 50)
    path = a_capture(tmp_path / "x.capture", [*content[4:], *content[:4]])
    with Replay(Settings()) as run:
        list(run.run(Source((path,))))
        totals = run.totals()
    assert run.waiting() == 0
    assert totals["received"] == totals["judged"] == 200
    never = a_capture(tmp_path / "y.capture", content[4:])
    with Replay(Settings()) as run:
        list(run.run(Source((never,))))
        totals = run.totals()
    assert totals["received"] == 200 == run.waiting() + totals["dead_lettered"]


def test_replay_ends_with_the_model_exit_code_when_a_bundle_is_absent(capture: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="bundle 'nothing', there are .*anomaly-mewma"):
        Replay(Settings(routes=(Route(bundle="nothing"),)))
    code, _, err = kizashi("replay", capture, "--out", tmp_path, "--set", "routes=[{bundle='nothing'}]")
    assert code == 4 and "bundle 'nothing'" in err


def test_replay_of_csv_asks_for_the_map(tmp_path: Path) -> None:
    code, _, err = kizashi("replay", tmp_path / "0.csv", "--out", tmp_path)
    assert code == 5 and "--map" in err


def test_a_machine_event_in_a_capture_is_obeyed_at_its_place(tmp_path: Path) -> None:
    content = records_of(PLANT, 800)
    open_at = next(i for i, r in enumerate(content) if r.key == b"line1/pump-02" and i > 2600)
    event = MachineEvent("line1/pump-02", "part_replaced", 5, "sato", "bearing")
    content.insert(open_at, Record("kizashi.telemetry.v1", 0, 10**6, content[open_at].timestamp_ms, b"line1/pump-02",
                                   encode(event)))
    for at, record in enumerate(content[len(PLANT.births):]):
        content[len(PLANT.births) + at] = msgspec.structs.replace(record, offset=at)
    with Replay(Settings()) as run:
        effects = list(run.run(Source((a_capture(tmp_path / "x.capture", content),))))
        totals = run.totals()
    alerts = [a for e in effects for a in e.alerts if a.asset == "line1/pump-02"]
    assert [a.state for a in alerts][-1] == "cleared" and "a part was replaced by sato: bearing" in alerts[-1].why
    assert [name for e in effects for name, _ in e.notes if name == "started_over"] == ["started_over"]
    assert totals["received"] == totals["judged"] == len(content) - len(PLANT.births)
