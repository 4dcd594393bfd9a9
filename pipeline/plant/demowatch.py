"""The demo's eyes: alerts, scores and calibrations from their topics, without a group."""

import asyncio
from collections.abc import Callable

from aiokafka import TopicPartition

from pipeline.broker import BrokerConfig, offset_ranges
from pipeline.ops.reader import assigned
from pipeline.ops.settings import Topics
from pipeline.plant.demoscene import Scene
from schemas.codec import decode_alert, decode_assessment, decode_calibration
from schemas.topics import ALERT, ASSESSMENT, CALIBRATION

#: How long a fetch waits for news. The in-process broker answers no sooner even where one of the partitions has some
#: (Kafka does), so it adds to what is measured here: with aiokafka's 500 ms the scores seemed to take 350 ms.
_WAIT_MS = 10


class Watcher:
    """Feeds a scene from the topics until `finish`."""

    def __init__(self, cfg: BrokerConfig, topics: Topics, scene: Scene) -> None:
        self._cfg, self._scene = cfg, scene
        self._take: dict[str, Callable[[bytes, float], None]] = {
            topics.name(ALERT): lambda value, now: scene.alerted(decode_alert(value), now),
            topics.name(ASSESSMENT): lambda value, now: scene.assessed(decode_assessment(value), now),
            topics.name(CALIBRATION): lambda value, now: scene.calibrated(decode_calibration(value).asset),
        }
        self._ends: dict[TopicPartition, int] | None = None

    async def run(self) -> None:
        """Follow the topics; return when `finish` was called and everything up to then is in the scene."""
        loop = asyncio.get_running_loop()
        async with assigned(self._cfg, *self._take, poll_ms=_WAIT_MS) as (consumer, parts):
            await consumer.seek_to_beginning(*parts)
            while self._ends is None or any([await consumer.position(tp) < end for tp, end in self._ends.items()]):
                for tp, records in (await consumer.getmany(timeout_ms=_WAIT_MS)).items():
                    take, now = self._take[tp.topic], loop.time()
                    for record in records:
                        if record.value is not None:
                            take(record.value, now)

    async def finish(self) -> None:
        """Let `run` end where the topics end now: nobody writes to them any more."""
        self._ends = {
            TopicPartition(name, p): end
            for name in self._take for p, (_, end) in (await offset_ranges(self._cfg, name)).items()
        }
