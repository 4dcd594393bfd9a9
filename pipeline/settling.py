"""Settling: from the outputs of a computed batch to judged rows, alerts and assessments. Pure; `flow` calls it."""

from dataclasses import dataclass

import numpy as np

from engines.baselinespec import BaselineSpec
from engines.bundle import ModelSpec
from pipeline import advise, answers, baseline, baselinedrive, drift, driftadvice, episodes, judge, refuse
from pipeline.batch import Batch, Segment
from pipeline.columns import F64, I64, Array, Bool, Effects
from pipeline.infer import Outcome
from pipeline.state import JUDGED, ROWS_DEAD_LETTERED, ROWS_SCORED, Pool


@dataclass(frozen=True, slots=True)
class Terms:
    """topic: source topic, named in dead letters. stale_ms: older alerts annunciate nothing."""

    topic: str
    stale_ms: int
    assessments: bool


@dataclass(slots=True)
class Scored:
    """A computed batch. score: (n,) rounded. usable: (n,) the score, features, life and probabilities are numbers."""

    spec: ModelSpec
    batch: Batch
    outcome: Outcome
    score: F64
    usable: Bool

    @classmethod
    def of(cls, spec: ModelSpec, batch: Batch, outcome: Outcome) -> "Scored":
        score = np.round(np.asarray(outcome.outputs[spec.outputs.score], np.float64).reshape(-1), judge.SCORE_DECIMALS)
        usable = np.isfinite(score)
        out = spec.outputs
        for name in (out.features, *(out.life.names if out.life else ()), out.mode and out.mode.probabilities):
            if name is not None:
                usable &= np.isfinite(outcome.outputs[name].reshape(len(score), -1)).all(axis=1)
        usable[list(outcome.failed)] = False
        return cls(spec, batch, outcome, score, usable)


def settle(terms: Terms, scored: Scored, seg: Segment, effects: Effects) -> None:
    """Judge the rows of one segment; count them, and tell what came of them."""
    pool, here, spec = seg.pool, seg.here, scored.spec
    slot, seq, t_end, ts_ms = (seg.column(n) for n in ("slot", "seq", "t_end", "ts_ms"))
    good, score, counts = scored.usable[here], scored.score[here], pool.table["counts"]
    seg.partition.unsettled -= len(slot)
    np.add.at(counts[:, JUDGED], slot, 1)
    np.add.at(counts[:, ROWS_SCORED], slot[good], 1)
    for i in np.flatnonzero(~good).tolist():
        counts[slot[i], ROWS_DEAD_LETTERED] += 1
        effects.dead_letters.append(refuse.row(terms.topic, seg, i, scored.outcome.failed.get(seg.at + i)))
    doubt, reasons = seg.rows.doubt, seg.rows.reasons
    said = unknown = None
    z = _deviation(scored.batch, seg)
    if doubt is not None or spec.outputs.unknown is not None or spec.baseline is not None or terms.assessments:
        said = _answers(scored, seg, doubt, reasons)
        if spec.baseline is not None:
            score, z = _by_baseline(spec.baseline, scored, seg, said, effects)
        unknown = said.unknown != 0
    band = None
    if spec.drift is not None:
        band = _drifts(terms, scored, seg, score, good if unknown is None else good & ~unknown, effects)
    if said is not None:
        unknown = _overruled(scored, seg, said, score, spec.threshold if band is None else spec.threshold * band)
        _tell_unknown(pool, slot, said, effects)
    state, transitions = judge.step(pool, slot, score, t_end, seq, good, unknown, band)
    if transitions:
        said = said or _answers(scored, seg, doubt, reasons)
        for t in transitions:
            if pool.table["historical"][t.slot]:
                continue  # assessed, never a live alert
            episodes.say(pool, t.slot, effects, advise.alert(
                pool, t, score=float(score[t.row]), t_end=int(t_end[t.row]), seq=int(seq[t.row]),
                ts_ms=int(ts_ms[t.row]), frames=seg.frames(t.row), stale_ms=terms.stale_ms, answers=said,
                z=None if z is None else z[t.row], band=1.0 if band is None else float(band[t.row])))
    if terms.assessments:
        effects.assessments += advise.assessments(pool, np.flatnonzero(good), slot, seq, t_end, score, state, said,
                                                  band)


def _overruled(scored: Scored, seg: Segment, said: answers.Answers, score: F64, limit: F64 | float) -> Bool:
    """Drop what would explain a low score alone from rows over their limit; return whose answer counts for nothing."""
    rows = seg.rows
    if rows.below:
        over = (said.unknown >= rows.below) & (said.unknown <= len(rows.reasons)) & (score >= limit)
        if over.any():
            said.unknown = np.where(over, _answers(scored, seg, None, rows.reasons).unknown, said.unknown)
    unknown: Bool = said.unknown != 0
    return unknown


