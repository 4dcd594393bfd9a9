"""`kizashi import`: history that a plant or a public data set has becomes births and frames."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Assignments, Broker, ConfigFile, read_settings

if TYPE_CHECKING:
    from pipeline.ops.settings import Settings
    from pipeline.plant.csvhistory import Progress
    from schemas import AssetBirth, TelemetryFrame

    Messages = Iterable[AssetBirth | TelemetryFrame]

app = typer.Typer(add_completion=False)

Map = Annotated[Path, typer.Option("--map", metavar="MAP.toml", help="What the columns mean; or: skab.")]
To = Annotated[str, typer.Option(metavar="topic|FILE", help="The telemetry topic, or a capture file.")]
Historical = Annotated[
    bool, typer.Option("--historical/--live", help="Historical frames are assessed but raise no alerts.")
]


@app.callback()
def import_() -> None:
    """Turn history into births and frames.

    Frames are live by default: the history of an asset that is new here is what its baseline is made from, and replay
    and evaluation judge it as it was; alerts come out marked stale. With --historical the frames build a state of
    their own and raise nothing: for an asset that is already being judged, whose live state must not be touched.
    """


@app.command("parquet", help="Turn Parquet files (.parquet or .pq) into births and frames, by the same maps; "
             'pip install "kizashi[parquet]".')
@app.command("csv", help="Turn CSV files, plain or .gz, into births and frames.")
def tables(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="In the order of time.")],
    csv_map: Map, to: To, historical: Historical = False, config: ConfigFile = None, broker: Broker = None,
    assignments: Assignments = None,
) -> None:  # fmt: skip
    """Turn tables into births and frames."""
    from pipeline.errors import InputError
    from pipeline.plant.csvhistory import CsvHistory, is_table
    from pipeline.plant.csvmap import load_map

    for path in files:
        if not is_table(path):
            raise InputError(f"{path}: is no table by its name; .csv, .csv.gz, .parquet and .pq are")
    with progress_bar(files) as progress:
        history = CsvHistory(load_map(csv_map), historical=historical, progress=progress)
        where = _deliver(history.read(files), to, config, broker, assignments)
    r = history.report
    print(f"{r.files} files, {r.rows} rows -> {r.assets} births and {r.frames} frames in {where}")
    for note in r.notes():
        print(note)


@app.command()
def dataset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="skab, cmapss, cwru, femto, nab or battery.")],
    data: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the data set.")],
    to: To, historical: Historical = False, config: ConfigFile = None, broker: Broker = None,
    assignments: Assignments = None,
) -> None:  # fmt: skip
    """Turn a public data set into births and frames; no label is read."""
    from pipeline.plant.datasets import messages

    seen = _Seen(messages(name, data), historical)
    where = _deliver(seen, to, config, broker, assignments)
    print(f"{name}: {seen.births} births and {seen.frames} frames in {where}")


class _Seen:
    """Messages that pass, counted; as historical frames where that is asked for."""

    def __init__(self, messages: "Messages", historical: bool) -> None:
        self._messages, self._historical = messages, historical
        self.births = self.frames = 0

    def __iter__(self) -> "Iterator[AssetBirth | TelemetryFrame]":
        from msgspec.structs import replace

        from schemas import AssetBirth

        for message in self._messages:
            if isinstance(message, AssetBirth):
                self.births += 1
                yield message
            else:
                self.frames += 1
                yield replace(message, historical=True) if self._historical else message


def _deliver(
    messages: "Messages", to: str, config: Path | None, broker: str | None, assignments: list[str] | None
) -> str:
    """Send messages to the topic or write them to a capture file; return its name."""
    if to != "topic":
        _write(messages, Path(to))
        return to
    import asyncio

    settings = read_settings(config, broker, assignments)
    asyncio.run(_publish(messages, settings))
    return settings.topics.name("kizashi.telemetry.v1")


def _write(messages: "Messages", path: Path) -> None:
    from pipeline.errors import InputError
    from pipeline.plant.capture import CaptureWriter
    from pipeline.plant.source import message_records

    if path.is_dir():
        raise InputError(f"{path}: is a folder; --to takes a file's name, or topic")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # what fails leaves a capture of that name as it was
    try:
        with CaptureWriter(part) as capture:
            for record in message_records(messages):
                capture.write(record)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


async def _publish(messages: "Messages", settings: "Settings") -> None:
    from pipeline.ops.connect import broker_config
    from pipeline.plant.publisher import Publisher
    from schemas import AssetBirth
    from schemas.topics import ASSET, TELEMETRY

    cfg = broker_config(settings, "kizashi-import")
    async with Publisher(cfg, settings.topics.name(TELEMETRY), settings.topics.name(ASSET)) as publisher:
        for message in messages:
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
