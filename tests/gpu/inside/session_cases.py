"""The TensorRT session over PyCUDA, the stand-in driver and the fake TensorRT: what it promises, path by path."""

import gc
import threading

import numpy as np
import pytest

from engines import EngineError, TensorSpec, load_bundle
from engines.gpu.driver import PyCudaDriver
from engines.gpu.session import Lending, TensorRtEngine
from engines.trust import TrustPolicy
from pipeline.enginethread import EngineThread
from tests.bench.models import HOP, NO_LIMIT, SAMPLES, save_bundle
from tests.gpu.device.doubleplan import copy_bundle
from tests.gpu.framesflow import FramesFlow, polls
from tests.gpu.inside.conftest import chart_rows, copied, staged
from tests.gpu.plans import planner, session


def test_session_names_itself_its_inputs_and_its_outputs_in_single_precision(engine, model):
    assert engine.name == "tensorrt"
    if model == "dense":
        assert engine.inputs == (TensorSpec("x", "f4", (None, 4, None)),)
        assert engine.outputs == (TensorSpec("score", "f4", ()),)
    else:
        assert {i.name: (i.dtype, len(i.shape)) for i in engine.inputs} == {
            "z": ("f4", 1), "center": ("f4", 1), "whitening": ("f4", 2), "limit": ("f4", 0)}  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 255, 256, 257, 1024])
def test_any_number_of_rows_gives_what_onnx_runtime_gives(engine, rows, reference, n):
    given = rows(1, n)
    result, wanted = engine.infer(given), reference(given)
    assert list(result) == [o.name for o in engine.outputs]
    for spec in engine.outputs:
        spec.check(result[spec.name])
        np.testing.assert_allclose(result[spec.name], wanted[spec.name], rtol=2e-4, atol=1e-5)


def test_row_alone_has_the_bits_of_the_row_in_any_batch_and_bucket(engine, rows):
    given, rng = rows(2, 64), np.random.default_rng(0)
    alone = [copied(engine.infer({name: a[i : i + 1] for name, a in given.items()})) for i in range(64)]
    for _ in range(25):
        chosen = rng.integers(0, 64, rng.integers(1, 200))
        batch = engine.infer({name: a[chosen] for name, a in given.items()})
        for name, values in batch.items():
            for at, row in enumerate(chosen):
                assert values[at].tobytes() == alone[row][name][0].tobytes(), f"{name} of row {row} at {at}"


def test_what_stands_behind_the_rows_of_a_batch_changes_nothing(engine, rows):
    given = rows(3, 9)
    clean = copied(engine.infer(given))
    arrays = engine.staging({name: a.shape[1:] for name, a in given.items()}, 256).arrays
    for name, array in arrays.items():
        array[:] = np.nan
        array[:9] = given[name]
    padded = engine.finish(engine.begin({name: a[:9] for name, a in arrays.items()}))
    assert {name: a.tobytes() for name, a in padded.items()} == {name: a.tobytes() for name, a in clean.items()}


def test_inputs_are_left_alone_in_any_memory_layout(engine, rows):
    given = rows(4, 9)
    plain = {name: a.tobytes() for name, a in engine.infer(given).items()}
    odd = {name: np.repeat(a, 2, axis=0)[::2] for name, a in given.items()}
    before = {name: a.tobytes() for name, a in odd.items()}
    assert {name: a.tobytes() for name, a in engine.infer(odd).items()} == plain
    assert {name: a.tobytes() for name, a in odd.items()} == before


def test_inputs_that_do_not_fit_are_refused_and_the_engine_goes_on(engine, rows):
    given = rows(5, 4)
    good = {name: a.tobytes() for name, a in engine.infer(given).items()}
    first = next(iter(given))
    array = given[first]
    for wrong in (
        {**given, first: array.astype("f8")}, {**given, first: array.astype(">f4")}, {**given, first: array[..., None]},
        {**given, first: array[..., :1, :] if array.ndim == 4 else array[..., :1]},
        {name: a for name, a in given.items() if name != first}, {**given, "y": array}, {**given, first: array[0, 0]},
        {name: array.flat[0] * np.ones((), "f4") for name in given}, {},
    ):  # fmt: skip
        with pytest.raises(EngineError, match="input '"):
            engine.infer(wrong)
    with pytest.raises(EngineError, match="at least one row"):
        engine.infer({name: a[:0] for name, a in given.items()})
    view = staged(engine, given)
    with pytest.raises(EngineError, match="input '"):
        engine.begin({**view, first: view[first].view("i4")})
    assert {name: a.tobytes() for name, a in engine.infer(given).items()} == good


