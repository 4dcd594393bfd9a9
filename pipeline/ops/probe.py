"""Asks a worker on this machine how it is. Small imports only: a container's health check runs it every few seconds."""

import http.client
import json
from dataclasses import dataclass

from pipeline.ops.settings import Settings

#: A worker answers within milliseconds, also when its loop is stuck.
_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says of itself."""

    ok: bool
    why: str


def ask(settings: Settings, path: str) -> Answer:
    """Ask the worker of this configuration for /live or /ready. Raises ConnectionError if none answers."""
    connection = http.client.HTTPConnection(settings.metrics.host, settings.metrics.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return Answer(answer.status == 200, str(json.loads(answer.read()).get("why", "")))
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        where = f"{settings.metrics.host}:{settings.metrics.port}"
        raise ConnectionError(f"no worker answers at {where}: {error}") from error
    finally:
        connection.close()
