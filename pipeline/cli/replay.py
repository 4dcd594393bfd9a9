"""`kizashi replay`: files in, alerts and scores out, with no broker."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Assignments, ConfigFile, read_settings

if TYPE_CHECKING:
    from pipeline.ops.settings import Settings
    from pipeline.plant.datasets import DatasetSource
    from pipeline.plant.source import Source
    from schemas import Assessment

app = typer.Typer(add_completion=False)


@app.command()
def replay(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Captures; or CSV, Parquet with --map.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where alerts.jsonl, deadletters.jsonl, scores.csv go.")],
    csv_map: Annotated[Path | None, typer.Option("--map", metavar="MAP.toml", help="What the columns mean.")] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="INPUT is the folder of a public data set, as skab, cmapss.")
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Run files through the same flow as the worker's.

    Two replays of the same files give the same bytes, and the scores are those that the live worker had. Time is that
    of the records: an asset that stops falls silent when the others' records say so.
    """
    from pipeline.cli.importhistory import progress_bar
    from pipeline.plant.csvmap import load_map
    from pipeline.plant.datasets import DatasetSource
    from pipeline.plant.source import Source

    settings = read_settings(config, None, assignments)
    if dataset is not None:
        if csv_map is not None or len(inputs) != 1:
            raise typer.BadParameter("goes with one folder and without --map", param_hint="--dataset")
        print("\n".join(_replay(DatasetSource(dataset, inputs[0]), settings, out)))
        return
    with progress_bar(inputs) as progress:
        source = Source(tuple(inputs), load_map(csv_map) if csv_map else None, progress)
        lines = _replay(source, settings, out)
    print("\n".join(lines))


def _replay(source: "Source | DatasetSource", settings: "Settings", out: Path) -> list[str]:
    """Write the three files; return the summary. Whole records before a damaged place are in them when it raises."""
    import msgspec

    from pipeline.errors import InputError
    from pipeline.plant.replay import Replay
    from schemas.codec import encode_alert

    alerts = dead = rows = 0
    assets: set[str] = set()
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = [(out / name).open("wb") for name in ("alerts.jsonl", "deadletters.jsonl")]
        scores_file = (out / "scores.csv").open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error
    with files[0] as alerts_file, files[1] as dead_file, scores_file, Replay(settings) as run:
        scores = csv.writer(scores_file, lineterminator="\n")
        scores.writerow(("asset", "seq", "t_end", "score", "limit", "state", "historical"))
        for effects in run.run(source):
            for alert in effects.alerts:
                alerts_file.write(encode_alert(alert) + b"\n")
            for letter in effects.dead_letters:
                dead_file.write(msgspec.json.encode(letter) + b"\n")
            for assessment in effects.assessments:
                scores.writerows(_rows(assessment))
                rows += len(assessment.seq)
                assets.add(assessment.asset)
            alerts += len(effects.alerts)
            dead += len(effects.dead_letters)
        t, waiting = run.totals(), run.waiting()
    lines = [
        f"{rows} rows of {len(assets)} assets scored, {alerts} alert messages, {dead} dead letters -> {out}",
        f"frames: received {t['received']} = judged {t['judged']} + dead-lettered {t['dead_lettered']} "
        f"+ late {t['late']} + duplicate {t['duplicate']} + waiting for a birth {waiting}",
    ]
    lines += [f"{n} records of {topic} left out" for topic, n in source.ignored.other_topics.items()]
    return lines + [f"birth refused: {why}" for why in source.ignored.bad_births]


def _rows(a: "Assessment") -> list[tuple[object, ...]]:
    from pipeline.plant.clock import utc

    return [
        (a.asset, seq, utc(t), repr(score), repr(limit), state, int(a.historical))
        for seq, t, score, limit, state in zip(a.seq, a.t_end, a.score, a.limit, a.state, strict=True)
    ]
