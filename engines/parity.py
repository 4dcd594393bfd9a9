"""Parity gate: an engine serves only if it says what the bundle's golden vectors say, numbers and decisions alike.

Two questions, because each alone lets a bad engine pass: is every output within the bundle's tolerance, and does no
decision change when the scores run through the judge (features through the baseline first), sequence by sequence? A row
whose golden score lies nearer to the limit than the tolerance may fall on either side on a good engine too: it is
listed, not counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.base import Array, Engine, EngineError
from engines.bundle import Bundle
from engines.golden import GoldenCase
from engines.spec import Tolerance

F64 = NDArray[np.float64]


class Judge(Protocol):
    """What becomes of an engine's outputs. `pipeline.parity` is one."""

    def hear(self, bundle: Bundle, case: GoldenCase, said: Sequence[Array]) -> list[F64]:
        """Return the score (n,) that is judged, for each of `said`: the case's scores or, with a baseline, features."""

    def decide(self, bundle: Bundle, scores: F64, starts: tuple[int, ...]) -> Array:
        """Return the state of each row (n,). starts: first row of each sequence."""


#: Faults of one kind that a report names; the rest is a number. A broken engine differs in every row.
MAX_NAMED = 5
#: Share of rows that may be near: most must be judged. Of the shipped bundles the worst has 26 % (anomaly-convae).
MAX_NEAR = 0.5


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that differs. what: an output's name, or "decision". excess: distance / tolerance, 0 for decisions."""

    case: str
    row: int
    what: str
    want: float
    got: float
    excess: float = 0.0

    def __str__(self) -> str:
        times = f", {self.excess:.3g} times the tolerance" if self.excess else ""
        return f"{self.case} row {self.row}: {self.what} is {self.got:.9g}, golden is {self.want:.9g}{times}"


@dataclass(slots=True)
class ParityReport:
    """What the gate found. near: rows too close to the limit to be held against an engine, as "case row"."""

    engine: str
    rows: int = 0
    faults: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    differing: int = 0
    near: list[str] = field(default_factory=list)
    worst: dict[str, float] = field(default_factory=dict)  # output -> largest distance / tolerance

    @property
    def ok(self) -> bool:
        return not self.faults and not self.differing

    def why(self) -> str:
        """Say in one line why the engine is refused; empty if it is not."""
        named = [*self.faults, *map(str, self.differences[:1])]
        more = f" and {self.differing - 1} more rows" if self.differing > 1 else ""
        return "; ".join(named) + more

    def to_json(self) -> bytes:
        """Return the report as a JSON document, to lie beside what it judged."""
        return msgspec.json.format(msgspec.json.encode({"ok": self.ok, **asdict(self)}), indent=1) + b"\n"


def compare(engine: Engine, bundle: Bundle, judge: Judge | None, max_rows: int = 256) -> ParityReport:
    """Run the golden vectors on `engine`, `max_rows` at a time, the last ones short so that padding is met too.

    judge: None: numbers alone are compared.
    Never raises for what the engine does: that is what the report is for.
    """
    report = ParityReport(engine.name)
    if bundle.golden is None:
        report.faults.append("the bundle has no golden vectors")
        return report
    tolerances = bundle.spec.golden.tolerance
    for case in bundle.golden.cases:
        rows = len(next(iter(case.inputs.values())))
        report.rows += rows
        try:
            outputs = _run(engine, case, rows, max_rows)
        except EngineError as error:
            report.faults.append(f"{case.name}: {error}")
            continue
        for name, want in case.outputs.items():
            _numbers(report, case.name, name, want, outputs.get(name), tolerances.get(name) or Tolerance())
        judged = bundle.spec.outputs.features or bundle.spec.outputs.score
        if judge and judged in outputs and np.shape(outputs[judged]) == np.shape(case.outputs[judged]):
            _decisions(report, bundle, case, judged, outputs[judged], judge)
    if len(report.near) > MAX_NEAR * report.rows:
        report.faults.append(f"{len(report.near)} of {report.rows} golden rows are nearer to a limit than the "
                             f"tolerance and so not held against an engine; at most {MAX_NEAR:.0%} may be")
    return report


