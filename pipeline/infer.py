"""Infer: run batches on the engine in a thread of its own, split a failing one until the poison row is alone. [SD]

The event loop decodes the next poll while the engine computes (both release the interpreter lock in native code).
"""

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from engines.base import Array, Engine, EngineError


@dataclass(slots=True)
class Outcome:
    """What became of a batch. outputs: (n, ...) arrays; rows in `failed` (row -> why) are zeros there."""

    outputs: dict[str, Array]
    failed: dict[int, str] = field(default_factory=dict)
    calls: int = 1


def run(engine: Engine, inputs: Mapping[str, Array]) -> Outcome:
    """Compute a batch; on EngineError halve it until the failing rows are alone and the others are scored."""
    n = len(next(iter(inputs.values())))
    try:
        return Outcome({name: np.array(a) for name, a in engine.infer(inputs).items()})
    except EngineError as error:
        if n == 1:
            outputs = {s.name: np.zeros((1, *(d or 1 for d in s.shape)), s.dtype) for s in engine.outputs}
            return Outcome(outputs, {0: str(error)})
    half = n // 2
    left = run(engine, {k: v[:half] for k, v in inputs.items()})
    right = run(engine, {k: v[half:] for k, v in inputs.items()})
    return Outcome(
        {k: np.concatenate(_alike(left.outputs[k], right.outputs[k])) for k in left.outputs},
        left.failed | {half + i: why for i, why in right.failed.items()},
        1 + left.calls + right.calls,
    )


def _alike(a: Array, b: Array) -> tuple[Array, Array]:
    """Give the zeros of a failed row the trailing shape of computed ones, where the spec leaves it open."""
    if a.shape[1:] == b.shape[1:]:
        return a, b
    shape = tuple(map(max, a.shape[1:], b.shape[1:]))
    return np.broadcast_to(a, (len(a), *shape)), np.broadcast_to(b, (len(b), *shape))


Done = Callable[[Outcome | BaseException], None]


class EngineThread:
    """Owns the engine: everything that touches it after `start` happens on one thread, in order of submission."""

    def __init__(self, engine: Engine, name: str = "engine") -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[tuple[Mapping[str, Array], Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name=f"kizashi-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, inputs: Mapping[str, Array], done: Done) -> None:
        """Queue a batch; `done` is called on the engine's thread with the outcome or with what broke the engine."""
        self._queue.put((inputs, done))

    def close(self) -> None:
        """Finish what is queued, close the engine, end the thread."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _main(self) -> None:
        while (item := self._queue.get()) is not None:
            inputs, done = item
            try:
                outcome: Outcome | BaseException = run(self._engine, inputs)
            except Exception as error:  # broken in another way: the caller must hear of it
                outcome = error
            done(outcome)
        self._engine.close()
