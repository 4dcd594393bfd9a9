"""`kizashi models bench`: how long a batch takes on each engine of this machine, per size and stage."""

import json
import sys
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.options import Assignments, ConfigFile, read_settings
from pipeline.errors import ModelError

if TYPE_CHECKING:
    from engines import Bundle
    from engines.measure import BucketTimes
    from engines.select import Backend
    from pipeline.ops.settings import Settings

# p99.9 needs a thousand rounds; the largest batch of a shipped bundle takes 0.1 ms on a CPU, so all take a second.
_ROUNDS = 1000


def bench(
    target: Annotated[str | None, typer.Argument(metavar="[BUNDLE]", help="Name, folder, .zip; without: all.")] = None,
    engine: Annotated[list[str] | None, typer.Option("--engine", metavar="NAME", help="May be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=10, max=1_000_000, help="Batches per size.")] = _ROUNDS,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with all percentiles.")] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Measure engines on bundles, per batch size, in trtexec's terms: medians in microseconds.

    pack: rows into the engine's memory. enqueue: what issuing costs the host. h2d, compute, d2h: by the device's clock.
    latency: these three, of a batch alone. queue: a batch begun while others are on the device. unpack: results out.
    rows/s: with as many batches in flight as the engine takes. Exit code 4 when a named engine cannot be measured, or a
    bundle cannot be loaded; the others are measured all the same.
    """
    from engines.select import backends
    from pipeline.assembly import bundle_at
    from pipeline.modelbook import candidates

    settings = read_settings(config, None, assignments)
    offers = {backend.name: backend for backend in backends()}
    wanted = engine or [name for name, backend in offers.items() if backend.ok]
    if not as_json and not engine:
        for name, backend in offers.items():
            print(f"{name}: {backend.why}" if backend.ok else f"{name}: not on this machine: {backend.why}")
    lacking = {name: why for name in wanted if (why := _lacking(name, list(offers.values())))}
    failed = False
    for at in [target] if target is not None else sorted({c.name for c in candidates(settings) if not c.fault}):
        try:
            bundle = bundle_at(at, settings)
        except ModelError as error:
            if target is not None:
                raise
            failed = True
            _tell({"bundle": at, "error": str(error)}, at, as_json)
            continue
        for name in wanted:
            why = lacking.get(name) or _measured(name, bundle, settings, rounds, as_json)
            if why:
                failed |= engine is not None
                _tell({"bundle": bundle.spec.name, "engine": name, "error": why},
                      f"{bundle.spec.name} {bundle.spec.version} on {name}", as_json)
    if failed:
        raise typer.Exit(ModelError.exit_code)


def _lacking(name: str, offers: "list[Backend]") -> str:
    """Say why an engine cannot be had here; empty if it can."""
    from engines import EngineError
    from engines.select import choose

    try:
        choose(name, lambda: offers)
    except EngineError as error:
        return str(error)
    return ""


def _tell(said: dict[str, str], what: str, as_json: bool) -> None:
    print(json.dumps(said) if as_json else f"\n{what}: NOT MEASURED: {said['error']}")


def _measured(name: str, bundle: "Bundle", settings: "Settings", rounds: int, as_json: bool) -> str:
    """Measure one engine on one bundle and print it; return why it cannot be, empty if it was."""
    from engines import EngineError, EngineLost
    from engines.measure import measure
    from engines.supply import EngineOptions
    from pipeline.cli.modelsengine import FULL_BATCH, opened

    e = settings.engine
    options = EngineOptions(e.threads, e.precision, FULL_BATCH, cache=e.cache, build_timeout_s=e.build_timeout_s,
                            build_memory_mb=e.build_memory_mb)
    tell = partial(print, file=sys.stderr, flush=True)
    assert bundle.golden is not None
    case = max(bundle.golden.cases, key=lambda case: case.rows)  # the one that `measure` takes rows of
    try:
        with opened(name, bundle, options, [case], tell) as made:
            made.warm_up(FULL_BATCH)
            times = measure(made, bundle, time.perf_counter, rounds=rounds)
            notes = _notes(made)
    except (EngineError, EngineLost) as error:
        return str(error)
    if as_json:
        for row in times:
            print(json.dumps({"bundle": bundle.spec.name, "version": bundle.spec.version, "engine": name,
                              **notes, **asdict(row)}))
    else:
        said = "".join(f", {key} {value}" for key, value in notes.items())
        print(f"\n{bundle.spec.name} {bundle.spec.version} on {name}: {rounds} batches per size, "
              f"{times[0].depth} in flight{said}; us")
        print("\n".join(table(times)))
    return ""


def _notes(engine: Any) -> dict[str, str]:
    """Return what an engine says of the way it works, where it has one: memory path, graphs."""
    return {key: str(getattr(engine, name)) for key, name in (("memory", "path"), ("graphs", "captured"))
            if hasattr(engine, name)}


def table(times: "list[BucketTimes]") -> list[str]:
    """Return the lines of a table: a row per batch size, medians of the stages, percentiles of the whole."""
    from engines.measure import STAGES

    stages = [stage for stage in STAGES if stage in times[0].stages]
    head = ["rows", *stages, "latency p50", "p99", "p99.9", "total p50", "p99", "p99.9", "rows/s"]
    rows = [[str(t.rows), *(f"{t.stages[stage].p50:.1f}" for stage in stages),
             *(f"{value:.1f}" for spread in (t.latency, t.total) for value in (spread.p50, spread.p99, spread.p999)),
             f"{t.rows_per_s:,.0f}"] for t in times]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in (head, *rows)]
