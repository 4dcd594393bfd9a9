"""Machines that age: bearings by snapshots of their vibration, and slow quantities, as births and frames.

Where a defect grows, its impacts start below all noise and grow evenly in their logarithm until the end. Healthy
machines change too: run-in (the first snapshots are stronger by a quarter), and a gain that wanders by a tenth.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engines.base import Array
from pipeline.plant.bearingsim import machine, vibration
from schemas import AssetBirth, TelemetryFrame

_RUN_IN, _RUN_IN_SNAPSHOTS = 0.25, 5.0
_WANDER, _WANDER_MEMORY = 0.1, 100.0
#: Impacts at the begin and at the end of a growing defect: RMS relative to that of the noise.
_FIRST, _LAST = 0.05, 20.0
SAMPLES, RATE_HZ = 2560, 25_600.0
STEP_S = 300.0


@dataclass(frozen=True, slots=True)
class Worn:
    """A bearing's life: snapshots (n, 2560), and the number of the first one with a defect, n if it stays healthy."""

    snapshots: Array
    since: int


def bearing(seed: int, snapshots: int, healthy: int | None = None) -> Worn:
    """Simulate a bearing of any geometry, speed and machine. healthy: snapshots before a defect begins, None: all."""
    rng = np.random.default_rng((seed, 3))
    what = machine(rng)
    fault = str(rng.choice(["inner", "ball", "outer"]))
    since = snapshots if healthy is None else healthy
    gain = np.exp(_wander(rng, snapshots, _WANDER_MEMORY, _WANDER))
    gain *= 1 + _RUN_IN * np.exp(-np.arange(snapshots) / _RUN_IN_SNAPSHOTS)
    out = np.empty((snapshots, SAMPLES))
    for i in range(snapshots):
        out[i] = gain[i] * vibration(rng, what, "normal", RATE_HZ, SAMPLES / RATE_HZ)
        if i >= since:
            part = (i - since) / max(snapshots - 1 - since, 1)
            size = _FIRST * (_LAST / _FIRST) ** part / what.strength
            hit = vibration(rng, what, fault, RATE_HZ, SAMPLES / RATE_HZ)
            out[i] += gain[i] * size * (hit - hit.mean())
    return Worn(out, since)


def bearing_messages(name: str, snapshots: Array) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield birth and frames of snapshots (n, 2560), or (n, channels, 2560)."""
    x = snapshots[:, None] if snapshots.ndim == 2 else snapshots
    yield from _messages(name, x, RATE_HZ, "vibration-snapshots", "m/s2", 10.0)


def slow(seed: int, days: int, memory_h: float = 12.0, daily: float = 0.5) -> Array:
    """Simulate a slow quantity at 5 min, (samples,): it wanders by 1, follows the day, and is a little noisy."""
    rng = np.random.default_rng((seed, 4))
    n = round(days * 86_400 / STEP_S)
    x = _wander(rng, n, memory_h * 3600 / STEP_S, 1.0)
    x += daily * np.sin(2 * np.pi * np.arange(n) * STEP_S / 86_400 + rng.uniform(0, 2 * np.pi))
    return np.asarray(x + 0.2 * rng.standard_normal(n))


def slow_messages(name: str, values: Array) -> Iterator[AssetBirth | TelemetryFrame]:
    """Yield birth and frames of values (n,), or (n, channels), a sample a frame."""
    x = values[:, None] if values.ndim == 1 else values
    yield from _messages(name, x[:, :, None], 1.0 / STEP_S, "slow-process", "Cel", STEP_S)


def _messages(name: str, x: Array, rate_hz: float, asset_class: str, unit: str,
              every_s: float) -> Iterator[AssetBirth | TelemetryFrame]:  # fmt: skip
    quantity = "temperature" if unit == "Cel" else "acceleration"
    birth = AssetBirth.make(
        asset=name, start_ns=0, rate_hz=rate_hz, samples_per_frame=x.shape[2], asset_class=asset_class, site="sim",
        channels=[{"name": f"c{k}", "quantity": quantity, "unit": unit} for k in range(x.shape[1])],
    )  # fmt: skip
    yield birth
    for i, frame in enumerate(x.astype("<f4")):
        yield TelemetryFrame(name, birth.birth_id, i, round(i * every_s * 1e9), frame.tobytes())


def _wander(rng: np.random.Generator, n: int, memory: float, deviation: float) -> Array:
    """Return a first-order autoregression (n,) that forgets over `memory` steps."""
    keep = float(np.exp(-1.0 / memory))
    steps, x = rng.standard_normal(n) * np.sqrt(1 - keep * keep), np.empty(n)
    state = float(rng.standard_normal())
    for i, step in enumerate(steps.tolist()):
        state = x[i] = keep * state + step
    return x * deviation
