"""`kizashi train rul-ewma`: from C-MAPSS's run-to-failure engines to the bundle that forecasts remaining life."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from engines.recipes.rul_state import History, SplitLeaks, digest, fingerprint
from pipeline.errors import InputError
from pipeline.plant import cmapss
from pipeline.plant.evaluate.given import sha256
from pipeline.plant.train import Job, refuse_leak, refuse_twins

if TYPE_CHECKING:
    from engines.recipes.rul_ewma import HeldOut, Recipe

#: `rul_state.digest` of NASA's four training files: the data of the shipped bundle, whose card has its figures.
SHIPPED_DATA = "46ac8999a343"
#: Every 60th engine of NASA's 709 gives golden vectors: 12 engines, some of each subset.
_GOLDEN = 12
#: Engines of a trial: enough to learn that the sensors tell the end, in seconds.
_SAMPLE = 60


def train(job: Job) -> None:
    """Read train_FD00k.txt, fit on whole engines, calibrate the interval on engines left out, write the bundle.

    An engine of test_FD00k.txt that is among those of train_FD00k.txt is refused: it could not be scored on.
    """
    from engines.recipes import rul_bundle
    from engines.recipes.rul_ewma import Recipe, fit

    subsets = cmapss.subsets_in(job.data, "train")
    if not subsets:
        raise InputError(f"{job.data}: holds no train_FD00k.txt or .txt.gz (k from 1 to 4)")
    histories, recipe = cmapss.train(job.data, subsets), Recipe()
    if job.sample:
        histories, recipe = histories[:: max(1, len(histories) // _SAMPLE)], _quick(recipe)
    _refuse_leaks(histories, cmapss.test(job.data, cmapss.subsets_in(job.data)))
    if len(histories) < 2 * recipe.folds:
        raise InputError(f"{job.data}: {len(histories)} engines, the interval needs {2 * recipe.folds} at least")
    data = digest(histories)
    work = job.work(recipe=repr(recipe), data=data, layout=2)
    try:
        model, seen = fit(histories, job.seed, recipe, job.progress, work.once)
    except SplitLeaks as error:
        raise InputError(f"{job.data}: {error}") from error
    job.progress(1.0, "golden vectors and passport")
    shipped = data.startswith(SHIPPED_DATA) and job.seed == 0 and not job.sample
    figures = cross_validated(histories, seen[0])
    card = rul_bundle.CARD if shipped else _own_card(job, histories, figures)
    trained_on = {f"train_{s}.txt": sha256(cmapss.path_of(job.data, f"train_{s}.txt")) for s in subsets}
    for subset in subsets:
        heads = [fingerprint(h) for h in histories if h.group == subset]
        for part in range(0, len(heads), 400):  # a text of a card has 4096 characters
            trained_on[f"engines of {subset} from {part + 1}"] = " ".join(heads[part : part + 400])
    rul_bundle.write(job.out, model, histories[:: max(1, -(-len(histories) // _GOLDEN))], card, trained_on)
    job.facts += [f"{len(histories)} engines of {', '.join(subsets)}, SHA-256 {data[:12]}, seed {job.seed}", figures,
                  f"{model.parameters} parameters"]


def cross_validated(histories: Sequence[History], seen: "HeldOut") -> str:
    """Say how far off forecasts of engines left out were: capped RMSE from the 20th cycle, engines count alike."""
    counted = seen.where(seen.cycle >= 20)
    group = np.array([h.group for h in histories])[counted.owner]
    error, weight = counted.mean - np.minimum(counted.rul, 125.0), counted.weight()
    by = (f"{s} {float(np.sqrt(np.average(error[group == s] ** 2, weights=weight[group == s]))):.2f}"
          for s in sorted(set(group)))
    return "cross-validation, RMSE in cycles, labels capped at 125: " + ", ".join(by)


def _refuse_leaks(fitted: Sequence[History], held_out: Sequence[History]) -> None:
    """By rows: an engine cut shorter or joined later is the same engine, also when two of a file are one."""
    rows = _rows(fitted)
    refuse_leak("unit", rows, _rows(held_out))
    refuse_twins("unit", rows)


def _rows(histories: Sequence[History]) -> Mapping[str, list[str]]:
    return {h.name: [str(hash(row.tobytes())) for row in h.rows] for h in histories}


def _quick(recipe: "Recipe") -> "Recipe":
    return replace(recipe, net=replace(recipe.net, members=2, hidden=(16, 8), steps=400), folds=3)


def _own_card(job: Job, histories: Sequence[History], figures: str) -> dict[str, str]:
    """Return a card that says no more than what this training has shown."""
    from engines.recipes import rul_bundle

    trial = " A trial on some of the engines with few steps: not for use." if job.sample else ""
    return dict(rul_bundle.CARD) | {
        "protocol": f"\nTrained by `kizashi train rul-ewma` on {len(histories)} run-to-failure engines, seed "
                    f"{job.seed}, labels capped at 125. The interval is calibrated on engines "
                    f"that the net had not seen.{trial}",
        "figures": f"\n{figures}. Not yet scored on engines of their own: `kizashi evaluate cmapss` does.",
        "failures": "\nNot yet known: made from data of your own.",
    }
