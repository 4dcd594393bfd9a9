"""Trial of a bundle in a child process: what it costs the event loop of the process that serves beside it.

A loop that wants to run every 2 ms says how late it was, in turns with a trial under way and for as long without.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from engines.trial import try_out
from pipeline.aside import aside
from tests import models
from tests.bench import report, rig
from tests.bench.report import Bar

TICK_S = 0.002
ROWS = {"x": (1, 4, 32)}


async def _late(stop: asyncio.Event) -> list[float]:
    """Return by how many seconds each tick came late."""
    late = []
    while not stop.is_set():
        began = time.perf_counter()
        await asyncio.sleep(TICK_S)
        late.append(time.perf_counter() - began - TICK_S)
    return late


async def _rounds(count: int) -> tuple[list[float], list[float], list[float]]:
    """Return lateness with a trial and without, and how long each trial took; seconds."""
    found: tuple[list[float], list[float], list[float]] = ([], [], [])
    with tempfile.TemporaryDirectory() as folder:
        bundle = models.load(models.bundle(Path(folder), models.dense()))
        for _ in range(count):
            for late in found[:2]:
                stop, began = asyncio.Event(), time.perf_counter()
                ticking = asyncio.create_task(_late(stop))
                if late is found[0]:
                    await aside(try_out, bundle, "onnx_cpu", [ROWS], 256)
                    found[2].append(time.perf_counter() - began)
                else:
                    await asyncio.sleep(found[2][-1])
                stop.set()
                late += await ticking
    return found


def main() -> int:
    """Print percentiles and the bar."""
    tried, alone, took = asyncio.run(_rounds(3 if rig.QUICK else 25))
    for name, late in (("with a trial", tried), ("without", alone)):
        p50, p99, p999, most = np.percentile(np.array(late) * 1e3, [50, 99, 99.9, 100])
        print(f"{name}: {len(late)} ticks late by p50 {p50:.2f}, p99 {p99:.2f}, p99.9 {p999:.2f}, most {most:.0f} ms")
    print(f"a trial: median {np.median(took):.2f} s, longest {max(took):.2f} s")
    ratio = float(np.percentile(tried, 99.9) / np.percentile(alone, 99.9))
    return report.judge([Bar("p99.9 of lateness with a trial under way / without", ratio, "x", 1.5, 1.1, lower=True)])


if __name__ == "__main__":
    sys.exit(main())
