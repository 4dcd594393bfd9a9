"""Offers: what the models folder has for each bundle that serves, tried out before it may take over.

Blocking, meant for a thread: reading, verifying, loading, comparing, measuring.
"""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from engines.base import Array, Arrays, Engine, EngineError, EngineLost, TensorSpec
from engines.bundle import Bundle, Candidate, load_bundle
from engines.measure import measure
from engines.trust import version_key
from pipeline import infer
from pipeline.assembly import trust_policy
from pipeline.errors import ModelError
from pipeline.fitting import OPEN_S, Fitter, golden_shapes
from pipeline.fleet import Fleet
from pipeline.modelbook import candidates, fall_back, ranked, read_record, record_active
from pipeline.modelwatch import Prepared
from pipeline.ops.events import Events
from pipeline.ops.settings import Settings
from pipeline.serving import CLOSE_S, Engines, Layout, Serving, layout_of

#: Full batches timed before a version may serve, by the CPU time of their thread: the worker goes on beside it.
ROUNDS = 20
#: The event loop waits at most this long for the interpreter beside a version that is tried, instead of 5 ms each time.
SWITCH_S, _USUAL_S = 0.0005, sys.getswitchinterval()
#: Longest that rows which only teach an heir may hold up the flow; they take a millisecond.
LEARN_S = 1.0


@dataclass(slots=True)
class Tried:
    """A version that passed everything, warm on engines of its own (a Prepared of modelwatch)."""

    bundle: Bundle
    engines: Engines
    serving: Serving
    sound: bool = True

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.engines.ground.thread.engine.inputs

    def infer(self, inputs: Mapping[str, Array]) -> tuple[Arrays, Collection[int]] | None:
        """Return outputs, and the rows that failed; None, and from then on, if the engine is lost or hangs."""
        if not self.sound:
            return None
        try:
            found = self.engines.ground.thread.call(lambda engine: infer.run(engine, inputs), LEARN_S)
        except (EngineLost, TimeoutError):
            self.sound = False
            return None
        return found.outputs, found.failed

    def install(self) -> None:
        """Take over from the engines that serve."""
        self.serving.replace(self.engines)

    def discard(self) -> None:
        """Close the engines, within seconds: they have nothing to finish."""
        for thread in self.engines.threads:
            thread.close(CLOSE_S)


