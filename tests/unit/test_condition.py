"""The recursion against one sample at a time, in the operation order of the calibration."""

import numpy as np

from pipeline.calibrate import calibrate, ewma_step
from tests.rig import Rig, birth, frame, mewma_bundle


class Keep:
    """Remembers the rows that it is asked to score."""

    def __init__(self, inner: object) -> None:
        self.inner, self.rows = inner, list[np.ndarray]()

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def infer(self, inputs: dict[str, np.ndarray]) -> object:
        self.rows += [z.copy() for z in inputs["z"]]
        return self.inner.infer(inputs)  # type: ignore[attr-defined]


def test_rows_equal_the_recursion_one_sample_at_a_time_bit_for_bit() -> None:
    of, bundle, rng = birth("p"), mewma_bundle(rows=100), np.random.default_rng(3)
    data = rng.normal(size=(80, 2, 2)).astype("f4")
    rig = Rig.make(bundle, [of])
    rig.engine = engine = Keep(rig.engine)
    rig.poll([frame(of, q, data[q]) for q in range(80)])
    rig.drain()
    samples = data.astype(np.float64).transpose(0, 2, 1).reshape(-1, 2)
    assert bundle.spec.mewma is not None
    baseline = calibrate(samples[:100], bundle.spec.mewma)
    state, want = baseline.ewma, []
    for k, x in enumerate(samples[100:]):
        state = ewma_step(state, x, baseline.center, baseline.scale, bundle.spec.mewma.smoothing)
        if k % 2:
            want.append(state)
    assert len(engine.rows) == 30 and all((a == b).all() for a, b in zip(engine.rows, want, strict=True))


def test_calibration_rows_are_freed_when_the_baseline_is_there() -> None:
    of = birth("p")
    rig = Rig.make(mewma_bundle(rows=100), [of])
    rig.poll([frame(of, q, np.random.default_rng(q).normal(size=(2, 2))) for q in range(49)])
    pool = rig.part().order[0]
    assert pool.calibration[0].shape == (100, 2)
    rig.poll([frame(of, 49)])
    assert pool.calibration == {} and len(rig.effects.calibrations) == 1
    done = rig.effects.calibrations[0]
    assert done.rows == 100 and done.channels == ("a", "b") and done.seq == 49
