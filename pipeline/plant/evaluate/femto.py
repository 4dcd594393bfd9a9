"""FEMTO: when bearings that run to failure are warned of, beside an alarm at a fixed age."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.base import Array
from pipeline.ops.settings import Settings
from pipeline.plant import femto
from pipeline.plant.evaluate import Options
from pipeline.plant.evaluate.given import Given, readable
from pipeline.plant.evaluate.predictions import write_table
from pipeline.plant.evaluate.report import Report, Section
from pipeline.plant.evaluate.stream import assessed, routed
from pipeline.plant.evaluate.svg import Curve, series, stretches
from pipeline.plant.evaluate.table import Table
from pipeline.plant.evaluate.watched import Watched

BUNDLE = "vibration-health"
#: Snapshots whose RMS is the baseline that growth is told by: those that the bundle learns from.
BASE = 90
GROWN = 1.5
#: Minutes before the end by which a warning must stand.
EARLY_MIN = 10.0
#: An alarm that knows nothing but the time, for comparison: one hour of running.
AGE = 360
_PER_MIN = 60.0 / femto.EVERY_S
# One snapshot says little: growth is that of the median of five.
_MEDIAN = 5
_COLUMNS = ("bearing", "snapshots", "1.5x at", "single", "alarm since", "lead [min]", "alarms", "before 1.5x", "single",
            "at 1 h [min]", "at latest age [min]")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Life:
    """A bearing's life. rms: (n,) of all channels together, g."""

    name: str
    rms: Array
    told: Watched

    @property
    def snapshots(self) -> int:
        return len(self.rms)

    def grown(self, of: int = _MEDIAN) -> int:
        """Return the first snapshot at 1.5 times the baseline by the median of `of`; how many there are if none is."""
        smooth = np.array([np.median(self.rms[max(i + 1 - of, 0) : i + 1]) for i in range(self.snapshots)])
        over = np.flatnonzero(smooth[BASE:] > GROWN * np.median(self.rms[:BASE]))
        return BASE + int(over[0]) if len(over) else self.snapshots

    @property
    def since(self) -> int | None:
        """Return the snapshot since which the alarm of the end stands, None if none stands at the end."""
        return self.told.raises()[-1] if self.snapshots and self.told.alarm[-1] else None

    def lead_min(self) -> float | None:
        return None if self.since is None else (self.snapshots - 1 - self.since) / _PER_MIN

    def early(self, of: int = _MEDIAN) -> int:
        """Count the alarms that were raised before the vibration had grown."""
        return sum(1 for i in self.told.raises() if i < self.grown(of))


def evaluate(data: Path, out: Path, settings: Settings, options: Options) -> Report:
    """Write pred_BEARING.csv: snapshot, minute, score (1 is the limit), alarm, unknown; one line a snapshot.

    The end of a recording is the end of the bearing's life, and is looked at after the last prediction.
    """
    paths = femto.recordings(data)
    given, refused = Given(), set[str]()
    settings = routed(settings, femto.ASSET_CLASS, BUNDLE)

    def live(path: Path) -> Life:
        channels, _ = femto.read(path)
        g = np.stack([x for x in channels.values()]).astype(np.float64) / 1000.0
        rms = np.sqrt((g - g.mean(axis=2, keepdims=True)).var(axis=2).mean(axis=0))
        told = Watched(len(rms))
        for a in assessed(settings, femto.recording_messages(path), refused=refused.add):
            told.take(a)
        options.progress((paths.index(path) + 1) / len(paths), path.stem)
        return Life(path.stem, rms, told)

    found, left = readable(data, paths, live)
    lives = list(found.values())
    given.read(data, found)
    report = Report("FEMTO", f"kizashi evaluate femto --data {data} --out OUT")
    for life in lives:
        report.files.append(out / f"pred_{life.name}.csv")
        _write(life, report.files[-1])
    report.sections.append(Section("Warnings before the end", tables=[_table(lives, left)],
                                   pictures=[p for life in lives for p in _pictures(life)]))
    report.facts += [("bundle", f"{BUNDLE}: nothing is trained, one parameter set for all"), *given.lines()]
    report.summary += [*_summary(lives), *left.values(), *(f"snapshots refused, {why}" for why in sorted(refused)[:5])]
    return report


