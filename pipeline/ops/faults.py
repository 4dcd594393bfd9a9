"""Explains what is wrong with a setting: value, unit, allowed range, what to do."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from pipeline.ops.settings import Settings

Loc = tuple[str | int, ...]


def dotted(loc: Loc) -> str:
    """Return `routes[0].bundle` for ("routes", 0, "bundle")."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".")


def closest(name: str, known: Iterable[str]) -> str:
    """Say which known name was meant, or which there are."""
    names = sorted(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {match[0]}?" if match else f"known are {', '.join(names)}"


def explain(error: Mapping[str, Any]) -> str:
    """Return the text that follows a fault's source."""
    loc = error["loc"]
    if error["type"] == "extra_forbidden":
        parent = _model_at(loc[:-1])
        return f": unknown key; {closest(str(loc[-1]), parent.model_fields if parent else ())}"
    info = _field_at(loc) or _field_at(loc[:-1])  # a value of a table, as of models.min_version, is judged by its key
    if error["type"] == "missing":
        return f": is missing; set it to the {info.description if info else 'value'}"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        # Not what it is instead: broken JSON for [broker] may hold the password.
        kind = _kind(error["input"])
        return f": must be a table of keys, is {kind}; write it as [{dotted(loc)}], in a variable as JSON"
    if info is None or loc[0] == "routes" and len(loc) < 3:
        return f" = {error['input']!r}: must be a list of at least one {{match = {{...}}, bundle = \"NAME\"}}"
    value = "(hidden)" if _is_secret(info) else repr(error["input"])
    default = "" if info.is_required() else f", or leave it out for the default {_shown(info.default)}{unit(info)}"
    return f" = {value}{unit(info)}: {_what(error)}; allowed: {allowed(info)}. Change it{default}"


def _what(error: Mapping[str, Any]) -> str:
    kind = error["type"]
    if kind.startswith(("greater_than", "less_than")):
        return "out of range"
    if kind == "value_error":
        return str(error.get("ctx", {}).get("error", error["msg"]))
    words = {"literal_error": "not one of the choices", "string_pattern_mismatch": "not of the wanted form"}
    text = str(error["msg"])
    return words.get(kind, text[:1].lower() + text[1:])


def unit(info: FieldInfo) -> str:
    """Return a key's unit with a space before it, or nothing."""
    text = _extra(info, "unit")
    return f" {text}" if text else ""


def allowed(info: FieldInfo) -> str:
    """Return what a key may be, in words."""
    if text := _extra(info, "allowed"):
        return text
    choices = [choice for part in _parts(info.annotation) if get_origin(part) is Literal for choice in get_args(part)]
    if choices:
        return ", ".join(map(repr, choices))
    low, high = _bound(info, ge="", gt="above "), _bound(info, le="", lt="below ")
    kind = next((name for type_, name in _KINDS.items() if type_ in _parts(info.annotation)), "a text")
    return f"{kind} from {low} to {high}{unit(info)}" if low and high else kind


_KINDS: dict[type, str] = {
    bool: "true or false", int: "a whole number", float: "a number", Path: "a path", SecretStr: "a text", str: "a text",
    list: "a list",
}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _extra(info: FieldInfo, name: str) -> str:
    return str(info.json_schema_extra.get(name, "")) if isinstance(info.json_schema_extra, dict) else ""


def _bound(info: FieldInfo, **words: str) -> str:
    found = (f"{word}{getattr(limit, name):.12g}" for limit in info.metadata for name, word in words.items()
             if hasattr(limit, name))
    return next(found, "")


def _parts(annotation: Any) -> tuple[Any, ...]:
    return (annotation,) if get_origin(annotation) in (None, Literal) else get_args(annotation)


def _is_secret(info: FieldInfo) -> bool:
    return SecretStr in _parts(info.annotation)


def _shown(default: object) -> str:
    return "(none)" if default is None else repr(default)


def _model_at(loc: Loc) -> type[BaseModel] | None:
    model: Any = Settings
    for part in loc:
        if isinstance(part, int):
            continue
        info = model.model_fields.get(part)
        model = next((p for p in _parts(info.annotation) if hasattr(p, "model_fields")), None) if info else None
        if model is None:
            return None
    return model  # type: ignore[no-any-return]


def _field_at(loc: Loc) -> FieldInfo | None:
    parent = _model_at(loc[:-1])
    return parent.model_fields.get(str(loc[-1])) if parent else None


def conflicts(settings: Settings) -> Iterator[tuple[Any, ...]]:
    """Yield what single keys cannot see: (key, other keys involved ..., text after the key's source)."""
    group, worker = settings.group, settings.worker
    if group.heartbeat_s > group.session_timeout_s / 3:
        yield ("group", "heartbeat_s"), ("group", "session_timeout_s"), (
            f" = {group.heartbeat_s:g} s: at most a third of group.session_timeout_s ({group.session_timeout_s:g} s), "
            f"so that two may be lost; set it to {group.session_timeout_s / 3:g} s or less"
        )
    if worker.max_batch > worker.max_inflight:
        yield ("worker", "max_batch"), ("worker", "max_inflight"), (
            f" = {worker.max_batch} records: more than worker.max_inflight ({worker.max_inflight} records), so an "
            "event could never be handed over; lower it or raise max_inflight"
        )
    yield from _credentials(settings)
    folder = settings.models.folder
    if folder is not None and not folder.is_dir():
        yield ("models", "folder"), f" = {str(folder)!r}: no such folder; create it or leave the key out"


def _credentials(settings: Settings) -> Iterator[tuple[Any, ...]]:
    broker = settings.broker
    if broker.security_protocol.startswith("SASL"):
        for key in ("sasl_mechanism", "username", "password"):
            if getattr(broker, key) is None:
                yield ("broker", key), ("broker", "security_protocol"), (
                    f": is missing, security_protocol {broker.security_protocol} needs it; "
                    "set it or choose SSL or PLAINTEXT"
                )
    for key, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if getattr(broker, key) is not None and getattr(broker, other) is None:
            yield ("broker", key), ("broker", other), f": needs {other} beside it; set both or none"
    for key in ("ca_file", "cert_file", "key_file"):
        file = getattr(broker, key)
        if file is not None and not file.is_file():
            yield ("broker", key), f" = {str(file)!r}: no such file; name a PEM file that this user may read"
