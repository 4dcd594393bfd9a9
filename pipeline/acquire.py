"""Acquire: decode frames, check them against their births, order them by sequence. [ISO 13374 DA]

Columns from here on. Only frames that are wrong in some way are touched one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from math import nan
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from pipeline.columns import F64, I64, NS_PER_MS, NS_PER_S, Array, Bool, FrameBatch, Groups, Poll, Silence
from pipeline.errors import Rejected
from pipeline.state import (
    DEAD_LETTERED,
    DUPLICATE,
    GAP_FRAMES,
    LATE,
    RECEIVED,
    REORDERED,
    Partition,
    Pool,
)
from schemas import AssetBirth, MachineEvent, TelemetryFrame
from schemas.codec import DECODE_ERRORS, decode_event, decode_frame, fault, is_event

#: Kafka's default for max.message.bytes; a larger record does not come from a broker with defaults.
MAX_FRAME_BYTES = 1 << 20
#: Width of the bitmap of sequence numbers seen: a frame that comes later than this many is late.
SEEN_BITS = 64
_ALL = (1 << SEEN_BITS) - 1
#: A counter does not lose a million frames at once (a day at 12 frames/s); a damaged one does.
MAX_AHEAD = 1 << 20
#: Frames out of sequence in a row after which theirs is the sequence. A gateway that sends old frames again sends old
#: times with them, so the number only has to tell a counter that goes on from single damaged ones.
RESYNC = 8

_key, _seq, _t0, _data, _quality = map(attrgetter, (("asset"), "seq", "t0_ns", "data", "quality"))
_directory_key = attrgetter("asset", "birth_id", "historical")

Frames = list[TelemetryFrame | None]
Rejects = list[tuple[int, Rejected, str | None]]  # index in the poll, why, asset if known


class Decoded(NamedTuple):
    """What a poll's records are. frames: None where a record is no frame; events: by index in the poll, ascending."""

    frames: Frames
    rejects: Rejects
    events: dict[int, MachineEvent]

    def rest(self, stop: int) -> "Decoded":
        """Return what is left from index `stop` on."""
        return Decoded(self.frames[stop:], [(i - stop, error, asset) for i, error, asset in self.rejects if i >= stop],
                       {i - stop: event for i, event in self.events.items() if i >= stop})


#: What to do about a value that is no frame, by reason.
_REMEDY = {
    "undecodable": "Send a msgpack map",
    "unknown_schema": "This release reads version 1: upgrade the worker, or send version 1",
    "wrong_type": "See schemas/json/kizashi.telemetry.v1.json, and .event.json for machine events",
}


def decode(poll: Poll) -> Decoded:
    """Decode every value; a record that is no frame yields None, and is a machine event or has a reason."""
    if poll.decoded is not None:
        found: Decoded = poll.decoded
        return found
    values = poll.values
    try:
        frames: Frames = [decode_frame(v) for v in values]  # type: ignore[arg-type]
        if len(values) == 0 or max(map(len, values)) <= MAX_FRAME_BYTES:  # type: ignore[arg-type]
            return Decoded(frames, [], {})
    except (*DECODE_ERRORS, TypeError):
        pass
    frames, rejects, events = [], list[tuple[int, Rejected, str | None]](), dict[int, MachineEvent]()
    for i, value in enumerate(values):
        one = None
        try:
            one = _decode_one(value)
        except Rejected as error:
            rejects.append((i, error, None))
        if isinstance(one, MachineEvent):
            events[i], one = one, None
        frames.append(one)
    return Decoded(frames, rejects, events)


def _decode_one(value: bytes | None) -> TelemetryFrame | MachineEvent:
    if not value:
        raise Rejected("empty", "the record has no value. Send a msgpack telemetry frame, or nothing")
    if len(value) > MAX_FRAME_BYTES:
        raise Rejected("oversized", f"the record has {len(value)} bytes, a frame may have {MAX_FRAME_BYTES} bytes. "
                       "Send fewer samples per frame")
    try:
        return decode_frame(value)
    except DECODE_ERRORS as error:
        wrong, what = error, "telemetry frame"
    if is_event(value):
        try:
            return decode_event(value)
        except DECODE_ERRORS as error:
            wrong, what = error, "machine event"
    reason = fault(value)
    raise Rejected(reason, f"no {what}: {type(wrong).__name__}: {wrong}. {_REMEDY[reason]}") from wrong


def event_in(value: bytes) -> MachineEvent | None:
    """Return the machine event that a record is, None if it is none."""
    try:
        return decode_event(value)
    except DECODE_ERRORS:
        return None


def resolve(partition: Partition, frames: Sequence[TelemetryFrame]) -> I64:
    """Return each frame's code (index of the pool << 32 | slot), -1 where no slot lives under its key."""
    return np.fromiter(map(partition.directory.get, map(_directory_key, frames), repeat(-1)), np.int64, len(frames))


@dataclass(slots=True)
class Candidates:
    """Frames of one pool whose content is right, sorted by (slot, arrival); `index` points into the poll."""

    index: I64
    batch: FrameBatch


