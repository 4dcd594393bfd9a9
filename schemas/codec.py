"""Bytes to structs and back: the only place that encodes or decodes a message."""

from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from schemas.alert import Alert
from schemas.assessment import Assessment, Calibration
from schemas.birth import AssetBirth
from schemas.deadletter import DeadLetter
from schemas.event import MachineEvent
from schemas.frame import VERSION, TelemetryFrame

#: What a decoder may raise on hostile input: depth bombs surface as RecursionError, not as a msgspec error.
DECODE_ERRORS = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)

decode_frame: Callable[[bytes], TelemetryFrame] = msgspec.msgpack.Decoder(TelemetryFrame).decode
decode_event: Callable[[bytes], MachineEvent] = msgspec.msgpack.Decoder(MachineEvent).decode
decode_birth: Callable[[bytes], AssetBirth] = msgspec.msgpack.Decoder(AssetBirth).decode
decode_deadletter: Callable[[bytes], DeadLetter] = msgspec.msgpack.Decoder(DeadLetter).decode
decode_assessment: Callable[[bytes], Assessment] = msgspec.msgpack.Decoder(Assessment).decode
decode_calibration: Callable[[bytes], Calibration] = msgspec.msgpack.Decoder(Calibration).decode
decode_alert: Callable[[bytes], Alert] = msgspec.json.Decoder(Alert).decode

Message = TelemetryFrame | MachineEvent | AssetBirth | Assessment | Calibration | DeadLetter
encode: Callable[[Message], bytes] = msgspec.msgpack.Encoder().encode
encode_alert: Callable[[Alert], bytes] = msgspec.json.Encoder().encode


class _Envelope(Struct):
    """What is read of a message that its own decoder refused; an absent version is the first one."""

    v: Any = 1


class _Marks(Struct):
    """What tells a machine event from a frame."""

    event: msgspec.Raw = msgspec.Raw(b"")
    data: msgspec.Raw = msgspec.Raw(b"")


_decode_marks: Callable[[bytes], _Marks] = msgspec.msgpack.Decoder(_Marks).decode
_decode_envelope: Callable[[bytes], _Envelope] = msgspec.msgpack.Decoder(_Envelope).decode


def is_event(value: bytes) -> bool:
    """Tell a machine event, be it a wrong one, from a frame that its decoder refused. For the slow path."""
    try:
        marks = _decode_marks(value)
    except DECODE_ERRORS:
        return False
    return bool(marks.event) and not marks.data


def fault(value: bytes) -> Literal["empty", "undecodable", "unknown_schema", "wrong_type"]:
    """Name why a msgpack decoder refused `value`, as a reason of `schemas.topics.REASONS`.

    For the slow path, after one of DECODE_ERRORS. The version is read by itself, since a later one may change
    other fields too and the decoder then complains about those first.
    """
    if not value:
        return "empty"
    try:
        envelope = _decode_envelope(value)
    except DECODE_ERRORS:
        return "undecodable"
    return "wrong_type" if envelope.v == VERSION and type(envelope.v) is int else "unknown_schema"
