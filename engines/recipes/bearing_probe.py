"""What does the model look at? Inputs from which the physics is taken away, and everything else is left."""

import numpy as np

from engines.base import Array
from engines.recipes.bearing_front import COMBS, RATE_HZ

# Half width of what is deleted about a tooth: the search range of 1.2 % at 4 bpfi of a fast shaft, and a line's width.
_WIDTH, _LEAST_HZ = 0.02, 2.5
_BAND_HZ = 500.0


def without_lines(samples: Array, lines_hz: Array) -> Array:
    """Return windows (n, T) whose envelopes have no energy at any tooth of any comb of their bearing.

    Each band of 500 Hz is taken as an analytic signal; its envelope loses the teeth and the band is scaled by new over
    old envelope. Carrier, spectrum (to the width of a modulation), level and all other modulation stay.
    """
    return np.array([_one(x.astype(np.float64), lines) for x, lines in zip(samples, lines_hz, strict=True)], np.float32)


def _one(x: Array, lines: Array) -> Array:
    n = len(x)
    f = np.fft.rfftfreq(n, 1 / RATE_HZ)
    gone = _teeth(f, lines)
    for _ in range(3):  # what is left where the envelope touched 0, and what neighbouring bands beat to
        spectrum = np.fft.rfft(x)
        y = np.zeros(n)
        for low in np.arange(0.0, RATE_HZ / 2, _BAND_HZ):
            part = np.zeros(n, np.complex128)
            inside = (f >= low) & (f < low + _BAND_HZ)
            part[: len(f)][inside] = 2 * spectrum[inside]
            analytic = np.fft.ifft(part)
            envelope = np.abs(analytic)
            modulation = np.fft.rfft(envelope)
            modulation[gone] = 0
            wanted = np.maximum(np.fft.irfft(modulation, n), 0.02 * envelope.mean())
            y += (analytic * (wanted / np.maximum(envelope, 1e-6 * envelope.mean() + 1e-30))).real
        x = y
    return x


def _teeth(f: Array, lines: Array) -> Array:
    """Return the mask of frequencies that belong to a tooth of a comb, up to 8 harmonics."""
    gone = np.zeros(len(f), np.bool_)
    for rows in COMBS.values():
        for line, multiple, other, side in rows:
            for h in range(1, 9) if multiple > 0 else (1,):
                at = lines[line] * multiple * h + lines[other] * side
                gone |= np.abs(f - at) < max(_LEAST_HZ, _WIDTH * at)
    gone[0] = False
    return gone


def surrogate(rng: np.random.Generator, samples: Array) -> Array:
    """Return windows of the same power spectrum with random phases: no impact is left, whatever its rate."""
    spectrum = np.fft.rfft(samples.astype(np.float64), axis=1)
    phase = rng.uniform(0, 2 * np.pi, spectrum.shape)
    return np.fft.irfft(np.abs(spectrum) * np.exp(1j * phase), samples.shape[1], axis=1).astype(np.float32)
