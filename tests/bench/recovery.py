"""Recovery: kill -9 of the only worker to alerts without delay again, at 5,000 frames/s, session timeout 10 s.

A supervisor starts the next worker at once; the group waits for the dead member's session to end, then the newcomer
restores and catches up. Judging again: the first alert appended after the kill. Caught up: from then on no alert of
the second that follows is later than 100 ms. Clock: the broker's append times.
"""

import sys
import time

import numpy as np

from tests.bench import latency, report, rig, workload
from tests.bench.models import LIMITS
from tests.bench.process import WorkerProcess, bundles
from tests.bench.report import Bar

RATE, SECONDS, KILL_AFTER_S = (5_000, 26, 5) if rig.QUICK else (5_000, 45, 12)
CAUGHT_UP_MS = 100.0


def measure(address: str, **more: object) -> tuple[float, float, int]:
    """Return seconds from the kill to the first alert and to the end of the backlog, and alerts read."""
    prefix = workload.fresh_prefix()
    workload.create(address, prefix)
    with bundles("null", LIMITS["null"]) as sets:
        sets |= more
        worker = WorkerProcess(address, prefix, prefix + "group", sets)
        worker.ready()
        plant = rig.child("tests.bench.workload", address, prefix, RATE * SECONDS, workload.ASSETS, RATE)
        time.sleep(KILL_AFTER_S)
        killed_ms = time.time() * 1e3
        worker.kill()
        successor = WorkerProcess(address, prefix, prefix + "group", sets)
        try:
            plant.wait(SECONDS + 30)
            time.sleep(1.0)
        finally:
            successor.stop()
    produced, appended = latency.raises(address, prefix).T
    workload.remove(address, prefix)
    after = appended > killed_ms
    order = np.argsort(appended[after], kind="stable")
    when, late = appended[after][order], (appended - produced)[after][order]
    fresh = [t for t in when[late < CAUGHT_UP_MS] if (late[(when >= t) & (when < t + 1000)] < CAUGHT_UP_MS).all()]
    if not fresh:
        raise RuntimeError(f"the successor did not catch up within {SECONDS - KILL_AFTER_S} s")
    return (when[0] - killed_ms) / 1e3, (fresh[0] - killed_ms) / 1e3, len(produced)


def main() -> int:
    """Print the figures and the bar."""
    first, caught_up = [], []
    with rig.broker() as address:
        for i in range(rig.rounds(3)):
            again, level, alerts = measure(address)
            first.append(again)
            caught_up.append(level)
            print(f"round {i + 1}: judging again after {again:.1f} s, caught up after {level:.1f} s, {alerts} raises",
                  flush=True)
    return report.judge([Bar(f"kill -9 to caught up (judging again after {report.median(first):.1f} s)",
                             report.median(caught_up), "s", 20, 13, lower=True, spread=report.span(caught_up))])


if __name__ == "__main__":
    sys.exit(main())
