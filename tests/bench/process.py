"""A worker as its own process, `kizashi run`, and what its log says."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.ops.document import inline
from tests.bench import rig
from tests.bench.models import save_bundle

Event = dict[str, Any]


class WorkerProcess:
    """`kizashi run` with its log read line by line. events: all of them so far, each with `at`, monotonic seconds."""

    def __init__(self, address: str, prefix: str, group: str, sets: dict[str, object]) -> None:
        assignments = {"broker.bootstrap": address, "topics.prefix": prefix, "group.id": group, "metrics.port": 0,
                       "worker.start": "earliest", **sets}
        words = [w for key, value in assignments.items() for w in ("--set", f"{key}={inline(value)}")]
        self.started_at = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", "run", *words], cwd=rig.ROOT, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.events: list[Event] = []
        self._fresh: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_s(self) -> float:
        """Return user + system seconds that the worker has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "text", "text": line}
            event["at"] = time.monotonic()
            self.events.append(event)
            self._fresh.put(event)
        self._fresh.put(None)

    def wait_for(self, wanted: Callable[[Event], bool], timeout_s: float = 60.0) -> Event:
        """Return the next event that is wanted. Raises RuntimeError with the log's end if it does not come."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                event = self._fresh.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                event = None
            if event is None:
                tail = "\n".join(map(str, self.events[-15:]))
                raise RuntimeError(f"the worker did not say what was waited for within {timeout_s:g} s:\n{tail}")
            if wanted(event):
                return event

    def ready(self, timeout_s: float = 60.0) -> Event:
        """Wait until state is restored and reading begins."""
        return self.wait_for(lambda e: e["event"] == "released" and e.get("hold") == "restoring", timeout_s)

    def kill(self) -> None:
        """Kill -9."""
        self._process.kill()
        self._end()

    def _end(self) -> None:
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def stop(self) -> None:
        """SIGTERM, and the end."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._end()


@contextmanager
def bundles(kind: str, threshold: float) -> Iterator[dict[str, object]]:
    """Yield the settings that serve every asset by bundle `w1-KIND`."""
    with tempfile.TemporaryDirectory(prefix="kizashi-bench-") as folder:
        save_bundle(Path(folder), kind, threshold)
        yield {"models.folder": folder, "models.allow_unsigned": True, "models.state": f"{folder}/state",
               "routes": [{"bundle": f"w1-{kind}"}]}
