"""Reads the settings: TOML file < environment (KIZASHI_SECTION__KEY) < flags; all faults at once."""

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from pipeline.errors import ConfigError
from pipeline.ops.faults import Loc, closest, conflicts, dotted, explain
from pipeline.ops.settings import Settings

__all__ = ["FLAG_NAMES", "Settings", "load_settings"]

_ENV = "KIZASHI_"
#: Flags with a name of their own; every other key is set by `--set section.key=value`.
FLAG_NAMES = {"broker.bootstrap": "--broker", "log.level": "--log-level", "log.format": "--log-format"}


def load_settings(path: Path | None, flags: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings: file at `path` (if any) < environment < flags.

    flags: dotted key -> value, None where not given. environ: the process's own unless given.
    Raises ConfigError that lists every fault: source, value, unit, allowed range, what to do.
    """
    layers = _Layers()
    _lay_file(layers, path)
    _lay_environment(layers, os.environ if environ is None else environ)
    given = {tuple(key.split(".")): value for key, value in flags.items() if value is not None}
    for loc, value in given.items():
        layers.put(loc, value, f"flag {FLAG_NAMES.get(dotted(loc), '--set')}: {dotted(loc)}")
    settings = _validate(layers)
    for first, *others, text in conflicts(settings):
        if not {first, *others} & layers.failed:
            layers.faults.append(f"{layers.where(first)}{text}")
    if layers.faults:
        count = f"{len(layers.faults)} fault{'s' if len(layers.faults) > 1 else ''}"
        raise ConfigError(f"{count} in the configuration:\n  " + "\n  ".join(layers.faults))
    return settings


@dataclass(slots=True)
class _Layers:
    """The merged values, and where each came from."""

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[Loc, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    failed: set[Loc] = field(default_factory=set)

    def put(self, loc: Loc, value: Any, origin: str) -> None:
        """Put a value over those of lower layers. origin: source and key as a person would look for them."""
        target = self.values
        for part in loc[:-1]:
            below = target.setdefault(str(part), {})
            if not isinstance(below, dict):  # a lower layer has a value where a section belongs
                below = target[str(part)] = {}
            target = below
        target[str(loc[-1])] = value
        self.origin[loc] = origin

    def where(self, loc: Loc) -> str:
        """Name the source of a key: its own, that of its nearest parent, or of the first key below it."""
        for end in range(len(loc), 0, -1):
            if loc[:end] in self.origin:
                rest = dotted(loc[end:])
                return self.origin[loc[:end]] + ("" if not rest else rest if rest[0] == "[" else f".{rest}")
        return next((name for known, name in self.origin.items() if known[: len(loc)] == loc), dotted(loc))

    def drop(self, loc: Loc) -> None:
        """Take out a value that failed, so that the rest can be checked; a list goes as a whole."""
        target = self.values
        for part in loc[:-1]:
            below = target.get(str(part))
            if not isinstance(below, dict):
                target.pop(str(part), None)
                return
            target = below
        target.pop(str(loc[-1]), None)


def _leaves(values: Mapping[str, Any], above: Loc = ()) -> Iterator[tuple[Loc, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _lay_file(layers: _Layers, path: Path | None) -> None:
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        layers.faults.append(f"{path}: cannot be read ({error.strerror}); name a readable TOML file with -c")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        layers.faults.append(f"{path}: is no valid TOML: {error}")
    else:
        for loc, value in _leaves(values):
            layers.put(loc, value, f"{path}: {dotted(loc)}")


class _Environment(EnvSettingsSource):
    """Reads a given mapping, and leaves what is no JSON as text so that it is reported with the other faults."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items() if value}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return json.loads(value)
        except ValueError:
            return value


def _lay_environment(layers: _Layers, environ: Mapping[str, str]) -> None:
    named = {name.upper(): name for name in environ if name.upper().startswith(_ENV) and environ[name]}
    for loc, value in _leaves(_Environment(environ)()):
        # A whole section may be given as JSON in one variable: name the one that is there.
        candidates = (_ENV + "__".join(map(str, loc[:end])).upper() for end in range(len(loc), 0, -1))
        layers.put(loc, value, next((named[c] for c in candidates if c in named), dotted(loc)))
    known = {_ENV + "__".join((section, key)).upper() for section, key in _keys()} | {_ENV + "ROUTES"}
    flat = {name.replace("__", "_"): name for name in known}
    for name in named:
        section = name.removeprefix(_ENV).split("__")[0].lower()
        if "__" in name and section not in Settings.model_fields:
            names = [f"{_ENV}{field.upper()}__..." for field in Settings.model_fields]
            layers.faults.append(f"{named[name]}: unknown section; {closest(name.split('__')[0] + '__...', names)}")
        elif name not in known and "__" not in name and name in flat:  # other KIZASHI_ variables are none of ours
            layers.faults.append(f"{named[name]}: unknown setting; did you mean {flat[name]}?")


def _keys() -> Iterator[tuple[str, str]]:
    for section, info in Settings.model_fields.items():
        fields = getattr(info.annotation, "model_fields", {})
        yield from ((section, key) for key in fields)


def _validate(layers: _Layers) -> Settings:
    # Each pass reports what it finds and takes it out; the next one sees what a first fault would have hidden.
    for _ in range(1 + len(layers.origin)):
        try:
            return Settings(**layers.values)
        except ValidationError as error:
            found = {detail["loc"]: detail for detail in error.errors(include_url=False)}
            for loc, detail in found.items():
                if any(other[: len(loc)] == loc for other in found if other != loc):
                    continue  # a list that is too short only because its items failed
                layers.faults.append(f"{layers.where(loc)}{explain(detail)}")
                layers.failed.add(loc)
                layers.drop(loc)
    return Settings()
