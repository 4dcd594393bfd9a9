"""Advise: turn transitions into alerts that say what, where, how strong and why. [ISO 13374 AG]

Every field is a function of the log alone: no clock, no host, no back end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.answers import Answers
from pipeline.columns import F64, I64, NS_PER_MS, Array
from pipeline.judge import Transition, shares
from pipeline.listening import listen
from pipeline.state import Pool, Slot
from schemas import (
    Alert,
    Assessment,
    Calibration,
    CalibrationNotes,
    Contribution,
    Life,
    Line,
    RowAnswers,
    Window,
    alert_id,
)
from schemas.alert import Severity, State

SILENT, DRIFT = "silent", "drift"
#: A line is told of from here on: the height of what a search finds in noise is 0 dB on average and 2 dB seldom.
CLEAR_DB = 3.0
#: Beside the inputs, what drift detection watches.
SCORE = "score"


def alert(pool: Pool, t: Transition, *, score: float, t_end: int, seq: int, ts_ms: int, frames: int, stale_ms: int,
          answers: Answers | None = None, z: Array | None = None, band: float = 1.0, said: str = "") -> Alert:
    """Build the alert of a transition from the row that caused it, or from what is `said`.

    t_end: event time of the row's last sample, Unix ns. ts_ms: broker time of its record. answers: rows of the
    transition's segment. z: (C,). band: factor on the threshold that the row was judged by; above 1 the asset drifts.
    """
    who = pool.slots[t.slot]
    assert who is not None
    spec, birth = pool.bundle.spec, who.birth
    if t.kind == "raised":
        ident = alert_id(birth.site, who.asset, spec.rule, birth.birth_id, seq)
        pool.table["alert_id"][t.slot] = bytearray.fromhex(ident)
    else:
        ident = bytes(pool.table["alert_id"][t.slot]).hex()
    ranked: list[tuple[str, float, str]] = []
    heard, part = _heard(pool, who)
    if answers is not None and answers.shares is not None:
        ranked = shares(answers.shares[t.row], _names(pool, who), z)
    elif heard:
        ranked = [(heard, 1.0, "flat")]
    what = _What.of(answers, t.row)
    why_not = stale(ts_ms, t_end, stale_ms)
    limit = spec.threshold * band
    period = 1e9 / birth.rate_hz
    return Alert(
        alert_id=ident, revision=t.revision, state=_STATE[t.kind], active=t.kind != "cleared", site=birth.site,
        asset=who.asset, asset_class=birth.asset_class, rule=spec.rule, severity=_SEVERITY[t.severity],
        criticality=birth.criticality, annunciate=why_not is None, annunciate_why_not=why_not, t_first=t.t_first,
        t_last=t_end, t_raised=t.t_raised, t_cleared=t_end if t.kind == "cleared" else None, score=score,
        threshold=limit, why=said or _why(pool, t, score, limit, ranked, what, part), birth_id=birth.birth_id, seq=seq,
        model=f"{spec.name}@{spec.version}", provisional=_provisional(pool, t.slot) or band > 1.0,
        contributions=tuple(Contribution(name, share, way) for name, share, way in ranked),  # type: ignore[arg-type]
        window=Window(t_end - round((frames * pool.samples - 1) * period), t_end, frames),
        mode=what.mode, confidence=what.confidence, life=what.life, line=what.line, component=part or None,
    )


@dataclass(frozen=True, slots=True)
class _What:
    """One row's answers, rounded: an alert has the same bytes whatever the last bits of an engine are."""

    mode: str | None = None
    confidence: float | None = None
    life: Life | None = None
    line: Line | None = None

    @classmethod
    def of(cls, answers: Answers | None, row: int) -> "_What":
        if answers is None or row < 0:
            return cls()
        mode = confidence = life = line = None
        if answers.probabilities is not None:
            modes, p = answers.modes()
            mode, confidence = modes[row], round(float(p[row]), 3)
        if answers.life is not None and answers.spec.life is not None:
            mean, p10, p50, p90 = (round(v, 1) for v in answers.life[row].tolist())
            cap = answers.spec.life.cap
            life = Life(mean, p10, p50, p90, answers.spec.life.unit, cap is not None and mean >= cap)
        if answers.line is not None and answers.line[row].any():
            line = Line(*[round(v, 2) for v in answers.line[row].tolist()])
        return cls(mode, confidence, life, line)

    def said(self) -> list[str]:
        """Say it in words."""
        out = []
        if self.mode is not None and self.confidence is not None:
            out.append(f"{self.mode} ({self.confidence:.0%})")
        if self.life is not None:
            much = "at least " if self.life.at_least else ""
            out.append(f"remaining life {much}{self.life.mean:.0f} {self.life.unit} "
                       f"(80 %: {self.life.p10:.0f} to {self.life.p90:.0f})")
        if self.line is not None:
            out.append(line_text(self.line.expected_hz, self.line.found_hz, self.line.order, self.line.snr_db))
        return out


