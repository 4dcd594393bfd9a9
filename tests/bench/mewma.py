"""How good is `anomaly-mewma`: false alarms of healthy fleets, doubts about their calibrations, faults.

python -m tests.bench.mewma        (on SKAB: kizashi evaluate skab --data DIR --out DIR [--protocol cv])
"""

import argparse

import numpy as np

from engines import load_bundle, shipped_bundles
from engines.bundle import JudgeSpec, MewmaSpec
from pipeline.calibrate import Baseline, calibrate, ewma_step
from pipeline.plant.evaluate.skabcv import alarms

SPEC = load_bundle(shipped_bundles()["anomaly-mewma"]).spec
FLEET, ROWS = 24, 40_000


def healthy(rng: np.random.Generator, rows: int, channels: int, tails: int | None = None) -> np.ndarray:
    """Make (rows, FLEET, channels): first-order autoregressions up to 0.6, mixed; tails: of Student's t."""
    phi = rng.uniform(0, 0.6, (FLEET, channels))
    mix = np.eye(channels) + 0.5 * rng.normal(size=(FLEET, channels, channels)) / channels**0.5
    x, out = np.zeros((FLEET, channels)), np.empty((rows, FLEET, channels))
    for i in range(-50, rows):
        white = rng.standard_t(tails, x.shape) if tails else rng.normal(size=x.shape)
        x = phi * x + np.sqrt(1 - phi**2) * np.einsum("aij,aj->ai", mix, white)
        out[max(i, 0)] = x
    return out


def chart(x: np.ndarray, recipe: MewmaSpec, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Calibrate on the first rows of x (rows, assets, channels); return scores (rows after, assets) and the parts."""
    n = recipe.calibration_rows
    charts: list[Baseline] = [calibrate(x[:n, a], recipe, allowed) for a in range(x.shape[1])]
    keys = ("center", "scale", "whitening", "limit", "ewma")
    center, scale, whitening, limit, state = (np.stack([np.asarray(getattr(c, key)) for c in charts]) for key in keys)
    parts = np.empty((len(x) - n, *center.shape))
    for i, row in enumerate(x[n:]):
        state = ewma_step(state, row, center, scale, recipe.smoothing)
        parts[i] = np.einsum("aij,aj->ai", whitening, state) ** 2
    return parts.sum(2) / limit, parts


def judged(score: np.ndarray, judge: JudgeSpec) -> np.ndarray:
    """Return the state per row and asset: on-delay, off-delay and deadband."""
    return np.stack([alarms(column, judge) for column in score.T], axis=1)


def rises(state: np.ndarray) -> np.ndarray:
    return np.diff(np.vstack([np.zeros((1, state.shape[1]), bool), state]).astype(int), axis=0) == 1


def fleets() -> None:
    recipe = SPEC.mewma
    print(f"healthy fleets: {FLEET} assets, {ROWS} rows each after calibration\n{'':34s} rows over  false alarms")
    for name, channels, tails in (("8 channels, normal", 8, None), ("3 channels, normal", 3, None),
                                  ("1 channel, normal", 1, None), ("8 channels, Student t, 6 dof", 8, 6)):
        score, _ = chart(healthy(np.random.default_rng(1), ROWS + recipe.calibration_rows, channels, tails), recipe)
        print(f"  {name:32s} {np.mean(score >= 1):9.6f}  {rises(judged(score, SPEC.judge)).sum():12d}")


def faults() -> None:
    """Plant one fault in channel 2 of every asset, 300 rows after the calibration."""
    recipe, at, n = SPEC.mewma, 300, 400
    base = healthy(np.random.default_rng(2), recipe.calibration_rows + at + n, 8)
    grow = np.clip(np.arange(n) / 100, 0, 1)
    print(f"faults of one channel of 8, {FLEET} assets\n{'':34s} found  median delay, rows  right channel first")
    for name, shift, spread in (("step of 2 sd", 2.0, 1.0), ("step of 4 sd", 4.0, 1.0),
                                ("drift to 4 sd in 100 rows", 4 * grow, 1.0), ("noise times 4", 0.0, 4.0)):
        x = base.copy()
        late = x[-n:, :, 2]
        x[-n:, :, 2] = late.mean(0) + (late - late.mean(0)) * spread + np.reshape(shift, (-1, 1)) * x[:400, :, 2].std(0)
        score, parts = chart(x, recipe)
        state = judged(score, SPEC.judge)[at:]
        found = state.any(axis=0)
        first = state.argmax(axis=0)
        named = parts[at + first, np.arange(FLEET)].argmax(axis=1) == 2
        right = f"{named[found].sum():2d}/{found.sum()}"
        print(f"  {name:32s} {found.sum():2d}/{FLEET}  {np.median(first[found]):18.0f}  {right}")


def doubts() -> None:
    """Count suspect calibrations of healthy fleets, and of those with a step or a trend in channel 2 of 8."""
    recipe, rounds = SPEC.mewma, 20
    print(f"calibrations, {FLEET * rounds} assets each\n{'':34s} suspect  or channel dropped")
    for name, channels, tails, course in (
        ("8 channels, normal", 8, None, 0.0), ("3 channels, normal", 3, None, 0.0), ("1 channel, normal", 1, None, 0.0),
        ("8 channels, Student t, 6 dof", 8, 6, 0.0), ("32 channels, normal", 32, None, 0.0),
        *((f"step of {d:g} sd", 8, None, d * (np.arange(400) >= 150)) for d in (1, 2, 3, 4)),
        *((f"trend over {d:g} sd", 8, None, d * np.arange(400) / 400) for d in (1, 2, 3, 4)),
    ):
        suspect = either = 0
        for seed in range(rounds):
            x = healthy(np.random.default_rng(100 + seed), recipe.calibration_rows, channels, tails)
            for a in range(FLEET):
                rows = x[:, a].copy()
                if channels > 2:
                    rows[:, 2] += course * rows[:, 2].std()
                found = calibrate(rows, recipe)
                suspect += found.status != "good"
                either += found.status != "good" or not found.kept[min(2, channels - 1)]
        print(f"  {name:32s} {suspect / FLEET / rounds:8.4f}  {either / FLEET / rounds:8.4f}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    fleets()
    doubts()
    faults()


if __name__ == "__main__":
    main()
