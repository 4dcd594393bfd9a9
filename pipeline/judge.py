"""Judge: scores against limits, with on-delay, off-delay and deadband; only transitions become alerts. [SD/HA]"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engines.bundle import JudgeSpec
from pipeline.columns import F64, I64, Array, Bool, Groups
from pipeline.state import Column, Pool

#: Scores are rounded before they are judged and published, so that another machine or back end, whose last bits differ,
#: takes the same decision in all but the rarest case.
SCORE_DECIMALS = 6

#: Shares are for people: a thousandth of the score is nothing to act on.
SHARE_DECIMALS = 3

SEVERITIES = ("low", "medium", "high", "critical")

#: over: the last 64 rows' exceedances, newest in bit 0. below: rows in a row that were below the deadband.
#: quiet_*: the open `silent` alert of an asset that stopped sending.
COLUMNS = (
    Column("over", "u8"), Column("below", "i4"), Column("active", "u1"), Column("severity", "i1"),
    Column("revision", "i4"), Column("alert_id", "u1", (12,)), Column("alert_seq", "i8"), Column("t_first", "i8"),
    Column("t_raised", "i8"), Column("quiet", "u1"), Column("quiet_since_ms", "i8"), Column("quiet_id", "u1", (12,)),
)

NORMAL, OVER, ACTIVE, UNKNOWN = 0, 1, 2, 3  # state of a row in an assessment


@dataclass(slots=True)
class Transition:
    """A change of a slot's alert at row `row`. kind: raised, updated (severity rose) or cleared."""

    row: int
    slot: int
    kind: str
    severity: str
    revision: int
    seq: int
    t_first: int
    t_raised: int


def step(pool: Pool, slot: I64, score: F64, t_end: I64, seq: I64, usable: Bool,
         unknown: Bool | None = None, band: F64 | None = None) -> tuple[Array, list[Transition]]:
    """Judge rows in order; return the state of each row and the transitions, in order of rows.

    slot, score (rounded), t_end [Unix ns], seq, usable: (n,). A row that is not usable changes nothing, nor does one
    that is `unknown`: its score counts for nothing. band: (n,) factor on each row's threshold; none: 1. Severity is by
    the threshold without it.
    """
    spec, threshold, table = pool.bundle.spec.judge, pool.bundle.spec.threshold, pool.table
    state = np.zeros(len(slot), np.int8)
    if unknown is not None:
        state[unknown] = UNKNOWN
        usable = usable & ~unknown
    limit: F64 | float = threshold if band is None else threshold * band
    over = (score >= limit) & usable
    active = table["active"][slot] != 0
    if not over.any() and not active.any() and not table["over"][slot].any():
        return state, []
    order = np.argsort(slot, kind="stable")
    rank = np.empty(len(slot), np.int64)
    rank[order] = Groups.of(slot[order]).rank
    transitions: list[Transition] = []
    for k in range(int(rank.max()) + 1):
        if unknown is not None:  # an alert stands until something known clears it
            rows = np.flatnonzero((rank == k) & unknown)
            state[rows] = np.where(table["active"][slot[rows]] != 0, ACTIVE, UNKNOWN)
        rows = np.flatnonzero((rank == k) & usable)
        if len(rows):
            mine = limit if isinstance(limit, float) else limit[rows]
            transitions += _round(pool, spec, mine, rows, slot[rows], over[rows], score[rows], t_end[rows], seq[rows])
            state[rows] = np.where(table["active"][slot[rows]] != 0, ACTIVE, np.where(over[rows], OVER, NORMAL))
    transitions.sort(key=lambda t: t.row)
    return state, transitions