def check(pool: Pool, slots: I64, index: I64, frames: Sequence[TelemetryFrame], poll: Poll,
          max_future_ms: int) -> tuple[Candidates, Rejects]:
    """Check content (length, finite samples, quality, clock) and lay it out in columns, sorted by slot.

    slots, index: (n,) of one pool, in order of arrival; index points into the poll and `frames`. What fails is left
    out and named.
    """
    order = np.argsort(slots, kind="stable")
    slots, index = slots[order], index[order]
    picked = [frames[i] for i in index.tolist()]
    rejects: Rejects = []
    data, bad = _samples(pool, slots, picked)
    t0 = np.fromiter(map(_t0, picked), np.int64, len(picked))
    ts = poll.timestamps_ms[index]
    early = (t0 - ts * NS_PER_MS) > max_future_ms * NS_PER_MS
    marked = "bad" in set(map(_quality, picked))
    if bad is not None or marked or early.any():
        good = np.ones(len(picked), bool)
        for i, frame in enumerate(picked):
            error = (bad or {}).get(i)
            if error is None and frame.quality == "bad":
                error = Rejected("bad_quality", "the gateway marked this frame as bad. See to the sensor or gateway")
            if error is None and early[i]:
                ahead_s = (int(t0[i]) - int(ts[i]) * NS_PER_MS) / NS_PER_S
                error = Rejected("bad_clock", f"the frame's time is {ahead_s:.1f} s ahead of its record's, "
                                 f"{max_future_ms / 1000:g} s are allowed (worker.max_future_s). Set its clock")
            if error is not None:
                good[i] = False
                rejects.append((int(index[i]), error, frame.asset))
                pool.table["counts"][slots[i], [RECEIVED, DEAD_LETTERED]] += 1
                pool.touch(int(slots[i]))
        slots, index, t0, ts, data = slots[good], index[good], t0[good], ts[good], data[good]
        picked = [f for f, g in zip(picked, good.tolist(), strict=True) if g]
    seq = np.fromiter(map(_seq, picked), np.int64, len(picked))
    batch = FrameBatch(slots, seq, poll.offsets[index], t0, ts, np.zeros(len(picked), bool), data,
                       _speeds(picked) if pool.bundle.spec.order else None)
    return Candidates(index, batch), rejects


def _speeds(frames: Sequence[TelemetryFrame]) -> F64:
    return np.fromiter((nan if frame.rpm is None else frame.rpm for frame in frames), np.float64, len(frames))


def _samples(pool: Pool, slots: I64, frames: Sequence[TelemetryFrame]) -> tuple[Array, dict[int, Rejected] | None]:
    """Return physical samples (n, channels, samples) and what is wrong with which; wrong ones are zeros."""
    birth: AssetBirth = pool.slots[int(slots[0])].birth  # type: ignore[union-attr]  # one wire format a pool
    want, blobs, bad = birth.frame_bytes, list(map(_data, frames)), None
    lengths = set(map(len, blobs))
    if lengths != {want}:
        bad = {}
        for i, blob in enumerate(blobs):
            if len(blob) != want:
                reason = "wrong_length" if blob else "empty"
                bad[i] = Rejected(reason, f"data has {len(blob)} bytes, birth {birth.birth_id} says {want} bytes "
                                  f"({len(birth.channels)} channels x {birth.samples_per_frame} samples). "
                                  "Send a new birth when the layout changes")
                blobs[i] = bytes(want)
    data = _unpack(birth, b"".join(blobs), len(blobs))
    if pool.scaled:
        data = data * pool.scale[slots][:, :, None] + pool.offset[slots][:, :, None]
    if not np.isfinite(data.sum()):  # one pass; a true overflow of the sum is sorted out below
        data = data.copy()  # what comes from the wire is read-only
        for i in np.flatnonzero(~np.isfinite(data).all(axis=(1, 2))).tolist():
            channel = birth.channels[int(np.flatnonzero(~np.isfinite(data[i]).all(axis=1))[0])].name
            bad = bad or {}
            bad[i] = Rejected("not_finite", f"channel {channel} has NaN or infinite samples. "
                              "Mark missing data with quality = bad, or leave the frame out")
            data[i] = 0
    return data if pool.pick is None else data[:, pool.pick], bad


def _unpack(birth: AssetBirth, raw: bytes, n: int) -> Array:
    kinds = [c.dtype for c in birth.channels]
    channels, samples = len(kinds), birth.samples_per_frame
    if len(set(kinds)) == 1:
        data = np.frombuffer(raw, "<" + kinds[0]).reshape(n, channels, samples)
        return data if kinds[0] in ("f4", "f8") else data.astype(np.float64)
    out, at = np.empty((n, channels, samples)), 0
    table = np.frombuffer(raw, np.uint8).reshape(n, -1)
    for c, kind in enumerate(kinds):
        width = samples * int(kind[1])
        out[:, c] = np.ascontiguousarray(table[:, at:at + width]).view("<" + kind)
        at += width
    return out