def line_text(expected_hz: float, found_hz: float, order: float, snr_db: float) -> str:
    """Say which line was looked for, and whether it is there."""
    if snr_db < CLEAR_DB:
        return f"its line, expected at {expected_hz:.1f} Hz, does not stand above chance"
    return (f"line at {found_hz:.1f} Hz, expected {expected_hz:.1f}, order {order:.2f}, "
            f"{snr_db:.0f} dB above chance")  # fmt: skip


def _names(pool: Pool, who: Slot) -> tuple[str, ...]:
    """Name what a row's shares are of."""
    later = pool.bundle.spec.baseline
    if later is not None and not later.per_channel:
        return tuple(f.name for f in later.features)
    return tuple(c.name for c in pool.channels_of(who.birth))


def _heard(pool: Pool, who: Slot) -> tuple[str, str]:
    """Return the channel that a model of one channel listens to, and the component that it hears; "" for others."""
    if pool.bundle.spec.order is None:
        return "", ""
    channels = pool.channels_of(who.birth)
    ear = listen(who.birth, channels, pool.bundle.spec.order)
    return channels[ear.channel].name if ear.channel >= 0 else "", ear.component


_STATE: dict[str, State] = {"raised": "raised", "updated": "updated", "cleared": "cleared"}
_SEVERITY: dict[str, Severity] = {"low": "low", "medium": "medium", "high": "high", "critical": "critical"}


def _provisional(pool: Pool, slot: int) -> bool:
    return bool(pool.table["provisional"][slot]) or ("suspect" in pool.table and bool(pool.table["suspect"][slot]))


def stale(ts_ms: int, t_end: int, stale_ms: int) -> str | None:
    """Say why an alert is too old to annunciate, None if it is not."""
    late_ms = ts_ms - t_end // NS_PER_MS
    if late_ms <= stale_ms:
        return None
    return f"stale: came {late_ms / 1000:.0f} s after it was measured, {stale_ms / 1000:g} s are allowed"


def _why(pool: Pool, t: Transition, score: float, limit: float, ranked: Sequence[tuple[str, float, str]],
         what: _What, part: str) -> str:
    spec = pool.bundle.spec
    need, width = spec.judge.on
    ratio = f"score is {score / limit:.2f} x its limit"
    if limit > spec.threshold:
        ratio += f", which is {limit / spec.threshold:g} x the usual one because the asset drifts"
    # "flat": which way is not known
    where = ", ".join(f"{name}{'' if way == 'flat' else f' {way}'} ({share:.0%})" for name, share, way in ranked[:3])
    if part and ranked:
        where = f"{part}, heard by {ranked[0][0]}"
    if t.kind == "cleared":
        return f"back below {1 - spec.judge.deadband:.2f} x the limit for {spec.judge.off} rows; {ratio}"
    said = f"over the limit in {need} of {width} rows; {ratio}" if t.kind == "raised" else f"severity rose; {ratio}"
    said = "; ".join([*what.said(), said])
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


