"""The parity gate lets an engine pass that says what the golden vectors say, and refuses any other with the row."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from engines import load_bundle, open_engine, shipped_bundles
from engines.base import Arrays, EngineError, Staging, TensorSpec
from engines.bundle import Bundle
from engines.golden import Golden, GoldenCase
from engines.parity import MAX_NAMED, compare
from engines.spec import GoldenSpec, Tolerance
from pipeline import parity
from pipeline.parity import decide
from tests.rig import window_bundle

ROWS = 30


def golden(score: np.ndarray, starts: tuple[int, ...] = (0,)) -> GoldenCase:
    return GoldenCase("case", {"x": score.astype("f4")[:, None, None, None]}, {"score": score}, starts)


def bundle(score: np.ndarray, starts: tuple[int, ...] = (0,), **judge: object) -> Bundle:
    made = window_bundle(8, 4, threshold=1.0, **judge)
    spec = msgspec.structs.replace(made.spec, golden=GoldenSpec(tolerance={"score": Tolerance(abs=0.01, rel=0.0)}))
    return replace(made, spec=spec, golden=Golden((golden(score, starts),)))


class Echo:
    """Returns its input as the score, changed by `fault`."""

    name = "echo"
    inputs = (TensorSpec("x", "f4", (None, None, None)),)
    outputs = (TensorSpec("score", "f8", ()),)

    def __init__(self, fault: object = None) -> None:
        self.fault, self.sizes = fault, []

    def warm_up(self, batch: int) -> None: ...

    def infer(self, inputs: Arrays) -> Arrays:
        assert inputs["x"].dtype == np.float32
        score = inputs["x"].astype("f8").reshape(-1)
        self.sizes.append(len(score))
        return {"score": self.fault(score) if self.fault else score}

    def close(self) -> None: ...


class Staged(Echo):
    """Takes rows by arrays of its own alone."""

    def staging(self, shapes: dict[str, tuple[int, ...]], rows: int) -> Staging:
        self.own = np.full((rows, *shapes["x"]), np.nan, "f4")
        return Staging({"x": self.own}, pinned=True)

    def infer(self, inputs: Arrays) -> Arrays:
        assert np.shares_memory(inputs["x"], self.own)
        return super().infer(inputs)


SCORES = np.linspace(0.0, 2.0, ROWS) + 0.005


@pytest.mark.parametrize("kind", [Echo, Staged])
def test_an_engine_that_agrees_passes_and_meets_every_size_of_batch(kind: type[Echo]) -> None:
    engine = kind()
    report = compare(engine, bundle(SCORES), parity, max_rows=8)
    assert report.ok and report.rows == ROWS and report.why() == ""
    assert engine.sizes == [1, 8, 8, 8, 5] and report.worst["score"] < 1e-4


def test_a_row_beyond_the_tolerance_is_named_with_what_it_should_be() -> None:
    def fault(score: np.ndarray) -> np.ndarray:
        return np.where(np.abs(score - np.float32(SCORES[3])) < 1e-6, score + 0.5, score)

    report = compare(Echo(fault), bundle(SCORES), parity, max_rows=8)
    assert not report.ok and report.differing == 1
    assert "case row 3: score is 0.711" in report.why() and "50 times the tolerance" in report.why()


def test_a_decision_that_changes_is_a_difference_of_its_own() -> None:
    report = compare(Echo(lambda score: np.where(score > 1.5, 0.5, score)), bundle(SCORES, on=(2, 3)), parity)
    named = [d for d in report.differences if d.what == "decision"]
    assert len(named) == MAX_NAMED and named[0].want == pytest.approx(SCORES[named[0].row])
    assert report.worst["decisions"] > 0


def test_rows_nearer_to_a_limit_than_the_tolerance_are_listed_and_not_counted() -> None:
    score = np.array([0.2, 0.995, 0.3, 1.5, 1.6, 0.905, 0.2])
    engine = Echo(lambda s: np.select([np.isclose(s, 0.995), np.isclose(s, 0.905)], [1.003, 0.898], s))
    report = compare(engine, bundle(score, deadband=0.1), parity)
    assert report.ok, report.why()
    assert report.near == ["case 1", "case 5"]
    report = compare(Echo(), bundle(score[[1, 1, 5, 0, 3]], deadband=0.1), parity)
    assert report.why() == ("3 of 5 golden rows are nearer to a limit than the tolerance and so not held against an "
                            "engine; at most 50% may be")


def test_sequences_are_judged_apart() -> None:
    score = np.array([1.5, 0.1, 0.1, 1.5, 1.5, 0.1])
    states = decide(bundle(score, on=(2, 2)), score, (0, 4))
    assert states.tolist() == [1, 0, 0, 1, 1, 0]  # joined, rows 3 and 4 would raise
    assert decide(bundle(score, on=(2, 2)), score, (0,)).tolist() == [1, 0, 0, 1, 2, 0]


@pytest.mark.parametrize(("fault", "why"), [
    (lambda s: np.full_like(s, np.nan), "nan"),
    (lambda s: s[:, None], "of shape"),
    (lambda s: np.where(s > 1, np.inf, s), "inf"),
])
def test_what_is_no_number_or_no_score_is_refused(fault: object, why: str) -> None:
    report = compare(Echo(fault), bundle(SCORES), parity)
    assert not report.ok and why in report.why()


def test_an_engine_that_fails_and_a_bundle_without_vectors_are_refused() -> None:
    def fails(score: np.ndarray) -> np.ndarray:
        raise EngineError("no memory")

    assert compare(Echo(fails), bundle(SCORES), parity).faults == ["case: no memory"]
    assert "no golden vectors" in compare(Echo(), replace(bundle(SCORES), golden=None), parity).why()


def test_the_report_is_a_document() -> None:
    document = msgspec.json.decode(compare(Echo(lambda s: s + 1), bundle(SCORES), parity).to_json())
    assert document["ok"] is False and document["engine"] == "echo" and document["differing"] == ROWS + 15
    assert document["differences"][0]["what"] == "score"


LEARNT = sorted(name for name, path in shipped_bundles().items() if "[baseline]" in (path / "model.toml").read_text())


class Changed:
    """ONNX Runtime, with one output times `factor`."""

    name = "changed"

    def __init__(self, made: Bundle, output: str, factor: float) -> None:
        self.engine, self.output, self.factor = open_engine("onnx_cpu", made), output, factor
        self.inputs, self.outputs = self.engine.inputs, self.engine.outputs

    def infer(self, inputs: Arrays) -> dict[str, np.ndarray]:
        outputs = dict(self.engine.infer(inputs))
        return {**outputs, self.output: outputs[self.output] * self.factor}


@pytest.mark.parametrize("name", LEARNT)
def test_features_are_judged_by_a_baseline_as_in_service(name: str) -> None:
    made = load_bundle(shipped_bundles()[name])
    assert made.golden is not None
    for case in made.golden.cases:
        (heard,) = parity.hear(made, case, [case.outputs["features"]])
        states = decide(made, heard, case.starts)
        assert {0, 1} <= set(states.tolist()), f"{case.name}: nothing is decided"
        assert not np.array_equal(heard, case.outputs["score"])
    for output, differs in (("features", True), ("score", False)):  # the stand-in for golden vectors decides nothing
        report = compare(Changed(made, output, 3.0), made, parity)
        assert not report.ok
        assert any(d.what == "decision" for d in report.differences) is differs, output


def test_sequences_of_features_begin_with_the_same_baseline_and_are_judged_apart() -> None:
    made = load_bundle(shipped_bundles()["vibration-health"])
    assert made.golden is not None
    case = next(case for case in made.golden.cases if len(case.starts) > 1)
    features, (a, b) = case.outputs["features"].copy(), case.starts[:2]
    (before,) = parity.hear(made, case, [features])
    features[:b] *= 10
    both = parity.hear(made, case, [features, case.outputs["features"]])
    assert (both[0][a:b] > before[a:b]).mean() > 0.9  # one row is unknown, which changes nothing
    assert np.array_equal(both[0][b:], before[b:]) and np.array_equal(both[1], before)
