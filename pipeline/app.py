"""App: the live worker. The only file that knows Faust's agents."""

import asyncio
import gc
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import faust
from mode.supervisors import CrashingSupervisor

from engines import Bundle, Engine
from pipeline import broker
from pipeline.aside import aside
from pipeline.assembly import bundles_of, fallback_of, flow_settings, routes_of
from pipeline.births import BirthBook
from pipeline.broker import Follower, murmur2_partition
from pipeline.custody import Custody
from pipeline.enginethread import EngineThread
from pipeline.errors import BrokerError, Fatal
from pipeline.fitting import Fitter
from pipeline.fleet import Fleet
from pipeline.flow import Flow
from pipeline.modelwatch import ModelWatch
from pipeline.offers import FolderModels
from pipeline.ops import heap, logs
from pipeline.ops.connect import broker_config, clear_text_beyond_loopback
from pipeline.ops.events import Events
from pipeline.ops.reach import BrokerWatch
from pipeline.ops.server import OpsServer
from pipeline.ops.settings import Group, Settings
from pipeline.ops.topicplan import needed, pending, plan
from pipeline.ops.watchdog import Watchdog
from pipeline.publish import Publisher
from pipeline.seating import Seating
from pipeline.serving import Active, Engines, Limits, Serving
from pipeline.store import Store
from pipeline.succession import layouts
from pipeline.telemetry import Telemetry
from pipeline.transport import BatchTopic, TransportOptions, batch_consumer, bind
from pipeline.worker import Worker
from schemas.topics import ALL, ASSESSMENT, ASSET, STATE, TELEMETRY


async def check_topics(settings: Settings, cfg: broker.BrokerConfig) -> int:
    """Return the telemetry topic's partitions. Raises BrokerError naming what is missing and how to make it."""
    counts = {t.name: await broker.partition_count(cfg, settings.topics.name(t)) for t in ALL
              if t is not ASSESSMENT or settings.topics.assessment}
    missing = [settings.topics.name(n) for n, count in counts.items() if count is None]
    if missing:
        raise BrokerError(f"{settings.broker.bootstrap}: no topic {', '.join(missing)}. "
                          "Create them with: kizashi topics apply")
    telemetry, state = counts[TELEMETRY.name], counts[STATE.name]
    assert telemetry is not None and state is not None
    if state != telemetry:
        raise BrokerError(f"topic {settings.topics.name(STATE)} has {state} partitions, "
                          f"{settings.topics.name(TELEMETRY)} has {telemetry}: they must be equal. "
                          "kizashi topics apply grows the state topic; one that is too large must be deleted first")
    return telemetry


def make_app(settings: Settings) -> faust.App:
    """Build the Faust app. Faust runs the group, rebalances and the agent; commits and state are ours."""
    instance = {"consumer_group_instance_id": settings.group.instance_id} if settings.group.instance_id else {}
    return faust.App(
        settings.group.id, broker=f"kafka+batch://{settings.broker.bootstrap}", store="memory://", autodiscover=False,
        value_serializer="raw", key_serializer="raw", web_enabled=False, topic_allow_declare=False,
        topic_disable_leader=True, broker_session_timeout=settings.group.session_timeout_s,
        broker_request_timeout=settings.group.session_timeout_s + 80.0,  # Faust wants it above; its own are 60 and 90
        broker_heartbeat_interval=settings.group.heartbeat_s, consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=30_000, stream_wait_empty=False, agent_supervisor=CrashingSupervisor,
        broker_credentials=_credentials(settings), **instance)


def _credentials(settings: Settings) -> Any:
    cfg = broker_config(settings)
    if settings.broker.security_protocol == "PLAINTEXT":
        return None
    if cfg.sasl_mechanism is None:
        return faust.SSLCredentials(context=cfg.ssl_context())
    return faust.SASLCredentials(username=cfg.sasl_username, password=cfg.sasl_password, mechanism=cfg.sasl_mechanism,
                                 ssl_context=cfg.ssl_context())


