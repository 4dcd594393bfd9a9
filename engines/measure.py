"""How long a batch takes on an engine, stage by stage, in the terms of trtexec.

Latency is h2d + compute + d2h; enqueue is what issuing costs the host; throughput is measured with as many batches in
flight as the engine takes. Around these lie our own stages: pack (rows into the engine's memory), queue (a batch begun
while others are on the device) and unpack (results out of it).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from engines.base import Array, Arrays, Engine, EngineError, Pipelined, TensorSpec
from engines.bundle import Bundle

#: Seconds on a steady clock; `time.perf_counter` outside of tests.
Clock = Callable[[], float]

#: What every engine is measured in, in the order of a batch's way; engines without a device have no copies.
STAGES = ("queue", "pack", "enqueue", "h2d", "compute", "d2h", "unpack")
#: Batch sizes of the table: those that a TensorRT session pads to.
BUCKETS = (1, 8, 32, 64, 128, 256)
#: Enough for a p99 of three rounds; p99.9 is then the worst round.
ROUNDS = 300
# Rounds before the clock counts: caches, branch predictors and the GPU's clock need some.
_WARM_ROUNDS = 10
# A model that leaves its channels open and has no golden vectors is measured with this many.
_CHANNELS = 8
_US = 1e6


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of one stage over all rounds, in microseconds."""

    p50: float
    p99: float
    p999: float

    @classmethod
    def of(cls, seconds: Sequence[float] | NDArray[np.float64]) -> "Spread":
        p50, p99, p999 = np.percentile(np.asarray(seconds) * _US, [50, 99, 99.9]).tolist()
        return cls(p50, p99, p999)


@dataclass(frozen=True, slots=True)
class BucketTimes:
    """One row of the table. stages: those that this engine has. latency: h2d + compute + d2h of a batch alone.

    rows_per_s: with `depth` batches in flight. total: from rows to results, alone: pack, enqueue, device, unpack.
    """

    rows: int
    stages: Mapping[str, Spread]
    latency: Spread
    total: Spread
    rows_per_s: float
    depth: int = 1


class Profiled(Protocol):
    """An engine that can say when its device began and ended each stage."""

    def profile(self, inputs: Arrays) -> tuple[float, float, float]:
        """Run a batch alone; return h2d, compute and d2h in seconds by the device's own clock."""


def measure(engine: Engine, bundle: Bundle, clock: Clock, buckets: Sequence[int] = BUCKETS,
            rounds: int = ROUNDS) -> list[BucketTimes]:
    """Measure `engine`, warmed up here, at each size of `buckets` that it takes. Raises EngineError.

    Rows are those of the golden vectors, else made up: time does not depend on values on any engine of ours.
    """
    source = sample_rows(engine.inputs, bundle, max(buckets))
    largest = getattr(engine, "max_batch", max(buckets))
    fitting = [bucket for bucket in buckets if bucket <= largest]
    if not fitting:
        raise EngineError(f"{engine.name} takes batches of up to {largest} rows, none of {list(buckets)}")
    if hasattr(engine, "begin"):
        return [_pipelined(cast(Pipelined, engine), source, n, rounds, clock, largest) for n in fitting]
    return [_plain(engine, source, n, rounds, clock) for n in fitting]


def sample_rows(inputs: Sequence[TensorSpec], bundle: Bundle, rows: int) -> dict[str, Array]:
    """Make `rows` rows in the engine's dtypes: the golden ones over and over, else ones in a shape that should fit."""
    if bundle.golden is not None:
        case = max(bundle.golden.cases, key=lambda case: case.rows)
        index = np.arange(rows) % case.rows
        return {t.name: np.take(case.inputs[t.name], index, axis=0).astype(t.dtype) for t in inputs}
    match, window = bundle.spec.match, bundle.spec.window
    channels = min(max(_CHANNELS, match.min_channels), match.max_channels)
    free = (1, channels, window.size) if window else (channels,) * 3
    return {t.name: np.ones((rows, *(d if d is not None else f for d, f in zip(t.shape, free, strict=False))), t.dtype)
            for t in inputs}


