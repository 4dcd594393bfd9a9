"""Evaluation: a public data set through the production flow, its prediction files, a table and a page.

To add a set NAME, list it in `pipeline.cli.evaluate` and write `pipeline/plant/evaluate/NAME.py` with

    def evaluate(data: Path, out: Path, settings: Settings, options: Options) -> Report: ...

It reads `data` (never a label before the last prediction is written), streams births and frames by
`pipeline.plant.evaluate.stream.assessed`, writes prediction files below `out`, and returns a `Report`; the command adds
`report.html` and prints `Report.lines()`. Same data, options and bundle: same bytes in every file, so nothing here
reads a clock. What there is to build with:

    given.Given      hashes of the files read, and which of them the bundle was trained on (`Card.trained_on`)
    table.Table      figures beside published anchors and baselines, for the terminal and the page
    bootstrap        intervals over groups: files, units, bearings
    svg              pictures: lines with limits and truth, fans, confusion, bars
    report.Report    the page: self-contained, light and dark
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Options:
    """What a person asks of an evaluation.

    protocol: "shipped" scores the bundle that is there; "cv" fits anew per fold, inside the training part, `seeds`
    times (0, 1, ...). bundle: for skab, the one to be scored. bearing, orders: geometry for cwru, a built-in bearing's
    name or characteristic orders. progress: gets the share done, 0 to 1, and a line that says what is going on.
    """

    protocol: Literal["shipped", "cv"] = "shipped"
    seeds: int = 5
    bundle: str | None = None
    bearing: str | None = None
    orders: tuple[float, ...] | None = None
    progress: Callable[[float, str], None] = lambda share, line: None
