"""Publishing a plant and recording it again: nothing lost, births first, assets on their partitions, time kept."""

import asyncio
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest

from pipeline.broker import BrokerConfig, murmur2_partition
from pipeline.errors import BrokerError
from pipeline.plant.capture import Record, read_capture
from pipeline.plant.csvhistory import CsvHistory
from pipeline.plant.csvmap import SHIPPED, load_map
from pipeline.plant.demobroker import DemoBroker
from pipeline.plant.publisher import Publisher, Schedule, publish_plant
from pipeline.plant.recorder import record
from pipeline.plant.simulator import Plant
from schemas.codec import decode_birth, decode_frame

pytest.importorskip("confluent_kafka")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with DemoBroker() as broker:
        yield broker.address


def topics(name: str) -> tuple[str, str]:
    return f"{name}.telemetry.v1", f"{name}.asset.v1"


async def publish(address: str, name: str, plant: Plant, rounds: int, schedule: Schedule | None = None) -> None:
    schedule = schedule or Schedule(0.0, plant.frame_period_s, math.inf)
    async with Publisher(BrokerConfig(address), *topics(name)) as publisher:
        await publish_plant(plant, publisher, schedule, asyncio.Event(), rounds=rounds)


async def recorded(address: str, name: str) -> list[Record]:
    out: list[Record] = []
    telemetry, births = topics(name)
    until = asyncio.Event()
    await record(BrokerConfig(address), births, telemetry, out.append, follow=False, new_only=False, until=until)
    return out


def test_a_recording_holds_every_frame_of_the_plant_after_its_births(address: str) -> None:
    plant = Plant(seed=3, assets=10, start_ns=10**18)
    asyncio.run(publish(address, "all", plant, 600))
    records = asyncio.run(recorded(address, "all"))
    births, frames = records[:10], records[10:]
    assert sorted(decode_birth(r.value or b"").asset for r in births) == sorted(plant.names)
    for i, name in enumerate(plant.names):
        own = [r for r in frames if r.key == name.encode()]
        assert [decode_frame(r.value or b"") for r in own] == plant.frames(i, 0, 600)
        assert {r.partition for r in own} == {murmur2_partition(name.encode(), 4)}
    assert len(frames) == 6000


def test_a_schedule_sends_the_past_at_once_and_then_keeps_to_the_clock() -> None:
    live = Schedule(begin=100.0, period_s=0.5)
    assert [live.due(s) for s in (0, 1, 9)] == [100.5, 101.0, 105.0]  # a frame is complete with its last sample
    late = Schedule(begin=100.0, period_s=0.5, burst_s=60.0)
    assert late.due(119) == 100.0
    assert late.due(121) == 101.0
    assert Schedule(100.0, 0.5, 60.0, speed=10.0).due(139) == 101.0
    assert Schedule(100.0, 0.5, math.inf).due(10**6) == 100.0


def test_following_goes_on_with_new_frames_and_leaves_out_old_ones_when_asked(address: str) -> None:
    plant = Plant(seed=3, assets=2)

    async def scenario() -> list[Record]:
        await publish(address, "follow", plant, 5)
        out: list[Record] = []
        until, (telemetry, births) = asyncio.Event(), topics("follow")

        def keep(r: Record) -> None:
            out.append(r)
            if len(out) == 2:
                births_there.set()
            if len(out) == 2 + 2 + 6:
                until.set()

        births_there = asyncio.Event()
        task = asyncio.create_task(record(
            BrokerConfig(address), births, telemetry, keep, follow=True, new_only=True, until=until,
        ))
        await births_there.wait()
        while not until.is_set():  # the recorder finds its place in its own time: publish until it has seen some
            await publish(address, "follow", plant, 3)
        await task
        return out

    out = asyncio.run(asyncio.wait_for(scenario(), 30))
    assert [r.topic for r in out[:2]] == ["follow.asset.v1"] * 2
    assert all(r.offset >= 5 for r in out if r.topic == "follow.telemetry.v1")


