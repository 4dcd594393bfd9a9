"""Bytes to structs and back: the only place that encodes or decodes a message."""

from collections.abc import Callable

import msgspec

from schemas.alert import Alert
from schemas.assessment import Assessment, Calibration
from schemas.birth import AssetBirth
from schemas.deadletter import DeadLetter
from schemas.frame import TelemetryFrame

#: What a decoder may raise on hostile input: depth bombs surface as RecursionError, not as a msgspec error.
DECODE_ERRORS = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)

decode_frame: Callable[[bytes], TelemetryFrame] = msgspec.msgpack.Decoder(TelemetryFrame).decode
decode_birth: Callable[[bytes], AssetBirth] = msgspec.msgpack.Decoder(AssetBirth).decode
decode_deadletter: Callable[[bytes], DeadLetter] = msgspec.msgpack.Decoder(DeadLetter).decode
decode_assessment: Callable[[bytes], Assessment] = msgspec.msgpack.Decoder(Assessment).decode
decode_calibration: Callable[[bytes], Calibration] = msgspec.msgpack.Decoder(Calibration).decode
decode_alert: Callable[[bytes], Alert] = msgspec.json.Decoder(Alert).decode

Message = TelemetryFrame | AssetBirth | Assessment | Calibration | DeadLetter
encode: Callable[[Message], bytes] = msgspec.msgpack.Encoder().encode
encode_alert: Callable[[Alert], bytes] = msgspec.json.Encoder().encode
