"""Named events: one call writes the log line and moves its counters, so that the two cannot disagree.

EVENTS lists every event there is. Names are stable: people search and alert on them. Levels: INFO = worth knowing,
WARNING = unexpected but nothing is lost, ERROR = data is lost or a person must act. Events that data can repeat
endlessly are held together: their lines come at most every `quiet_s`, and `count` is what came since the last line.
"""

import logging
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Histogram

from pipeline.ops.health import HOLDS
from pipeline.ops.limiter import Limiter
from pipeline.ops.lines import structlog
from pipeline.ops.metrics import SECONDS, Metrics
from schemas import Alert, DeadLetter
from schemas.topics import REASONS

#: Values that a label may take; anything else is counted as "other", so that no input can grow the metrics.
LABELS: dict[str, tuple[str, ...]] = {
    "reason": tuple(REASONS),
    "stage": ("acquire", "window", "condition", "infer"),
    "state": ("raised", "updated", "cleared"),
    "severity": ("low", "medium", "high", "critical"),
    "hold": tuple(HOLDS),
}


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of event. metric: a counter of its own with `labels`; every event is in kizashi_events_total besides.

    adds: field -> counter that it adds to. observes: field -> histogram of seconds. quiet_s: 0 = a line each time.
    warns: values of the labels that make it a WARNING.
    """

    level: int
    what: str
    metric: str = ""
    labels: tuple[str, ...] = ()
    adds: dict[str, str] | None = None
    observes: dict[str, str] | None = None
    quiet_s: float = 0.0
    warns: tuple[str, ...] = ()


_DEBUG, _INFO, _WARNING, _ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR
#: Data-driven events: a line every ten seconds and label set keeps a bad gateway from filling the disk.
_QUIET_S = 10.0

EVENTS: dict[str, Event] = {
    # the worker's life
    "worker_started": Event(_INFO, "the process is up; settings that differ from the defaults are named"),
    "worker_stopping": Event(_INFO, "a signal or a fault ends the worker; it drains within worker.drain_s"),
    "worker_stopped": Event(_INFO, "the last line; exit_code says how it ended"),
    "drain_incomplete": Event(_WARNING, "the drain ran out of time: up to `frames` frames will be processed again"),
    "watchdog_fired": Event(_ERROR, "no progress although nothing stands in the way; exit code 1"),
    "fenced": Event(_ERROR, "another worker uses this group.instance_id; this one stops, exit code 3"),
    "clear_text": Event(_WARNING, "frames and alerts cross a network unencrypted; use SSL or SASL_SSL"),
    "metrics_serving": Event(_INFO, "where /metrics, /live and /ready are"),
    # the group and the state
    "partitions_assigned": Event(_INFO, "this worker owns these partitions now"),
    "partitions_revoked": Event(_INFO, "another worker may own these partitions now"),
    "restore_done": Event(
        _INFO, "a partition's state is read back; frames from `position` on are read again",
        "kizashi_restores_total", observes={"seconds": "kizashi_restore_seconds"},
    ),
    "offset_reset_obeyed": Event(_WARNING, "an operator moved the committed offset; assets are provisional"),
    "state_discarded": Event(_ERROR, "the checkpoint does not fit the topic (re-created?); the partition starts anew"),
    "log_hole": Event(
        _ERROR, "records were gone before they were read: retention is shorter than the outage",
        adds={"records": "kizashi_records_lost_total"},
    ),
    "checkpoint_written": Event(
        _DEBUG, "state, manifest and offset are durable", "kizashi_checkpoints_total",
        adds={"bytes": "kizashi_checkpoint_bytes_total"},
        observes={"pause_s": "kizashi_checkpoint_pause_seconds", "seconds": "kizashi_checkpoint_seconds"},
    ),
    "checkpoint_failed": Event(_WARNING, "it will be tried again; nothing is lost", quiet_s=_QUIET_S),
    # holding on
    "held": Event(
        _INFO, "reading stands still on purpose for now", "kizashi_holds_total", ("hold",), warns=("publishing",)
    ),
    "released": Event(_INFO, "reading goes on"),
    "topics_differ": Event(_WARNING, "a topic's settings are not what is needed; `kizashi topics apply` mends them"),
    "topic_checks_skipped": Event(_INFO, "the broker cannot describe its topics (a broker for demonstrations)"),
    "broker_lost": Event(_WARNING, "no broker answers; nothing is lost, we wait"),
    "broker_back": Event(_INFO, "a broker answers again"),
    # data
    "dead_letters": Event(
        _WARNING, "frames or rows that could not be judged, kept with the reason",
        "kizashi_dead_letters_total", ("reason", "stage"), quiet_s=_QUIET_S,
    ),
    "frames_missing": Event(_WARNING, "sequence numbers that never came", quiet_s=_QUIET_S),
    "frames_late": Event(_WARNING, "frames older than the last 64 of their asset", quiet_s=_QUIET_S),
    "frames_duplicate": Event(_INFO, "frames that had come before; harmless", quiet_s=_QUIET_S),
    "frames_shed": Event(_ERROR, "frames given up under overload", quiet_s=_QUIET_S),
    "births_refused": Event(_WARNING, "births that are none; their assets' frames wait in vain", quiet_s=_QUIET_S),
    "birth_unroutable": Event(_WARNING, "no route or bundle serves this asset", quiet_s=_QUIET_S),
    "asset_retired": Event(_INFO, "the asset's slot is free and its alerts are cleared", quiet_s=_QUIET_S),
    "unrouted": Event(
        _WARNING, "no route matches an asset's class, site and channels; models.fallback serves it", quiet_s=_QUIET_S,
    ),
    "calibrated": Event(_INFO, "assets with a baseline of their own", quiet_s=_QUIET_S),
    "calibration_suspect": Event(
        _WARNING, "a baseline not to be trusted: its alerts are provisional; `kizashi calibrate` starts it over",
        quiet_s=_QUIET_S),
    "started_over": Event(
        _INFO, "a machine event was obeyed: what was learnt of the asset is void, its alert is cleared",
        "kizashi_machine_events_total", quiet_s=_QUIET_S),
    "unknown": Event(
        _INFO, "rows that are scored and not judged, as their model does not know; the line shows the newest asset",
        quiet_s=_QUIET_S),
    "alerts": Event(
        # The newest of each kind once a second: during a flood the log stays readable, the topic has them all.
        _INFO, "alerts published; the line shows the newest", "kizashi_alerts_total", ("state", "severity"),
        quiet_s=1.0,
    ),
    # the models and their engines
    "bundle_unsigned": Event(_WARNING, "a bundle that nobody vouches for serves: models.allow_unsigned is true"),
    "swapped": Event(_INFO, "a new version of a bundle serves; `state` says whether assets kept theirs"),
    "swap_waiting": Event(_INFO, "a new version waits until the assets that send are warm for it"),
    "swap_stuck": Event(
        _WARNING, "a new version has waited for models.stuck_s; what is in `alerting` teaches it nothing while an alert"
        " stands: mend the machine and `kizashi calibrate` it, or take the version back"),
    "swap_refused": Event(_WARNING, "a new version cannot serve, the last good one goes on; `why` says what to mend"),
    "engine_serving": Event(_INFO, "which engine serves a bundle from now on, and why it is this one"),
    "engine_ready": Event(_INFO, "a GPU engine takes rows of these shapes too from now on"),
    "engine_lost": Event(_ERROR, "an engine is broken or hangs; the CPU takes over its batches, none is lost"),
    "engine_refused": Event(_WARNING, "a TensorRT engine cannot be had or says other things than the golden vectors"),
    "engine_build": Event(_INFO, "a TensorRT engine is built in the background; the CPU serves until it is there"),
    "engine_slow": Event(_WARNING, "batches took longer than the bundle's budget over a minute", quiet_s=_QUIET_S),
    "engine_doubtful": Event(
        _WARNING, "the engine gave no numbers where the CPU finds some; the CPU's count", quiet_s=_QUIET_S),
    "batch_split": Event(_WARNING, "a batch failed and is split to find the row", quiet_s=_QUIET_S),
    "degraded": Event(_WARNING, "the worker does less than configured; `why` says what", quiet_s=_QUIET_S),
}


#: Counters of the state that are news when they move, and the events that tell it.
_COUNTED = {
    "gap_frames": "frames_missing", "late": "frames_late", "duplicate": "frames_duplicate", "shed": "frames_shed",
}


class Events:
    """Writes events. One per process; `emit` on the loop's thread, or on any for events without `quiet_s`."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._log = clock, structlog.get_logger()
        registry = metrics.registry
        self._all = Counter("kizashi_events_total", "what happened, by event name", ("event",), registry=registry)
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._quiet: dict[str, Limiter] = {}
        self._newest: dict[str, tuple[str, dict[str, Any]]] = {}
        self._totals: dict[int, dict[str, int]] = {}
        for name, event in EVENTS.items():
            self._all.labels(name)
            if event.metric:
                self._counters[event.metric] = Counter(event.metric, event.what, event.labels, registry=registry)
            for metric in (event.adds or {}).values():
                self._counters[metric] = Counter(metric, f"of event {name}", registry=registry)
            for metric in (event.observes or {}).values():
                self._histograms[metric] = Histogram(metric, f"of event {name}", registry=registry, buckets=SECONDS)
            if event.quiet_s:
                self._quiet[name] = Limiter(event.quiet_s, rate_per_s=10.0, burst=50)

    def emit(self, name: str, *, count: int = 1, **fields: Any) -> None:
        """Write one event. count: how many things it stands for; fields: what the line shows beside.

        Raises KeyError for a name that EVENTS does not list.
        """
        event = EVENTS[name]
        labels = {label: _closed(label, fields.get(label)) for label in event.labels}
        self._all.labels(name).inc(count)
        if event.metric:
            counter = self._counters[event.metric]
            (counter.labels(**labels) if labels else counter).inc(count)
        for field, metric in (event.adds or {}).items():
            self._counters[metric].inc(fields.get(field, 0))
        for field, metric in (event.observes or {}).items():
            if field in fields:
                self._histograms[metric].observe(fields[field])
        if not event.quiet_s:
            shown = {"count": count, **fields} if count != 1 else fields
            level = _WARNING if any(value in event.warns for value in labels.values()) else event.level
            self._log.log(level, name, **shown)
            return
        key = "\0".join((name, *labels.values()))
        self._newest[key] = name, fields
        held = self._quiet[name].admit(key, self._clock(), count)
        if held is not None:
            self._write(key, held)

    def report(self, *, final: bool = False) -> None:
        """Write the lines of events that were held together and have gone quiet since; for a timer, and at the end."""
        now = float("inf") if final else self._clock()
        for limiter in self._quiet.values():
            for key, held in limiter.due(now).items():
                self._write(key, held)

    def frames(self, partition: int, totals: Mapping[str, int]) -> None:
        """Tell what has become of frames since the last call for this partition; `totals` are the state's counters.

        The first call after `forget` tells nothing: a restored count is no news.
        """
        before = self._totals.get(partition)
        self._totals[partition] = {name: totals[name] for name in _COUNTED}
        for name, event in _COUNTED.items():
            fresh = 0 if before is None else totals[name] - before[name]
            if fresh > 0:
                self.emit(event, count=fresh, partition=partition)

    def forget(self, partition: int) -> None:
        """Forget a partition that another worker owns now."""
        self._totals.pop(partition, None)

    def dead_letters(self, letters: Iterable[DeadLetter]) -> None:
        """Count dead letters by reason and stage; the line shows one of each as an example."""
        groups: dict[tuple[str, str], list[DeadLetter]] = {}
        for letter in letters:
            groups.setdefault((letter.reason, letter.stage), []).append(letter)
        for (reason, stage), found in groups.items():
            last = found[-1]
            self.emit(
                "dead_letters", count=len(found), reason=reason, stage=stage, asset=last.asset, detail=last.detail,
                at=f"{last.topic}[{last.partition}]@{last.offset}",
            )

    def alerts(self, alerts: Iterable[Alert]) -> None:
        """Count alerts by state and severity; the line shows the newest of each kind."""
        newest, tally = {}, Tally[tuple[str, str]]()
        for alert in alerts:
            kind = (alert.state, alert.severity)
            newest[kind] = alert
            tally[kind] += 1
        for kind, alert in newest.items():
            self.emit(
                "alerts", count=tally[kind], state=alert.state, severity=alert.severity, asset=alert.asset,
                alert_id=alert.alert_id, revision=alert.revision, rule=alert.rule, score=alert.score, why=alert.why,
                annunciate=alert.annunciate,
            )

    def _write(self, key: str, count: int) -> None:
        name, fields = self._newest.pop(key, (key.split("\0")[0], {}))
        self._log.log(EVENTS[name].level, name, count=count, **fields)


def _closed(label: str, value: object) -> str:
    return value if isinstance(value, str) and value in LABELS[label] else "other"
