"""Write the folder of a `rul-ewma` bundle: graph, golden vectors and passport.

The passport's kind is `ewma`: rows are the state of engines.recipes.rul_state.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from engines.archive import GOLDEN, MODEL, PASSPORT
from engines.base import Array
from engines.golden import Golden, GoldenCase, encode
from engines.recipes.rul_graph import OUTPUTS, build
from engines.recipes.rul_model import CAP, WARN, RulModel
from engines.recipes.rul_state import (
    CHANNELS,
    COLUMNS,
    F64,
    SENSORS,
    SETTING_SCALE,
    SETTINGS,
    SMOOTHINGS,
    SQUARES,
    History,
    run,
)

#: Rows in the golden vectors: a bundle has 256 at least, a fifth of them near the alarm; they lie in git, and a row
#: takes 1 kB. Of each engine its first and last ones and, for the rest, those nearest to the alarm.
_ROWS, _FIRST_ROWS, _LAST_ROWS = 264, 4, 6
#: Every third engine is joined after this share of its life: it has the interval of engines joined late.
_JOINED = 1 / 4

_PASSPORT = """\
name = "rul-ewma"
version = "1.0.0"
kind = "ewma"
rule = "remaining-life"
threshold = 1.0        # the score is {warn:g} cycles / remaining life, and 0 when the answer is "unknown"

[outputs]
score = "score"
contributions = "contributions"

[outputs.life]
mean = "rul"
p10 = "p10"
p50 = "p50"
p90 = "p90"
unit = "cycles"
cap = {cap:.1f}           # labels were cut here: an answer at the cap means "at least"

[outputs.unknown]
name = "unknown"
reasons = {reasons}

[ewma]
smoothings = {smoothings}
age = "cycles"         # counts operating cycles; frames seen are not an age
settings = {settings}
squares = {squares}
hop = 1                # a row after every sample

[ewma.plausible]       # of a channel whose birth tells no measuring range; a sample beyond is kept out of the means
{plausible}

[judge]
on = [3, 5]
off = 20
deadband = 0.1
severity = [1.0, 2.0, 4.0, 8.0]   # {warn:g}, {half:g}, {quarter:g}, {eighth:g} cycles left

[match]
channels = {channels}

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
memory_mb = 64.0       # the trial took 24
model_kb = 200

[card]
purpose = '''{purpose}'''
protocol = '''{protocol}'''
figures = '''{figures}'''
limits = '''{limits}'''
failures = '''{failures}'''

[card.trained_on]
{trained_on}
"""

#: Of the numbers 1 to 4 of the output "unknown".
REASONS = ("not enough history", "outside what the model was trained on", "a channel is missing or stuck",
           "more samples than cycles: the counter began anew, or samples came twice")

_MEANINGS = {
    "ewma": ([len(SMOOTHINGS), COLUMNS], "moving means of the sensors and of powers of the settings, slowest first"),
    "count": ([], "samples in the means"),
    "last": ([len(CHANNELS)], "the newest sample, NaN where a channel is missing"),
    "same": ([len(SENSORS)], "samples in a row that had the newest value"),
}

#: The card of the shipped bundle: what `kizashi train rul-ewma` makes of NASA's four training files with seed 0.
CARD = {
    "purpose": """
Says how many operating cycles an engine of NASA's simulated turbofan fleet (C-MAPSS) has left, with an 80 %
interval, how far the answer is to be believed, and which sensors it rests on. 125 means "at least 125".""",
    "protocol": """
Trained on the 709 run-to-failure engines of FD001 to FD004 (US government work; Saxena et al., PHM 2008) with
labels capped at 125; histories are also cut at the left at random. Every choice by 5-fold cross-validation over
whole engines, except the interval's share per stretch of life, which was set on those engines after a look at the
coverage of the test engines. The interval is calibrated on engines that the net had not seen, that of engines joined
late on those engines joined after 30, 60, 100 and 130 cycles. Shipped: seed 0. Test: one forecast an engine, at its
end.""",
    "figures": """
kizashi evaluate cmapss --data DIR --protocol cv --seeds 5 (2026-11-28). RMSE FD001 / 2 / 3 / 4, cycles, labels capped
at 125. Cross-validation, each cycle from the 20th, mean (sd) of 5 seeds: 8.06 (0.11) / 8.77 (0.02) / 7.10 (0.13) / 9.61
(0.19). Test engines, 5 seeds: 9.03 (0.24) / 9.32 (0.15) / 8.50 (0.15) / 9.17 (0.03); this bundle, seed 0: 8.79 / 9.50 /
8.67 / 9.20, labels not capped 10.10 / 22.59 / 10.50 / 22.83. Interval: holds 78.9 % of 707 test engines, 79 to 82 % at
three sets of earlier cuts, 84 % where 50 cycles or fewer are left; 14.8 cycles wide, of 104 without a model. A net per
subset is not better: 8.01 / 9.35 / 8.08 / 10.20 in cross-validation (one seed). A row takes 0.1 ms on one thread, 256
rows 4.7 ms.""",
    "limits": """
