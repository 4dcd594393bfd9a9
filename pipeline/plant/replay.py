"""Replay: files through the same flow as the live worker's, with no broker and no threads."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from engines import Bundle, BundleError, Engine, EngineError, load_bundle, open_engine, shipped_bundles
from pipeline import infer
from pipeline.births import BirthBook
from pipeline.columns import Effects, Poll
from pipeline.errors import ModelError
from pipeline.flow import Flow, FlowSettings, Step
from pipeline.ops.settings import Settings
from pipeline.plant.source import Retired
from pipeline.seating import Route, Seating
from pipeline.state import COUNTERS, Partition
from schemas import AssetBirth
from schemas.topics import TELEMETRY

#: In a replay nobody waits: batches leave when they are full or when their poll is done.
_NOW = 0.0


class Replay:
    """Feed a source item by item; each call returns what it led to, settled. Deterministic."""

    def __init__(self, settings: Settings) -> None:
        """Open bundles and engines as the worker would. Raises ModelError."""
        self._opened = ExitStack()
        bundles = load_bundles(settings)
        self._engines: dict[str, Engine] = {}
        for name, bundle in bundles.items():
            try:
                engine = self._engines[name] = open_engine(settings.engine.name, bundle, settings.engine.threads)
            except EngineError as error:
                raise ModelError(f"bundle {name}: {error}") from error
            self._opened.callback(engine.close)
        routes = [Route(r.bundle, r.match.asset_class, r.match.site) for r in settings.routes]
        # A capture may hold any part of a topic, so where an asset belongs is not asked.
        seats = Seating(bundles, routes, BirthBook(), settings.worker.max_assets, partition_of=None)
        self.flow = Flow(
            FlowSettings(
                topic=settings.topics.name(TELEMETRY), max_size=settings.batch.max_size,
                max_future_ms=round(settings.worker.max_future_s * 1000),
                silent_ms=round(settings.worker.silent_after_s * 1000),
                stale_ms=round(settings.worker.stale_alert_s * 1000), assessments=True,
            ),
            seats, {name: engine.inputs for name, engine in self._engines.items()},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
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
        return effects


def load_bundles(settings: Settings) -> Mapping[str, Bundle]:
    """Load the bundles that the routes name: from `models.folder` where it has them, else those shipped.

    Raises ModelError naming every bundle that is absent or damaged.
    """
    folders, faults, found = shipped_bundles(), [], {}
    if settings.models.folder is not None:
        folders |= {p.parent.name: p.parent for p in sorted(settings.models.folder.glob("*/model.toml"))}
    for name in sorted({route.bundle for route in settings.routes}):
        if name not in folders:
            faults.append(f"bundle {name!r} is in none of the folders; there are: {', '.join(folders) or 'none'}")
            continue
        try:
            found[name] = load_bundle(folders[name])
        except BundleError as error:
            faults.append(str(error))
    if faults:
        raise ModelError("; ".join(faults))
    return found
