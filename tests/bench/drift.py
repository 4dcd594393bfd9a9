"""Drift detection: false drifts of healthy fleets, delay on drifting ones, and that no fault is hidden.

python -m tests.bench.drift [--assets N] [--rows N] [--seeds N] [--set KEY=VALUE ...]

By `anomaly-mewma` with `[drift] input = "z"` and what --set changes of it. False drifts: its chart and the step of
pipeline/drift.py alone, over autoregressions of 8 mixed channels, because a month of an asset is 26 million rows.
Changes and faults: simulated pumps (pipeline/plant/simulator.py) through the flow. 10 rows/s.
"""

import argparse
import ast
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from engines import load_bundle, open_engine, shipped_bundles
from engines.bundle import Bundle
from engines.driftspec import DriftSpec
from pipeline import drift
from pipeline.calibrate import calibrate, ewma_step
from pipeline.kinds import new_pool
from pipeline.plant.faults import Fault, FaultKind
from pipeline.plant.simulator import Plant
from schemas import Alert
from schemas.codec import encode, encode_alert
from tests.bench.report import Bar, judge
from tests.rig import Rig

ASSETS, CHANNELS, POLL_FRAMES, ROWS_PER_S = 24, 8, 40, 10
ONSET = 12_000  # row at which faults and drifts begin: the reference is complete after 8,217 and the calibration's 200
PUMP_ROWS = 40_000  # of healthy pumps, whose load and heat swing
#: False drifts that a person would put up with: one an asset a month.
MUST_A_MONTH = 1.0


@dataclass
class Played:
    """What one fleet led to. t_ns: event time of row 0. settle_s: time in the flow's settling."""

    alerts: list[Alert] = field(default_factory=list)
    settle_s: float = 0.0
    rows: int = 0

    def first(self, rule: str) -> dict[str, int]:
        """Return the row of each asset's first alert of a rule."""
        found: dict[str, int] = {}
        for a in self.alerts:
            if a.rule == rule and a.state == "raised":
                found.setdefault(a.asset, a.seq)
        return found

    def raised(self, rule: str) -> int:
        return sum(a.rule == rule and a.state == "raised" for a in self.alerts)


def bundle(spec: DriftSpec | None) -> Bundle:
    of = load_bundle(shipped_bundles()["anomaly-mewma"])
    return replace(of, spec=msgspec.structs.replace(of.spec, drift=spec))


