"""NAB: which labelled stretches of slow series an alarm is raised in, and how often one is raised elsewhere."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from engines.base import Array
from pipeline.errors import InputError
from pipeline.ops.settings import Settings
from pipeline.plant import nab
from pipeline.plant.evaluate import Options
from pipeline.plant.evaluate.given import Given, readable
from pipeline.plant.evaluate.predictions import write_table
from pipeline.plant.evaluate.report import Report, Section
from pipeline.plant.evaluate.stream import assessed, patient, routed
from pipeline.plant.evaluate.svg import Curve, Stretch, series, stretches
from pipeline.plant.evaluate.table import Kind, Table
from pipeline.plant.evaluate.watched import Watched

BUNDLE = "slow-level"
#: NAB's: the first part of a series is not scored.
PROBATION = 0.15
_DAY_S, _MONTH_DAYS = 86_400.0, 30.0
_COLUMNS = ("series", "found", "of", "after [h]", "false raises", "a month", "in alarm elsewhere [%]")


@dataclass(frozen=True, slots=True)
class Judged:
    """A series and what was said of it. windows: labelled stretches, Unix ns; None where no label names the series.

    refused: why frames were not taken.
    """

    series: nab.Series
    told: Watched
    windows: Sequence[tuple[int, int]] | None = None
    refused: list[str] = field(default_factory=list)

    @property
    def scored_from(self) -> int:
        """Return the number of the first sample that is scored."""
        return int(PROBATION * len(self.series.value))


@dataclass(frozen=True, slots=True)
class Score:
    """found: of the scored stretches, hours from a stretch's begin to the first raise in it, None if there was none.

    false: raises outside of all stretches, after the probation. months: of 30 days, scored. elsewhere: share of the
    samples outside of all stretches that were in alarm.
    """

    found: tuple[float | None, ...]
    false: int
    months: float
    elsewhere: float

    def cells(self) -> tuple[int, int, float | None, int, float, float]:
        hours = [h for h in self.found if h is not None]
        return (len(hours), len(self.found), float(np.mean(hours)) if hours else None, self.false,
                self.false / max(self.months, 1e-9), 100.0 * self.elsewhere)  # fmt: skip


def score(t_ns: Array, alarm: Array, windows: Sequence[tuple[int, int]], first: int) -> Score:
    """Score an alarm (n,) of 0 and 1 over samples at t_ns (n,). Only stretches that end after sample `first` count.

    A stretch is found by an alarm that begins in it: one that was on already says nothing new.
    """
    raised = np.flatnonzero(np.diff(alarm, prepend=0) == 1)
    begins = t_ns[first] if len(t_ns) > first else 0
    hours = [[float(t_ns[i] - a) / 3.6e12 for i in raised if a <= t_ns[i] <= b] for a, b in windows if b > begins]
    elsewhere = [i for i in raised if i >= first and not any(a <= t_ns[i] <= b for a, b in windows)]
    months = float(t_ns[-1] - begins) / 1e9 / _DAY_S / _MONTH_DAYS
    outside = np.arange(len(t_ns)) >= first
    for a, b in windows:
        outside &= (t_ns < a) | (t_ns > b)
    share = float(alarm[outside].mean()) if outside.any() else 0.0
    return Score(tuple(min(h) if h else None for h in hours), len(elsewhere), months, share)


def evaluate(data: Path, out: Path, settings: Settings, options: Options) -> Report:
    """Write FOLDER/NAME.csv: timestamp, score (1 is the limit), alarm, unknown; one line a sample.

    Labels are read from labels.json, where there is one, after the last prediction is written.
    """
    paths, given = nab.files(data), Given()
    settings = routed(patient(settings), nab.ASSET_CLASS, BUNDLE)
    report = Report("NAB", f"kizashi evaluate nab --data {data} --out OUT")

    def one(path: Path) -> Judged:
        found = nab.read(path)
        judged = Judged(found, Watched(len(found.value)))
        for a in assessed(settings, nab.series_messages(found), refused=judged.refused.append):
            judged.told.take(a)
        report.files.append(out / f"{found.name}.csv")
        _write(judged, report.files[-1])
        options.progress((paths.index(path) + 1) / len(paths), found.name)
        return judged

    every, left = readable(data, paths, one)
    given.read(data, every)
    try:
        labels = nab.windows(data)
    except InputError as error:
        labels = {}
        report.summary.append(f"taken as without labels: {error}")
    judged = [Judged(j.series, j.told, labels.get(j.series.name), j.refused) for j in every.values()]
    pictures = [_picture(j) for j in judged if j.told.rows]
    report.sections.append(Section("Alarms", tables=[_table(judged, left)], pictures=pictures))
    report.facts += [("bundle", f"{BUNDLE}: nothing is trained, parameters fixed"), *given.lines()]
    report.summary += [*_summary(judged, bool(labels)), *left.values()]
    return report


def _write(judged: Judged, path: Path) -> None:
    times = [datetime.fromtimestamp(t / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S") for t in judged.series.t_ns.tolist()]
    told = judged.told
    rows = zip(times, told.score.tolist(), told.alarm.tolist(), told.why.tolist(), strict=True)
    write_table(path, ("timestamp", "score", "alarm", "unknown"), rows)


def _table(judged: Sequence[Judged], left: Iterable[str]) -> Table:
    table = Table("Labelled stretches and false raises", _COLUMNS, digits=2, note=(
        f"The first {PROBATION:.0%} of a series are not scored. Found: an alarm begins in the stretch, so many hours "
        "after its begin. Static: a sample beyond mean +- 3 standard deviations of the first week."))
    for j in judged:
        alarms: list[tuple[str, Array, Kind]] = [
            (j.series.name, j.told.alarm, "ours"),
            ("  static limits", _static(j.series), "baseline"),
            ("  always on", np.ones(len(j.series.value), np.int8), "baseline"),
            ("  never on", np.zeros(len(j.series.value), np.int8), "baseline"),
        ]  # fmt: skip
        for name, alarm, kind in alarms:
            cells = score(j.series.t_ns, alarm, j.windows or (), j.scored_from).cells()
            answered = j.windows is not None and not (kind == "ours" and _silent(j))
            table.add(name, *(cells if answered else (None,) * len(cells)), kind=kind)
    for name in left:
        table.add(name, *[None] * (len(_COLUMNS) - 1), kind="left out")
    return table


def _silent(j: Judged) -> str:
    """Say why there was no answer at all, empty if there was one."""
    if j.told.rows:
        return ""
    return j.refused[0] if j.refused else f"{len(j.series.value)} samples every {j.series.step_s:g} s are too few"


def _static(found: nab.Series) -> Array:
    week = found.value[found.t_ns < found.t_ns[0] + 7 * _DAY_S * 1e9]
    return np.asarray(np.abs(found.value - week.mean()) > 3 * week.std(), np.int8)


def _summary(judged: Sequence[Judged], labelled: bool) -> list[str]:
    if not labelled:
        return ["No labels.json: predictions only.", *(f"{j.series.name}: no answer: {_silent(j)}" for j in judged
                                                       if _silent(j))]  # fmt: skip
    lines = []
    for j in judged:
        found, of, _, false, monthly, _ = score(j.series.t_ns, j.told.alarm, j.windows or (), j.scored_from).cells()
        lines.append(f"{j.series.name}: " + (f"no answer: {_silent(j)}" if _silent(j) else (
            f"{found} of {of} stretches found, {false} false raises ({monthly:.2f} a month)"
            if j.windows is not None else "no figures: labels.json does not name it")))
    return lines


def _picture(j: Judged) -> str:
    day = (j.series.t_ns - j.series.t_ns[0]) / 1e9 / _DAY_S
    truth = [Stretch(*((t - int(j.series.t_ns[0])) / 1e9 / _DAY_S for t in window)) for window in j.windows or ()]
    return series(f"{j.series.name}: score", day, [Curve("score", j.told.score)], limits=[("limit", 1.0)], truth=truth,
                  alarms=stretches(day, j.told.alarm == 1), x_label="days", y_label="score", y_range=(0.0, 4.0))
