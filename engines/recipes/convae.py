"""Make the bundle `anomaly-convae`: from healthy signals to net, graph, golden vectors and passport.

Signals come from the caller (`pipeline.plant.healthy`: the simulator, or a user's files): a recipe knows no data.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.archive import GOLDEN, MODEL, PASSPORT
from engines.base import Array
from engines.bundle import SHIPPED
from engines.golden import Golden, GoldenCase, encode
from engines.recipes.convae_graph import FEATURES, NEWEST, build
from engines.recipes.convae_net import SIZE, Net, Weights, errors, fit, shapes

FOLDER = SHIPPED / "anomaly-convae"
#: Samples between two rows: frames of 1, 2 or 4 samples fit. Eight would find a fault 4 samples later on average.
HOP = 4
#: Samples of an asset that its baseline is learnt from, the windows' first half included.
CALIBRATION = 400
ROWS = (CALIBRATION - SIZE) // HOP + 1
#: Windows that training draws, and that the limit of `score` comes from.
_DRAWN, _HELD_OUT = 100_000, 20_000
#: Share of assets whose signals training does not see.
_KEPT_BACK = 5
#: Share of held-out windows whose error is above 1: `score` says "like none in training", it decides nothing.
_ODD = 1e-3
#: Channels, rows and sequences of the golden cases: one channel, a few, as many as a pump has.
_CASES = ((1, 96, 4), (3, 96, 4), (8, 80, 4))


#: Runs a function, or returns what an earlier run of it had returned under this name.
Once = Callable[[str, Callable[[], dict[str, Array]]], dict[str, Array]]


class TooLittle(ValueError):
    """There is too little to train on; the message says what there is and what is wanted."""


@dataclass(frozen=True, slots=True)
class Signals:
    """Healthy signals of one asset: parts (channels, n), any unit, each without a gap. name: no two assets' alike."""

    name: str
    parts: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True, slots=True)
class Trained:
    """weights and the limit of `score`; error: mean of the held-out windows' (1 = nothing given back)."""

    weights: Weights
    limit: float
    error: float
    held_out: tuple[str, ...]


