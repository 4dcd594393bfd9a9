"""`kizashi deadletters`: give frames that could not be judged a second chance."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Assignments, Broker, ConfigFile, read_settings

if TYPE_CHECKING:
    from pipeline.broker import BrokerConfig
    from pipeline.ops.revival import Revival

#: A frame of 1 MiB grows by the flag `historical`; the client's own limit must not be the one to refuse it.
_REQUEST_BYTES = 2 << 20
#: Frames sent and not acknowledged: bounds memory, and spares a round trip a frame.
_UNDER_WAY = 1000

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Give frames that could not be judged a second chance."""


@app.command()
def replay(
    config: ConfigFile = None,
    broker: Broker = None,
    assignments: Assignments = None,
    reason: Annotated[list[str] | None, typer.Option(metavar="CODE", help="Only this reason; may be repeated.")] = None,
    asset: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this asset; may be repeated.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
) -> None:
    """Send dead letters back to their topic as historical frames.

    They are assessed, touch no live state and raise no live alert. Each asset's frames go out in order; doing it twice
    changes nothing. Mend the cause first (`kizashi tail deadletters` names it), or they come back.
    """
    import asyncio

    from pipeline.ops.connect import broker_config
    from pipeline.ops.revival import FATES, Revival, Wanted
    from schemas.topics import DEADLETTER, REASONS, TELEMETRY

    unknown = sorted(set(reason or ()) - set(REASONS))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}; known are {', '.join(REASONS)}", param_hint="--reason")
    settings = read_settings(config, broker, assignments)
    wanted = Wanted(settings.topics.name(TELEMETRY), frozenset(reason or ()), frozenset(asset or ()))
    revival = Revival(wanted)
    cfg = broker_config(settings, "kizashi-replay")
    asyncio.run(_collect(cfg, settings.topics.name(DEADLETTER), revival))
    if revival.fates["replayed"] and not dry_run:
        asyncio.run(_send(cfg, revival))
    for letter in revival.lost:
        print(f"unrecoverable {letter.topic}[{letter.partition}]@{letter.offset} {letter.asset or 'unknown asset'}: "
              f"{letter.length} bytes, {letter.reason}")
    sent = revival.fates["replayed"]
    print(f"{'would replay' if dry_run else 'replayed'} {sent} frames of {revival.assets} assets")
    for fate, text in FATES.items():
        if fate not in ("replayed", "filtered") and revival.fates[fate]:
            print(f"left {revival.fates[fate]}: {text}")


async def _collect(cfg: "BrokerConfig", topic: str, revival: "Revival") -> None:
    from pipeline.ops.reader import Fetcher, read
    from pipeline.ops.revival import needs_source
    from schemas.codec import DECODE_ERRORS, decode_deadletter

    large = []
    async for record in read(cfg, topic, from_beginning=True, follow=False):
        try:
            letter = decode_deadletter(record.value or b"")
        except DECODE_ERRORS:
            revival.fates["unreadable"] += 1
            continue
        if needs_source(letter, revival.wanted):
            large.append(letter)
        else:
            revival.add(letter, letter.original)
    if large:
        async with Fetcher(cfg, revival.wanted.topic) as source:
            for letter in large:
                found = await source.fetch(letter.partition, letter.offset)
                revival.add(letter, found.value if found else None)


async def _send(cfg: "BrokerConfig", revival: "Revival") -> None:
    import asyncio

    from pipeline.broker import make_producer
    from pipeline.broker.config import reaching

    producer = await make_producer(cfg, max_request_bytes=_REQUEST_BYTES)
    try:
        with reaching(cfg, f"send frames to {revival.wanted.topic}"):
            pending = []
            for key, value in revival.frames():
                pending.append(await producer.send(revival.wanted.topic, value, key=key))
                if len(pending) >= _UNDER_WAY:
                    await asyncio.gather(*pending)
                    pending.clear()
            await asyncio.gather(*pending)
    finally:
        await producer.stop()