def test_three_batches_in_flight_come_back_in_order_each_with_its_own_rows(engine, rows):
    batches = [rows(10 + i, n) for i, n in enumerate((256, 3, 100, 1, 256, 64, 31, 200))]
    wanted = [copied(engine.infer(batch)) for batch in batches]
    views = [staged(engine, batch) for batch in batches]
    got, tickets = [], []
    for view in views:
        if len(tickets) - len(got) == engine.depth:
            got.append(copied(engine.finish(tickets[len(got)])))
        tickets.append(engine.begin(view))
    while len(got) < len(tickets):
        got.append(copied(engine.finish(tickets[len(got)])))
    for mine, theirs in zip(got, wanted, strict=True):
        assert {name: a.tobytes() for name, a in mine.items()} == {name: a.tobytes() for name, a in theirs.items()}


@pytest.mark.parametrize("seed", range(5))
def test_any_mix_of_shapes_sizes_and_sources_in_flight_gives_each_batch_its_own_results(bundles, seed, standin):
    """A model of the seam: batches queue up, the oldest is finished first, whatever lies between."""
    rng = np.random.default_rng(seed)
    with session(bundles["anomaly-mewma"]) as engine:
        keys = [(k, n, channels) for k in range(2) for n in (1, 8, 40, 256) for channels in (1, 3, 8)]
        wanted: dict[tuple[int, int, int], bytes] = {}
        for key in keys:
            alone = engine.infer(chart_rows(*key))
            wanted[key] = alone["score"].tobytes() + alone["contributions"].tobytes()
        flying: list[tuple[int, tuple[int, int, int]]] = []
        for step in range(300):
            if flying and (len(flying) == engine.depth or rng.random() < 0.4):
                ticket, key = flying.pop(0)
                result = engine.finish(ticket)
                assert (result["score"].tobytes() + result["contributions"].tobytes()) == wanted[key], f"step {step}"
                continue
            key = keys[rng.integers(len(keys))]
            given = chart_rows(*key)
            flying.append((engine.begin(staged(engine, given) if rng.random() < 0.7 else given), key))
        while flying:
            engine.finish(flying.pop(0)[0])
        assert standin.counters["bad_access"] == standin.overruns() == 0


def test_results_stay_until_depth_more_batches_are_begun(engine, rows):
    views = [staged(engine, rows(20 + i, 8)) for i in range(4)]
    first = engine.finish(engine.begin(views[0]))
    kept = copied(first)
    tickets = [engine.begin(view) for view in views[1:3]]
    for ticket in tickets:
        engine.finish(ticket)
    assert {n: a.tobytes() for n, a in first.items()} == {n: a.tobytes() for n, a in kept.items()}
    engine.finish(engine.begin(views[3]))
    assert {n: a.tobytes() for n, a in first.items()} != {n: a.tobytes() for n, a in kept.items()}


def test_nothing_is_there_before_the_wait(engine, rows):
    """The bed runs work only when somebody waits for it: here it shows that `begin` does not, and `finish` does."""
    one, other = staged(engine, rows(30, 8)), staged(engine, rows(31, 8))
    for _ in range(engine.depth):
        last = engine.finish(engine.begin(one))
    stale = copied(last)
    for _ in range(engine.depth - 1):
        engine.finish(engine.begin(one))
    ticket = engine.begin(other)
    assert {n: a.tobytes() for n, a in last.items()} == {n: a.tobytes() for n, a in stale.items()}
    fresh = engine.finish(ticket)
    assert {n: a.tobytes() for n, a in fresh.items()} != {n: a.tobytes() for n, a in stale.items()}


def test_more_than_depth_batches_and_finishing_out_of_order_are_refused(engine, rows):
    view = staged(engine, rows(40, 4))
    tickets = [engine.begin(view) for _ in range(engine.depth)]
    with pytest.raises(EngineError, match="finish the oldest"):
        engine.begin(view)
    with pytest.raises(EngineError, match="not the oldest"):
        engine.finish(tickets[1])
    for ticket in tickets:
        engine.finish(ticket)
    with pytest.raises(EngineError, match="not the oldest"):
        engine.finish(tickets[0])