class FolderModels:
    """The models folder as a source of new versions (Models of modelwatch)."""

    def __init__(self, settings: Settings, fitter: Fitter, fleet: Fleet, events: Events,
                 layouts: Callable[[str], Iterable[tuple[int, int]]]) -> None:
        """layouts: (channels, samples per frame) of the assets that a bundle serves."""
        self._settings, self._fitter, self._fleet, self._events = settings, fitter, fleet, events
        self._layouts = layouts
        paths = {c.path: c.mark for c in candidates(settings)}
        self._marks = {name: paths.get(s.bundle.path, "") for name, s in fleet.servings.items()}
        # Graphs that have run here, in which shapes, within which memory, so many rows at once: a trial depends on
        # nothing else.
        self._passed: set[tuple[str, float | None, int | None, frozenset[Layout]]] = set()
        self._told: set[str] = set()  # marks of what has no readable manifest

    def begin(self) -> None:
        """Note what serves at the start."""
        for name, serving in self._fleet.servings.items():
            self._note(name, serving.bundle.spec.version)

    def offers(self) -> Mapping[str, Sequence[Candidate]]:
        """Return what may serve of each bundle, best first: nothing below what serves, unless that may not.

        Raises ModelError when the folder cannot be read.
        """
        found, record = candidates(self._settings), read_record(self._settings)
        unreadable = {c.mark: c for c in found if c.fault}
        for mark in unreadable.keys() - self._told:
            candidate = unreadable[mark]
            self._events.emit("swap_refused", bundle=candidate.name, version="",
                              why=f"{candidate.path}: {candidate.fault}")
        self._told = set(unreadable)
        best = {}
        for name, serving in self._fleet.servings.items():
            best[name], version = ranked(name, found, record), serving.bundle.spec.version
            if not record.refuses(name, version):  # a record that could not be written does not know of it
                best[name] = [c for c in best[name] if version_key(c.version) >= version_key(version)]
        return best

    def serving(self) -> Mapping[str, tuple[Bundle, str]]:
        """Return what serves each name, and its mark."""
        return {name: (serving.bundle, self._marks[name]) for name, serving in self._fleet.servings.items()}

    def prepare(self, candidate: Candidate) -> Tried | None:
        """Verify, try out, load, warm, compare and measure a version; None if it is the one that serves.

        Raises BundleError, EngineError or ModelError.
        """
        with _yielding():
            return self._prepare(candidate)

    def _prepare(self, candidate: Candidate) -> Tried | None:
        bundle = load_bundle(candidate.path, trust_policy(self._settings))
        if (bundle.spec.name, bundle.spec.version) != (candidate.name, candidate.version):
            raise ModelError(f"{candidate.path} changed while it was read; it is tried again when it is whole")
        serving = self._fleet.servings[candidate.name]
        if bundle.manifest_sha256 == serving.bundle.manifest_sha256:
            self._marks[candidate.name] = candidate.mark  # in another place, or touched
            return None
        shapes = [bundle.spec.rows(*layout) for layout in self._layouts(candidate.name)]
        budget = bundle.spec.budget
        graph = (bundle.sha256, budget.memory_mb, budget.rows_at_once,
                 frozenset(map(layout_of, [*shapes, *golden_shapes(bundle)])))
        if graph not in self._passed:
            self._fitter.try_out(bundle, shapes)
            self._passed.add(graph)
        engines = self._fitter.engines(bundle, shapes, build=True)
        tried = Tried(bundle, engines, serving)
        try:
            rows = self._settings.batch.max_size
            engines.ground.thread.call(lambda engine: _within_budget(engine, bundle, rows), OPEN_S)
        except BaseException as error:  # nobody else knows of its engines yet
            tried.discard()
            if isinstance(error, TimeoutError):
                raise EngineLost(f"it hangs: no answer within {OPEN_S:g} s") from None
            raise
        return tried

    def record(self, prepared: Prepared, candidate: Candidate) -> None:
        """Note what serves now, for the next start."""
        self._marks[candidate.name] = candidate.mark
        self._note(candidate.name, candidate.version)

    def broken(self, name: str, why: str) -> None:
        """Let the next start begin with the version before the one that serves: this one's engine broke. No error."""
        version = self._fleet.servings[name].bundle.spec.version
        try:
            to = fall_back(self._settings, name, version, trust_policy(self._settings),
                           datetime.now(UTC).replace(microsecond=0), f"its engine broke: {why}")
        except ModelError as error:
            self._events.emit("degraded", why=f"{name} {version} broke and serves again at the next start: {error}")
            return
        if to:
            self._events.emit("swap_refused", bundle=name, version=version, serving=to,
                              why=f"its engine broke in service: {why}. {to} serves from the next start on; a version "
                                  f"above {version}, or `kizashi models rollback {name} --to {version}`, ends that")
        elif not read_record(self._settings).refuses(name, version):  # else told before
            self._events.emit("swap_refused", bundle=name, version=version, serving=version,
                              why=f"its engine broke in service: {why}. It serves again from the next start on: there "
                                  "is no version before it that is in order; put one into models.folder")

    def _note(self, name: str, version: str) -> None:
        fault = record_active(self._settings, name, version)
        if fault:
            self._events.emit("degraded", why=fault)


@contextmanager
def _yielding() -> Iterator[None]:
    """Let the event loop have the interpreter back sooner while something else computes in this process."""
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:  # to what it was at the start: two versions may be tried at once
        sys.setswitchinterval(_USUAL_S)


def _within_budget(engine: Engine, bundle: Bundle, rows: int) -> None:
    budget = bundle.spec.budget.latency_ms
    if budget is None:
        return
    (times,) = measure(engine, bundle, time.thread_time, (rows,), ROUNDS)
    if times.total.p50 > budget * 1000:
        raise EngineError(f"{engine.name}: a batch of {rows} rows takes {times.total.p50 / 1000:.2f} ms (median of "
                          f"{ROUNDS}), budget.latency_ms = {budget:g}")
