"""Lines for people: everything that matters, nothing that steers a terminal."""

from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from pipeline.ops.readable import alert_line, asset_line, deadletter_line
from schemas import Alert, AssetBirth, DeadLetter
from schemas.codec import encode, encode_alert


@dataclass
class Read:
    value: bytes | None
    key: bytes | None = None
    partition: int = 3
    offset: int = 88
    timestamp: int = 1_764_054_723_000


ALERT = Alert(
    alert_id="ab" * 12, revision=2, state="updated", active=True, site="kyoto", asset="pump-03", asset_class="pump",
    rule="mewma", severity="high", criticality="B", annunciate=True, t_first=0, t_last=1_764_054_723_500_000_000,
    t_raised=0, score=4.234, threshold=1.0, why="flow down 61 %", birth_id="0" * 16, seq=7, model="m",
)
BIRTH = AssetBirth.make(
    asset="pump-03", start_ns=1, rate_hz=20.0, samples_per_frame=2, asset_class="pump", site="kyoto",
    channels=[{"name": n, "quantity": n, "unit": unit} for n, unit in (("flow", "m3/h"), ("temp", "Cel"))],
)


def test_an_alert_says_when_what_how_bad_where_and_why():
    assert alert_line(Read(encode_alert(ALERT))) == (
        "2025-11-25 07:12:03 updated high     pump-03 score 4.23 (limit 1): flow down 61 %  "
        f"[{'ab' * 12} r2]"
    )


def test_a_dead_letter_says_where_from_and_what_to_do():
    letter = DeadLetter(
        reason="not_finite", detail="channel flow has NaN. Mark it", stage="acquire", topic="t", partition=3, offset=88,
        timestamp_ms=1_764_054_723_000, length=371, sha256="", asset="pump-03")
    assert deadletter_line(Read(encode(letter))) == (
        "2025-11-25 07:12:03 not_finite        pump-03 t[3]@88 371 bytes: channel flow has NaN. Mark it"
    )


def test_an_asset_shows_its_channels_with_units_and_its_retirement():
    line = asset_line(Read(encode(BIRTH), BIRTH.key))
    assert "born    pump-03 (pump, site kyoto, B) 20 Hz x 2 a frame: flow [m3/h], temp [Cel]" in line
    assert asset_line(Read(None, BIRTH.key)) == f"2025-11-25 07:12:03 retired pump-03  [{BIRTH.birth_id}]"


@pytest.mark.parametrize("line", [alert_line, deadletter_line, asset_line])
@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x91" * 100_000, b"{", b'"\xff"'])
def test_what_cannot_be_decoded_is_named_by_its_place(line, value):
    assert "undecodable record at partition 3, offset 88" in line(Read(value))


def test_no_record_can_steer_the_terminal():
    evil = replace(ALERT, why="\x1b]0;owned\x07\nfake", asset="\x9b2J")
    line = alert_line(Read(encode_alert(evil)))
    assert line.isprintable()


def test_a_clock_gone_mad_is_shown():
    mad = replace(ALERT, t_last=2**63 - 1)
    assert "updated" in alert_line(Read(encode_alert(mad)))
