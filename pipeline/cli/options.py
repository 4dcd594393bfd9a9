"""Options that commands share, and how they become settings."""

import importlib.util
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # pydantic costs 0.2 s, which `--help` need not pay
    import asyncio

    from pipeline.ops.config import Settings

ConfigFile = Annotated[
    Path | None, typer.Option("-c", "--config", metavar="FILE.toml", help="Settings; without it the defaults.")
]
Broker = Annotated[str | None, typer.Option("--broker", metavar="HOST:PORT", help="Instead of broker.bootstrap.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting; may be repeated.")
]


def read_settings(config: Path | None, broker: str | None = None, assignments: list[str] | None = None) -> "Settings":
    """Load the settings of a command. Raises ConfigError with every fault."""
    from pipeline.ops.config import load_settings

    flags: dict[str, object] = {"broker.bootstrap": broker}
    for text in assignments or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is no SECTION.KEY=VALUE, as batch.max_size=64", param_hint="--set")
        flags[key.strip()] = _value(value.strip())
    return load_settings(config, flags)


def need_extra(what: str, packages: Iterable[str]) -> None:
    """Raise ConfigError where a package is missing that `what` takes from the extra `train`."""
    from pipeline.errors import ConfigError

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{what} needs {', '.join(missing)}, which the base package leaves out: install the extra, "
                          "pip install 'kizashi[train]'")


def _value(text: str) -> Any:
    """Read a value as TOML would (numbers, true, lists, quoted text), and as plain text where it is no TOML."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def user_name() -> str:
    """Name who calls; a container's user may have no name."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def stop_event(seconds: float | None) -> "asyncio.Event":
    """Return an event of the running loop that Ctrl-C, SIGTERM and the end of `seconds` set."""
    import asyncio
    import signal

    loop, until = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, until.set)
    if seconds is not None:
        loop.call_later(seconds, until.set)
    return until
