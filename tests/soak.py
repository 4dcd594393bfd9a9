"""Soak: a new version of the bundle that serves, again and again, under load, on real Kafka.

    python -m tests.soak [--swaps 200] [--rate 1000] [--every 1.5] [--fresh]

Each version has the old one's model and another number, so every window must have the score that it would have had
without any swap. With --fresh the model's bytes differ too, so that each is tried in a child process first. Measured
from the frame's production to its assessment appended at the broker, in the stretches from a version's appearance in
the folder to half a second after it serves, against the stretches between them.
Exit code 1 when a bar is missed: 0 failed windows, p99 within swaps < 1.2 x others, resident memory <= 1 MiB per 100.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from schemas import Assessment, TelemetryFrame
from schemas.topics import ASSESSMENT, DEADLETTER, TELEMETRY
from tests.bench import report, rig, workload
from tests.bench.meter import status_kib
from tests.bench.models import HOP, SAMPLES, WINDOW, save_bundle
from tests.bench.process import WorkerProcess
from tests.bench.report import Bar

KIND = "null"
#: Before the first swap: the JVM compiles and the worker's memory settles.
WARM_S = 10.0
#: A swap still counts as one for this long after the new version serves: its first batches are the new engine's.
AFTER_S = 0.5
#: The first fifth of the swaps fills caches; the slope of memory is taken over the rest.
SETTLE = 0.2
_SPAN_MS = (SAMPLES - 1) * 1000 / workload.RATE_HZ


def make(folder: Path, number: int, **changes: Any) -> Path:
    """Make version 1.0.NUMBER beside the folder of models; making one takes more of the machine than swapping it."""
    return save_bundle(folder.parent / f"made-{number}", KIND, 1e6, **{"version": f"1.0.{number}", **changes})


def offer(folder: Path, number: int, made: Path) -> None:
    """Put a version into the folder, as a whole, and take away the one before the last, as a whole too."""
    os.rename(made, folder / f"v{number}")
    if number >= 2:
        gone = folder / f".v{number - 2}"
        os.rename(folder / f"v{number - 2}", gone)
        shutil.rmtree(gone)


class Bed:
    """A worker that watches a models folder, and a producer that does not stop."""

    def __init__(self, address: str, home: Path, rate: int, seconds: float, **sets: object) -> None:
        self.address, self.prefix, self.folder = address, workload.fresh_prefix(), home / "models"
        self._sets = {
            "models.folder": str(self.folder), "models.state": str(home / "state"), "models.allow_unsigned": True,
            "models.poll_s": 0.2, "routes": [{"bundle": f"w1-{KIND}"}], "topics.assessment": True, **sets}
        self._load = [str(int(rate * seconds)), str(workload.ASSETS), str(rate)]
        self._producer: subprocess.Popen[bytes] | None = None
        self.folder.mkdir()
        offer(self.folder, 0, make(self.folder, 0))
        workload.create(address, self.prefix, timestamps=(ASSESSMENT,))
        self.start()

    def start(self) -> None:
        """Start a worker; it is ready when this returns."""
        self.worker = WorkerProcess(self.address, self.prefix, self.prefix + "group", self._sets)
        self.worker.ready()

    def produce(self) -> None:
        """Start the producer."""
        self._producer = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.workload", self.address, self.prefix, *self._load], cwd=rig.ROOT,
            stdout=subprocess.DEVNULL)

    def halt(self) -> None:
        """End the producer, then the worker, which drains."""
        if self._producer is not None:
            self._producer.terminate()
            self._producer.wait()
            time.sleep(1.0)
        self.worker.stop()

    def swap(self, number: int, made: Path) -> tuple[float, float]:
        """Offer a version and wait until it serves; return begin and end, Unix ms."""
        begin = time.time()
        offer(self.folder, number, made)
        event = self.worker.wait_for(lambda e: e["event"] in ("swapped", "swap_refused"), 60)
        if event["event"] != "swapped":
            raise RuntimeError(f"version {number} was refused: {event.get('why')}")
        return begin * 1e3, time.time() * 1e3

    def assessed(self) -> Iterator[tuple[int, Assessment]]:
        """Yield append time, Unix ms, and value of every assessment."""
        decode = msgspec.msgpack.Decoder(Assessment).decode
        for append_ms, value in workload.read(self.address, workload.name_of(ASSESSMENT, self.prefix)):
            yield append_ms, decode(value)

    def sent(self) -> dict[str, int]:
        """Count the frames that the producer has sent, per asset."""
        decode, topic = msgspec.msgpack.Decoder(TelemetryFrame).decode, workload.name_of(TELEMETRY, self.prefix)
        return dict(Counter(decode(value).asset for _, value in workload.read(self.address, topic)))

    def refused(self) -> int:
        """Count the dead letters."""
        return sum(1 for _ in workload.read(self.address, workload.name_of(DEADLETTER, self.prefix)))


def swaps(bed: Bed, made: Sequence[Path], every_s: float) -> tuple[list[tuple[float, float]], np.ndarray]:
    """Swap to each version; return begin and end of each, Unix ms, and the worker's resident memory after it, MiB."""
    spans, rss = [], []
    for number in range(1, len(made) + 1):
        begin, end = bed.swap(number, made[number - 1])
        spans.append((begin, end + AFTER_S * 1e3))
        time.sleep(max(AFTER_S, every_s - (end - begin) / 1e3))
        rss.append(status_kib("VmRSS", bed.worker.pid) / 1024)
        if number % 20 == 0 or number == len(made):
            print(f"{number} swaps, {rss[-1]:.1f} MiB", flush=True)
    return spans, np.array(rss)


