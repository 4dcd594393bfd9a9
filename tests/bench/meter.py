"""Meter: what the peers' meter measures, over the same span, and the figures of this process."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mark:
    """frames so far, clock, CPU of this process, CPU of the broker; seconds."""

    frames: int
    clock: float
    cpu: float
    broker_cpu: float


@dataclass(slots=True)
class Meter:
    """The clock runs from the end of the first batch to the end of the run; CPU is user + system over the same span.

    The second half leaves the warm-up out. n: frames after which the run is over.
    """

    n: int
    frames: int = 0
    first: Mark | None = field(default=None)
    half: Mark | None = field(default=None)
    last: Mark | None = field(default=None)

    def mark(self) -> Mark:
        return Mark(self.frames, time.perf_counter(), time.process_time(), broker_cpu_s())

    def add(self, frames: int) -> bool:
        """Count frames; True once the run is over."""
        self.frames += frames
        if self.first is None:
            self.first = self.mark()
        elif self.half is None and self.frames >= self.n / 2:
            self.half = self.mark()
        return self.frames >= self.n

    def result(self, name: str, engine: str, windows: int, over: int) -> str:
        """Return the RESULT line; closes the run if `last` is not set."""
        last = self.last or self.mark()
        first = self.first or last
        half = self.half or first
        n, k = max(1, last.frames - first.frames), max(1, last.frames - half.frames)
        took, second = max(1e-9, last.clock - first.clock), max(1e-9, last.clock - half.clock)
        return (
            f"RESULT {name} engine={engine} frames={self.frames} windows={windows} alerts={over} s={took:.2f} "
            f"frames_per_s={n / took:.0f} second_half_per_s={k / second:.0f} "
            f"cpu_us={(last.cpu - first.cpu) * 1e6 / n:.2f} second_half_cpu_us={(last.cpu - half.cpu) * 1e6 / k:.2f} "
            f"broker_cpu_us={(last.broker_cpu - first.broker_cpu) * 1e6 / n:.2f} rss_mb={status_kib('VmHWM') // 1024}"
        )


def broker_cpu_s() -> float:
    """Return user + system seconds of the process that BROKER_PID names, NaN without one."""
    try:
        fields = Path(f"/proc/{os.environ['BROKER_PID']}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (KeyError, OSError, ValueError):
        return float("nan")


def status_kib(key: str, pid: int | str = "self") -> int:
    """Return a KiB figure of /proc/PID/status: VmRSS (resident now) or VmHWM (at most so far)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise KeyError(key)


def reset_peak(pid: int | str = "self") -> None:
    """Let VmHWM start over from what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
