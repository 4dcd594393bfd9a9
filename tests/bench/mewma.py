"""How good is `anomaly-mewma`: false alarms of healthy fleets, delay and first channel of faults, SKAB.

python -m tests.bench.mewma [--skab DIR]     (DIR: the SKAB data, folders valve1, valve2, other; or KIZASHI_SKAB)

SKAB protocol: rows 0-399 of a file calibrate, the rest is scored row by row, all files pooled; the alarm is the judge's
state. Leave one folder out: smoothing, tail, on- and off-delay are chosen on the other two folders.
"""

import argparse
import csv
import gzip
import itertools
import os
from pathlib import Path

import msgspec
import numpy as np

from engines import load_bundle, shipped_bundles
from engines.bundle import JudgeSpec, MewmaSpec
from pipeline.calibrate import Baseline, calibrate, ewma_step, usable

SPEC = load_bundle(shipped_bundles()["anomaly-mewma"]).spec
FLEET, ROWS = 24, 40_000
#: The choices that leave-one-folder-out may make.
GRID = {
    "smoothing": (0.08, 0.1, 0.12, 0.15), "exceedance": (1e-4, 2e-5, 5e-6),
    "on": ((3, 5), (6, 8), (8, 10)), "off": (20, 25, 30),
}  # fmt: skip


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
    """Return the state per row: on-delay, off-delay and deadband."""
    need, width = judge.on
    over = np.cumsum(np.vstack([np.zeros((width, score.shape[1])), score >= 1.0]), axis=0)
    recent = over[width:] - over[:-width]
    active, below = np.zeros(score.shape[1], bool), np.zeros(score.shape[1], int)
    state = np.empty(score.shape, bool)
    for i, row in enumerate(score):
        below = np.where(row < 1.0 - judge.deadband, below + 1, 0)
        state[i] = active = np.where(active, below < judge.off, (row >= 1.0) & (recent[i] >= need))
    return state


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


def read_skab(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return name -> (values (rows, 8), anomaly (rows,))."""
    files = {}
    for path in sorted(p for f in ("other", "valve1", "valve2") for p in (folder / f).glob("*.csv*")):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        head, *rows = csv.reader(text.decode().splitlines(), delimiter=";")
        table = np.array([row[1:] for row in rows], float)
        files[f"{path.parent.name}/{path.stem}"] = table[:, :8], table[:, head.index("anomaly") - 1] == 1
    return files


def confusion(files: dict, recipe: MewmaSpec, judges: list[JudgeSpec]) -> np.ndarray:
    """Return (judges, files, 3 + 1): true alarms, false alarms, missed rows, quiet rows."""
    slow = usable(["vibration"] * 2 + ["current", "pressure", "temperature", "temperature", "voltage", "flow"], recipe)
    out = np.empty((len(judges), len(files), 4))
    for f, (x, anomaly) in enumerate(files.values()):
        score, _ = chart(x[:, None], recipe, slow)
        truth = anomaly[recipe.calibration_rows:]
        for j, judge in enumerate(judges):
            alarm = judged(score, judge)[:, 0]
            out[j, f] = [(alarm & truth).sum(), (alarm & ~truth).sum(), (~alarm & truth).sum(), (~alarm & ~truth).sum()]
    return out


def figures(counts: np.ndarray) -> tuple[float, float, float]:
    """Return F1, false alarm rate and missed alarm rate in percent."""
    hit, false, missed, quiet = counts.sum(axis=0)
    return hit / (hit + (false + missed) / 2), 100 * false / (false + quiet), 100 * missed / (hit + missed)


def goal(counts: np.ndarray) -> float:
    """F1, less what either rate exceeds 18 %: an F1 bought by alarming most of the time is worth nothing."""
    f1, far, mar = figures(counts)
    return f1 - 0.005 * max(0.0, far - 18) - 0.005 * max(0.0, mar - 18)


def skab(folder: Path) -> None:
    files = read_skab(folder)
    groups = np.array([name.partition("/")[0] for name in files])
    own = confusion(files, SPEC.mewma, [SPEC.judge])[0]
    print(f"SKAB, {len(files)} files{'':24s}     F1   FAR %  MAR %")
    for name, mask in (("all files, as shipped", groups != ""), *((f"  {g}", groups == g) for g in np.unique(groups))):
        print("  {:36s} {:6.3f}  {:5.1f}  {:5.1f}".format(name, *figures(own[mask])))
    judges = [msgspec.structs.replace(SPEC.judge, on=on, off=off)
              for on, off in itertools.product(GRID["on"], GRID["off"])]
    recipes = [msgspec.structs.replace(SPEC.mewma, smoothing=s, exceedance=e)
               for s, e in itertools.product(GRID["smoothing"], GRID["exceedance"])]
    every = np.concatenate([confusion(files, recipe, judges) for recipe in recipes])
    choices = [(r.smoothing, r.exceedance, j.on, j.off) for r in recipes for j in judges]
    held = []
    for group in np.unique(groups):
        best = max(range(len(every)), key=lambda k, g=group: goal(every[k][groups != g]))
        held.append(every[best][groups == group])
        print("  {:36s} {:6.3f}  {:5.1f}  {:5.1f}  {}".format(f"  {group} held out", *figures(held[-1]), choices[best]))
    print("  {:36s} {:6.3f}  {:5.1f}  {:5.1f}".format("leave one folder out", *figures(np.concatenate(held))))
    spread = np.array([figures(c) for c in every])
    print("  {:36s} {}".format("all choices, 10th to 90th percentile", "  ".join(
        f"{a:.3g}-{b:.3g}" for a, b in zip(*np.percentile(spread, (10, 90), axis=0), strict=True))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skab", type=Path, default=os.environ.get("KIZASHI_SKAB"))
    folder = parser.parse_args().skab
    fleets()
    faults()
    if folder:
        skab(Path(folder))
    else:
        print("SKAB: not measured, no --skab DIR")


if __name__ == "__main__":
    main()
