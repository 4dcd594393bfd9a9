"""A model is tried in a child process first: what asks for too much memory, crashes or hangs ends that one."""

import dataclasses
import resource
from pathlib import Path

import numpy as np
import pytest

from engines import Bundle, EngineError
from engines.trial import TrialLimits, try_out
from tests import models

LIMITS = TrialLimits(60.0, 256 << 20)
ROWS = {"x": (1, 4, 32)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return models.load(models.bundle(tmp_path_factory.mktemp("bundle"), models.dense()))


def greedy(bundle: Bundle, floats: int, operator: str = "Expand") -> Bundle:
    return dataclasses.replace(bundle, model=models.hungry(floats, operator), golden=None)


def test_a_model_that_is_in_order_passes(bundle: Bundle) -> None:
    try_out(bundle, "onnx_cpu", [ROWS], 256, limits=LIMITS)


@pytest.mark.parametrize("operator", ["Expand", "ConstantOfShape", "Tile"])
def test_a_model_that_asks_for_more_memory_than_it_may_have_is_refused(bundle: Bundle, operator: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(EngineError, match="within 256 MiB: .*([Aa]lloc|memory)"):
        try_out(greedy(bundle, 5 * 10**8, operator), "onnx_cpu", [ROWS], 256, limits=LIMITS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "it grew here"


def test_what_takes_less_than_it_may_passes(bundle: Bundle) -> None:
    try_out(greedy(bundle, 10**6), "onnx_cpu", [ROWS], 256, limits=LIMITS)


def test_large_activations_are_met_at_the_largest_batch_and_the_shapes_that_will_come(bundle: Bundle) -> None:
    wide = greedy(bundle, 1)
    try_out(wide, "onnx_cpu", [ROWS], 256, limits=LIMITS)
    with pytest.raises(EngineError, match=r"256 rows of .*x.*1, 4, 5000000"):
        try_out(wide, "onnx_cpu", [{"x": (1, 4, 5_000_000)}], 256, limits=LIMITS)


def test_a_model_is_held_to_the_memory_of_its_own_passport_however_much_this_process_has_held(tmp_path: Path) -> None:
    held = np.ones(200 << 17)  # 200 MiB
    del held
    budget = {"memory_mb": 64.0}
    frugal = models.load(models.bundle(tmp_path / "a", models.hungry(1), budget=budget))
    try_out(frugal, "onnx_cpu", [{"x": (1, 4, 20_000)}], 256, limits=LIMITS)  # larger rows than its author knew
    hungry = models.load(models.bundle(tmp_path / "b", models.hungry(80 << 18), budget=budget))
    with pytest.raises(EngineError, match=r"its golden vectors take (8|9)\d\.\d MiB, budget\.memory_mb = 64"):
        try_out(hungry, "onnx_cpu", [ROWS], 256, limits=LIMITS)


def test_a_model_that_hangs_is_killed_at_its_deadline(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"killed after 0\.1 s, its limit"):
        try_out(bundle, "onnx_cpu", [ROWS], 256, limits=TrialLimits(0.1))


def test_a_runtime_that_crashes_is_told(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("import os, sys; print('boom', file=sys.stderr, flush=True); os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EngineError, match="ended with SIGABRT and no answer; its last words: .*boom"):
        try_out(bundle, "onnx_cpu", [ROWS], 8, limits=LIMITS)


def test_rows_that_will_come_and_that_the_model_does_not_take_are_named(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"8 rows of .*\(1, 5, 32\)"):
        try_out(bundle, "onnx_cpu", [{"x": (1, 5, 32)}], 8, limits=LIMITS)


def test_a_trial_can_be_stopped(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="its trial was stopped"):
        try_out(bundle, "onnx_cpu", [ROWS], 8, limits=LIMITS, stop=lambda: True)