def test_recording_a_topic_that_does_not_exist_says_what_creates_it(address: str) -> None:
    with pytest.raises(BrokerError, match="absent.asset.v1 does not exist .* kizashi topics apply"):
        asyncio.run(recorded(address, "absent"))


def kizashi(*args: str, address: str, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipeline.cli.main", *args, "--broker", address, "--set", f"topics.prefix={name}."]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_simulate_then_capture_on_the_command_line(address: str, tmp_path: Path) -> None:
    code, out, err = finished(kizashi("simulate", "--assets", "3", "--frames", "50", address=address, name="cli"))
    assert (code, err) == (0, "")
    assert "published 3 births and 150 frames" in out
    path = tmp_path / "x.capture"
    code, out, err = finished(kizashi("capture", str(path), address=address, name="cli"))
    assert (code, err) == (0, "")
    assert f"153 records of cli.asset.v1 and cli.telemetry.v1 in {path}" in out
    assert sum(1 for _ in read_capture(path)) == 153


def test_simulate_ends_cleanly_at_ctrl_c(address: str) -> None:
    process = kizashi("simulate", "--assets", "2", address=address, name="interrupted")
    assert process.stdout is not None
    assert "2 assets" in process.stdout.readline()
    os.kill(process.pid, signal.SIGINT)
    code, out, err = finished(process)
    assert (code, err) == (0, "")
    assert "published 2 births" in out


def test_import_publishes_csv_history_to_the_topic(address: str, tmp_path: Path) -> None:
    (tmp_path / "rig").mkdir()
    path = tmp_path / "rig" / "4.csv"
    names = "Accelerometer1RMS;Accelerometer2RMS;Current;Pressure;Temperature;Thermocouple;Voltage;Volume Flow RateRMS"
    path.write_text(f"datetime;{names}\n" + "".join(f"2026-01-01 00:00:{i:02d};1;2;3;4;5;6;7;{i}\n" for i in range(60)))
    code, out, err = finished(
        kizashi("import", "csv", "--map", "skab", str(path), "--to", "topic", address=address, name="history")
    )
    assert (code, err) == (0, "")
    assert "1 files, 60 rows -> 1 births and 60 frames in history.telemetry.v1" in out
    records = asyncio.run(recorded(address, "history"))
    birth, *frames = CsvHistory(load_map(Path("skab"))).read([path])
    assert decode_birth(records[0].value or b"") == birth
    assert [decode_frame(r.value or b"") for r in records[1:]] == frames


def test_import_publishes_parquet_and_public_sets_to_the_topic(address: str, tmp_path: Path) -> None:
    names = [c.column for c in load_map(Path("skab")).channel]
    rows = {n: [float(i + k) for i in range(40)] for k, n in enumerate(names)}
    times = [f"2026-01-01 00:00:{i:02d}" for i in range(40)]
    for folder, kind in (("set/rig", "csv"), ("table", "parquet")):
        (tmp_path / folder).mkdir(parents=True)
        path = tmp_path / folder / f"4.{kind}"
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.table({"datetime": times} | rows), path)
        else:
            lines = [";".join(["datetime", *names])]
            lines += [";".join([t, *(str(rows[n][i]) for n in names)]) for i, t in enumerate(times)]
            path.write_text("\n".join(lines))
    text = (SHIPPED / "skab.toml").read_text().replace("\\.csv(\\.gz)?$", "\\.parquet$")
    (tmp_path / "rig.toml").write_text(text.replace("skab/{folder}", "skab/rig"))
    for name, arguments in (
        ("table", ("parquet", "--map", str(tmp_path / "rig.toml"), str(tmp_path / "table" / "4.parquet"))),
        ("set", ("dataset", "skab", str(tmp_path / "set"))),
    ):
        code, out, err = finished(kizashi("import", *arguments, "--to", "topic", address=address, name=name))
        assert (code, err) == (0, "") and "1 births and 40 frames in" in out
    published = [asyncio.run(recorded(address, name)) for name in ("table", "set")]
    assert [r.value for r in published[0]] == [r.value for r in published[1]] and len(published[0]) == 41
