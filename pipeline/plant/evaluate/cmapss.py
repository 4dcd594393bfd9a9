"""C-MAPSS: every flight of every test engine through the flow; remaining life with its interval, and how far it is off.

The whole fleet is streamed before a label file is opened. A second stream begins 60 flights into each engine's life.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from engines.recipes.rul_model import CAP
from engines.recipes.rul_state import fingerprint
from pipeline.errors import InputError
from pipeline.ops.settings import Settings
from pipeline.plant import cmapss
from pipeline.plant.cmapss import Engine
from pipeline.plant.evaluate import Options
from pipeline.plant.evaluate.cmapssreport import Fleet, Told, sections
from pipeline.plant.evaluate.given import SHOWN, Given
from pipeline.plant.evaluate.predictions import write_table
from pipeline.plant.evaluate.report import Report
from pipeline.plant.evaluate.stream import assessed, bundle_of, routed
from schemas import Assessment

BUNDLE = "rul-ewma"
#: Flights that an engine has behind it when the late stream joins it.
LATE = 60
#: Reasons of refused samples that the summary names, a subset: each frame of a broken file could have its own.
_REASONS = 5
#: Why there is no answer for a flight whose frame was refused.
REFUSED = "the sample was refused: a value is missing or not finite"


def _take(told: Told, a: Assessment) -> None:
    """Enter the rows of an assessment; its sequence numbers are the engine's rows."""
    said = a.answers
    if said is None or said.life is None:
        raise InputError(f"{a.model} says no remaining life: cmapss wants a bundle with [outputs.life]")
    for i, row in enumerate(a.seq):
        told.rul[row], told.low[row], _, told.high[row] = said.life[i]
        told.state[row] = a.state[i]
        told.unknown[row] = said.unknown[i] if said.unknown else ""


def _fill(told: Told) -> None:
    """Where there is no answer, the last forecast stands with the widest interval: nobody knows better."""
    last = CAP
    for row in range(len(told.rul)):
        if np.isnan(told.rul[row]):
            told.rul[row], told.low[row], told.high[row] = last, 0.0, CAP
        last = told.rul[row]


def forecasts(
    settings: Settings, subset: str, fleet: Sequence[Engine], refused: Callable[[str], None] = lambda line: None
) -> list[Told]:
    """Stream a fleet through the flow; the forecasts of each engine. No label is at hand here.

    refused: told of every dead letter.
    """
    found = {cmapss.asset_of(subset, e): Told.none(len(e.rows), REFUSED) for e in fleet}
    if fleet:
        for assessment in assessed(settings, cmapss.messages(subset, fleet), refused=refused):
            _take(found[assessment.asset], assessment)
    for each in found.values():
        _fill(each)
    return list(found.values())


def write(path: Path, fleet: Sequence[Engine], told: Sequence[Told]) -> None:
    """Write unit, cycle, rul, rul_lo, rul_hi, unknown: a line for every flight. Raises InputError."""
    rows = ((engine.unit, *row) for engine, f in zip(fleet, told, strict=True) for row in zip(
        engine.flights.tolist(), f.rul.tolist(), f.low.tolist(), f.high.tolist(), f.unknown, strict=True))
    write_table(path, ("unit", "cycle", "rul", "rul_lo", "rul_hi", "unknown"), rows)


def evaluate(data: Path, out: Path, settings: Settings, options: Options) -> Report:
    """Write pred_FD00k.csv for every test_FD00k.txt; with RUL_FD00k.txt there is a table too.

    rul_hi at the cap (125) means "at least". Raises InputError.
    """
    subsets = cmapss.subsets_in(data)
    if not subsets:
        raise InputError(f"{data}: holds no test_FD00k.txt or .txt.gz (k from 1 to 4)")
    report = Report("C-MAPSS: remaining life of a turbofan fleet", f"kizashi evaluate cmapss --data {data} --out OUT"
                    + (f" --protocol cv --seeds {options.seeds}" if options.protocol == "cv" else ""))
    settings = routed(settings, cmapss.ASSET_CLASS, BUNDLE)
    bundle = bundle_of(settings, cmapss.ASSET_CLASS, BUNDLE)
    if bundle.spec.outputs.life is None:
        raise InputError(f"{bundle.spec.name} says no remaining life: cmapss wants a bundle with [outputs.life]")
    given = Given(bundle.spec.card.trained_on)
    given.read(data, [cmapss.path_of(data, f"test_{s}.txt") for s in subsets])
    fleets = list(_fleets(data, out, settings, options, given, report))
    labelled = [s for s in subsets if s in cmapss.subsets_in(data, "RUL")]
    given.read(data, [cmapss.path_of(data, f"RUL_{s}.txt") for s in labelled])
    for fleet in fleets:
        if fleet.subset in labelled:
            fleet.left = np.array(cmapss.remaining(data, fleet.subset, len(fleet.engines)))
    of = f"{bundle.spec.name} {bundle.spec.version}, {len(bundle.model) / 1000:.1f} kB"
    report.facts += [("bundle", f"{of}, manifest {bundle.manifest_sha256[:SHOWN]}"), *given.lines(),
                     ("bootstrap", "2000 draws of units, seed 0")]
    report.sections += sections(fleets, report.summary)
    if options.protocol == "cv":
        from pipeline.plant.evaluate.cmapsscv import cross_validation

        report.sections.insert(0, cross_validation(data, fleets, options, report))
    return report


def _fleets(
    data: Path, out: Path, settings: Settings, options: Options, given: Given, report: Report
) -> Iterator[Fleet]:
    subsets = cmapss.subsets_in(data)
    for k, subset in enumerate(subsets):
        engines = cmapss.engines(data, f"test_{subset}.txt")
        options.progress(k / len(subsets), f"{subset}: {len(engines)} engines")
        refused: set[str] = set()
        told = forecasts(settings, subset, engines, refused.add)
        report.summary += [f"{subset}: samples refused, {why}" for why in sorted(refused)[:_REASONS]]
        report.files.append(out / f"pred_{subset}.csv")
        write(report.files[-1], engines, told)
        options.progress((k + 0.6) / len(subsets), f"{subset}: joined {LATE} flights late")
        long = [i for i, e in enumerate(engines) if len(e.rows) > LATE]
        late = forecasts(settings, subset, [Engine(engines[i].unit, engines[i].rows[LATE:]) for i in long])
        whole = f"test_{subset}.txt" in {name.removesuffix(".gz") for name in given.left_out()}
        seen = [whole or given.seen(fingerprint(e.history(""))) for e in engines]
        yield Fleet(subset, engines, told, dict(zip(long, late, strict=True)), np.array(seen))