def sequence(part: Partition, pool: Pool, found: Candidates, silent_ms: int) -> tuple[FrameBatch, list[Silence]]:
    """Drop duplicate and late frames, count gaps, mark frames that follow a silence; update the slots.

    A frame counts as duplicate when the bitmap of the last 64 numbers has it, as reordered (and is accepted, in order
    of arrival) when it has not, as late when it is older or implausibly far ahead. Frames out of sequence that follow
    each other while their time goes on are the sequence from then on: a device that counts anew under its old birth, or
    whose counter was damaged once, must not be late for ever.
    """
    batch, table = found.batch, pool.table
    if not len(batch):
        return batch, []
    groups = Groups.of(batch.slot)
    slots, sizes = batch.slot[groups.first], groups.last - groups.first + 1
    counts, last, seen = table["counts"], table["last_seq"], table["seen"]
    was = last[slots]
    counts[slots, RECEIVED] += sizes
    pool.touch_many(slots)
    before = groups.before(batch.seq, was)
    fresh = groups.head & (before < 0)
    regular = (batch.seq == before + 1) | fresh
    if regular.all():
        _advance(seen, slots, sizes)
        last[slots] = batch.seq[groups.last]
    else:
        keep = np.ones(len(batch), bool)
        clean = np.logical_and.reduceat(regular, groups.first)
        _advance(seen, slots[clean], sizes[clean])
        last[slots[clean]] = batch.seq[groups.last[clean]]
        for g in np.flatnonzero(~clean).tolist():
            _irregular(pool, int(slots[g]), batch, int(groups.first[g]), int(groups.last[g]) + 1, keep)
        if not keep.all():
            batch = batch.only(keep)
            if not len(batch):
                return batch, []
            groups = Groups.of(batch.slot)
            was = was[np.isin(slots, batch.slot)]
            slots = batch.slot[groups.first]
    silences = _silences(part, pool, batch, groups, was, silent_ms)
    table["last_t0_ns"][slots] = batch.t0_ns[groups.last]
    table["last_ts_ms"][slots] = np.maximum(table["last_ts_ms"][slots], np.maximum.reduceat(batch.ts_ms, groups.first))
    return batch, silences


def _advance(seen: Array, slots: I64, sizes: I64) -> None:
    short = sizes < SEEN_BITS
    shift = np.where(short, sizes, 0).astype(np.uint64)
    one = np.uint64(1)
    seen[slots] = np.where(short, (seen[slots] << shift) | ((one << shift) - one), np.uint64(_ALL))


def _irregular(pool: Pool, slot: int, batch: FrameBatch, start: int, stop: int, keep: Bool) -> None:
    table = pool.table
    counts = table["counts"][slot]
    last, seen, t0 = int(table["last_seq"][slot]), int(table["seen"][slot]), int(table["last_t0_ns"][slot])
    odd, run = int(table["odd_seq"][slot]), int(table["odd_run"][slot])
    for i in range(start, stop):
        seq = int(batch.seq[i])
        ahead = seq - last
        if last >= 0 and (-ahead >= SEEN_BITS or ahead > MAX_AHEAD):
            run = min(run + 1, RESYNC) if seq == odd + 1 and int(batch.t0_ns[i]) > t0 else 1
            odd = seq
            if run < RESYNC:
                keep[i] = False
                counts[LATE] += 1
                continue
            last, seen = seq, 1
        elif last < 0 or ahead > 0:
            counts[GAP_FRAMES] += ahead - 1 if last >= 0 else 0
            seen = ((seen << min(ahead, SEEN_BITS)) | 1) & _ALL if last >= 0 else 1
            last = seq
        elif seen >> -ahead & 1:
            keep[i] = False
            counts[DUPLICATE] += 1
            continue
        else:
            seen |= 1 << -ahead
            counts[REORDERED] += 1
        t0, run = int(batch.t0_ns[i]), 0
    table["last_seq"][slot], table["seen"][slot] = last, np.uint64(seen)
    table["odd_seq"][slot], table["odd_run"][slot], table["last_t0_ns"][slot] = odd, run, t0


def _silences(part: Partition, pool: Pool, batch: FrameBatch, groups: Groups, was: I64,
              silent_ms: int) -> list[Silence]:
    """Mark the frames that follow a pause; return the pauses that were silences, or are known as such.

    was: (groups,) each slot's sequence number before this batch.
    """
    before = groups.before(batch.ts_ms, pool.table["last_ts_ms"][batch.slot[groups.first]])
    np.greater(batch.ts_ms - before, silent_ms, out=batch.restart)
    batch.restart &= before > 0
    known = groups.head & (pool.table["quiet"][batch.slot] != 0)
    found = []
    for i in np.flatnonzero(batch.restart | known).tolist():
        ts_ms, start = int(batch.ts_ms[i]), int(groups.start[i])
        if not known[i] and not part.fell_silent(int(before[i]), ts_ms, silent_ms):
            continue
        seq = int(was[np.searchsorted(groups.first, start)])
        if i > start:
            seq = max(seq, int(batch.seq[start:i].max()))
        found.append(Silence(int(batch.slot[i]), seq, int(before[i]), ts_ms))
    return found
