"""How good is `rul-ewma`: cross-validation over training engines, then NASA's test engines, joined early and late.

python -m tests.bench.rul [--data DIR] [--part cv|separate|test|cost ...] [--seeds N] [--out DIR] [--bundle DIR]

DIR: train_FD00k.txt, test_FD00k.txt, RUL_FD00k.txt (or .gz) of C-MAPSS; or KIZASHI_CMAPSS. --out keeps pred_FD00k.csv
(unit, cycle, rul, rul_lo, rul_hi for every cycle) per seed. All choices were made by `cv`; `test` is for the record.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from engines.recipes import rul_bundle
from engines.recipes.rul_ewma import HeldOut, Recipe, fit, fit_band, fit_once, held_out
from engines.recipes.rul_graph import OUTPUTS, build
from engines.recipes.rul_model import CAP, FEW, KNOWN, RulModel, forecast, interval
from engines.recipes.rul_state import History, digest, run
from pipeline.plant import cmapss

COUNTED = 20
CUTS = (1, 2, 3)
BARS = {"FD001": 10.8, "FD002": 12.0, "FD003": 11.0, "FD004": 12.8}


def rmse(error: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Root of the weighted mean square."""
    return float(np.sqrt(np.average(error**2, weights=weight))) if len(error) else float("nan")


def cross_validated(histories: Sequence[History], recipe: Recipe, seen: dict[int, HeldOut], late: int = 60) -> None:
    """Print RMSE (capped; engines count alike, each cycle from the 20th) and coverage of engines left out.

    The interval is calibrated on these same engines: the test engines tell whether it holds for others.
    """
    band = fit_band(seen[0])
    group = np.array([h.group for h in histories])
    rows = {"whole": _counted(seen[0], COUNTED), "late": seen[late]}
    rows["late"] = rows["late"].where(rows["late"].count >= recipe.late)
    rows["same"] = seen[0].where(seen[0].cycle >= late + recipe.late)
    names = {"whole": "joined at birth", "same": f"  the same, cycle >= {late + recipe.late}",
             "late": f"joined after {late}, answered"}  # fmt: skip
    for key in ("whole", "same", "late"):
        part = rows[key]
        truth, weight = np.minimum(part.rul, CAP), part.weight()
        low, high = interval(band, part.mean, part.low, part.high)
        inside, worn = (truth >= low) & (truth <= high), part.rul <= 50
        masks = [group[part.owner] == g for g in sorted(set(group))]
        by = " ".join(f"{rmse((part.mean - truth)[m], weight[m]):6.2f}" for m in masks)
        cover, low_cover = np.average(inside, weights=weight), np.average(inside[worn], weights=weight[worn])
        print(f"  {names[key]:30s} {by}   coverage {cover:.1%}, RUL <= 50 {low_cover:.1%}, "
              f"width {np.average(high - low, weights=weight):.1f}", flush=True)


def _counted(seen: HeldOut, cycle: int) -> HeldOut:
    return seen.where(seen.cycle >= cycle)


def unconditional_width(histories: Sequence[History]) -> float:
    """Return p90 - p10 of the capped remaining life at random cuts of each engine: what knowing nothing would tell."""
    lives = [np.minimum(h.rul(), CAP) for h in histories]
    weight, values = np.concatenate([np.full(len(x), 1 / len(x)) for x in lives]), np.concatenate(lives)
    order = np.argsort(values)
    share = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][np.searchsorted(share, 0.9)] - values[order][np.searchsorted(share, 0.1)])


def cut(histories: Sequence[History], seed: int | None) -> np.ndarray:
    """Return how many last cycles of each engine of one subset are hidden: 0 to 40, at least 20 stay."""
    if seed is None:
        return np.zeros(len(histories), int)
    rng = np.random.default_rng(seed)
    return np.array([int(rng.integers(0, max(1, min(40, len(h.rows) - 20) + 1))) for h in histories])


