"""A worker process seen from outside: its ops server, its sockets, its log."""

import http.client
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

KIZASHI = [sys.executable, "-m", "pipeline.cli.main"]


@dataclass
class Run:
    """What was seen of a worker from its start to its end."""

    port: int
    sockets: list[str] = field(default_factory=list)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    idle_mib: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    code: int = -1
    stop_s: float = 0.0
    log: str = ""

    def ask(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def wait_for(self, path: str, worker: subprocess.Popen) -> None:
        deadline = time.monotonic() + 60
        while self.ask(path)[0] != 200:
            assert worker.poll() is None, "the worker ended"
            assert time.monotonic() < deadline, self.ask(path)
            time.sleep(0.1)

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.splitlines()]


def listening(pid: int) -> list[str]:
    """Return address:port of every TCP socket on which the process listens."""
    links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:")}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A" and line.split()[9] in inodes:
                address, port = local.split(":")
                found.append(f"{'127.0.0.1' if address == '0100007F' else address}:{int(port, 16)}")
    return found


def totals(text: str) -> dict[str, float]:
    """Sum each metric over its labels."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name = line.split("{")[0].split(" ")[0]
            sums[name] = sums.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
    return sums
