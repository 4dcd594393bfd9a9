"""Figures of `anomaly-convae` on simulated plants: python -m tests.bench.convae [--bundle DIR]

False alarms of healthy fleets, what is found of each kind of fault and how soon, with the channel that is named first,
and what level, size and shape find alone. Windows go through the engine, the baseline and the judge as in the flow.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from engines import Bundle, load_bundle, shipped_bundles
from engines.bundle import TrustPolicy
from engines.onnx_cpu import OnnxCpu
from pipeline import baseline, parity
from pipeline.kinds import new_pool
from pipeline.plant.faults import SIGNATURES, Fault, FaultKind
from pipeline.plant.simulator import NAMES, Plant
from pipeline.state import Slot

ASSETS, HEALTHY, AFTER = 24, 20_000, 600
#: Samples of a faulty run before the fault: the calibration and as much again.
ONSET = 800


@dataclass(frozen=True)
class Found:
    """States of the rows (n,), 2 while an alert is active; shares (n, C); sample of each row's end."""

    state: np.ndarray
    shares: np.ndarray
    end: np.ndarray
    suspect: bool


def judged(bundle: Bundle, engine: OnnxCpu, plant: Plant, asset: int, x: np.ndarray) -> Found:
    """Judge samples x (channels, n) of an asset."""
    window, later = bundle.spec.window, bundle.spec.baseline
    assert window is not None and later is not None
    ends = np.arange(window.size, x.shape[1] + 1, window.hop)
    rows = np.stack([x[:, e - window.size:e] for e in ends]).astype("f4")[:, None]
    batches = [rows[a:a + 256] for a in range(0, len(rows), 256)]
    features = np.concatenate([engine.infer({"x": batch})["features"].copy() for batch in batches])
    pool = new_pool("bench", bundle, len(x), 1, None)
    pool.slots[pool.take(0)] = Slot("a", plant.births[asset], False)
    settled = baseline.step(pool, later, np.zeros(len(rows), np.int64), features, np.ones(len(rows), bool))
    state = parity.decide(bundle, settled.score, (0,))
    return Found(state, settled.shares, ends, bool(pool.table["suspect"][0]))


def healthy(bundle: Bundle, engine: OnnxCpu, seeds: Sequence[int]) -> Iterator[str]:
    """Count raised alerts of healthy fleets."""
    alarms = rows = suspect = 0
    for seed in seeds:
        plant = Plant(seed=seed, assets=ASSETS)
        for asset in range(ASSETS):
            found = judged(bundle, engine, plant, asset, plant.values(asset, 0, HEALTHY))
            alarms += int((np.diff(found.state == 2, prepend=False) & (found.state == 2)).sum())
            rows += len(found.state)
            suspect += found.suspect
    yield (f"healthy: {alarms} alarms in {rows} rows of {ASSETS * len(seeds)} assets "
           f"({rows * 4 / 20 / 3600:.0f} hours at 20 samples/s); suspect baselines {suspect}")


def faults(bundle: Bundle, engine: OnnxCpu, seed: int) -> Iterator[str]:
    """Plant each kind of fault in every asset; say how many were found, how soon, and whether the channel was right."""
    for kind, magnitude in [(k, m) for k in SIGNATURES for m in ((3.0, 6.0) if k != "sensor_stuck" else (0.0,))]:
        yield _row(bundle, engine, seed, kind, magnitude)


def _row(bundle: Bundle, engine: OnnxCpu, seed: int, kind: FaultKind, magnitude: float) -> str:
    onset = ONSET / 20.0
    names = [f"line1/pump-{i + 1:02d}" for i in range(ASSETS)]
    channel = "flow" if kind == "sensor_stuck" else None
    plant = Plant(seed=seed, assets=ASSETS, faults=[
        Fault(kind, n, onset, ramp_s=5.0, magnitude=magnitude or 1e-9, channel=channel) for n in names])
    delays, right, early = [], 0, 0
    for asset in range(ASSETS):
        found = judged(bundle, engine, plant, asset, plant.values(asset, 0, ONSET + AFTER))
        raised = found.end[found.state == 2]
        early += bool((raised <= ONSET).any())
        late = np.flatnonzero((found.state == 2) & (found.end > ONSET))
        if len(late):
            delays.append(int(found.end[late[0]]) - ONSET)
            right += NAMES[int(found.shares[late[0]].argmax())] == plant.faults[asset].first_channel
    delay = f"{np.median(delays):.0f}" if delays else "-"
    return (f"{kind} {magnitude:g} sigma over 100 samples: {len(delays)} of {ASSETS} found, median {delay} samples, "
            f"{right} with the right channel first, {early} alarmed before")


