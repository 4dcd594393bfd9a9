"""CUDA errors on purpose: what ends an engine, what ends a batch, and that neither ends the process."""

import pytest

from engines import EngineError, EngineLost
from engines.gpu.faults import STICKY, CudaError, code_of, translate
from tests.gpu import bed

START = """
import sys, threading, warnings
warnings.simplefilter("error")
from engines import EngineError, EngineLost, load_bundle, shipped_bundles
from engines.gpu.driver import PyCudaDriver
from engines.gpu.session import Lending, TensorRtEngine
from tests.gpu.bed.standin import Standin
from tests.gpu.inside.conftest import chart_rows, copied, staged
from tests.gpu.plans import planner, session
standin = Standin()
bundle = load_bundle(shipped_bundles()["anomaly-mewma"])
given = chart_rows(1, 100)
shapes = {name: a.shape[1:] for name, a in given.items()}
def told(kind, call):
    try:
        call()
    except (EngineError, EngineLost) as error:
        assert type(error) is kind, repr(error)
        return str(error)
    raise AssertionError("no error")
"""


class Words:
    """A driver that knows no words and says `state` of every stream."""

    def __init__(self, state: int = 0, known: dict[str, int] | None = None) -> None:
        self.state, self.known = state, known or {}

    def code_of(self, message: str) -> int | None:
        return self.known.get(message)

    def query(self, stream: int) -> int:
        return self.state


@pytest.mark.parametrize("code", sorted(STICKY))
def test_sticky_codes_lose_the_engine_and_say_to_restart(code):
    error = CudaError(code, "cuLaunch failed: words")
    said = translate(error, code_of(error, Words(), 1), "computing 8 rows", "GPU 0")
    assert isinstance(said, EngineLost)
    for part in ("computing 8 rows on GPU 0", str(code), "restart the worker"):
        assert part in str(said)


@pytest.mark.parametrize("code", [1, 2, 101, 200, 209, 304, 400, 500, 600, 701, 800, 801, 900, 901, 909])
def test_other_codes_fail_the_batch_only(code):
    error = CudaError(code, "cuMemAlloc failed: words")
    said = translate(error, code_of(error, Words(), 1), "computing 8 rows", "GPU 0")
    assert isinstance(said, EngineError)
    assert ("batch.max_size" in str(said)) == (code == 2)


def test_error_without_a_number_is_told_by_its_words_and_else_by_the_state_of_the_stream():
    error = RuntimeError("cuEventSynchronize failed: an illegal memory access was encountered")
    assert code_of(error, Words(0, {str(error): 700}), 1) == 700
    assert code_of(error, Words(719), 1) == 719
    assert code_of(error, Words(600), 1) == 0
    assert isinstance(translate(EngineError("a plan"), 0, "starting", "GPU"), EngineError)
    assert isinstance(translate(EngineError("a plan"), 700, "starting", "GPU"), EngineLost)
    assert isinstance(translate(EngineLost("a plan"), 0, "starting", "GPU"), EngineLost)


@pytest.fixture(scope="module")
def _bed():
    bed.need()


on_bed = pytest.mark.usefixtures("_bed")

# Where an error of a device comes to light: at a wait, at a call, while warming up, in the middle of a capture.
WHERE = {
    "at a wait": "view = staged(engine, given); standin.faults('graph:1=CODE:sticky'); "
                 "call = lambda: engine.finish(engine.begin(view))",
    "at a copy": "view = staged(engine, given); standin.faults('cuMemcpyHtoDAsync:1=CODE:sticky'); "
                 "call = lambda: engine.begin(view)",
    "at a launch": "view = staged(engine, given); standin.faults('cuGraphLaunch:1=CODE:sticky'); "
                   "call = lambda: engine.begin(view)",
    "while warming up": "standin.faults('host:2=CODE:sticky'); call = lambda: staged(engine, given)",
    "in a capture": "standin.faults('cuStreamEndCapture:1=CODE:sticky'); call = lambda: staged(engine, given)",
}  # fmt: skip


@on_bed
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("code", [700, 719])
def test_sticky_error_loses_the_engine_but_not_the_process(where, code):
    done = bed.run(START + f"""
def work():
    engine = TensorRtEngine(bundle, planner(bundle), PyCudaDriver())
    {WHERE[where].replace("CODE", str(code))}
    said = told(EngineLost, call)
    assert "{code}" in said or "illegal" in said or "launch failure" in said, said
    assert "restart the worker" in said
    again = told(EngineLost, lambda: engine.begin(given))
    assert again == said
    told(EngineLost, lambda: engine.finish(0))
    engine.close(); engine.close()
    for name, array in given.items():
        assert array.sum() == array.sum()
    told(EngineError, PyCudaDriver)
    print("lost and closed")
thread = threading.Thread(target=work); thread.start(); thread.join(20)
""")
    assert (done.stdout, done.stderr) == ("lost and closed\n", "")


@on_bed
def test_sticky_error_at_opening_is_told_as_one_and_nothing_is_opened_afterwards():
    bed.run(START + """
standin.faults("cuStreamCreate:2=700:sticky")
said = told(EngineLost, lambda: TensorRtEngine(bundle, planner(bundle), PyCudaDriver()))
assert "restart the worker" in said, said
told(EngineError, PyCudaDriver)
""")