def _write(life: Life, path: Path) -> None:
    rows = zip(range(life.snapshots), (np.arange(life.snapshots) / _PER_MIN).tolist(), life.told.score.tolist(),
               life.told.alarm.tolist(), life.told.why, strict=True)  # fmt: skip
    write_table(path, ("snapshot", "minute", "score", "alarm", "unknown"), rows)


def latest_age(lives: Sequence[Life]) -> int:
    """Return the latest snapshot at which an alarm still warns the shortest life in time.

    It is chosen with the ends known, as no alarm can be: the best that a fixed age could do on these bearings.
    """
    return max(min((life.snapshots for life in lives), default=0) - 1 - round(EARLY_MIN * _PER_MIN), 0)


def _table(lives: Sequence[Life], left: Iterable[str]) -> Table:
    age = latest_age(lives)
    table = Table("Lead time", _COLUMNS, digits=1, note=(
        f"Snapshots are {femto.EVERY_S:g} s apart. Before 1.5x: alarms raised before the RMS (median of {_MEDIAN}, or "
        f"a single snapshot) first exceeds 1.5 times the median of the first {BASE}. Leads of alarms at a fixed age: "
        f"one hour, and snapshot {age}, the latest that warns the shortest life {EARLY_MIN:g} min before its end; it "
        "knows the ends."))
    for life in lives:
        grown = [at if at < life.snapshots else None for at in (life.grown(), life.grown(1))]
        table.add(life.name, life.snapshots, *grown, life.since, life.lead_min(), len(life.told.raises()), life.early(),
                  life.early(1), _lead_of(life, AGE), _lead_of(life, age))
    for name in left:
        table.add(name, *[None] * (len(_COLUMNS) - 1), kind="left out")
    return table


def _lead_of(life: Life, age: int) -> float | None:
    """Return the lead in minutes of an alarm at a fixed age, None for a life that was shorter."""
    return (life.snapshots - 1 - age) / _PER_MIN if age < life.snapshots else None


def _summary(lives: Sequence[Life]) -> list[str]:
    early, single = [life.early() for life in lives], [life.early(1) for life in lives]
    lines = [f"Warned {EARLY_MIN:g} min or more before the end: {_count(life.lead_min() for life in lives)} of "
             f"{len(lives)}; alarms before the RMS is 1.5 times its baseline: {sum(early)}, at most "
             f"{max(early, default=0)} of a bearing; before a single snapshot is: {sum(single)}."]  # fmt: skip
    for name, age in (("one hour", AGE), ("the latest age that warns all", latest_age(lives))):
        soon = sum(1 for life in lives if age < life.grown())
        lines.append(f"An alarm at {name}: {_count(_lead_of(life, age) for life in lives)} of {len(lives)}; before the "
                     f"RMS is 1.5 times its baseline: {soon}.")
    return lines


def _count(leads: Iterable[float | None]) -> int:
    return sum(1 for lead in leads if lead is not None and lead >= EARLY_MIN)


def _pictures(life: Life) -> list[str]:
    minute = np.arange(life.snapshots) / _PER_MIN
    alarms = stretches(minute, life.told.alarm == 1)
    return [
        series(f"{life.name}: score", minute, [Curve("score", life.told.score)], limits=[("limit", 1.0)], alarms=alarms,
               x_label="minutes", y_label="score", y_range=(0.0, 5.0)),
        series(f"{life.name}: RMS over its baseline", minute, [Curve("RMS", life.rms / np.median(life.rms[:BASE]))],
               limits=[("1.5x", GROWN)], alarms=alarms, x_label="minutes", y_label="RMS", y_range=(0.0, 6.0)),
    ]  # fmt: skip
