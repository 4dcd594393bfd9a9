"""Episodes: an asset's open alerts over its life: silence and return, reboot, move, retirement. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline import advise, driftadvice, judge
from pipeline.columns import NS_PER_MS, Effects, Silence
from pipeline.state import Partition, Pool
from schemas import Alert
from schemas.codec import decode_alert, encode_alert


@dataclass(frozen=True, slots=True)
class Terms:
    """silent_ms: without a frame for longer an asset is silent. stale_ms: older alerts annunciate nothing."""

    silent_ms: int
    stale_ms: int


def end_birth(terms: Terms, part: Partition, pool: Pool, slot: int, ts_ms: int, leaves: bool,
              effects: Effects) -> None:
    """Say what is due under the old birth at broker time `ts_ms`; who leaves its slot has no open alerts."""
    table = pool.table
    if table["historical"][slot]:
        return
    last = int(table["last_ts_ms"][slot])
    if not table["quiet"][slot] and last and part.fell_silent(last, ts_ms, terms.silent_ms):
        judge.fall_silent(pool, slot)
        say(pool, slot, effects, advise.silence(
            pool, slot, terms.silent_ms, seq=int(table["last_seq"][slot]),
            since_ms=int(table["quiet_since_ms"][slot])))
    if leaves or table["quiet"][slot]:
        _close(terms, pool, slot, ts_ms, effects, level=leaves)
        table["last_ts_ms"][slot] = ts_ms


def _close(terms: Terms, pool: Pool, slot: int, ts_ms: int, effects: Effects, *, level: bool) -> None:
    seq = int(pool.table["last_seq"][slot])
    if level:
        close(terms, pool, slot, ts_ms, effects, "the asset was retired, or announced another layout")
    if pool.table["quiet"][slot]:
        say(pool, slot, effects, advise.silence(
            pool, slot, terms.silent_ms, seq=seq, since_ms=int(pool.table["quiet_since_ms"][slot]),
            back_ms=ts_ms))
        pool.table["quiet"][slot] = pool.table["quiet_since_ms"][slot] = 0


def close(terms: Terms, pool: Pool, slot: int, ts_ms: int, effects: Effects, why: str) -> None:
    """Clear what stands of an asset's condition, because it ended at broker time `ts_ms`; not that it is silent."""
    drifts(pool, [slot], why, ts_ms * NS_PER_MS, effects)
    change = judge.clear(pool, slot)
    if change is not None:
        say(pool, slot, effects, advise.alert(
            pool, change, score=0.0, t_end=ts_ms * NS_PER_MS, seq=int(pool.table["last_seq"][slot]), ts_ms=ts_ms,
            frames=1, stale_ms=terms.stale_ms, band=float(pool.table["band"][slot]) if "band" in pool.table else 1.0,
            said=f"{why}; nothing was measured"))


def say(pool: Pool, slot: int, effects: Effects, alert: Alert) -> None:
    """Publish an alert, and keep it while it is open."""
    effects.alerts.append(alert)
    if alert.active:
        pool.open[slot, alert.rule] = encode_alert(alert)
    else:
        pool.open.pop((slot, alert.rule), None)


def drifts(pool: Pool, slots: Iterable[int], why: str, t_end: int | None, effects: Effects) -> None:
    """Clear the drift alerts of slots that drift no more. t_end: Unix ns; none: when the asset was last heard of."""
    for slot in slots:
        known = pool.open.get((slot, driftadvice.RULE))
        if known is not None:
            last = int(pool.table["last_ts_ms"][slot]) * NS_PER_MS if t_end is None else t_end
            say(pool, slot, effects, driftadvice.ended(decode_alert(known), why, last))


def forget_drifts(pool: Pool, effects: Effects) -> None:
    """Clear the drift alerts of a pool whose state knows of no drift: another version judges it now."""
    slots = [slot for slot, rule in pool.open if rule == driftadvice.RULE]
    gone = [s for s in slots if "drifting" not in pool.table or not pool.table["drifting"][s]]
    drifts(pool, gone, f"{pool.bundle.spec.name} {pool.bundle.spec.version} judges the asset now", None, effects)


def silences(terms: Terms, part: Partition, effects: Effects, now_ms: int | None = None) -> None:
    """Say which assets of a partition have fallen silent. now_ms: broker time if it went on after the last record."""
    if part.position < part.replay_until:
        return  # the manifest's time is ahead of frames that are yet to be applied again
    spans = part.spans if now_ms is None else [(part.spans[-1][0], now_ms)]
    for pool in part.order:
        for slot in judge.quiet(pool, spans, terms.silent_ms):
            say(pool, slot, effects, advise.silence(
                pool, slot, terms.silent_ms, seq=int(pool.table["last_seq"][slot]),
                since_ms=int(pool.table["quiet_since_ms"][slot])))


def came_back(terms: Terms, pool: Pool, found: Sequence[Silence], effects: Effects) -> None:
    """Take silences back; one that nobody has noticed yet is raised first, so that it is the same for every reader."""
    table, silent_ms = pool.table, terms.silent_ms
    for s in found:
        if table["historical"][s.slot]:
            continue
        if not table["quiet"][s.slot]:
            say(pool, s.slot, effects,
                advise.silence(pool, s.slot, silent_ms, seq=s.seq, since_ms=s.since_ms))
        say(pool, s.slot, effects,
            advise.silence(pool, s.slot, silent_ms, seq=s.seq, since_ms=s.since_ms, back_ms=s.back_ms))
        table["quiet"][s.slot] = table["quiet_since_ms"][s.slot] = 0
