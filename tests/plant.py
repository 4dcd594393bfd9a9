"""What tests of files and commands share: the command line in this process, captures of a simulated plant."""

import io
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from pipeline.cli.main import main
from pipeline.plant.capture import CaptureWriter, Record
from pipeline.plant.simulator import Plant
from schemas.codec import encode

SKAB_COLUMNS = (
    "Accelerometer1RMS;Accelerometer2RMS;Current;Pressure;Temperature;Thermocouple;Voltage;Volume Flow RateRMS"
)


def kizashi(*args: object) -> tuple[int, str, str]:
    """Run a command; return its exit code, what it printed and what it complained of."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(a) for a in args])
    return code, out.getvalue(), err.getvalue()


def records_of(plant: Plant, rounds: int, partitions: int = 1, prefix: str = "kizashi.") -> list[Record]:
    """Return the births of a plant and its frames, stamped 100 ms after their begin; an asset in a partition."""
    found = [Record(f"{prefix}asset.v1", 0, i, 0, b.key, encode(b)) for i, b in enumerate(plant.births)]
    offsets = [0] * partitions
    for frames in plant.rounds(count=rounds):
        for n, frame in enumerate(frames):
            p = n % partitions
            stamp = frame.t0_ns // 10**6 + 100
            found.append(Record(f"{prefix}telemetry.v1", p, offsets[p], stamp, frame.asset.encode(), encode(frame)))
            offsets[p] += 1
    return found


def a_capture(path: Path, content: Iterable[Record]) -> Path:
    """Write a capture file."""
    with CaptureWriter(path) as capture:
        for record in content:
            capture.write(record)
    return path
