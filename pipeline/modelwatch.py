"""Model watch: new bundles in the models folder are tried beside the ones that serve, and swapped in between batches.

Whatever is wrong with a new bundle, the last good one goes on serving and an event says why; the same bytes are not
tried twice.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from engines.base import EngineError, EngineLost, TensorSpec
from engines.bundle import Bundle, BundleError, Candidate
from pipeline.columns import Effects
from pipeline.custody import Custody
from pipeline.errors import ModelError
from pipeline.flow import Flow
from pipeline.ops.events import Events
from pipeline.succession import Succession, obstacles

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

    def install(self) -> None:
        """Take over from the engine that serves; called between two batches."""

    def discard(self) -> None:
        """Give the engine back: it will not serve."""


class Models(Protocol):
    """Where candidates come from and what serves. Called in a thread, except `serving`."""

    def offers(self) -> Mapping[str, Candidate]:
        """Return the candidate that should serve each routed bundle's name."""

    def serving(self) -> Mapping[str, tuple[Bundle, str]]:
        """Return what serves each name, and the mark it had."""

    def begin(self) -> None:
        """Remember what serves at the start."""

    def prepare(self, candidate: Candidate) -> Prepared:
        """Try a candidate. Raises BundleError, EngineError or ModelError with everything that is wrong."""

    def record(self, prepared: Prepared, candidate: Candidate) -> None:
        """Remember that it serves: a restart begins with it."""


@dataclass(slots=True)
class _Refused:
    mark: str
    why: str


class ModelWatch:
    """Looks at the models folder every `poll_s`; `run` is a task for the worker's life."""

    def __init__(self, models: Models, flow: Flow, custody: Custody, events: Events, poll_s: float,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._models, self._flow, self._custody, self._events = models, flow, custody, events
        self._poll_s, self._clock = poll_s, clock
        self._refused: dict[str, _Refused] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        await asyncio.to_thread(self._models.begin)
        while True:
            await asyncio.sleep(self._poll_s)
            await self.look()

    async def look(self) -> None:
        """Look once, and swap what is new."""
        try:
            offers = await asyncio.to_thread(self._models.offers)
        except (OSError, ModelError) as error:
            self._events.emit("swap_refused", bundle="", version="", why=f"the models folder cannot be read: {error}")
            return
        for name, candidate in offers.items():
            serving = self._models.serving().get(name)
            refused = self._refused.get(name)
            if serving is None or candidate.mark == serving[1] or (refused and refused.mark == candidate.mark):
                continue
            await self._try(candidate, serving[0])

    async def _try(self, candidate: Candidate, old: Bundle) -> None:
        started = self._clock()
        try:
            prepared = await asyncio.to_thread(self._models.prepare, candidate)
        except Exception as error:  # whatever a new version does, the last good one goes on
            known = isinstance(error, (BundleError, EngineError, EngineLost, ModelError))
            self._refuse(candidate, old, str(error) if known else f"{type(error).__name__}: {error}")
            return
        swapped = False
        try:
            why = obstacles(old, prepared.bundle, self._layouts(old.spec.name))
            if why:
                self._refuse(candidate, old, "; ".join(why))
                return
            changes = any(old.state_hash(*layout) != prepared.bundle.state_hash(*layout)
                          for layout in self._layouts(old.spec.name))
            if changes and not await self._warm(candidate, prepared, started):
                return
            swapped = True
            await self._custody.swap(lambda: self._change(prepared))
            await asyncio.to_thread(self._models.record, prepared, candidate)
        finally:
            self._flow.successions.pop(candidate.name, None)
            if not swapped:
                prepared.discard()
        self._refused.pop(candidate.name, None)
        self._events.emit("swapped", bundle=candidate.name, version=candidate.version, replaced=old.spec.version,
                          state="new" if changes else "kept", seconds=round(self._clock() - started, 3))

    def _change(self, prepared: Prepared) -> Effects:
        effects = self._flow.succeed(prepared.bundle, prepared.inputs, self._custody.writer())
        prepared.install()
        return effects

    async def _warm(self, candidate: Candidate, prepared: Prepared, started: float) -> bool:
        """Let heirs follow until all assets that send are warm; False if the folder offers something else by then."""
        self._flow.successions[candidate.name] = heirs = Succession(prepared.bundle)
        said = looked = self._clock()
        while cold := heirs.cold(self._flow.partitions.values()):
            await asyncio.sleep(WARM_POLL_S)
            now = self._clock()
            if now - said >= WAITING_EVERY_S:
                said = now
                self._events.emit("swap_waiting", bundle=candidate.name, version=candidate.version, cold=len(cold),
                                  assets=cold[:MAX_NAMED], seconds=round(now - started, 1))
            if now - looked >= self._poll_s:
                looked = now
                offers = await asyncio.to_thread(self._models.offers)
                if candidate.name not in offers or offers[candidate.name].mark != candidate.mark:
                    return False
        return True

    def _refuse(self, candidate: Candidate, old: Bundle, why: str) -> None:
        self._refused[candidate.name] = _Refused(candidate.mark, why)
        self._events.emit("swap_refused", bundle=candidate.name, version=candidate.version, serving=old.spec.version,
                          why=why)

    def _layouts(self, name: str) -> Iterator[tuple[int, int]]:
        for part in self._flow.partitions.values():
            for pool in part.order:
                if pool.bundle.spec.name == name and any(s is not None for s in pool.slots):
                    yield pool.channels, pool.samples
