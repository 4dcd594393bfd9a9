"""Engines for tests of serving: plain and pipelined ones whose every step the test allows, and that fail as told."""

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.base import Arrays, Engine, EngineError, EngineLost, Staging, TensorSpec


class Heard:
    """Events instead of the log."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def emit(self, name: str, **fields: Any) -> None:
        self.lines.append((name, fields))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [fields for n, fields in self.lines if n == name]


class Slow:
    """A plain engine that computes when `go` is set. Wraps another; notes the threads that it is used on."""

    def __init__(self, of: Engine) -> None:
        self.of, self.name, self.inputs, self.outputs = of, of.name, of.inputs, of.outputs
        self.go, self.entered, self.closed = threading.Event(), threading.Event(), threading.Event()
        self.threads: set[str] = set()
        self.go.set()

    def warm_up(self, batch: int) -> None:
        self.of.warm_up(batch)

    def infer(self, inputs: Arrays) -> Arrays:
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.go.wait(30)
        return self.of.infer(inputs)

    def close(self) -> None:
        self.closed.set()
        self.of.close()


class Device:
    """A pipelined engine over a plain one: what is begun is computed when it is finished.

    lose_at, hang_at: how many batches are finished before it is lost, or hangs until `go` is set. pinned: sets of
    pinned arrays that it has. nan_at: from then on no score is a number. Outputs are overwritten once `depth` more
    batches are begun, as a real device's are. f8 inputs are f4 on it, unless it is exact.
    """

    name = "device"

    def __init__(self, of: Engine, depth: int = 3, *, lose_at: int | None = None, hang_at: int | None = None,
                 pinned: int = 2, nan_at: int | None = None, poison_begin: float | None = None,
                 exact: bool = False) -> None:
        self.of, self.depth, self.outputs = of, depth, of.outputs
        self.inputs = of.inputs if exact else tuple(
            TensorSpec(s.name, s.dtype.replace("f8", "f4"), s.shape) for s in of.inputs)
        self.lose_at, self.hang_at, self.nan_at, self.poison_begin = lose_at, hang_at, nan_at, poison_begin
        self.pinned = pinned
        self.go, self.hung, self.closed = threading.Event(), threading.Event(), threading.Event()
        self.go.set()
        self.begun: deque[tuple[int, Arrays]] = deque()
        self.most_begun = self.finished = self.tickets = 0
        self.lent: list[Staging] = []
        self.threads: set[str] = set()
        self._given: deque[Arrays] = deque()

    def warm_up(self, batch: int) -> None:
        self.threads.add(threading.current_thread().name)

    def staging(self, shapes: Mapping[str, tuple[int, ...]], rows: int) -> Staging:
        made = Staging({s.name: np.zeros((rows, *shapes[s.name]), s.dtype) for s in self.inputs},
                       len(self.lent) < self.pinned)
        if made.pinned:
            self.lent.append(made)
        return made

    def begin(self, inputs: Arrays) -> int:
        self.threads.add(threading.current_thread().name)
        if self._gone:
            raise EngineLost("the device fell off the bus")
        assert len(self.begun) < self.depth, "more begun than the device has slots"
        for spec in self.inputs:
            spec.check(inputs[spec.name])
        first = next(iter(inputs.values()))
        if self.poison_begin is not None and (first.reshape(len(first), -1)[:, 0] == self.poison_begin).any():
            raise EngineError("this batch cannot be begun")
        self.tickets += 1
        self.begun.append((self.tickets, inputs))
        self.most_begun = max(self.most_begun, len(self.begun))
        if len(self._given) >= self.depth:
            for array in self._given.popleft().values():
                array[...] = -1.0
        return self.tickets

    def finish(self, ticket: int) -> Arrays:
        oldest, inputs = self.begun.popleft()
        assert oldest == ticket, "finished out of order"
        if self.finished == self.hang_at:
            self.go.clear()
        if not self.go.is_set():
            self.hung.set()
            self.go.wait()
        if self._gone:
            raise EngineLost("the device fell off the bus")
        wide = {s.name: inputs[s.name].astype(s.dtype) for s in self.of.inputs}
        outputs: dict[str, Any] = {name: np.array(a) for name, a in self.of.infer(wide).items()}
        if self.nan_at is not None and self.finished >= self.nan_at:
            outputs = {name: np.full_like(a, np.nan) for name, a in outputs.items()}
        self._given.append(outputs)
        self.finished += 1
        return outputs

    def infer(self, inputs: Arrays) -> Arrays:
        return self.finish(self.begin(inputs))

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed.set()

    @property
    def _gone(self) -> bool:
        return self.lose_at is not None and self.finished >= self.lose_at
