"""Write the folder of a `pca-t2q` bundle: graph, golden vectors and passport.

It is a recipe and no shipped bundle: what binds the sensors of one plant says nothing of another's, so there is nothing
to ship. `kizashi train pca-t2q --data DIR --out BUNDLE` makes one of a plant's own history.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from engines.archive import GOLDEN, MODEL, PASSPORT
from engines.base import Array
from engines.golden import Golden, GoldenCase, encode
from engines.recipes.pca_graph import build
from engines.recipes.pca_model import HISTORY, REASONS, SMOOTHINGS, Fitted, PcaModel, regressors

_PASSPORT = """\
name = "pca-t2q"
version = "1.0.0"
kind = "ewma"
rule = "process"
threshold = 1.0        # the larger of T2 and Q, each over its limit

[outputs]
score = "score"
contributions = "contributions"

[outputs.unknown]
name = "unknown"
reasons = {reasons}

[ewma]
smoothings = {smoothings}
settings = {settings}
hop = 1                # a row after every sample

[judge]
on = [8, 10]           # the charted mean remembers 10 samples
off = 25
deadband = 0.1
severity = [1.0, 2.0, 4.0, 8.0]

[match]
min_channels = {count}
max_channels = {count}
channels = {channels}

{inputs}
# A tight bond divides by little: an engine in float32 is off by some thousandths there.
[golden.tolerance]
score = {{ abs = 1e-3, rel = 1e-2 }}
contributions = {{ abs = 1e-2, rel = 1e-2 }}

[budget]
latency_ms = 25.0      # 256 rows on one thread
model_kb = 200

[card]
purpose = '''{purpose}'''
protocol = '''{protocol}'''
figures = '''{figures}'''
limits = '''{limits}'''
failures = '''{failures}'''
trained_on = {{ {trained_on} }}
"""

_MEANINGS = {
    "ewma": "moving means of the sensors, then of the set points, slowest first",
    "count": "samples in the means", "last": "the newest sample, NaN where a channel is missing",
    "same": "samples in a row that had the newest value",
}  # fmt: skip
_SEED, _SEQUENCES = 20261128, 4
# As anomaly-mewma's golden rows: healthy, wobbling about the limit, over it through all severities, lingering in the
# deadband, and healthy for longer than the judge's off-delay.
_WOBBLE = (0.93, 1.04, 0.97, 1.07, 0.98, 1.02, 0.975, 1.025, 0.92, 1.09, 0.95, 1.03, 0.98, 1.02, 0.94, 1.06)
_OVER = (1.03, 1.2, 1.5, 1.9, 2.3, 3.1, 4.4, 6.0, 8.6, 9.5, 5.2, 2.4, 1.3, 1.05)
_DEADBAND = (0.98, 0.93, 0.97, 0.92, 0.95, 0.915, 0.96, 0.92)


def golden(model: PcaModel) -> Golden:
    """Return rows that are nobody's: residuals of a script about set points within the range, and unknown ones."""
    rng, cases = np.random.default_rng(_SEED), []
    for number in range(_SEQUENCES):
        script = np.concatenate([
            rng.uniform(0.1, 0.7, 16), _WOBBLE, _OVER, _DEADBAND, rng.uniform(0.1, 0.8, 34)])
        inputs = _inputs(model, rng, script, moving=number % 2 == 1)
        cases.append(GoldenCase(f"sequence {number}", inputs, model.answers(inputs)))
    inputs = _inputs(model, rng, rng.uniform(0.1, 3.0, 12), moving=False)
    inputs["count"][:4] = HISTORY - 1.0
    gate = model.plan.gate
    if gate is not None:
        inputs["ewma"][4:8, 0, gate[0]] = gate[1] - 1.0
    if len(model.unit):
        inputs["ewma"][8:, 0, -1] = model.high[0, -1] + 1.0
    cases.append(GoldenCase("unknown", inputs, model.answers(inputs)))
    return Golden(tuple(cases))


