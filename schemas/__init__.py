"""What crosses a topic. Imports nothing of ours; the JSON Schemas in `schemas/json` are made from these types."""

from schemas.alert import Alert, Contribution, Window, alert_id
from schemas.assessment import Assessment, Calibration
from schemas.birth import AssetBirth, Channel, Component
from schemas.deadletter import DeadLetter
from schemas.frame import TelemetryFrame

__all__ = [
    "Alert", "Assessment", "AssetBirth", "Calibration", "Channel", "Component", "Contribution", "DeadLetter",
    "TelemetryFrame", "Window", "alert_id",
]