def slope(rss: np.ndarray) -> float:
    """Return MiB per 100 swaps: the least-squares line over the swaps after those that settle."""
    late = rss[int(len(rss) * SETTLE):]
    return float(np.polyfit(np.arange(len(late)), late, 1)[0] * 100) if len(late) > 2 else 0.0


@dataclass(frozen=True, slots=True)
class Soaked:
    """What came of it. failed: windows without a score, or with two. within, between: p99, ms. slope: MiB per 100."""

    windows: int
    failed: int
    versions: int
    within: float
    between: float
    slope: float


def soak(address: str, home: Path, count: int, rate: int, every_s: float, *, fresh: bool = False) -> Soaked:
    """Soak once on the broker at `address`. fresh: every version's model has other bytes."""
    bed = Bed(address, home, rate, WARM_S + count * (every_s + 3.0))
    try:
        made = [make(bed.folder, number, note=str(number) if fresh else "") for number in range(1, count + 1)]
        bed.produce()
        time.sleep(WARM_S)
        spans, rss = swaps(bed, made, every_s)
    finally:
        bed.halt()
    seen = [(t_end / 1e6 - _SPAN_MS, append_ms, a.model) for append_ms, a in bed.assessed() for t_end in a.t_end]
    times = np.array([row[:2] for row in seen]).reshape(-1, 2)
    expected = sum(max(0, (n * SAMPLES - WINDOW) // HOP + 1) for n in bed.sent().values())
    failed = abs(expected - len(seen)) + bed.refused()
    workload.remove(address, bed.prefix)
    begun = times[times[:, 0] > times[:, 0].min() + WARM_S * 500]
    late, inside = begun[:, 1] - begun[:, 0], np.zeros(len(begun), bool)
    for a, b in spans:
        inside |= (begun[:, 0] >= a) & (begun[:, 0] <= b)
    within, between = (np.percentile(late[where], [50, 99]) for where in (inside, ~inside))
    print(f"{len(seen)} windows, {inside.mean():.0%} of them within swaps; p50 {within[0]:.1f} ms within, "
          f"{between[0]:.1f} between; p99 {within[1]:.1f} and {between[1]:.1f} ms; "
          f"memory {rss[0]:.1f} -> {rss[-1]:.1f} MiB")
    return Soaked(len(seen), failed, len({row[2] for row in seen}), float(within[1]), float(between[1]), slope(rss))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--rate", type=int, default=1000, help="frames a second")
    parser.add_argument("--every", type=float, default=1.5, help="seconds between two swaps")
    parser.add_argument("--fresh", action="store_true", help="the model's bytes differ from version to version")
    given = parser.parse_args(words)
    with rig.broker() as address, tempfile.TemporaryDirectory(prefix="kizashi-soak-") as home:
        found = soak(address, Path(home), given.swaps, given.rate, given.every, fresh=given.fresh)
    return report.judge([
        Bar(f"failed windows over {given.swaps} swaps", found.failed, "", 0, 0, lower=True),
        Bar("p99 within swaps / between them", found.within / found.between, "x", 1.2, 1.0, lower=True),
        Bar("resident memory per 100 swaps", found.slope, "MiB", 1.0, 0.1, lower=True)])


if __name__ == "__main__":
    sys.exit(main())
