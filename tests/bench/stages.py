"""Where a frame's microseconds go: CPU time per step, by timers around the product's own calls.

Each thread's own CPU clock, so waiting (for the lock of the interpreter, the broker, the engine) does not count. W1
null as fast as it goes, the same with 1.6 % of the windows over the limit, and that at RATE (5,000) frames/s, where
polls are small. Environment: N (600000), RATE, SECONDS (10).
"""

import asyncio
import functools
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from pipeline import acquire, flow, judge, window, worker
from pipeline.app import Runtime
from pipeline.batch import Batcher
from pipeline.columns import Groups
from pipeline.enginethread import EngineThread
from pipeline.partitions import RecordBatch
from pipeline.publish import Publisher
from pipeline.transport.thread import BatchThread
from tests.bench import rig, workload
from tests.bench.models import LIMITS, NO_LIMIT, Counting, open_counting

#: Owner and name of each call, and what it does, in the order in which a frame meets them.
STEPS: tuple[tuple[Any, str, str], ...] = (
    (BatchThread, "_take", "take records out of the fetched bytes, check their CRC"),
    (worker, "poll_of", "columns of offsets, times and values"),
    (acquire, "decode", "decode msgpack"),
    (acquire, "resolve", "find the slot"),
    (acquire, "check", "sort by slot; length, finite samples, quality, clock"),
    (acquire, "sequence", "sequence numbers: gaps, duplicates, order; silence"),
    (Groups, "of", "where each asset's frames lie"),
    (window, "step", "store in the ring, find finished windows"),
    (Batcher, "add", "gather windows into the engine's buffer"),
    (flow.Flow, "admit", "the flow's own part of admission"),
    (EngineThread, "submit", "hand over to the engine's thread"),
    (Counting, "infer", "compute (the engine's thread)"),
    (judge, "step", "judge: over the limit, transitions"),
    (flow.Flow, "settle", "the flow's own part of settling"),
    (Publisher, "send", "build and queue alerts"),
    (worker.Worker, "on_batch", "worker: locks, metrics, back-pressure"),
)


class Timers:
    """Own CPU time of every wrapped call: what it used less what the wrapped calls inside it used."""

    def __init__(self) -> None:
        self.own: dict[str, float] = defaultdict(float)
        self._local = threading.local()
        self._undo: list[Callable[[], None]] = []

    def wrap(self, owner: Any, name: str, label: str) -> None:
        plain = owner.__dict__[name]
        call = plain.__func__ if isinstance(plain, classmethod) else plain

        def open_call() -> tuple[list[float], float]:
            stack = self._local.__dict__.setdefault("stack", [])
            stack.append(0.0)
            return stack, time.thread_time()

        def close_call(stack: list[float], began: float) -> None:
            took = time.thread_time() - began
            self.own[label] += took - stack.pop()
            if stack:
                stack[-1] += took

        if asyncio.iscoroutinefunction(call):
            @functools.wraps(call)
            async def timed(*args: Any, **kwargs: Any) -> Any:
                # Timed step by step: while it is suspended other tasks use the thread.
                coroutine = call(*args, **kwargs)
                return await _Stepwise(coroutine, open_call, close_call)
        else:
            @functools.wraps(call)
            def timed(*args: Any, **kwargs: Any) -> Any:
                stack, began = open_call()
                try:
                    return call(*args, **kwargs)
                finally:
                    close_call(stack, began)

        setattr(owner, name, classmethod(timed) if isinstance(plain, classmethod) else timed)
        self._undo.append(lambda: setattr(owner, name, plain))

    def restore(self) -> None:
        for undo in reversed(self._undo):
            undo()


class _Stepwise:
    """Awaits a coroutine, timing each of its steps between two suspensions."""

    def __init__(self, coroutine: Any, open_call: Any, close_call: Any) -> None:
        self._coroutine, self._open, self._close = coroutine, open_call, close_call

    def __await__(self) -> Any:
        value, error = None, None
        while True:
            stack, began = self._open()
            try:
                wanted = self._coroutine.send(value) if error is None else self._coroutine.throw(error)
            except StopIteration as done:
                return done.value
            finally:
                self._close(stack, began)
            try:
                value, error = (yield wanted), None
            except BaseException as raised:  # a cancellation is the coroutine's to handle
                error = raised


