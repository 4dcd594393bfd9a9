"""`kizashi simulate`: a plant without a plant."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Assignments, Broker, ConfigFile, read_settings, stop_event

if TYPE_CHECKING:
    from pipeline.ops.settings import Settings
    from pipeline.plant.simulator import Plant

app = typer.Typer(add_completion=False)


@app.command()
def simulate(
    config: ConfigFile = None,
    broker: Broker = None,
    assignments: Assignments = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds make equal plants.")] = 1,
    assets: Annotated[int, typer.Option(min=1, help="Pumps of the line, 8 channels each.")] = 24,
    rate_hz: Annotated[float, typer.Option(min=0.001, help="Samples per second and channel.")] = 20.0,
    samples_per_frame: Annotated[int, typer.Option(min=1, max=65_536)] = 2,
    faults: Annotated[Path | None, typer.Option(metavar="SCRIPT.toml", help="[[fault]] tables: what to plant.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of each asset, as fast as the broker takes them; then end.")
    ] = None,
    history_s: Annotated[float, typer.Option(min=0, help="Send the past of this length first.", metavar="S")] = 0.0,
    speed: Annotated[
        float, typer.Option(min=0.001, help="Plant seconds per second; above 1 with --seconds, to end level with now.")
    ] = 1.0,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after this time; without it at Ctrl-C.")] = None,
) -> None:
    """Publish births and frames of a simulated pump line until Ctrl-C.

    Frames never carry a time that is still to come: with --frames, --history-s or a --speed above 1 the plant's clock
    begins in the past. A fault's onset_s counts from the plant's begin.
    """
    import asyncio

    from pipeline.plant.faults import load_faults
    from pipeline.plant.simulator import Plant

    if speed > 1 and seconds is None and frames is None:
        raise typer.BadParameter(
            "above 1 the plant's clock would overtake ours; say when to stop with --seconds", param_hint="--speed"
        )
    period_s = samples_per_frame / rate_hz
    past_s = frames * period_s if frames else history_s + max(0.0, speed - 1) * (seconds or 0.0)
    plant = Plant(
        seed=seed, assets=assets, rate_hz=rate_hz, samples_per_frame=samples_per_frame,
        faults=load_faults(faults) if faults else (), start_ns=time.time_ns() - round(past_s * 1e9),
    )
    burst_s = math.inf if frames else history_s
    asyncio.run(_publish(plant, read_settings(config, broker, assignments), burst_s, speed, frames, seconds))


async def _publish(
    plant: "Plant", settings: "Settings", burst_s: float, speed: float, frames: int | None, seconds: float | None
) -> None:
    import asyncio

    from pipeline.ops.connect import broker_config
    from pipeline.plant.publisher import Publisher, Schedule, publish_plant
    from schemas.topics import ASSET, TELEMETRY

    loop, until = asyncio.get_running_loop(), stop_event(seconds)
    begin, topics = loop.time(), settings.topics
    schedule = Schedule(begin, plant.frame_period_s, burst_s, speed)
    cfg = broker_config(settings, "kizashi-simulate")
    async with Publisher(cfg, topics.name(TELEMETRY), topics.name(ASSET)) as publisher:
        print(
            f"{plant.assets} assets, {plant.assets / plant.frame_period_s:g} frames/s of plant time "
            f"-> {publisher.telemetry} on {cfg.bootstrap}", flush=True,
        )
        await publish_plant(plant, publisher, schedule, until, rounds=frames)
    took = loop.time() - begin
    print(f"published {publisher.births} births and {publisher.frames} frames in {took:.1f} s "
          f"({publisher.frames / took:,.0f} frames/s)")