def test_engines(data: Path, model: RulModel, out: Path | None) -> dict[str, dict[str, np.ndarray]]:
    """Forecast every cycle of the test engines, without labels; per subset and start: truth and forecast at the end."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for subset in cmapss.subsets_in(data):
        blind = cmapss.test(data, (subset,))
        said = forecast(model, rows := run(blind))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            with (out / f"pred_{subset}.csv").open("w") as file:
                file.write("unit,cycle,rul,rul_lo,rul_hi,unknown\n")
                for i in range(len(rows.owner)):
                    file.write(f"{cmapss.unit_of(blind[rows.owner[i]])},{rows.last[i, 0]:g},{said.rul[i]:.4f},"
                               f"{said.p10[i]:.4f},{said.p90[i]:.4f},{said.unknown[i]}\n")
        left = np.array([h.remaining for h in cmapss.test(data, (subset,), labels=True)], float)
        for key, seed, start in (("end", None, 0), *((f"cut {n}", n, 0) for n in CUTS), ("late 60", None, 60)):
            hidden = cut(blind, seed)
            long = [i for i, h in enumerate(blind) if len(h.rows) - hidden[i] > start]
            part = [History(blind[i].name, blind[i].rows[start : len(blind[i].rows) - hidden[i]]) for i in long]
            states = run(part)
            last = np.flatnonzero(np.diff(np.append(states.owner, -1)))
            told = forecast(model, states)
            said_last = [column[last] for column in (told.rul, told.p10, told.p90, told.unknown)]
            found.setdefault(key, {})[subset] = np.column_stack([(left + hidden)[long], *said_last, long])
    return found


def report_test(scores: list[dict[str, dict[str, np.ndarray]]]) -> None:
    """Print the table of all seeds."""
    subsets = list(scores[0]["end"])
    for key in scores[0]:
        values = np.array([[_figure(s[key][k]) for k in subsets] for s in scores])  # (seeds, subsets, figures)
        print(f"\n{key}: RMSE capped mean (sd; seed 0) | RMSE raw | NASA score capped")
        for j, subset in enumerate(subsets):
            m, sd = values[:, j].mean(axis=0), values[:, j].std(axis=0, ddof=1) if len(scores) > 1 else [np.nan] * 3
            print(f"  {subset} {m[0]:6.2f} ({sd[0]:.2f}; {values[0, j, 0]:.2f}) must {BARS[subset]} | {m[1]:6.2f} | "
                  f"{m[2]:6.0f}")
        pooled = [np.concatenate([s[key][k] for k in subsets]) for s in scores]
        cover, worn, width = np.array([_coverage(p) for p in pooled]).T
        by = ", ".join(f"{c:.1%}" for c in cover)
        print(f"  80 % interval pooled over {len(pooled[0])}: {cover.mean():.1%} ({by}), RUL <= 50 {worn.mean():.1%}, "
              f"width {width.mean():.1f}")
        unknown = np.bincount(pooled[0][:, 4].astype(int), minlength=4)
        print(f"  seed 0: {unknown[0]} known, {unknown[1]} not enough history, {unknown[2]} outside, {unknown[3]} bad")
        if key == "late 60":
            _late(scores, subsets)


def _late(scores: list[dict[str, dict[str, np.ndarray]]], subsets: list[str]) -> None:
    for name, worst in (("answered", KNOWN), ("all with a sample", FEW)):
        ratios, covers = [], []
        for s in scores:
            late = [s["late 60"][k] for k in subsets]
            kept = [x[x[:, 4] <= worst] for x in late]
            same = [s["end"][k][x[:, 5].astype(int)] for k, x in zip(subsets, kept, strict=True)]
            ratios.append([_figure(x)[0] / _figure(y)[0] for x, y in zip(kept, same, strict=True)])
            covers.append(_coverage(np.concatenate(kept))[0])
        by = " ".join(f"{r:.2f}" for r in np.mean(ratios, axis=0))
        print(f"  {name} ({sum(map(len, kept))}): RMSE / RMSE of the same engines joined at birth {by}, coverage "
              f"{np.mean(covers):.1%}")


def _figure(x: np.ndarray) -> tuple[float, float, float]:
    truth, told = x[:, 0], x[:, 1]
    d = told - np.minimum(truth, CAP)
    return rmse(d), rmse(told - truth), float(np.where(d < 0, np.expm1(-d / 13), np.expm1(d / 10)).sum())


def _coverage(x: np.ndarray) -> tuple[float, float, float]:
    truth = np.minimum(x[:, 0], CAP)
    inside = (truth >= x[:, 2]) & (truth <= x[:, 3])
    return float(inside.mean()), float(inside[x[:, 0] <= 50].mean()), float((x[:, 3] - x[:, 2]).mean())


def cost(model: RulModel, histories: Sequence[History]) -> None:
    """Print size and latency on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(raw := build(model), options, providers=["CPUExecutionProvider"])
    rows = run(histories[:4]).inputs()
    for size, repeats in ((1, 3000), (256, 200)):
        batch, took = {k: v[:size] for k, v in rows.items()}, []
        for _ in range(repeats):
            began = time.perf_counter()
            session.run(list(OUTPUTS), batch)
            took.append(time.perf_counter() - began)
        p50, p99 = np.percentile(took[20:], (50, 99)) * 1e3
        print(f"  {size} rows: p50 {p50:.3f} ms, p99 {p99:.3f} ms")
    print(f"  model.onnx {len(raw) / 1000:.1f} kB, {model.parameters} parameters")


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("KIZASHI_CMAPSS"))
    parser.add_argument("--part", nargs="*", default=["cv", "separate", "test", "cost"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--bundle", type=Path, help="write the bundle of seed 0 into this folder")
    args = parser.parse_args()
    if args.data is None:
        print("skipped: C-MAPSS is not here; give --data DIR or KIZASHI_CMAPSS")
        return
    data, recipe = Path(args.data), Recipe()
    histories = cmapss.train(data)
    print(f"{len(histories)} training engines, SHA-256 {digest(histories)[:12]}, {recipe}")
    print(f"p90 - p10 of capped remaining life at a random cut: {unconditional_width(histories):.1f}")
    scores, model = [], None
    for seed in range(args.seeds if {"cv", "test"} & set(args.part) else 0):
        began = time.perf_counter()
        fitted, seen = fit(histories, seed, recipe, (0, 60))
        if model is None:
            model = fitted
            if args.bundle is not None:
                rul_bundle.write(args.bundle, model, histories[::60], rul_bundle.CARD)
        print(f"cross-validation, joint, seed {seed}: {' '.join(cmapss.SUBSETS)}; {time.perf_counter() - began:.0f} s")
        cross_validated(histories, recipe, seen)
        if "test" in args.part:
            scores.append(test_engines(data, fitted, args.out and args.out / f"seed{seed}"))
    for subset in cmapss.SUBSETS if "separate" in args.part else ():
        print(f"cross-validation, {subset} alone", flush=True)
        alone = [h for h in histories if h.group == subset]
        cross_validated(alone, recipe, held_out(alone, 0, recipe, (0, 60)))
    if scores:
        report_test(scores)
    if "cost" in args.part:
        cost(model or fit_once(histories[::20], 0, recipe), histories)


if __name__ == "__main__":
    main()
