"""Drift advice: the alert of rule `drift`, which asks for maintenance: what changed, what follows, what to do. [AG]"""

from msgspec.structs import replace

from pipeline.advise import stale
from pipeline.drift import Change
from pipeline.judge import shares
from pipeline.state import Pool, Slot
from schemas import Alert, Contribution, alert_id

RULE = "drift"
#: Name of the last of the numbers that are watched, after the inputs.
_SCORE = "score"


def began(pool: Pool, change: Change, *, t_end: int, seq: int, ts_ms: int, stale_ms: int) -> Alert:
    """Build the alert that an asset is no longer as at its beginning, from the row that made it certain.

    t_end: event time of the row's last sample, Unix ns. ts_ms: broker time of its record.
    """
    who, spec = pool.slots[change.slot], pool.bundle.spec
    assert who is not None and spec.drift is not None
    birth, told = who.birth, spec.drift
    ranked = shares(change.index, (*_watched(pool, who), _SCORE), None)
    why_not = stale(ts_ms, t_end, stale_ms)
    if why_not is None and not told.annunciate:
        why_not = "a drift asks for maintenance, not for an operator (annunciate in the model's [drift])"
    return Alert(
        alert_id=alert_id(birth.site, who.asset, RULE, birth.birth_id, seq), revision=1, state="raised", active=True,
        site=birth.site, asset=who.asset, asset_class=birth.asset_class, rule=RULE, severity="low",
        criticality=birth.criticality, annunciate=why_not is None, annunciate_why_not=why_not, t_first=t_end,
        t_last=t_end, t_raised=t_end, score=round(change.value / change.limit, 3), threshold=1.0,
        why=_why(pool, who, change, [f"{name} ({share:.0%})" for name, share, _ in ranked[:3]]),
        birth_id=birth.birth_id, seq=seq, model=f"{spec.name}@{spec.version}", provisional=True, iso13374_block="HA",
        contributions=tuple(Contribution(name, share, "flat") for name, share, _ in ranked),
    )


def ended(alert: Alert, why: str, t_end: int) -> Alert:
    """Clear the alert of a drift."""
    return replace(alert, revision=alert.revision + 1, state="cleared", active=False, t_last=t_end, t_cleared=t_end,
                   score=0.0, why=why, contributions=())


def _why(pool: Pool, who: Slot, change: Change, where: list[str]) -> str:
    spec = pool.bundle.spec.drift
    assert spec is not None
    rows = spec.window * spec.every
    if change.detector == "inputs":
        said = f"no longer distributed as in its first rows, stability index {change.value:.2f} over {rows} rows"
    else:
        said = f"its score rose and stays, Page-Hinkley {change.value:.2f}"
    said = f"{', '.join(where)}: {said}" if where else said
    return (f"{said}, limit {change.limit:g}. Alerts are provisional and their limit is {spec.widen:g} x the usual one "
            f"until all is as before for {spec.restore * rows} rows. If this is how it runs now: `kizashi calibrate "
            f"{who.asset}`; if not, look for wear, fouling or a sensor that ages")


def _watched(pool: Pool, who: Slot) -> tuple[str, ...]:
    """Name the numbers that drift detection compares: features, or channels where there is one for each."""
    spec, names = pool.bundle.spec, tuple(c.name for c in pool.channels_of(who.birth))
    if spec.drift is None or spec.drift.input is None:
        return ()
    if spec.baseline is not None and spec.drift.input == spec.outputs.features:
        return spec.baseline.names(names)
    count = spec.watched(pool.channels, pool.samples)
    return names if len(names) == count else tuple(f"{spec.drift.input}[{k}]" for k in range(count))
