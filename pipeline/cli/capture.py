"""`kizashi capture`: what a topic holds, as a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Assignments, Broker, ConfigFile, read_settings, stop_event

if TYPE_CHECKING:
    from pipeline.ops.settings import Settings

app = typer.Typer(add_completion=False)


@app.command()
def capture(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write; an existing file is replaced.")],
    config: ConfigFile = None,
    broker: Broker = None,
    assignments: Assignments = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with new frames until Ctrl-C.")] = False,
    new: Annotated[bool, typer.Option("--new", help="Only frames from now on; implies --follow.")] = False,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after this time; implies --follow.")] = None,
) -> None:
    """Write the telemetry topic's frames to a capture file, with the births that explain them.

    Without options: everything the topic holds now. `kizashi replay` reads such files, and so does any msgpack client.
    """
    import asyncio

    settings = read_settings(config, broker, assignments)
    asyncio.run(_capture(settings, path, follow or new or seconds is not None, new, seconds))


async def _capture(settings: "Settings", path: Path, follow: bool, new: bool, seconds: float | None) -> None:
    from pipeline.ops.connect import broker_config
    from pipeline.plant.capture import CaptureWriter
    from pipeline.plant.recorder import record
    from schemas.topics import ASSET, TELEMETRY

    until = stop_event(seconds)
    births, telemetry = settings.topics.name(ASSET), settings.topics.name(TELEMETRY)
    cfg = broker_config(settings, "kizashi-capture")
    with CaptureWriter(path) as capture_file:
        await record(cfg, births, telemetry, capture_file.write, follow=follow, new_only=new, until=until)
    print(f"{capture_file.records} records of {births} and {telemetry} in {path}")
