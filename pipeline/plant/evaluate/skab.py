"""SKAB: files of a water circulation loop judged as one fleet, one asset a file; a line for every row."""

from collections.abc import Sequence
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
from pipeline.plant.evaluate.given import SHOWN, Given
from pipeline.plant.evaluate.predictions import write_table
from pipeline.plant.evaluate.report import Report, Section
from pipeline.plant.evaluate.table import Table
from pipeline.plant.labelled import Attribution, Experiment, foreign, labelled_files, read_experiment, read_labels
from pipeline.plant.replay import Replay
from pipeline.plant.source import Source

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
    """Write FOLDER/NUMBER.csv: datetime, score relative to the asset's limit (0 before its baseline), alarm.

    Figures are given where the files carry labels; nothing else is. Protocol "cv" chooses smoothing, tail and
    delays on all folders but one and scores that one. Raises InputError.
    """
    csv_map, report = load_map(Path("skab")), Report("SKAB", f"kizashi evaluate skab --data {data} --out OUT")
    if options.bundle is not None:
        settings = settings.model_copy(update={"routes": (Route(bundle=options.bundle),)})
        report.command += f" --bundle {options.bundle}"
    files, bundles = _files(data, csv_map, report), bundles_of(settings)
    given = Given({name: text for b in bundles.values() for name, text in b.spec.card.trained_on.items()})
    given.read(data, files)
    if options.protocol == "cv":
        from pipeline.plant.evaluate.skabcv import cross_validated

        if DEFAULT_BUNDLE not in bundles:
            raise InputError(f"--protocol cv chooses delays and tail of {DEFAULT_BUNDLE}; {', '.join(bundles)} is "
                             "scored as it is: leave --protocol cv out")
        report.command += " --protocol cv"
        experiments = cross_validated(files, csv_map, settings, options, report)
    else:
        experiments = judged(files, csv_map, settings, options)
    for e in experiments:
        report.files.append(out / f"{e.name}.csv")
        rows = zip(e.times, e.score.tolist(), e.alarm.tolist(), strict=True)
        write_table(report.files[-1], ("datetime", "score", "alarm"), rows)
    for e in experiments:
        read_labels(e, csv_map)
    known = given.left_out()
    if known:
        report.summary.append(f"the bundle was trained on {', '.join(known)}: in no figure but their own")
    found = outcomes([e for e in experiments if e.path.relative_to(data).as_posix() not in known])
    if found:
        table = Table("SKAB", _COLUMNS, note=_NOTE)
        fill(table, found, "leave one folder out" if options.protocol == "cv" else "all labelled files, pooled")
        report.sections.insert(0, Section("Beside what is published", tables=[table]))
    else:
        report.summary.append("no file carries labels: predictions were written, nothing could be scored")
    report.summary += _unlabelled(experiments)
    report.sections.append(Section("Per file", tables=[_per_file(experiments)], pictures=[
        picture(e) for e in experiments]))
    of = ", ".join(f"{b.spec.name} {b.spec.version}, manifest {b.manifest_sha256[:SHOWN]}" for b in bundles.values())
    report.facts += [("bundle", of), ("seeds", "none: nothing is drawn"), *given.lines()]
    return report


def _files(data: Path, csv_map: CsvMap, report: Report) -> list[Path]:
    """Return the files of SKAB in `data`; the report names the others. Raises InputError if there is none."""
    files = []
    for path in labelled_files(data):
        if why := foreign(path, csv_map):
            report.summary.append(f"left out, no file of SKAB: {path.relative_to(data)} {why}")
        else:
            files.append(path)
    if not files:
        raise InputError(f"{data}: none of its files is one of SKAB; {report.summary[0]}")
    return files


def _unlabelled(experiments: Sequence[Experiment]) -> list[str]:
    return [f"{e.name}: no labels; an alarm is active in {100 * np.mean(e.alarm[TRAIN_ROWS:] == 1):.1f} % of the rows"
            for e in experiments if e.label is None and len(e.alarm) > TRAIN_ROWS]


