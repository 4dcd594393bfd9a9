"""`kizashi demo`: broker, plant, worker and view in one terminal."""

import json
import secrets
import signal
import time
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import ConfigFile, read_settings

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.plant.demo import Demo, Result

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=20, max=3600, help="How long the plant runs; some 5 s are added.")] = 35,
    report: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the verdict and its numbers.")] = None,
    broker: Annotated[
        str | None, typer.Option("--broker", metavar="HOST:PORT", help="A real broker, not the one in this process.")
    ] = None,
    config: ConfigFile = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the plant.")] = 1,
) -> None:
    """Show the whole journey: two fleets, the real worker, a live view, a verdict.

    24 simulated pumps, with faults planted on three of them; ten of NASA's turbofans, with the life they have left.
    Needs nothing: the broker is a part of this process. With --broker, or -c for its TLS and account too, a real one
    is used; all topics and the group then live under kizashi.demo.RUN. and are deleted at the end. Exit code 0 if
    every planted fault was found, no healthy asset alarmed, each turbofan has an answer and no frame is unaccounted
    for; 1 if not; 130 after Ctrl-C.
    """
    from rich.console import Console

    from pipeline.broker import BrokerConfig
    from pipeline.ops.connect import broker_config
    from pipeline.plant.demo import Demo, plant_of
    from pipeline.plant.demobroker import DemoBroker
    from pipeline.plant.demofleet import TurbofanFleet
    from pipeline.plant.demoreport import print_verdict, problems
    from pipeline.plant.demoreport import report as report_of
    from pipeline.plant.demotopics import borrowed_topics, own_topics

    console = Console()
    run = f"{time.strftime('%H%M%S')}-{secrets.token_hex(2)}"
    with ExitStack() as stack:
        if broker is None and config is None:
            inside = stack.enter_context(DemoBroker())
            cfg, where = BrokerConfig(inside.address), "in-process broker"
        else:
            cfg = broker_config(read_settings(config, broker), "kizashi-demo")
            inside, where = None, cfg.bootstrap
        now_ns = time.time_ns()
        show = Demo(cfg, run, plant_of(seed, seconds, now_ns), TurbofanFleet.read(seconds, now_ns), seconds)
        place = own_topics(cfg, show.topics, show.group) if inside is None else borrowed_topics(inside, show.topics)
        result = _play(show, console, place, where)
    print_verdict(console, result)
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(report_of(show, result, where), indent=1) + "\n", encoding="utf-8")
    raise typer.Exit(1 if problems(result) else 0)


def _play(show: "Demo", console: "Console", place: AbstractAsyncContextManager[None], where: str) -> "Result":
    """Run the demo in an event loop of its own. Ctrl-C and SIGTERM end it in order; a second one does not wait."""
    import asyncio

    from pipeline.plant.demoview import view_for

    came: list[int] = []

    async def main() -> "Result":
        loop, playing = asyncio.get_running_loop(), asyncio.current_task()
        assert playing is not None

        def interrupt(number: int) -> None:
            came.append(number)
            if len(came) == 1:
                playing.cancel()
            else:
                show.hurry()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt, number)
        title = f"kizashi demo - {show.plant.assets} pumps, {len(show.fleet.engines)} turbofans - {where}"
        with view_for(console, show.scene, title, loop.time(), show.seconds) as view:
            return await show.play(view, place)

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        how = "the worker has drained" if len(came) == 1 else "the worker was killed"
        console.print(f"stopped: {how}, nothing is left behind", highlight=False)
        raise typer.Exit(128 + came[0]) from None
