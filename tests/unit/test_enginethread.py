"""The engine's thread: order, batches in flight, what fails and what is lost. No test waits by the clock."""

import threading
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from engines.base import Arrays, Engine, EngineError, EngineLost, Staging
from pipeline import enginethread
from pipeline.enginethread import EngineThread
from pipeline.infer import Outcome
from tests.devices import Device, Slow
from tests.rig import WindowMean

Answers = list[Outcome | BaseException]


def rows(values: list[float]) -> dict[str, np.ndarray]:
    return {"x": np.broadcast_to(np.array(values, "f4")[:, None, None, None], (len(values), 2, 1, 1)).copy()}


def run(engine: Engine, batches: list[list[float]], after: Callable[[EngineThread], None] = lambda t: None) -> Answers:
    """Compute batches that are all queued before the first is begun."""
    seen: Answers = []
    gate = threading.Event()
    thread = EngineThread(lambda: engine, 4)
    thread.start()
    thread.submit(rows([0.0]), lambda o: gate.wait(30) and None)
    for values in batches:
        thread.submit(rows(values), seen.append)
    gate.set()
    after(thread)
    assert thread.close(30)
    return seen


def scores(outcome: Outcome | BaseException) -> list[float]:
    assert isinstance(outcome, Outcome), outcome
    return outcome.outputs["score"].tolist()


def test_a_plain_engine_answers_in_order_and_reports_what_breaks_it() -> None:
    class Breaks(WindowMean):
        def infer(self, inputs: Arrays) -> Arrays:
            if len(inputs["x"]) == 3:
                raise ZeroDivisionError("a bug")
            return super().infer(inputs)

    engine = Slow(Breaks())
    seen = run(engine, [[float(n)] * n for n in (1, 2, 3, 4)])
    answers = [len(o.outputs["score"]) if isinstance(o, Outcome) else type(o) for o in seen]
    assert answers == [1, 2, ZeroDivisionError, 4]
    assert engine.threads == {"kizashi-engine"} and engine.closed.is_set()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_pipelined_engine_has_as_many_batches_begun_as_it_has_depth_and_answers_in_order(depth: int) -> None:
    device = Device(WindowMean(), depth)
    seen = run(device, [[float(n), float(n)] for n in range(20)])
    assert [scores(o) for o in seen] == [[float(n), float(n)] for n in range(20)]
    assert device.most_begun == depth and device.threads == {"kizashi-engine"} and device.closed.is_set()


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("where", ["begin", "finish"])
def test_a_pipelined_batch_that_fails_is_split_once_nothing_else_is_under_way(at: int, where: str) -> None:
    batches = [[float(n), 10.0 + n] for n in range(6)]
    batches[at][1] = 99.0
    device = Device(WindowMean(poison=99.0), 3) if where == "finish" else Device(WindowMean(), 3, poison_begin=99.0)
    seen = run(device, batches)
    for n, outcome in enumerate(seen):
        assert isinstance(outcome, Outcome)
        assert list(outcome.failed) == ([1] if n == at else [])
        assert scores(outcome)[0] == float(n)
        assert n == at or scores(outcome)[1] == 10.0 + n


@pytest.mark.parametrize("lose_at", [0, 1, 2, 5])
def test_a_lost_engine_gives_back_every_batch_begun_or_queued(lose_at: int) -> None:
    device = Device(WindowMean(), 3, lose_at=lose_at + 1)  # one batch goes before those of the test
    seen = run(device, [[float(n)] for n in range(8)])
    assert [isinstance(o, EngineLost) for o in seen] == [n >= lose_at for n in range(8)]
    assert device.closed.is_set()


def test_whatever_else_a_pipelined_engine_raises_loses_it() -> None:
    class Breaks(Device):
        def finish(self, ticket: int) -> Arrays:
            if ticket == 3:
                self.begun.popleft()
                raise ZeroDivisionError("a bug")
            return super().finish(ticket)

    seen = run(Breaks(WindowMean(), 3), [[float(n)] for n in range(6)])
    assert [isinstance(o, EngineLost) for o in seen] == [False] + [True] * 5
    assert "ZeroDivisionError: a bug" in str(seen[1])


def test_a_plain_engine_may_be_lost_too() -> None:
    class Gone(WindowMean):
        def infer(self, inputs: Arrays) -> Arrays:
            raise EngineLost("gone")

    assert [type(o) for o in run(Gone(), [[1.0], [2.0]])] == [EngineLost, EngineLost]


def test_arrays_of_the_engine_are_lent_at_once_while_a_batch_hangs() -> None:
    device = Device(WindowMean(), 2)
    device.go.clear()
    thread = EngineThread(lambda: device, 4, "x")
    thread.start()
    answered = threading.Event()
    thread.submit(rows([1.0]), lambda o: answered.set())
    assert device.hung.wait(30)
    assert [thread.staging({"x": (2, 1, 1)}, 8).pinned for _ in range(3)] == [True, True, False]
    assert not answered.is_set()
    device.go.set()
    assert thread.close(30) and answered.is_set()


def test_arrays_are_ordinary_ones_where_the_engine_has_none_to_give() -> None:
    class Bare(Device):
        def staging(self, shapes: Mapping[str, tuple[int, ...]], rows: int) -> Staging:
            raise EngineLost("gone")

    thread = EngineThread(lambda: Bare(WindowMean(), 2), 4)
    thread.start()
    ordinary = thread.staging({"x": (2, 1, 1)}, 8)
    assert not ordinary.pinned and ordinary.arrays["x"].shape == (8, 2, 1, 1)
    assert thread.close(30)


def test_start_says_why_an_engine_is_not_there_and_closes_one_that_does_not_become_warm() -> None:
    def absent() -> Engine:
        raise EngineError("no device")

    with pytest.raises(EngineError, match="no device"):
        EngineThread(absent, 4).start()

    class Cold(Slow):
        def warm_up(self, batch: int) -> None:
            raise EngineLost("fell over")

    cold = Cold(WindowMean())
    with pytest.raises(EngineError, match="fell over"):
        EngineThread(lambda: cold, 4).start()
    assert cold.closed.wait(30)

    class Late(Slow):
        def warm_up(self, batch: int) -> None:
            assert self.go.wait(30)

    late = Late(WindowMean())
    late.go.clear()
    with pytest.raises(EngineError, match="not warm after"):
        EngineThread(lambda: late, 4).start(0.01)
    late.go.set()
    assert late.closed.wait(30)


def test_who_asks_a_closed_engine_hears_that_it_is_closed() -> None:
    thread = EngineThread(WindowMean, 4)
    thread.start()
    thread.close()
    with pytest.raises(EngineLost, match="closed"):
        thread.call(lambda engine: engine.name)


def test_an_answer_that_comes_while_somebody_looks_whether_the_thread_lives_is_no_timeout(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enginethread, "ALIVE_S", 0.0)  # looks all the time
    thread = EngineThread(WindowMean, 4)
    thread.start()
    assert [thread.call(lambda engine, n=n: n, 30) for n in range(50)] == list(range(50))
    assert thread.close(30)
