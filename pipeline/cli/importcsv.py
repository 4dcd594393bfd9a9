"""`kizashi import csv`: history that a plant has as CSV becomes births and frames."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Assignments, Broker, ConfigFile, read_settings

if TYPE_CHECKING:
    from pipeline.ops.settings import Settings
    from pipeline.plant.csvhistory import CsvHistory, Progress

app = typer.Typer(add_completion=False)


@app.callback()
def import_() -> None:
    """Turn history into births and frames."""


@app.command("csv")
def csv_(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="CSV, plain or .gz, in the order of time.")],
    csv_map: Annotated[Path, typer.Option("--map", metavar="MAP.toml", help="What the columns mean; or: skab.")],
    to: Annotated[str, typer.Option(metavar="topic|FILE", help="The telemetry topic, or a capture file.")],
    historical: Annotated[
        bool, typer.Option("--historical/--live", help="Historical frames are assessed but raise no alerts.")
    ] = False,
    config: ConfigFile = None,
    broker: Broker = None,
    assignments: Assignments = None,
) -> None:
    """Turn CSV files into births and frames.

    Frames are live by default: the history of an asset that is new here is what its baseline is made from, and replay
    and evaluation judge it as it was; alerts come out marked stale. With --historical the frames build a state of
    their own and raise nothing: for an asset that is already being judged, whose live state must not be touched.
    """
    from pipeline.plant.csvhistory import CsvHistory
    from pipeline.plant.csvmap import load_map

    with progress_bar(files) as progress:
        history = CsvHistory(load_map(csv_map), historical=historical, progress=progress)
        if to == "topic":
            import asyncio

            settings = read_settings(config, broker, assignments)
            where = settings.topics.name("kizashi.telemetry.v1")
            asyncio.run(_publish(history, files, settings))
        else:
            where = to
            _write(history, files, Path(to))
    r = history.report
    print(f"{r.files} files, {r.rows} rows -> {r.assets} births and {r.frames} frames in {where}")
    for count, what in (
        (r.left_over, "rows at the end of an asset did not fill a frame"),
        (r.skipped, "rows with missing cells skipped"),
        (r.held, "rows with missing cells filled with the last value"),
    ):
        if count:
            print(f"{count} {what}")


def _write(history: "CsvHistory", files: list[Path], path: Path) -> None:
    from pipeline.plant.capture import CaptureWriter
    from pipeline.plant.source import csv_records

    with CaptureWriter(path) as capture:
        for record in csv_records(history, files):
            capture.write(record)


async def _publish(history: "CsvHistory", files: list[Path], settings: "Settings") -> None:
    from pipeline.ops.connect import broker_config
    from pipeline.plant.publisher import Publisher
    from schemas import AssetBirth
    from schemas.topics import ASSET, TELEMETRY

    cfg = broker_config(settings, "kizashi-import")
    async with Publisher(cfg, settings.topics.name(TELEMETRY), settings.topics.name(ASSET)) as publisher:
        for message in history.read(files):
            if isinstance(message, AssetBirth):
                await publisher.birth(message)
                await publisher.flush()
            else:
                await publisher.frame(message)


@contextmanager
def progress_bar(files: list[Path]) -> Iterator["Progress"]:
    """Show how far reading is, by bytes, on a terminal; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda path, position: None
        return
    sizes = {f: f.stat().st_size if f.exists() else 0 for f in files}
    before = 0
    current: Path | None = None
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=sum(sizes.values()) or None)

        def advance(path: Path, position: int) -> None:
            nonlocal before, current
            if current is not None and path != current:
                before += sizes[current]
            current = path
            bar.update(task, completed=before + position, description=path.name)

        yield advance
