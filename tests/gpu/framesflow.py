"""Frames of workload W1 through the flow into an engine on its thread, as a worker does it, without a broker.

Decoding, rings, batches in the engine's own arrays, computing, judging.
"""

import queue
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from engines import Bundle
from pipeline.batch import Batch
from pipeline.births import BirthBook
from pipeline.columns import Poll
from pipeline.enginethread import EngineThread
from pipeline.flow import Flow, FlowSettings
from pipeline.infer import Outcome
from pipeline.seating import Route, Seating
from pipeline.state import Partition
from tests.bench import workload

#: Records of a poll: what a fetch of a busy topic brings.
RECORDS = 1024
#: Batches handed to the engine beyond those that it has begun, so that it never waits for the flow.
AHEAD = 2
_WAIT_S = 30.0


class FramesFlow:
    """A flow of one bundle and one partition, its engine on `thread` (started). rows: of a batch."""

    def __init__(self, bundle: Bundle, thread: EngineThread, rows: int = 256, assets: int = workload.ASSETS) -> None:
        name, births = bundle.spec.name, BirthBook()
        for birth in workload.births(assets):
            births.add(birth)
        seats = Seating({name: bundle}, [Route(bundle=name)], births, assets, partition_of=None)
        shapes = bundle.spec.rows(workload.CHANNELS, workload.SAMPLES)
        if hasattr(thread.engine, "staging"):  # warm for these rows, as the fitter does it
            thread.call(lambda engine: engine.staging(shapes, rows), _WAIT_S)
        self._thread, self._depth = thread, getattr(thread.engine, "depth", 1) + AHEAD
        self._flow = Flow(FlowSettings(max_size=rows), seats, {name: thread.engine.inputs},
                          lambda name, shapes, rows: thread.staging(shapes, rows))
        self._flow.partitions[0] = Partition(0, 0)
        self._waiting: deque[tuple[Batch, queue.SimpleQueue[Outcome | BaseException]]] = deque()
        self._rows = 0

    def run(self, polls: Iterable[Poll]) -> int:
        """Carry polls through to the judge, to the last row; return how many rows that were."""
        self._rows = 0
        for poll in polls:
            for batch in self._flow.admit(poll, 0.0).batches:
                self._submit(batch)
        for batch in self._flow.flush():
            self._submit(batch)
        self._settle(0)
        return self._rows

    def _submit(self, batch: Batch) -> None:
        answer: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        self._thread.submit(batch.inputs, answer.put)
        self._waiting.append((batch, answer))
        self._settle(self._depth)

    def _settle(self, left: int) -> None:
        while len(self._waiting) > left:
            batch, answer = self._waiting.popleft()
            outcome = answer.get(timeout=_WAIT_S)
            if isinstance(outcome, BaseException):
                raise outcome
            assert not outcome.failed
            self._flow.settle(batch, outcome)
            self._rows += batch.n


def polls(frames: int, first: int = 0, assets: int = workload.ASSETS) -> Iterator[Poll]:
    """Yield `frames` of the workload from number `first` on, RECORDS at a time."""
    source = workload.frames(frames, assets, first)
    at = first
    while records := list(islice(source, RECORDS)):
        keys, values = zip(*records, strict=True)
        now_ms = np.full(len(records), time.time_ns() // 1_000_000)
        yield Poll(0, np.arange(at, at + len(records)), now_ms, list(values), list(keys), at + len(records))
        at += len(records)
