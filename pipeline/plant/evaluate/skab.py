"""SKAB: files of a water circulation loop judged as one fleet, one asset a file; a line for every row."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.plant.csvmap import load_map
from pipeline.plant.evaluate import Options
from pipeline.plant.evaluate.report import Report
from pipeline.plant.labelled import Attribution, labelled_files, read_experiment, stem, table_of
from pipeline.plant.replay import Replay
from pipeline.plant.source import Source

if TYPE_CHECKING:
    from pipeline.ops.settings import Settings


def evaluate(data: Path, out: Path, settings: "Settings", options: Options) -> Report:
    """Write FOLDER/NUMBER.csv: datetime, score relative to the asset's limit (0 before its baseline), alarm.

    F1, FAR and MAR are given where the files carry labels; the labels are used for nothing else.
    """
    csv_map, files = load_map(Path("skab")), labelled_files(data)
    experiments = [read_experiment(path, csv_map) for path in files]
    attribution = Attribution(experiments, csv_map.birth.samples_per_frame)
    sizes, before = {f: f.stat().st_size for f in files}, {f: 0 for f in files}

    def advance(path: Path, position: int) -> None:
        before[path] = position
        options.progress(sum(before.values()) / max(sum(sizes.values()), 1), f"{path.parent.name}/{path.name}")

    with Replay(settings) as run:
        for effects in run.run(attribution.watch(Source(files, csv_map, advance))):
            attribution.take(effects.assessments)
    attribution.finish()
    report = Report("SKAB", f"kizashi evaluate skab --data {data} --out {out}")
    for e in experiments:
        report.files.append(out / e.path.parent.name / f"{stem(e.path)}.csv")
        e.write(report.files[-1])
    report.summary += table_of(experiments)
    return report