def patterns(bundle: Bundle, engine: OnnxCpu, seed: int) -> Iterator[str]:
    """Change the pattern of one steady channel, not its level and size: noise becomes a wave, or jumps."""
    later = bundle.spec.baseline
    assert later is not None
    plant = Plant(seed=seed, assets=ASSETS)
    for name in ("wave of 8 samples", "wave of 16 samples", "square wave of 16 samples"):
        period = int(name.split(" of ")[1].split()[0])
        wave = np.sin(2 * np.pi * np.arange(AFTER) / period)
        wave = np.sign(wave + 1e-9) if name.startswith("square") else wave * 2**0.5
        line = []
        for features in (("level", "size", "shape"), ("level", "size"), ("shape",)):
            count = 0
            for asset in range(ASSETS):
                x = plant.values(asset, 0, ONSET + AFTER)
                row, healthy = NAMES.index("vibration_de"), slice(0, ONSET)
                x[row, ONSET:] = x[row, healthy].mean() + x[row, healthy].std() * wave
                found = judged(_only(bundle, features), _Only(engine, [f.name in features for f in later.features]),
                               plant, asset, x)
                count += bool((found.state[found.end > ONSET] == 2).any())
            line.append(f"{'+'.join(features)} {count}")
        yield f"{name}, same level and size, found of {ASSETS}: " + ", ".join(line)


@dataclass(frozen=True)
class _Only:
    """An engine that gives some of the features of each channel."""

    engine: OnnxCpu
    keep: Sequence[bool]

    def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = self.engine.infer(inputs)["features"]
        shaped = found.reshape(len(found), -1, len(self.keep))[:, :, np.array(self.keep)]
        return {"features": shaped.reshape(len(found), -1)}


def _only(bundle: Bundle, names: Sequence[str]) -> Bundle:
    later = bundle.spec.baseline
    assert later is not None
    kept = tuple(f for f in later.features if f.name in names)
    spec = msgspec.structs.replace(bundle.spec, baseline=msgspec.structs.replace(later, features=kept))
    return Bundle(spec, bundle.path, bundle.model, bundle.sha256)


def cost(engine: OnnxCpu) -> Iterator[str]:
    """Time rows of 8 channels on one thread."""
    x = np.random.default_rng(0).normal(size=(256, 16, 8, 2)).astype("f4")
    for rows in (1, 256):
        engine.warm_up(rows)
        took = []
        for _ in range(2000 if rows == 1 else 200):
            began = time.perf_counter()
            engine.infer({"x": x[:rows]})
            took.append(time.perf_counter() - began)
        p50, p99 = np.quantile(took, (0.5, 0.99)) * 1e3
        yield f"{rows} rows of 8 channels: p50 {p50:.3f} ms, p99 {p99:.3f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="instead of the shipped one; it need not be signed")
    parser.add_argument("--seeds", type=int, default=2, help="healthy fleets")
    options = parser.parse_args()
    bundle = (load_bundle(options.bundle, TrustPolicy(allow_unsigned=True)) if options.bundle
              else load_bundle(shipped_bundles()["anomaly-convae"]))
    engine = OnnxCpu(bundle)
    for part in (cost(engine), healthy(bundle, engine, range(100, 100 + options.seeds)), faults(bundle, engine, 7),
                 patterns(bundle, engine, 8)):
        for line in part:
            print(line, flush=True)


if __name__ == "__main__":
    main()
