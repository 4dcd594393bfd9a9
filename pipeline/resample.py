"""Resample: a window of samples at another rate, by a polyphase FIR filter. Pure: a window alone decides its result.

Zero-stuffing by `up`, a low-pass and keeping every `down`th sample, without computing what is not kept: with inputs in
blocks of `down` and outputs in blocks of `up` samples (Crochiere and Rabiner 1983, chapter 3) a block of outputs is one
row of a matrix product.
"""

from fractions import Fraction
from functools import lru_cache
from typing import Final

import numpy as np

from pipeline.columns import F64, Array

#: Half the filter's length in samples of the new rate. From pass band to 80 dB down it takes 20 % of half the new rate.
HALF: Final = 24
#: The pass band's end, -6 dB, as a part of half the new rate: 5520 of 6000 Hz.
CUTOFF: Final = 0.92
#: Kaiser's beta for 80 dB: far below what a 16-bit sensor resolves of a line beside its largest one.
BETA: Final = 8.0
#: Rates are taken as fractions of the new one with no larger numerator: enough for usual pairs (44.1 kHz: 40 / 147).
MAX_UP: Final = 256
#: Inputs a block at least, so that few large products are made instead of many small ones.
_BLOCK: Final = 64


def ratio(rate_hz: float, wanted_hz: float) -> Fraction:
    """Return up / down, so that rate_hz * up / down is wanted_hz as nearly as a numerator of MAX_UP allows.

    Raises ValueError for a rate below the wanted one: what was never measured cannot be made.
    """
    if not rate_hz >= wanted_hz:
        raise ValueError(f"{rate_hz:g} samples/s are fewer than {wanted_hz:g}: nothing above half of it was measured")
    return 1 / (Fraction(rate_hz) / Fraction(wanted_hz)).limit_denominator(MAX_UP)


@lru_cache(maxsize=64)
def taps(up: int, down: int) -> F64:
    """Return the filter at `up` times the old rate, (2 HALF down + 1,), of sum 1. down >= up."""
    n = np.arange(-HALF * down, HALF * down + 1)
    h = np.sinc(n / down * CUTOFF) * np.kaiser(len(n), BETA)
    return np.asarray(h / h.sum())


@lru_cache(maxsize=64)
def _matrix(up: int, down: int) -> tuple[F64, int, int, int]:
    """Return the filter as a matrix (inputs, outputs of a block), inputs and outputs a block, inputs before it."""
    blocks = -(-_BLOCK // down)
    half, h = HALF * down, taps(up, down) * up
    before = half // up
    inputs = before + ((blocks * up - 1) * down + half) // up + 1
    index = np.arange(blocks * up) * down - (np.arange(inputs)[:, None] - before) * up + half
    matrix = np.where((index >= 0) & (index < len(h)), h[np.clip(index, 0, len(h) - 1)], 0.0)
    return matrix, blocks * down, blocks * up, before


def resample(x: Array, up: int, down: int) -> F64:
    """Return x (n,) at up / down of its rate, (ceil(n up / down),) float64; beyond its ends x is taken as zero.

    up <= down, without a common factor. Take a mean off first: its step at the ends would ring for HALF samples.
    """
    if up == down:
        return np.asarray(x, np.float64)
    matrix, ins, outs, before = _matrix(up, down)
    length = -(-len(x) * up // down)
    rows = -(-length // outs)
    padded = np.zeros(max((rows - 1) * ins + len(matrix), before + len(x)))
    padded[before : before + len(x)] = x
    blocks = np.lib.stride_tricks.sliding_window_view(padded, len(matrix))[::ins][:rows]
    return np.asarray(np.ascontiguousarray(blocks) @ matrix).reshape(-1)[:length]
