"""JSON Schemas of every message, made from the types: `python -m schemas.jsonschema` writes them to `schemas/json`.

They describe the decoded message for downstream teams in any language. On the wire alerts are JSON; the others are
msgpack maps with the same names, where a field of `contentEncoding` base64 is a msgpack bin instead.
"""

import inspect
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from schemas.alert import Alert
from schemas.assessment import Assessment, Calibration
from schemas.birth import AssetBirth
from schemas.deadletter import DeadLetter
from schemas.event import MachineEvent
from schemas.frame import TelemetryFrame
from schemas.topics import ALERT, ASSESSMENT, ASSET, CALIBRATION, DEADLETTER, TELEMETRY

FOLDER = Path(__file__).parent / "json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

#: Machine events travel in the topic of the frames, whose order they share.
EVENT = f"{TELEMETRY.name}.event"
#: Which message each topic carries. `kizashi.alert.state.v1` carries the same alerts as the history topic.
MESSAGES: dict[str, type[Struct]] = {
    TELEMETRY.name: TelemetryFrame,
    EVENT: MachineEvent,
    ASSET.name: AssetBirth,
    ALERT.name: Alert,
    ASSESSMENT.name: Assessment,
    CALIBRATION.name: Calibration,
    DEADLETTER.name: DeadLetter,
}


def schema(topic: str) -> dict[str, Any]:
    """Return the JSON Schema of the message on `topic`. Unknown fields are allowed: schemas grow additively."""
    message = MESSAGES[topic]
    (reference,), definitions = msgspec.json.schema_components([message], ref_template="#/$defs/{name}")
    body = definitions.pop(reference["$ref"].rsplit("/", 1)[-1])
    for part in (body, *definitions.values()):
        if "description" in part:
            part["description"] = inspect.cleandoc(part["description"])
    return {"$schema": DIALECT, "$id": topic, **body, **({"$defs": definitions} if definitions else {})}


def files() -> dict[str, bytes]:
    """Return file name -> content of every schema, as `schemas/json` must hold them."""
    return {
        f"{topic}.json": msgspec.json.format(msgspec.json.encode(schema(topic)), indent=2) + b"\n" for topic in MESSAGES
    }


def main() -> None:
    """Write `schemas/json`, and remove what no message belongs to any more."""
    wanted = files()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, content in wanted.items():
        (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
