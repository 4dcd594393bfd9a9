"""Records of our topics as lines for people. Times are UTC; units are shown always."""

from datetime import UTC, datetime

from pipeline.ops.reader import Record
from schemas import Alert, AssetBirth, DeadLetter
from schemas.codec import DECODE_ERRORS, decode_alert, decode_birth, decode_deadletter


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