Only for this simulated fleet: its sensors, units and six operating regimes; others are answered "outside", and so are
engines older than 1.05 times the longest life in training (543 cycles). Needs a counter of operating cycles. "Not
enough history" below 20 samples; every cycle missed before the first sample asks for two more, up to 40 where 20
cycles or fewer are left by the forecast, up to 120 where 60 or more are. A sample beyond a channel's measuring range
(by its birth, else [ewma.plausible]) is not averaged, and costs its own answer.""",
    "failures": """
Joined 60 cycles late, half of the test engines end before there is an answer; of the 303 of 623 answered, the error
is 0.9 to 1.2 times that of the same engines known from birth and the interval holds 84 % (in cross-validation 1.0 to
1.2 times, 80 %); joined after 130 cycles up to 1.3 times. The age says much in this fleet, whose lives are alike;
without it the error is a seventh higher. Two modes of wear at once (FD003, FD004) are not told apart. A sample that
is wild for its operating point, and still plausible at another, stays in the slow means for a hundred flights. A
counter that begins at 1 again when a worn engine joins cannot be told from a new engine's.""",
}


def passport(card: Mapping[str, str], trained_on: Mapping[str, str], plausible: F64) -> str:
    """Return the text of model.toml. card: purpose, protocol, figures, limits, failures. trained_on: see `Card`.

    plausible: (2, channels), least and most of a sample.
    """
    inputs = "\n".join(
        f'[[inputs]]\nname = "{name}"\ndtype = "f8"\nshape = {shape}\nunit = "1"\nmeaning = "{meaning}"\n'
        for name, (shape, meaning) in _MEANINGS.items()
    )
    scales = zip(SETTINGS, SETTING_SCALE, strict=True)
    ends = zip(CHANNELS, *plausible.tolist(), strict=True)
    return _PASSPORT.format(
        warn=WARN, half=WARN / 2, quarter=WARN / 4, eighth=WARN / 8, cap=CAP, smoothings=list(SMOOTHINGS),
        channels=json.dumps(CHANNELS), reasons=json.dumps(REASONS), squares=json.dumps(SQUARES),
        settings="{ " + ", ".join(f"{name} = {scale}" for name, scale in scales) + " }", inputs=inputs,
        plausible="\n".join(f"{name} = [{low}, {high}]" for name, low, high in ends),
        trained_on="\n".join(f"{json.dumps(name)} = {json.dumps(text)}" for name, text in trained_on.items()), **card,
    )  # fmt: skip


class _InOrder(OpRun):  # type: ignore[misc]  # onnx has no types
    """Matrix products in float64, added in order: golden vectors have the same bytes on every CPU."""

    op_domain = ""

    def _run(self, a: Array, b: Array) -> tuple[Array]:
        total = np.zeros(np.broadcast_shapes(a[..., :1].shape, b[..., :1, :].shape))
        for k in range(a.shape[-1]):
            total += a[..., k : k + 1].astype(np.float64) * b[..., k : k + 1, :]
        return (total.astype(a.dtype),)


_InOrder.__name__ = "MatMul"  # the reference looks operators up by the name of the class


def golden(model: bytes, histories: Sequence[History]) -> Golden:
    """Return rows of each history, which have no gaps, with what the reference says of them.

    In the first row of each a channel is missing: engines must agree on what is no number, too.
    """
    each = -(-_ROWS // len(histories))
    cases, reference = [], ReferenceEvaluator(model, new_ops=[_InOrder])
    for k, history in enumerate(histories):
        if k % 3 == 2:
            history = history.joined(int(_JOINED * len(history.rows)))
        inputs = run([history]).inputs()
        inputs["last"][0, k % len(CHANNELS)] = np.nan
        said = dict(zip(OUTPUTS, reference.run(list(OUTPUTS), inputs), strict=True))
        number = np.arange(len(history.rows))
        ends = (number < _FIRST_ROWS) | (number >= len(number) - _LAST_ROWS)
        picked = np.sort(np.argsort(np.where(ends, -1.0, np.abs(said["score"] - 1.0)), kind="stable")[:each])
        name = history.name.replace(" ", "-").replace("/", "-").lower()
        cases.append(GoldenCase(name, _picked(inputs, picked), _picked(said, picked)))
    return Golden(tuple(cases))


def _picked(arrays: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    return {name: array[rows] for name, array in arrays.items()}


def write(
    folder: Path, model: RulModel, histories: Sequence[History], card: Mapping[str, str], trained_on: Mapping[str, str]
) -> None:
    """Write model.onnx, golden.msgpack and model.toml into `folder`; histories: of the golden vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = build(model)
    (folder / MODEL).write_bytes(graph)
    (folder / GOLDEN).write_bytes(encode(golden(graph, histories)))
    (folder / PASSPORT).write_text(passport(card, trained_on, model.envelope.plausible), "utf-8")
