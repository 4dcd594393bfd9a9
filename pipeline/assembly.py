"""Assembly: from settings to bundles, engines and a flow; the same for the live worker and for replay."""

import base64
from collections.abc import Mapping
from pathlib import Path

from engines import ENGINES, Bundle, BundleError, Engine, EngineError, load_bundle, open_engine
from engines.supply import EngineOptions
from engines.trust import PublicKey, TrustPolicy
from pipeline.errors import ModelError
from pipeline.flow import FlowSettings
from pipeline.modelbook import Start, candidates, load_best, read_record
from pipeline.ops.settings import Settings
from pipeline.seating import Route
from schemas.topics import TELEMETRY


def bundles_of(settings: Settings, refused: list[str] | None = None, *, resume: bool = False,
               start: Start | None = None) -> dict[str, Bundle]:
    """Load the bundles that the routes name: of each the highest version that is in order and may serve.

    refused: gets why better versions were passed over. resume: the version that served last goes before. start: opens
    the engines of each. Raises ModelError with all faults.
    """
    offers, record, policy = candidates(settings), read_record(settings), trust_policy(settings)
    faults, bundles = [], {}
    fallback = fallback_of(settings)
    for name in sorted({route.bundle for route in settings.routes} | ({fallback} if fallback else set())):
        try:
            bundles[name] = load_best(name, offers, record, policy, refused, resume=resume, start=start)
        except ModelError as error:
            faults.append(str(error))
    if faults:
        raise ModelError("; ".join(faults))
    return bundles


def bundle_at(target: str, settings: Settings) -> Bundle:
    """Load a bundle from a folder or .zip, or the one that would serve under a name. Raises ModelError."""
    policy = trust_policy(settings)
    if not Path(target).exists():
        return load_best(target, candidates(settings), read_record(settings), policy)
    try:
        return load_bundle(target, policy)
    except BundleError as error:
        raise ModelError(f"bundle {target}: {'; '.join(error.faults)}") from error


def trust_policy(settings: Settings) -> TrustPolicy:
    """Say whose bundles are believed, and from which version on."""
    models = settings.models
    keys = tuple(PublicKey(k.id, base64.b64decode(k.key), k.not_after) for k in models.trusted_keys)
    return TrustPolicy(keys, models.allow_unsigned, models.min_version)


def routes_of(settings: Settings) -> list[Route]:
    return [Route(r.bundle, r.match.asset_class, r.match.site, r.match.channels) for r in settings.routes]


def fallback_of(settings: Settings) -> str | None:
    """Return the bundle of assets that no route matches; None if a route matches all, or nothing is to serve them."""
    return None if any(route.matches_all for route in routes_of(settings)) else settings.models.fallback


def open_engines(settings: Settings, bundles: Mapping[str, Bundle]) -> dict[str, Engine]:
    """Open and warm an engine per bundle for use in place, without a device: a GPU's decisions are the CPU's.

    Raises ModelError.
    """
    name = settings.engine.name if settings.engine.name in ENGINES else "onnx_cpu"
    engines = {}
    for bundle_name, bundle in bundles.items():
        try:
            engines[bundle_name] = open_engine(name, bundle, EngineOptions(settings.engine.threads))
            engines[bundle_name].warm_up(settings.batch.max_size)
        except (EngineError, ValueError) as error:
            raise ModelError(f"bundle {bundle_name}: {error}") from error
    return engines


def flow_settings(settings: Settings) -> FlowSettings:
    return FlowSettings(
        topic=settings.topics.name(TELEMETRY), max_size=settings.batch.max_size,
        max_delay_s=settings.batch.max_delay_ms / 1000, max_future_ms=round(settings.worker.max_future_s * 1000),
        silent_ms=round(settings.worker.silent_after_s * 1000), stale_ms=round(settings.worker.stale_alert_s * 1000),
        assessments=settings.topics.assessment)