def test_nothing_is_allocated_and_no_row_is_copied_once_a_layout_is_known(engine, rows, standin):
    staged(engine, rows(50, 1))
    standin.reset()
    views = [staged(engine, rows(50, n)) for n in (1, 7, 64, 256)]
    assert all(standin.kind(a.__array_interface__["data"][0], a.nbytes) == 2 for view in views for a in view.values())
    for _ in range(50):
        for view in views:
            engine.finish(engine.begin(view))
    assert standin.allocations == 0
    assert engine.copied_rows == 0
    counted = standin.counters
    assert counted["pageable"] == counted["bad_access"] == counted["errors"] == 0
    assert counted["graph_launches"] == 200 and engine.captured == "yes"
    assert counted["syncs"] == 200
    copies = {"discrete": (True, True), "integrated": (False, False), "coherent": (True, False)}[engine.path]
    assert (counted["h2d"] > 0, counted["d2h"] > 0) == copies
    assert standin.overruns() == 0


def test_frames_through_the_flow_take_one_copy_and_no_allocation(standin, tmp_path):
    """Decoder -> ring -> the engine's own arrays: writing a window there is the one host copy that its rows take."""
    bundle = load_bundle(save_bundle(tmp_path, "null", NO_LIMIT["null"]), TrustPolicy(allow_unsigned=True))
    plan_for = planner(bundle)
    thread = EngineThread(lambda: TensorRtEngine(bundle, plan_for, PyCudaDriver()), 256)
    thread.start(60)
    try:
        flow, sent = FramesFlow(bundle, thread), 200 * 64
        flow.run(polls(sent))
        standin.reset()
        assert flow.run(polls(sent, sent)) == sent * SAMPLES // HOP
        assert standin.allocations == thread.engine.copied_rows == 0
        assert standin.counters["pageable"] == standin.counters["bad_access"] == 0
    finally:
        assert thread.close(20)


def test_rows_elsewhere_take_one_copy_and_are_counted(engine, rows, standin):
    given = rows(60, 100)
    view = staged(engine, given)
    engine.finish(engine.begin(view))
    assert engine.copied_rows == 0
    standin.reset()
    half = {name: a[50:] for name, a in view.items()}
    engine.finish(engine.begin(half))
    engine.finish(engine.begin(given))
    assert engine.copied_rows == 150
    assert standin.allocations == 0


def test_rows_of_which_one_input_lies_elsewhere_are_copied(bundles):
    one, other = chart_rows(61, 9), chart_rows(62, 9)
    with session(bundles["anomaly-mewma"]) as engine:
        first, second = staged(engine, one), staged(engine, other)
        wanted = copied(engine.infer({**one, "limit": other["limit"]}))
        copies = engine.copied_rows
        mixed = engine.finish(engine.begin({**first, "limit": second["limit"]}))
        assert {name: a.tobytes() for name, a in mixed.items()} == {name: a.tobytes() for name, a in wanted.items()}
        assert engine.copied_rows == copies + 9


def test_staging_comes_back_when_nobody_holds_it_and_is_plain_beyond_the_budget(bundles, rows, model):
    given = rows(70, 3)
    shapes = {name: a.shape[1:] for name, a in given.items()}
    with session(bundles[model], max_batch=32, lending=Lending(sets=2)) as engine:
        taken = [engine.staging(shapes, 32) for _ in range(3)]
        assert [s.pinned for s in taken] == [True, True, False]
        views = [{name: a[:3] for name, a in s.arrays.items()} for s in taken]
        for view in views:
            for name in view:
                view[name][:] = given[name]
        results = [copied(engine.finish(engine.begin(view))) for view in views]
        assert all(r["score"].tobytes() == results[0]["score"].tobytes() for r in results)
        assert engine.copied_rows == 3
        del taken
        gc.collect()
        assert not engine.staging(shapes, 32).pinned, "views still hold the sets"
        views.clear()
        view = None  # noqa: F841  (the loop's name)
        gc.collect()
        assert engine.staging(shapes, 32).pinned
        with pytest.raises(EngineError, match="33 rows"):
            engine.staging(shapes, 33)
        with pytest.raises(EngineError, match="the model takes"):
            engine.staging({"nothing": (3,)}, 32)


def test_pinned_memory_stays_within_its_budget(bundles, rows, model, standin):
    given = rows(71, 1)
    shapes = {name: a.shape[1:] for name, a in given.items()}
    with session(bundles[model], lending=Lending(sets=50, pinned_bytes=1 << 20)) as engine:
        taken = [engine.staging(shapes, 256) for _ in range(50)]
        assert 0 <= sum(s.pinned for s in taken) < 50
        # Three slots have a set and results of their own whatever the budget is.
        own = 3 * sum(a.nbytes for a in taken[0].arrays.values())
        assert standin.counters["pinned_live_bytes"] < (1 << 20) + own + (1 << 16)


