"""rul-ewma: one net for all four subsets against a net for each, by cross-validation; size and latency of the bundle.

KIZASHI_CMAPSS: folder with train_FD00k.txt (or .gz); without it only the cost of the shipped bundle is measured. All
other figures: `kizashi evaluate cmapss`, with --protocol cv for those that choices rest on.
"""

import os
import time
from pathlib import Path

import numpy as np

from engines import open_engine
from engines.bundle import load_bundle, shipped_bundles
from engines.recipes.rul_ewma import Recipe, held_out
from engines.recipes.rul_state import History, digest
from pipeline.plant import cmapss
from pipeline.plant.train.rul_ewma import cross_validated


def unconditional_width(histories: list[History], cap: float = 125.0) -> float:
    """Return p90 - p10 of the capped remaining life at random cuts of each engine: what knowing nothing would tell."""
    lives = [np.minimum(h.rul(), cap) for h in histories]
    weight, values = np.concatenate([np.full(len(x), 1 / len(x)) for x in lives]), np.concatenate(lives)
    order = np.argsort(values)
    share = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][np.searchsorted(share, 0.9)] - values[order][np.searchsorted(share, 0.1)])


def joint_against_separate(data: Path) -> None:
    """Print cross-validated errors of one net for all subsets, and of a net per subset; seed 0."""
    histories = cmapss.train(data)
    print(f"{len(histories)} training engines, SHA-256 {digest(histories)[:12]}, seed 0")
    print(f"p90 - p10 of capped remaining life at a random cut: {unconditional_width(histories):.1f} flights")
    print("one net:      ", cross_validated(histories, held_out(histories, 0, Recipe())[0]), flush=True)
    for subset in cmapss.SUBSETS:
        alone = [h for h in histories if h.group == subset]
        print("a net for each:", cross_validated(alone, held_out(alone, 0, Recipe())[0]), flush=True)


def cost() -> None:
    """Print size and latency of the shipped bundle on one thread."""
    bundle = load_bundle(shipped_bundles()["rul-ewma"])
    assert bundle.golden is not None
    engine = open_engine("onnx_cpu", bundle)
    cases = bundle.golden.cases
    rows = {name: np.concatenate([c.inputs[name] for c in cases]) for name in cases[0].inputs}
    for size, repeats in ((1, 3000), (256, 200)):
        batch, took = {k: np.ascontiguousarray(v[:size]) for k, v in rows.items()}, []
        for _ in range(repeats):
            began = time.perf_counter()
            engine.infer(batch)
            took.append(time.perf_counter() - began)
        p50, p99 = np.percentile(took[20:], (50, 99)) * 1e3
        print(f"{size} rows: p50 {p50:.3f} ms, p99 {p99:.3f} ms")
    print(f"model.onnx {len(bundle.model) / 1000:.1f} kB")


if __name__ == "__main__":
    cost()
    folder = os.environ.get("KIZASHI_CMAPSS")
    if folder is None:
        print("one net against four: skipped, C-MAPSS is not here (KIZASHI_CMAPSS names no folder)")
    else:
        joint_against_separate(Path(folder))
