"""The protocol's oracle: what a run with faults may not change, against the uninterrupted one."""

from typing import Any

import numpy as np

from pipeline.state import COUNTERS, Partition, Pool
from schemas.codec import decode_alert
from tests.chaos.protocol import Broker, Worker
from tests.chaos.worlds import World


def state_of(part: Partition) -> dict[str, Any]:
    """Return all that is known of a partition, by asset: places of slots and blocks are nobody's business."""
    seats: dict[Any, Any] = {}
    for pool in part.order:
        for slot, who in pool.seated():
            if pool.table["leave"][slot] >= 0:
                continue
            columns = {c.name: _meant(pool, c.name, slot).tobytes() for c in pool.table.columns
                       if c.persist and c.name not in PLACES}
            rows = pool.calibration.get(slot)
            collected = b"" if rows is None else rows[:int(pool.table["collected"][slot])].tobytes()
            alerts = {rule: value for (s, rule), value in pool.open.items() if s == slot}
            key = (pool.key, who.asset, who.birth.birth_id, who.historical)
            seats.setdefault(key, []).append((columns, collected, alerts))
    waiting = {k: [(f[0], f[2]) for f in w.frames]
               for k, w in part.unassigned.waiting.items() if w.leave < 0 and w.frames}
    return {"seats": seats, "totals": part.totals(), "waiting": waiting}


def _meant(pool: Pool, name: str, slot: int) -> Any:
    """Return a slot's column; of a ring that is not full yet only what was put in since it started over."""
    value = pool.table[name][slot]
    if name == "ring":
        value = value.copy()
        value[int(pool.table["frames"][slot]):] = 0
    return value


#: Columns that say how far a block is, not what its frames came to.
PLACES = frozenset(("leave", "hold"))


def differences(world: World, got: tuple[Worker, Broker], want: tuple[Worker, Broker]) -> list[str]:
    """Say how a run differs from the uninterrupted one; nothing if the protocol is right."""
    found = []
    (worker, broker), (ideal, truth) = got, want
    a, b = state_of(worker.part), state_of(ideal.part)
    for key in sorted(a["seats"].keys() | b["seats"].keys()):
        if key[1] in world.retired:
            continue
        here, there = a["seats"].get(key, []), b["seats"].get(key, [])
        if here != there:
            found.append(f"state of {key[1:]}: {_what(here, there)}")
    if not world.retired:
        found += [f"{k}: {n} for {b['totals'][k]}" for k, n in a["totals"].items() if n != b["totals"][k]]
    if a["waiting"] != b["waiting"]:
        found.append(f"waiting {a['waiting']} for {b['waiting']}")
    found += _laws(a["totals"], worker.part)
    found += _alerts(world, broker, truth)
    letters = {k for k in truth.letters if not _retired(world, truth.letters[k])}
    missing, invented = letters - broker.letters.keys(), broker.letters.keys() - truth.letters.keys()
    if missing or (invented and not world.retired):
        found.append(f"dead letters missing {sorted(missing)}, invented {sorted(invented)}")
    return found


def _retired(world: World, letter: bytes) -> bool:
    return any(name.encode() in letter for name in world.retired)


def _what(here: list[Any], there: list[Any]) -> str:
    if len(here) != 1 or len(there) != 1:
        return f"{len(here)} slots for {len(there)}"
    (columns, rows, alerts), (columns2, rows2, alerts2) = here[0], there[0]
    out = [f"{n} {_shown(n, columns[n])} for {_shown(n, columns2[n])}" for n in columns if columns[n] != columns2[n]]
    return "; ".join(out) or ("calibration rows" if rows != rows2 else f"open alerts {alerts} for {alerts2}")


def _shown(name: str, raw: bytes) -> Any:
    if name != "counts":
        return raw.hex()
    return {n: int(v) for n, v in zip(COUNTERS, np.frombuffer(raw, np.int64), strict=True) if v}


def _laws(t: dict[str, int], part: Partition) -> list[str]:
    ends = t["judged"] + t["dead_lettered"] + t["late"] + t["duplicate"] + t["shed"]
    found = []
    if t["received"] != ends + part.unassigned.frames_waiting():
        found.append(f"frames: received {t['received']}, ends {ends}, waiting {part.unassigned.frames_waiting()}")
    if t["rows"] != t["rows_scored"] + t["rows_dead_lettered"]:
        found.append(f"rows: {t['rows']} made, {t['rows_scored']} scored, {t['rows_dead_lettered']} dead-lettered")
    return found


def _alerts(world: World, broker: Broker, truth: Broker) -> list[str]:
    said = {(i, r): v for i, r, v in truth.alerts}
    found, seen = [], dict[tuple[str, int], bytes]()
    for ident, revision, value in broker.alerts:
        alert = decode_alert(value)
        if alert.asset in world.retired:
            continue
        want = said.get((ident, revision))
        if want is None:
            found.append(f"alert invented: {alert.asset} {alert.rule} {ident}.{revision}")
        elif want != value:
            fields = {f: (getattr(alert, f), getattr(decode_alert(want), f)) for f in alert.__struct_fields__}
            found.append(f"alert differs: {alert.asset} {alert.rule}.{revision} "
                         f"{ {f: v for f, v in fields.items() if v[0] != v[1]} }")
        seen[ident, revision] = value
    lost = [k for k, v in said.items() if k not in seen and decode_alert(v).asset not in world.retired]
    found += [f"alert lost: {decode_alert(said[k]).asset} {decode_alert(said[k]).rule} {k}" for k in lost]
    newest: dict[str, Any] = {}
    for ident, revision, value in broker.alerts:
        if revision >= newest.get(ident, (0, b""))[0]:
            newest[ident] = (revision, value)
    for ident, (_, value) in newest.items():
        alert = decode_alert(value)
        if alert.asset in world.retired and alert.active:
            found.append(f"alert of a retired asset stays open: {ident}")
    return found
