"""`kizashi tail`: topics as a person reads them."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from pipeline.cli.options import Assignments, Broker, ConfigFile, read_settings

app = typer.Typer(add_completion=False, no_args_is_help=True)

FromBeginning = Annotated[bool, typer.Option("--from-beginning", help="Begin with the oldest record.")]
Most = Annotated[int | None, typer.Option("--max", min=1, metavar="N", help="End after N records.")]
Follow = Annotated[bool, typer.Option("--follow/--no-follow", help="Go on until Ctrl-C, or end where the topic ends.")]


@app.callback()
def _group() -> None:
    """Show alerts, assessments, dead letters or assets as lines; reads without a group, so nobody is disturbed."""


def _offer(name: str, topic: str, line: str, text: str) -> None:
    @app.command(name, help=text)
    def command(
        config: ConfigFile = None, broker: Broker = None, assignments: Assignments = None,
        from_beginning: FromBeginning = False, most: Most = None, follow: Follow = True,
    ) -> None:
        from pipeline.ops import readable
        from schemas import topics

        _tail(getattr(topics, topic).name, getattr(readable, line), (config, broker, assignments), from_beginning, most,
              follow)


_offer("alerts", "ALERT", "alert_line", "Alerts: raised, updated, cleared; with score, threshold and why.")


@app.command()
def assessments(
    config: ConfigFile = None, broker: Broker = None, assignments: Assignments = None,
    from_beginning: FromBeginning = False, most: Most = None, follow: Follow = True,
    asset: Annotated[str | None, typer.Option(metavar="NAME", help="Of this asset only.")] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Every row of a record, not only the newest.")] = False,
) -> None:
    """Assessments: what, how sure, how long, why, or why not. They are published if topics.assessment = true."""
    from pipeline.ops.readable import assessment_lines
    from schemas.topics import ASSESSMENT

    line = partial(assessment_lines, every_row=rows)
    _tail(ASSESSMENT.name, line, (config, broker, assignments), from_beginning, most, follow, asset)


_offer("deadletters", "DEADLETTER", "deadletter_line", "Dead letters: where from, the reason and what to do.")
_offer("assets", "ASSET", "asset_line", "Births of assets: class, site, rate, channels with their units; retirements.")


def _tail(
    topic: str, line: "Callable[..., str]", options: "tuple[ConfigFile, Broker, Assignments]", from_beginning: bool,
    most: int | None, follow: bool, key: str | None = None,
) -> None:
    """Print records as lines. key: of records to be shown, None for all."""
    import asyncio

    from pipeline.ops.connect import broker_config
    from pipeline.ops.reader import read
    from schemas.topics import ASSESSMENT

    settings = read_settings(*options)
    if topic == ASSESSMENT.name and not settings.topics.assessment:
        typer.echo("note: topics.assessment is false in these settings: a worker with them publishes none", err=True)

    async def show() -> None:
        shown = 0
        records = read(
            broker_config(settings, "kizashi-tail"), settings.topics.name(topic),
            from_beginning=from_beginning, follow=follow,
        )
        async for record in records:
            if key is not None and record.key != key.encode():
                continue
            print(line(record), flush=True)
            shown += 1
            if shown == most:
                break
        await records.aclose()  # type: ignore[attr-defined]  # an async generator

    asyncio.run(show())