def _tell_unknown(pool: Pool, slot: I64, said: answers.Answers, effects: Effects) -> None:
    """Tell the log of rows whose answer counts for nothing: assets that nobody watches meanwhile."""
    rows = np.flatnonzero((said.unknown != 0) & (pool.table["historical"][slot] == 0))
    if len(rows):
        who = pool.slots[slot[rows[-1]]]
        assert who is not None
        effects.notes.append(("unknown", {"count": len(rows), "asset": who.asset, "why": said.why_unknown(rows[-1])}))


def _drifts(terms: Terms, scored: Scored, seg: Segment, score: F64, usable: Bool, effects: Effects) -> F64:
    """Look for drift in the rows of one segment, tell what begins and ends; return the band of each row."""
    pool, spec = seg.pool, scored.spec.drift
    assert spec is not None
    slot, seq, t_end, ts_ms = (seg.column(n) for n in ("slot", "seq", "t_end", "ts_ms"))
    if pool.open:  # what was calibrated anew, or is judged by another version, began again as not drifting
        here, first = np.unique(slot, return_index=True)
        for k in np.flatnonzero(pool.table["drifting"][here] == 0).tolist():
            episodes.drifts(pool, [int(here[k])], "the asset has a new baseline", int(t_end[first[k]]), effects)
    watched = _watched(scored, seg, spec.input)
    band, changes = drift.step(pool, spec, slot, score, watched, usable)
    for change in changes:
        row = change.row
        if change.begins:
            episodes.say(pool, change.slot, effects, driftadvice.began(
                pool, change, t_end=int(t_end[row]), seq=int(seq[row]), ts_ms=int(ts_ms[row]),
                stale_ms=terms.stale_ms))
        else:
            rows = spec.restore * spec.window * spec.every
            episodes.drifts(pool, [change.slot], f"distributed as in its first rows again, for {rows} rows; its limit "
                            "is the usual one", int(t_end[row]), effects)
    return band


def _watched(scored: Scored, seg: Segment, name: str | None) -> F64:
    """Return what drift detection compares of each row beside its score, (n, C): an input, of windows their means."""
    if name is None:
        return np.zeros((seg.b - seg.a, 0))
    buffers = scored.batch.buffers
    x: F64 = (buffers[name] if name in buffers else scored.outcome.outputs[name])[seg.here].astype(np.float64)
    if x.ndim == 4:
        # in one layout for every number of rows: the order of NumPy's sums follows it
        x = np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(len(x), x.shape[2], -1).mean(axis=-1)
    return x


def _answers(scored: Scored, seg: Segment, doubt: Array | None, reasons: tuple[str, ...]) -> answers.Answers:
    mine = None if doubt is None else doubt[seg.a:seg.b]
    return answers.read(scored.spec.outputs, scored.outcome.outputs, seg.here, mine, reasons)


def _deviation(batch: Batch, seg: Segment) -> Array | None:
    """Return how far each channel of each row is from normal, for the direction in an alert; None if unknown."""
    buffers = batch.buffers
    return buffers["z"][seg.here] - buffers["center"][seg.here] if "z" in buffers else None


def _by_baseline(spec: BaselineSpec, scored: Scored, seg: Segment, said: answers.Answers,
                 effects: Effects) -> tuple[F64, F64]:
    """Score the rows of a segment against what is normal for their assets; say why where they cannot be yet.

    Returns scores (rounded) and how far the feature behind each share is from normal.
    """
    pool, here, (slot, seq, t_end) = seg.pool, seg.here, (seg.column(n) for n in ("slot", "seq", "t_end"))
    features = scored.outcome.outputs[scored.spec.outputs.features or ""][here]
    settled = baseline.step(pool, spec, slot, features, scored.usable[here] & (said.unknown == 0),
                            pool.table["active"][slot] != 0)
    said.shares = settled.shares
    said.doubt(settled.calibrating, baseline.CALIBRATING)
    said.doubt(settled.outside, baselinedrive.OUTSIDE)
    for done in settled.finished:
        who = pool.slots[done.slot]
        if who is None or who.historical:
            continue
        effects.calibrations.append(advise.learnt(pool, who, done.slot, seq=int(seq[done.row]),
                                                  t_end=int(t_end[done.row]), reason=done.reason))
    return np.round(settled.score, judge.SCORE_DECIMALS), settled.z
