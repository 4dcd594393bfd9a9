"""Model watch: new bundles in the models folder are tried beside the ones that serve, and swapped in between batches.

Whatever is wrong with a new bundle, the last good one goes on serving and an event says why; the same bytes are not
tried twice, unless it was for want of a device, memory or time.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engines.base import Array, Arrays, EngineError, EngineLost, TensorSpec, Unready
from engines.bundle import Bundle, BundleError, Candidate
from pipeline.aside import aside
from pipeline.columns import Effects
from pipeline.custody import Custody
from pipeline.errors import ModelError
from pipeline.flow import Flow
from pipeline.ops.events import Events
from pipeline.pace import again_s
from pipeline.succession import Succession, layouts, obstacles

#: How often a swap that waits for assets to become warm looks again, and says so.
WARM_POLL_S, WAITING_EVERY_S = 1.0, 60.0
#: Assets named in an event; the rest is a number.
MAX_NAMED = 5


class Prepared(Protocol):
    """A candidate that is verified, loaded, warm and checked on its golden vectors, on an engine of its own."""

    @property
    def bundle(self) -> Bundle: ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    def infer(self, inputs: Mapping[str, Array]) -> tuple[Arrays, Collection[int]] | None:
        """Return outputs, and the rows that failed, of rows that only teach; None if the engine is broken."""

    def install(self) -> None:
        """Take over from the engine that serves; called between two batches."""

    def discard(self) -> None:
        """Give the engine back: it will not serve."""


class Models(Protocol):
    """Where candidates come from and what serves. Called in a thread, except `serving`."""

    def offers(self) -> Mapping[str, Sequence[Candidate]]:
        """Return the candidates that may serve each routed bundle's name, best first."""

    def serving(self) -> Mapping[str, tuple[Bundle, str]]:
        """Return what serves each name, and the mark it had."""

    def prepare(self, candidate: Candidate) -> Prepared | None:
        """Try a candidate. None: it is what serves, whose mark is now the candidate's.

        Raises BundleError, EngineError or ModelError with everything that is wrong.
        """

    def record(self, prepared: Prepared, candidate: Candidate) -> None:
        """Remember that it serves: a restart begins with it."""