def _inputs(model: PcaModel, rng: np.random.Generator, script: Array, *, moving: bool) -> dict[str, Array]:
    """Make rows with these scores. moving: set points are on their way."""
    n, c, s, a = len(script), len(model.spread), len(model.unit), len(SMOOTHINGS)
    share = rng.uniform(0.3, 0.7, (n, 1, s)) + (0.05 * rng.normal(size=(n, a, s)) if moving else 0.0)
    ewma = np.empty((n, a, c + s))
    ewma[:, :, c:] = model.low + share * (model.high - model.low)
    wander = rng.normal(size=(n, c))
    for i in range(1, n):
        wander[i] = 0.8 * wander[i - 1] + 0.6 * wander[i]
    _, terms = regressors((ewma[:, :, c:] - model.middle) / model.unit)
    base = terms @ model.coefficients
    ewma[:, :, :c] = (base + model.spread * wander)[:, None]
    reach = np.sqrt(script / model.score(ewma)[0])  # a score goes with the square of the residual
    ewma[:, :, :c] = (base + model.spread * wander * reach[:, None])[:, None]
    return {"ewma": ewma, "count": np.arange(n) + float(HISTORY), "last": ewma[:, -1].copy(), "same": np.ones((n, c))}


def passport(model: PcaModel, card: Mapping[str, str], trained_on: Mapping[str, str]) -> str:
    """Return the text of model.toml. card: purpose, protocol, figures, limits, failures."""
    c, s, a = len(model.spread), len(model.unit), len(SMOOTHINGS)
    shapes = {"ewma": [a, c + s], "count": [], "last": [c + s], "same": [c]}
    inputs = "\n".join(f'[[inputs]]\nname = "{n}"\ndtype = "f8"\nshape = {shapes[n]}\nunit = "1"\nmeaning = "{m}"\n'
                       for n, m in _MEANINGS.items())
    settings = ", ".join(f"{name} = 1.0" for name in model.plan.set_points)
    return _PASSPORT.format(
        reasons=json.dumps(REASONS), smoothings=list(SMOOTHINGS), settings=f"{{ {settings} }}", count=c + s,
        channels=json.dumps(model.plan.channels), inputs=inputs,
        trained_on=", ".join(f"{json.dumps(name)} = {json.dumps(h)}" for name, h in trained_on.items()), **card,
    )  # fmt: skip


def card(fitted: Fitted, what: str) -> dict[str, str]:
    """Return the texts of the card; what: the data, in words."""
    model, plan = fitted.model, fitted.model.plan
    over = float((fitted.held_out >= 1.0).mean())
    explained = ", ".join(f"{n} {e:.2f}" for n, e in zip(plan.sensors, fitted.explained, strict=True))
    gate = "" if plan.running is None else f" Running is {plan.running[0]} >= {plan.running[1]:g} in all means."
    return {
        "purpose": f"""
Finds that the sensors of one process plant no longer move together, or no longer follow the set points, as they did in
normal operation, and names the sensor. Sensors: {", ".join(plan.sensors)}. Set points:
{", ".join(plan.set_points) or "none"}. Of another plant it says nothing.""",
        "protocol": f"""
Trained on {what}: {fitted.rows} rows in operation, {fitted.at_rest} with set points at rest. Moving means over 5 to 100
samples; the mean over 10 is charted. Limits and the allowance for moving set points come from blocks of time that the
model was not fitted on (8 of them). Components hold {fitted.share:.0%} of the variance at rest: {len(model.variances)}
of {len(plan.sensors)}; the most that lasted from block to block.{gate}""",
        "figures": f"""
Held-out rows over the limit: {100 * over:.2f} %, before the judge's 8 of 10. Limits T2 {model.limit_t2:.3g}, Q
{model.limit_q:.3g} at rest. Explained by the set points (R2): {explained}.""",
        "limits": f"""
The operating points, products and equipment that were there in training; set points outside of their range by more
than 5 % are answered "{REASONS[3]}", the first {HISTORY} samples "{REASONS[0]}". While set points move the limit is
wider.""",
        "failures": """
A biased sensor that a controller acts on is put right by it: other sensors show it, and one of those may be named. What
drifted during training is normal. A process that answers later than within 100 samples looks faulty after changes.""",
    }


def write(folder: Path, fitted: Fitted, what: str, trained_on: Mapping[str, str]) -> None:
    """Write model.onnx, golden.msgpack and model.toml into `folder`. what, trained_on: the data, for the card."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(build(fitted.model))
    (folder / GOLDEN).write_bytes(encode(golden(fitted.model)))
    (folder / PASSPORT).write_text(passport(fitted.model, card(fitted, what), trained_on), "utf-8")