#: Kinds of threads by how their names begin; mode numbers its own.
_THREADS = {"main": "MainThread", "client": "Thread-", "engine": "kizashi-w1"}


def thread_cpu() -> dict[str, float]:
    """Return CPU seconds of each living thread, by kind."""
    found: dict[str, float] = defaultdict(float)
    for thread in threading.enumerate():
        kind = next((k for k, start in _THREADS.items() if thread.name.startswith(start)), "other")
        if thread.ident is not None:
            found[kind] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return found


def measure(n: int, rate: float, limit: float) -> tuple[dict[str, float], float]:
    """Return us a frame by step and by thread (second half of the run), and frames per poll."""
    timers, seen, polls = Timers(), 0, 0
    start: dict[str, float] = {}
    bundle, engine = open_counting("null", limit)
    with rig.broker() as address:
        prefix = workload.fresh_prefix()
        workload.create(address, prefix)
        plant = rig.child("tests.bench.workload", address, prefix, n, workload.ASSETS, rate)
        if not rate:
            plant.wait()
        for owner, name, label in STEPS:
            timers.wrap(owner, name, label)

        def watch(runtime: Runtime, batch: RecordBatch) -> bool:
            nonlocal seen, polls
            seen += len(batch)
            if seen >= n // 2 and not start:
                start.update(thread_cpu(), frames=seen)
                timers.own.clear()
                polls = 0
            polls += 1
            return seen >= n

        ends: dict[str, float] = {}
        try:
            asyncio.run(rig.serve(rig.settings_for(address, prefix, bundle.spec.name), {bundle.spec.name: engine},
                                  {bundle.spec.name: bundle}, watch, lambda runtime: ends.update(thread_cpu())))
        finally:
            timers.restore()
            plant.wait()
        workload.remove(address, prefix)
    frames = seen - start["frames"]
    threads = {kind: (ends[kind] - start.get(kind, 0.0)) * 1e6 / frames for kind in ends}
    return {k: v * 1e6 / frames for k, v in timers.own.items()}, threads, frames / polls


def table(title: str, steps: dict[str, float], threads: dict[str, float], per_poll: float) -> None:
    """Print one table; what no timer covers is named by its thread."""
    total = sum(threads.values())
    client, engine = STEPS[0][2], next(label for owner, _, label in STEPS if owner is Counting)
    main = sum(v for k, v in steps.items() if k not in (client, engine))
    rows = [("client", client), ("client", "sockets, fetch protocol, event loop")]
    rows += [("main", label) for owner, _, label in STEPS[1:] if owner is not Counting]
    rows += [("main", "Faust's stream, event loop, sockets of the producers"), ("engine", engine),
             ("engine", "queue, copy of the outputs"), ("other", "metrics server, watchdog")]
    rest = {rows[1][1]: threads["client"] - steps.get(client, 0.0), rows[-4][1]: threads["main"] - main,
            rows[-2][1]: threads["engine"] - steps.get(engine, 0.0), rows[-1][1]: threads.get("other", 0.0)}
    print(f"\n{title}, {per_poll:.0f} frames a poll, {total:.2f} us a frame:\n\n"
          "| thread | step | us a frame | share |\n|---|---|---|---|")
    for thread, label in rows:
        value = rest.get(label, steps.get(label, 0.0))
        print(f"| {thread} | {label} | {value:.3f} | {value / total:.0%} |", flush=True)


def main() -> None:
    """Print the tables."""
    n = 100_000 if rig.QUICK else int(os.environ.get("N", "600000"))
    rate = float(os.environ.get("RATE", "5000"))
    paced = round(rate * (4 if rig.QUICK else int(os.environ.get("SECONDS", "10"))))
    for title, frames, pace, limit in (
            ("W1 null as fast as it goes", n, 0.0, NO_LIMIT["null"]),
            ("W1 null as fast as it goes, 1.6 % of the windows over the limit", n, 0.0, LIMITS["null"]),
            (f"The same at {rate:.0f} frames/s", paced, rate, LIMITS["null"])):
        steps, threads, per_poll = measure(frames, pace, limit)
        table(title, steps, threads, per_poll)


if __name__ == "__main__":
    sys.exit(main())
