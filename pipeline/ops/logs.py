"""Log lines: one JSON object each on stderr, with a stable `event` name; what libraries log is rate-limited.

Levels: WARNING = unexpected but nothing is lost; ERROR = data is lost or a person must act.
"""

import contextlib
import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, TextIO

import msgspec

from pipeline.ops.limiter import Limiter
from pipeline.ops.lines import structlog
from pipeline.ops.settings import Log

#: aiokafka logs about 200 lines/s while its brokers are away. A text of a logger comes back every 10 s at most, and
#: all of them together once in two seconds, so a broken network leaves a readable log and an unworn flash.
EVERY_S, RATE_PER_S, BURST = 10.0, 0.5, 10
#: A traceback beyond this says nothing that its ends do not.
_MAX_TRACE = 8_000
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")


def configure(
    log: Log, *, secrets: Iterable[str] = (), stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
) -> "LibraryHandler":
    """Route our own and the libraries' log lines to `stream` (stderr); call it once the libraries are imported.

    secrets: texts that never show in any line, whoever logs them. Returns the handler of the libraries' lines, whose
    `report` a timer should call.
    """
    level = logging.getLevelNamesMapping()[log.level]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            _json if log.format == "json" else structlog.dev.ConsoleRenderer(colors=False, timestamp_key="time"),
            _Mask(secrets),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = LibraryHandler(clock)
    logging.root.handlers[:] = [handler]
    # Their INFO is about themselves; what matters of it (group joined, partitions assigned) we say as our own events.
    logging.root.setLevel(logging.DEBUG if level == logging.DEBUG else logging.WARNING)
    logging.captureWarnings(True)
    return handler


class _Lines:
    """Writes whole lines. A reader that has gone (a closed pipe, a full disk) must not end the worker."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def __call__(self, *args: Any) -> "_Lines":
        return self

    def msg(self, line: str) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg


class _Mask:
    def __init__(self, secrets: Iterable[str]) -> None:
        texts = {form for secret in secrets if secret for form in (secret, json.dumps(secret)[1:-1])}
        self._secrets = sorted(texts, key=len, reverse=True)

    def __call__(self, logger: Any, method: str, line: Any) -> Any:
        for secret in self._secrets:
            line = line.replace(secret, "**********")
        return line


def _json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    if "exception" in event and len(event["exception"]) > _MAX_TRACE:
        event["exception"] = event["exception"][: _MAX_TRACE // 2] + "\n...\n" + event["exception"][-_MAX_TRACE // 2 :]
    line = {name: event.pop(name) for name in ("time", "level", "event")} | dict(event)
    return msgspec.json.encode(line, enc_hook=_plain).decode()


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)  # NumPy's numbers; the rest as text


class LibraryHandler(logging.Handler):
    """Passes on what faust, mode, aiokafka and asyncio log, as event `library`, limited by logger and text."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._limiter, self._report_at = clock, Limiter(EVERY_S, RATE_PER_S, BURST), clock() + EVERY_S
        self.suppressed = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record, or count it. Called with the handler's lock held."""
        try:
            template = _NUMBERS.sub("#", str(record.msg))[:200]
            lines = self._limiter.admit(f"{record.name}\0{template}", self._clock())
            if lines is None:
                self.suppressed += 1
                return
            fields: dict[str, Any] = {"logger": record.name, "message": _message(record)}
            if lines > 1:
                fields["suppressed"] = lines - 1
            if record.exc_info:
                fields["exc_info"] = record.exc_info
            structlog.get_logger().log(_known_level(record.levelno), "library", **fields)
        except Exception:  # a line that cannot be shown must not end the caller; logging's own way would print it raw
            self.suppressed += 1

    def report(self, *, final: bool = False) -> None:
        """Say how many lines were held back and not told yet: once per `EVERY_S`, and at the end (`final`)."""
        now = self._clock()
        if now < self._report_at and not final:
            return
        self._report_at = now + EVERY_S
        held: dict[str, int] = {}
        self.acquire()
        try:
            for key, count in self._limiter.due(math.inf if final else now).items():
                name = key.split("\0")[0]
                held[name] = held.get(name, 0) + count
            if forgotten := self._limiter.take_forgotten():
                held["others"] = forgotten
        finally:
            self.release()
        if held:
            structlog.get_logger().warning("library_lines_suppressed", count=sum(held.values()), loggers=held)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage().strip()
    except (TypeError, ValueError, KeyError):  # the library's arguments do not fit its text
        return f"{record.msg} {record.args!r}"


def _known_level(level: int) -> int:
    """Return the nearest level below that structlog has a method for; libraries invent their own (mode: 15)."""
    return max(10, min(50, level // 10 * 10))
