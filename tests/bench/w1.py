"""W1 alone: one RESULT line in the peers' format, by the full product on topics that it fills itself.

Environment: N frames (200000), ENGINE null|onnx, THRESH limit (without one nothing alerts), BROKER host:port (without
one an Apache Kafka of its own), BROKER_PID for the broker's CPU, PREFIX of topics that are filled already (then
nothing is filled or deleted), SET a JSON object of further settings. `alerts` counts rows over the limit, as the peers
do; our alerts are transitions: `transitions`.
"""

import asyncio
import json
import os
import sys

from pipeline.app import Runtime
from pipeline.partitions import RecordBatch
from tests.bench import rig, workload
from tests.bench.meter import Meter
from tests.bench.models import NO_LIMIT, Counting, open_counting


def measure(address: str, prefix: str, kind: str, threshold: float, meter: Meter,
            **more: object) -> tuple[Counting, int]:
    """Judge the first `meter.n` frames of the topics under `prefix`; returns the engine and the alerts published."""
    bundle, engine = open_counting(kind, threshold)
    alerts = 0

    def watch(runtime: Runtime, batch: RecordBatch) -> bool:
        return meter.add(len(batch))

    async def after(runtime: Runtime) -> None:
        nonlocal alerts
        async with runtime.worker.admission:
            await runtime.worker.drain()
        meter.last = meter.mark()
        await runtime.worker.published()
        alerts = runtime.worker._publisher.mark() // 2  # each goes to the history and to the state topic

    settings = rig.settings_for(address, prefix, bundle.spec.name, **more)
    asyncio.run(rig.serve(settings, {bundle.spec.name: engine}, {bundle.spec.name: bundle}, watch, after))
    return engine, alerts


def main() -> int | None:
    """Print the RESULT line."""
    n, kind = int(os.environ.get("N", "200000")), os.environ.get("ENGINE", "null")
    threshold = float(os.environ.get("THRESH") or NO_LIMIT[kind])
    prefix = os.environ.get("PREFIX") or workload.fresh_prefix()
    with rig.broker() as address:
        if not os.environ.get("PREFIX"):
            workload.create(address, prefix)
            rig.run_child("tests.bench.workload", address, prefix, n)  # in a process of its own: its memory is not ours
        meter, more = Meter(n), json.loads(os.environ.get("SET", "{}"))
        engine, alerts = measure(address, prefix, kind, threshold, meter, **more)
        print(f"{meter.result('kizashi', kind, engine.rows, engine.over)} transitions={alerts}", flush=True)
        if not os.environ.get("PREFIX"):
            workload.remove(address, prefix)
    return None


if __name__ == "__main__":
    sys.exit(main())
