"""Seating: which asset lives in which slot. Routes, first frames, reboots (a changed birth), moves, retirement."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engines.bundle import Bundle
from pipeline import kinds
from pipeline.births import BirthBook
from pipeline.errors import Rejected
from pipeline.state import LATE, RECEIVED, Key, Partition, Pool, Slot, Waiting
from schemas import AssetBirth, TelemetryFrame

#: Frames of assets whose birth is not there yet wait within these bounds, per partition.
MAX_WAITING_FRAMES, MAX_WAITING_BYTES = 256, 1 << 20
#: A gateway that sends a birth at all sends it within seconds of its frames; after a minute somebody should know.
MAX_WAITING_MS = 60_000

#: Called with pool, slot and whether the asset moves to another pool, before a birth gives way to the next.
Farewell = Callable[[Pool, int, bool], None]

#: Keys remembered beside the frames that wait. Forgetting one costs a dead letter twice after a crash, no more.
MAX_GIVEN_UP = 1024
#: Births that a slot remembers, to tell a straggler from a reboot.
MAX_PAST = 4
#: Historical lanes that a partition always has room for.
MIN_LANES = 16

HELD, LATER, WAITS, CUT = -2, -3, -4, -5  # verdicts on a frame without a slot, beside a code >= 0


@dataclass(frozen=True, slots=True)
class Route:
    """Assets that match go to `bundle`; None matches everything. The first matching route wins.

    channels: names that the asset must have.
    """

    bundle: str
    asset_class: str | None = None
    site: str | None = None
    channels: tuple[str, ...] = ()

    def matches(self, birth: AssetBirth) -> bool:
        return (self.asset_class in (None, birth.asset_class) and self.site in (None, birth.site)
                and (not self.channels or set(self.channels) <= {c.name for c in birth.channels}))

    @property
    def matches_all(self) -> bool:
        return self == Route(self.bundle)


class Seating:
    """Decides where frames go whose key has no slot. max_assets: slots per partition, historical lanes included."""

    def __init__(self, bundles: Mapping[str, Bundle], routes: Sequence[Route], births: BirthBook, max_assets: int,
                 partition_of: Callable[[str], int] | None, fallback: str | None = None) -> None:
        """fallback: bundle of assets that no route matches; they are named in `unrouted` until that is taken."""
        self.bundles, self.routes, self.births, self.max_assets = dict(bundles), routes, births, max_assets
        self._partition_of, self._fallback = partition_of, fallback
        self.unrouted: list[tuple[AssetBirth, str]] = []

    def replace(self, bundle: Bundle) -> None:
        """Serve assets by another version of a bundle from now on."""
        self.bundles[bundle.spec.name] = bundle

    def route(self, birth: AssetBirth) -> Bundle:
        """Return the bundle that serves this asset. Raises Rejected("no_route")."""
        route = next((r for r in self.routes if r.matches(birth)), None)
        name = self._fallback if route is None else route.bundle
        if name is None:
            raise Rejected("no_route", f"no route matches asset_class={birth.asset_class} site={birth.site}. "
                           "Add a [[routes]] entry, or name a bundle in models.fallback")
        bundle = self.bundles[name]
        taken = set(bundle.spec.match.channels)
        misfits = bundle.spec.misfits([c.name for c in birth.channels], birth.samples_per_frame, birth.rate_hz,
                                      (c.unit for c in birth.channels if not taken or c.name in taken))
        if misfits:
            raise Rejected("no_route", f"bundle {name} cannot serve it: {'; '.join(misfits)}. "
                           "Route this asset to another bundle, or change its frames")
        return bundle

    def pool_key(self, birth: AssetBirth) -> str:
        """Name the pool of an asset: bundle, hash of all that shapes the state, wire format, places of the channels."""
        bundle = self.route(birth)
        dtypes, pick = [c.dtype for c in birth.channels], _pick(bundle, birth)
        wire = dtypes[0] if len(set(dtypes)) == 1 else "-".join(dtypes)
        if pick is not None:
            wire += f"x{len(dtypes)}@" + hashlib.sha256(repr(pick).encode()).hexdigest()[:8]
        hashed = bundle.state_hash(len(pick or dtypes), birth.samples_per_frame)
        return f"{bundle.spec.name}.{hashed}.{wire}"

    def new_pool(self, birth: AssetBirth) -> Pool:
        bundle, samples = self.route(birth), birth.samples_per_frame
        pick = _pick(bundle, birth)
        return kinds.new_pool(self.pool_key(birth), bundle, len(pick or birth.channels), samples, pick)

    # -- a frame without a slot

    def stranger(self, part: Partition, frame: TelemetryFrame, offset: int, ts_ms: int, value: bytes, *,
                 first: bool, farewell: Farewell) -> int:
        """Return the code of a slot for this frame, or a verdict.

        HELD: a block holds it already. LATER: counted as late. WAITS: it waits for its birth. CUT: its asset rebooted,
        or a historical lane begins with what is known of it, and what came before must be settled first (never when
        `first` and nothing is unsettled).
        Raises Rejected where no slot can be had; the caller counts it. A reboot makes codes resolved earlier stale;
        `farewell` is called before it, while the slot still has the old birth.
        """
        key: Key = (frame.asset, frame.birth_id, frame.historical)
        un = part.unassigned
        waiting = un.waiting.get(key)
        if offset < max(waiting.hold if waiting else -1, un.given_up.get(key, -1), part.left.get(key, -1)):
            return HELD
        birth = self.births.get(frame.asset, frame.birth_id)
        if birth is None and offset < part.unassigned.need:
            return HELD  # it waited, and was given up
        if birth is None:
            self.wait(part, key, offset, ts_ms, value)
            return WAITS
        if offset >= part.fresh_from and (frame.asset, frame.birth_id) in self.births.retired:
            raise Rejected("unknown_birth", f"birth {frame.birth_id} of asset {frame.asset} was retired by a tombstone."
                           " Publish the birth again if the asset is back, then replay the dead letters")
        current = None if frame.historical else part.current.get(frame.asset)
        open_before = part.unsettled > 0 or not first
        if current is None:
            knows = frame.historical and frame.asset in part.current  # a lane begins with what is known of its asset
            return CUT if knows and open_before else self._seat(part, key, birth, offset,
                                                                _left_births(part, frame.asset))
        pool, slot = part.pool_at(part.directory[current])
        who = pool.slots[slot]
        assert who is not None
        if offset < max(pool.need[slot // pool.block_slots], int(pool.table["hold"][slot])):
            return HELD
        if birth.birth_id in who.past:  # a straggler, by the log's order: a rebooted device may have lost its clock
            pool.table["counts"][slot, [RECEIVED, LATE]] += 1
            pool.touch(slot)
            return LATER
        if open_before:
            return CUT
        moves = self.pool_key(birth) != pool.key
        farewell(pool, slot, moves)
        return self._move(part, pool, slot, birth, offset) if moves else self._reboot(part, pool, slot, birth)

    def _seat(self, part: Partition, key: Key, birth: AssetBirth, offset: int, past: tuple[str, ...] = ()) -> int:
        asset, _, historical = key
        if self._partition_of is not None and self._partition_of(asset) != part.number:
            raise Rejected("misrouted", f"asset {asset} belongs on partition {self._partition_of(asset)} (murmur2 of "
                           f"the key), the record came on {part.number}. Key records by asset; with librdkafka set "
                           "partitioner=murmur2_random")
        pool_key = self.pool_key(birth)
        lanes = sum(k[2] for k in part.directory) if historical else 0
        if historical and lanes >= max(MIN_LANES, self.max_assets // 10):
            raise Rejected("asset_limit", f"the partition holds {lanes} assets' historical frames, a tenth of "
                           "worker.max_assets is kept for them. Replay dead letters in smaller parts, or raise it")
        if part.assets >= self.max_assets:
            raise Rejected("asset_limit", f"the partition holds {part.assets} assets, worker.max_assets is "
                           f"{self.max_assets}. Raise it, or add partitions")
        if self._fallback is not None and not any(r.matches(birth) for r in self.routes):
            self.unrouted.append((birth, self._fallback))
        pool = part.pools.get(pool_key) or part.add_pool(self.new_pool(birth))
        slot = pool.take(offset)
        part.enter(pool, slot, Slot(birth.asset, birth, historical, past, offset))  # the frame's copy of the name goes
        pool.touch(slot)
        if historical:
            live = part.directory.get(part.current.get(asset, ("", "", False)))
            if live is not None and part.pool_at(live)[0] is pool:
                kinds.inherit(pool, part.pool_at(live)[1], slot)
        return part.directory[key]

    def _move(self, part: Partition, pool: Pool, slot: int, birth: AssetBirth, offset: int) -> int:
        """Give the asset a slot in another pool, because its layout changed."""
        code = self._seat(part, (birth.asset, birth.birth_id, False), birth, offset, _past(pool, slot))
        self.depart(part, pool, slot, offset)
        return code

    @staticmethod
    def _reboot(part: Partition, pool: Pool, slot: int, birth: AssetBirth) -> int:
        """Give the asset its new birth in place."""
        who = pool.slots[slot]
        assert who is not None
        part.directory.pop((who.asset, who.birth.birth_id, False))
        part.assets -= 1
        part.enter(pool, slot, Slot(who.asset, birth, False, _past(pool, slot), who.since))
        pool.table.reset(slot, ("last_seq", "seen"))
        kinds.restart(pool, slot, recalibrate=birth.channels != who.birth.channels)
        pool.touch(slot)
        return part.directory[who.asset, birth.birth_id, False]

    @staticmethod
    def depart(part: Partition, pool: Pool, slot: int, offset: int) -> None:
        """Mark a slot as left at `offset`. It is vacated once that is durable: replay must still skip its frames."""
        who = pool.slots[slot]
        assert who is not None
        key = (who.asset, who.birth.birth_id, who.historical)
        part.directory.pop(key, None)
        if part.current.get(who.asset) == key:
            del part.current[who.asset]
        pool.table["leave"][slot] = part.left[key] = offset
        pool.touch(slot)

    # -- waiting for a birth

    @staticmethod
    def wait(part: Partition, key: Key, offset: int, ts_ms: int, value: bytes) -> None:
        """Let a record wait for the birth of a key."""
        un = part.unassigned
        entry = un.waiting.setdefault(key, Waiting(*key))
        entry.frames.append((offset, ts_ms, value))
        entry.hold, entry.leave, un.dirty = offset + 1, -1, True
        un.counts[RECEIVED] += 1

    @staticmethod
    def remember(part: Partition, key: Key, offset: int) -> None:
        """Note that the frame at `offset` was dead-lettered without a slot: a replay must not count it again."""
        un = part.unassigned
        un.given_up.pop(key, None)
        un.given_up[key] = offset + 1
        while len(un.given_up) > MAX_GIVEN_UP:
            del un.given_up[next(iter(un.given_up))]
        un.dirty = True

    @staticmethod
    def overdue(part: Partition) -> int:
        """Count the frames that have waited beyond the bounds."""
        return len(_overdue(part))

    def give_up(self, part: Partition) -> list[tuple[Waiting, tuple[int, int, bytes]]]:
        """Take out the frames that have waited beyond the bounds, oldest first."""
        found = _overdue(part)
        for entry, _ in found:
            entry.frames.pop(0)
            part.unassigned.dirty = True
            if not entry.frames:  # else the entry itself says what a replay must not count again
                key = (entry.asset, entry.birth_id, entry.historical)
                del part.unassigned.waiting[key]
                self.remember(part, key, entry.hold - 1)
        return found


def _pick(bundle: Bundle, birth: AssetBirth) -> list[int] | None:
    """Return the places in a frame of the channels that the bundle names; None if it takes all."""
    if not bundle.spec.match.channels:
        return None
    names = [c.name for c in birth.channels]
    return [names.index(name) for name in bundle.spec.match.channels]


def _overdue(part: Partition) -> list[tuple[Waiting, tuple[int, int, bytes]]]:
    entries = [w for w in part.unassigned.waiting.values() if w.leave < 0]
    waiting = sorted(((w, f) for w in entries for f in w.frames), key=lambda item: item[1][0])
    size = sum(len(f[2]) for _, f in waiting)
    for i, (_, (_, ts_ms, value)) in enumerate(waiting):
        fits = len(waiting) - i <= MAX_WAITING_FRAMES and size <= MAX_WAITING_BYTES
        if fits and part.now_ms - ts_ms <= MAX_WAITING_MS:
            return waiting[:i]
        size -= len(value)
    return waiting


def _left_births(part: Partition, asset: str) -> tuple[str, ...]:
    """Return the births under which an asset lived in a slot that it has left: a replay makes its move once more."""
    if not any(key[0] == asset for key in part.left):
        return ()
    found = [(who.since, _past(pool, slot)) for pool in part.order for slot, who in pool.seated()
             if who.asset == asset and not who.historical and pool.table["leave"][slot] >= 0]
    return max(found, default=(0, ()))[1]


def _past(pool: Pool, slot: int) -> tuple[str, ...]:
    who = pool.slots[slot]
    assert who is not None
    return (*who.past, who.birth.birth_id)[-MAX_PAST:]
