"""Rows that an engine with the bearing model is judged by: simulated, many of them where a decision hangs by a hair.

A window of samples is most of a row's bytes, so each is heard under four sets of lines: those of its machine, those of
another, and its own moved to where the score is nearest the limit.
"""

import numpy as np

from engines.base import Array
from engines.recipes.bearing_front import WINDOW, Session
from engines.recipes.bearing_head import CLASSES
from pipeline.plant import bearingsim, cwru

# A whole number of steps, 1/8 of a deviation each, and cut at 127 of them: signed bytes hold that, and the model knows
# no scale. Impacts reach 16 deviations, noise stays 18 dB above the steps.
_STEPS, _MOST = 8.0, 127.0
_LIMIT, _CLOSE = 0.5, 0.04
#: By what part lines are moved: past the search's range of 1.2 % at either side, and past the contrast's reach.
_MOVED = np.linspace(0.9, 1.1, 81)


def rows(model: bytes, seed: int = 0, windows: int = 64) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return inputs and outputs of 4 rows a window; of many of them the score is within 0.04 of 0.5.

    Of every second defect's windows the samples are a healthy machine's noise and the defect's impacts, mixed until
    the score is there (by bisection).
    """
    session = Session(model)
    rng = np.random.default_rng((seed, 7))
    samples, lines = np.empty((windows, WINDOW), np.float32), np.empty((windows, 4, 5), np.float32)
    for i in range(windows):
        machine = bearingsim.machine(rng)
        lines[i] = machine.orders.lines_hz(machine.rpm)
        healthy, faulty = (bearingsim.vibration(rng, machine, f, cwru.RATE_HZ, 1.0) for f in ("normal", CLASSES[i % 4]))
        near = i % 8 >= 4 and i % 4 > 0
        samples[i] = _between(session, healthy, faulty, lines[i, 0]) if near else _stepped(faulty)
    lines[:, 1] = np.roll(lines[:, 0], 1, axis=0)
    for i in range(windows):
        moved = lines[i, 0] * np.where(np.arange(5) > 0, _MOVED[:, None], 1.0).astype(np.float32)
        score = session(np.repeat(samples[i : i + 1], len(moved), axis=0), moved)["score"]
        lines[i, 2:] = moved[np.argsort(np.abs(score - _LIMIT), kind="stable")[:2]]
    inputs = {"samples": np.repeat(samples, 4, axis=0), "lines_hz": lines.reshape(-1, 5)}
    return inputs, session(inputs["samples"], inputs["lines_hz"])


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