#: Closing connections takes milliseconds; beyond this nobody answers.
CLOSE_S = 2.0


class Runtime:
    """Everything that a worker process holds, started in order and stopped in the reverse."""

    def __init__(self, settings: Settings, engines: Mapping[str, Engine] | None = None,
                 bundles: Mapping[str, Bundle] | None = None,
                 fitter: Callable[[Settings, Events], Fitter] = Fitter) -> None:
        """engines, bundles, fitter: instead of what the settings name (benchmarks, tests)."""
        self.settings = settings
        self.births = BirthBook()
        self.telemetry = telemetry = Telemetry.start(settings.worker.watchdog_s)
        self.metrics, self.events, self.health = telemetry.metrics, telemetry.events, telemetry.health
        self.watched = settings.models.folder is not None and settings.models.poll_s > 0 and engines is None
        refused: list[str] = []
        self.fitter = fitter(settings, self.events) if engines is None else None
        self.engines: dict[str, Engines] = {}
        self.bundles = dict(bundles) if bundles is not None else bundles_of(
            settings, refused, resume=self.watched, start=self._start if engines is None else None)
        for why in refused:
            self.events.emit("swap_refused", why=why)
        for name, engine in (engines or {}).items():
            self.engines[name] = given(self.bundles[name], engine, settings.batch.max_size)
        self.health.warm = True
        self.stop = asyncio.Event()
        self.code = 0  # of an orderly stop
        self.lapsed = False  # the lease on our partitions, when it was last asked for
        self.fleet: Fleet
        self.worker: Worker
        self.watchdog: Watchdog
        self.custody: Custody
        self.flow: Flow
        self.library: logs.LibraryHandler | None = None
        self._tasks: list[asyncio.Task[Any]] = []

    def _start(self, bundle: Bundle, unknown: bool) -> None:
        assert self.fitter is not None
        if unknown:
            self.fitter.try_out(bundle, ())
        self.engines[bundle.spec.name] = self.fitter.engines(bundle)

    async def main(self) -> int:
        """Run until a signal or a fault. Returns the exit code."""
        settings = self.settings
        server = None
        self.watchdog = Watchdog(self.health, time.monotonic, lambda why: self.events.emit("watchdog_fired", why=why))
        if settings.metrics.enabled:
            server = OpsServer(self.metrics, self.health, time.monotonic, settings.metrics.host, settings.metrics.port)
            server.start()
            self.events.emit("metrics_serving", host=settings.metrics.host, port=server.port)
        if clear_text_beyond_loopback(settings):
            self.events.emit("clear_text", bootstrap=settings.broker.bootstrap)
        self.telemetry.hold("starting")
        self.watchdog.start()
        try:
            return await self._serve()
        finally:
            self.watchdog.stop()
            if server is not None:
                server.stop()

    async def _serve(self) -> int:
        settings, cfg = self.settings, broker_config(self.settings)
        partitions = await check_topics(settings, cfg)
        await self._compare_topics(cfg, partitions)
        seats = Seating(self.bundles, routes_of(settings), self.births, settings.worker.max_assets,
                        lambda asset: murmur2_partition(asset.encode(), partitions), fallback_of(settings))
        limits = Limits(settings.engine.deadline_s, settings.engine.restart_after_s)
        servings = {name: Serving(engines, self.telemetry, limits) for name, engines in self.engines.items()}
        self.fleet = fleet = Fleet(servings, self.fitter)
        self.flow = flow = Flow(flow_settings(settings), seats, {name: s.inputs for name, s in servings.items()},
                                fleet.staging)
        # No linger: an alert should not wait for company, and in a flood what comes during a request is the next one.
        state_producer = await broker.make_producer(
            cfg, linger_ms=0, max_request_bytes=int(STATE.settings["max.message.bytes"]))
        publisher = Publisher(
            lambda may_write: broker.make_producer(cfg, linger_ms=0, may_write=may_write), settings.topics,
            served=fleet.headers, stale_ms=round(settings.worker.stale_alert_s * 1000),
            may_write=self._may_write,
            on_acked=lambda made_ms: self.metrics.alert_seconds.observe(max(0.0, time.time() - made_ms / 1000)),
            on_retry=lambda topic, error: self.events.emit("degraded", why=f"{topic} is tried again: {error!r}"))
        store = Store(cfg, settings.topics.name(STATE), settings.topics.name(TELEMETRY), settings.worker,
                      lambda error: self.events.emit("degraded", why=f"restoring is tried again: {error}"))
        self.worker = worker = Worker(settings, flow, servings, publisher, self.telemetry)
        self.custody = custody = Custody(settings, flow, worker, publisher, state_producer, store, partitions,
                                         self.telemetry)
        for serving in servings.values():
            serving.on_worn = self._wear_out
        fleet.start(worker.restage)
        await publisher.start()
        follower = Follower(cfg, settings.topics.name(ASSET), worker.on_birth)
        app = make_app(settings)
        bind(app, custody, TransportOptions(fetch_max_wait_ms=settings.worker.fetch_max_wait_ms,
                                           fetch_min_bytes=settings.worker.fetch_min_bytes,
                                           release_timeout_s=settings.worker.drain_s * 0.8))
        topic = BatchTopic(app, topics=[settings.topics.name(TELEMETRY)], max_batch=settings.worker.max_batch,
                           max_inflight=settings.worker.max_inflight, key_type=bytes, value_type=bytes)

        @app.agent(topic, name="kizashi")  # type: ignore[untyped-decorator]
        async def ingest(stream: Any) -> None:
            async for batch in stream.noack():
                await worker.on_batch(batch)
                batch.ack()

        self.events.emit("worker_started", partitions=partitions, bundles=sorted(self.bundles),
                         engine=settings.engine.name, settings=settings.model_dump(mode="json", exclude_defaults=True))
        try:
            await follower.start()
            worker.refresh_births = follower.refresh
            flow.patient = True
            self._spawn(worker.births(), worker.housekeeping(), publisher.failed())
            await self._wait(follower.caught_up(), "births")
            await worker.births_applied()
            custody.births_known.set()
            custody.consumer = batch_consumer(app)
            worker.highwater = custody.consumer.highwater
            worker.heartbeat_age_s = lambda: custody.consumer.heartbeat_age_s
            await app.start()
            gc.collect()
            gc.freeze()  # start-up's objects are never garbage. Thresholds above the defaults gained nothing on W1
            heap.give_back()  # what reading all births needed
            if self.fitter is not None and settings.models.folder is not None:
                offers = FolderModels(settings, self.fitter, fleet, self.events,
                                      lambda name: layouts(flow.partitions.values(), name))
                await aside(offers.begin)
                for serving in servings.values():
                    serving.on_broken = offers.broken
            if self.watched:
                self._spawn(ModelWatch(offers, flow, custody, self.events, settings.models.poll_s,
                                       stuck_s=settings.models.stuck_s).run())
            self._spawn(custody.checkpoints(), follower.failed(),
                        BrokerWatch(cfg, self.health, self.events).run(), self._library_lines(),
                        app.wait_until_stopped())
            return await self._until_stopped(app)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            # What is durable is: with the broker away, clients would wait for it far beyond any budget.
            closing = [follower.stop(), publisher.stop(), state_producer.stop(), fleet.stop()]
            await asyncio.wait([asyncio.ensure_future(c) for c in closing], timeout=CLOSE_S)
            self.events.report(final=True)
            if self.library is not None:
                self.library.report(final=True)

    def _may_write(self) -> bool:
        """Say whether our partitions can hardly be another's; tell once when what is published begins to wait."""
        lease_s = lease(self.settings.group)
        lapsed = (self.worker.heartbeat_age_s() or 0.0) >= lease_s
        if lapsed and not self.lapsed:
            self.events.emit("degraded", why=f"alerts wait: the group has confirmed no heartbeat for {lease_s:g} s")
        self.lapsed = lapsed
        return not lapsed

    def _wear_out(self, why: str) -> None:
        """Stop in order, with an exit code that lets a supervisor start a process that may have its GPU again."""
        self.events.emit("degraded", why=why)
        self.code = 1
        self.stop.set()

    async def _compare_topics(self, cfg: broker.BrokerConfig, partitions: int) -> None:
        """Warn of settings that would bend the journey, as producers' clocks for the broker's."""
        names = [self.settings.topics.name(t) for t in needed(self.settings)]
        try:
            found = await broker.describe_topics(cfg, names)
        except broker.Unsupported as error:
            self.events.emit("topic_checks_skipped", why=str(error))
            return
        steps = pending(plan(self.settings, found, partitions))
        if steps:
            self.events.emit("topics_differ", why="; ".join(f"{s.topic}: {s.why}" for s in steps))

    async def _wait(self, what: Any, name: str) -> None:
        """Wait for a step of the start, unless the process is told to stop."""
        task, stop = asyncio.ensure_future(what), asyncio.ensure_future(self.stop.wait())
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
            raise KeyboardInterrupt(f"stopped while waiting for {name}")
        task.result()

    async def _library_lines(self) -> None:
        """Write what the libraries' rate limiter has held back, once they are quiet."""
        while True:
            await asyncio.sleep(1.0)
            if self.library is not None:
                self.library.report()

    def _spawn(self, *coroutines: Any) -> None:
        self._tasks += [asyncio.get_running_loop().create_task(c) for c in coroutines]

    async def _until_stopped(self, app: faust.App) -> int:
        settings, worker = self.settings, self.worker
        stop = asyncio.ensure_future(self.stop.wait())
        waits: list[asyncio.Future[Any]] = [stop, worker.failed, *self._tasks]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        error: BaseException | None = worker.failed.result() if worker.failed.done() else None
        for task in self._tasks:
            if error is None and task.done() and not task.cancelled():
                error = task.exception() or app.crash_reason
        error = error or app.crash_reason
        self.events.emit("worker_stopping", why="signal" if error is None else str(error))
        self.telemetry.hold("draining")
        self.watchdog.stop()  # a drain has a budget of its own
        try:
            budget = settings.worker.drain_s - CLOSE_S if error is None else settings.group.session_timeout_s
            async with asyncio.timeout(max(CLOSE_S, budget)):
                if error is not None:
                    worker.give_up()
                await app.stop()
        except TimeoutError:
            self.events.emit("drain_incomplete", frames=self.custody.unfinished())
        if isinstance(error, Fatal):
            raise error
        if error is not None:
            raise RuntimeError(f"the worker crashed: {error!r}") from error
        return self.code


def lease(group: Group) -> float:
    """Return how many seconds after a heartbeat our partitions are taken for ours.

    The group gives them away a session timeout after the last one, and no sooner; but at once to a process that joins
    with our instance id, which we hear by the next heartbeat.
    """
    return 2 * group.heartbeat_s if group.instance_id else group.session_timeout_s


def given(bundle: Bundle, engine: Engine, rows: int) -> Engines:
    """Start an engine that is given."""
    thread = EngineThread(lambda: engine, rows, bundle.spec.name)
    thread.start()
    return Engines(bundle, Active(thread, engine.name, "given"))


def _secrets(settings: Settings) -> list[str]:
    password = settings.broker.password
    return [password.get_secret_value()] if password is not None else []


def run(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT; returns the exit code. Raises Fatal for what a person must mend."""
    library = logs.configure(settings.log, secrets=_secrets(settings))

    async def main() -> int:
        runtime = Runtime(settings)
        runtime.library = library
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, runtime.stop.set)
        try:
            code = await runtime.main()
        except KeyboardInterrupt:
            code = 0
        runtime.events.emit("worker_stopped", exit_code=code)
        return code

    return asyncio.run(main())
