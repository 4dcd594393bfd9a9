"""The trained part of `bearing-order`, its whole graph, and how it is trained: on simulated bearings, in seconds."""

from dataclasses import replace

import numpy as np
import pytest

from engines.orders import KNOWN
from engines.recipes import bearing_head, bearing_train
from engines.recipes.bearing_front import FEATURES, Session
from engines.recipes.bearing_head import CLASSES, OUTPUTS, Head
from engines.recipes.bearing_windows import SPAN, LeakError, Windows, check, folds, join, near_integers
from pipeline.plant import bearinggolden, bearingset, bearingsim

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("scipy", reason="scipy (extra `train`) is not installed")

ORDERS = KNOWN["6205-2RS"]


def machine_rows(diameters: int = 3, each: int = 3) -> tuple[Windows, np.ndarray, dict[str, int]]:
    """Rows of one rig: per class and diameter a bearing, SPAN samples a window; group: the diameter."""
    rng = np.random.default_rng(5)
    rig = bearingsim.Machine(ORDERS, 1790.0, ((3100.0, 0.03, 1.0),), 0.3, (0.4, 0.3, 0.2), strength=1.6)
    parts, group = [], []
    for fault in range(4):
        for d in range(diameters if fault else 1):
            seconds = SPAN / 12_000 * (each if fault else 4 * each)
            x = bearingsim.vibration(rng, replace(rig, strength=1.2 + 0.4 * d), CLASSES[fault], 12_000, seconds)
            starts = np.arange(0, len(x) - SPAN + 1, SPAN if fault else 400)
            samples = x[starts[:, None] + np.arange(SPAN)].astype(np.float32)
            n, name = len(starts), f"{CLASSES[fault]} {d}"
            parts.append(Windows(samples, np.tile(ORDERS.lines_hz(1790.0), (n, 1)), np.full(n, fault),
                                 np.full(n, name), np.full(n, f"{name} rec"), starts))  # fmt: skip
            group += [str(d) if fault else ""] * n
    rows = join(parts)
    lengths = {name: SPAN * (each if "normal" not in name else 4 * each) for name in set(rows.recording.tolist())}
    return rows, np.array(group), lengths


@pytest.fixture(scope="module")
def material() -> tuple[Windows, np.ndarray, dict[str, int], bearing_train.Material]:
    rows, group, lengths = machine_rows()
    made = bearingset.material(rows, 0, 240)
    return rows, group, lengths, made


@pytest.fixture(scope="module")
def head(material: tuple) -> Head:
    return bearing_train.train(material[3], np.ones(len(material[0]), np.bool_), bearing_train.Options(), 0)


@pytest.fixture(scope="module")
def session(head: Head) -> Session:
    return Session(bearing_head.model(head))


def test_an_unseen_bearing_is_told(material: tuple) -> None:
    rows, group, lengths, made = material
    outer = list(folds(rows, group, lengths))
    assert [name for name, _, _ in outer] == ["0", "1", "2"]
    name, train, test = outer[0]
    inner = [(train & a, train & b) for other, a, b in outer if other != name]
    found, options = bearing_train.nested(made, rows, (train, test), inner, 0)
    table = made.real.of(test)
    assert bearing_train.balanced(table.label, found.probabilities(table.features).argmax(1)) > 0.9
    assert options in bearing_train.CHOICES and 0.1 <= found.limit <= 0.6


def test_shuffled_labels_give_chance(material: tuple) -> None:
    rows, group, lengths, made = material
    rng = np.random.default_rng(0)
    shuffled = replace(made, simulated=replace(made.simulated, label=rng.permutation(made.simulated.label)),
                       planted=replace(made.planted, label=rng.permutation(made.planted.label)),
                       real=replace(made.real, label=rng.permutation(made.real.label)), bent=())  # fmt: skip
    _, train, test = next(iter(folds(rows, group, lengths)))
    options = bearing_train.Options(bent=0.0, evidence=-9.0, evidence_simulated=-9.0, foreign=9.0)
    found = bearing_train.train(shuffled, train, options, 0)
    table = made.real.of(test)
    assert bearing_train.balanced(table.label, found.probabilities(table.features).argmax(1)) < 0.5


def test_a_leaking_split_is_refused_and_named(material: tuple) -> None:
    rows, group, lengths, _ = material
    every = np.ones(len(rows), np.bool_)
    with pytest.raises(LeakError, match="inner 1"):
        check(rows, rows.take(rows.bearing == "inner 1"))
    healthy = rows.take(rows.label == 0)
    with pytest.raises(LeakError, match=r"recording normal 0 rec, samples \d+-\d+"):
        check(healthy.take(np.arange(0, len(healthy), 2)), healthy.take(np.arange(1, len(healthy), 2)))
    for _, train, test in folds(rows, group, lengths):
        check(rows.take(train), rows.take(test).plain())
        assert not (train & test).any() and (rows.label[train] == 0).any() and (rows.label[test] == 0).any()
    with pytest.raises(LeakError):
        bearing_train.nested(material[3], rows, (every, every), [], 0)