@on_bed
def test_all_sessions_of_a_process_are_lost_together_and_end_in_silence():
    done = bed.run(START + """
ready, gone = threading.Barrier(2), threading.Barrier(2)
def work(first):
    engine = TensorRtEngine(bundle, planner(bundle), PyCudaDriver())
    view = staged(engine, given)
    ready.wait(20)
    if first:
        standin.lose(700)
        told(EngineLost, lambda: engine.begin(view))
        engine.close()
    gone.wait(20)
    if not first:
        told(EngineLost, lambda: engine.begin(view))
        engine.close()
    for array in view.values():
        array[:] = 0
    print("closed\\n", end="")
threads = [threading.Thread(target=work, args=(first,)) for first in (True, False)]
[t.start() for t in threads]; [t.join(20) for t in threads]
""")
    assert (done.stdout, done.stderr) == ("closed\nclosed\n", "")


@on_bed
@pytest.mark.parametrize("rule", [
    "graph:1=701", "cuMemcpyHtoDAsync:1=1", "cuGraphLaunch:1=701", "cuMemcpyDtoHAsync:1=1", "cuEventRecord:1=400",
])  # fmt: skip
def test_error_that_is_not_sticky_fails_its_batch_and_the_next_ones_are_right(rule):
    bed.run(START + f"""
with session(bundle) as engine:
    view, wanted = staged(engine, given), copied(engine.infer(given))
    standin.faults({rule!r})
    said = told(EngineError, lambda: engine.finish(engine.begin(view)))
    assert "100 rows" in said and "Stand-in" in said, said
    for _ in range(4):
        got = engine.finish(engine.begin(view))
        assert all(got[name].tobytes() == wanted[name].tobytes() for name in wanted)
    # Batches that were begun beside a failing one are not lost.
    tickets = [engine.begin(view) for _ in range(2)]
    standin.faults({rule!r} if not {rule.startswith("graph")} else "")
    if {not rule.startswith("graph")}:
        told(EngineError, lambda: engine.begin(view))
    for ticket in tickets:
        got = engine.finish(ticket)
        assert all(got[name].tobytes() == wanted[name].tobytes() for name in wanted)
""")


@on_bed
@pytest.mark.parametrize("rule", [
    "cuStreamBeginCapture:1+=900", "cuStreamEndCapture:1=901", "cuGraphInstantiateWithFlags:1+=801",
])  # fmt: skip
@pytest.mark.parametrize("path", ["discrete", "integrated"])
def test_engine_serves_without_graphs_where_capture_does_not_work(rule, path):
    bed.run(START + f"""
with session(bundle) as engine:
    wanted = copied(engine.infer(given))
standin.faults({rule!r})
with session(bundle) as engine:
    views = [staged(engine, given), staged(engine, chart_rows(2, 3))]
    standin.reset()
    for _ in range(5):
        engine.finish(engine.begin(views[1]))
        got = engine.finish(engine.begin(views[0]))
        assert all(got[name].tobytes() == wanted[name].tobytes() for name in wanted)
    counted = standin.counters
    assert counted["graph_launches"] == 0 and counted["host_funcs"] == 10, counted
    assert standin.allocations == 0
    assert engine.captured.startswith("no: "), engine.captured
    print(engine.captured)
""", **({} if path == "discrete" else {path: True}))


@on_bed
@pytest.mark.parametrize("switch", ["memory", "pinned"])
def test_too_little_memory_is_an_error_of_the_layout_and_leaves_nothing_behind(switch):
    bed.run(START + """
live = [n for n in standin.names if n.endswith(("_live", "_live_bytes")) and n != "contexts_live"]
with session(bundle) as engine:
    engine.infer(chart_rows(1, 4, 1))
    before = {name: standin.counters[name] for name in live}
    said = told(EngineError, lambda: engine.staging({k: tuple(512 for _ in v) for k, v in shapes.items()}, 256))
    assert "out of memory" in said and "batch.max_size" in said, said
    assert {name: standin.counters[name] for name in live} == before
    engine.infer(chart_rows(1, 4, 1))
""", **{switch: 64 << 20})


@on_bed
@pytest.mark.parametrize("call", ["cuStreamCreate", "cuEventCreate", "cuCtxPushCurrent", "cuDevicePrimaryCtxRetain"])
def test_engine_that_cannot_be_opened_says_why_and_can_be_opened_later(call):
    bed.run(START + f"""
standin.faults("{call}:1=2")
said = told(EngineError, lambda: TensorRtEngine(bundle, planner(bundle), PyCudaDriver()))
assert "memory" in said, said
with session(bundle) as engine:
    engine.infer(given)
""")


@on_bed
@pytest.mark.parametrize("kind", ["EngineError", "EngineLost"])
def test_plan_that_cannot_be_had_fails_its_row_shape_and_a_lost_device_the_engine(kind):
    bed.run(START + f"""
def plan_for(dims):
    if dims["C"] == 5:
        raise {kind}("no plan for five")
    return plain(dims)
plain = planner(bundle)
engine = TensorRtEngine(bundle, plan_for, PyCudaDriver())
engine.infer(chart_rows(1, 4, 2))
said = told({kind}, lambda: engine.infer(given))
assert "no plan for five" in said, said
if {kind!r} == "EngineError":
    engine.infer(chart_rows(1, 4, 2))
else:
    assert told(EngineLost, lambda: engine.infer(chart_rows(1, 4, 2))) == said
engine.close()
""")


@on_bed
def test_plan_of_another_model_is_refused():
    bed.run(START + """
from tests import models
from pathlib import Path
import tempfile
from engines.bundle import TrustPolicy
folder = Path(tempfile.mkdtemp())
other = load_bundle(models.bundle(folder / "dense", models.dense(), match={"max_channels": 4}),
                    TrustPolicy(allow_unsigned=True))
engine = TensorRtEngine(bundle, lambda dims: planner(other)({"frames": 2, "samples": 16}), PyCudaDriver())
said = told(EngineError, lambda: engine.infer(given))
assert "the plan takes" in said and "the model wants" in said, said
engine.close()
""")
