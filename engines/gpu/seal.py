"""The file of a plan: header, report, plan, and an HMAC over all of it. Pure.

Deserialising a plan runs what is in it (NVIDIA: "equivalent to running untrusted native code"), and the library's own
check of a plan is no defence against changes. So only bytes that this machine sealed are ever given to it.
"""

import hashlib
import hmac
import struct

import msgspec

from engines.gpu.plan import BuildReport

_MAGIC = b"KZPLAN1\n"
#: Magic, key of the plan (32 bytes), bytes of the report, bytes of the plan.
_HEAD = struct.Struct("<8s32sIQ")
_MAC_BYTES = hashlib.sha256().digest_size
#: Bytes of the machine's secret.
SECRET_BYTES = 32


class Broken(Exception):
    """These bytes are no plan of this machine under this key. reason: one of `store.REASONS`."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason = reason


def seal(secret: bytes, key: str, plan: bytes, report: BuildReport) -> bytes:
    """Return the bytes of a plan's file. key: 64 hex digits."""
    told = msgspec.json.encode(report)
    body = _HEAD.pack(_MAGIC, bytes.fromhex(key), len(told), len(plan)) + told + plan
    return body + _mac(secret, body)


def unseal(secret: bytes, key: str, data: bytes) -> tuple[bytes, BuildReport]:
    """Return plan and report of a file's bytes. Raises Broken."""
    if len(data) < _HEAD.size + _MAC_BYTES:
        raise Broken("damaged", f"it has {len(data)} bytes: cut off")
    body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    if not hmac.compare_digest(_mac(secret, body), mac):
        raise Broken("damaged", "it was changed, cut off or sealed by another machine")
    magic, sealed, report_bytes, plan_bytes = _HEAD.unpack_from(body)
    if magic != _MAGIC or _HEAD.size + report_bytes + plan_bytes != len(body):
        raise Broken("damaged", "it is of another version of this software")
    if sealed != bytes.fromhex(key):
        raise Broken("device", f"it is of another model, device or library: {sealed.hex()[:12]}")
    told, plan = body[_HEAD.size : _HEAD.size + report_bytes], body[_HEAD.size + report_bytes :]
    try:
        return plan, msgspec.json.decode(told, type=BuildReport)
    except msgspec.MsgspecError as error:
        raise Broken("damaged", f"its report is of another version of this software: {error}") from error


def _mac(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, body, "sha256")
