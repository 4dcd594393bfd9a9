"""Succession: a new version of a bundle takes over from the one that serves. Pure.

If both keep the same state (`Bundle.state_hash`), the new one simply goes on with it. If not, the new one first warms
up beside the old: an *heir* follows every pool, slot by slot, with the same frames and without judging anything. When
all assets that send are warm, each pool gives way to its heir in place: places in the directory, sequence numbers,
counters, alarm flags and open alerts are the old pool's, windows, recursions and baselines the heir's.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from engines.base import Array, Arrays, TensorSpec
from engines.bundle import Bundle
from pipeline import advise, answers, baseline, judge
from pipeline.batch import plain
from pipeline.checkpoint import UNASSIGNED
from pipeline.columns import I64, FrameBatch, Groups, Rows
from pipeline.kinds import kind_of, new_pool, start_over
from pipeline.state import ACQUIRE_COLUMNS, Partition, Pool
from pipeline.terms import MANIFEST, renewed
from schemas import Calibration

#: What an asset keeps whatever judges it.
_KEPT = tuple(c.name for c in (*ACQUIRE_COLUMNS, *judge.COLUMNS))


@dataclass(frozen=True, slots=True)
class Learnt:
    """A baseline that an heir has learnt. seq, t_end [Unix ns]: of the frame that finished it; rows: samples.

    reason: why it is suspect, or "".
    """

    seq: int
    t_end: int
    rows: int
    reason: str = ""


@dataclass(slots=True)
class Heir:
    """What will take a pool's place. pool: same slots as the old one's, another state."""

    pool: Pool
    learnt: dict[int, Learnt] = field(default_factory=dict)


def layouts(partitions: Iterable[Partition], name: str) -> list[tuple[int, int]]:
    """Return (channels, samples per frame) of the assets that a bundle serves; each once."""
    return sorted({(pool.channels, pool.samples) for part in list(partitions) for pool in part.order
                   if pool.bundle.spec.name == name and any(pool.slots)})


def obstacles(old: Bundle, new: Bundle, served: Iterable[tuple[int, int]]) -> list[str]:
    """Say why `new` cannot take over from `old`; served: layouts of its assets."""
    found = []
    if new.spec.rule != old.spec.rule:
        found.append(f"its rule is {new.spec.rule!r}, the alerts that are open have {old.spec.rule!r}: "
                     "ship it under another name and route assets to it")
    if new.spec.match.channels != old.spec.match.channels:
        found.append("it takes other channels: ship it under another name and route assets to it")
    for channels, samples in sorted(set(served)):
        found += [f"assets that it has to serve do not fit: {why}" for why in new.spec.misfits(channels, samples)]
    return found


class Compute(Protocol):
    """The engine of the new version, for heirs whose baseline is learnt from what it says."""

    @property
    def inputs(self) -> Sequence[TensorSpec]: ...

    def infer(self, inputs: Mapping[str, Array]) -> tuple[Arrays, Collection[int]] | None:
        """Return outputs and the rows that failed; None when the engine is of no use any more."""


class Succession:
    """The heirs of all pools of one bundle."""

    def __init__(self, bundle: Bundle, compute: Compute | None = None) -> None:
        """compute: without it heirs of a bundle with a [baseline] learn it only after they took over."""
        self.bundle = bundle
        self._compute = compute if bundle.spec.baseline is not None else None
        self.mute = False  # the new version's engine says nothing any more: its heirs will never be warm
        self._heirs: dict[int, tuple[Pool, Heir]] = {}  # by identity: a partition that comes back has other pools

    def follow(self, pool: Pool, batch: FrameBatch, groups: Groups) -> None:
        """Show an heir the frames that its pool was given in this step."""
        heir = self._heir(pool)
        mirror = heir.pool
        _seat_alike(pool, heir, batch.slot[groups.first])
        used = len(pool.slots)
        mirror.table["period_ns"][:used] = pool.table["period_ns"][:used]
        kind = kind_of(mirror.bundle)
        if kind.calibration_rows(mirror.bundle, mirror.samples):
            # What an asset with an open alert sends is no healthy operation to learn from.
            ill = (pool.table["active"][batch.slot] != 0) & (mirror.table["ready"][batch.slot] == 0)
            for slot in np.unique(batch.slot[ill]).tolist():
                kind.restart(mirror, slot, recalibrate=True)
            batch = batch.only(~ill)
            groups = Groups.of(batch.slot)
            if not len(batch):
                return
        rows, finished = kind.step(mirror, batch, groups)
        for done in finished:
            heir.learnt[done.slot] = Learnt(int(batch.seq[done.frame]), int(batch.t0_ns[done.frame]), done.rows,
                                             done.reason)
        if self._compute is not None and len(rows):
            self._learn(pool, heir, rows, self._compute)

    def _learn(self, pool: Pool, heir: Heir, rows: Rows, compute: Compute) -> None:
        """Show an heir's baseline what the new engine says of its rows."""
        spec, mirror, n = self.bundle.spec, heir.pool, len(rows)
        assert spec.baseline is not None
        staged = plain(compute.inputs, spec.rows(mirror.channels, mirror.samples), n).arrays
        rows.fill(0, n, staged)
        said = compute.infer(staged)
        if said is None:
            self.mute = True
            return
        outputs, failed = said
        told = answers.read(spec.outputs, outputs, slice(0, n), rows.doubt, rows.reasons)
        usable = told.unknown == 0
        usable[list(failed)] = False
        # As for a chart: what an asset with an open alert sends is no healthy operation to learn from.
        ill = (pool.table["active"][rows.slot] != 0) & (mirror.table["base_ready"][rows.slot] == 0)
        for slot in np.unique(rows.slot[ill]).tolist():
            baseline.restart(mirror, slot, recalibrate=True)
        features = np.asarray(outputs[spec.outputs.features or ""])
        found = baseline.step(mirror, spec.baseline, rows.slot, features, usable & ~ill, np.zeros(n, bool))
        for one in found.finished:
            heir.learnt[one.slot] = Learnt(int(rows.seq[one.row]), int(rows.t_end[one.row]), spec.baseline.rows,
                                           one.reason)

    def start_over(self, pool: Pool, slot: int) -> None:
        """Let an heir learn an asset anew too."""
        known = self._heirs.get(id(pool))
        if known is None:
            return
        heir = known[1]
        if slot < len(heir.pool.slots) and heir.pool.slots[slot] is not None:
            start_over(heir.pool, slot)
            heir.learnt.pop(slot, None)
            _keep_step(pool, heir.pool, slot)

    def cold(self, partitions: Iterable[Partition]) -> list[str]:
        """Name the assets that the new version is not warm for yet; silent ones are not waited for."""
        names = []
        for part in partitions:
            for pool in part.order:
                if pool.bundle.spec.name == self.bundle.spec.name and pool.bundle is not self.bundle:
                    names += self._cold(pool)
        return names

    def _cold(self, pool: Pool) -> list[str]:
        known = self._heirs.get(id(pool))
        table, out = pool.table, []
        for slot, who in pool.seated():
            if table["leave"][slot] >= 0 or table["historical"][slot] or table["quiet"][slot]:
                continue
            mirror = None if known is None else known[1].pool
            if mirror is None or mirror.slots[slot] is not who or not self._warm(mirror, slot):
                out.append(who.asset)
        return out

    def _warm(self, mirror: Pool, slot: int) -> bool:
        learns = self._compute is not None
        return kind_of(self.bundle).warm(mirror, slot) and (not learns or baseline.warm(mirror, slot))

    def take_over(self, part: Partition) -> list[Calibration]:
        """Put the new version in the old one's place; return the baselines that its heirs have learnt.

        Nothing of the partition may be in flight. Where the state changes, the partition writes under a new term from
        here on, so that a crash finds the old state whole or the new one.
        """
        found: list[Calibration] = []
        mine = [(i, pool) for i, pool in enumerate(part.order) if pool.bundle.spec.name == self.bundle.spec.name]
        changed = [(i, pool) for i, pool in mine if not _same_state(pool, self.bundle)]
        for _, pool in mine:
            if _same_state(pool, self.bundle):
                pool.bundle = self.bundle
        if not changed:
            return found
        part.stale = (*part.stale, *_keys(part))
        part.term = renewed(part.term)
        for i, pool in changed:
            heir = self._heir(pool)
            _inherit(pool, heir.pool)
            del part.pools[pool.key], self._heirs[id(pool)]
            part.pools[heir.pool.key] = part.order[i] = heir.pool
            found += _calibrations(heir)
        for pool in part.order:
            pool.dirty.update(range(pool.blocks))
        part.unassigned.dirty = True
        return found

    def _heir(self, pool: Pool) -> Heir:
        known = self._heirs.get(id(pool))
        if known is None:
            known = self._heirs[id(pool)] = (pool, Heir(_empty_like(pool, self.bundle)))
        return known[1]