def calibration(
    pool: Pool, who: Slot, slot: int, *, seq: int, t_end: int, rows: int, reason: str = ""
) -> Calibration:
    """Tell others of a finished baseline; reason: why it is suspect."""
    table, spec, names = pool.table, pool.bundle.spec, _names(pool, who)
    driver = table["driver"][slot]
    driver = driver[driver >= 0]
    notes, k = None, len(driver)
    if reason or k:
        center, scale = table["center"][slot, driver], table["scale"][slot, driver]
        low, high = (tuple((center + table[name][slot, :k] * scale).tolist()) for name in ("low", "high"))
        slope = tuple(table["slope"][slot, :, :k].ravel().tolist())
        notes = CalibrationNotes(reason, tuple(names[i] for i in driver), slope, low, high)
    return Calibration(
        asset=who.asset, birth_id=who.birth.birth_id, model=f"{spec.name}@{spec.version}", seq=seq, t_end=t_end,
        rows=rows, channels=names, kept=tuple(table["kept"][slot].tolist()),
        center=tuple(table["center"][slot].tolist()), scale=tuple(table["scale"][slot].tolist()),
        whitening=tuple(table["whitening"][slot].ravel().tolist()), limit=float(table["limit"][slot]),
        status="suspect" if table["suspect"][slot] else "good", notes=notes,
    )


def learnt(pool: Pool, who: Slot, slot: int, *, seq: int, t_end: int, reason: str) -> Calibration:
    """Tell others of a finished baseline of features: one "channel" per feature, in its own unit or logarithm.

    reason: why it is suspect.
    """
    table, spec, later = pool.table, pool.bundle.spec, pool.bundle.spec.baseline
    assert later is not None
    names = later.names([c.name for c in pool.channels_of(who.birth)])
    return Calibration(
        asset=who.asset, birth_id=who.birth.birth_id, model=f"{spec.name}@{spec.version}", seq=seq, t_end=t_end,
        rows=later.rows, channels=names, kept=tuple(table["base_kept"][slot].tolist()),
        center=tuple(table["base_center"][slot].tolist()), scale=tuple(table["base_scale"][slot].tolist()),
        whitening=(), limit=float(table["base_limit"][slot]), status="suspect" if table["suspect"][slot] else "good",
        notes=CalibrationNotes(reason) if reason else None,
    )


def assessments(pool: Pool, rows: I64, slot: I64, seq: I64, t_end: I64, score: F64, state: Array,
                answers: Answers | None, band: F64 | None = None) -> list[Assessment]:
    """Tell the scores behind the alerts, and what else the model says: a message per asset.

    rows: (k,) of the n rows of one pool in order that the other columns hold. band: as the judge had it.
    """
    spec, found = pool.bundle.spec, []
    for s in np.unique(slot[rows]).tolist():
        who, mine = pool.slots[s], rows[slot[rows] == s]
        assert who is not None
        found.append(Assessment(
            asset=who.asset, birth_id=who.birth.birth_id, model=f"{spec.name}@{spec.version}",
            seq=tuple(seq[mine].tolist()), t_end=tuple(t_end[mine].tolist()), score=tuple(score[mine].tolist()),
            limit=(spec.threshold,) * len(mine) if band is None else tuple((spec.threshold * band[mine]).tolist()),
            state=tuple(state[mine].tolist()), historical=who.historical,
            answers=None if answers is None else _told(answers, mine, _names(pool, who), _heard(pool, who))))
    return found


def _told(answers: Answers, rows: I64, names: tuple[str, ...], heard: tuple[str, str]) -> RowAnswers | None:
    """Return what a model says of these rows beside the score, None if nothing. heard: channel and component."""
    out: dict[str, Any] = {}
    if answers.reasons:
        out["unknown"] = tuple(answers.why_unknown(i) for i in rows.tolist())
    if answers.probabilities is not None and answers.spec.mode is not None:
        modes, p = answers.modes()
        out |= {"mode": tuple(modes[i] for i in rows.tolist()), "confidence": tuple(p[rows].tolist()),
                "labels": answers.spec.mode.labels, "probabilities": _table(answers.probabilities, rows)}
    if answers.life is not None and answers.spec.life is not None:
        life = answers.spec.life
        out |= {"life": _table(answers.life, rows), "life_unit": life.unit, "life_cap": life.cap}
    if answers.line is not None:
        out["line"] = _table(answers.line, rows)
    if answers.shares is not None:
        out |= {"channels": names, "contributions": _table(answers.shares, rows)}
    elif heard[0]:
        out |= {"channels": heard[:1], "contributions": ((1.0,),) * len(rows)}
    if heard[1]:
        out["component"] = heard[1]
    return RowAnswers(**out) if out else None


def _table(array: Array, rows: I64) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, array[rows].tolist()))
