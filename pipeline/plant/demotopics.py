"""The demo's own topics and group: made before; on a real broker deleted after, whatever happens in between."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import GroupIdNotFound, NoError, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest

from pipeline.broker import BrokerConfig, NewTopic, create_topics, delete_topics
from pipeline.broker.config import reaching
from pipeline.errors import BrokerError, KizashiError, Retryable
from pipeline.ops.settings import Topics
from pipeline.plant.demobroker import DemoBroker
from schemas.topics import ALL

#: As many as the in-process broker gives every topic, so that both demos are the same.
PARTITIONS = 4
_PATIENCE_S = 10.0
_AGAIN_S = 0.3


@asynccontextmanager
async def own_topics(cfg: BrokerConfig, topics: Topics, group: str) -> AsyncIterator[None]:
    """Create all topics under the demo's prefix; at the end delete them, and the group.

    Raises BrokerError, also when something could not be deleted: it says what is left behind, and what came before.
    """
    before: BaseException | None = None
    try:
        await create_topics(cfg, [NewTopic(topics.name(t), PARTITIONS, settings=t.settings) for t in ALL])
        yield
    except BaseException as error:
        before = error
        raise
    finally:
        try:
            await _patiently(lambda: delete_topics(cfg, [topics.name(t) for t in ALL]))
            await _patiently(lambda: delete_group(cfg, group))
        except KizashiError as error:
            first = f"{before}. " if isinstance(before, Exception) else ""
            raise BrokerError(f"{first}Topics {topics.prefix}* or group {group} are left behind: {error}") from error


async def _patiently(what: Callable[[], Awaitable[object]]) -> None:
    """Try again while waiting may help: a fresh broker has no coordinator for its first groups yet."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE_S
    while True:
        try:
            await what()
            return
        except Retryable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_AGAIN_S)


@asynccontextmanager
async def borrowed_topics(broker: DemoBroker, topics: Topics) -> AsyncIterator[None]:
    """Create all topics on the in-process broker, which takes them with it when it ends."""
    broker.create(topics.name(t) for t in ALL)
    yield


async def delete_group(cfg: BrokerConfig, group: str) -> None:
    """Delete a group without members; one that never was is fine. Raises BrokerError."""
    with reaching(cfg, f"delete group {group}"):
        admin, client = AIOKafkaAdminClient(**cfg.client_kwargs()), AIOKafkaClient(**cfg.client_kwargs())
        try:
            await admin.start()
            await client.bootstrap()
            # aiokafka's admin client knows the request and the coordinator, but offers no method that joins them.
            answer = await client.send(await admin.find_coordinator(group), DeleteGroupsRequest([group]))
        finally:
            await admin.close()
            await client.close()
        for _, code in answer.results:
            if for_code(code) not in (NoError, GroupIdNotFound):
                raise for_code(code)(group)
