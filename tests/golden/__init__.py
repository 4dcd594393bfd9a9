"""Golden bytes of every message: what once was written stays readable for ever.

`NAME.vN.bin` (msgpack) and `NAME.vN.json` (alerts) were written once by the encoder of their day and are never written
again. MESSAGES says what each must decode to. For a new message or a new field add an entry here and run
`python -m tests.golden`: it writes the files that are missing and touches no other.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from schemas import (
    Alert,
    Assessment,
    AssetBirth,
    Calibration,
    CalibrationNotes,
    Channel,
    Component,
    Contribution,
    DeadLetter,
    Life,
    Line,
    MachineEvent,
    RowAnswers,
    TelemetryFrame,
    Window,
    codec,
)

DECODERS: dict[type[Struct], Callable[[bytes], Any]] = {
    TelemetryFrame: codec.decode_frame, AssetBirth: codec.decode_birth, Alert: codec.decode_alert,
    Assessment: codec.decode_assessment, Calibration: codec.decode_calibration, DeadLetter: codec.decode_deadletter,
    MachineEvent: codec.decode_event,
}

FOLDER = Path(__file__).parent

_T0 = 1_764_057_600_000_000_000
_BIRTH_ID = "0f1e2d3c4b5a6978"

MESSAGES: dict[str, Struct] = {
    "frame-minimal.v1.bin": TelemetryFrame("line-1/pump-07", _BIRTH_ID, 0, 0, b""),
    "frame-full.v1.bin": TelemetryFrame(
        "line-1/pump-07", _BIRTH_ID, 2**63 - 1, _T0, bytes(range(64)), historical=True, quality="uncertain"),
    "birth-minimal.v1.bin": AssetBirth(
        "pump-07", "11997a0f9aab78a6", 0, (Channel("pressure", "pressure", "bar"),), 1.0, 10, "pump", "kyoto"),
    "birth-full.v1.bin": AssetBirth(
        "line-1/pump-07", "ef510503c463de3e", _T0,
        (
            Channel("acceleration", "acceleration", "m/s2", "i2", 0.0048828125, -10.0, -160.0, 160.0),
            Channel("temperature", "temperature", "Cel", "f8", low=-40.0),
            Channel("count", "count", "1", "u2", high=65535.0),
        ),
        25_600.0, 256, "pump", "kyoto", "A",
        (Component("bearing_de", "rolling_bearing", {"bpfo": 3.585, "bpfi": 5.415}), Component("impeller", "impeller")),
    ),
    "event-minimal.v1.bin": MachineEvent("line-1/pump-07", "recalibrate", _T0),
    "event-full.v1.bin": MachineEvent(
        "line-1/pump-07", "part_replaced", 2**63 - 1, "M. Sato", "軸受 6205-2RS, drive end"),
    "frame-rpm.v1.bin": TelemetryFrame("line-1/pump-07", _BIRTH_ID, 5, _T0, b"\x00\x01", rpm=1797.5),
    "birth-bearing.v1.bin": AssetBirth(
        "line-1/motor-01", "10a2781e063ac29b", _T0, (Channel("acc_de", "acceleration", "m/s2"),), 25_600.0, 2560,
        "motor", "kyoto", "A",
        (Component("bearing_de", "bearing 6205-2RS", {"bpfo": 3.585, "bpfi": 5.415, "bsf": 2.357, "ftf": 0.398},
                   "acc_de"),), 1797.0),
    "alert-minimal.v1.json": Alert(
        "a" * 24, 0, "raised", True, "kyoto", "line-1/pump-07", "pump", "mewma", "low", "B", True, _T0, _T0, _T0,
        1.25, 1.0, "T2 over its limit", _BIRTH_ID, 41, "anomaly-mewma"),
    "alert-full.v1.json": Alert(
        "0123456789abcdef01234567", 3, "cleared", False, "京都", "line-1/pump-07", "pump", "silent", "critical", "A",
        False, _T0, _T0 + 9, _T0 + 3, 17.5, 1.0, 'says "nothing" \u0000 \U0001f50a', _BIRTH_ID, 2**63 - 1,
        "anomaly-mewma", "DA", _T0 + 12, "older than stale_alert_s", True,
        (Contribution("pressure", 0.75, "down"), Contribution("temperature", 0.25, "up"),
         Contribution("count", 0.0, "flat")),
        Window(_T0, _T0 + 9, 4)),
    "alert-answers.v1.json": Alert(
        "b" * 24, 1, "raised", True, "kyoto", "line-1/pump-07", "pump", "bearing", "high", "B", True, _T0, _T0, _T0,
        4.5, 1.0, "outer (93%)", _BIRTH_ID, 41, "bearing-order@1.0.0", mode="outer", confidence=0.93,
        life=Life(125.0, 101.5, 118.0, 125.0, "cycles", at_least=True), line=Line(107.4, 107.1, 3.57, 14.2)),
    "alert-component.v1.json": Alert(
        "b" * 24, 0, "raised", True, "kyoto", "line-1/motor-01", "motor", "bearing", "low", "B", True, _T0, _T0, _T0,
        0.75, 0.5, "bearing_de, heard by acc_de", _BIRTH_ID, 41, "bearing-order@1.0.0", component="bearing_de"),
    "assessment-component.v1.bin": Assessment(
        "line-1/motor-01", _BIRTH_ID, "bearing-order@1.0.0", (7,), (_T0,), (0.1,), (0.5,), (0,),
        answers=RowAnswers(channels=("acc_de",), contributions=((1.0,),), component="bearing_de")),
    "assessment-minimal.v1.bin": Assessment("pump-07", _BIRTH_ID, "anomaly-mewma", (), (), (), (), ()),
    "assessment-full.v1.bin": Assessment(
        "pump-07", _BIRTH_ID, "anomaly-mewma", (7, 8, 9), (_T0, _T0 + 1, _T0 + 2), (0.1, 1.5, float("inf")),
        (1.0, 1.0, 1.0), (0, 1, 2), historical=True),
    "assessment-answers.v1.bin": Assessment(
        "pump-07", _BIRTH_ID, "bearing-order", (7, 8), (_T0, _T0 + 1), (0.1, 1.5), (1.0, 1.0), (3, 1),
        answers=RowAnswers(
            ("the shaft does not turn: rpm is 0", ""), mode=("normal", "outer"), confidence=(0.5, 0.93),
            labels=("normal", "outer"), probabilities=((0.5, 0.5), (0.07, 0.93)),
            life=((125.0, 101.5, 118.0, 125.0), (20.0, 12.0, 19.0, 30.5)), life_unit="cycles",
            line=((0.0, 0.0, 0.0, 0.0), (107.4, 107.1, 3.57, 14.2)), channels=("x", "y"),
            contributions=((1.0, 0.0), (0.25, 0.75)))),
    "assessment-cap.v1.bin": Assessment(
        "FD001/unit-7", _BIRTH_ID, "rul-ewma@1.0.0", (7,), (_T0,), (0.4,), (1.0,), (0,),
        answers=RowAnswers(("",), life=((125.0, 101.5, 118.0, 125.0),), life_unit="cycles", life_cap=125.0)),
    "calibration-minimal.v1.bin": Calibration(
        "pump-07", _BIRTH_ID, "anomaly-mewma", 200, _T0, 2000, ("pressure",), (1,), (5.0,), (0.5,), (1.0,), 9.2),
    "calibration-full.v1.bin": Calibration(
        "pump-07", _BIRTH_ID, "anomaly-mewma", 200, _T0, 2000, ("pressure", "flow"), (1, 0), (5.0, 12.5), (0.5, 2.0),
        (1.0, 0.0, 0.0, 0.0), 9.2, "suspect"),
    "calibration-driven.v1.bin": Calibration(
        "pump-07", _BIRTH_ID, "anomaly-mewma", 200, _T0, 2000, ("flow", "speed"), (1, 0), (12.5, 1480.0), (2.0, 20.0),
        (1.0, 0.0, 0.0, 0.0), 9.2, "suspect", notes=CalibrationNotes(
            "the limit is 4.1 times that of 1 independent channels", ("speed",), (0.02, 0.0), (1400.0,), (1520.0,))),
    "deadletter-minimal.v1.bin": DeadLetter(
        "undecodable", "no msgpack", "acquire", "kizashi.telemetry.v1", 3, 88_121, 1_764_057_600_000, 2**20, "e3" * 32),
    "deadletter-full.v1.bin": DeadLetter(
        "poison_row", "the engine fails on this row alone", "infer", "kizashi.telemetry.v1", 0, 2**62, -1, 4, "e3" * 32,
        "line-1/pump-07", b"line-1/pump-07", b"\x00\xff\xc1\x80", True),
}


def today(message: Any) -> bytes:
    """Return the bytes that today's encoder writes."""
    return codec.encode_alert(message) if isinstance(message, Alert) else codec.encode(message)


def write_missing() -> list[str]:
    """Write the golden files that do not exist yet; return their names."""
    written = []
    for name, message in MESSAGES.items():
        path = FOLDER / name
        if not path.exists():
            path.write_bytes(today(message))
            written.append(name)
    return written
