"""Batteries: capacity and end of life of cells, forecast from every cycle on, beside last value plus linear fade."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from engines import load_bundle, shipped_bundles
from engines.base import Array
from pipeline.errors import InputError
from pipeline.judge import ACTIVE
from pipeline.ops.settings import Settings
from pipeline.plant import battery
from pipeline.plant.evaluate import Options
from pipeline.plant.evaluate.cells import END_AH, Error, end_of, error, faded, linear
from pipeline.plant.evaluate.given import Given, readable
from pipeline.plant.evaluate.predictions import write_table
from pipeline.plant.evaluate.report import Report, Section
from pipeline.plant.evaluate.stream import assessed, patient, routed
from pipeline.plant.evaluate.svg import Curve, fan, series
from pipeline.plant.evaluate.table import Table
from schemas import Assessment

BUNDLE = "battery-fade"
#: Cycle from which forecasts are scored.
START = 80
_COLUMNS = ("cell", "from 80: RMSE [Ah]", "end off by [cycles]", "from 80 on: RMSE [Ah]", "end off by [cycles]",
            "in 80 % interval [%]")  # fmt: skip


@dataclass(slots=True)
class Told:
    """What the flow said of a cell, per discharge: life (n, 3) mean, low, high, NaN for no answer; alarm, why not."""

    cell: battery.Cell
    life: Array = field(init=False)
    alarm: Array = field(init=False)
    why: list[str] = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.cell.cycle)
        self.life, self.alarm = np.full((n, 3), np.nan), np.zeros(n, np.int8)
        self.why = ["not enough history"] * n

    def take(self, a: Assessment) -> None:
        """Take rows: `seq` is the discharge that finished one."""
        life, why = (a.answers.life, a.answers.unknown) if a.answers else (None, None)
        for i, seq in enumerate(a.seq):
            self.alarm[seq], self.why[seq] = a.state[i] == ACTIVE, why[i] if why else ""
            if life and not self.why[seq]:
                self.life[seq] = (life[i][0], life[i][1], life[i][3])

    @property
    def first(self) -> int | None:
        """Return how many discharges came up to cycle START; None if no forecast can be made or scored there.

        By the number of the cycle: a record may begin late. A line takes two.
        """
        cycle = self.cell.cycle
        found = int(np.searchsorted(cycle, START, side="right"))
        return found if 2 <= found < len(cycle) else None

    def starts(self) -> list[int]:
        """List after how many discharges a forecast is scored: from cycle START up to the end of life."""
        end, first = end_of(self.cell.cycle, self.cell.capacity_ah), self.first
        if end is None:
            return [first] if first is not None else []
        least = max(int(np.searchsorted(self.cell.cycle, START, side="right")), 2)
        return [s for s in range(least, len(self.cell.cycle)) if self.cell.cycle[s - 1] < end]

    def ours(self, start: int) -> Error | None:
        """Score our forecast after `start` discharges, None where there was none."""
        c, q, life = self.cell.cycle, self.cell.capacity_ah, float(self.life[start - 1, 0])
        curve = faded(c, q, start, life) if np.isfinite(life) else None
        if curve is None:  # at its end already: the last value goes on
            return error(c, q, start, np.full(len(c) - start, q[start - 1]), 0.0) if life == 0 else None
        return error(c, q, start, curve, life)

    def plain(self, start: int, whole: bool) -> Error:
        """Score last value plus linear fade."""
        c, q = self.cell.cycle, self.cell.capacity_ah
        return error(c, q, start, *linear(c, q, start, whole))


def evaluate(data: Path, out: Path, settings: Settings, options: Options) -> Report:
    """Write pred_CELL.csv: cycle, soh, rul, rul_lo, rul_hi, alarm, unknown, one line a discharge; rul in cycles.

    Also forecast_CELL.csv, cycle and capacity_ah, from cycle 80 on. Scored is against the cell's own later capacity.
    """
    found, left = readable(data, battery.files(data), battery.read)
    cells = list(found.values())
    cv = options.protocol == "cv"
    if cv and len(cells) < 2:
        raise InputError(f"{data}: --protocol cv fits on the other cells: it takes two or more"
                         + "".join(f"; {why}" for why in left.values()))
    given = Given({} if cv else load_bundle(shipped_bundles()[BUNDLE]).spec.card.trained_on)
    given.read(data, found)
    told = (_fitted_on_others if cv else _as_shipped)(cells, patient(settings), options)
    how = "each cell by a bundle fitted on the others" if cv else f"bundle {BUNDLE} as shipped"
    report = Report("Batteries", f"kizashi evaluate battery --data {data} --out OUT --protocol {options.protocol}")
    for t in told:
        report.files += _write(t, out)
    seen = {t.cell.name for t in told if t.cell.path.name in given.left_out()}
    table = _table(told, seen, left)
    pictures = [picture for t in told for picture in _pictures(t)]
    report.sections.append(Section("End of life and capacity", f"Forecasts: {how}.", [table], pictures))
    report.facts += [("model", how), *given.lines()]
    report.summary += [*_summary(told, seen), *left.values()]
    return report


def _as_shipped(cells: Sequence[battery.Cell], settings: Settings, options: Options) -> list[Told]:
    return _flow(cells, routed(settings, battery.ASSET_CLASS, BUNDLE), lambda share: options.progress(share, "cells"))


def _fitted_on_others(cells: Sequence[battery.Cell], settings: Settings, options: Options) -> list[Told]:
    """Forecast each cell by a bundle that was fitted on the others and goes before the shipped one."""
    from engines.recipes import fade, fade_model  # the first needs onnx, extra `train`

    told: list[Told] = []
    for k, cell in enumerate(cells):
        made = fade_model.fit([c.rows().astype(np.float64) for c in (*cells[:k], *cells[k + 1 :])])
        with TemporaryDirectory() as folder:
            fade.write_fitted(Path(folder) / BUNDLE, made)
            models = settings.models.model_copy(update={"folder": Path(folder), "allow_unsigned": True})
            own = settings.model_copy(update={"models": models})
            told += _flow([cell], routed(own, battery.ASSET_CLASS, BUNDLE), lambda share: None)
        options.progress((k + 1) / len(cells), cell.name)
    return told


def _flow(cells: Sequence[battery.Cell], settings: Settings, progress: Callable[[float], None]) -> list[Told]:
    told = {battery.asset_of(cell.name): Told(cell) for cell in cells}
    for k, cell in enumerate(cells):
        for a in assessed(settings, battery.cell_messages(cell)):
            told[a.asset].take(a)
        progress((k + 1) / len(cells))
    return list(told.values())


def _write(t: Told, out: Path) -> list[Path]:
    cell, paths = t.cell, [out / f"pred_{t.cell.name}.csv"]
    rows = zip(cell.cycle.astype(int).tolist(), (cell.capacity_ah / battery.RATED_AH).tolist(), *t.life.T.tolist(),
               t.alarm.tolist(), t.why, strict=True)  # fmt: skip
    write_table(paths[0], ("cycle", "soh", "rul", "rul_lo", "rul_hi", "alarm", "unknown"), rows)
    ahead = _ahead(t)
    if ahead is not None:
        paths.append(out / f"forecast_{cell.name}.csv")
        later = cell.cycle[t.first:].astype(int).tolist()
        write_table(paths[1], ("cycle", "capacity_ah"), zip(later, ahead.tolist(), strict=True))
    return paths


def _table(told: Sequence[Told], seen: set[str], left: Iterable[str]) -> Table:
    table = Table("Capacity and end of life, forecast from cycle 80", _COLUMNS, digits=3, note=(
        "RMSE of the capacity of all later cycles; from 80: forecast once, after cycle 80, from 80 on: after each "
        f"up to the end of life, {END_AH:g} Ah. Off by: later than true is positive, means are of sizes. Linear fade: "
        "last value plus the slope of the line through all cycles so far, or from first to last."))
    for t in told:
        table.add(t.cell.name, *_cells([t], Told.ours, signed=True), _covered([t]),
                  kind="left out" if t.cell.name in seen else "ours")
        table.add(f"{t.cell.name}, linear fade", *_cells([t], _line, signed=True), None, kind="baseline")
    rest = [t for t in told if t.cell.name not in seen]
    if rest:
        table.add("mean", *_cells(rest, Told.ours), _covered(rest))
        table.add("mean, linear fade (line)", *_cells(rest, _line), None, kind="baseline")
        table.add("mean, linear fade (first to last)", *_cells(rest, _ends), None, kind="baseline")
    for name in left:
        table.add(name, *[None] * (len(_COLUMNS) - 1), kind="left out")
    return table


def _line(t: Told, start: int) -> Error:
    return t.plain(start, whole=True)


def _ends(t: Told, start: int) -> Error:
    return t.plain(start, whole=False)


def _cells(told: Sequence[Told], by: Callable[[Told, int], Error | None], signed: bool = False) -> list[float | None]:
    """Return RMSE and error of the end from START, and the same over all starts, each the mean over cells."""
    first = [[e for e in (by(t, t.first) if t.first in t.starts() else None,) if e] for t in told]
    every = [[e for e in (by(t, s) for s in t.starts()) if e] for t in told]
    found: list[float | None] = []
    for errors, keep in ((first, signed), (every, False)):
        capacity = [float(np.mean([e.capacity_ah for e in one])) for one in errors if one]
        known = [[e.end for e in one if e.end is not None and np.isfinite(e.end)] for one in errors]
        ends = [[end if keep else abs(end) for end in one] for one in known]
        found += [float(np.mean(capacity)) if capacity else None,
                  float(np.mean([np.mean(one) for one in ends if one])) if any(ends) else None]
    return found


def _covered(told: Sequence[Told]) -> float | None:
    """Return in how many of 100 forecasts before the end the true life was within the interval."""
    inside: list[Array] = []
    for t in told:
        end = end_of(t.cell.cycle, t.cell.capacity_ah)
        if end is not None:
            true, here = end - t.cell.cycle, np.isfinite(t.life[:, 0]) & (t.cell.cycle < end)
            inside.append(((t.life[:, 1] <= true) & (true <= t.life[:, 2]))[here])
    shares = [float(np.mean(i)) for i in inside if len(i)]
    return 100.0 * float(np.mean(shares)) if shares else None


def _summary(told: Sequence[Told], seen: set[str]) -> list[str]:
    rest = [t for t in told if t.cell.name not in seen]
    if not rest:
        return ["The bundle was fitted on every cell here: --protocol cv gives figures that count."]
    ours, line = _cells(rest, Told.ours), _cells(rest, _line)
    names = ", ".join(t.cell.name for t in rest)
    if ours[0] is None:
        return [f"{names}: no forecast from cycle {START}: too short, past the end of life, or unknown."]
    text = [f"{names}, from cycle {START}:"]
    for name, k, unit in (("capacity RMSE", 0, "Ah"), ("end of life off by", 1, "cycles")):
        if ours[k] is not None and line[k] is not None:
            text.append(f"{name} {ours[k]:.3g} {unit} (linear fade {line[k]:.3g});")
    return [" ".join(text).rstrip(";")]


def _pictures(t: Told) -> list[str]:
    c, q = t.cell.cycle, t.cell.capacity_ah
    end, curves = end_of(c, q), [Curve("measured", q)]
    for name, found in (("forecast from cycle 80", _ahead(t)), ("linear fade", _straight(t))):
        if found is not None:
            curves.append(Curve(name, np.concatenate([np.full(t.first or 0, np.nan), found])))
    return [
        fan(f"{t.cell.name}: remaining life", c, *(t.life[:, k] for k in range(3)),
            truth=None if end is None else np.where(c <= end, end - c, np.nan), x_label="cycle", y_label="cycles left"),
        series(f"{t.cell.name}: capacity", c, curves, limits=[("end of life", END_AH)], x_label="cycle",
               y_label="capacity [Ah]", y_range=(1.0, 2.1)),
    ]  # fmt: skip


def _ahead(t: Told) -> Array | None:
    if t.first is None:
        return None
    return faded(t.cell.cycle, t.cell.capacity_ah, t.first, float(t.life[t.first - 1, 0]))


def _straight(t: Told) -> Array | None:
    return None if t.first is None else linear(t.cell.cycle, t.cell.capacity_ah, t.first)[0]
