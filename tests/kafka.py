"""Apache Kafka as a child process: the broker of the broker tests, the chaos runs and the benchmarks.

    python -m tests.kafka       one broker in the foreground; prints its address, Ctrl-C stops it and removes its data
"""

import base64
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

ROOT = Path(__file__).resolve().parent.parent
JARS = ROOT / ".build" / "kafka"
POM = ROOT / "infra" / "kafka" / "pom.xml"
PROPERTIES = ROOT / "infra" / "kafka" / "server.properties"

HEAP = "-Xmx512m"  # 256 and 512 MB start alike at 340 MB resident; a million records need the larger one
START_S = 60.0     # 2-3 s on an idle machine, 7-15 s with both cores busy
STOP_S = 15.0      # SIGTERM to exit takes 2-3 s

_JAVA = ["java", HEAP, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{JARS}/*"]


def why_not() -> str | None:
    """Say why Kafka cannot run here, or None if it can."""
    java = shutil.which("java")
    if java is None:
        return "no `java` on the PATH: install a JDK >= 17"
    first = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr.split("\n")[0]
    version = first.split('"')[1] if '"' in first else "?"
    if not version.split(".")[0].isdigit() or int(version.split(".")[0]) < 17:
        return f"java is {version}, Kafka 4 needs >= 17"
    if not _have_jars() and shutil.which("mvn") is None:
        return "no Kafka jars in .build/kafka and no `mvn` to fetch them with"
    return None


def _have_jars() -> bool:
    return any(JARS.glob("kafka_2.13-*.jar")) and any(JARS.glob("slf4j-simple-*.jar"))


def fetch_jars() -> None:
    """Fill .build/kafka by Maven, once; two processes at a time do not disturb each other."""
    JARS.parent.mkdir(exist_ok=True)
    with open(JARS.parent / "kafka.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _have_jars():
            goal = ["dependency:copy-dependencies", f"-DoutputDirectory={JARS}"]
            subprocess.run(["mvn", "-q", "-B", "-f", str(POM), *goal], check=True, timeout=600)


def free_ports(n: int) -> list[int]:
    """Return n loopback ports that are free now; all are held open together so that they differ."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


def _die_with_parent() -> Any:
    """Return a function for the child to call before exec: the kernel then kills it when our process ends."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded here: after a fork it may not be safe
    return lambda: prctl(1, signal.SIGKILL)          # 1 = PR_SET_PDEATHSIG


class KafkaBroker:
    """One KRaft node on loopback ports with its data in a temporary directory.

    start and kill or stop alternate as often as wanted: ports and data stay the same. `close` (or leaving the
    `with` block) ends it and removes the data.
    """

    def __init__(self) -> None:
        self.port, self._controller_port = free_ports(2)
        self.address = f"127.0.0.1:{self.port}"
        self.home = Path(tempfile.mkdtemp(prefix="kizashi-kafka-"))
        self.log = self.home / "broker.log"
        self._properties = self.home / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        data = self.home / "data"
        text = PROPERTIES.read_text().replace("{PORT}", str(self.port)).replace("{DATA_DIR}", str(data))
        self._properties.write_text(text.replace("{CONTROLLER_PORT}", str(self._controller_port)))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    def start(self) -> None:
        """Start the broker and wait until it answers a metadata request; data of an earlier run is kept."""
        assert self._process is None, "the broker is running"
        fetch_jars()
        if not (self.home / "data").exists():
            self._run_tool("kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(self._properties))
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*_JAVA, "kafka.Kafka", str(self._properties)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.home, preexec_fn=_die_with_parent(),
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop it cleanly (SIGTERM; SIGKILL if that does not end it)."""
        self._signal_and_reap(signal.SIGTERM, STOP_S)

    def kill(self) -> None:
        """Kill -9; data directory and ports are kept."""
        self._signal_and_reap(signal.SIGKILL, STOP_S)

    def restart(self) -> None:
        """Stop cleanly and start again on the same ports and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let a frozen broker go on."""
        os.kill(self.pid, signal.SIGCONT)
        self._paused = False

    def close(self) -> None:
        """Stop it if it runs, then remove its data."""
        self._signal_and_reap(signal.SIGTERM, STOP_S)
        shutil.rmtree(self.home, ignore_errors=True)

    def _signal_and_reap(self, number: int, wait_s: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        if self._paused:
            process.send_signal(signal.SIGCONT)  # a frozen process does not see SIGTERM
            self._paused = False
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _run_tool(self, *arguments: str) -> None:
        done = subprocess.run([*_JAVA, *arguments], capture_output=True, text=True, timeout=START_S, cwd=self.home)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                code, self._process = self._process.returncode, None
                raise RuntimeError(f"Kafka ended with {code} while starting:\n{self.tail()}")
            # The port first: a client that is refused backs off, and says so on stderr.
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                with suppress(KafkaException):
                    if AdminClient({"bootstrap.servers": self.address, "log_level": 0}).list_topics(timeout=5).brokers:
                        return
            time.sleep(0.05)
        raise RuntimeError(f"Kafka does not answer within {START_S} s:\n{self.tail()}")

    def tail(self, lines: int = 30) -> str:
        """Return the end of the broker's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


def _cluster_id() -> str:
    # The first byte is 0 so that the text never starts with "-", which the tool would take for an option.
    return base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")


def main() -> None:
    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    with suppress(KeyboardInterrupt), KafkaBroker() as broker:
        print(broker.address, flush=True)
        signal.pause()


if __name__ == "__main__":
    reason = why_not()
    if reason:
        sys.exit(reason)
    main()
