"""Streaming state: a struct of arrays per pool with one slot per asset, in blocks that checkpoints write whole.

A *pool* holds the assets of one bundle and one frame layout on one partition. All that is known of an asset lies in one
slot of one block, so a block that was written is a consistent piece of the past whatever became of the others.
"""

import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from engines.bundle import Bundle
from pipeline.columns import I64, Array
from schemas import AssetBirth, Channel

#: A checkpoint block should stay well below Kafka's 1 MiB record limit, and be large enough to be few.
BLOCK_BYTES = 384 * 1024

#: A seat brings its birth (up to 16 KiB) and open alerts (a few KiB each): 256 of the largest stay below the 8 MiB that
#: the state topic takes.
MAX_BLOCK_SLOTS = 256

#: Outages that a partition remembers while frames wait for their births; a bus that is out more often is out for good.
MAX_SPANS = 64

#: Counted per slot. Frames: received = judged + dead_lettered + late + duplicate + shed + in flight.
COUNTERS = (
    "received", "judged", "dead_lettered", "late", "duplicate", "shed", "reordered", "gap_frames",
    "rows", "rows_scored", "rows_dead_lettered",
)
(RECEIVED, JUDGED, DEAD_LETTERED, LATE, DUPLICATE, SHED, REORDERED, GAP_FRAMES,
 ROWS, ROWS_SCORED, ROWS_DEAD_LETTERED) = range(len(COUNTERS))


