"""`kizashi calibrate`: tell the worker that an asset is another one now, or healthy as it is."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Assignments, Broker, ConfigFile, read_settings, user_name

if TYPE_CHECKING:
    from pipeline.broker import BrokerConfig
    from schemas import MachineEvent

app = typer.Typer(add_completion=False)

#: What fills the fields of an event that a person writes.
_OPTIONS = {"why": "--reason", "who": "--who"}


@app.command()
def calibrate(
    asset: Annotated[str, typer.Argument(metavar="ASSET", help="As its births name it, as line1/pump-07.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; the alert that is cleared says it.")] = "",
    replaced: Annotated[
        bool, typer.Option("--replaced", help="A part was replaced (event part_replaced instead of recalibrate).")
    ] = False,
    who: Annotated[str | None, typer.Option(metavar="NAME", help="Who says so; without it the user's name.")] = None,
    config: ConfigFile = None,
    broker: Broker = None,
    assignments: Assignments = None,
) -> None:
    """Let an asset's baseline be learnt anew, from its next frame on.

    Publishes a machine event among the asset's frames and waits until the broker has it. The worker that serves the
    asset clears its open alert with the reason, and calls what it says provisional until a new baseline stands. Do it
    when the machine runs healthy again: what it learns from is what comes next.
    """
    import asyncio

    from pipeline.ops.connect import broker_config
    from schemas import MachineEvent
    from schemas.codec import DECODE_ERRORS, decode_event, encode
    from schemas.topics import ASSET, TELEMETRY

    settings = read_settings(config, broker, assignments)
    event = MachineEvent(asset, "part_replaced" if replaced else "recalibrate", time.time_ns(),
                         user_name() if who is None else who, reason)
    try:
        decode_event(encode(event))
    except DECODE_ERRORS as error:  # of msgspec: "Expected ... - at `$.why`"
        said, _, field = str(error).partition(" - at `$.")
        raise typer.BadParameter(said, param_hint=_OPTIONS.get(field.rstrip("`"), "ASSET")) from error
    cfg = broker_config(settings, "kizashi-calibrate")
    place = asyncio.run(_publish(cfg, settings.topics.name(ASSET), settings.topics.name(TELEMETRY), event))
    print(f"{event.event} of {asset} -> {place}")


async def _publish(cfg: "BrokerConfig", births: str, telemetry: str, event: "MachineEvent") -> str:
    """Send an event; return where it is in the log. Raises InputError for an asset that nobody has announced."""
    import difflib

    from pipeline.broker import make_producer
    from pipeline.broker.config import reaching
    from pipeline.errors import InputError
    from schemas.codec import encode

    known = await _assets(cfg, births)
    if event.asset not in known:
        near = difflib.get_close_matches(event.asset, known, 3)
        hint = f"Did you mean {', '.join(near)}?" if near else "`kizashi tail assets --from-beginning` shows those."
        raise InputError(f"no birth of asset {event.asset!r} is on {births}, of {len(known)} assets. {hint}")
    with reaching(cfg, f"write {telemetry}"):
        producer = await make_producer(cfg, linger_ms=0)
        try:
            done = await producer.send_and_wait(telemetry, encode(event), key=event.asset.encode())
        finally:
            await producer.stop()
    return f"{done.topic}[{done.partition}]@{done.offset}"


async def _assets(cfg: "BrokerConfig", births: str) -> list[str]:
    """Return the assets that have a birth, tombstones taken into account."""
    from pipeline.births import read_key
    from pipeline.ops.reader import read

    alive: dict[bytes, bool] = {}
    async for record in read(cfg, births, from_beginning=True, follow=False):
        if record.key is not None:
            alive[record.key] = bool(record.value)
    return sorted({read_key(key)[0] for key, lives in alive.items() if lives})
