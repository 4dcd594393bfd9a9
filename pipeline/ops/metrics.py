"""Metrics: a registry of our own, names `kizashi_<name>_<unit>`, label values from closed lists, seconds.

Telemetry is per batch, never per frame. The frame and row counters come from the state's own counters, which live in
the checkpoints: they hold across crashes and moves, and both conservation laws can be read off one scrape.
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.ops.health import HOLDS

#: The state's counters, and what each says. received = judged + dead_lettered + late + duplicate + shed + in flight;
#: rows = rows_scored + rows_dead_lettered + rows in flight.
LAW = {
    "received": ("kizashi_frames_received", "frames read from the telemetry topic"),
    "judged": ("kizashi_frames_judged", "frames whose every row is settled"),
    "dead_lettered": ("kizashi_frames_dead_lettered", "frames in the dead-letter topic"),
    "late": ("kizashi_frames_late", "frames older than the last 64 sequence numbers of their asset"),
    "duplicate": ("kizashi_frames_duplicate", "frames that had come before"),
    "shed": ("kizashi_frames_shed", "frames given up under overload"),
    "reordered": ("kizashi_frames_reordered", "frames accepted out of order (also counted as judged)"),
    "gap_frames": ("kizashi_frames_missing", "frames that never came, by gaps in the sequence numbers"),
    "rows": ("kizashi_rows", "rows made of frames for the engine"),
    "rows_scored": ("kizashi_rows_scored", "rows with a score"),
    "rows_dead_lettered": ("kizashi_rows_dead_lettered", "rows on which the engine failed"),
}

# From 1 ms (an empty box) to 10 s (a worker that catches up); the bars are 5, 40 and 100 ms, so edges lie on them.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 4, 16, 64, 128, 256, 512, 1024)


@dataclass(slots=True)
class PartitionView:
    """What one partition shows. totals: the state's counters by name; lag: records; assets: slots taken."""

    totals: Mapping[str, int]
    in_flight: int = 0
    rows_in_flight: int = 0
    lag: int = 0
    assets: int = 0


class _Partitions(Collector):
    """Shows the partitions that this worker owns, and no others: their next owner shows them."""

    def __init__(self) -> None:
        self.views: dict[int, PartitionView] = {}

    def collect(self) -> Iterator[Metric]:
        views = sorted(list(self.views.items()))
        for name, (metric, text) in LAW.items():
            family = CounterMetricFamily(metric, text, labels=("partition",))
            for number, view in views:
                family.add_metric((str(number),), view.totals.get(name, 0))
            yield family
        gauges = (
            ("kizashi_frames_in_flight", "frames received and not yet at an end", "in_flight"),
            ("kizashi_rows_in_flight", "rows handed to the engine and not yet settled", "rows_in_flight"),
            ("kizashi_lag_records", "records between the position and the partition's end", "lag"),
            ("kizashi_assets", "assets that hold a slot", "assets"),
        )
        for metric, text, attribute in gauges:
            gauge = GaugeMetricFamily(metric, text, labels=("partition",))
            for number, view in views:
                gauge.add_metric((str(number),), getattr(view, attribute))
            yield gauge


class Metrics:
    """All metrics of one worker. What happens is counted by `pipeline.ops.events`, together with its log line."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a start time per series: twice the text, read by nobody
        self.registry = CollectorRegistry()
        self._partitions = _Partitions()
        self.registry.register(self._partitions)
        ProcessCollector(registry=self.registry)
        build = Gauge("kizashi_build_info", "version of this worker", ("version", "python"), registry=self.registry)
        build.labels(_version(), platform.python_version()).set(1)
        self.admit_seconds = self._histogram("kizashi_admit_seconds", "time to admit one poll of a partition")
        self.batch_rows = self._histogram("kizashi_batch_rows", "rows per inference", _ROWS)
        self.queue_seconds = self._histogram("kizashi_batch_queue_seconds", "age of a batch when the engine takes it")
        self.inference_seconds = self._histogram("kizashi_inference_seconds", "time that the engine takes for a batch")
        self.alert_seconds = self._histogram(
            "kizashi_frame_to_alert_seconds", "from the event time of the last sample to the alert's acknowledgement"
        )
        self.pending_alerts = self._gauge("kizashi_pending_alerts", "alerts sent and not yet acknowledged")
        self._engine = Gauge("kizashi_engine_info", "1: this engine serves this bundle", ("bundle", "backend"),
                             registry=self.registry)
        self._degraded = Gauge("kizashi_degraded", "1: another engine than the chosen one serves this bundle",
                               ("bundle",), registry=self.registry)
        self._backends: dict[str, str] = {}
        self.live = self._gauge("kizashi_live", "1: offsets move or there is nothing to read")
        self.ready = self._gauge("kizashi_ready", "1: the engine is warm and the group is joined")
        self.held = Gauge("kizashi_held", "1: reading is held on purpose", ("hold",), registry=self.registry)
        for hold in HOLDS:
            self.held.labels(hold).set(0)

    def show(self, partition: int, view: PartitionView) -> None:
        """Show a partition that this worker owns; once a poll is too often, once a second is plenty."""
        self._partitions.views[partition] = view

    def forget(self, partition: int) -> None:
        """Show a partition no longer: it has been revoked."""
        self._partitions.views.pop(partition, None)

    def serves(self, bundle: str, backend: str, *, degraded: bool) -> None:
        """Show which engine serves a bundle."""
        before = self._backends.get(bundle)
        if before not in (None, backend):
            self._engine.remove(bundle, before)
        self._backends[bundle] = backend
        self._engine.labels(bundle, backend).set(1)
        self._degraded.labels(bundle).set(degraded)

    def text(self) -> bytes:
        """Return everything in the Prometheus text format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, what: str, buckets: Sequence[float] = SECONDS) -> Histogram:
        return Histogram(name, what, registry=self.registry, buckets=buckets)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(name, what, registry=self.registry)


def _version() -> str:
    try:
        return version("kizashi")
    except PackageNotFoundError:  # run from a working tree that was never installed
        return "unknown"
