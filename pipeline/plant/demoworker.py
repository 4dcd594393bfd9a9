"""The demo's worker: the real one, as a process of its own, with settings that no environment can bend."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from pipeline.broker import BrokerConfig
from pipeline.errors import BrokerError, ConfigError, Fatal, ModelError

#: A worker drains within worker.drain_s (10 s); after that and a little it is not coming back.
_STOP_S = 15.0
_LOG_LINES = 12
_ERRORS: dict[int, type[Fatal]] = {2: ConfigError, 3: BrokerError, 4: ModelError}


def settings_toml(cfg: BrokerConfig, run: str) -> str:
    """Write the settings of a demo's worker: everything of it lives under `kizashi.demo.<run>.`."""
    broker = {
        "bootstrap": cfg.bootstrap, "security_protocol": cfg.security_protocol, "ca_file": cfg.ssl_ca,
        "cert_file": cfg.ssl_cert, "key_file": cfg.ssl_key, "sasl_mechanism": cfg.sasl_mechanism,
        "username": cfg.sasl_username, "password": cfg.sasl_password,
    }
    given = {k: json.dumps(str(v), ensure_ascii=False) for k, v in broker.items() if v is not None}
    return "\n".join([
        "[broker]", *(f"{k} = {v}" for k, v in given.items()),
        "[topics]", f'prefix = "kizashi.demo.{run}."', "assessment = true",  # the view shows the scores
        "[group]", f'id = "kizashi.demo.{run}"',
        "[worker]", 'start = "earliest"',  # the plant's past is there before the worker is
        "[metrics]", "enabled = false",  # no port that another worker may hold
        "[[routes]]", 'match = {asset_class = "pump"}', 'bundle = "anomaly-mewma"',
        "[[routes]]", 'match = {asset_class = "turbofan", channels = ["cycles"]}', 'bundle = "rul-ewma"',
        "",
    ])


class WorkerProcess:
    """`kizashi run` in a session of its own, so that Ctrl-C in the terminal reaches it only through us."""

    def __init__(self, folder: Path, toml: str) -> None:
        self.config, self.log = folder / "worker.toml", folder / "worker.log"
        self.config.touch(mode=0o600)  # may hold a password
        self.config.write_text(toml, encoding="utf-8")
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> "WorkerProcess":
        # Variables that configure a plant's worker on this machine must not reach this one: they go before the file.
        environment = {k: v for k, v in os.environ.items() if not k.upper().startswith("KIZASHI_")}
        source = str(Path(__file__).resolve().parents[2])  # the same code, wherever the demo was started
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (source, environment.get("PYTHONPATH"))))
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "pipeline.cli.main", "run", "-c", str(self.config), env=environment,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    def check(self) -> None:
        """Raise the error that the worker ended with, if it has ended by itself."""
        if self._process is not None and (code := self._process.returncode) is not None:
            said = f"the worker ended by itself with exit code {code}. Its last lines:\n{self.tail()}"
            raise _ERRORS.get(code, Fatal)(said)

    def tail(self) -> str:
        """Return the last lines of the worker's log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:])

    async def stop(self) -> int:
        """Let the worker drain (SIGTERM) and return its exit code; a second call returns it again."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_S)
            except TimeoutError:
                self.kill()
                await self._process.wait()
        code = self._process.returncode
        assert code is not None
        return code

    def kill(self) -> None:
        """End the worker at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
