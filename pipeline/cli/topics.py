"""`kizashi topics`: what the broker has against what Kizashi needs."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Assignments, Broker, ConfigFile, read_settings

if TYPE_CHECKING:
    from pipeline.ops.topicplan import Step

app = typer.Typer(add_completion=False, no_args_is_help=True)

Partitions = Annotated[
    int, typer.Option(min=1, max=10_000, help="Of a new telemetry topic; bounds how many workers can share the work.")
]


@app.callback()
def _group() -> None:
    """Compare the broker's topics with what Kizashi needs, and create them."""


@app.command("plan")
def show(
    config: ConfigFile = None, broker: Broker = None, assignments: Assignments = None, partitions: Partitions = 8
) -> None:
    """Print what `apply` would do; touch nothing. Exit code 3 if something is wrong that `apply` cannot mend."""
    import asyncio

    from pipeline.ops.connect import broker_config
    from pipeline.ops.topicadmin import make_plan

    settings = read_settings(config, broker, assignments)
    _finish(_print(asyncio.run(make_plan(broker_config(settings, "kizashi-topics"), settings, partitions))))


@app.command()
def apply(
    config: ConfigFile = None, broker: Broker = None, assignments: Assignments = None, partitions: Partitions = 8,
    yes: Annotated[bool, typer.Option("--yes", help="Also change topics that exist, without asking.")] = False,
) -> None:
    """Print the plan, then carry it out. Creates what is missing; asks before it changes a topic that exists."""
    import asyncio

    from pipeline.ops.connect import broker_config
    from pipeline.ops.topicadmin import carry_out, make_plan

    settings = read_settings(config, broker, assignments)
    cfg = broker_config(settings, "kizashi-topics")
    steps = _print(asyncio.run(make_plan(cfg, settings, partitions)))
    changes = [step for step in steps if step.action in ("alter", "grow")]
    if changes and not yes:
        asked = sys.stdin.isatty()
        if not asked or not typer.confirm(f"Change {len(changes)} topics that exist?"):
            print("left as they are" if asked else "topics that exist are changed only with --yes")
            steps = [step for step in steps if step not in changes]
    asyncio.run(carry_out(cfg, settings, steps))
    done = sum(step.action in ("create", "alter", "grow") for step in steps)
    print(f"{done} change{'s' * (done != 1)} made")
    _finish(steps)


def _print(steps: "list[Step]") -> "list[Step]":
    for step in steps:
        print(step)
    return steps


def _finish(steps: "list[Step]") -> None:
    if any(step.action == "impossible" for step in steps):
        raise typer.Exit(3)
