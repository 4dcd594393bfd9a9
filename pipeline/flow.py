"""Flow: the journey of a frame as plain calls, used unchanged by the live worker, by replay and by tests.

`admit` carries records as far as full batches, `settle` carries a computed batch to alerts. In between the caller runs
the engine, in its own thread or in place. Only one thread touches a flow. Time is a parameter.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np

from engines.base import TensorSpec
from engines.bundle import Bundle
from pipeline import acquire, advise, episodes, kinds, overhaul, refuse, settling
from pipeline.batch import Batch, Batcher, Stage, plain
from pipeline.births import BirthBook
from pipeline.columns import I64, Effects, Groups, Poll
from pipeline.errors import Rejected
from pipeline.infer import Outcome
from pipeline.seating import CUT, Seating
from pipeline.state import (
    DEAD_LETTERED,
    JUDGED,
    RECEIVED,
    ROWS,
    Partition,
    Pool,
    Waiting,
)
from pipeline.succession import Succession
from schemas import AssetBirth, MachineEvent, TelemetryFrame

#: By the clock an asset is called silent this much later than by the log, so that a frame which the broker has stamped
#: but which is still under way does not find its asset declared silent.
CLOCK_GRACE_MS = 2_000


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """What shapes the journey. topic: source topic, named in dead letters."""

    topic: str = "kizashi.telemetry.v1"
    max_size: int = 256
    max_delay_s: float = 0.005
    max_future_ms: int = 60_000
    silent_ms: int = 60_000
    stale_ms: int = 300_000
    assessments: bool = False


@dataclass(slots=True)
class Step:
    """Result of a call: send `effects`, run `batches` in order; settle all, then admit `rest` or call `more`."""

    effects: Effects = field(default_factory=Effects)
    batches: list[Batch] = field(default_factory=list)
    rest: Poll | None = None
    more: "Callable[[], Step] | None" = None


class Flow:
    """All partitions that this worker owns, and the batchers that they share."""

    def __init__(self, settings: FlowSettings, seats: Seating, inputs: Mapping[str, Sequence[TensorSpec]],
                 staging: Stage | None = None) -> None:
        """inputs: of each bundle's engine, by the bundle's name. staging: makes arrays for its batches, else NumPy."""
        self.settings, self.seats, self._inputs = settings, seats, inputs
        self._staging = staging or (lambda name, shapes, rows: plain(self._inputs[name], shapes, rows))
        self.partitions: dict[int, Partition] = {}
        self.patient = False  # live, births come by another topic: the worker reads it to its end before `give_up`
        self._terms = episodes.Terms(settings.silent_ms, settings.stale_ms)
        self._overhaul = overhaul.Terms(settings.topic, self._terms)
        self._settling = settling.Terms(settings.topic, settings.stale_ms, settings.assessments)
        self._batchers: dict[str, Batcher] = {}
        self._bundle_of: dict[str, Bundle] = {}
        self.successions: dict[str, Succession] = {}  # by bundle name: what warms up to take over

    @property
    def births(self) -> BirthBook:
        return self.seats.births

    def bundle_of(self, batch: Batch) -> Bundle:
        return self._bundle_of[batch.key]

    def adopt(self, part: Partition, now: float, end: int = 0) -> Step:
        """Take over a partition; frames that waited for a birth which has come since are released at once.

        end: of the log now. Until it is reached, births that were retired meanwhile still hold: a predecessor may have
        published alerts of their frames, which must be found again to be cleared.
        """
        self.partitions[part.number] = part
        part.fresh_from, part.retiring = end, bool(self.births.retired)
        return self._release(self._released([(part, entry) for entry in part.unassigned.waiting.values()
                                             if self.births.get(entry.asset, entry.birth_id) is not None], now))

    def drop(self, number: int) -> None:
        """Forget a partition; its rows in flight are dropped when they settle."""
        self.partitions.pop(number, None)

    # -- records in

    def admit(self, poll: Poll, now: float) -> Step:
        """Carry records of one partition up to full batches. now: monotonic seconds, for the batch delay only."""
        part, step, found = self.partitions[poll.partition], Step(), acquire.decode(poll)
        passing = part.pass_time(poll.timestamps_ms, self.settings.silent_ms)
        stop = self._admit_all(part, poll, found, now, step)
        for i, error, _ in found.rejects:
            if poll.offsets[i] >= part.unassigned.need and (stop is None or i < stop):  # `rest` comes once more
                part.unassigned.counts[[RECEIVED, DEAD_LETTERED]] += 1
                part.unassigned.dirty = True
                step.effects.dead_letters.append(refuse.record(self.settings.topic, poll, i, error, None))
        part.position = poll.next_offset if stop is None else int(poll.offsets[stop])
        part.now_ms = int(passing[-1 if stop is None else stop])
        spans = [(start, min(end, part.now_ms)) for start, end in part.spans if start <= part.now_ms]
        part.spans = spans or part.spans[:1]
        if stop is not None:
            step.rest = Poll(poll.partition, poll.offsets[stop:], poll.timestamps_ms[stop:], poll.values[stop:],
                             poll.keys[stop:], poll.next_offset, found.rest(stop))
            return step
        episodes.silences(self._terms, part, step.effects)
        part.forget_spans()
        if not self.patient:
            self._give_up_waiting(part, step.effects)
        return step

    def _admit_all(self, part: Partition, poll: Poll, found: acquire.Decoded, now: float, step: Step, begin: int = 0, *,
                   released: bool = False) -> int | None:
        """Admit what was decoded, from index `begin` on, and obey events at their places; return where to cut."""
        for i in [*(i for i in found.events if i >= begin), len(found.frames)]:
            stop = self._admit_frames(part, poll, found, range(begin, i), now, step)
            if stop is None and i in found.events and not self._obey(part, poll, i, found.events[i], step, released):
                stop = i
            if stop is not None:
                return stop
            begin = i + 1
        return None

    def _obey(self, part: Partition, poll: Poll, i: int, event: MachineEvent, step: Step, released: bool) -> bool:
        found = overhaul.happen(self._overhaul, part, poll, i, event, step.effects, released=released)
        if isinstance(found, overhaul.Seated) and found.pool.bundle.spec.name in self.successions:
            self.successions[found.pool.bundle.spec.name].start_over(found.pool, found.slot)
        return found is not overhaul.Verdict.CUT

    def _admit_frames(self, part: Partition, poll: Poll, found: acquire.Decoded, here: range, now: float,
                      step: Step) -> int | None:
        """Admit the frames at `here`; return the index in the poll at which to cut, or None when all are in."""
        frames = found.frames
        mine = frames if len(here) == len(frames) else frames[here.start:here.stop]
        index, live = np.arange(here.start, here.stop), cast("list[TelemetryFrame]", mine)
        if found.rejects:
            index = index[[f is not None for f in mine]]
            live = [f for f in mine if f is not None]
        if not live:
            return None
        codes, stop = acquire.resolve(part, live), None
        if codes.min() < 0:
            stop = self._strangers(part, poll, live, index, codes, step.effects)
            codes = codes[:stop]
        numbers = codes >> 32
        for number, pool in enumerate(part.order):
            at = (numbers == number).nonzero()[0]
            if not len(at):
                continue
            slots = codes[at] & 0xFFFFFFFF
            if part.position < part.replay_until:  # skip what the slots' blocks hold already
                need = np.maximum(np.asarray(pool.need)[slots // pool.block_slots], pool.table["hold"][slots])
                fresh = poll.offsets[index[at]] >= need
                at, slots = at[fresh], slots[fresh]
            if len(at):
                self._apply(part, pool, slots, index[at], cast("list[TelemetryFrame]", frames), poll, now, step)
        return None if stop is None else int(index[stop])

    def _strangers(self, part: Partition, poll: Poll, live: Sequence[TelemetryFrame], index: I64, codes: I64,
                   effects: Effects) -> int | None:
        """Find places for frames without a slot, in order; return where to cut, or None. Fills in `codes`."""
        todo: list[int] = np.flatnonzero(codes < 0)[::-1].tolist()
        while todo:
            k = todo.pop()
            frame, i = live[k], int(index[k])
            key = (frame.asset, frame.birth_id, frame.historical)
            code = part.directory.get(key)
            if code is None:
                offset, ts_ms, ended = int(poll.offsets[i]), int(poll.timestamps_ms[i]), list[Pool]()

                def farewell(pool: Pool, slot: int, moves: bool, at: int = ts_ms, ended: list[Pool] = ended) -> None:
                    ended.append(pool)
                    episodes.end_birth(self._terms, part, pool, slot, at, moves, effects)

                try:
                    code = self.seats.stranger(part, frame, offset, ts_ms, poll.values[i] or b"", first=k == 0,
                                               farewell=farewell)
                except Rejected as error:
                    if offset < part.unassigned.need:
                        continue  # counted before
                    part.unassigned.counts[[RECEIVED, DEAD_LETTERED]] += 1
                    self.seats.remember(part, key, offset)
                    effects.dead_letters.append(refuse.record(self.settings.topic, poll, i, error, frame.asset))
                    continue
                if ended:
                    codes[:] = acquire.resolve(part, live)
                    todo = np.flatnonzero(codes < 0)[::-1].tolist()
                    continue
            for birth, bundle in self.seats.unrouted:
                effects.notes.append(("unrouted", {"asset": birth.asset, "asset_class": birth.asset_class,
                                                   "site": birth.site, "bundle": bundle}))
            self.seats.unrouted.clear()
            if code == CUT:
                return k
            codes[k] = code
        return None

    def _apply(self, part: Partition, pool: Pool, slots: I64, index: I64, frames: Sequence[TelemetryFrame], poll: Poll,
               now: float, step: Step) -> None:
        """Check, order, condition and batch the frames of one pool."""
        found, rejects = acquire.check(pool, slots, index, frames, poll, self.settings.max_future_ms)
        for i, error, asset in rejects:
            step.effects.dead_letters.append(refuse.record(self.settings.topic, poll, i, error, asset))
        batch, silences = acquire.sequence(part, pool, found, self.settings.silent_ms)
        if not len(batch):
            return
        groups = Groups.of(batch.slot)
        if silences:
            episodes.came_back(self._terms, pool, silences, step.effects)
        if pool.bundle.spec.name in self.successions:
            self.successions[pool.bundle.spec.name].follow(pool, batch, groups)
        rows, finished = kinds.kind_of(pool.bundle).step(pool, batch, groups)
        for done in finished:
            who = pool.slots[done.slot]
            assert who is not None
            if not who.historical:
                step.effects.calibrations.append(advise.calibration(
                    pool, who, done.slot, seq=int(batch.seq[done.frame]), t_end=int(batch.t0_ns[done.frame]),
                    rows=done.rows, reason=done.reason))
        counts = pool.table["counts"]
        counts[batch.slot[groups.first], JUDGED] += groups.last - groups.first + 1
        if len(rows):  # these frames are judged when their rows are settled
            np.subtract.at(counts[:, JUDGED], rows.slot, 1)
            np.add.at(counts[:, ROWS], rows.slot, 1)
            part.unsettled += len(rows)
            step.batches += self._batcher(pool).add(part, pool, rows, now)

    def _batcher(self, pool: Pool) -> Batcher:
        batcher = self._batchers.get(pool.key)
        if batcher is None:
            shapes = pool.bundle.spec.rows(pool.channels, pool.samples)
            stage = partial(self._staging, pool.bundle.spec.name, shapes, self.settings.max_size)
            batcher = Batcher(pool.key, stage, self.settings.max_size, self.settings.max_delay_s)
            self._batchers[pool.key], self._bundle_of[pool.key] = batcher, pool.bundle
        return batcher

    # -- births

    def awaited(self, birth: AssetBirth) -> bool:
        """Say whether frames wait for this birth; then settle everything before calling `announce`."""
        return any((birth.asset, birth.birth_id, h) in p.unassigned.waiting
                   for p in self.partitions.values() for h in (False, True))

    def announce(self, birth: AssetBirth, now: float) -> Step:
        """Learn a birth and release the frames that waited for it."""
        self.births.add(birth)
        return self._release(self._released([(part, part.unassigned.waiting.get((birth.asset, birth.birth_id, old)))
                                             for part in self.partitions.values() for old in (False, True)], now))

    def _release(self, steps: Iterator[tuple[Step, bool]]) -> Step:
        step, last = next(steps)
        step.more = None if last else partial(self._release, steps)
        return step

    def _released(self, todo: Iterable[tuple[Partition, Waiting | None]], now: float) -> Iterator[tuple[Step, bool]]:
        """Admit frames that waited: yield a step wherever something must be settled, and whether it is the last.

        The frames stay in the waiting block, marked as left, until their slot is durable.
        """
        step = Step()
        for part, entry in todo:
            if entry is None or entry.leave >= 0 or not entry.frames:
                continue
            frames, hold, entry.hold = entry.frames, max(entry.hold, part.position), 0
            part.unassigned.counts[RECEIVED] -= len(frames)
            part.unassigned.dirty = True
            poll = Poll(part.number, np.array([f[0] for f in frames]), np.array([f[1] for f in frames]),
                        [f[2] for f in frames], [None] * len(frames), part.position)
            position, replay_until, part.replay_until = part.position, part.replay_until, 0
            found, entry.leave, begin = acquire.decode(poll), position, 0
            while (stop := self._admit_all(part, poll, found, now, step, begin, released=True)) is not None:
                yield step, False
                step, begin = Step(), stop
            code = part.directory.get((entry.asset, entry.birth_id, entry.historical))
            if code is not None:  # in a replay the slot must not take once more what comes again below `hold`
                pool, slot = part.pool_at(code)
                pool.table["hold"][slot], replay_until = hold, max(replay_until, hold)
            part.position, part.replay_until, entry.hold = position, replay_until, hold
        yield step, True

    def retire(self, asset: str, birth_id: str) -> Step:
        """Obey a tombstone: the asset's slot is given up, its open alerts are cleared. Settle everything before."""
        self.births.retire(asset, birth_id)
        step = Step()
        for part in self.partitions.values():
            part.retiring = True
            step.effects.extend(self.obey_tombstones(part.number).effects)
        return step

    def obey_tombstones(self, number: int) -> Step:
        """Give up the slots of retired assets once the partition is past its replay. Nothing of it may be in flight."""
        step, part = Step(), self.partitions.get(number)
        if part is None or not part.retiring or part.position < part.fresh_from:
            return step
        part.retiring = False
        for pool in part.order:
            for slot, who in list(pool.seated()):
                if (who.asset, who.birth.birth_id) in self.births.retired and pool.table["leave"][slot] < 0:
                    # by the asset's own time: when the tombstone came is not written in the log
                    last = int(pool.table["last_ts_ms"][slot])
                    episodes.end_birth(self._terms, part, pool, slot, last, True, step.effects)
                    self.seats.depart(part, pool, slot, part.position)
        return step

    def skip(self, part: Partition) -> None:
        """Take note that records are gone for good: windows start over, what else was learnt is provisional."""
        for pool in part.order:
            kinds.lost(pool, [slot for slot, _ in pool.seated()])
            pool.dirty.update(range(pool.blocks))

    # -- time

    def tick(self, now: float, clocks: Mapping[int, int] | None = None) -> Step:
        """Let time pass: batches whose delay is over, silences.

        clocks: partitions with nothing left to read, and how far their time (broker time, ms) has come since.
        """
        step = Step()
        for batcher in self._batchers.values():
            step.batches += batcher.due(now)
        for number, now_ms in (clocks or {}).items():
            episodes.silences(self._terms, self.partitions[number], step.effects, now_ms - CLOCK_GRACE_MS)
        return step

    def flush(self) -> list[Batch]:
        """Return every open batch, full or not."""
        return [b for batcher in self._batchers.values() for b in batcher.flush()]

    @property
    def deadline(self) -> float | None:
        """Return when `tick` will have a batch, monotonic seconds, or None."""
        return min((b.deadline for b in self._batchers.values() if b.deadline is not None), default=None)

    def overdue(self, number: int) -> bool:
        """Say whether frames have waited for their births beyond the bounds; make sure of the births, then give up."""
        return bool(self.partitions[number].unassigned.waiting) and self.seats.overdue(self.partitions[number]) > 0

    def give_up(self, number: int) -> Effects:
        """Dead-letter the frames that have waited beyond the bounds."""
        effects = Effects()
        self._give_up_waiting(self.partitions[number], effects)
        return effects

    def _give_up_waiting(self, part: Partition, effects: Effects) -> None:
        for entry, (offset, ts_ms, value) in self.seats.give_up(part) if part.unassigned.waiting else ():
            part.unassigned.counts[DEAD_LETTERED] += 1
            overhaul.give_up(part, offset, value)
            effects.dead_letters.append(refuse.waited(self.settings.topic, part.number, entry, offset, ts_ms, value))

    # -- models

    def succeed(self, bundle: Bundle, inputs: Sequence[TensorSpec]) -> Effects:
        """Let `bundle` take over from the one of its name, between two batches: nothing may be in flight.

        inputs: of its engine.
        """
        name = bundle.spec.name
        self.seats.replace(bundle)
        self._inputs = {**self._inputs, name: inputs}
        self.restage(name)
        heirs = self.successions.pop(name, None) or Succession(bundle)
        effects = Effects(calibrations=[c for part in self.partitions.values() for c in heirs.take_over(part)])
        for part in self.partitions.values():
            for pool in part.order:
                if pool.bundle is bundle:
                    episodes.forget_drifts(pool, effects)
        return effects

    def restage(self, name: str) -> None:
        """Fill the batches of a bundle into arrays of the engine that it has now. Nothing may be in flight."""
        for key in [key for key, bundle in self._bundle_of.items() if bundle.spec.name == name]:
            del self._bundle_of[key], self._batchers[key]

    # -- results

    def settle(self, batch: Batch, outcome: Outcome) -> Effects:
        """Judge a computed batch, in the order of submission. Rows of partitions no longer ours are dropped."""
        effects, scored = Effects(), settling.Scored.of(self._bundle_of[batch.key].spec, batch, outcome)
        for segment in batch.segments:
            if self.partitions.get(segment.partition.number) is segment.partition:
                settling.settle(self._settling, scored, segment, effects)
        self._batchers[batch.key].recycle(batch)
        return effects
