"""Latency: a frame produced (its t0, set before the send) to its alert appended at the broker, 5,000 frames/s.

On-delay 1 of 1, batch delay 5 ms, 1.6 % of the windows over the limit; only raises count, 1 ms steps. Worker, producer
and broker share the machine; the first 15 of 40 s do not count. Medians over ROUNDS (3), after one that warms a broker
of our own: a JVM that has just started compiles for half a minute, at the cost of everything else.
"""

import os
import sys

import numpy as np

from schemas.codec import decode_alert
from schemas.topics import ALERT
from tests.bench import report, rig, workload
from tests.bench.models import LIMITS, SAMPLES
from tests.bench.process import WorkerProcess, bundles
from tests.bench.report import Bar

RATE = 5_000
SECONDS, WARM_S = (8, 2) if rig.QUICK else (40, 15)
#: t0 of a frame is its time of production here, and an alert names the time of its window's last sample.
_SPAN_MS = (SAMPLES - 1) * 1000 / workload.RATE_HZ


def raises(address: str, prefix: str) -> np.ndarray:
    """Return (n, 2): when the raising frame was produced and when its alert was appended, Unix ms."""
    found = []
    for append_ms, value in workload.read(address, workload.name_of(ALERT, prefix)):
        alert = decode_alert(value)
        if alert.state == "raised":
            found.append((alert.t_last / 1e6 - _SPAN_MS, append_ms))
    return np.array(found).reshape(-1, 2)


def measure(address: str) -> tuple[np.ndarray, float]:
    """Run worker and producer once; return the latencies after the warm-up, ms, and the worker's CPU us a frame."""
    prefix = workload.fresh_prefix()
    workload.create(address, prefix)
    with bundles("null", LIMITS["null"]) as sets:
        worker = WorkerProcess(address, prefix, prefix + "group", sets)
        try:
            worker.ready()
            before = worker.cpu_s()
            print(rig.run_child("tests.bench.workload", address, prefix, RATE * SECONDS, workload.ASSETS, RATE), end="")
            cpu_us = (worker.cpu_s() - before) * 1e6 / (RATE * SECONDS)
        finally:
            worker.stop()
    produced, appended = raises(address, prefix).T
    workload.remove(address, prefix)
    return (appended - produced)[produced > produced.min() + WARM_S * 1000], cpu_us


def main() -> int:
    """Print percentiles and the bar."""
    worst, middle = [], []
    with rig.broker() as address:
        if not (rig.QUICK or os.environ.get("BROKER")):
            measure(address)
        for i in range(rig.rounds(3)):
            late, cpu_us = measure(address)
            p50, p90, p99 = np.percentile(late, [50, 90, 99])
            print(f"round {i + 1}: raises={len(late)} p50={p50:.1f} p90={p90:.1f} p99={p99:.1f} "
                  f"max={late.max():.1f} ms, worker {cpu_us:.0f} us a frame", flush=True)
            worst.append(float(p99))
            middle.append(float(p50))
    return report.judge([Bar(f"frame produced to alert appended, p99 (p50 {report.median(middle):.1f})",
                             report.median(worst), "ms", 40, 20, lower=True, spread=report.span(worst))])


if __name__ == "__main__":
    sys.exit(main())