def test_staging_of_a_known_layout_may_be_asked_for_on_any_thread_and_a_new_one_only_on_the_engines(engine, rows):
    shapes = {name: a.shape[1:] for name, a in rows(80, 1).items()}
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(engine.staging(shapes, 256).pinned)
        except EngineError as error:
            answers.append(str(error))

    for prepare in (False, True):
        if prepare:
            engine.staging(shapes, 256)
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert answers == ["a new row shape is prepared on the engine's own thread only", True]


def test_each_row_shape_has_a_plan_of_its_own(bundles):
    with session(bundles["anomaly-mewma"]) as engine:
        for channels in (1, 2, 8, 32, 2):
            given = chart_rows(90, 40, channels)
            view = staged(engine, given)
            direct = copied(engine.finish(engine.begin(view)))
            assert direct["contributions"].shape == (40, channels)
            assert direct["score"].tobytes() == engine.infer(given)["score"].tobytes()
        other = {**chart_rows(91, 4, 3), "z": np.zeros((4, 2), "f4")}
        with pytest.raises(EngineError, match="must agree"):
            engine.infer(other)


def test_profile_tells_the_devices_share_of_a_batch(engine, rows):
    h2d, compute, d2h = engine.profile(staged(engine, rows(95, 64)))
    assert min(h2d, compute, d2h) >= 0 and compute > 0
    with pytest.raises(EngineError, match="staging memory"):
        engine.profile(rows(95, 64))


@pytest.mark.parametrize("batch", [1, 256, 1000])
def test_engine_warms_up_without_being_told_shapes(engine, rows, batch):
    engine.warm_up(batch)
    engine.infer(rows(96, 2))
    engine.warm_up(batch)


def test_model_that_fixes_its_shape_is_ready_after_warm_up(standin):
    with session(copy_bundle(45)) as engine:
        engine.warm_up(256)
        standin.reset()
        given = {"x": np.random.default_rng(0).normal(size=(200, 45)).astype("f4")}
        assert engine.infer(given)["score"].tobytes() == given["x"].tobytes()
        assert engine.staging({"x": (45,)}, 256).pinned
        with pytest.raises(EngineError, match="input 'x'"):
            engine.staging({"x": (44,)}, 256)
        assert standin.allocations == 0


def test_closed_engine_says_so_has_freed_everything_and_closes_again(bundles, model, rows, standin):
    live = [name for name in standin.names if name.endswith(("_live", "_live_bytes")) and name != "contexts_live"]
    gc.collect()
    with session(bundles[model]) as other:  # the context outlives the session
        other.infer(rows(97, 2))
    before = {name: standin.counters[name] for name in live}
    with session(bundles[model]) as engine:
        view = staged(engine, rows(97, 8))
        engine.begin(view)
        engine.begin(view)
        del view
    assert {name: standin.counters[name] for name in live} == before
    engine.close()
    for call in (lambda: engine.infer(rows(97, 2)), lambda: engine.finish(0), lambda: engine.begin({})):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_rows_that_are_lent_out_outlive_the_engine_and_are_freed_by_the_next(bundles, model, rows, standin):
    live = standin.counters["pinned_live_bytes"]
    with session(bundles[model]) as engine:
        view = staged(engine, rows(98, 8))
    assert standin.counters["pinned_live_bytes"] > live
    for array in view.values():
        array[:] = 1
    del array
    view.clear()
    with session(bundles[model]):
        assert standin.counters["pinned_live_bytes"] == live


def test_close_on_another_thread_is_refused(engine):
    said: list[str] = []

    def close() -> None:
        try:
            engine.close()
        except EngineError as error:
            said.append(str(error))

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert said == ["a GPU engine is closed on the thread that made it"]


def test_two_sessions_on_two_threads_serve_side_by_side(bundles, rows, model):
    results: list[bytes] = []

    def serve() -> None:
        with session(bundles[model]) as engine:
            for seed in range(20):
                results.append(engine.finish(engine.begin(staged(engine, rows(seed, 33))))["score"].tobytes())

    threads = [threading.Thread(target=serve) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 40
    assert all(results.count(r) % 2 == 0 for r in set(results)), "the threads had the same rows, so the same results"
