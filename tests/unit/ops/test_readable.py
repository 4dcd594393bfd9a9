"""Lines for people: everything that matters, nothing that steers a terminal."""

from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from pipeline.ops.readable import alert_line, assessment_lines, asset_line, deadletter_line
from schemas import Alert, Assessment, AssetBirth, DeadLetter, RowAnswers
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


T0 = 1_764_054_723 * 10**9
FORECAST = Assessment(
    "eng-7", "0" * 16, "rul-ewma@1.0.0", (30, 31, 32), (T0, T0 + 10**9, T0 + 2 * 10**9), (0.0, 0.4, 1.79), (1.0,) * 3,
    (3, 0, 2), answers=RowAnswers(
        unknown=("not enough history", "", ""), life=((125.0, 80.2, 120.0, 125.0),) * 2 + ((28.0, 14.4, 27.0, 41.6),),
        life_unit="cycles", life_cap=125.0, channels=("T24", "T30", "T50", "phi"),
        contributions=((0.25,) * 4, (0.0, 0.004, 0.996, 0.0), (0.1, 0.0, 0.5, 0.4))))


def test_an_assessment_says_how_long_and_why_of_its_newest_row():
    assert assessment_lines(Read(encode(FORECAST))) == (
        "2025-11-25 07:12:05 alert    eng-7 score 1.79 (limit 1): remaining life 28 cycles (80 %: 14 to 42); "
        "by T50 50%, phi 40%, T24 10%  [rul-ewma@1.0.0, frame 32]  (3 rows, this is the newest)")


def test_each_row_of_an_assessment_has_a_line_on_demand_and_a_doubt_goes_before_the_guess():
    few, known, _ = assessment_lines(Read(encode(FORECAST)), every_row=True).splitlines()
    assert few == (
        "2025-11-25 07:12:03 unknown  eng-7 score 0 (limit 1): not enough history; best guess: remaining life at least "
        "125 cycles (80 %: 80 to 125 or more); by phi 25%, T50 25%, T30 25%  [rul-ewma@1.0.0, frame 30]")
    assert "remaining life at least 125 cycles (80 %: 80 to 125 or more); by T50 100%  [" in known


def test_an_assessment_of_a_bearing_says_what_how_sure_and_which_line():
    said = RowAnswers(unknown=("",), mode=("outer",), confidence=(0.93,), line=((107.4, 107.1, 3.57, 14.2),))
    plain = Assessment("motor-1", "0" * 16, "b@1", (5,), (T0,), (4.5,), (1.0,), (1,))
    assert assessment_lines(Read(encode(replace(plain, answers=said)))) == (
        "2025-11-25 07:12:03 over     motor-1 score 4.5 (limit 1): outer (93%); line at 107.1 Hz, expected 107.4, "
        "order 3.57, 14 dB above chance  [b@1, frame 5]")
    assert assessment_lines(Read(encode(plain))).endswith("score 4.5 (limit 1)  [b@1, frame 5]")
    assert "no rows of motor-1" in assessment_lines(Read(encode(replace(plain, seq=(), t_end=()))))
    assert "undecodable" in assessment_lines(Read(encode(replace(plain, state=()))))


@pytest.mark.parametrize("line", [alert_line, deadletter_line, asset_line, assessment_lines])
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
