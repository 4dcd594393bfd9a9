"""What `kizashi doctor` looks at. Each check answers with findings; none of them changes anything that stays."""

import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.bundle import Bundle
from engines.select import Choice
from pipeline.broker import (
    BrokerConfig,
    NewTopic,
    Unsupported,
    create_topics,
    delete_topics,
    make_producer,
    partition_count,
)
from pipeline.errors import BrokerError, ConfigError, ModelError, Retryable
from pipeline.ops.connect import broker_config, clear_text_beyond_loopback
from pipeline.ops.events import Events
from pipeline.ops.metrics import Metrics
from pipeline.ops.probe import ask
from pipeline.ops.settings import Settings
from pipeline.ops.topicadmin import make_plan
from pipeline.ops.topicplan import DEFAULT_PARTITIONS, pending
from schemas.topics import TELEMETRY

#: The worker itself keeps nothing on disk; logs and the system do, and a full disk stops both.
_LOW_DISK_BYTES = 500 << 20
#: NTP keeps machines within some 10 ms; at a second something is wrong with it.
_SKEW_S = 1.0

Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer. fix: what to do about it. exit_code: of the command, where something is wrong."""

    level: Level
    subject: str
    text: str
    fix: str = ""
    exit_code: int = 0

    def __str__(self) -> str:
        fix = f"\n{'':13}-> {self.fix}" if self.fix else ""
        return f"{self.level:<6}{self.subject:<7}{self.text}{fix}"


async def diagnose(settings: Settings) -> AsyncIterator[Finding]:
    """Look at everything, and yield findings as they are made. What needs a broker is left out without one."""
    yield Finding("ok", "config", "valid")
    cfg = broker_config(settings, "kizashi-doctor")
    reached = False
    async for finding in _broker(settings, cfg):
        reached = finding.subject == "broker" and finding.level != "wrong"
        yield finding
    if reached:
        async for finding in _topics(settings, cfg):
            yield finding
        yield await _clock(settings, cfg)
    for finding in (*_disk(settings), *_engine(settings), _worker(settings)):
        yield finding


async def _broker(settings: Settings, cfg: BrokerConfig) -> AsyncIterator[Finding]:
    start = time.perf_counter()
    try:
        await partition_count(cfg, settings.topics.name(TELEMETRY))
    except (Retryable, BrokerError, ConfigError) as error:
        fix = "start the broker, or set broker.bootstrap (KIZASHI_BROKER__BOOTSTRAP) to where it listens"
        if settings.broker.security_protocol != "PLAINTEXT":
            fix += f"; it must speak {settings.broker.security_protocol} there, see broker.ca_file and broker.username"
        yield Finding("wrong", "broker", str(error), fix, BrokerError.exit_code)
        return
    if clear_text_beyond_loopback(settings):
        yield Finding("note", "broker", f"{cfg.bootstrap} is reached in clear text across a network",
                      "set broker.security_protocol to SSL or SASL_SSL")
    yield Finding("ok", "broker", f"{cfg.bootstrap} answers in {time.perf_counter() - start:.2f} s")


async def _topics(settings: Settings, cfg: BrokerConfig) -> AsyncIterator[Finding]:
    try:
        steps = await make_plan(cfg, settings, DEFAULT_PARTITIONS)
    except Unsupported as error:
        yield Finding("note", "topics", f"not checked: {error}")
        return
    except (Retryable, BrokerError) as error:
        fix = "give the account the right to describe topics"
        yield Finding("wrong", "topics", str(error), fix, BrokerError.exit_code)
        return
    missing = ", ".join(step.topic for step in steps if step.action == "create")
    if missing:
        yield Finding("wrong", "topics", f"missing: {missing}", "kizashi topics apply", BrokerError.exit_code)
    for step in pending(steps):
        if step.action != "create":
            fix = "" if step.action == "impossible" else "kizashi topics apply --yes"
            yield Finding("wrong", "topics", f"{step.topic}: {step.why}", fix, BrokerError.exit_code)
    if not pending(steps):
        yield Finding("ok", "topics", f"{len(steps)} topics are as wanted")


async def _clock(settings: Settings, cfg: BrokerConfig) -> Finding:
    """Compare clocks by a record in a topic of our own, which is deleted again."""
    topic = settings.topics.name(f"kizashi.doctor.{uuid.uuid4().hex[:8]}")
    try:
        await create_topics(cfg, [NewTopic(topic, 1, settings={"message.timestamp.type": "LogAppendTime"})])
    except (Retryable, BrokerError) as error:
        return Finding("note", "clock", f"not compared with the broker's, which takes a topic of our own: {error}")
    try:
        producer = await make_producer(cfg, linger_ms=0)
        try:
            for _ in range(3):  # the first ones wait for metadata; the last one shows the bare round trip
                before = time.time()
                record = await producer.send_and_wait(topic, b"time?")
                after = time.time()
        finally:
            await producer.stop()
    finally:
        with suppress(Retryable, BrokerError):
            await delete_topics(cfg, [topic])
    ahead, doubt = record.timestamp / 1000 - (before + after) / 2, (after - before) / 2
    text = f"the broker's is {abs(ahead) * 1000:.0f} ms {'ahead' if ahead > 0 else 'behind'} (+- {doubt * 1000:.0f} ms)"
    if abs(ahead) - doubt > _SKEW_S:
        return Finding("wrong", "clock", text, "let NTP set both clocks: silence and stale alerts are told by them", 1)
    return Finding("ok", "clock", text)


def _disk(settings: Settings) -> Iterator[Finding]:
    for folder in filter(None, (Path.cwd(), settings.models.folder)):
        free = shutil.disk_usage(folder).free
        if free < _LOW_DISK_BYTES:
            yield Finding("wrong", "disk", f"{free >> 20} MiB are free at {folder}, wanted {_LOW_DISK_BYTES >> 20} MiB",
                          "make room; logs are the usual cause", 1)
        else:
            yield Finding("ok", "disk", f"{free / (1 << 30):.1f} GiB are free at {folder}")


def _engine(settings: Settings) -> Iterator[Finding]:
    from engines import EngineError
    from engines.select import backends, choose
    from engines.supply import GPU_ENGINES
    from pipeline.assembly import bundles_of, open_engines

    wanted = settings.engine.name
    for backend in backends():
        if not backend.ok and wanted in ("auto", backend.name):
            yield Finding("note", "engine", f"{backend.name} is not to be had: {backend.why}")
    start = time.perf_counter()
    try:
        choice = choose(wanted)
        bundles = bundles_of(settings)
        engines = open_engines(settings, bundles)
    except (EngineError, ModelError) as error:
        yield Finding("wrong", "engine", str(error), "see routes, models.folder and engine.name", ModelError.exit_code)
        return
    for engine in engines.values():
        engine.close()
    took = time.perf_counter() - start
    device = choice.name in GPU_ENGINES
    yield Finding("ok", "engine", f"{choice.name} serves ({choice.why})")
    yield Finding("ok", "engine", f"{'onnx_cpu beside it' if device else choice.name} runs {', '.join(engines)} at "
                  f"{settings.batch.max_size} rows, warm in {took:.2f} s")
    if device:
        yield from _plans(settings, choice, bundles)


def _plans(settings: Settings, choice: Choice, bundles: Mapping[str, Bundle]) -> Iterator[Finding]:
    from pipeline.fitting import Fitter

    fitter = Fitter(settings, Events(Metrics()), choice)
    for name, bundle in bundles.items():
        missing = fitter.missing(bundle)
        yield Finding("note", "engine", f"{name}: {missing}", f"the worker builds it while the CPU serves; or before "
                      f"that: kizashi models build {name}") if missing else Finding("ok", "engine", f"{name}: built")


def _worker(settings: Settings) -> Finding:
    if not settings.metrics.enabled or settings.metrics.port == 0:
        return Finding("note", "worker", "not asked: metrics.enabled is false, or metrics.port is 0 (any free one)")
    where = f"{settings.metrics.host}:{settings.metrics.port}"
    try:
        live, ready = (ask(settings, path) for path in ("/live", "/ready"))
    except ConnectionError:
        return Finding("note", "worker", f"none answers at {where}")
    level: Level = "ok" if live.ok and ready.ok else "wrong"
    return Finding(level, "worker", f"at {where}: live: {live.why}; ready: {ready.why}",
                   "" if level == "ok" else "its log says more", 0 if level == "ok" else 1)