def judged(files: Sequence[Path], csv_map: CsvMap, settings: Settings, options: Options,
           change: ModelSpec | None = None) -> list[Experiment]:
    """Take files through the flow; change: a passport to be used in place of the one of the bundle of its name.

    Raises InputError where every frame is refused.
    """
    experiments = [read_experiment(path, csv_map) for path in files]
    attribution, refused, rows = Attribution(experiments, csv_map.birth.samples_per_frame), set[str](), 0
    sizes, before = {f: f.stat().st_size for f in files}, {f: 0 for f in files}

    def advance(path: Path, position: int) -> None:
        before[path] = position
        options.progress(sum(before.values()) / max(sum(sizes.values()), 1), f"{path.parent.name}/{path.name}")

    with Replay(settings) as run:
        if change is not None:
            bundle = run.flow.seats.bundles[change.name]
            run.flow.seats.replace(replace(bundle, spec=change))
        for effects in run.run(attribution.watch(Source(tuple(files), csv_map, advance))):
            attribution.take(effects.assessments)
            rows += len(effects.assessments)
            refused |= {f"{letter.reason}: {letter.detail}" for letter in effects.dead_letters}
    if refused and not rows:
        raise InputError(f"no row could be scored, {sorted(refused)[0]}")
    attribution.finish()
    return experiments


def outcomes(experiments: Sequence[Experiment]) -> dict[str, Found]:
    """Compare what was predicted with the labels of those files that have them and rows after the calibration."""
    return {e.name: compare(e.seconds[TRAIN_ROWS:], e.label[TRAIN_ROWS:] == 1, e.alarm[TRAIN_ROWS:] == 1)
            for e in experiments if e.label is not None and len(e.label) > TRAIN_ROWS}


def fill(table: Table, found: dict[str, Found], name: str) -> None:
    """Add our figures with intervals, folders, baselines, anchors and bars."""
    every = list(found.values())
    whole = pooled(every)
    f1, far, mar, per_hour = intervals(every)
    table.add(name, f1.text(3), far.text(1), mar.text(1), per_hour.text(1), f"{whole.found} of {whole.anomalies}",
              _seconds(whole.delay), _seconds(whole.clear))
    for folder in sorted({n.partition("/")[0] for n in found}):
        _add(table, f"  {folder}", [f for n, f in found.items() if n.startswith(folder + "/")])
    truths = np.sum([(f.rows[0] + f.rows[2], f.rows[1] + f.rows[3]) for f in every], axis=0)
    on = 2 * truths[0] / max(2 * truths[0] + truths[1], 1)
    table.add("always on", f"{on:.3f}", "100.0", "0.0", "-", "-", "0", "-", kind="baseline")
    table.add("always off", "0.000", "0.0", "100.0", "0.0", "0", "-", "-", kind="baseline")
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


def _per_file(experiments: Sequence[Experiment]) -> Table:
    table = Table("Per file", ("file", "rows", "alarms", "alarmed %", *_COLUMNS[1:]))
    found = outcomes(experiments)
    for e in experiments:
        alarms = len(svg.runs(e.alarm == 1))
        cells: list[str | None] = [None] * (len(_COLUMNS) - 1)
        if e.name in found:
            one = Table("", _COLUMNS)
            _add(one, "", [found[e.name]])
            cells = [str(c) for c in one.rows[0].cells]
        share = 100 * float(e.alarm[TRAIN_ROWS:].sum()) / max(len(e.alarm) - TRAIN_ROWS, 1)
        table.add(e.name, len(e.times), alarms, f"{share:.1f}", *cells)
    return table


def picture(e: Experiment) -> str:
    """Draw a file: score, limit, what was labelled, what was alarmed."""
    x = e.seconds - e.seconds[0] if len(e.seconds) else e.seconds
    truth = svg.stretches(x, e.label == 1) if e.label is not None and len(x) else ()
    alarms = svg.stretches(x, e.alarm == 1) if len(x) else ()
    return svg.series(e.name, x, [svg.Curve("score / limit", np.minimum(e.score, _TOP))], limits=[("limit", 1.0)],
                      truth=truth, alarms=alarms, x_label="s", y_label=f"up to {_TOP:g}", y_range=(0.0, _TOP))