def _run(engine: Engine, case: GoldenCase, rows: int, max_rows: int) -> dict[str, Array]:
    """Compute a case. Through the engine's own staging where it has one: the way that real rows take."""
    dtypes = {spec.name: spec.dtype for spec in engine.inputs}
    stage = getattr(engine, "staging", None)
    own: Mapping[str, Array] | None = None
    if stage is not None:
        own = stage({name: array.shape[1:] for name, array in case.inputs.items()}, max_rows).arrays
    parts: list[dict[str, Array]] = []
    for a, b in _cuts(rows, max_rows):
        if own is None:
            inputs = {name: array[a:b].astype(dtypes[name], copy=False) for name, array in case.inputs.items()}
        else:
            inputs = {name: own[name][: b - a] for name in case.inputs}
            for name, view in inputs.items():
                view[:] = case.inputs[name][a:b]
        parts.append({name: np.array(array) for name, array in engine.infer(inputs).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _cuts(rows: int, max_rows: int) -> Iterator[tuple[int, int]]:
    """Cut rows into batches: one of a single row, then full ones, and what is left."""
    at = min(1, rows - 1)
    if at:
        yield 0, at
    while at < rows:
        yield at, min(rows, at + max_rows)
        at += max_rows


def _numbers(report: ParityReport, case: str, name: str, want: Array, got: Array | None, allowed: Tolerance) -> None:
    if got is None or got.shape != want.shape:
        report.faults.append(f"{case}: output {name!r} is {'missing' if got is None else f'of shape {got.shape}'}, "
                             f"golden is {want.shape}")
        return
    expected, found = want.astype(np.float64), got.astype(np.float64)
    bound = allowed.abs + allowed.rel * np.abs(expected)
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = np.abs(found - expected) / bound
    excess[(expected == found) | (np.isnan(expected) & np.isnan(found))] = 0.0
    excess[np.isnan(excess)] = np.inf
    flat = excess.reshape(len(excess), -1)
    worst = flat.max(axis=1, initial=0.0)
    report.worst[name] = max(report.worst.get(name, 0.0), float(worst.max(initial=0.0)))
    bad = np.flatnonzero(worst > 1.0)
    report.differing += len(bad)
    for row in bad[np.argsort(-worst[bad], kind="stable")][:MAX_NAMED].tolist():
        at = int(flat[row].argmax())
        report.differences.append(Difference(case, row, name, float(expected.reshape(len(expected), -1)[row, at]),
                                             float(found.reshape(len(found), -1)[row, at]), float(worst[row])))


def _decisions(report: ParityReport, bundle: Bundle, case: GoldenCase, name: str, got: Array, judge: Judge) -> None:
    """Judge a case by one output, score or features, as it is in the golden vectors and as the engine gave it."""
    golden, allowed = case.outputs[name].astype(np.float64), bundle.spec.golden.tolerance.get(name) or Tolerance()
    within = allowed.abs + allowed.rel * np.abs(golden)
    want, found, more, less = judge.hear(bundle, case, (golden, got, golden + within, golden - within))
    reach = np.maximum(np.abs(more - want), np.abs(less - want))
    raises = bundle.spec.threshold
    clears = raises * (1.0 - bundle.spec.judge.deadband)
    near = (np.abs(want - raises) <= reach) | (np.abs(want - clears) <= reach)
    report.near += [f"{case.name} {row}" for row in np.flatnonzero(near).tolist()]
    heard = np.where(near, want, found)
    if np.array_equal(heard, want, equal_nan=True):  # the judge is a function: it is not asked twice for what it says
        return
    changed = np.flatnonzero(judge.decide(bundle, want, case.starts) != judge.decide(bundle, heard, case.starts))
    report.differing += len(changed)
    for row in changed[:MAX_NAMED].tolist():
        report.differences.append(Difference(case.name, row, "decision", float(want[row]), float(found[row])))
    if len(changed):
        report.worst["decisions"] = report.worst.get("decisions", 0.0) + len(changed)
