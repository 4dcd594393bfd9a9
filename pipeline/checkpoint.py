"""Checkpoint: what a worker writes of a partition, and how it takes up from there. Pure; `publish` does the writing.

The log is the state: a checkpoint says "this is what the frames below `offset` came to". Blocks are versioned by
`through`, the offset up to which they hold their assets' frames. A block holds up to the manifest's offset if its
`through` is the one that the manifest names, else up to `through` itself, so that a half-written checkpoint costs a
longer replay, never a wrong state. The late writes of a worker that was only paused never meet these blocks:
pipeline/terms.py.

One block holds all that is known of its assets, from the sequence bitmap to the open alert. (Were `acquire` to keep its
columns in blocks of its own, a frame that one block holds and the other does not could be neither skipped nor applied:
tests/unit/test_checkpoint_model.py shows it.)
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from pipeline.columns import Array
from pipeline.state import RECEIVED, Column, Partition, Pool, Slot, Waiting
from schemas import AssetBirth

#: Compaction and retention must never be all that keeps a block alive: each is written anew at least this often.
REFRESH_EVERY = 100
UNASSIGNED = "unassigned"
#: A column of so many bytes a slot is a ring of samples, made for the fastest asset that its model takes: what a slower
#: one does not use is not written. Below it, looking for zeros costs more than writing them.
SPARSE_BYTES = 16 * 1024
#: Columns are refused unless their dtype is one of these: a block is data, never an object.
DTYPES = frozenset(("i1", "i2", "i4", "i8", "u1", "u2", "u8", "f4", "f8"))


class Seat(Struct, frozen=True, omit_defaults=True):
    """Who sits in a slot of a block."""

    slot: int
    birth: AssetBirth
    historical: bool = False
    past: tuple[str, ...] = ()
    since: int = 0


class BlockRecord(Struct, frozen=True, omit_defaults=True):
    """Value of a block. columns: name -> bytes of the used slots; calibration: slot -> rows collected so far.

    Of columns of SPARSE_BYTES a slot or more, the zeros at the end are left away.
    """

    pool: str
    block: int
    through: int
    slots: int
    used: int
    seats: list[Seat]
    columns: dict[str, bytes]
    retired: bytes
    calibration: dict[int, bytes] = {}
    open: list[tuple[int, str, bytes]] = []  # slot, rule, newest revision of an open alert
    v: int = 1


class WaitingRecord(Struct, frozen=True, omit_defaults=True):
    asset: str
    birth_id: str
    historical: bool
    frames: list[tuple[int, int, bytes]]
    leave: int
    hold: int


class UnassignedRecord(Struct, frozen=True, omit_defaults=True):
    """Value of the block of what belongs to no slot."""

    through: int
    counts: bytes
    waiting: list[WaitingRecord]
    given_up: list[tuple[str, str, bool, int]] = []
    v: int = 1


class Manifest(Struct, frozen=True, omit_defaults=True):
    """Names the blocks that make up a checkpoint. entries: pool -> `through` of its blocks, in order."""

    id: str
    offset: int
    partitions: int
    now_ms: int
    entries: dict[str, list[int]]
    spans: list[tuple[int, int]] = []
    v: int = 1


@dataclass(slots=True)
class Snapshot:
    """A consistent copy of what changed, taken while nothing was in flight. blocks: by key suffix.

    term: under which it is to be written. stale: keys of older terms, to be removed once the manifest is durable.
    """

    partition: int
    blocks: list[tuple[str, BlockRecord | UnassignedRecord]]
    manifest: Manifest
    term: str = ""
    stale: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(sum(map(len, r.columns.values())) for _, r in self.blocks if isinstance(r, BlockRecord))


encode: Callable[[Struct], bytes] = msgspec.msgpack.Encoder().encode
_decode_block: Callable[[bytes], BlockRecord] = msgspec.msgpack.Decoder(BlockRecord).decode
_decode_unassigned: Callable[[bytes], UnassignedRecord] = msgspec.msgpack.Decoder(UnassignedRecord).decode
decode_manifest: Callable[[bytes], Manifest] = msgspec.msgpack.Decoder(Manifest).decode


def key_prefix(group: str, topic: str) -> str:
    return f"{group}|{topic}|"


def take(part: Partition, manifest_id: str, partitions: int) -> Snapshot:
    """Copy the dirty blocks. Nothing of this partition may be in flight; afterwards it goes on at once."""
    assert part.unsettled == 0, "rows in flight at a checkpoint"
    part.checkpoints += 1
    position = part.position
    blocks: list[tuple[str, BlockRecord | UnassignedRecord]] = []
    entries: dict[str, list[int]] = {}
    for pool in part.order:
        refresh = {b for b in range(pool.blocks) if (b + part.checkpoints) % REFRESH_EVERY == 0}
        for b in sorted(pool.dirty | refresh):
            pool.through[b] = max(position, pool.need[b])
            blocks.append((f"{pool.key}|{b}", _copy_block(pool, b)))
        pool.dirty.clear()
        entries[pool.key] = list(pool.through)
    un = part.unassigned
    if un.dirty or part.checkpoints % REFRESH_EVERY == 0:
        un.through = max(position, un.need)
        un.dirty = False
        blocks.append((UNASSIGNED, UnassignedRecord(un.through, un.counts.tobytes(), [
            WaitingRecord(w.asset, w.birth_id, w.historical, list(w.frames), w.leave, w.hold)
            for w in un.waiting.values()], [(*key, hold) for key, hold in un.given_up.items()])))
    entries[UNASSIGNED] = [un.through]
    stale, part.stale = part.stale, ()
    manifest = Manifest(manifest_id, position, partitions, part.now_ms, entries, list(part.spans))
    return Snapshot(part.number, blocks, manifest, part.term, stale)


def _copy_block(pool: Pool, b: int) -> BlockRecord:
    start = b * pool.block_slots
    seats = [Seat(i, s.birth, s.historical, s.past, s.since)
             for i, s in enumerate(pool.slots[start:start + pool.block_slots]) if s]
    used = max((s.slot for s in seats), default=-1) + 1
    here = slice(start, start + used)
    return BlockRecord(
        pool.key, b, pool.through[b], pool.block_slots, used, seats,
        {c.name: _filled(c, pool.table[c.name][here]) for c in pool.table.columns if c.persist},
        pool.retired[b].tobytes(),
        {s - start: rows[:int(pool.table["collected"][s])].tobytes()
         for s, rows in pool.calibration.items() if start <= s < start + pool.block_slots},
        [(s - start, rule, value) for (s, rule), value in pool.open.items() if start <= s < start + pool.block_slots])


def _sparse(column: Column) -> bool:
    """Say whether a column's zeros at the end of a block are left away: a ring that few assets fill."""
    return not column.fill and column.slot_bytes >= SPARSE_BYTES