def train(signals: Sequence[Signals], seed: int = 0, net: Net = Net(),  # noqa: B008  (frozen)
          say: Callable[[str], None] = lambda line: None,
          once: Once = lambda name, make: make()) -> Trained:
    """Train on four fifths of the assets, set the limit on the others. once: keeps the net. Raises TooLittle.

    With a single asset the last fifth of its signals is held out. The same signals and seed give the same bytes.
    """
    if len({s.name for s in signals}) < len(signals):
        raise TooLittle("two of the signals have one name: the same asset would be on both sides of the split")
    rng = np.random.default_rng([seed, 0])
    fitted, kept_back = _split(signals, rng)
    say(f"{len(fitted)} assets to fit on, {len(kept_back)} held out: {', '.join(s.name for s in kept_back)[:200]}")
    drawn = _draw(fitted, _DRAWN, rng)
    say(f"training on {len(drawn)} windows of {SIZE} samples, {net.steps} steps")
    kept = once("net", lambda: _named(fit(drawn.astype(np.float32), seed, net)))
    weights = Weights(*((kept[f"weight{k}"], kept[f"bias{k}"]) for k in range(len(kept) // 2)))
    held_out = errors(weights, _draw(kept_back, _HELD_OUT, rng))
    return Trained(weights, float(np.quantile(held_out, 1.0 - _ODD)), float(held_out.mean()),
                   tuple(s.name for s in kept_back))


def _named(weights: Weights) -> dict[str, Array]:
    named = [(f"{part}{k}", array) for k, pair in enumerate(weights.pairs)
             for part, array in zip(("weight", "bias"), pair, strict=True)]
    return dict(named)


def _split(signals: Sequence[Signals], rng: np.random.Generator) -> tuple[list[Signals], list[Signals]]:
    if len(signals) == 1:
        (one,) = signals
        cuts = [part.shape[1] - part.shape[1] // _KEPT_BACK for part in one.parts]
        sides = [[part[:, :cut] for part, cut in zip(one.parts, cuts, strict=True)],
                 [part[:, cut:] for part, cut in zip(one.parts, cuts, strict=True)]]
        return [Signals(one.name, tuple(sides[0]))], [Signals(one.name + ", last fifth", tuple(sides[1]))]
    order = rng.permutation(len(signals))
    count = max(1, len(signals) // _KEPT_BACK)
    return [signals[i] for i in sorted(order[count:])], [signals[i] for i in sorted(order[:count])]


def _draw(signals: Sequence[Signals], count: int, rng: np.random.Generator) -> Array:
    """Draw shapes of windows, every channel of every asset as often per sample; those that stand still are left out."""
    rows = [row for s in signals for part in s.parts for row in part if len(row) >= SIZE]
    if not rows:
        raise TooLittle(f"no signal of {SIZE} samples among {', '.join(s.name for s in signals)[:200]}; longer healthy "
                        "stretches are wanted")
    lengths = np.array([len(row) - SIZE + 1 for row in rows])
    flat, starts = np.concatenate(rows), np.cumsum([0, *map(len, rows[:-1])])
    which = rng.choice(len(rows), count, p=lengths / lengths.sum())
    at = starts[which] + (rng.random(count) * lengths[which]).astype(np.int64)
    found = np.asarray(flat[at[:, None] + np.arange(SIZE)], np.float64)
    moving = found[np.ptp(found, axis=1) > 0]
    if len(moving) < 1000:
        raise TooLittle(f"{len(moving)} of {count} windows change their value: the signals stand still")
    return shapes(moving)


#: The card of the shipped bundle.
CARD = {
    "purpose": """
Finds that a machine no longer behaves as in its first 400 samples: a channel's level or size moved, or the pattern of
its samples became another one though level and size are the same (a control loop that hunts, a valve that sticks, a
beat). Names the channels. Unsupervised: fixed weights, no failure data; every asset has its own normal and limit.""",
    "protocol": """
kizashi train anomaly-convae --data simulator --seed 0. A convolutional autoencoder of one channel's window of 32
samples, mean 0 and mean square 1, fitted to 20 healthy pumps of the simulator at 0.5 to 20 samples a second; four more
were held out. Per channel three features: mean and size of the newest 16 samples, and what the net does not give back.
What is normal of them, and the limit, each asset learns from its first 93 windows, each judged by a fit without it; a
channel that drifts or stands still meanwhile is left out, temperatures always. Causal: a score belongs to the
window's last sample. Delays, tail and least scales were chosen on simulated pumps; that they came after a look at
SKAB is why its figures are no held-out ones.""",
    "figures": """
python -m tests.bench.convae (2026-11-28). 48 healthy simulated pumps, 240,000 rows of 8 channels (13 hours at 20
samples/s): 1 false alarm, no suspect baseline. Faults that grow over 100 samples to 6 standard deviations of their
channel: 120 of 120 found, 120 with the right channel first, 48 to 56 samples after the onset (median), to 3: 120 of
120, 80 to 94; a sensor that got stuck at its mean: 24 of 24 in 28. Noise of the same level and size that becomes a wave
or a square wave of 16 samples: 24 and 23 of 24 found, by level and size alone none. Of held-out windows 54 % is not
given back (noise is not).
SKAB, kizashi evaluate skab with a route to this bundle, all 23 files, through the flow: F1 0.829, false alarms 16.2 %,
missed 19.7 %, 3.2 false-alarm episodes an hour, 21 of 23 found; by folder other 0.86 / 28 / 8, valve1 0.78 / 10 / 31,
valve2 0.90 / 4 / 16 (anomaly-mewma: 0.845 / 15.8 / 17.1). One row of 8 channels 0.06 ms, 256 rows 7 ms on one thread;
6,976 parameters, 34 kB.""",
    "limits": """
1 to 64 channels, frames of 1, 2 or 4 samples (32 and 4 must be multiples). A channel that says speed or load has no
score; the others are judged beside what it explains, and outside the range of the first 400 samples nothing is known.
Without one a change of load or product that these have not seen is reported as an anomaly. A level that slowly wanders
has a wide scale and hides small faults. It names no kind of fault, no cause and no remaining life.""",
    "failures": """
A wave of 8 samples in place of noise is not found: the net gives back as little of it as of noise. Correlations
between channels are not looked at: anomaly-mewma sees these. On SKAB the files valve1/2 and valve1/4 are missed. After
a repair that leaves another level the alert stays until the asset is calibrated again. 400 samples are little for a rig
that wanders for hours: on SKAB's anomaly-free run (9,405 samples) an alarm stands in 94 % of the rows.""",
}


# --- the bundle


def expected(weights: Weights, limit: float, x: Array) -> dict[str, Array]:
    """Compute what the model must answer for rows (n, 1, C, SIZE): score (n,), features (n, C * 3).

    In float64 and cast at the end: neither the order of a machine's sums nor its vectors are in the bytes.
    """
    n, _, channels, _ = x.shape
    signal = x.astype(np.float64).reshape(n * channels, SIZE)
    newest = signal[:, NEWEST:]
    features = np.stack([newest.mean(axis=1), newest.std(axis=1), errors(weights, shapes(signal))], axis=1)
    strange = features[:, 2].reshape(n, channels)
    return {"score": (strange.max(axis=1) / np.float32(limit)).astype(np.float32),
            "features": features.reshape(n, channels * len(FEATURES)).astype(np.float32)}


def golden(trained: Trained, signals: Sequence[Signals], seed: int = 0) -> Golden:
    """Return rows of windows of these signals, half of them with a `score` near its limit, with what is right."""
    cases, rng = [], np.random.default_rng([seed, 7])
    for channels, rows, sequences in _CASES:
        x = _windows(signals, channels, 400 * rows // channels, rng)  # few windows of one channel are near
        off = np.abs(expected(trained.weights, trained.limit, x)["score"] - 1.0)
        order = np.argsort(off, kind="stable")
        picked = np.sort(np.concatenate([order[:rows // 2], rng.choice(order[rows // 2:], rows - rows // 2, False)]))
        starts = tuple(range(0, rows, rows // sequences))
        cases.append(GoldenCase(f"{channels} channels", {"x": x[picked]},
                                expected(trained.weights, trained.limit, x[picked]), starts))
    return Golden(tuple(cases))


def _windows(signals: Sequence[Signals], channels: int, count: int, rng: np.random.Generator) -> Array:
    """Draw rows (count, 1, channels, SIZE), each of one asset; in half of them a channel has a spike or a step."""
    out = np.empty((count, 1, channels, SIZE), np.float32)
    long = [part for s in signals for part in s.parts if part.shape[1] >= SIZE]
    for k in range(count):
        values = long[int(rng.integers(len(long)))]
        at = int(rng.integers(values.shape[1] - SIZE + 1))
        row = values[np.arange(channels) % len(values), at:at + SIZE].copy()
        if k % 2:
            first = int(rng.integers(4, SIZE - 1))
            last = first + 1 if k % 4 == 1 else SIZE
            row[0, first:last] += rng.uniform(1.0, 6.0) * row[0].std()
        out[k, 0] = row
    return out


def write(folder: Path, trained: Trained, signals: Sequence[Signals], card: Mapping[str, str], *,
          files: Mapping[str, str] | None = None, seed: int = 0) -> None:
    """Write model.onnx, golden.msgpack and model.toml into `folder`. signals: what it was trained on.

    card: purpose, protocol, figures, limits, failures. files: SHA-256 of those that the signals are from, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = build(trained.weights, trained.limit)
    (folder / MODEL).write_bytes(model)
    (folder / GOLDEN).write_bytes(encode(golden(trained, signals, seed)))
    (folder / PASSPORT).write_text(passport(card, {**hashes(signals), **(files or {})}), "utf-8")


def hashes(signals: Sequence[Signals]) -> dict[str, str]:
    """Return the heads of SHA-256 of what was trained on, by name."""
    found = {}
    for s in signals:
        digest = hashlib.sha256()
        for part in s.parts:
            digest.update(np.ascontiguousarray(part, "<f8").tobytes())
        found[s.name] = digest.hexdigest()[:16]
    return found


def passport(card: Mapping[str, str], trained_on: Mapping[str, str]) -> str:
    """Return the text of model.toml."""
    features = "\n".join(f"[[baseline.features]]\n{_FEATURES[f]}\n" for f in FEATURES)
    on = "\n".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in trained_on.items())
    return _PASSPORT.format(size=SIZE, hop=HOP, rows=ROWS, calibration=CALIBRATION,
                            newest=NEWEST, features=features, trained_on=on, **{k: v.strip() for k, v in card.items()})


_FEATURES = {
    "level": 'name = "level"         # mean of the newest {newest} samples, in the unit of the channel',
    # Of white noise, whatever its unit, size and shape vary by 0.19 from window to window, a moving mean of shapes by
    # 0.12: smaller scales in a calibration are luck. Without these least scales there were 175 false alarms in 240,000
    # simulated healthy rows, with them 1.
    "size": 'name = "size"\nlog = true\nleast_scale = 0.2',
    "shape": 'name = "shape"\nlog = true\nleast_scale = 0.5\nsmoothing = 0.2        # a pattern lasts',
}
_FEATURES = {key: text.format(newest=NEWEST) for key, text in _FEATURES.items()}

_PASSPORT = """\
name = "anomaly-convae"
version = "1.0.0"
kind = "window"
rule = "anomaly"
threshold = 1.0        # the score is that of the asset's own baseline, over its own limit

[outputs]
score = "score"        # reconstruction error over what healthy windows in training had; compares engines, no more
features = "features"

[[inputs]]
name = "x"
dtype = "f4"
shape = ["frames", "C", "samples"]
unit = "the channels'"
meaning = "the newest {size} samples of every channel, as frames hold them"

[window]
size = {size}
hop = {hop}

[baseline]
per_channel = true
rows = {rows}              # of the first {calibration} samples
folds = 8              # blocks of 46 samples
smoothing = 1.0        # a window remembers for itself
combine = "max"
exceedance = 1e-4      # per row by the fitted tail, before the on-delay
stationarity = 0.35    # of ten means; a drifting channel is left out
slow_quantities = ["temperature"]   # heat takes minutes to hours and looks steady in a short calibration
regime_quantities = ["rotational speed", "rotational frequency", "load", "torque", "power", "throttle", "set point"]
most_move = 3.0
fleet_limit = 12.0     # of 48 simulated healthy calibrations the largest had 7.4

{features}
[golden.tolerance]
score = {{ abs = 1e-3, rel = 1e-3 }}
features = {{ abs = 1e-3, rel = 1e-4 }}   # level and size: rel; in float32 a shape is known to 1e-4

[budget]
latency_ms = 50.0      # 256 rows of 8 channels are 2048 windows; a row alone takes 0.05 ms
memory_mb = 64.0
model_kb = 200

[judge]
on = [4, 5]            # of rows 4 samples apart: what a single odd window holds has left it by then
off = 6                # 24 samples
deadband = 0.1
severity = [1.0, 2.0, 4.0, 8.0]

[match]
min_channels = 1
max_channels = 64

[card]
purpose = '''
{purpose}'''
protocol = '''
{protocol}'''
figures = '''
{figures}'''
limits = '''
{limits}'''
failures = '''
{failures}'''

[card.trained_on]
{trained_on}
"""
