"""Engine thread: an engine and the batches that it has in flight, on a thread of its own.

The event loop decodes the next poll while the engine computes (both release the interpreter lock in native code).
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from engines.base import Array, Engine, EngineError, EngineLost, Pipelined, Staging
from pipeline.batch import plain
from pipeline.infer import Outcome, run

T = TypeVar("T")

#: Whoever waits for the engine's thread looks this often whether there still is one.
ALIVE_S = 0.5

#: Called on the engine's thread with the outcome of a batch, or with what broke the engine.
Done = Callable[[Outcome | BaseException], None]


@dataclass(slots=True)
class _Work:
    """A batch on its way through the engine. ticket: of a pipelined engine, while it is begun and not finished."""

    inputs: Mapping[str, Array]
    done: Done
    ticket: int | None = None
    started: float = 0.0
    outcome: Outcome | None = None


@dataclass(slots=True)
class _Call:
    """Something to do with the engine while no batch is under way."""

    do: Callable[[Engine], Any]
    answer: "Future[Any]"


class EngineThread:
    """Owns the engine: it is opened, used and closed on one thread, in order of submission.

    A pipelined engine has up to `depth` batches begun; they are finished in order. An engine that is lost answers every
    batch, begun or queued, with EngineLost.
    """

    def __init__(self, factory: Callable[[], Engine], rows: int, name: str = "engine") -> None:
        """factory: opens the engine; rows: of the batch that warms it up."""
        self._factory, self._rows = factory, rows
        self._queue: queue.SimpleQueue[_Work | _Call | None] = queue.SimpleQueue()
        self._begun: deque[_Work] = deque()
        self._depth = 0  # of a pipelined engine
        self._lost: EngineLost | None = None
        self._warm: Future[Engine] = Future()
        self._thread = threading.Thread(target=self._main, name=f"kizashi-{name}", daemon=True)

    @property
    def engine(self) -> Engine:
        """Return the engine, to look at what it is; only its thread may compute with it. Call after `start`."""
        return self._warm.result(0)

    def start(self, timeout_s: float | None = None) -> None:
        """Start the thread; returns once the engine is warm. Raises EngineError when it is not, also not in time."""
        self._thread.start()
        try:
            self._warm.result(timeout_s)
        except TimeoutError:
            self._queue.put(None)  # should it become warm after all, it is closed
            raise EngineError(f"the engine was not warm after {timeout_s} s") from None
        except EngineLost as error:
            raise EngineError(str(error)) from error

    def submit(self, inputs: Mapping[str, Array], done: Done) -> None:
        """Queue a batch; `done` is called on the engine's thread with the outcome or with what broke the engine."""
        self._queue.put(_Work(inputs, done))

    def call(self, do: Callable[[Engine], T], timeout_s: float | None = None) -> T:
        """Let the engine's thread do something while no batch is under way, and wait for it.

        Raises what `do` raises, EngineLost if the engine is, TimeoutError after `timeout_s`.
        """
        answer: Future[T] = Future()
        self._queue.put(_Call(do, answer))
        left = float("inf") if timeout_s is None else timeout_s
        try:
            while True:
                # Before the wait: what a thread answers as its last is there after it.
                alive, step = self._thread.is_alive(), min(left, ALIVE_S)
                wait([answer], step)
                if answer.done():
                    return answer.result()
                left -= step
                if left <= 0:
                    raise TimeoutError
                if not alive:
                    raise EngineLost("the engine is closed")
        finally:
            answer.cancel()  # what nobody waits for any more is not begun

    def staging(self, shapes: Mapping[str, tuple[int, ...]], rows: int) -> Staging:
        """Return arrays for batches of `rows` rows: the engine's own, or ordinary ones where it has none to give.

        For row shapes that the engine is warm for (`call` it for the first ones): it lends them without waiting.
        """
        if self._depth:
            try:
                return cast(Pipelined, self.engine).staging(shapes, rows)
            except (EngineError, EngineLost):  # whatever it is, the next batch meets it too
                pass
        return plain(self.engine.inputs, shapes, rows)

    def close(self, timeout_s: float | None = None) -> bool:
        """Finish what is queued, close the engine, end the thread; returns whether it has ended by `timeout_s`."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- on the engine's thread

    def _main(self) -> None:
        try:
            engine = self._factory()
        except BaseException as error:  # whoever called `start` has to hear of it
            self._warm.set_exception(error)
            return
        try:
            try:
                engine.warm_up(self._rows)
            except BaseException as error:  # as above: it did not become warm
                self._warm.set_exception(error)
                return
            self._depth = getattr(engine, "depth", 0)
            self._warm.set_result(engine)
            self._serve(cast(Pipelined, engine))
        finally:
            engine.close()

    def _serve(self, engine: Pipelined) -> None:
        while True:
            if self._begun and (len(self._begun) >= self._depth or self._queue.empty()):
                self._finish(engine)
                continue
            item = self._queue.get()
            if isinstance(item, _Work) and self._depth:
                self._begin(engine, item)
                continue
            self._settle(engine, [*self._begun])
            if item is None:
                return
            if isinstance(item, _Work):
                self._settle(engine, [item])
            elif item.answer.set_running_or_notify_cancel():
                self._answer(engine, item)

    def _begin(self, engine: Pipelined, work: _Work) -> None:
        work.started = time.perf_counter()
        try:
            if self._lost is None:
                work.ticket = engine.begin(work.inputs)
                self._begun.append(work)
                return
        except Exception as error:  # an engine may raise anything; `_note` tells lost from failed
            self._note(error)
        self._settle(engine, [*self._begun, work])

    def _finish(self, engine: Pipelined) -> None:
        """Wait for the oldest batch. If it failed, all that are begun are finished before it is tried again."""
        work = self._begun.popleft()
        self._result(engine, work)
        if work.outcome is None:
            self._settle(engine, [work, *self._begun])
        else:
            work.done(work.outcome)

    def _settle(self, engine: Pipelined, works: list[_Work]) -> None:
        """Finish what of `works` is begun, compute alone what is not or has failed, answer in order."""
        self._begun.clear()
        for work in works:
            self._result(engine, work)
        for work in works:
            work.done(work.outcome or self._compute(engine, work))

    def _result(self, engine: Pipelined, work: _Work) -> None:
        """Take over what became of a begun batch; it has no outcome if it failed or the engine is lost."""
        ticket, work.ticket = work.ticket, None
        if ticket is None or self._lost is not None:
            return
        try:
            outputs = {name: np.array(array) for name, array in engine.finish(ticket).items()}
        except Exception as error:  # as for `begin`
            self._note(error)
        else:
            work.outcome = Outcome(outputs, seconds=time.perf_counter() - work.started)

    def _compute(self, engine: Engine, work: _Work) -> Outcome | BaseException:
        """Compute a batch alone, split if need be."""
        if self._lost is not None:
            return self._lost
        work.started = time.perf_counter()
        try:
            outcome = run(engine, work.inputs)
        except Exception as error:  # broken in another way: the caller must hear of it
            self._note(error)
            return error
        outcome.seconds = time.perf_counter() - work.started
        return outcome

    def _answer(self, engine: Engine, call: _Call) -> None:
        try:
            if self._lost is not None:
                raise self._lost
            result = call.do(engine)
        except Exception as error:  # whoever called hears of it
            self._note(error)
            call.answer.set_exception(error)
        else:
            call.answer.set_result(result)

    def _note(self, error: Exception) -> None:
        """Know the engine for lost; what a pipelined one raises besides EngineError leaves batches begun in doubt."""
        if isinstance(error, EngineLost):
            self._lost = error
        elif self._depth and not isinstance(error, EngineError):
            self._lost = EngineLost(f"{type(error).__name__}: {error}")
