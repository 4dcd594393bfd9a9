"""Train `bearing-order`: real recordings, the same bent and moved, and a simulator's bearings of any geometry.

Four rules keep the model on the physics:
- *A defect must show, and no other.* A window of an inner or outer race whose own comb does not stand above chance
  teaches only what the rig sounds like on that day; a window of a ball that shows a race's comb teaches to ignore it.
  Such windows are left out of training (never out of a test). What is left for a ball is often "faulty, and no race".
- *The rig must not matter.* Copies with a random response and another speed count half as much as the recordings.
- *Healthy is healthy under any geometry.* Healthy windows, bent ones too, come again under the lines of other bearings,
  some of which fall on shaft orders; without that a healthy machine said to carry a 6203 was faulty 93 times in 100.
- *A defect is its lines.* Simulated impacts of any geometry are planted in the rig's own healthy noise, so that noise
  and spectrum alone speak for nothing: on bearings left out the head is less often sure and wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from engines.base import Array
from engines.recipes import bearing_head
from engines.recipes.bearing_front import FEATURES
from engines.recipes.bearing_head import CLASSES, Head
from engines.recipes.bearing_windows import Windows, check, join, misplaced, shifted

Extract = Callable[[Array, Array], Array]  # samples (n, 12000), lines_hz (n, 5) -> features (n, F)

BALL = CLASSES.index("ball")
_OWN = {1: FEATURES.index("inner_mean"), 3: FEATURES.index("outer_mean")}


@dataclass(frozen=True, slots=True)
class Options:
    """penalty of the head; bent, simulated, planted: weight of each beside the recordings' 1.

    In nepers: evidence, least height of the own comb for a race's window to be trained on, real and simulated (healthy
    windows stay below 0.15); foreign: greatest height of a race's comb for a real ball's window.
    """

    penalty: float = 0.003
    bent: float = 0.5
    simulated: float = 1.0
    planted: float = 1.0
    evidence: float = 0.3
    evidence_simulated: float = 0.1
    foreign: float = 0.2


# What the choice inside the training part is made from.
CHOICES = tuple(Options(bent=b, simulated=s) for b in (0.25, 0.5) for s in (0.5, 1.0))


@dataclass(frozen=True, slots=True)
class Table:
    """Rows ready to be trained on: features (n, F), label (n), row (n): which of the windows it was made of."""

    features: Array
    label: Array
    row: Array

    def of(self, rows: Array) -> "Table":
        """Return what was made of the windows in the mask `rows`."""
        keep = rows[self.row]
        return Table(self.features[keep], self.label[keep], self.row[keep])


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that is made of the real windows once, before any split: each row knows its window.

    No number here is fitted to more than one window, so a split of windows splits all of it.
    """

    real: Table
    bent: tuple[Table, ...]
    probe: Table  # moved once more, for choosing: not trained on
    misplaced: Table
    simulated: Table
    planted: Table


def material(real: Windows, simulated: Windows, planted: tuple[Windows, Array], extract: Extract,
             seed: int) -> Material:  # fmt: skip
    """Return the features of all rows and of what is made of them.

    planted: healthy windows with simulated impacts, and which of the real ones each was made of.
    """
    rng = np.random.default_rng(seed)

    def table(rows: Windows, origin: Array) -> Table:
        return Table(extract(rows.plain().samples, rows.lines_hz), rows.label, origin)

    every = np.arange(len(real))
    healthy = every[real.label == 0]
    bent = tuple(table(shifted(rng, real), every) for _ in range(2))
    probe = table(shifted(rng, real, 4.0), every)
    copies, plain = 2, real.take(healthy)
    other = join([misplaced(rng, plain.plain(), copies), misplaced(rng, shifted(rng, plain), 1)])
    others = table(other, np.concatenate([np.repeat(healthy, copies), healthy]))
    return Material(table(real, every), bent, probe, others, table(simulated, np.arange(len(simulated))),
                    table(*planted))  # fmt: skip


def train(what: Material, rows: Array, options: Options, seed: int) -> Head:
    """Return the head trained on the windows in the mask `rows` and all simulated ones."""
    real, other = what.real.of(rows), what.misplaced.of(rows)
    real = Table(np.concatenate([real.features, other.features]), np.concatenate([real.label, other.label]), real.row)
    own, made = (options.evidence, options.foreign), (options.evidence_simulated, np.inf)
    parts = [(real, 1.0, own), (what.simulated, options.simulated, made),
             (what.planted.of(rows), options.planted, made)]  # fmt: skip
    parts += [(t.of(rows), options.bent / len(what.bent), own) for t in what.bent]
    features, labels, weights = [], [], []
    for table, weight, (evidence, foreign) in parts:
        keep = _teaches(table, evidence, foreign)
        label = table.label[keep]
        count = np.bincount(label, minlength=4)
        features.append(table.features[keep])
        labels.append(label)
        weights.append(weight / np.maximum(count, 1)[label])  # each class as much as any other
    return bearing_head.fit(np.concatenate(features), np.concatenate(labels), np.concatenate(weights),
                            options.penalty, seed)  # fmt: skip


def _teaches(table: Table, evidence: float, foreign: float) -> Array:
    """Return the mask of rows whose defect shows, and shows as no other (module docstring)."""
    keep = np.ones(len(table.label), np.bool_)
    for label, column in _OWN.items():
        height = table.features[:, column]
        keep &= (table.label != label) | (height > evidence)
        keep &= (table.label != BALL) | (height < foreign)
    return keep


def balanced(labels: Array, predicted: Array) -> float:
    """Return the mean recall over the classes that occur."""
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))


def choose(what: Material, inner: list[tuple[Array, Array]], seed: int) -> tuple[Options, float]:
    """Return the best of CHOICES over the inner (training, test) masks, and the limit beyond which it says "unknown".

    Judged by balanced accuracy on recordings and on moved copies alike. The limit keeps 90 % of right answers.
    """
    best: tuple[float, Options, float] | None = None
    for options in CHOICES:
        labels, plain, moved = [], [], []
        for rows, test in inner:
            head = train(what, rows, options, seed)
            labels.append(what.real.of(test).label)
            plain.append(head.probabilities(what.real.of(test).features))
            moved.append(head.probabilities(what.probe.of(test).features))
        y, p, q = np.concatenate(labels), np.concatenate(plain), np.concatenate(moved)
        value = balanced(y, p.argmax(1)) + balanced(y, q.argmax(1))
        right = p.argmax(1) == y
        limit = float(np.clip(np.quantile(1 - p.max(1)[right], 0.9), 0.1, 0.6))
        if best is None or value > best[0] + 1e-9:
            best = (value, options, limit)
    assert best is not None
    return best[1], best[2]


def nested(what: Material, windows: Windows, split: tuple[Array, Array], inner: list[tuple[Array, Array]],
           seed: int) -> tuple[Head, Options]:  # fmt: skip
    """Return the head for one outer fold: everything is chosen on `inner` folds, which lie inside its training part.

    Raises LeakError if the outer split leaks or an inner one touches the outer test.
    """
    rows, test = split
    check(windows.take(rows), windows.take(test).plain())
    for a, b in inner:
        check(windows.take(a), windows.take(b).plain())
        check(windows.take(a | b), windows.take(test).plain())
    options, limit = choose(what, inner, seed)
    return replace(train(what, rows, options, seed), limit=limit), options
