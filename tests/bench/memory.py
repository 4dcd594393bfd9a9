"""Memory: what an idle worker holds, and what an asset of W1's shape adds, between checkpoints and during one.

Workers are processes of their own (`kizashi run`); figures are resident memory as the kernel counts it. Per asset: the
difference between 10,000 and 200 assets after equally many frames. During a checkpoint: the peak while one is written
in which every block has changed.
"""

import sys
import time

from tests.bench import report, rig, workload
from tests.bench.meter import reset_peak, status_kib
from tests.bench.models import NO_LIMIT
from tests.bench.process import Event, WorkerProcess, bundles
from tests.bench.report import Bar

FEW, MANY = 200, 2_000 if rig.QUICK else 10_000
FRAMES_EACH = 10  # more than a window of 8
#: Long enough for housekeeping to have run some times, so that what it allocates is there.
REST_S = 3.0


def idle(address: str) -> float:
    """Return MiB of a worker with the shipped bundle that has joined its group and has nothing to read."""
    prefix = workload.fresh_prefix()
    workload.create(address, prefix, 0)
    worker = WorkerProcess(address, prefix, prefix + "group", {})
    try:
        worker.ready()
        time.sleep(REST_S)
        return status_kib("VmRSS", worker.pid) / 1024
    finally:
        worker.stop()
        workload.remove(address, prefix)


def loaded(address: str, assets: int, frames: int) -> tuple[int, int]:
    """Return KiB of a worker that holds `assets`: between checkpoints, and at most during one."""
    prefix = workload.fresh_prefix()
    workload.create(address, prefix, assets)
    with bundles("null", NO_LIMIT["null"]) as sets:
        worker = WorkerProcess(address, prefix, prefix + "group", {
            **sets, "log.level": "DEBUG", "checkpoint.interval_s": 4.0, "checkpoint.write_budget_mb_s": 1000.0})
        try:
            worker.ready()
            rig.run_child("tests.bench.workload", address, prefix, frames, assets)
            written(worker, frames)
            time.sleep(REST_S / 3)
            between = status_kib("VmRSS", worker.pid)
            reset_peak(worker.pid)
            rig.run_child("tests.bench.workload", address, prefix, frames, assets)
            written(worker, 2 * frames)
            return between, status_kib("VmHWM", worker.pid)
        finally:
            worker.stop()
            workload.remove(address, prefix)


def written(worker: WorkerProcess, frames: int) -> None:
    """Wait until checkpoints hold `frames` frames."""
    offsets: dict[int, int] = {}

    def complete(event: Event) -> bool:
        if event["event"] == "checkpoint_written":
            offsets[event["partition"]] = event["offset"]
        return sum(offsets.values()) >= frames

    worker.wait_for(complete)


def main() -> int:
    """Print the figures and their bars."""
    empty, per_asset, peaks = [], [], []
    with rig.broker() as address:
        for i in range(rig.rounds(3)):
            empty.append(idle(address))
            few, few_peak = loaded(address, FEW, MANY * FRAMES_EACH)
            many, many_peak = loaded(address, MANY, MANY * FRAMES_EACH)
            per_asset.append((many - few) / (MANY - FEW))
            peaks.append((many_peak - few) / (MANY - FEW) / per_asset[-1])
            print(f"round {i + 1}: idle {empty[-1]:.1f} MiB; {FEW} assets {few / 1024:.1f} (peak {few_peak / 1024:.1f})"
                  f", {MANY} assets {many / 1024:.1f} (peak {many_peak / 1024:.1f}) MiB", flush=True)
    return report.judge([
        Bar("idle worker, resident", report.median(empty), "MiB", 160, 110, lower=True, spread=report.span(empty)),
        Bar("per asset between checkpoints", report.median(per_asset), "KiB", 6, 4.6, lower=True,
            spread=report.span(per_asset)),
        Bar("per asset during a checkpoint", report.median(peaks), "x", 3, 3, lower=True, spread=report.span(peaks)),
    ])


if __name__ == "__main__":
    sys.exit(main())