def _same_state(pool: Pool, bundle: Bundle) -> bool:
    layout = pool.channels, pool.samples
    return pool.bundle.state_hash(*layout) == bundle.state_hash(*layout)


def _calibrations(heir: Heir) -> Iterator[Calibration]:
    for slot, learnt in sorted(heir.learnt.items()):
        who = heir.pool.slots[slot]
        if who is None or who.historical:
            continue
        if heir.pool.bundle.spec.baseline is not None:
            yield advise.learnt(heir.pool, who, slot, seq=learnt.seq, t_end=learnt.t_end, reason=learnt.reason)
        else:
            yield advise.calibration(heir.pool, who, slot, seq=learnt.seq, t_end=learnt.t_end, rows=learnt.rows,
                                     reason=learnt.reason)


def _empty_like(pool: Pool, bundle: Bundle) -> Pool:
    """Build a pool of `bundle` for the assets of `pool`: same channels, samples and wire format."""
    wire = pool.key.rsplit(".", 1)[1]
    key = f"{bundle.spec.name}.{bundle.state_hash(pool.channels, pool.samples)}.{wire}"
    pick = None if pool.pick is None else pool.pick.tolist()
    return new_pool(key, bundle, pool.channels, pool.samples, pick)


def _seat_alike(pool: Pool, heir: Heir, slots: I64) -> None:
    """Give the heir's slots the occupants of the pool's; who is new in a slot starts with nothing."""
    mirror = heir.pool
    while len(mirror.slots) < len(pool.slots):
        mirror.add_block(through=-1, need=0)
    for slot in slots.tolist():
        who = pool.slots[slot]
        if mirror.slots[slot] is not who:
            assert who is not None
            mirror.table.reset(slot)
            mirror.calibration.pop(slot, None)
            heir.learnt.pop(slot, None)
            mirror.seat(slot, who)  # what the birth tells, such as measuring ranges, counts for an heir too
            _keep_step(pool, mirror, slot)


