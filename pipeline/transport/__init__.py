"""Whole record batches as single Faust events: the `kafka+batch://` transport. Only this package knows Faust's inside.

    app = faust.App("id", broker="kafka+batch://host:9092", value_serializer="raw")
    frames = BatchTopic(app, topics=["kizashi.telemetry.v1"], max_batch=1024, max_inflight=8192)
    bind(app, owner)                              # a PartitionOwner: restore, release, lost, hole, fenced

    @app.agent(frames)
    async def ingest(stream):
        async for batch in stream.noack():        # the plain stream would acknowledge on an exception and on a cancel
            for record in batch.records: ...      # .offset .timestamp (ms) .key .value .headers
            batch.ack()                           # processed: frees back-pressure, never moves the commit

    consumer = batch_consumer(app)                # after the app has started
    consumer.set_safe_offset(tp, offset, metadata)
    await consumer.commit_now({tp})
    await consumer.committed({tp})                # {tp: Committed(offset, metadata) or None}

Faust hands over some 10,000 events/s one by one (four tasks per event), lists of records more than 200,000/s. What it
does around an event (agents, group, rebalance, ordinary topics) stays as it is; each override says what it answers.
Private names of Faust, mode and aiokafka that it relies on: tests/contract/test_private_names.py.
"""

from dataclasses import dataclass
from typing import Any

from faust.transport import drivers
from faust.transport.drivers import aiokafka as drv
from faust.types.enums import ProcessingGuarantee

from pipeline.errors import ConfigError
from pipeline.partitions import TP, Committed, PartitionOwner, Record, RecordBatch
from pipeline.transport.consumer import BatchConsumer
from pipeline.transport.topic import BatchTopic

__all__ = [
    "TP", "BatchConsumer", "BatchTopic", "BatchTransport", "Committed", "PartitionOwner", "Record", "RecordBatch",
    "TransportOptions", "batch_consumer", "bind",
]


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Choices of the transport.

    fetch_max_wait_ms: longest the broker may hold a fetch that finds less than `fetch_min_bytes`. One fetch is in
    flight per broker, so a busy partition waits for an idle one's fetch: with Faust's fixed 1500 ms up to that long on
    brokers whose long poll does not wake for every partition.
    fetch_min_bytes: what a fetch waits for. 1 is quickest and dear: every fetch costs about half a millisecond of CPU.
    release_timeout_s: bound of `PartitionOwner.release`; must stay below the group's rebalance timeout.
    stop_timeout_s: bound of the consumer thread's own stop (leave the group, close connections).
    """

    fetch_max_wait_ms: int = 50
    fetch_min_bytes: int = 1
    release_timeout_s: float = 8.0
    stop_timeout_s: float = 1.0


class BatchTransport(drv.Transport):  # type: ignore[misc]
    """Transport behind `kafka+batch://`."""

    Consumer = BatchConsumer
    owner: PartitionOwner | None = None
    options: TransportOptions = TransportOptions()


def bind(app: Any, owner: PartitionOwner, options: TransportOptions | None = None) -> None:
    """Attach the owner and the options to the app's transport; before the app starts.

    Raises ConfigError if the app's broker URL is not kafka+batch://, or if the app asks for exactly_once.
    """
    transport = app.transport
    if not isinstance(transport, BatchTransport):
        raise ConfigError(f"broker is {app.conf.broker_consumer}: batch topics need a kafka+batch:// URL")
    if app.conf.processing_guarantee is ProcessingGuarantee.EXACTLY_ONCE:
        raise ConfigError("processing_guarantee is exactly_once: batch topics commit by checkpoint, set at_least_once")
    transport.owner, transport.options = owner, options or transport.options
    app.on_before_shutdown.connect(_release_at_shutdown, weak=False)
    app.tables.sleep = _wait_for_tables(app.tables)
    # Faust makes folders for tables in the working directory, which may be read-only; without tables none are needed.
    create_directories = app._create_directories
    app._create_directories = lambda: create_directories() if app.tables else None


def _wait_for_tables(tables: Any) -> Any:
    # Faust gives tables 1 s to be declared before it joins the group: half the start of an app that has none.
    wait = tables.sleep

    async def sleep(seconds: float) -> None:
        await wait(seconds if tables else 0)

    return sleep


async def _release_at_shutdown(app: Any, **_: Any) -> None:
    # Here the flow is stopped, while agents, consumer and producers still run.
    if isinstance(app._consumer, BatchConsumer):
        await app._consumer.release()


def batch_consumer(app: Any) -> BatchConsumer:
    """Return the running app's consumer, typed."""
    consumer = app.consumer
    assert isinstance(consumer, BatchConsumer), "the app was not given to bind()"
    return consumer


drivers.TRANSPORTS.aliases["kafka+batch"] = "pipeline.transport:BatchTransport"
