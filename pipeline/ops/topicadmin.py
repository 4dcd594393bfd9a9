"""Carries out a topic plan."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from pipeline.broker import BrokerConfig, NewTopic, create_topics, describe_topics
from pipeline.broker.config import reaching
from pipeline.errors import Retryable
from pipeline.ops.settings import Settings
from pipeline.ops.topicplan import Step, needed, plan

#: Source of a setting in DescribeConfigs: set on this topic itself (not a default of broker or cluster).
_SET_ON_TOPIC = 1
#: Brokers learn of a change within milliseconds; a cluster that needs longer than this is not well.
_SHOWN_S = 10.0


async def make_plan(cfg: BrokerConfig, settings: Settings, partitions: int) -> list[Step]:
    """Ask the broker for the topics and compare. Raises Unsupported where it cannot describe them."""
    have = await describe_topics(cfg, [settings.topics.name(t) for t in needed(settings)])
    return plan(settings, have, partitions)


async def carry_out(cfg: BrokerConfig, settings: Settings, steps: Iterable[Step]) -> None:
    """Do the steps that can be done, and wait until the broker shows them; those marked impossible are left.

    Raises BrokerError, or Retryable where the broker goes away or shows a change only later.
    """
    steps = list(steps)
    create, alter, grow = ([s for s in steps if s.action == action] for action in ("create", "alter", "grow"))
    await create_topics(cfg, [NewTopic(s.topic, s.partitions, settings=s.settings) for s in create])
    if alter or grow:
        async with _admin(cfg) as admin:
            for step in alter:
                await _alter(admin, step.topic, step.settings)
            for step in grow:
                await admin.create_partitions({step.topic: NewPartitions(step.partitions)})
        await _shown(cfg, settings, {step.topic for step in (*alter, *grow)})


async def _shown(cfg: BrokerConfig, settings: Settings, changed: set[str]) -> None:
    # A controller confirms a change before every broker knows of it; who starts a worker next must not have to wait.
    deadline = time.monotonic() + _SHOWN_S
    while True:
        steps = [step for step in await make_plan(cfg, settings, 1) if step.topic in changed]
        unseen = [step for step in steps if step.action in ("alter", "grow")]
        if not unseen:
            return
        if time.monotonic() > deadline:
            raise Retryable(f"{cfg.bootstrap} took a change and does not show it after {_SHOWN_S:g} s: {unseen[0]}")
        await asyncio.sleep(0.05)


async def _alter(admin: AIOKafkaAdminClient, topic: str, settings: Mapping[str, str]) -> None:
    # This client speaks only the call that replaces all settings of a topic, so what is set there is sent along.
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    ((code, message, _, _, entries),) = answer.resources
    if code:
        raise for_code(code)(message)
    kept = {name: value for name, value, _, source, *_ in entries if source == _SET_ON_TOPIC}
    (done,) = await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, kept | dict(settings))])
    for code, message, *_ in done.resources:
        if code:
            raise for_code(code)(message)


@asynccontextmanager
async def _admin(cfg: BrokerConfig) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**cfg.client_kwargs())
    with reaching(cfg, "change topics"):
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()
