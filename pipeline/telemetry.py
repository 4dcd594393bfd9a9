"""Telemetry of the worker itself: events, metrics and health in one hand, so that they cannot disagree."""

import time
from dataclasses import dataclass

from pipeline.ops.events import Events
from pipeline.ops.health import Health
from pipeline.ops.metrics import Metrics


@dataclass(slots=True)
class Telemetry:
    """One per process."""

    metrics: Metrics
    events: Events
    health: Health

    @classmethod
    def start(cls, stall_s: float) -> "Telemetry":
        metrics = Metrics()
        return cls(metrics, Events(metrics), Health(stall_s, time.monotonic()))

    def hold(self, why: str) -> None:
        """Reading stands still on purpose from now on."""
        if self.health.hold(why, time.monotonic()):
            self.metrics.held.labels(why).set(1)
            self.events.emit("held", hold=why)

    def release(self, why: str) -> None:
        """This reason to stand still is gone."""
        held = self.health.release(why, time.monotonic())
        if held is not None:
            self.metrics.held.labels(why).set(0)
            self.events.emit("released", hold=why, seconds=round(held, 3))

    def serves(self, bundle: str, backend: str, why: str, *, degraded: bool) -> None:
        """An engine serves this bundle from now on. degraded: another one was chosen."""
        self.metrics.serves(bundle, backend, degraded=degraded)
        if degraded:
            self.health.degraded[bundle] = f"{bundle} on {backend}: {why}"
        else:
            self.health.degraded.pop(bundle, None)
