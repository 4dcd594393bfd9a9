"""Asks every few seconds whether the broker answers, on a connection of its own.

The clients of the flow retry in silence, so that their standing still says nothing about why. The watchdog must know: a
restart mends a stuck worker, and only makes a broker's absence worse.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace

from aiokafka import AIOKafkaClient
from aiokafka.errors import KafkaError

from pipeline.broker import BrokerConfig
from pipeline.ops.events import Events
from pipeline.ops.health import Health

#: A broker that restarts is away for some 10 s; asking more often would tell nothing sooner that anybody acts on.
EVERY_S = 10.0
#: Answers take milliseconds. Twice unanswered is away: one slow answer during a leader change is not.
_TIMEOUT_S = 5.0
_MISSES = 2


async def answers(cfg: BrokerConfig, timeout_s: float = _TIMEOUT_S) -> bool:
    """Tell whether a broker of `cfg.bootstrap` answers a request for metadata (of no topic), each step in time."""
    # The client's own limit: what is cancelled from outside leaves a connection open.
    client = AIOKafkaClient(**replace(cfg, request_timeout_s=timeout_s).client_kwargs())
    try:
        await client.bootstrap()
        return True
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        with suppress(KafkaError, OSError):
            await client.close()


class BrokerWatch:
    """Tells health and log when the broker goes and when it is back."""

    def __init__(self, cfg: BrokerConfig, health: Health, events: Events) -> None:
        self._cfg, self._health, self._events = cfg, health, events
        self._misses = 0
        self._lost_at: float | None = None

    async def run(self) -> None:
        """Ask until cancelled; a task for the worker's life."""
        while True:
            await asyncio.sleep(EVERY_S)
            self.heard(await answers(self._cfg), time.monotonic())

    def heard(self, answered: bool, now: float) -> None:
        """Take the answer to one question."""
        self._misses = 0 if answered else self._misses + 1
        if self._misses == _MISSES:
            self._lost_at = now
            self._health.broker(False, now)
            self._events.emit("broker_lost", bootstrap=self._cfg.bootstrap)
        elif answered and self._lost_at is not None:
            self._health.broker(True, now)
            self._events.emit("broker_back", bootstrap=self._cfg.bootstrap, seconds=round(now - self._lost_at, 1))
            self._lost_at = None