class ModelWatch:
    """Looks at the models folder every `poll_s`; `run` is a task for the worker's life."""

    def __init__(self, models: Models, flow: Flow, custody: Custody, events: Events, poll_s: float,
                 clock: Callable[[], float] = time.monotonic, stuck_s: float = 3600.0) -> None:
        """stuck_s: a swap that waits longer than this for assets to become warm is told as a warning."""
        self._models, self._flow, self._custody, self._events = models, flow, custody, events
        self._poll_s, self._clock, self._stuck_s = poll_s, clock, stuck_s
        self._refused: dict[str, _Refusal] = {}  # by mark
        self._unreadable = False
        self._trying: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Watch until cancelled. Raises what ends the worker."""
        try:
            while True:
                await asyncio.sleep(self._poll_s)
                await self.look()
                for name, task in list(self._trying.items()):
                    if task.done():
                        del self._trying[name]
                        task.result()
        finally:
            for task in self._trying.values():
                task.cancel()
            await asyncio.gather(*self._trying.values(), return_exceptions=True)

    async def look(self) -> "list[asyncio.Task[None]]":
        """Look once; what is new is tried in tasks of its own, one per bundle: none waits for another's."""
        begun, offers = [], await self._offers()
        if offers is None:
            return []
        there = {candidate.mark for ranked in offers.values() for candidate in ranked}
        self._refused = {mark: refusal for mark, refusal in self._refused.items() if mark in there}
        for name, (bundle, mark) in self._models.serving().items():
            best = self._best(offers.get(name, ()))
            if best is not None and best.mark != mark and name not in self._trying:
                self._trying[name] = asyncio.get_running_loop().create_task(self._try(best, bundle))
                begun.append(self._trying[name])
        return begun

    async def _offers(self) -> Mapping[str, Sequence[Candidate]] | None:
        """Return what the folder offers, None if it cannot be read just now."""
        try:
            found = await aside(self._models.offers)
        except Exception as error:  # whatever lies there, the last good one goes on
            if not self._unreadable:
                self._events.emit("swap_refused", bundle="", version="",
                                  why=f"the folder cannot be read: {_said(error)}")
            self._unreadable = True
            return None
        self._unreadable = False
        return found

    async def _try(self, candidate: Candidate, old: Bundle) -> None:
        started = self._clock()
        try:
            prepared = await aside(self._models.prepare, candidate)
        except Exception as error:  # whatever a new version does, the last good one goes on
            self._refuse(candidate, old, _said(error), passing=isinstance(error, (Unready, EngineLost)))
            return
        if prepared is None:
            self._refused.pop(candidate.mark, None)
            return
        swapped, changes = False, _changes(old, prepared.bundle, self._layouts(old.spec.name))
        heirs = Succession(prepared.bundle, prepared) if changes else None
        if heirs is not None:
            self._flow.successions[candidate.name] = heirs
        try:
            while not swapped:
                why = obstacles(old, prepared.bundle, self._layouts(old.spec.name))
                if why:
                    self._refuse(candidate, old, "; ".join(why))
                    return
                if heirs is not None and not await self._warm(candidate, old, heirs, started):
                    return
                swapped = await self._custody.swap(lambda: self._change(prepared, old, heirs))
                if not swapped:
                    await asyncio.sleep(WARM_POLL_S)
            await aside(self._models.record, prepared, candidate)
        finally:
            self._flow.successions.pop(candidate.name, None)
            if not swapped:
                await aside(prepared.discard)
        self._refused.pop(candidate.mark, None)
        self._events.emit("swapped", bundle=candidate.name, version=candidate.version, replaced=old.spec.version,
                          state="kept" if heirs is None else "new", seconds=round(self._clock() - started, 3))

    def _change(self, prepared: Prepared, old: Bundle, heirs: Succession | None) -> Effects | None:
        """Swap, unless what was true before nothing was in flight is so no longer; called between two batches."""
        parts = list(self._flow.partitions.values())
        if obstacles(old, prepared.bundle, self._layouts(old.spec.name)):
            return None
        if heirs is not None:
            # Between two assignments a worker owns nothing, and afterwards what it has was written by the old version.
            if not parts or any(part.closed for part in parts) or heirs.cold(parts):
                return None
            self._flow.successions[old.spec.name] = heirs
        effects = self._flow.succeed(prepared.bundle, prepared.inputs)
        prepared.install()
        return effects

    async def _warm(self, candidate: Candidate, old: Bundle, heirs: Succession, started: float) -> bool:
        """Let heirs follow until all assets that send are warm; False if the folder offers something else by then."""
        said = looked = self._clock()
        stuck = False
        while (cold := heirs.cold(self._flow.partitions.values())) or not self._flow.partitions:
            await asyncio.sleep(WARM_POLL_S)
            now = self._clock()
            if heirs.mute:
                self._refuse(candidate, old, "its engine was lost or hung while assets warmed up on it", passing=True)
                return False
            if now - said >= WAITING_EVERY_S:
                said = now
                self._events.emit("swap_waiting", bundle=candidate.name, version=candidate.version, cold=len(cold),
                                  assets=cold[:MAX_NAMED], seconds=round(now - started, 1))
            if not stuck and cold and now - started >= self._stuck_s:
                stuck = True
                self._events.emit("swap_stuck", bundle=candidate.name, version=candidate.version, cold=len(cold),
                                  seconds=round(now - started, 1), **self._held_up(candidate.name, cold))
            if now - looked >= self._poll_s:
                looked = now
                offers = await self._offers()
                why = "" if offers is None else self._overtaken(candidate, offers.get(candidate.name, ()))
                if why:
                    self._events.emit("swap_refused", bundle=candidate.name, version=candidate.version,
                                      serving=old.spec.version, why=why)
                    return False
        return True

    def _overtaken(self, candidate: Candidate, offered: Sequence[Candidate]) -> str:
        """Say why a candidate is no longer the best; "" if it is, beside those that were refused and are not due."""
        best = self._best(offered, candidate.mark)
        if best is not None and best.mark == candidate.mark:
            return ""
        if all(c.mark != candidate.mark for c in offered):
            return "it was taken back while assets warmed up on it: the folder offers it no longer, or changed"
        return f"another is offered, {best.version}: it is tried first" if best is not None else ""

    def _best(self, offered: Iterable[Candidate], mark: str = "") -> Candidate | None:
        """Return the best that was not refused, or is to be tried again. mark: of one that may be tried in any case."""
        now = self._clock()
        return next((c for c in offered if c.mark == mark or c.mark not in self._refused
                     or self._refused[c.mark].is_due(now)), None)

    def _held_up(self, name: str, cold: list[str]) -> dict[str, Any]:
        """Name assets that keep a swap waiting by why they do: an alert stands, or they send too little."""
        ill = {who.asset for part in self._flow.partitions.values() for pool in part.order
               if pool.bundle.spec.name == name for slot, _ in pool.open if (who := pool.slots[slot]) is not None}
        return {"alerting": [a for a in cold if a in ill][:MAX_NAMED],
                "learning": [a for a in cold if a not in ill][:MAX_NAMED]}

    def _layouts(self, name: str) -> list[tuple[int, int]]:
        return layouts(self._flow.partitions.values(), name)

    def _refuse(self, candidate: Candidate, old: Bundle, why: str, *, passing: bool = False) -> None:
        """Say why a version does not serve. passing: the version is not at fault, it is tried again."""
        known = self._refused.get(candidate.mark)
        failures = known.failures + 1 if known is not None else 1
        wait_s = again_s(failures) if passing else None
        self._refused[candidate.mark] = _Refusal(failures, None if wait_s is None else self._clock() + wait_s)
        again: dict[str, Any] = {} if wait_s is None else {"again_s": wait_s}
        self._events.emit("swap_refused", bundle=candidate.name, version=candidate.version, serving=old.spec.version,
                          why=why, **again)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """How often in a row something was refused, and when it is tried again (None: when its mark changes)."""

    failures: int
    again_at: float | None

    def is_due(self, now: float) -> bool:
        """Say whether it is to be tried again. now: seconds, steady."""
        return self.again_at is not None and now >= self.again_at


def _said(error: Exception) -> str:
    known = isinstance(error, (BundleError, EngineError, EngineLost, ModelError))
    return str(error) if known else f"{type(error).__name__}: {error}"


def _changes(old: Bundle, new: Bundle, served: Iterable[tuple[int, int]]) -> bool:
    """Say whether the state changes. Also for layouts that nobody has yet: partitions may come with them."""
    return any(old.state_hash(*layout) != new.state_hash(*layout) for layout in (*served, (1, 1)))
