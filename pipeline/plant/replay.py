"""Replay: files through the same flow as the live worker's, with no broker and no threads."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from typing import Self

from pipeline import infer
from pipeline.assembly import bundles_of, fallback_of, flow_settings, open_engines, routes_of
from pipeline.births import BirthBook
from pipeline.columns import Effects, Poll
from pipeline.flow import Flow, Step
from pipeline.ops.settings import Settings
from pipeline.plant.source import Retired
from pipeline.seating import Seating
from pipeline.state import COUNTERS, Partition
from schemas import AssetBirth

#: In a replay nobody waits: batches leave when they are full or when their poll is done.
_NOW = 0.0


class Replay:
    """Feed a source item by item; each call returns what it led to, settled. Deterministic."""

    def __init__(self, settings: Settings, models: Mapping[str, bytes] | None = None) -> None:
        """Open bundles and engines as the worker would; models: weights in place of a bundle's, by its name.

        Raises ModelError.
        """
        self._opened = ExitStack()
        bundles = bundles_of(settings)
        for name, model in (models or {}).items():
            bundles[name] = replace(bundles[name], model=model, sha256=sha256(model).hexdigest())
        self._engines = open_engines(settings, bundles)
        for engine in self._engines.values():
            self._opened.callback(engine.close)
        # A capture may hold any part of a topic, so where an asset belongs is not asked.
        seats = Seating(bundles, routes_of(settings), BirthBook(), settings.worker.max_assets, partition_of=None,
                        fallback=fallback_of(settings))
        self.flow = Flow(replace(flow_settings(settings), assessments=True), seats,
                         {name: engine.inputs for name, engine in self._engines.items()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def run(self, source: Iterable[AssetBirth | Retired | Poll]) -> Iterator[Effects]:
        """Yield the effects of each item of the source, in order."""
        for item in source:
            if isinstance(item, Poll):
                yield self._poll(item)
            elif isinstance(item, Retired):
                yield self._settle(self.flow.retire(item.asset, item.birth_id))
            else:
                yield self._settle(self.flow.announce(item, _NOW))

    def totals(self) -> dict[str, int]:
        """Return the frame and row counters over everything read so far (`pipeline.state.COUNTERS`)."""
        parts = [p.totals() for p in self.flow.partitions.values()]
        return {name: sum(p[name] for p in parts) for name in COUNTERS}

    def waiting(self) -> int:
        """Return how many frames still wait for a birth."""
        return sum(p.unassigned.frames_waiting() for p in self.flow.partitions.values())

    def _poll(self, poll: Poll) -> Effects:
        if poll.partition not in self.flow.partitions:
            self.flow.partitions[poll.partition] = Partition(poll.partition, int(poll.offsets[0]))
        effects, rest = Effects(), poll
        while True:
            step = self.flow.admit(rest, _NOW)
            effects.extend(self._settle(step))
            if step.rest is None:
                return effects
            rest = step.rest

    def _settle(self, step: Step) -> Effects:
        effects = step.effects
        for batch in [*step.batches, *self.flow.flush()]:
            engine = self._engines[self.flow.bundle_of(batch).spec.name]
            effects.extend(self.flow.settle(batch, infer.run(engine, batch.inputs)))
        if step.more is not None:
            effects.extend(self._settle(step.more()))
        return effects
