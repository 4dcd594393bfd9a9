"""Write the bundle `battery-fade`: how many cycles a battery cell has left, from its last 64 discharges.

python -m engines.recipes.fade

One number is learnt from worn cells, and one says how far that is off (engines.recipes.fade_model); both are written
there, so the bundle is made without the data, whose hashes are in the passport's card.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto

from engines.archive import GOLDEN, MODEL, PASSPORT
from engines.base import Array
from engines.bundle import SHIPPED
from engines.golden import Golden, GoldenCase, encode
from engines.graph import GraphBuilder, means
from engines.graph.builder import Name
from engines.recipes.fade_model import (
    CAP,
    END,
    FLOOR,
    HIGH,
    LEAST,
    LEAST_RATE,
    LOW,
    NOISE,
    OWN,
    REST,
    TRAINED,
    WARN,
    WINDOW,
    Fade,
    answers,
    log_level,
    windows,
)
from engines.recipes.seal import ship
from engines.sealing import sealed
from engines.trust import PINS

FOLDER = SHIPPED / "battery-fade"


def build(fade: Fade = TRAINED) -> bytes:
    """Return the model.

    x (n, frames, 2, samples) float32, 64 cycles of (cycle, soh) -> rul, p10, p50, p90 (n) cycles, CAP "at least";
    score (n), WARN / max(rul, 1), 0 when unknown; unknown (n) int32, 0 or the number of one of REASONS.
    """
    g = GraphBuilder("battery-fade")
    rows = g.input("x", "f4", ["frames", 2, "samples"])
    with g.exact("fade"):
        whole = g.node("Reshape", g.node("Transpose", rows, perm=[0, 2, 1, 3]), np.array([0, 2, WINDOW]))
        cycle, soh = (g.node("Slice", whole, np.array([k]), np.array([k + 1]), np.array([1])) for k in (0, 1))
        slope, line = _line(g, cycle, _log_excess(g, soh))
        own = g.node("Neg", slope)
        mixed = g.node("Add", g.node("Mul", own, np.float32(OWN)), np.float32((1 - OWN) * fade.rate))
        rate = g.node("Max", mixed, np.float32(LEAST_RATE * fade.rate))
        # A logarithm of one number a row goes through vectors for some rows and not for others, and differs by it.
        level = g.node("Mul", _level(g, soh), np.ones(WINDOW))
        level = g.node("Slice", _log_excess(g, level), np.array([0]), np.array([1]), np.array([2]))
        ahead = g.node("Sub", g.node("Min", level, line), np.float32(np.log(END - REST)))
        left = _clip(g, g.node("Div", ahead, rate), 0.0, CAP)
        half = g.node("Mul", g.node("Add", left, np.float32(NOISE)), np.float32(fade.width))
        why = _unknown(g, cycle, soh)
        known = g.node("Less", why, np.float32(0.5))
        score = g.node("Div", np.float32(WARN), g.node("Max", left, np.float32(FLOOR)))
        blind_low, blind_high = np.float32(0.0), np.float32(CAP)
        answers = {
            "score": g.node("Where", known, score, np.float32(0.0)), "rul": left,
            "p10": g.node("Where", known, _clip(g, g.node("Sub", left, half), 0.0, CAP), blind_low), "p50": left,
            "p90": g.node("Where", known, _clip(g, g.node("Add", left, half), 0.0, CAP), blind_high),
        }
        for name, tensor in answers.items():
            g.output(name, _flat(g, tensor), ())
        g.output("unknown", g.node("Cast", _flat(g, why), to=TensorProto.INT32), (), "i4")
    return g.build()


def _log_excess(g: GraphBuilder, soh: Name) -> Name:
    return g.node("Log", g.node("Max", g.node("Sub", soh, np.float32(REST)), np.float32(LEAST)))


def _line(g: GraphBuilder, cycle: Name, y: Name) -> tuple[Name, Name]:
    """Return slope and end of the line through (cycle, y), (n, 1, 1): centred, so that cycle 10,000 costs no digits."""
    at, middle = g.node("Sub", cycle, means(g, cycle, WINDOW)), means(g, y, WINDOW)
    over = means(g, g.node("Mul", at, g.node("Sub", y, middle)), WINDOW)
    # 64 different cycle numbers have a variance of 341 at least; less means that they do not rise, which is an answer
    slope = g.node("Div", over, g.node("Max", means(g, g.node("Mul", at, at), WINDOW), np.float32(1.0)))
    last = g.node("Slice", at, np.array([WINDOW - 1]), np.array([WINDOW]), np.array([2]))
    return slope, g.node("Add", middle, g.node("Mul", slope, last))


def _level(g: GraphBuilder, soh: Name) -> Name:
    """Return the median of the last three, (n, 1, 1)."""
    a, b, c = (g.node("Slice", soh, np.array([k]), np.array([k + 1]), np.array([2])) for k in range(WINDOW - 3, WINDOW))
    return g.node("Max", g.node("Min", a, b), g.node("Min", g.node("Max", a, b), c))


def _unknown(g: GraphBuilder, cycle: Name, soh: Name) -> Name:
    """Return the number of a reason, or 0, (n, 1, 1) float32. What is not finite fails every comparison."""
    last = np.array([2])
    step = g.node("Sub", g.node("Slice", cycle, np.array([1]), np.array([WINDOW]), last),
                  g.node("Slice", cycle, np.array([0]), np.array([WINDOW - 1]), last))
    rises = _all(g, g.node("Greater", step, np.float32(0.0)))
    level = _level(g, soh)
    inside = g.node("Min", _all(g, g.node("LessOrEqual", soh, np.float32(HIGH))),
                    _all(g, g.node("Greater", level, np.float32(LOW))))
    # each value is known to be a number; a slice of one element for `level` says nothing of the others
    inside = g.node("Min", inside, _all(g, g.node("Greater", soh, np.float32(0.0))))
    spread = g.node("Sub", g.node("ReduceMax", soh, last, keepdims=1), g.node("ReduceMin", soh, last, keepdims=1))
    moves = _all(g, g.node("Greater", spread, np.float32(0.0)))
    why = g.node("Mul", g.node("Sub", np.float32(1.0), moves), np.float32(3.0))
    why = g.node("Where", g.node("Less", inside, np.float32(0.5)), np.float32(2.0), why)
    return g.node("Where", g.node("Less", rises, np.float32(0.5)), np.float32(1.0), why)


def _all(g: GraphBuilder, said: Name) -> Name:
    """Return 1 where all of the last axis hold, else 0, (n, 1, 1)."""
    return g.node("ReduceMin", g.node("Cast", said, to=TensorProto.FLOAT), np.array([2]), keepdims=1)


def _clip(g: GraphBuilder, tensor: Name, low: float, high: float) -> Name:
    return g.node("Min", g.node("Max", tensor, np.float32(low)), np.float32(high))


def _flat(g: GraphBuilder, tensor: Name) -> Name:
    return g.node("Squeeze", tensor, np.array([1, 2]))


# --- golden vectors

_SEED = 20261128
# Scores of the rows that hang about the alarm's edge; none is closer than 0.4 %, float32 differs by 0.01 %.
_WOBBLE = (0.93, 1.04, 0.97, 1.07, 0.985, 1.015, 0.996, 1.004, 0.92, 1.09, 0.95, 1.02, 0.99, 1.01, 0.94, 1.06)


def simulated(rng: np.random.Generator, cycles: int, rate: float, start: float = 0.95) -> Array:
    """Return (cycles, 2), cycle and soh, of a cell that fades as this model thinks, with rests and noise."""
    fresh, given = 0.0, np.empty(cycles)
    for i in range(cycles):
        fresh = 0.02 * rng.random() if rng.random() < 0.04 else fresh * 0.7  # what a rest gives back
        given[i] = fresh + 0.002 * rng.standard_normal()
    cycle = np.arange(1.0, cycles + 1)
    return np.stack([cycle, np.round(REST + (start - REST) * (1 - rate) ** cycle + given, 4)], axis=1)


def _aimed(rows: Array, scores: Array, fade: Fade) -> Array:
    """Stretch what each row has above REST until its score is the one wanted: the slope stays, the level moves."""
    ahead = log_level(rows) - np.log(END - REST)
    rate = ahead / answers(rows, fade)["life"]
    made = rows.copy()
    made[..., 1] = REST + (rows[..., 1] - REST) * np.exp(rate * WARN / scores - ahead)[:, None]
    made[..., 1] = np.round(made[..., 1], 5)
    return made


def golden(fade: Fade = TRAINED) -> Golden:
    """Return golden vectors of simulated cells: worn to their end, at the alarm's edge, and rows without an answer.

    Expected outputs are `answers` in float64, rounded: no engine of any machine has a part in them.
    """
    rng = np.random.default_rng(_SEED)
    worn = windows(simulated(rng, 200, fade.rate))
    # a cell that fades slowly, so that all of its rows are before the end
    edge = _aimed(windows(simulated(rng, 143, 0.3 * fade.rate)), np.tile(_WOBBLE, 5), fade)
    bad = windows(simulated(rng, 103, fade.rate))
    bad[0, 10:20, 0] = 5.0  # the cycle number stands
    bad[1, 30, 1] = 0.0  # a discharge that was broken off
    bad[2, :, 1] = 0.9  # the same capacity again and again
    bad[3, -3:, 1] = 0.52  # dead
    rows = np.concatenate([worn, edge, bad]).astype(np.float32)
    found = answers(rows, fade)
    known = found["why"] == 0
    outputs = {
        "score": np.where(known, WARN / np.maximum(found["life"], FLOOR), 0.0), "rul": found["life"],
        "p10": np.where(known, found["low"], 0.0), "p50": found["life"], "p90": np.where(known, found["high"], CAP),
    }  # fmt: skip
    rounded: dict[str, Array] = {name: np.round(value, 4).astype(np.float32) for name, value in outputs.items()}
    why, starts = found["why"].astype(np.int32), (0, len(worn), len(worn) + len(edge))
    return Golden((GoldenCase("cells", {"x": rows[..., None]}, {**rounded, "unknown": why}, starts),))


def write(folder: Path = FOLDER, pins: Path = PINS) -> None:
    """Write the bundle in `folder`, beside its model.toml, and its pin."""
    ship(folder, build(), golden(), pins)


def write_fitted(folder: Path, fade: Fade) -> None:
    """Write a whole bundle of another fit into the new `folder`: the shipped passport, unsigned."""
    folder.mkdir(parents=True)
    (folder / PASSPORT).write_bytes((FOLDER / PASSPORT).read_bytes())
    (folder / MODEL).write_bytes(build(fade))
    (folder / GOLDEN).write_bytes(encode(golden(fade)))
    for name, content in sealed(folder).items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    write()
