"""`kizashi run`: the worker."""

from typing import Annotated

import typer

from pipeline.cli.options import Assignments, Broker, ConfigFile, read_settings

app = typer.Typer(add_completion=False)


@app.command()
def run(
    config: ConfigFile = None,
    broker: Broker = None,
    assignments: Assignments = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the settings; touch no broker.")] = False,
) -> None:
    """Run the worker until SIGTERM or Ctrl-C.

    Start it as often as there are partitions: workers of one group share them. Exit codes: 0 drained and stopped,
    1 crash or watchdog (start it again), 2 configuration, 3 broker or topics, 4 model.
    """
    settings = read_settings(config, broker, assignments)
    if check:
        print("the configuration is valid")
        return
    from pipeline.app import run as run_worker

    raise typer.Exit(run_worker(settings))
