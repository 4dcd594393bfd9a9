"""Rig: a broker, and the product's worker in this process or in one of its own."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pipeline.app
from engines import Bundle, Engine
from pipeline.ops import logs
from pipeline.ops.config import Settings, load_settings
from pipeline.partitions import RecordBatch
from tests.kafka import KafkaBroker, why_not

ROOT = Path(__file__).parents[2]
#: Where Faust keeps what it thinks it needs; without it in the working directory.
os.environ.setdefault("APP_DATADIR", str(Path(tempfile.gettempdir()) / "kizashi-bench-faust"))
#: Small numbers, one round: to see that it runs.
QUICK = os.environ.get("QUICK", "") not in ("", "0")


def rounds(default: int = 5) -> int:
    return 1 if QUICK else int(os.environ.get("ROUNDS", default))


@contextmanager
def broker() -> Iterator[str]:
    """Yield the address of BROKER, or of an Apache Kafka of our own, whose process BROKER_PID then names."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what we started is ended on the way
    if os.environ.get("BROKER"):
        yield os.environ["BROKER"]
        return
    reason = why_not()
    if reason:
        sys.exit(f"this benchmark needs Apache Kafka: {reason}; or set BROKER=host:port")
    with KafkaBroker() as own:
        os.environ["BROKER_PID"] = str(own.pid)
        try:
            yield own.address
        finally:
            del os.environ["BROKER_PID"]


def settings_for(address: str, prefix: str, bundle: str, **more: object) -> Settings:
    """Return the product's default settings, with a group of its own that reads from the beginning."""
    return load_settings(None, {
        "broker.bootstrap": address, "topics.prefix": prefix, "group.id": f"bench-{uuid.uuid4().hex[:8]}",
        "worker.start": "earliest", "metrics.enabled": False, "metrics.port": 0, "log.level": "ERROR",
        "routes": [{"match": {}, "bundle": bundle}], **more}, {})


Watch = Callable[["pipeline.app.Runtime", RecordBatch], bool]


async def serve(settings: Settings, engines: Mapping[str, Engine], bundles: Mapping[str, Bundle], watch: Watch,
                after: Callable[["pipeline.app.Runtime"], Any] | None = None) -> None:
    """Run the worker in this process until `watch` says so after a batch; then `after` (may be async), then stop it."""
    over = asyncio.Event()

    class Watched(pipeline.app.Worker):
        async def on_batch(self, batch: RecordBatch) -> None:
            await super().on_batch(batch)
            if not over.is_set() and watch(runtime, batch):
                over.set()

    logs.configure(settings.log)
    plain, pipeline.app.Worker = pipeline.app.Worker, Watched  # type: ignore[misc]
    try:
        runtime = pipeline.app.Runtime(settings, engines=engines, bundles=bundles)
        running, ended = asyncio.create_task(runtime.main()), asyncio.create_task(over.wait())
        await asyncio.wait([running, ended], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
            raise RuntimeError("the worker stopped before the run was over")
        if after is not None:
            done = after(runtime)
            if asyncio.iscoroutine(done):
                await done
        runtime.stop.set()
        code = await running
        if code:
            raise RuntimeError(f"the worker ended with exit code {code}")
    finally:
        pipeline.app.Worker = plain  # type: ignore[misc]


async def settled(runtime: "pipeline.app.Runtime") -> None:
    """Wait until every row is judged and every alert acknowledged."""
    async with runtime.worker.admission:
        await runtime.worker.drain()
    await runtime.worker.published()


Env = Mapping[str, object] | None


def child(module: str, *arguments: object, env: Env = None, **how: Any) -> subprocess.Popen[str]:
    """Start `python -m module arguments` from the repository's root."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, text=True,
        env={**os.environ, **{k: str(v) for k, v in (env or {}).items()}}, **how)


def run_child(module: str, *arguments: object, env: Env = None, timeout_s: float = 600) -> str:
    """Run `python -m module arguments` to its end; returns what it printed. Raises RuntimeError if it failed."""
    process = child(module, *arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise RuntimeError(f"{module} did not end within {timeout_s:g} s:\n{out}{err[-2000:]}") from None
    if process.returncode:
        raise RuntimeError(f"{module} ended with {process.returncode}:\n{out}{err[-4000:]}")
    return out
