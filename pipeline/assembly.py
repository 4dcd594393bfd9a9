"""Assembly: from settings to bundles, engines and a flow; the same for the live worker and for replay."""

import base64
from collections.abc import Mapping
from pathlib import Path

from engines import Bundle, BundleError, Engine, EngineError, load_bundle, open_engine, shipped_bundles
from engines.supply import EngineOptions
from engines.trust import PublicKey, TrustPolicy
from pipeline.errors import ModelError
from pipeline.flow import FlowSettings
from pipeline.ops.settings import Settings
from pipeline.seating import Route
from schemas.topics import TELEMETRY


def bundles_of(settings: Settings) -> dict[str, Bundle]:
    """Load the bundles that the routes name. Raises ModelError with all faults."""
    paths: dict[str, Path] = dict(shipped_bundles())
    if settings.models.folder is not None:
        paths |= {p.parent.name: p.parent for p in sorted(settings.models.folder.glob("*/model.toml"))}
    faults, bundles, policy = [], {}, trust_policy(settings)
    for name in sorted({route.bundle for route in settings.routes}):
        if name not in paths:
            faults.append(f"routes name bundle {name!r}, there are {', '.join(sorted(paths)) or 'none'}. "
                          "Put it into models.folder")
            continue
        try:
            bundles[name] = load_bundle(paths[name], policy)
        except BundleError as error:
            faults.append(str(error))
    if faults:
        raise ModelError("; ".join(faults))
    return bundles


def trust_policy(settings: Settings) -> TrustPolicy:
    """Say whose bundles are believed, and from which version on."""
    models = settings.models
    keys = tuple(PublicKey(k.id, base64.b64decode(k.key), k.not_after) for k in models.trusted_keys)
    return TrustPolicy(keys, models.allow_unsigned, models.min_version)


def routes_of(settings: Settings) -> list[Route]:
    return [Route(r.bundle, r.match.asset_class, r.match.site) for r in settings.routes]


def open_engines(settings: Settings, bundles: Mapping[str, Bundle]) -> dict[str, Engine]:
    """Open and warm an engine per bundle. Raises ModelError."""
    engines = {}
    for name, bundle in bundles.items():
        try:
            engines[name] = open_engine(settings.engine.name, bundle, EngineOptions(settings.engine.threads))
            engines[name].warm_up(settings.batch.max_size)
        except (EngineError, ValueError) as error:
            raise ModelError(f"bundle {name}: {error}") from error
    return engines


def flow_settings(settings: Settings) -> FlowSettings:
    return FlowSettings(
        topic=settings.topics.name(TELEMETRY), max_size=settings.batch.max_size,
        max_delay_s=settings.batch.max_delay_ms / 1000, max_future_ms=round(settings.worker.max_future_s * 1000),
        silent_ms=round(settings.worker.silent_after_s * 1000), stale_ms=round(settings.worker.stale_alert_s * 1000),
        assessments=settings.topics.assessment)
