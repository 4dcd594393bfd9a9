"""The measuring of engines: with a clock that the test moves, every stage has the time that it was given."""

from itertools import count

import numpy as np
import pytest

from engines import EngineError, Staging, TensorSpec, load_bundle, shipped_bundles
from engines.measure import STAGES, measure, sample_rows


class Clock:
    """Seconds that pass only when something says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Plain:
    """Takes 3 us a batch."""

    name = "plain"
    inputs = (TensorSpec("z", "f8", (None,)), TensorSpec("center", "f8", (None,)),
              TensorSpec("whitening", "f8", (None, None)), TensorSpec("limit", "f8", ()))
    outputs = (TensorSpec("score", "f8", ()),)

    def __init__(self, clock: Clock) -> None:
        self.clock, self.seen = clock, []

    def warm_up(self, batch: int) -> None: ...

    def infer(self, inputs):
        self.clock.now += 3e-6
        self.seen.append(len(inputs["z"]))
        return {"score": inputs["limit"]}

    def close(self) -> None: ...


class Device(Plain):
    """Issues in 2 us; its device needs 10 us a batch, one after the other."""

    name, depth, max_batch = "device", 3, 64

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.tickets, self.free_at, self.due, self.most = count(), 0.0, {}, 0

    def staging(self, shapes, rows):
        return Staging({s.name: np.zeros((rows, *shapes[s.name]), s.dtype) for s in self.inputs}, pinned=True)

    def begin(self, inputs):
        self.clock.now += 2e-6
        ticket = next(self.tickets)
        self.free_at = max(self.free_at, self.clock.now) + 10e-6
        self.due[ticket] = self.free_at
        self.most = max(self.most, len(self.due))
        self.seen.append(len(inputs["z"]))
        return ticket

    def finish(self, ticket):
        self.clock.now = max(self.clock.now, self.due.pop(ticket))
        return {"score": np.zeros(self.seen[-1])}

    def profile(self, inputs):
        return 1e-6, 8e-6, 1e-6


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(shipped_bundles()["anomaly-mewma"])


def test_engine_without_a_device_has_pack_compute_and_unpack(clock, bundle):
    rows = measure(Plain(clock), bundle, clock, (1, 8), rounds=20)
    assert [row.rows for row in rows] == [1, 8]
    for row in rows:
        assert list(row.stages) == ["pack", "compute", "unpack"]
        assert row.latency.p50 == pytest.approx(3.0)
        assert row.total.p999 == pytest.approx(3.0)
        assert row.rows_per_s == pytest.approx(row.rows / 3e-6)


def test_pipelined_engine_is_measured_alone_for_its_stages_and_full_for_its_rate(clock, bundle):
    engine = Device(clock)
    (row,) = measure(engine, bundle, clock, (8,), rounds=200)
    assert list(row.stages) == list(STAGES)
    assert row.stages["enqueue"].p50 == pytest.approx(2.0)
    assert (row.stages["h2d"].p99, row.stages["compute"].p99, row.stages["d2h"].p99) == pytest.approx((1, 8, 1))
    assert row.latency.p50 == pytest.approx(10.0)
    assert row.total.p50 == pytest.approx(12.0)
    # Three in flight on a device that needs 10 us each: a batch waits for two others, and the device is never idle.
    assert engine.most == 3
    assert row.stages["queue"].p50 == pytest.approx(18.0, abs=1.0)
    assert row.rows_per_s == pytest.approx(8 / 10e-6, rel=0.02)


def test_sizes_above_the_largest_batch_are_left_out_and_none_at_all_is_an_error(clock, bundle):
    assert [row.rows for row in measure(Device(clock), bundle, clock, rounds=10)] == [1, 8, 32, 64]
    with pytest.raises(EngineError, match="up to 64 rows"):
        measure(Device(clock), bundle, clock, (128,), rounds=10)


def test_rows_are_the_golden_ones_in_the_engines_dtypes(bundle):
    inputs = [TensorSpec(s.name, "f4", s.shape) for s in Plain.inputs]
    rows = sample_rows(inputs, bundle, 1000)
    case = max(bundle.golden.cases, key=lambda c: c.rows)
    for name, array in rows.items():
        assert array.dtype == np.dtype("f4")
        assert len(array) == 1000
        assert (array[: case.rows] == case.inputs[name].astype("f4")).all()