def _round(pool: Pool, spec: JudgeSpec, limit: F64 | float, rows: I64, slot: I64, over: Bool, score: F64, t_end: I64,
           seq: I64) -> Iterator[Transition]:
    """Judge one row each of distinct slots."""
    table = pool.table
    need, width = spec.on
    before = table["over"][slot]
    recent = ((before << np.uint64(1)) | over.astype(np.uint64)) & np.uint64((1 << width) - 1)
    table["over"][slot] = recent
    active = table["active"][slot] != 0
    begins = over & (before == 0) & ~active
    table["t_first"][slot[begins]] = t_end[begins]
    # counted only while active: rows that nobody has to judge one by one must leave the state as it is
    below = np.where(active & (score < limit * (1.0 - spec.deadband)), table["below"][slot] + 1, 0)
    table["below"][slot] = below
    level = np.searchsorted(np.asarray(spec.severity) * pool.bundle.spec.threshold, score, side="right") - 1
    raises = ~active & over & (np.bitwise_count(recent) >= need)
    clears = active & (below >= spec.off)
    rises = active & ~clears & (level > table["severity"][slot])
    out = []
    for kind, mask in (("raised", raises), ("updated", rises), ("cleared", clears)):
        for i in np.flatnonzero(mask).tolist():
            out.append(_change(pool, kind, int(rows[i]), int(slot[i]), int(level[i]), int(t_end[i]), int(seq[i])))
    return iter(out)


def _change(pool: Pool, kind: str, row: int, slot: int, level: int, t_end: int, seq: int) -> Transition:
    table = pool.table
    if kind == "raised":
        table["active"][slot], table["revision"][slot], table["severity"][slot] = 1, 1, max(level, 0)
        table["alert_seq"][slot], table["t_raised"][slot] = seq, t_end
    else:
        table["revision"][slot] += 1
        if kind == "updated":
            table["severity"][slot] = level
        else:
            table["active"][slot], table["over"][slot], table["below"][slot] = 0, 0, 0
    return Transition(row, slot, kind, SEVERITIES[int(table["severity"][slot])], int(table["revision"][slot]),
                      int(table["alert_seq"][slot]), int(table["t_first"][slot]), int(table["t_raised"][slot]))


def clear(pool: Pool, slot: int) -> Transition | None:
    """Clear an open alert because its asset was retired or is another one now; None if there is none."""
    if not pool.table["active"][slot]:
        return None
    return _change(pool, "cleared", -1, slot, 0, int(pool.table["t_raised"][slot]), int(pool.table["alert_seq"][slot]))


def forget(pool: Pool, slot: int) -> None:
    """Let nothing that was over the limit count towards the next alert."""
    pool.table.reset(slot, ("over", "below"))


def quiet(pool: Pool, spans: Sequence[tuple[int, int]], silent_ms: int) -> list[int]:
    """Return the slots that were silent for more than `silent_ms` and not known to be; mark them.

    spans: stretches of broker time, ms, in which records came, from those of slots seen last to now.
    """
    table, used = pool.table, len(pool.slots)
    last = table["last_ts_ms"][:used]
    late = np.zeros(used, bool)
    for start, end in spans:
        late |= end - np.maximum(last, start) > silent_ms
    late &= (last > 0) & (table["quiet"][:used] == 0) & (table["leave"][:used] < 0) & (table["historical"][:used] == 0)
    slots: list[int] = np.flatnonzero(late).tolist()
    for slot in slots:
        fall_silent(pool, slot)
    return slots


def fall_silent(pool: Pool, slot: int) -> None:
    """Mark a slot as silent since its last frame."""
    pool.table["quiet"][slot], pool.table["quiet_since_ms"][slot] = 1, pool.table["last_ts_ms"][slot]
    pool.touch(slot)


def shares(contributions: Array, names: tuple[str, ...], z: Array | None) -> list[tuple[str, float, str]]:
    """Rank one row's contributions: (channel, share, direction), largest first; the shares sum to 1.

    contributions: (channels,) not negative. z: (channels,) how far each channel is from normal, None if unknown.
    """
    total = float(contributions.sum())
    if not total > 0:
        return []
    ranked = np.argsort(-contributions, kind="stable").tolist()
    out: list[tuple[str, float, str]] = []
    for i in ranked:
        share = round(float(contributions[i]) / total, SHARE_DECIMALS)
        if share <= 0:
            break
        out.append((names[i], share, "flat" if z is None or z[i] == 0 else "up" if z[i] > 0 else "down"))
    rest = 1.0 - sum(share for _, share, _ in out)  # what rounding left over or took too much
    name, share, way = out[0]
    return [(name, round(share + rest, SHARE_DECIMALS), way), *out[1:]]
