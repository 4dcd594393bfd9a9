"""What crosses a topic. Imports nothing of ours; the JSON Schemas in `schemas/json` are made from these types."""

from schemas.alert import Alert, Contribution, Life, Line, Window, alert_id
from schemas.assessment import Assessment, Calibration, CalibrationNotes, RowAnswers
from schemas.birth import AssetBirth, Channel, Component
from schemas.deadletter import DeadLetter
from schemas.event import MachineEvent
from schemas.frame import TelemetryFrame

__all__ = [
    "Alert", "Assessment", "AssetBirth", "Calibration", "CalibrationNotes", "Channel", "Component", "Contribution",
    "DeadLetter", "Life", "Line", "MachineEvent", "RowAnswers", "TelemetryFrame", "Window", "alert_id",
]
