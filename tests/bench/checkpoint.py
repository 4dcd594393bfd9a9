"""Checkpoints of 10,000 assets of W1's shape: how long the flow pauses, and how long a restore takes at the start.

A worker process under 5,000 frames/s, so that every block changes between two checkpoints (every 5 s). Pause: admission
stopped, rows in flight settled, blocks copied; the longest of all. Restore: partitions assigned to reading again, all
state read back from the broker, after a stop.
"""

import sys
import time

from tests.bench import report, rig, workload
from tests.bench.models import NO_LIMIT
from tests.bench.process import Event, WorkerProcess, bundles
from tests.bench.report import Bar

ASSETS, RATE, SECONDS = (2_000, 5_000, 8) if rig.QUICK else (10_000, 5_000, 30)


def measure(address: str) -> tuple[list[float], int, float]:
    """Return pauses, s, bytes of a whole checkpoint, and seconds of the restore."""
    prefix = workload.fresh_prefix()
    workload.create(address, prefix, ASSETS)
    with bundles("null", NO_LIMIT["null"]) as sets:
        sets |= {"log.level": "DEBUG", "checkpoint.write_budget_mb_s": 1000.0}
        worker = WorkerProcess(address, prefix, prefix + "group", sets)
        try:
            worker.ready()
            rig.run_child("tests.bench.workload", address, prefix, RATE * SECONDS, ASSETS, RATE)
        finally:
            worker.stop()
        pauses, size = collect(worker.events)
        again = WorkerProcess(address, prefix, prefix + "group", sets)
        try:
            ready = again.ready()
            restored = sum(e["assets"] for e in again.events if e["event"] == "restore_done")
            assert restored == ASSETS, f"{restored} assets restored"
            assigned = next(e for e in again.events if e["event"] == "partitions_assigned")
            return pauses, size, ready["at"] - assigned["at"]
        finally:
            again.stop()
            workload.remove(address, prefix)


def collect(events: list[Event]) -> tuple[list[float], int]:
    """Return every pause while the flow went on, s, and the bytes of all partitions' largest checkpoints."""
    pauses: dict[float, None] = {}  # partitions that were copied in one pause name the same one
    sizes: dict[int, int] = {}
    for event in events:
        if event["event"] == "worker_stopping":
            break
        if event["event"] == "checkpoint_written":
            pauses[event["pause_s"]] = None
            sizes[event["partition"]] = max(sizes.get(event["partition"], 0), event["bytes"])
    return list(pauses), sum(sizes.values())


def main() -> int:
    """Print the figures and their bars."""
    worst, restores = [], []
    with rig.broker() as address:
        for i in range(rig.rounds(3)):
            began = time.monotonic()
            pauses, size, restore = measure(address)
            worst.append(max(pauses) * 1e3)
            restores.append(restore)
            print(f"round {i + 1}: {len(pauses)} pauses, {size / 1e6:.1f} MB in all; pause median "
                  f"{report.median(pauses) * 1e3:.1f} ms, longest {worst[-1]:.1f} ms; restore {restore:.2f} s "
                  f"({time.monotonic() - began:.0f} s)", flush=True)
    return report.judge([
        Bar(f"checkpoint of {ASSETS:,} assets: longest pause of the flow", report.median(worst), "ms", 100, 30,
            lower=True, spread=report.span(worst)),
        Bar(f"restore of {ASSETS:,} assets at the start", report.median(restores), "s", 5, 2, lower=True,
            spread=report.span(restores)),
    ])


if __name__ == "__main__":
    sys.exit(main())
