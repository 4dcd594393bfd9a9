"""Topics: names, keys, settings and retention of everything that Kizashi reads or writes."""

from dataclasses import dataclass, field

_DAY_MS = 86_400_000

#: Reason codes of dead letters, with what each means. Stable: downstream filters on them.
REASONS: dict[str, str] = {
    "undecodable": "the value is no msgpack telemetry frame",
    "wrong_type": "a field has the wrong type or is out of its range",
    "unknown_schema": "the message's version is not one that this release reads",
    "empty": "the record has no value, or the frame has no data",
    "oversized": "the record is larger than a frame may be",
    "unknown_birth": "no birth arrived for the frame while it could wait",
    "unknown_asset": "no asset of this name has sent frames here, so the machine event starts nothing over",
    "wrong_length": "data is not as long as the birth says",
    "not_finite": "a sample is NaN or infinite",
    "bad_quality": "the gateway marked the frame's quality as bad",
    "bad_clock": "the frame's time is further ahead of its record's time than allowed",
    "misrouted": "the record is on a partition where its key does not belong",
    "no_route": "no bundle can serve the asset's channels and rate",
    "asset_limit": "the partition already holds max_assets assets",
    "poison_row": "the engine fails on this row alone",
    "not_finite_output": "the engine returned NaN or infinity for this row",
}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as we want it. key: what its records are keyed by. settings: broker-side configuration."""

    name: str
    key: str
    what: str
    settings: dict[str, str] = field(default_factory=dict)


def _compacted(**extra: str) -> dict[str, str]:
    return {"cleanup.policy": "compact", **extra}


TELEMETRY = Topic(
    "kizashi.telemetry.v1", "asset", "sensor frames and machine events in",
    {"retention.ms": str(2 * _DAY_MS), "message.timestamp.type": "LogAppendTime"},
)
# A worker that was off for less than this still hears that an asset was retired.
ASSET = Topic("kizashi.asset.v1", "asset|birth_id", "births: what an asset's frames contain",
              _compacted(**{"delete.retention.ms": str(30 * _DAY_MS)}))
ALERT = Topic("kizashi.alert.v1", "asset", "alert history", {"retention.ms": str(30 * _DAY_MS)})
ALERT_STATE = Topic("kizashi.alert.state.v1", "asset|alert_id", "newest revision of each alert", _compacted())
ASSESSMENT = Topic("kizashi.assessment.v1", "asset", "scores behind the alerts (off by default)",
                   {"retention.ms": str(7 * _DAY_MS)})
CALIBRATION = Topic("kizashi.calibration.v1", "asset", "finished baselines, for other readers", _compacted())
DEADLETTER = Topic("kizashi.deadletter.v1", "topic|partition|offset", "what could not be judged, and why",
                   {"retention.ms": str(30 * _DAY_MS)})
# With Kafka's defaults the state topic grew to 1.9 GB and took 5 s to read after 200 s of checkpoints; with
# these to 0.3 GB and 0.6 s.
STATE = Topic("kizashi.state.v1", "group|topic|term|pool|block", "checkpoints: blocks and manifests", _compacted(**{
    "max.message.bytes": str(8 << 20), "segment.bytes": str(64 << 20), "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": "30000",
}))

ALL = (TELEMETRY, ASSET, ALERT, ALERT_STATE, ASSESSMENT, CALIBRATION, DEADLETTER, STATE)