def _keep_step(pool: Pool, mirror: Pool, slot: int) -> None:
    """Let an heir's windows end where the old ones end: no asset waits for its next window longer than a hop."""
    old, new = pool.bundle.spec.window, mirror.bundle.spec.window
    if old is not None and new is not None and old.hop == new.hop:
        ends = pool.table["frames"][slot] - old.size // pool.samples  # of whole windows, modulo a hop
        mirror.table["frames"][slot] = (ends + new.size // pool.samples) % (new.hop // pool.samples)


def _keys(part: Partition) -> list[str]:
    """Name what this partition's term may have stored."""
    keys = [f"{part.term}|{pool.key}|{b}" for pool in part.order for b in range(pool.blocks)]
    return [*keys, f"{part.term}|{UNASSIGNED}", f"{part.term}|{MANIFEST}"]


def _inherit(pool: Pool, mirror: Pool) -> None:
    """Carry over what does not depend on the model. The mirror's slots that nobody fed are cold."""
    while len(mirror.slots) < len(pool.slots):
        mirror.add_block(through=-1, need=0)
    used = len(pool.slots)
    for slot in range(used):
        if mirror.slots[slot] is not pool.slots[slot]:
            mirror.table.reset(slot)
            mirror.calibration.pop(slot, None)
    for name in _KEPT:
        mirror.table[name][:used] = pool.table[name][:used]
    if kind_of(mirror.bundle).calibration_rows(mirror.bundle, 1):  # a baseline of its own ends what was provisional
        mirror.table["provisional"][:used][mirror.table["ready"][:used] != 0] = 0
    if mirror.bundle.spec.baseline is not None:
        mirror.table["provisional"][:used][mirror.table["base_ready"][:used] != 0] = 0
    mirror.slots = [*pool.slots, *mirror.slots[used:]]
    for slot, who in pool.seated():
        mirror.seat(slot, who)
    mirror.open = dict(pool.open)
    for counts in pool.retired:  # blocks may be of another size: what they have lost is kept in the first
        mirror.retired[0] += counts
    mirror.free = [slot for slot in range(len(mirror.slots) - 1, -1, -1) if mirror.slots[slot] is None]