def test_training_again_gives_the_same_bytes(material: tuple, head: Head) -> None:
    again = bearing_train.train(material[3], np.ones(len(material[0]), np.bool_), bearing_train.Options(), 0)
    assert bearing_head.model(again) == bearing_head.model(head)
    other = bearing_train.train(material[3], np.ones(len(material[0]), np.bool_), bearing_train.Options(), 1)
    assert bearing_head.model(other) != bearing_head.model(head)


def test_the_graph_is_front_end_and_head(session: Session, head: Head) -> None:
    rows = bearingset.simulated(3, 24)
    made = session(rows.samples, rows.lines_hz)
    for name, shape in OUTPUTS.items():
        assert made[name].shape == (24, *shape) and np.isfinite(made[name]).all(), name
    features = bearingset.extractor()(rows.samples, rows.lines_hz)
    assert features.shape == (24, len(FEATURES))
    np.testing.assert_allclose(made["probabilities"], head.probabilities(features), atol=1e-4)
    np.testing.assert_allclose(made["score"], 1 - made["probabilities"][:, 0], atol=1e-6)
    best = made["probabilities"][:, 1:].argmax(1)
    np.testing.assert_array_equal(made["line"], made["lines"][np.arange(24), best])
    alone = session(rows.samples, rows.lines_hz, batch=1)
    for name, value in made.items():
        np.testing.assert_array_equal(value, alone[name], err_msg=name)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_no_decision_knows_the_scale(session: Session, factor: float) -> None:
    rows = bearingset.simulated(4, 80)
    made, scaled = (session(rows.samples * np.float32(k), rows.lines_hz) for k in (1.0, factor))
    np.testing.assert_array_equal(made["probabilities"].argmax(1), scaled["probabilities"].argmax(1))
    np.testing.assert_allclose(made["probabilities"], scaled["probabilities"], atol=1e-3)


def test_the_line_that_was_found_says_why(session: Session) -> None:
    """Slip moves the line by 0.6 %: the alert names both where it was looked for and where it was."""
    rng = np.random.default_rng(6)
    rig = bearingsim.Machine(ORDERS, 1790.0, strength=3.0, slip=-0.006, jitter=0.002)
    for fault, expected in (("inner", ORDERS.bpfi), ("ball", 2 * ORDERS.bsf), ("outer", ORDERS.bpfo)):
        x = bearingsim.vibration(rng, rig, fault, 12_000, 1.0)[None].astype(np.float32)
        made = session(x, ORDERS.lines_hz(1790.0)[None])
        assert CLASSES[int(made["probabilities"][0].argmax())] == fault
        looked, found, order, above = made["line"][0]
        assert looked == pytest.approx(expected * 1790 / 60, rel=1e-4)
        assert found == pytest.approx(looked * 0.994, rel=0.003)
        assert order == pytest.approx(found / (1790 / 60), rel=1e-4)
        assert above > 6.0 and made["severity"][0] == pytest.approx(above * made["score"][0], rel=1e-3)


def test_without_lines_or_signal_the_answer_is_unknown(session: Session) -> None:
    rows = bearingset.simulated(7, 4)
    assert (session(rows.samples, np.zeros((4, 5), np.float32))["doubt"] >= 1).all()
    for value in (0.0, 3.7, -1e4):
        made = session(np.full((1, 12_000), value, np.float32), rows.lines_hz[:1])
        assert made["doubt"][0] >= 1 and all(np.isfinite(v).all() for v in made.values()), value


def test_golden_rows_are_simulated_and_many_are_near_the_limit(head: Head) -> None:
    inputs, outputs = bearinggolden.rows(bearing_head.model(head), windows=8)
    again, _ = bearinggolden.rows(bearing_head.model(head), windows=8)
    np.testing.assert_array_equal(inputs["samples"], again["samples"])
    assert inputs["samples"].shape == (32, 12_000) and (inputs["samples"] == np.round(inputs["samples"])).all()
    assert (np.abs(outputs["score"] - 0.5) < 0.05).mean() >= 0.2, outputs["score"]


def test_near_integers_are_bearings() -> None:
    rng = np.random.default_rng(8)
    for _ in range(200):
        orders = near_integers(rng)
        assert not orders.faults() and 0.01 < abs(orders.bpfo - round(orders.bpfo)) < 0.1
