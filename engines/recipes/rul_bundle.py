"""Write the folder of a `rul-ewma` bundle: graph, golden vectors and passport.

The passport's kind is `ewma`: rows are the state of engines.recipes.rul_state.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx.reference import ReferenceEvaluator

from engines.archive import GOLDEN, MODEL, PASSPORT
from engines.base import Array
from engines.golden import NEAR, Golden, GoldenCase, encode
from engines.recipes.rul_graph import OUTPUTS, build
from engines.recipes.rul_model import CAP, WARN, RulModel
from engines.recipes.rul_state import CHANNELS, COLUMNS, SENSORS, SMOOTHINGS, History, run

#: Rows of an engine in the golden vectors: its first and last, and those near the alarm.
_HEAD, _TAIL = 8, 8

_PASSPORT = """\
name = "rul-ewma"
version = "1.0.0"
kind = "ewma"
rule = "remaining-life"
threshold = 1.0        # the score is {warn:g} cycles / remaining life, and 0 when the answer is "unknown"

[outputs]
score = "score"
contributions = "contributions"

[ewma]
smoothings = {smoothings}
channels = {channels}
age = "cycles"         # counts operating cycles; frames seen are not an age
hop = 1                # a row after every sample

[judge]
on = [3, 5]
off = 20
deadband = 0.1
severity = [1.0, 2.0, 4.0, 8.0]   # {warn:g}, {half:g}, {quarter:g}, {eighth:g} cycles left

[match]
min_channels = {count}
max_channels = {count}

{inputs}
[golden.tolerance]
rul = {{ abs = 0.05, rel = 1e-4 }}     # cycles; in float32 a raw sensor has 1e-4 of its scale: 0.01 of up to {cap:g}
p10 = {{ abs = 0.05, rel = 1e-4 }}
p50 = {{ abs = 0.05, rel = 1e-4 }}
p90 = {{ abs = 0.05, rel = 1e-4 }}
score = {{ abs = 2e-3, rel = 1e-2 }}
contributions = {{ abs = 5e-3, rel = 1e-3 }}

[budget]
latency_ms = 25.0      # 256 rows on one thread; a row alone takes 0.1 ms
model_kb = 200

[card]
purpose = '''{purpose}'''
protocol = '''{protocol}'''
figures = '''{figures}'''
limits = '''{limits}'''
failures = '''{failures}'''
"""

_MEANINGS = {
    "ewma": ([len(SMOOTHINGS), COLUMNS], "moving means of the sensors and of powers of the settings, slowest first"),
    "count": ([], "samples in the means"),
    "last": ([len(CHANNELS)], "the newest sample, NaN where a channel is missing"),
    "same": ([len(SENSORS)], "samples in a row that had the newest value"),
}


def passport(card: Mapping[str, str]) -> str:
    """Return the text of model.toml. card: purpose, protocol, figures, limits, failures."""
    inputs = "\n".join(
        f'[[inputs]]\nname = "{name}"\ndtype = "f8"\nshape = {shape}\nunit = "1"\nmeaning = "{meaning}"\n'
        for name, (shape, meaning) in _MEANINGS.items()
    )
    return _PASSPORT.format(
        warn=WARN, half=WARN / 2, quarter=WARN / 4, eighth=WARN / 8, cap=CAP, smoothings=list(SMOOTHINGS),
        channels=json.dumps(CHANNELS), count=len(CHANNELS), inputs=inputs, **card,
    )  # fmt: skip


def golden(model: bytes, histories: Sequence[History]) -> Golden:
    """Return rows of each history, which have no gaps, with what the reference says of them."""
    cases, reference = [], ReferenceEvaluator(model)
    for history in histories:
        inputs = run([history]).inputs()
        said = dict(zip(OUTPUTS, reference.run(list(OUTPUTS), inputs), strict=True))
        number = np.arange(len(history.rows))
        near = np.abs(said["score"] - 1.0) <= NEAR
        picked = np.flatnonzero((number < _HEAD) | (number >= len(number) - _TAIL) | near)
        name = history.name.replace(" ", "-").replace("/", "-").lower()
        cases.append(GoldenCase(name, _picked(inputs, picked), _picked(said, picked)))
    return Golden(tuple(cases))


def _picked(arrays: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    return {name: array[rows] for name, array in arrays.items()}


def write(folder: Path, model: RulModel, histories: Sequence[History], card: Mapping[str, str]) -> None:
    """Write model.onnx, golden.msgpack and model.toml into `folder`; histories: of the golden vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = build(model)
    (folder / MODEL).write_bytes(graph)
    (folder / GOLDEN).write_bytes(encode(golden(graph, histories)))
    (folder / PASSPORT).write_text(passport(card), "utf-8")
