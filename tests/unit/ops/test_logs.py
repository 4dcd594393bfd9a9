"""Log lines: shape, masking, and what of the libraries' chatter gets through."""

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import structlog
from pydantic import SecretStr

from pipeline.ops import logs
from pipeline.ops.settings import Log


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def out(clock):
    """Configure logging to a text stream; everything is as before afterwards."""
    stream = io.StringIO()
    level = logging.root.level
    stream.handler = logs.configure(Log(), secrets=["hunter2", 'quo"te', ""], stream=stream, clock=clock)
    stream.lines = lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    yield stream
    logging.captureWarnings(False)
    for handler in [h for h in logging.root.handlers if isinstance(h, logs.LibraryHandler)]:
        logging.root.removeHandler(handler)
    logging.root.setLevel(level)
    structlog.reset_defaults()


def test_a_line_is_one_json_object_with_time_level_and_event_first(out):
    structlog.get_logger().info("partitions_assigned", partitions=[0, 1])
    (line,) = out.lines()
    assert list(line) == ["time", "level", "event", "partitions"]
    assert line["time"].endswith("Z")
    assert (line["level"], line["event"]) == ("info", "partitions_assigned")


def test_values_of_any_type_become_json(out):
    structlog.get_logger().info("x", n=np.int64(3), f=np.float32(0.5), p=Path("a/b"), nan=float("nan"), s={1})
    (line,) = out.lines()
    assert (line["n"], line["f"], line["p"], line["nan"], line["s"]) == (3, 0.5, "a/b", None, [1])


def test_lines_below_the_level_are_not_written(out):
    structlog.get_logger().debug("checkpoint_written")
    assert out.getvalue() == ""


def test_an_exception_is_part_of_its_line_and_bounded(out):
    try:
        raise ValueError("x" * 100_000)
    except ValueError:
        structlog.get_logger().error("worker_failed", exc_info=True)
    (line,) = out.lines()
    assert "Traceback" in line["exception"]
    assert len(line["exception"]) < 10_000


def test_secrets_show_in_no_line_whoever_logs_them(out):
    structlog.get_logger().info("x", password="hunter2", text='a quo"te b', hidden=SecretStr("other"))
    logging.getLogger("aiokafka").warning("SASL hunter2 failed for %s", "hunter2")
    try:
        raise ValueError("hunter2")
    except ValueError:
        logging.getLogger("faust").exception("crashed")
    assert len(out.lines()) == 3
    for text in ("hunter2", "quo", "other"):
        assert text not in out.getvalue()


def test_a_library_line_is_the_event_library(out):
    logging.getLogger("aiokafka.conn").error("Unable connect to node with id %s: %s", 1, "refused")
    (line,) = out.lines()
    assert line["event"] == "library"
    assert line["logger"] == "aiokafka.conn"
    assert line["message"] == "Unable connect to node with id 1: refused"
    assert line["level"] == "error"


def test_what_libraries_say_about_themselves_is_not_written(out):
    logging.getLogger("faust").info("[^Worker]: Ready")
    assert out.getvalue() == ""


def test_200_lines_a_second_for_30_seconds_become_a_handful_and_none_is_lost(out, clock):
    log = logging.getLogger("aiokafka.conn")
    for i in range(6000):
        clock.now = i / 200
        log.error("Unable connect to node with id %s", i)
        out.handler.report()
    out.handler.report(final=True)
    lines = out.lines()
    assert len(lines) <= 5
    told = sum(1 + line.get("suppressed", 0) for line in lines if line["event"] == "library")
    told += sum(line["count"] for line in lines if line["event"] == "library_lines_suppressed")
    assert told == 6000


def test_many_different_texts_stay_below_one_line_a_second(out, clock):
    for i in range(6000):
        clock.now = i / 200
        logging.getLogger(f"library{i % 40}").error(f"text {'abcdefghij'[i % 10]}")
        out.handler.report()
    assert len(out.lines()) <= 30


def test_texts_that_differ_in_numbers_only_are_one_text(out):
    for i in range(50):
        logging.getLogger("mode").error(f"task {i} of object at 0x7f{i:04x} crashed")
    assert len(out.lines()) == 1


def test_a_library_line_that_does_not_fit_its_arguments_is_shown_as_it_is(out):
    out.handler.handle(logging.LogRecord("faust", logging.WARNING, "", 0, "%d parts", ("many",), None))
    (line,) = out.lines()
    assert line["message"] == "%d parts ('many',)"


def test_python_warnings_are_library_lines(out):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old call", DeprecationWarning, stacklevel=1)
    assert out.lines()[0]["logger"] == "py.warnings"


def test_a_reader_that_has_gone_does_not_end_the_writer(out):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    logs.configure(Log(), stream=Gone())
    structlog.get_logger().info("worker_started")


def test_console_format_is_readable_text(out, clock):
    stream = io.StringIO()
    logs.configure(Log(format="console"), stream=stream, clock=clock)
    structlog.get_logger().info("worker_ready", bundles=1)
    assert "worker_ready" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_a_worker_has_no_rich_in_its_memory():
    """Neither from the first module that logs nor in the whole worker: 4 MiB each."""
    for module in ("pipeline.ops.events", "pipeline.ops.logs", "pipeline.cli.run, pipeline.app"):
        code = f"import sys, {module}; sys.exit('rich' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, module