def _filled(column: Column, used: Array) -> bytes:
    if not _sparse(column):
        return used.tobytes()
    raw = used.reshape(-1).view(np.uint8 if column.slot_bytes % 4 else np.uint32)  # -0.0 is no zero here
    there = np.flatnonzero(raw)
    end = int(there[-1]) + 1 if len(there) else 0
    size = used.itemsize
    return raw[: -(-end * raw.itemsize // size) * size // raw.itemsize].tobytes()


def put_back(part: Partition, snap: Snapshot) -> None:
    """Mark the blocks of a snapshot that was never written as dirty again."""
    part.stale = (*snap.stale, *part.stale)
    for key, record in snap.blocks:
        if isinstance(record, BlockRecord):
            if record.pool in part.pools:  # else an heir has taken its place, whose blocks are all dirty
                part.pools[record.pool].dirty.add(record.block)
        elif key == UNASSIGNED:
            part.unassigned.dirty = True


def durable(part: Partition, manifest: Manifest) -> None:
    """Give up what only had to be kept until this manifest was acknowledged."""
    for pool in part.order:
        for slot in np.flatnonzero(pool.table["leave"][:len(pool.slots)] >= 0).tolist():
            if pool.table["leave"][slot] < manifest.offset:
                part.leave(pool, slot)
    waiting = part.unassigned.waiting
    for key, entry in list(waiting.items()):
        if (entry.leave >= 0 or not entry.frames) and max(entry.leave, entry.hold) <= manifest.offset:
            del waiting[key]
            part.unassigned.dirty = True
    given_up = part.unassigned.given_up
    for key in [key for key, hold in given_up.items() if hold <= manifest.offset]:
        del given_up[key]
        part.unassigned.dirty = True


@dataclass(slots=True)
class Restored:
    """What restoring came to. position: offset to read from. notes: (event, fields) for the log."""

    partition: Partition
    position: int
    manifest: Manifest | None
    notes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


def restore(number: int, records: Mapping[str, bytes], pool_for: Callable[[AssetBirth], Pool | None],
            first_offset: int, share: Callable[[AssetBirth], AssetBirth] = lambda birth: birth) -> Restored:
    """Rebuild a partition from the newest value of each of its keys (without the prefix).

    pool_for: builds an empty pool for an asset as configured now, None if no bundle serves it any more.
    share: gives a birth that shares what equal births have in common.
    first_offset: where to start when nothing was stored.
    """
    raw = records.get("manifest")
    manifest = decode_manifest(raw) if raw else None
    start = manifest.offset if manifest else first_offset
    part = Partition(number, start)
    done = Restored(part, start, manifest)
    if manifest:
        part.now_ms, part.spans = manifest.now_ms, list(manifest.spans) or [(0, manifest.now_ms)]
    blocks = [_decode_block(v) for k, v in records.items() if k not in ("manifest", UNASSIGNED)]
    for name in sorted({b.pool for b in blocks}):
        _restore_pool(part, name, [b for b in blocks if b.pool == name], manifest, pool_for, share, done)
    un = part.unassigned
    if UNASSIGNED in records:
        record = _decode_unassigned(records[UNASSIGNED])
        entry = manifest.entries.get(UNASSIGNED, [-1])[0] if manifest else -1
        un.through, un.counts = record.through, np.frombuffer(record.counts, np.int64).copy()
        un.need = max(start, un.through) if un.through == entry else un.through
        for w in record.waiting:
            un.waiting[w.asset, w.birth_id, w.historical] = Waiting(
                w.asset, w.birth_id, w.historical, [(o, t, v) for o, t, v in w.frames], w.leave, w.hold)
        un.given_up = {(a, b, h): hold for a, b, h, hold in record.given_up}
    else:
        un.need = start if manifest else 0
    _settle_moves(part)
    # `start` without a manifest too: a first checkpoint that was half written lacks the blocks that were not
    needs = [start, *(n for pool in part.order for n, t in zip(pool.need, pool.through, strict=True) if t >= 0)]
    needs += [un.need] if UNASSIGNED in records else []
    done.position = part.position = min(needs)
    holds = [int(pool.table["hold"].max(initial=0)) for pool in part.order]
    part.replay_until = max(needs + holds)
    for pool in part.order:  # a new term, a new writer: its first checkpoint is whole
        pool.dirty.update(range(pool.blocks))
    un.dirty = True
    return done


def _restore_pool(part: Partition, name: str, blocks: Iterable[BlockRecord], manifest: Manifest | None,
                  pool_for: Callable[[AssetBirth], Pool | None], share: Callable[[AssetBirth], AssetBirth],
                  done: Restored) -> None:
    blocks = sorted(blocks, key=lambda b: b.block)
    seats = [s.birth for b in blocks for s in b.seats]
    # any seat will do: of some assets the route may have changed, and they move with their next frame
    pool = next((p for p in map(pool_for, seats) if p is not None and p.key == name), None)
    if pool is None or any(b.slots != pool.block_slots for b in blocks):
        if seats:
            done.notes.append(("state_discarded", {"pool": name, "why": "no bundle of today has this state's layout",
                                                   "assets": sum(len(b.seats) for b in blocks)}))
        return
    part.add_pool(pool)
    entries = manifest.entries.get(name, []) if manifest else []
    offset = manifest.offset if manifest else 0
    for b in blocks:
        while pool.blocks <= b.block:  # a block in between that was never written holds nothing yet
            at = len(pool.slots)
            pool.add_block(through=-1, need=0)
            pool.free += range(at + pool.block_slots - 1, at - 1, -1)
        named = entries[b.block] if b.block < len(entries) else -1
        pool.through[b.block] = b.through
        # a checkpoint during a replay names blocks that are ahead of it
        pool.need[b.block] = max(offset, b.through) if b.through == named else b.through
        pool.retired[b.block] = np.frombuffer(b.retired, np.int64).copy()
        _load_block(part, pool, b, share)
    taken = {slot for slot, _ in pool.seated()}
    pool.free = [slot for slot in pool.free if slot not in taken]


def _load_block(part: Partition, pool: Pool, b: BlockRecord, share: Callable[[AssetBirth], AssetBirth]) -> None:
    start = b.block * pool.block_slots
    for c in pool.table.columns:
        if c.persist and b.used and c.name in b.columns:  # a column that a later release added keeps its fill
            if c.dtype not in DTYPES:
                raise ValueError(f"column {c.name} has dtype {c.dtype}")
            _load_column(c, pool.table[c.name][start:start + b.used], b.columns[c.name])
    for seat in b.seats:
        slot, leave = start + seat.slot, int(pool.table["leave"][start + seat.slot])
        birth = share(seat.birth)
        who = Slot(birth.asset, birth, seat.historical, tuple(seat.past), seat.since)
        if leave >= 0:  # left, but not yet vacated: replay skips what it holds
            pool.seat(slot, who)
            part.left[who.asset, who.birth.birth_id, who.historical] = leave
            part.assets += 1
        else:
            part.enter(pool, slot, who)
        if seat.slot in b.calibration:
            rows = _array(b.calibration[seat.slot], "f8", (-1, pool.calibration_width))
            pool.calibration[slot] = np.zeros((pool.calibration_rows, pool.calibration_width))
            pool.calibration[slot][:len(rows)] = rows
    pool.open |= {(start + slot, rule): value for slot, rule, value in b.open}


def _load_column(column: Column, into: Array, raw: bytes) -> None:
    """Fill a column's slots. What was left away is zero in a new table: pages that nobody needs stay untouched."""
    if _sparse(column) and len(raw) < into.nbytes:
        found = _array(raw, column.dtype, (-1,))
        into.reshape(-1)[: len(found)] = found
        return
    into[:] = _array(raw, column.dtype, into.shape)


def _array(raw: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    array: Array = np.frombuffer(raw, dtype).reshape(shape)
    return array


def _settle_moves(part: Partition) -> None:
    """Mend what a half-written checkpoint tore apart: replay makes the move once more.

    An asset whose old slot is from before its move, but whose new slot is from after it, lives in the old one (replay
    starts there). Frames that left the waiting block for a slot that was not written wait again; those that a slot
    holds already no longer wait.
    """
    seats = sorted(((who.since, who.asset, pool, slot) for pool in part.order for slot, who in pool.seated()
                    if pool.table["leave"][slot] < 0 and not who.historical), key=lambda s: s[:2])
    oldest: set[str] = set()
    for _, asset, pool, slot in seats:
        if asset in oldest:
            pool.table["counts"][slot] = 0
            part.leave(pool, slot)
        oldest.add(asset)
    for _, asset, pool, slot in seats:
        who = pool.slots[slot]
        if who is not None:
            key = (asset, who.birth.birth_id, False)
            if part.current.get(asset) != key:
                part.current[asset] = key
    un = part.unassigned
    for entry in un.waiting.values():
        seated = (entry.asset, entry.birth_id, entry.historical) in part.directory
        if entry.leave >= 0 and not seated:
            un.counts[RECEIVED] += len(entry.frames)
            entry.hold, entry.leave = max(entry.hold, entry.leave), -1
        elif entry.leave < 0 and seated and entry.frames:  # the slot was written after they moved there, this before
            un.counts[RECEIVED] -= len(entry.frames)
            entry.frames, un.dirty = [], True