def play(plant: Plant, rows: int, spec: DriftSpec | None) -> Played:
    """Run `rows` frames of every pump through the flow."""
    of, seen = bundle(spec), Played()
    engine = open_engine("onnx_cpu", of)
    rig = Rig.make(of, plant.births, engine=engine, max_size=256, assessments=False, silent_ms=1 << 40,
                   stale_ms=1 << 60)
    settle = rig.flow.settle

    def timed(batch, outcome):  # type: ignore[no-untyped-def]
        began = time.thread_time()
        effects = settle(batch, outcome)
        seen.settle_s += time.thread_time() - began
        seen.rows += batch.n
        return effects

    rig.flow.settle = timed  # type: ignore[method-assign]
    block: list[bytes] = []
    for frames in plant.rounds(count=rows):
        block += [encode(f) for f in frames]
        if len(block) >= ASSETS * POLL_FRAMES:
            seen.alerts += rig.poll(block, ts_ms=frames[0].t0_ns // 10**6).alerts
            block = []
    seen.alerts += rig.poll(block).alerts + rig.drain().alerts
    engine.close()
    return seen


def fleet(seed: int, kind: FaultKind | None = None, magnitude: float = 1.0, ramp_rows: int = 50) -> Plant:
    plant = Plant(seed=seed, assets=ASSETS)
    if kind is None:
        return plant
    faults = [Fault(kind, name, ONSET / ROWS_PER_S, ramp_rows / ROWS_PER_S, magnitude) for name in plant.names]
    return replace(plant, faults=faults)


def watch(assets: int, rows: int, spec: DriftSpec, *, most: float = 0.6, tails: int | None = None) -> int:
    """Return how often healthy assets drift in `rows` rows each. most: autocorrelation. tails: of Student's t."""
    of, rng = bundle(spec), np.random.default_rng([assets, rows, round(10 * most)])
    recipe = of.spec.mewma
    assert recipe is not None
    phi, x = rng.uniform(0, most, (assets, CHANNELS)), np.zeros((assets, CHANNELS))
    mix = np.eye(CHANNELS) + 0.5 * rng.normal(size=(assets, CHANNELS, CHANNELS)) / CHANNELS**0.5

    def sample() -> np.ndarray:
        nonlocal x
        white = rng.standard_t(tails, x.shape) if tails else rng.standard_normal(x.shape)
        x = phi * x + np.sqrt(1 - phi**2) * (mix @ white[:, :, None])[:, :, 0]
        return x

    first = np.stack([sample() for _ in range(recipe.calibration_rows + 50)])[50:]
    charts = [calibrate(first[:, k], recipe) for k in range(assets)]
    center, scale, whitening, limit, state, kept = (
        np.stack([np.asarray(getattr(c, key)) for c in charts])
        for key in ("center", "scale", "whitening", "limit", "ewma", "kept"))
    pool = new_pool("healthy", of, CHANNELS, 1, None)
    while len(pool.slots) < assets:
        pool.add_block(0, 0)
    pool.table["kept"][:assets] = kept
    slot, usable, found = np.arange(assets), np.ones(assets, bool), 0
    for _ in range(rows):
        state = ewma_step(state, sample(), center, scale, recipe.smoothing)
        score = np.round(((whitening @ state[:, :, None])[:, :, 0] ** 2).sum(axis=1) / limit, 6)
        found += sum(change.begins for change in drift.step(pool, spec, slot, score, state, usable)[1])
    return found


def healthy(assets: int, rows: int, spec: DriftSpec) -> Bar:
    """Print how often what has not changed is told to drift."""
    months = assets * rows / ROWS_PER_S / 86_400 / 30
    print(f"healthy assets, {assets} of {rows} rows each: {months:.2f} asset-months\n"
          f"{'':34} false drifts, an asset-month")
    worst = 0.0
    for name, most, tails in (("normal, autocorrelation to 0.6", 0.6, None),
                              ("normal, autocorrelation to 0.9", 0.9, None), ("Student t, 4 dof", 0.6, 4)):
        found = watch(assets, rows, spec, most=most, tails=tails)
        # 95 % confidence: of nothing seen by the rule of three, else by the normal approximation
        most_likely = max(3.0, found + 2 * found**0.5 + 2) / months
        print(f"  {name:32} {found:>6} {found / months:>8.2f}, 95 % below {most_likely:.1f}", flush=True)
        worst = max(worst, found / months)
    seen = play(fleet(0), PUMP_ROWS, spec)
    print(f"  pumps of the simulator, {ASSETS} of {PUMP_ROWS} rows: {seen.raised('drift')} drifts, "
          f"{seen.raised('anomaly')} alarms", flush=True)
    worst = max(worst, seen.raised("drift") / (ASSETS * PUMP_ROWS / ROWS_PER_S / 86_400 / 30))
    return Bar("false drifts of healthy assets an asset-month", worst, "", MUST_A_MONTH, 0.0, lower=True)


def drifting(seeds: Sequence[int], spec: DriftSpec) -> list[Bar]:
    """Print how soon lasting changes are told, and what that does to alarms."""
    print(f"\nchanges of one signature, {ASSETS * len(seeds)} pumps each: rows after the onset (medians), alerts "
          f"equal byte for byte, us a row more in settling\n{'':34} {'drift told':>14} {'alarm':>14} "
          f"{'alarm without':>14} {'equal':>9} {'us':>8}")
    cases: list[tuple[str, FaultKind, float, int]] = [
        ("settles 0.5 sd elsewhere", "blocked_outlet", 0.5, 50),
        ("settles 1 sd elsewhere", "blocked_outlet", 1.0, 50),
        ("creeps to 1 sd in 10,000 rows", "leak", 1.0, 10_000),
        ("wears to 6 sd in 10,000 rows", "bearing_wear", 6.0, 10_000),
        ("wears to 6 sd in 2,000 rows", "bearing_wear", 6.0, 2_000),
        ("wears to 6 sd in 500 rows", "bearing_wear", 6.0, 500),
        ("step of 4 sd", "cavitation", 4.0, 1),
        ("step of 6 sd", "motor_winding", 6.0, 1),
    ]
    bars = []
    for name, kind, magnitude, ramp in cases:
        rows, same, total, cost = ONSET + ramp + 8_000, 0, 0, 0.0
        found: list[list[int]] = [[], [], []]
        for seed in seeds:
            plant = fleet(seed, kind, magnitude, ramp)
            seen, plain = play(plant, rows, spec), play(plant, rows, None)
            for k, (of, rule) in enumerate(((seen, "drift"), (seen, "anomaly"), (plain, "anomaly"))):
                found[k] += [row - ONSET for row in of.first(rule).values() if row >= ONSET]
            raised = [{encode_alert(a) for a in of.alerts if a.rule == "anomaly" and a.state == "raised"}
                      for of in (seen, plain)]
            same, total = same + len(raised[0] & raised[1]), total + len(raised[1])
            cost = 1e6 * (seen.settle_s / seen.rows - plain.settle_s / plain.rows)
        cells = [f"{len(f)}/{ASSETS * len(seeds)}" + (f" {np.median(f):7.0f}" if f else "") for f in found]
        print(f"  {name:32} {cells[0]:>14} {cells[1]:>14} {cells[2]:>14} {f'{same}/{total}':>9} {cost:8.2f}",
              flush=True)
        # smaller changes are no faults at once: what alarms of them comes later, by the wider limit
        if magnitude >= 4.0 and ramp < spec.window * spec.every * (spec.confirm - 1):
            bars.append(Bar(f"{name}: alerts as without drift detection", 100.0 * same / max(total, 1), "%", 100, 100))
    return bars


def main() -> int:
    """Print the tables; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=300, help="healthy ones")
    parser.add_argument("--rows", type=int, default=20_000, help="of each healthy one")
    parser.add_argument("--seeds", type=int, default=1, help="fleets of 24 pumps for each change and fault")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    changes = {k: ast.literal_eval(v) for k, _, v in (text.partition("=") for text in asked.set)}
    spec = msgspec.convert({"input": "z"} | changes, DriftSpec)
    print(f"[drift] {msgspec.to_builtins(spec)}")
    bars = [healthy(asked.assets, asked.rows, spec)]
    bars += drifting(range(1, 1 + asked.seeds), spec)
    return judge(bars)


if __name__ == "__main__":
    sys.exit(main())
