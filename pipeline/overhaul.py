"""Overhaul: a machine event starts an asset over, at its place among the asset's frames. Pure; `flow` calls it.

What came before the event is settled first. Then what was learnt of the asset is void: its baseline, recursion and
window start over with the next frame, its open alert is cleared with the reason, and what it says is provisional until
a new baseline stands. An event counts as a frame that was received and judged.
"""

from dataclasses import dataclass
from enum import Enum

from pipeline import episodes, judge, refuse
from pipeline.acquire import event_in
from pipeline.columns import Effects, Poll
from pipeline.errors import Rejected
from pipeline.kinds import start_over
from pipeline.seating import Seating
from pipeline.state import DEAD_LETTERED, JUDGED, RECEIVED, Key, Partition, Pool, Waiting
from schemas import MachineEvent


class Verdict(Enum):
    """What becomes of an event that starts nothing over now.

    HELD: the state holds it already. CUT: what came before must be settled first.
    """

    HELD = 1
    CUT = 2


@dataclass(frozen=True, slots=True)
class Terms:
    """topic: source topic, named in dead letters."""

    topic: str
    episodes: episodes.Terms


@dataclass(frozen=True, slots=True)
class Seated:
    """The slot where the asset lives."""

    pool: Pool
    slot: int


def place(part: Partition, event: MachineEvent, offset: int, *, released: bool) -> Verdict | Seated | Waiting:
    """Say where an event at `offset` belongs: to a slot, or to frames of its asset that wait for their birth.

    released: it waited itself. In a replay what the blocks hold is not obeyed twice. Raises Rejected("unknown_asset");
    the caller counts it.
    """
    if not released:
        if key_of(event, offset) in part.unassigned.given_up:
            return Verdict.HELD
        waiting = _waiting(part, event.asset, offset)
        if waiting is not None:
            return waiting
    seat = _seat(part, event.asset, offset)
    if seat is None:
        if offset < part.unassigned.need and not released:
            return Verdict.HELD  # counted before
        raise Rejected("unknown_asset", f"machine event {event.event} for asset {event.asset}, of which no frame has "
                       "come. A new asset learns from its first frames anyway; mind the name's spelling")
    if isinstance(seat, Verdict):
        return seat
    if part.position < part.replay_until:
        block = seat.slot // seat.pool.block_slots
        if offset < max(seat.pool.need[block], int(seat.pool.table["hold"][seat.slot])):
            return Verdict.HELD
    return Verdict.CUT if part.unsettled else seat


def key_of(event: MachineEvent, offset: int) -> Key:
    """Name an event that ended without a slot; a birth's id is never so."""
    return event.asset, f"@{offset}", False


def happen(terms: Terms, part: Partition, poll: Poll, i: int, event: MachineEvent, effects: Effects, *,
           released: bool) -> Verdict | Seated | None:
    """Let the event at index `i` of a poll happen. Returns where it started an asset over, or why not yet.

    released: it waited with frames for their birth.
    """
    offset, ts_ms = int(poll.offsets[i]), int(poll.timestamps_ms[i])
    try:
        found = place(part, event, offset, released=released)
    except Rejected as error:
        part.unassigned.counts[[RECEIVED, DEAD_LETTERED]] += 1
        Seating.remember(part, key_of(event, offset), offset)
        effects.dead_letters.append(refuse.record(terms.topic, poll, i, error, event.asset))
        return None
    if isinstance(found, Waiting):
        Seating.wait(part, (found.asset, found.birth_id, found.historical), offset, ts_ms, poll.values[i] or b"")
        return None
    if isinstance(found, Seated):
        obey(terms.episodes, found, event, ts_ms, effects)
    return found


def give_up(part: Partition, offset: int, value: bytes) -> None:
    """Take note of a record that waited in vain: a replay must not count it again if it is an event."""
    event = event_in(value)
    if event is not None:
        Seating.remember(part, key_of(event, offset), offset)


def obey(terms: episodes.Terms, seat: Seated, event: MachineEvent, ts_ms: int, effects: Effects) -> None:
    """Start the asset in a slot over. Nothing of its partition may be in flight. ts_ms: broker time of the event."""
    pool, slot = seat.pool, seat.slot
    episodes.close(terms, pool, slot, ts_ms, effects, _why(event))
    judge.forget(pool, slot)
    start_over(pool, slot)
    pool.table["counts"][slot, [RECEIVED, JUDGED]] += 1
    pool.touch(slot)
    effects.notes.append(("started_over", {"asset": event.asset, "what": event.event, "who": event.who,
                                           "why": event.why}))


def _why(event: MachineEvent) -> str:
    by = f" by {event.who}" if event.who else ""
    said = {"part_replaced": "a part was replaced", "recalibrate": "recalibration was ordered"}[event.event]
    return f"{said}{by}{f': {event.why}' if event.why else ''}; what was learnt starts over"


def _waiting(part: Partition, asset: str, offset: int) -> Verdict | Waiting | None:
    """Return the frames of an asset that an event waits with: those that wait with frames from before it."""
    entries = [w for w in part.unassigned.waiting.values()
               if w.asset == asset and not w.historical and w.leave < 0 and w.frames]
    if any(f[0] == offset for w in entries for f in w.frames):
        return Verdict.HELD
    before = [(max(f[0] for f in w.frames if f[0] < offset), w) for w in entries if w.frames[0][0] < offset]
    return max(before, key=lambda found: found[0])[1] if before else None


def _seat(part: Partition, asset: str, offset: int) -> Seated | Verdict | None:
    """Return where the asset lived at `offset`; HELD if in a slot that it has left since."""
    code = part.directory.get(part.current.get(asset, ("", "", False)))
    if code is not None:
        pool, slot = part.pool_at(code)
        who = pool.slots[slot]
        assert who is not None
        if who.since <= offset:
            return Seated(pool, slot)
    if any(key[0] == asset for key in part.left):
        for pool in part.order:
            for slot, who in pool.seated():
                if who.asset == asset and not who.historical and who.since <= offset < pool.table["leave"][slot]:
                    return Verdict.HELD
    return None
