"""Advise: turn transitions into alerts that say what, where, how strong and why. [ISO 13374 AG]

Every field is a function of the log alone: no clock, no host, no back end.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.columns import F64, I64, NS_PER_MS, Array
from pipeline.judge import Transition, shares
from pipeline.state import Pool, Slot
from schemas import Alert, Assessment, Calibration, Contribution, Window, alert_id
from schemas.alert import Severity, State

SILENT = "silent"


def alert(pool: Pool, t: Transition, *, score: float, t_end: int, seq: int, ts_ms: int, frames: int, stale_ms: int,
          contributions: Array | None, z: Array | None) -> Alert:
    """Build the alert of a transition from the row that caused it.

    t_end: event time of the row's last sample, Unix ns. ts_ms: broker time of its record. contributions, z: (C,).
    """
    who = pool.slots[t.slot]
    assert who is not None
    spec, birth = pool.bundle.spec, who.birth
    if t.kind == "raised":
        ident = alert_id(birth.site, who.asset, spec.rule, birth.birth_id, seq)
        pool.table["alert_id"][t.slot] = bytearray.fromhex(ident)
    else:
        ident = bytes(pool.table["alert_id"][t.slot]).hex()
    names = tuple(c.name for c in birth.channels)
    ranked = [] if contributions is None else shares(contributions, names, z)
    late_ms = ts_ms - t_end // NS_PER_MS
    why_not = None
    if late_ms > stale_ms:
        why_not = f"stale: came {late_ms / 1000:.0f} s after it was measured, {stale_ms / 1000:g} s are allowed"
    period = 1e9 / birth.rate_hz
    return Alert(
        alert_id=ident, revision=t.revision, state=_STATE[t.kind], active=t.kind != "cleared", site=birth.site,
        asset=who.asset, asset_class=birth.asset_class, rule=spec.rule, severity=_SEVERITY[t.severity],
        criticality=birth.criticality, annunciate=why_not is None, annunciate_why_not=why_not, t_first=t.t_first,
        t_last=t_end, t_raised=t.t_raised, t_cleared=t_end if t.kind == "cleared" else None, score=score,
        threshold=spec.threshold, why=_why(pool, t, score, ranked), birth_id=birth.birth_id, seq=seq,
        model=f"{spec.name}@{spec.version}", provisional=_provisional(pool, t.slot),
        contributions=tuple(Contribution(name, share, way) for name, share, way in ranked),  # type: ignore[arg-type]
        window=Window(t_end - round((frames * pool.samples - 1) * period), t_end, frames),
    )


_STATE: dict[str, State] = {"raised": "raised", "updated": "updated", "cleared": "cleared"}
_SEVERITY: dict[str, Severity] = {"low": "low", "medium": "medium", "high": "high", "critical": "critical"}


def _provisional(pool: Pool, slot: int) -> bool:
    names = {c.name for c in pool.table.columns}
    return bool(pool.table["provisional"][slot]) or ("suspect" in names and bool(pool.table["suspect"][slot]))


def _why(pool: Pool, t: Transition, score: float, ranked: Sequence[tuple[str, float, str]]) -> str:
    spec = pool.bundle.spec
    need, width = spec.judge.on
    ratio = f"score is {score / spec.threshold:.2f} x its limit"
    where = ", ".join(f"{name} {way} ({share:.0%})" for name, share, way in ranked[:3])
    if t.row < 0:
        return "the asset was retired, or announced another layout; nothing was measured"
    if t.kind == "cleared":
        return f"back below {1 - spec.judge.deadband:.2f} x the limit for {spec.judge.off} rows; {ratio}"
    said = f"over the limit in {need} of {width} rows; {ratio}" if t.kind == "raised" else f"severity rose; {ratio}"
    return f"{where}: {said}" if where else said


def silence(pool: Pool, slot: int, silent_ms: int, *, seq: int, since_ms: int, back_ms: int | None = None) -> Alert:
    """Build the alert that an asset fell silent, or (back_ms: broker time of its next record) that it is back.

    seq, since_ms: the last frame before the silence and its broker time.
    """
    who = pool.slots[slot]
    assert who is not None
    birth = who.birth
    raised_ns = (since_ms + silent_ms) * NS_PER_MS
    if back_ms is None:
        # not by `seq`: a reordered frame ends a silence and leaves the largest number as it was
        ident = alert_id(birth.site, who.asset, SILENT, birth.birth_id, since_ms)
        pool.table["quiet_id"][slot] = bytearray.fromhex(ident)
        closed = "; its open window is closed" if pool.bundle.spec.kind == "window" else ""
        why = (f"no frame in order for {silent_ms / 1000:g} s after frame {seq}{closed}. "
               "Check the gateway, its network, the sensor's power, and whether its frames come late")
    else:
        ident = bytes(pool.table["quiet_id"][slot]).hex()
        why = f"frames came again after {(back_ms - since_ms) / 1000:.1f} s"
    t_last = raised_ns if back_ms is None else back_ms * NS_PER_MS
    return Alert(
        alert_id=ident, revision=1 if back_ms is None else 2, state="raised" if back_ms is None else "cleared",
        active=back_ms is None, site=birth.site, asset=who.asset, asset_class=birth.asset_class, rule=SILENT,
        severity="medium", criticality=birth.criticality, annunciate=True, t_first=since_ms * NS_PER_MS, t_last=t_last,
        t_raised=raised_ns, t_cleared=None if back_ms is None else t_last, score=float(back_ms is None), threshold=1.0,
        why=why, birth_id=birth.birth_id, seq=seq, model="clock", iso13374_block="DA",
    )


def calibration(pool: Pool, who: Slot, slot: int, *, seq: int, t_end: int, rows: int) -> Calibration:
    """Tell others of a finished baseline."""
    table, spec = pool.table, pool.bundle.spec
    return Calibration(
        asset=who.asset, birth_id=who.birth.birth_id, model=f"{spec.name}@{spec.version}", seq=seq, t_end=t_end,
        rows=rows, channels=tuple(c.name for c in who.birth.channels), kept=tuple(table["kept"][slot].tolist()),
        center=tuple(table["center"][slot].tolist()), scale=tuple(table["scale"][slot].tolist()),
        whitening=tuple(table["whitening"][slot].ravel().tolist()), limit=float(table["limit"][slot]),
        status="suspect" if table["suspect"][slot] else "good",
    )


def assessments(pool: Pool, slot: I64, seq: I64, t_end: I64, score: F64, state: Array) -> list[Assessment]:
    """Tell the scores behind the alerts: rows (n,) of one pool in order, a message per asset."""
    spec, found = pool.bundle.spec, []
    for s in np.unique(slot).tolist():
        who, rows = pool.slots[s], np.flatnonzero(slot == s)
        assert who is not None
        found.append(Assessment(
            asset=who.asset, birth_id=who.birth.birth_id, model=f"{spec.name}@{spec.version}",
            seq=tuple(seq[rows].tolist()), t_end=tuple(t_end[rows].tolist()), score=tuple(score[rows].tolist()),
            limit=(spec.threshold,) * len(rows), state=tuple(state[rows].tolist()), historical=who.historical))
    return found
