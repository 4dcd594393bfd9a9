"""`kizashi doctor`: what is wrong, and the fix."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Assignments, Broker, ConfigFile, read_settings

if TYPE_CHECKING:
    from pipeline.ops.settings import Settings

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    config: ConfigFile = None,
    broker: Broker = None,
    assignments: Assignments = None,
    live: Annotated[bool, typer.Option("--live", help="Only ask the worker here whether it is live.")] = False,
) -> None:
    """Check configuration, broker, topics, clock, disk and engine; say what is wrong and the fix.

    Exit code 0: nothing is wrong; else that of the first finding: 1 clock, disk or worker, 2 configuration, 3 broker or
    topics, 4 model. With --live, for health checks of containers: 0 live, 1 not.
    """
    settings = read_settings(config, broker, assignments)
    if live:
        raise typer.Exit(_ask_live(settings))
    import asyncio

    raise typer.Exit(asyncio.run(_diagnose(settings)))


async def _diagnose(settings: "Settings") -> int:
    from pipeline.ops.diagnosis import diagnose

    code = 0
    async for finding in diagnose(settings):
        print(finding, flush=True)
        code = code or finding.exit_code
    return code


def _ask_live(settings: "Settings") -> int:
    from pipeline.errors import ConfigError
    from pipeline.ops.probe import ask

    if not settings.metrics.enabled or settings.metrics.port == 0:
        raise ConfigError(
            "doctor --live asks the worker at metrics.port, which needs metrics.enabled = true and a fixed metrics.port"
        )
    try:
        answer = ask(settings, "/live")
    except ConnectionError as error:
        print(error)
        return 1
    print(f"{'live' if answer.ok else 'not live'}: {answer.why}")
    return 0 if answer.ok else 1
