"""`kizashi models bench`: how long a batch takes on each engine of this machine, per size and stage."""

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.options import Assignments, ConfigFile, read_settings
from pipeline.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engines import Bundle, Engine
    from engines.measure import BucketTimes
    from pipeline.ops.settings import Settings

# p99.9 needs a thousand rounds; the largest batch of a shipped bundle takes 0.1 ms on a CPU, so all take a second.
_ROUNDS = 1000
_MAX_BATCH = 256


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
    rows/s: with as many batches in flight as the engine takes. Exit code 4 when a named engine cannot be measured.
    """
    from engines import EngineError
    from engines.select import backends, choose

    settings = read_settings(config, None, assignments)
    offers = {backend.name: backend for backend in backends()}
    wanted = engine or [name for name, backend in offers.items() if backend.ok]
    if not as_json and not engine:
        for name, backend in offers.items():
            print(f"{name}: {backend.why}" if backend.ok else f"{name}: not on this machine: {backend.why}")
    lacking = {}
    for name in wanted:
        try:
            choose(name, lambda: list(offers.values()))
        except EngineError as error:
            lacking[name] = str(error)
    failed = 0
    for bundle in _bundles(target, settings):
        for name in wanted:
            why = lacking.get(name) or _measured(name, bundle, settings, rounds, as_json)
            if why:
                failed += 1
                _tell(bundle, name, why, as_json)
    if failed and engine:
        raise typer.Exit(ModelError.exit_code)


def _bundles(target: str | None, settings: "Settings") -> "list[Bundle]":
    from pipeline.assembly import bundle_at
    from pipeline.modelbook import candidates

    names = [target] if target is not None else sorted({c.name for c in candidates(settings) if not c.fault})
    return [bundle_at(name, settings) for name in names]


def _tell(bundle: "Bundle", name: str, why: str, as_json: bool) -> None:
    print(json.dumps({"bundle": bundle.spec.name, "engine": name, "error": why}) if as_json
          else f"\n{bundle.spec.name} {bundle.spec.version} on {name}: NOT MEASURED: {why}")


def _measured(name: str, bundle: "Bundle", settings: "Settings", rounds: int, as_json: bool) -> str:
    """Measure one engine on one bundle and print it; return why it cannot be, empty if it was."""
    from engines import EngineError, EngineLost
    from engines.measure import measure

    try:
        with _opened(name, bundle, settings) as opened:
            opened.warm_up(_MAX_BATCH)
            times = measure(opened, bundle, time.perf_counter, rounds=rounds)
            notes = _notes(opened)
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


@contextmanager
def _opened(name: str, bundle: "Bundle", settings: "Settings") -> "Iterator[Engine]":
    """Open an engine; for a GPU the plan of the rows that are measured is built first, with a line per step."""
    from engines import open_engine
    from engines.measure import sample_rows
    from engines.supply import GPU_ENGINES, EngineOptions

    e = settings.engine
    options = EngineOptions(e.threads, e.precision, _MAX_BATCH, cache=e.cache, build_timeout_s=e.build_timeout_s,
                            build_memory_mb=e.build_memory_mb)
    engine = open_engine(name, bundle, options)
    try:
        if name in GPU_ENGINES:
            from engines.gpu.provide import GpuSupply

            shapes = {key: rows.shape[1:] for key, rows in sample_rows(engine.inputs, bundle, 1).items()}
            GpuSupply(name, bundle, options).ensure(shapes, partial(print, f"{name}:", file=sys.stderr, flush=True))
        yield engine
    finally:
        engine.close()


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
