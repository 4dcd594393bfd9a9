"""`kizashi evaluate`: labelled data through the same flow, results as the data set's own judge reads them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Assignments, ConfigFile, read_settings

if TYPE_CHECKING:
    from pipeline.ops.settings import Settings
    from pipeline.plant.labelled import Experiment

app = typer.Typer(add_completion=False)


@app.callback()
def evaluate() -> None:
    """Score a labelled data set; causal, by the flow that the worker runs."""


@app.command()
def skab(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Holds FOLDER/NUMBER.csv or .csv.gz, as valve1/0.csv.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Gets FOLDER/NUMBER.csv: datetime, score, alarm.")],
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Judge the files of a SKAB-like folder as one fleet, one asset a file, and write a line for every row.

    alarm is 1 while an alert is active; score is relative to the asset's limit, 0 before its baseline is there.
    F1, FAR and MAR are printed where the files carry labels; the labels are used for nothing else.
    """
    from pipeline.plant.labelled import stem, table_of

    experiments = _judge(data, read_settings(config, None, assignments))
    for e in experiments:
        e.write(out / e.path.parent.name / f"{stem(e.path)}.csv")
    for line in table_of(experiments):
        print(line)
    print(f"{len(experiments)} files -> {out}")


def _judge(data: Path, settings: "Settings") -> "list[Experiment]":
    from pipeline.cli.importcsv import progress_bar
    from pipeline.plant.csvmap import load_map
    from pipeline.plant.labelled import Attribution, labelled_files, read_experiment
    from pipeline.plant.replay import Replay
    from pipeline.plant.source import Source

    csv_map, files = load_map(Path("skab")), labelled_files(data)
    experiments = [read_experiment(path, csv_map) for path in files]
    attribution = Attribution(experiments, csv_map.birth.samples_per_frame)
    with progress_bar(list(files)) as progress, Replay(settings) as run:
        for effects in run.run(attribution.watch(Source(files, csv_map, progress))):
            attribution.take(effects.assessments)
    attribution.finish()
    return experiments