@dataclass(frozen=True, slots=True)
class Column:
    """One array of a table. shape: per slot. persist: part of checkpoints (else derived from the birth)."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    fill: float = 0
    persist: bool = True

    @property
    def slot_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


#: From this size on an array gets pages of its own, which the system provides when they are written to.
LAZY_BYTES = 64 * 1024


class Table:
    """Columns that grow together by doubling. Arrays are replaced on growth: fetch them anew in each step."""

    __slots__ = ("capacity", "columns", "_arrays")

    def __init__(self, columns: Sequence[Column], capacity: int) -> None:
        self.columns, self.capacity = tuple(columns), capacity
        self._arrays = {c.name: self._new(c, capacity) for c in columns}

    @staticmethod
    def _new(column: Column, capacity: int) -> Array:
        # Pages that nobody has touched cost no memory: capacity beyond the used slots is free. The C library's calloc
        # does so for the largest arrays only, and writes zeros over the others.
        shape = (capacity, *column.shape)
        size = column.slot_bytes * capacity
        if size < LAZY_BYTES:
            array: Array = np.zeros(shape, column.dtype)
        else:
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            array = np.frombuffer(pages, column.dtype).reshape(shape)
        if column.fill:
            array.fill(column.fill)
        return array

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def grow(self) -> None:
        for column in self.columns:
            array = self._new(column, self.capacity * 2)
            array[: self.capacity] = self._arrays[column.name]
            self._arrays[column.name] = array
        self.capacity *= 2

    def reset(self, slot: int, names: Sequence[str] | None = None) -> None:
        for column in self.columns:
            if names is None or column.name in names:
                self._arrays[column.name][slot] = column.fill


#: What `acquire` knows of a slot. seen: bit i set when sequence number last_seq - i has come. leave: offset at which
#: the asset left the slot. hold: the slot has its frames below this offset, because they waited for the birth together.
#: odd_seq, odd_run: the newest frame out of sequence, and how many in a row followed each other so.
ACQUIRE_COLUMNS = (
    Column("last_seq", "i8", fill=-1), Column("seen", "u8"), Column("last_t0_ns", "i8"),
    Column("odd_seq", "i8", fill=-1), Column("odd_run", "u1"), Column("last_ts_ms", "i8"),
    Column("leave", "i8", fill=-1), Column("hold", "i8"),
    Column("historical", "u1"), Column("provisional", "u1"), Column("counts", "i8", (len(COUNTERS),)),
    Column("period_ns", "f8", persist=False),
)


@dataclass(slots=True)
class Slot:
    """What is no number: who sits in a slot. past: births before this one. since: offset at which it was seated."""

    asset: str
    birth: AssetBirth
    historical: bool
    past: tuple[str, ...] = ()
    since: int = 0


class Pool:
    """The slots of one bundle and layout on one partition."""

    def __init__(self, key: str, bundle: Bundle, channels: int, samples: int, columns: Sequence[Column],
                 calibration_rows: int = 0, pick: Sequence[int] | None = None, width: int | None = None) -> None:
        """channels: those that the model takes. pick: their places in a frame, None: all, as they come.

        calibration_rows: samples, or rows of features, that a slot collects before it has a baseline, 0 if the bundle
        needs none; width: numbers in one, by default one per channel.
        """
        self.key, self.bundle, self.channels, self.samples = key, bundle, channels, samples
        self.pick = None if pick is None else np.asarray(pick, np.int64)
        self.calibration_rows, self.calibration_width = calibration_rows, width or channels
        columns = (*ACQUIRE_COLUMNS, *columns)
        slot_bytes = sum(c.slot_bytes for c in columns if c.persist) + 200
        slot_bytes += calibration_rows * self.calibration_width * 8
        fits = 1 << max(0, (BLOCK_BYTES // slot_bytes).bit_length() - 1) if slot_bytes < BLOCK_BYTES else 1
        self.block_slots = min(fits, MAX_BLOCK_SLOTS)
        self.table = Table(columns, self.block_slots)
        self.slots: list[Slot | None] = []
        self.free: list[int] = []
        self.dirty: set[int] = set()
        self.retired: list[I64] = []  # per block: counters of the slots it no longer has
        self.through: list[int] = []  # per block: the version of its last write, an offset
        self.need: list[int] = []  # per block: replay skips frames below this offset
        #: calibration rows of slots that are still calibrating, (rows, width) float64; freed afterwards
        self.calibration: dict[int, Array] = {}
        #: newest revision of each open alert, (slot, rule) -> bytes as published; published again after a move
        self.open: dict[tuple[int, str], bytes] = {}
        self.scaled = False  # some slot's raw samples need scale or offset; only then the two arrays exist
        self.scale = self.offset = np.zeros((0, 0))

    @property
    def blocks(self) -> int:
        return len(self.through)

    def add_block(self, through: int, need: int) -> None:
        self.through.append(through)
        self.need.append(need)
        self.retired.append(np.zeros(len(COUNTERS), np.int64))
        self.slots += [None] * self.block_slots
        while self.table.capacity < len(self.slots):
            self.table.grow()

    def take(self, offset: int) -> int:
        """Return a free slot for an asset first seen at `offset`.

        During replay a block that already holds later frames is no place for it: written again, the block would claim
        to hold the newcomer's frames too.
        """
        for i in range(len(self.free) - 1, -1, -1):
            if self.need[self.free[i] // self.block_slots] <= offset:
                return self.free.pop(i)
        at = len(self.slots)
        self.add_block(through=-1, need=0)
        self.free += range(at + self.block_slots - 1, at, -1)
        return at

    def seat(self, slot: int, who: Slot) -> None:
        """Put an asset into a slot and derive from its birth what is not persisted."""
        self.slots[slot] = who
        birth = who.birth
        self.table["historical"][slot] = who.historical
        self.table["period_ns"][slot] = 1e9 / birth.rate_hz
        if "range" in self.table:
            self.table["range"][slot] = np.array([(c.low, c.high) for c in self.channels_of(birth)], np.float64)
        self.scaled |= any(c.scale != 1.0 or c.offset != 0.0 for c in birth.channels)
        if not self.scaled:
            return
        if len(self.scale) < self.table.capacity:
            grown, wide = self.table.capacity - len(self.scale), len(birth.channels)
            self.scale = np.concatenate([self.scale.reshape(-1, wide), np.ones((grown, wide))])
            self.offset = np.concatenate([self.offset.reshape(-1, wide), np.zeros((grown, wide))])
        self.scale[slot] = [c.scale for c in birth.channels]
        self.offset[slot] = [c.offset for c in birth.channels]

    def channels_of(self, birth: AssetBirth) -> tuple[Channel, ...]:
        """Return the channels of an asset that the model takes, in the model's order."""
        if self.pick is None:
            return birth.channels
        return tuple(birth.channels[i] for i in self.pick.tolist())

    def vacate(self, slot: int) -> None:
        """Free a slot; its counters stay in its block, so the conservation law never loses a frame."""
        self.retired[slot // self.block_slots] += self.table["counts"][slot]
        self.table.reset(slot)
        self.slots[slot] = None
        self.calibration.pop(slot, None)
        for key in [k for k in self.open if k[0] == slot]:
            del self.open[key]
        self.free.append(slot)
        self.touch(slot)

    def touch(self, slot: int) -> None:
        self.dirty.add(slot // self.block_slots)

    def touch_many(self, slots: I64) -> None:
        self.dirty.update(np.bincount(slots // self.block_slots).nonzero()[0].tolist())

    def seated(self) -> Iterator[tuple[int, Slot]]:
        return ((i, s) for i, s in enumerate(self.slots) if s is not None)


@dataclass(slots=True)
class Waiting:
    """Frames of an asset whose birth has not come. hold: frames below this offset are in here or have moved on."""

    asset: str
    birth_id: str
    historical: bool
    frames: list[tuple[int, int, bytes]] = field(default_factory=list)  # offset, broker timestamp ms, value
    leave: int = -1  # offset at which they moved to a slot; kept until that is durable
    hold: int = 0


@dataclass(slots=True)
class Unassigned:
    """The block of what belongs to no slot: records without an asset, and frames that wait for a birth."""

    counts: I64 = field(default_factory=lambda: np.zeros(len(COUNTERS), np.int64))
    waiting: dict[tuple[str, str, bool], Waiting] = field(default_factory=dict)
    #: keys whose frames below an offset ended here without a slot: a replay must not count them again
    given_up: dict[tuple[str, str, bool], int] = field(default_factory=dict)
    through: int = -1
    need: int = 0
    dirty: bool = False

    def frames_waiting(self) -> int:
        return sum(len(w.frames) for w in self.waiting.values() if w.leave < 0)


Key = tuple[str, str, bool]  # asset, birth_id, historical


class Partition:
    """All that a worker knows of one partition. position: offset of the next record to admit."""

    def __init__(self, number: int, position: int = 0) -> None:
        self.number, self.position = number, position
        self.pools: dict[str, Pool] = {}
        self.order: list[Pool] = []
        self.directory: dict[Key, int] = {}  # -> index of the pool << 32 | slot
        self.current: dict[str, Key] = {}  # the birth that an asset lives under now, historical lanes apart
        self.left: dict[Key, int] = {}  # offset at which a key left a slot that is not yet vacated
        self.unassigned = Unassigned()
        self.now_ms = 0  # the largest broker timestamp read
        #: stretches of broker time with records, (first, last), newest last: between them the bus was out
        self.spans = [(0, 0)]
        self.replay_until = 0  # below it some block already holds some frames
        self.fresh_from = 0  # end of the log when we took over: a predecessor may have published what comes before
        self.retiring = False  # a tombstone is to be obeyed once `fresh_from` is reached
        self.closed = False  # its last checkpoint is taken: nothing may be admitted any more
        self.term = ""  # under which its checkpoints are written
        self.stale: tuple[str, ...] = ()  # keys of older terms, to be removed once a manifest of this one is durable
        self.assets = 0
        self.checkpoints = 0
        self.unsettled = 0  # rows handed to the batcher and not yet settled

    def fell_silent(self, last_ms: int, until_ms: int, silent_ms: int) -> bool:
        """Say whether an asset whose last frame came at `last_ms` was silent for too long before `until_ms`.

        Only time with records of others counts: while nobody's came, the bus was silent and not this asset.
        """
        return any(min(end, until_ms) - max(start, last_ms) > silent_ms
                   for start, end in self.spans if start <= until_ms)

    def pass_time(self, timestamps_ms: I64, silent_ms: int) -> I64:
        """Return the partition's time before each record of a poll and at its end; note where records came again.

        Half of what makes an asset silent is an outage of the bus: an asset that sent just before it is not yet late.
        """
        now = np.maximum.accumulate(np.append(self.now_ms, timestamps_ms))
        again = np.flatnonzero((np.diff(now) > silent_ms // 2) & (now[:-1] > 0)) + 1
        starts = [self.spans[-1][0], *now[again].tolist()]
        ends = [*now[again - 1].tolist(), int(now[-1])]
        self.spans = [*self.spans[:-1], *zip(starts, ends, strict=True)]
        return now

    def forget_spans(self) -> None:
        """Drop the stretches that nobody's silence will be measured by any more."""
        if self.position >= self.replay_until:  # until then silences are not judged
            waits = (w.frames[0][1] for w in self.unassigned.waiting.values() if w.leave < 0 and w.frames)
            oldest = min(waits, default=self.now_ms)
            self.spans = [s for s in self.spans[:-1] if s[1] >= oldest][-MAX_SPANS:] + self.spans[-1:]

    def pool_at(self, code: int) -> tuple[Pool, int]:
        return self.order[code >> 32], code & 0xFFFFFFFF

    def add_pool(self, pool: Pool) -> Pool:
        self.pools[pool.key] = pool
        self.order.append(pool)
        return pool

    def enter(self, pool: Pool, slot: int, who: Slot, *, current: bool = True) -> None:
        pool.seat(slot, who)
        key = (who.asset, who.birth.birth_id, who.historical)
        self.directory[key] = self.order.index(pool) << 32 | slot
        if current and not who.historical:
            self.current[who.asset] = key
        self.assets += 1

    def leave(self, pool: Pool, slot: int) -> None:
        """Vacate a slot for good."""
        who = pool.slots[slot]
        if who is None:
            return
        key = (who.asset, who.birth.birth_id, who.historical)
        if self.directory.get(key) == self.order.index(pool) << 32 | slot:  # else the key lives elsewhere by now
            del self.directory[key]
            if self.current.get(who.asset) == key:
                del self.current[who.asset]
        self.left.pop(key, None)
        pool.vacate(slot)
        self.assets -= 1

    def totals(self) -> dict[str, int]:
        """Return every counter summed over slots, retired slots and records without an asset."""
        total = self.unassigned.counts.copy()
        for pool in self.order:
            total += pool.table["counts"].sum(axis=0) + sum(pool.retired, np.zeros(len(COUNTERS), np.int64))
        return {name: int(v) for name, v in zip(COUNTERS, total, strict=True)}