def _plain(engine: Engine, source: dict[str, Array], n: int, rounds: int, clock: Clock) -> BucketTimes:
    """Measure an engine on the CPU: rows are packed, computed and copied out, nothing overlaps."""
    staged = {name: np.empty((n, *array.shape[1:]), array.dtype) for name, array in source.items()}
    picks = _picks(source, n, rounds)
    marks = np.empty((rounds, 4))
    for i in range(-_WARM_ROUNDS, rounds):
        began = clock()
        for name, array in source.items():
            np.take(array, picks[i], axis=0, out=staged[name], mode="clip")
        packed = clock()
        outputs = engine.infer(staged)
        computed = clock()
        _unpack(outputs)
        marks[max(i, 0)] = began, packed, computed, clock()
    pack, compute, unpack = np.diff(marks).T
    total = marks[:, 3] - marks[:, 0]
    stages = {"pack": Spread.of(pack), "compute": Spread.of(compute), "unpack": Spread.of(unpack)}
    return BucketTimes(n, stages, Spread.of(compute), Spread.of(total), n * rounds / float(total.sum()))


def _pipelined(engine: Pipelined, source: dict[str, Array], n: int, rounds: int, clock: Clock,
               largest: int) -> BucketTimes:
    """Measure an engine with a device: first alone for the stages, then with batches in flight for the rate."""
    shapes = {name: array.shape[1:] for name, array in source.items()}
    sets = [engine.staging(shapes, largest).arrays for _ in range(engine.depth + 1)]
    views = [{name: array[:n] for name, array in arrays.items()} for arrays in sets]
    picks = _picks(source, n, rounds)
    marks = np.empty((rounds, 5))
    for i in range(-_WARM_ROUNDS, rounds):
        into = views[i % len(views)]
        began = clock()
        for name, array in source.items():
            np.take(array, picks[i], axis=0, out=into[name], mode="clip")
        packed = clock()
        ticket = engine.begin(into)
        issued = clock()
        outputs = engine.finish(ticket)
        done = clock()
        _unpack(outputs)
        marks[max(i, 0)] = began, packed, issued, done, clock()
    pack, enqueue, wait, unpack = np.diff(marks).T
    stages = {"pack": Spread.of(pack), "enqueue": Spread.of(enqueue), "unpack": Spread.of(unpack)}
    latency = enqueue + wait
    if hasattr(engine, "profile"):
        parts = np.array([cast(Profiled, engine).profile(views[i % len(views)]) for i in range(rounds)])
        stages |= {name: Spread.of(parts[:, k]) for k, name in enumerate(("h2d", "compute", "d2h"))}
        latency = parts.sum(axis=1)
    in_flight, rows_per_s = _loaded(engine, views, n, rounds, clock)
    alone = float(np.median(enqueue + wait))
    stages["queue"] = Spread.of(np.maximum(in_flight - alone, 0.0))
    ordered = {name: stages[name] for name in STAGES if name in stages}
    return BucketTimes(n, ordered, Spread.of(latency), Spread.of(marks[:, 4] - marks[:, 0]), rows_per_s, engine.depth)


def _loaded(engine: Pipelined, views: list[dict[str, Array]], n: int, rounds: int,
            clock: Clock) -> tuple[NDArray[np.float64], float]:
    """Keep `depth` batches in flight; return how long each took from begin to finish, and rows per second."""
    began: list[float] = []
    took = np.empty(rounds)
    tickets: list[int] = []
    start = clock()
    for i in range(rounds):
        began.append(clock())
        tickets.append(engine.begin(views[i % len(views)]))
        if i >= engine.depth - 1:
            k = i - engine.depth + 1
            _unpack(engine.finish(tickets[k]))
            took[k] = clock() - began[k]
    for k in range(max(rounds - engine.depth + 1, 0), rounds):
        _unpack(engine.finish(tickets[k]))
        took[k] = clock() - began[k]
    return took, n * rounds / (clock() - start)


def _picks(source: dict[str, Array], n: int, rounds: int) -> NDArray[Any]:
    """Choose rows as a ring gives them: neighbours, from another place in each round."""
    have = len(next(iter(source.values())))
    places = max(rounds, _WARM_ROUNDS)  # warm rounds count from the end
    return (np.arange(n) + np.arange(places)[:, None] * 7) % have


def _unpack(outputs: Arrays) -> dict[str, Array]:
    return {name: array.copy() for name, array in outputs.items()}
