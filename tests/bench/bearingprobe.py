"""What does the model look at? Inputs from which the physics is taken away, and everything else is left."""

import numpy as np

from engines.base import Array
from engines.recipes.bearing_front import RATE_HZ

# Half width of what is deleted about a tooth: the search range of 1.2 %, and a line's own width.
_WIDTH, _LEAST_HZ = 0.012, 2.0
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
    # Again, for what is left where the envelope touched 0; between bands, for what neighbours beat to.
    for first in (0.0, 250.0, 125.0, 375.0) * 3:
        spectrum = np.fft.rfft(x)
        y = np.zeros(n)
        for low in np.arange(first - _BAND_HZ, RATE_HZ / 2, _BAND_HZ):
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
    """Return the mask of frequencies that belong to a defect: up to 8 harmonics with a sideband at each side."""
    gone = np.zeros(len(f), np.bool_)
    shaft, ftf, bsf, bpfo, bpfi = lines
    for carrier, side in ((bpfo, ftf), (bpfi, shaft), (2 * bsf, ftf), (ftf, shaft)):
        for h in range(1, 9):
            for s in (-1, 0, 1):
                at = carrier * h + side * s
                gone |= np.abs(f - at) < max(_LEAST_HZ, _WIDTH * at)
    gone[0] = False
    return gone


def surrogate(rng: np.random.Generator, samples: Array) -> Array:
    """Return windows of the same power spectrum with random phases: no impact is left, whatever its rate."""
    spectrum = np.fft.rfft(samples.astype(np.float64), axis=1)
    phase = rng.uniform(0, 2 * np.pi, spectrum.shape)
    return np.fft.irfft(np.abs(spectrum) * np.exp(1j * phase), samples.shape[1], axis=1).astype(np.float32)
