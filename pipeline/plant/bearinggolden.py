"""Rows that an engine with the bearing model is judged by: simulated, many of them where a decision hangs by a hair."""

import numpy as np

from engines.base import Array
from engines.recipes.bearing_front import WINDOW, Session
from engines.recipes.bearing_head import CLASSES
from pipeline.plant import bearingsim, cwru

# A whole number of steps, 1/8 of a deviation each, and cut at 127 of them: signed bytes hold that, and the model knows
# no scale. Impacts reach 16 deviations, noise stays 18 dB above the steps.
_STEPS, _MOST = 8.0, 127.0
_LIMIT, _CLOSE = 0.5, 0.04


def rows(model: bytes, seed: int = 0, count: int = 256) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return inputs and outputs of `count` windows; three of eight have a score within 0.04 of 0.5 where it can be.

    Such a row is a healthy machine's noise and a defect's impacts, mixed until the score is there (by bisection).
    """
    session = Session(model)
    rng = np.random.default_rng((seed, 7))
    samples, lines = np.empty((count, WINDOW), np.float32), np.empty((count, 5), np.float32)
    for i in range(count):
        machine = bearingsim.machine(rng)
        lines[i] = machine.orders.lines_hz(machine.rpm)
        healthy, faulty = (bearingsim.vibration(rng, machine, f, cwru.RATE_HZ, 1.0) for f in ("normal", CLASSES[i % 4]))
        near = i % 8 >= 4 and i % 4 > 0
        samples[i] = _between(session, healthy, faulty, lines[i]) if near else _stepped(faulty)
    inputs = {"samples": samples, "lines_hz": lines}
    return inputs, session(samples, lines)


def _stepped(x: Array) -> Array:
    return np.asarray(np.clip(np.round(_STEPS * x / x.std()), -_MOST, _MOST) + 0.0, np.float32)


def _between(session: Session, healthy: Array, faulty: Array, lines: Array) -> Array:
    """Return the mixture whose score comes closest to the limit in 12 halvings."""
    low, high = 0.0, 1.0
    best, least = _stepped(faulty), np.inf
    for _ in range(12):
        part = (low + high) / 2
        row = _stepped(part * faulty + (1 - part) * healthy)
        score = float(session(row[None], lines[None])["score"][0])
        if abs(score - _LIMIT) < least:
            best, least = row, abs(score - _LIMIT)
        if least < _CLOSE:
            break
        low, high = (low, part) if score > _LIMIT else (part, high)
    return best
