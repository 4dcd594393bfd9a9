"""Births and frames through the production flow: what every evaluation has its predictions from."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from engines.bundle import Bundle
from pipeline.assembly import bundles_of
from pipeline.ops.settings import DEFAULT_BUNDLE, Match, Route, Settings
from pipeline.plant.replay import Replay
from pipeline.plant.source import items, message_records
from schemas import Assessment, AssetBirth, TelemetryFrame

Message = AssetBirth | TelemetryFrame


def routed(settings: Settings, asset_class: str, bundle: str) -> Settings:
    """Return the settings with assets of a class sent to `bundle`, unless they have a route for that class already.

    So `-c` and `--set routes=...` decide where they say something.
    """
    for route in settings.routes:
        if route.match.asset_class == asset_class or (route.match.asset_class is None and route.bundle == bundle):
            return settings
    own = Route(match=Match(asset_class=asset_class), bundle=bundle)
    rest = tuple(r for r in settings.routes if r.bundle != DEFAULT_BUNDLE)  # so that a bundle not used is not opened
    return settings.model_copy(update={"routes": (own, *rest)})


def patient(settings: Settings) -> Settings:
    """Return the settings for assets that send hours apart: silent after the longest time that may be set.

    The default of a minute would take every frame for a return, and begin a new window with it.
    """
    if "silent_after_s" in settings.worker.model_fields_set:
        return settings
    return settings.model_copy(update={"worker": settings.worker.model_copy(update={"silent_after_s": 604_800.0})})


def bundle_of(settings: Settings, asset_class: str, bundle: str) -> Bundle:
    """Return the bundle that serves a class of `routed` settings, for its card and its manifest. Raises ModelError."""
    name = next((r.bundle for r in settings.routes if r.match.asset_class in (None, asset_class)), bundle)
    return bundles_of(settings)[name]


def assessed(
    settings: Settings, messages: Iterable[Message], poll_records: int = 1024,
    refused: Callable[[str], None] = lambda line: None, models: Mapping[str, bytes] | None = None,
) -> Iterator[Assessment]:  # fmt: skip
    """Yield the assessments that births and frames lead to, in order: admit, settle, judge as the worker does.

    messages: each birth before its asset's frames, frames in the order of time over all assets. poll_records: how many
    frames are read at once; no score depends on it. refused: told of every dead letter. models: weights in place of a
    bundle's, by its name. Raises ModelError.
    """
    with Replay(settings, models) as run:
        for effects in run.run(items(message_records(messages), poll_records=poll_records)):
            for letter in effects.dead_letters:
                refused(f"{letter.reason}: {letter.detail}")
            yield from effects.assessments
