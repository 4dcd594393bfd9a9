"""SKAB: files of a water circulation loop judged as one fleet, one asset a file; a line for every row."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from engines.bundle import ModelSpec
from pipeline.assembly import bundles_of
from pipeline.errors import InputError
from pipeline.ops.settings import DEFAULT_BUNDLE, Route, Settings
from pipeline.plant.csvmap import CsvMap, load_map
from pipeline.plant.evaluate import Options, svg
from pipeline.plant.evaluate.detection import Found, compare, intervals, pooled
from pipeline.plant.evaluate.given import SHOWN, Given, readable
from pipeline.plant.evaluate.predictions import write_table
from pipeline.plant.evaluate.report import Report, Section
from pipeline.plant.evaluate.table import Table
from pipeline.plant.labelled import CALIBRATING, Experiment, foreign, labelled_files, read_experiment, read_labels
from pipeline.plant.replay import Replay
from pipeline.plant.source import items, message_records
from schemas import AssetBirth, TelemetryFrame

#: Rows of a file that the protocol gives for calibration; the rest is scored.
TRAIN_ROWS = 400
#: Scores are drawn up to this multiple of the limit: what lies above is an anomaly however far.
_TOP = 5.0
_COLUMNS = ("", "F1", "FAR %", "MAR %", "false/h", "found", "delay s", "clears s")
#: F1, FAR %, MAR % of the published leaderboard, over all 34 files of the set.
_ANCHORS = (
    ("Conv-AE, looks 58 rows ahead", 0.78, 13.6, 28.0), ("MSET", 0.78, 39.7, 14.1), ("T2 and Q", 0.76, 26.6, 24.9),
    ("LSTM-AE", 0.74, 30.0, 25.9), ("T2", 0.66, 19.2, 42.6), ("LSTM-VAE", 0.56, 9.1, 55.0),
    ("isolation forest", 0.29, 2.6, 82.9),
)  # fmt: skip
_NOTE = ("rows 0-399 of a file calibrate, the rest is scored and pooled; false/h: alarms that rise while normal, an "
         "hour of normal operation; 95 % intervals over whole files; published: github.com/waico/SKAB, over 34 files")


def evaluate(data: Path, out: Path, settings: Settings, options: Options) -> Report:
    """Write FOLDER/NUMBER.csv: datetime, score relative to the asset's limit, alarm, unknown: why there is no answer.

    Without an answer the score is 0; an alarm stands until an answer ends it. A file that cannot be read is named and
    left out. Figures are given where the files carry labels; nothing else is. Protocol "cv" chooses the chart and its
    delays on all folders but one and scores that one. Raises InputError when no file can be scored.
    """
    csv_map, report = load_map(Path("skab")), Report("SKAB", f"kizashi evaluate skab --data {data} --out OUT")
    if options.bundle is not None:
        settings = settings.model_copy(update={"routes": (Route(bundle=options.bundle),)})
        report.command += f" --bundle {options.bundle}"
    bundles = bundles_of(settings)
    experiments, left = _read(data, csv_map)
    report.summary += left.values()
    given = Given({name: text for b in bundles.values() for name, text in b.spec.card.trained_on.items()})
    given.read(data, [e.path for e in experiments])
    if options.protocol == "cv":
        from pipeline.plant.evaluate.skabcv import cross_validated

        if DEFAULT_BUNDLE not in bundles:
            raise InputError(f"--protocol cv chooses delays and tail of {DEFAULT_BUNDLE}; {', '.join(bundles)} is "
                             "scored as it is: leave --protocol cv out")
        report.command += " --protocol cv"
        experiments = cross_validated(experiments, csv_map, settings, options, report)
    else:
        judged(experiments, settings, options)
    for e in experiments:
        report.files.append(out / f"{e.name}.csv")
        rows = zip(e.times, e.score.tolist(), e.alarm.tolist(), e.why.tolist(), strict=True)
        write_table(report.files[-1], ("datetime", "score", "alarm", "unknown"), rows)
    labelled(experiments, csv_map, report)
    known = given.left_out()
    if known:
        report.summary.append(f"the bundle was trained on {', '.join(known)}: in no figure but their own")
    counted = [e for e in experiments if e.path.relative_to(data).as_posix() not in known]
    if outcomes(counted):
        table = Table("SKAB", _COLUMNS, note=_NOTE)
        fill(table, counted, "leave one folder out" if options.protocol == "cv" else "all labelled files, pooled")
        report.sections.insert(0, Section("Beside what is published", tables=[table]))
    else:
        report.summary.append("no file carries labels: predictions were written, nothing could be scored")
    report.summary += [line for e in experiments for line in _remarks(e)]
    report.sections.append(Section("Per file", tables=[_per_file(experiments, left)], pictures=[
        picture(e) for e in experiments]))
    of = ", ".join(f"{b.spec.name} {b.spec.version}, manifest {b.manifest_sha256[:SHOWN]}" for b in bundles.values())
    report.facts += [("bundle", of), ("seeds", "none: nothing is drawn"), *given.lines()]
    return report


def _read(data: Path, csv_map: CsvMap) -> tuple[list[Experiment], dict[str, str]]:
    """Read the files of SKAB in `data`; see `given.readable`."""
    assets = dict[str, Path]()

    def read(path: Path) -> Experiment:
        if lacks := foreign(path, csv_map):
            raise InputError(f"{path}: is no file of SKAB, it {lacks}")
        e = read_experiment(path, csv_map)
        if e.asset and assets.setdefault(e.asset, path) != path:
            raise InputError(f"{path}: is the same asset as {assets[e.asset]}")
        return e

    found, left = readable(data, labelled_files(data), read)
    return list(found.values()), left


def labelled(experiments: Sequence[Experiment], csv_map: CsvMap, report: Report) -> None:
    """Give experiments their labels; the report names those whose labels cannot be read."""
    for e in experiments:
        try:
            read_labels(e, csv_map)
        except InputError as error:
            report.summary.append(f"taken as without labels: {error}")


def _remarks(e: Experiment) -> Iterator[str]:
    """Yield what a person should know of a file beside its figures."""
    if e.held:
        yield f"{e.name}: {e.held} rows with empty cells, held at the last value"
    why = Counter(e.why.tolist())
    for reason in sorted(why.keys() - {"", CALIBRATING}):
        yield f"{e.name}: {why[reason]} rows unknown: {reason}"
    if e.label is None and len(e.alarm) > TRAIN_ROWS:
        active = 100 * np.mean(e.alarm[TRAIN_ROWS:] == 1)
        yield f"{e.name}: no labels; an alarm is active in {active:.1f} % of the rows"


def judged(experiments: Sequence[Experiment], settings: Settings, options: Options,
           change: ModelSpec | None = None) -> None:
    """Take files through the flow; change: a passport to be used in place of the one of the bundle of its name.

    Raises InputError where every frame is refused.
    """
    by_asset, refused, rows = {e.asset: e for e in experiments if e.messages}, set[str](), 0

    def messages() -> Iterator[AssetBirth | TelemetryFrame]:
        for k, e in enumerate(experiments):
            options.progress(k / len(experiments), e.name)
            yield from e.messages

    with Replay(settings) as run:
        if change is not None:
            bundle = run.flow.seats.bundles[change.name]
            run.flow.seats.replace(replace(bundle, spec=change))
        for effects in run.run(items(message_records(messages()))):
            for c in effects.calibrations:
                by_asset[c.asset].baseline = c.status
            for a in effects.assessments:
                by_asset[a.asset].take(a)
            rows += len(effects.assessments)
            refused |= {f"{letter.reason}: {letter.detail}" for letter in effects.dead_letters}
    if refused and not rows:
        raise InputError(f"no row could be scored, {sorted(refused)[0]}")


def outcomes(experiments: Sequence[Experiment]) -> dict[str, Found]:
    """Compare what was predicted with the labels of those files that have them and rows after the calibration."""
    return {e.name: compare(e.seconds[TRAIN_ROWS:], e.label[TRAIN_ROWS:] == 1, e.alarm[TRAIN_ROWS:] == 1)
            for e in experiments if e.label is not None and len(e.label) > TRAIN_ROWS}


def fill(table: Table, experiments: Sequence[Experiment], name: str) -> None:
    """Add our figures with intervals, folders, baselines, anchors and bars."""
    found = outcomes(experiments)
    every = list(found.values())
    whole = pooled(every)
    f1, far, mar, per_hour = intervals(every)
    table.add(name, f1.text(3), far.text(1), mar.text(1), per_hour.text(1), f"{whole.found} of {whole.anomalies}",
              _seconds(whole.delay), _seconds(whole.clear))
    for folder in sorted({n.partition("/")[0] for n in found}):
        _add(table, f"  {folder}", [f for n, f in found.items() if n.startswith(folder + "/")])
    for status in ("good", "suspect"):
        mine = [found[e.name] for e in experiments if e.name in found and e.baseline == status]
        if mine:
            _add(table, f"  {status} baseline, {len(mine)} files", mine)
    truths = np.sum([(f.rows[0] + f.rows[2], f.rows[1] + f.rows[3]) for f in every], axis=0)
    on = 2 * truths[0] / max(2 * truths[0] + truths[1], 1)
    of = f"of {whole.anomalies}"
    table.add("always on", f"{on:.3f}", "100.0", "0.0", "-", f"{whole.anomalies} {of}", "0", "-", kind="baseline")
    table.add("always off", "0.000", "0.0", "100.0", "0.0", f"0 {of}", "-", "-", kind="baseline")
    for anchor, *figures in _ANCHORS:
        table.add(anchor, f"{figures[0]:.2f}", f"{figures[1]:.1f}", f"{figures[2]:.1f}", *[None] * 4, kind="anchor")
    table.add("leave one folder out", ">= 0.82", "<= 20", "<= 20", "<= 8", ">= 90 %", None, None, kind="bar")
    table.add("all files", ">= 0.84", "<= 17", "<= 18", "<= 8", ">= 90 %", None, None, kind="bar")


def _add(table: Table, name: str, found: Sequence[Found]) -> None:
    f = pooled(found)
    table.add(name, f"{f.f1:.3f}", f"{f.far:.1f}", f"{f.mar:.1f}", f"{f.per_hour:.1f}", f"{f.found} of {f.anomalies}",
              _seconds(f.delay), _seconds(f.clear))


def _seconds(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0f}"


def _per_file(experiments: Sequence[Experiment], left: Iterable[str]) -> Table:
    table = Table("Per file", ("file", "rows", "baseline", "held", "unknown", "alarms", "alarmed %", *_COLUMNS[1:]),
                  note="held: rows with empty cells; unknown: rows after the calibration that have no answer")
    found = outcomes(experiments)
    for e in experiments:
        alarms = len(svg.runs(e.alarm == 1))
        cells: list[str | None] = [None] * (len(_COLUMNS) - 1)
        if e.name in found:
            one = Table("", _COLUMNS)
            _add(one, "", [found[e.name]])
            cells = [str(c) for c in one.rows[0].cells]
        share = 100 * float(e.alarm[TRAIN_ROWS:].sum()) / max(len(e.alarm) - TRAIN_ROWS, 1)
        unknown = int(np.sum((e.why != "") & (e.why != CALIBRATING)))
        table.add(e.name, len(e.times), e.baseline or None, e.held, unknown, alarms, f"{share:.1f}", *cells)
    for name in left:
        table.add(name, *[None] * (len(table.columns) - 1), kind="left out")
    return table


def picture(e: Experiment) -> str:
    """Draw a file: score, limit, what was labelled, what was alarmed."""
    x = e.seconds - e.seconds[0] if len(e.seconds) else e.seconds
    truth = svg.stretches(x, e.label == 1) if e.label is not None and len(x) else ()
    alarms = svg.stretches(x, e.alarm == 1) if len(x) else ()
    return svg.series(e.name, x, [svg.Curve("score / limit", np.minimum(e.score, _TOP))], limits=[("limit", 1.0)],
                      truth=truth, alarms=alarms, x_label="s", y_label=f"up to {_TOP:g}", y_range=(0.0, _TOP))
