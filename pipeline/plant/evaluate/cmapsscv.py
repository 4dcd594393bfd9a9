"""C-MAPSS by cross-validation: fitted anew per fold and seed, inside the training engines; then each seed's test score.

No choice is made by the test engines: they are scored once a seed, for the record, beside the cross-validated figures.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engines.recipes.rul_model import CAP, Band, RulModel, forecast, interval
from engines.recipes.rul_state import digest, run
from pipeline.errors import InputError
from pipeline.plant import cmapss
from pipeline.plant.evaluate import Options
from pipeline.plant.evaluate.bootstrap import Interval
from pipeline.plant.evaluate.bootstrap import interval as interval_over
from pipeline.plant.evaluate.cmapssreport import BARS, CUTS, Fleet, Points, Told
from pipeline.plant.evaluate.given import SHOWN
from pipeline.plant.evaluate.report import Report, Section
from pipeline.plant.evaluate.table import Table

if TYPE_CHECKING:
    from engines.recipes.rul_ewma import HeldOut

F64 = NDArray[np.float64]
#: A forecast counts from this flight on; the bundle answers from the 20th sample on.
_COUNTED = 20
_LATE = 60


def cross_validation(data: Path, fleets: Sequence[Fleet], options: Options, report: Report) -> Section:
    """Fit and score `options.seeds` seeds; the section of their tables. Raises InputError without training files."""
    from engines.recipes.rul_ewma import Recipe, fit  # needs jax, extra `train`

    subsets = cmapss.subsets_in(data, "train")
    if not subsets:
        raise InputError(f"{data}: holds no train_FD00k.txt: there is nothing to cross-validate on")
    histories, recipe = cmapss.train(data, subsets), Recipe()
    group = np.array([h.group for h in histories])
    report.facts += [("training engines", f"{len(histories)}, SHA-256 {digest(histories)[:SHOWN]}"),
                     ("seeds", ", ".join(map(str, range(options.seeds)))), ("recipe", repr(recipe))]
    scored = [f for f in fleets if f.left is not None]
    rows: list[list[F64]] = []
    for seed in range(options.seeds):
        model, seen = fit(histories, seed, recipe, lambda share, line, at=seed: options.progress(  # type: ignore[misc]
            (at + share) / options.seeds, f"seed {at}: {line}"))
        band = model.band
        whole = seen[0].where(seen[0].cycle >= _COUNTED)
        late = seen[_LATE].where(seen[_LATE].count >= model.envelope.needed(seen[_LATE].missed, seen[_LATE].mean))
        same = seen[0].where(np.isin(_flights(seen[0]), _flights(late)))
        inside, width = _held(band, whole)
        late_held = [100 * np.average(_held(band, part)[0], weights=part.weight()) if len(part.mean) else np.nan
                     for s in subsets for part in [late.where(group[late.owner] == s)]]
        held = [100 * np.average(inside[m], weights=whole.weight()[m]) for m in (slice(None), whole.rul <= 50)]
        told = [_forecast(model, f) for f in scored]
        test = [[float(np.sqrt(np.mean((p.rul - p.capped) ** 2))) for f in told for p in [Points.of(f, cut)]]
                for cut in (None, *CUTS)]
        rows.append([np.array(_by(whole, group, subsets)), np.array(_by(late, group, subsets)) /
                     np.array(_by(same, group, subsets)), np.array([*held, np.average(width, weights=whole.weight())]),
                     np.array(test), np.array(late_held)])
        if seed == 0:
            first = [_interval(whole, group == s) for s in subsets], _interval(whole, group != "", inside)
    tables = _tables(rows, subsets, scored)
    tables[0].add("RMSE, seed 0, with its interval over engines", *first[0])
    tables[1].add("seed 0, with its interval over engines", first[1], None, None)
    return Section("Cross-validation over whole training engines", f"{options.seeds} seeds, {recipe.folds} folds each; "
                   "the choices of the recipe rest on these figures.", tables)


def _flights(seen: "HeldOut") -> F64:
    """Number the flights over all engines."""
    return np.asarray(seen.owner * 1e6 + seen.cycle)


def _held(band: Band, seen: "HeldOut") -> tuple[NDArray[np.bool_], F64]:
    """Return which intervals hold the capped truth, and their widths."""
    low, high = interval(band(seen.mean, seen.missed), seen.mean, seen.low, seen.high)
    truth = np.minimum(seen.rul, CAP)
    return (truth >= low) & (truth <= high), high - low


def _interval(seen: "HeldOut", engines: NDArray[np.bool_], inside: NDArray[np.bool_] | None = None) -> Interval:
    """Return the capped RMSE, or how many percent are `inside`, over some engines, with its interval."""
    value = (seen.mean - np.minimum(seen.rul, CAP)) ** 2 if inside is None else 100.0 * inside
    total, count = (np.bincount(seen.owner, w, len(engines)) for w in (value, np.ones(len(value))))
    each = (total / np.maximum(count, 1))[engines & (count > 0)]
    root = np.sqrt if inside is None else np.asarray
    return interval_over(len(each), lambda i: float(root(each[i].mean())) if len(i) else float("nan"))


def _by(seen: "HeldOut", group: NDArray[np.str_], subsets: Sequence[str]) -> list[float]:
    """Return the capped RMSE per subset; engines count alike."""
    of, error, weight = group[seen.owner], seen.mean - np.minimum(seen.rul, CAP), seen.weight()
    return [float(np.sqrt(np.average(error[of == s] ** 2, weights=weight[of == s]))) if (of == s).any() else np.nan
            for s in subsets]


def _forecast(model: RulModel, fleet: Fleet) -> Fleet:
    """Return the fleet with the forecasts of a model that has no bundle."""
    states = run([e.history("") for e in fleet.engines])
    told = forecast(model, states)
    each = [Told(told.rul[m], told.p10[m], told.p90[m], told.unknown[m], [""] * int(m.sum()))
            for i in range(len(fleet.engines)) for m in [states.owner == i]]
    return replace(fleet, told=each)


def _tables(rows: Sequence[Sequence[F64]], subsets: Sequence[str], scored: Sequence[Fleet]) -> list[Table]:
    def spread(values: F64) -> list[str]:
        sd = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)
        columns = zip(values.mean(axis=0), sd, values[0], strict=True)
        return [f"{mean:.2f} ({s:.2f}; {first:.2f})" for mean, s, first in columns]

    table = Table("Mean (sd over seeds; seed 0)", ("", *subsets), note="RMSE in flights, labels capped at 125; each "
                  "flight from the 20th of engines left out, engines count alike")
    table.add("RMSE of engines left out", *spread(np.array([r[0] for r in rows])))
    table.add("joined 60 flights late and answered: RMSE / RMSE of the same known from birth",
              *spread(np.array([r[1] for r in rows])))
    table.add("the same, interval holds %", *spread(np.array([r[4] for r in rows])))
    held = Table("80 % interval of engines left out", ("", "holds %", "where RUL <= 50, %", "mean width"),
                 note="calibrated on these same engines: the test engines tell whether it holds for others")
    held.add("mean (sd; seed 0)", *spread(np.array([r[2] for r in rows])))
    tables = [table, held]
    if scored:
        test = Table("Test engines by the models of all seeds, RMSE capped: mean (sd; seed 0)",
                     ("", *(f.subset for f in scored)), note="scored once a seed, no choice was made by it")
        for k, name in enumerate(("last flight", *(f"cut, seed {n}" for n in CUTS))):
            test.add(name, *spread(np.array([r[3][k] for r in rows])))
        test.add("must, last flight", *(BARS[f.subset] for f in scored), kind="bar")
        tables.append(test)
    return tables
