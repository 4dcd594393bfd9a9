"""Records of our topics as lines for people. Times are UTC; units are shown always."""

from datetime import UTC, datetime

from pipeline.advise import line_text
from pipeline.ops.reader import Record
from schemas import Alert, Assessment, AssetBirth, DeadLetter, RowAnswers
from schemas.codec import DECODE_ERRORS, decode_alert, decode_assessment, decode_birth, decode_deadletter

#: By the state of an assessment's row.
_ROW_STATES = ("normal", "over", "alert", "unknown")
_LARGEST = 3  # contributions named: with more the line wraps, and the rest is small


def alert_line(record: Record) -> str:
    """Return e.g. `2026-11-25 07:12:03 raised  high     line-1/pump-03 score 4.2 (limit 1): flow down 61 %`."""
    try:
        alert: Alert = decode_alert(record.value or b"")
    except DECODE_ERRORS as error:
        return _undecodable(record, error)
    quiet = "" if alert.annunciate else f"  [not annunciated: {alert.annunciate_why_not or 'no reason given'}]"
    return _text(
        f"{_time(alert.t_last // 1_000_000_000)} {alert.state:<7} {alert.severity:<8} {alert.asset} score "
        f"{alert.score:.3g} (limit {alert.threshold:.3g}): {alert.why}  [{alert.alert_id} r{alert.revision}]{quiet}"
    )


def deadletter_line(record: Record) -> str:
    """Return e.g. `2026-11-25 07:12:03 not_finite   pump-03 kizashi.telemetry.v1[3]@88121 371 bytes: channel ...`."""
    try:
        letter: DeadLetter = decode_deadletter(record.value or b"")
    except DECODE_ERRORS as error:
        return _undecodable(record, error)
    what = "row of " if letter.row else ""
    return _text(
        f"{_time(letter.timestamp_ms // 1000)} {letter.reason:<17} {what}{letter.asset or 'unknown asset'} "
        f"{letter.topic}[{letter.partition}]@{letter.offset} {letter.length} bytes: {letter.detail}"
    )


def asset_line(record: Record) -> str:
    """Return e.g. `2026-11-25 07:12:03 born    pump-03 (pump, site kyoto, B) 20 Hz x 2 a frame: flow [m3/h], ...`."""
    when = _time(record.timestamp // 1000)
    key = _text(record.key)
    if record.value is None:
        return f"{when} retired {key.partition('|')[0]}  [{key.partition('|')[2]}]"
    try:
        birth: AssetBirth = decode_birth(record.value)
    except DECODE_ERRORS as error:
        return _undecodable(record, error)
    channels = ", ".join(f"{c.name} [{c.unit}]" for c in birth.channels)
    return _text(
        f"{when} born    {birth.asset} ({birth.asset_class}, site {birth.site}, {birth.criticality}) "
        f"{birth.rate_hz:g} Hz x {birth.samples_per_frame} a frame: {channels}  [{birth.birth_id}]"
    )


def assessment_lines(record: Record, every_row: bool = False) -> str:
    """Return e.g. `2026-11-25 07:12:03 alert    eng-7 score 1.79 (limit 1): remaining life 28 cycles (80 %: 14 to ...`.

    One line, of the newest row; every_row: a line for each.
    """
    try:
        told: Assessment = decode_assessment(record.value or b"")
        rows = len(told.seq)
        lines = [_row_line(told, k) for k in (range(rows) if every_row else range(rows)[-1:])]
    except (*DECODE_ERRORS, IndexError) as error:
        return _undecodable(record, error)
    more = "" if every_row or rows < 2 else f"  ({rows} rows, this is the newest)"
    return "\n".join(lines) + more if lines else f"{_time(record.timestamp // 1000)} no rows of {_text(told.asset)}"


def _row_line(told: Assessment, k: int) -> str:
    said = answers_text(told.answers, k) if told.answers is not None else ""
    return _text(
        f"{_time(told.t_end[k] // 1_000_000_000)} {_ROW_STATES[told.state[k]]:<8} {told.asset} score "
        f"{told.score[k]:.3g} (limit {told.limit[k]:g}){said and f': {said}'}  [{told.model}, frame {told.seq[k]}]"
    )


def answers_text(answers: RowAnswers, row: int) -> str:
    """Say what, how sure, how long, why: an answer that counts for nothing is a best guess behind its reason."""
    out = []
    if answers.mode is not None and answers.confidence is not None:
        out.append(f"{answers.mode[row]} ({answers.confidence[row]:.0%})")
    if answers.life is not None:
        out.append(f"remaining life {life_text(answers.life[row], answers.life_cap, answers.life_unit or '')}")
    if answers.line is not None and any(answers.line[row]):
        out.append(line_text(*answers.line[row]))
    if answers.contributions is not None and answers.channels is not None:
        parts = sorted(zip(answers.contributions[row], answers.channels, strict=True), reverse=True)[:_LARGEST]
        why = ", ".join(f"{name} {share:.0%}" for share, name in parts if share >= 0.005)
        out += [f"by {why}"] if why else []
    unknown = answers.unknown[row] if answers.unknown is not None else ""
    return "; ".join(out) if not unknown else f"{unknown}{out and '; best guess: ' + '; '.join(out) or ''}"


def life_text(life: tuple[float, float, float, float], cap: float | None, unit: str) -> str:
    """Return e.g. `57 cycles (80 %: 41 to 74)`. life: mean, p10, p50, p90; from `cap` on the end is open."""
    mean, low, _, high = life
    much = "at least " if cap is not None and mean >= cap else ""
    more = " or more" if cap is not None and high >= cap else ""
    return f"{much}{mean:.0f} {unit} (80 %: {low:.0f} to {high:.0f}{more})"


def _undecodable(record: Record, error: Exception) -> str:
    when = _time(record.timestamp // 1000)
    return f"{when} undecodable record at partition {record.partition}, offset {record.offset}: {_text(str(error))}"


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):  # a clock gone mad is shown, not hidden
        return f"time {seconds} s"


def _text(value: bytes | str | None) -> str:
    """Return printable text: what comes from a topic must not steer the terminal."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value or ""
    return "".join(c if c.isprintable() else "?" for c in text)
