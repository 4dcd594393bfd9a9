"""Settings as a commented TOML file: every key with its unit, range and reason. It loads back as what it shows."""

import json
import textwrap
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from pipeline.ops.faults import allowed
from pipeline.ops.settings import Route, Section, Settings

_WIDTH = 110


def as_toml(settings: Settings) -> str:
    """Return the settings as TOML. Keys without a value are commented out; secrets are masked."""
    lines: list[str] = []
    for name in Settings.model_fields:
        value = getattr(settings, name)
        lines += _section(name, value) if isinstance(value, Section) else _routes(value)
    return "\n".join(lines).lstrip("\n") + "\n"


def _section(name: str, section: Section) -> Iterator[str]:
    yield from ("", f"[{name}]")
    for key, info in type(section).model_fields.items():
        value = getattr(section, key)
        for text in (info.description or "", f"allowed: {allowed(info)}"):
            yield from textwrap.wrap(f"{text[:1].upper()}{text[1:]}.", _WIDTH, initial_indent="# ",
                                     subsequent_indent="# ", break_on_hyphens=False, break_long_words=False)
        if value is None or isinstance(value, SecretStr):
            shown = "**********" if isinstance(value, SecretStr) else ""
            yield f"# {key} = {json.dumps(shown)}"
        else:
            yield f"{key} = {inline(value)}"


def _routes(routes: tuple[Route, ...]) -> Iterator[str]:
    yield from ("", "# The first route that matches an asset names the bundle that serves it.")
    for route in routes:
        match = ", ".join(f"{k} = {json.dumps(v)}" for k, v in route.match.model_dump(exclude_defaults=True).items())
        yield from ("[[routes]]", f"match = {{{match}}}", f"bundle = {json.dumps(route.bundle)}")


def inline(value: Any) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, Section):
        return inline(value.model_dump(exclude_none=True))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(inline, value))}]"
    if isinstance(value, datetime):
        return value.isoformat()
    # TOML writes text, numbers and booleans as JSON does.
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
