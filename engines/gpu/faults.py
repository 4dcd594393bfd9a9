"""Which CUDA errors end an engine, and what is said about each.

A sticky error leaves the process in a state in which every further CUDA call fails the same way (cuda.h: "the process
must be terminated and relaunched"). It is no fault of the batch that met it: that batch is computed elsewhere.
"""

from typing import Protocol

from engines.base import EngineError, EngineLost

#: cuda.h of CUDA 13: codes whose text says that the process must be relaunched or the context destroyed.
_CONTEXT_DEAD = {
    226: "contained memory error", 700: "illegal address", 702: "launch timeout", 709: "context destroyed",
    710: "device-side assert", 714: "hardware stack error", 715: "illegal instruction", 716: "misaligned address",
    717: "invalid address space", 718: "invalid program counter", 719: "launch failed", 721: "tensor memory leak",
    810: "MPS client terminated", 911: "external device", 999: "unknown",
}  # fmt: skip
#: Codes that name a device or driver which is no longer there; nothing of ours can mend them.
_DEVICE_GONE = {
    3: "not initialised", 4: "driver shutting down", 46: "device unavailable", 100: "no device",
    201: "no valid context", 214: "uncorrectable ECC error", 220: "uncorrectable NVLink error",
    802: "system not ready", 805: "MPS connection failed", 806: "MPS call failed", 807: "MPS server not ready",
}  # fmt: skip
STICKY = frozenset(_CONTEXT_DEAD) | frozenset(_DEVICE_GONE)
_OUT_OF_MEMORY = 2
_BUSY = 600


class CudaError(Exception):
    """A call of CUDA failed. code: its CUresult."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (CUDA error {code})")
        self.code = code


class Words(Protocol):
    """What knows the driver's codes: `GraphApi`."""

    def code_of(self, message: str) -> int | None:
        """Return the code of an error's text, None if that is not clear."""

    def query(self, stream: int) -> int:
        """Return what the driver says of a stream."""


def code_of(error: BaseException, words: Words, stream: int) -> int:
    """Return the CUresult behind `error`, 0 if there is none. stream: asked when the error's text does not tell."""
    if isinstance(error, CudaError):
        return error.code
    known = words.code_of(str(error))
    if known is not None:
        return known
    state = words.query(stream)
    return 0 if state == _BUSY else state


def translate(error: BaseException, code: int, doing: str, device: str) -> EngineError | EngineLost:
    """Turn an error of CUDA into ours. doing: what was tried, as "computing 64 rows"; device: its name."""
    if isinstance(error, EngineLost) and code not in STICKY:
        return EngineLost(f"{doing} on {device}: {error}; restart the worker")
    if code in STICKY:
        what = _CONTEXT_DEAD.get(code) or _DEVICE_GONE[code]
        return EngineLost(
            f"{doing} on {device}: {error}: {what}; the process can use CUDA no more, restart the worker "
            f"(batches that were begun are computed by the engine that takes over)"
        )
    if code == _OUT_OF_MEMORY:
        return EngineError(
            f"{doing} on {device}: out of memory: {error}; lower batch.max_size or batch.in_flight, or free the device"
        )
    return EngineError(f"{doing} on {device}: {error}")
