"""Sessions for tests: a bundle's model built by the TensorRT that this process finds, the fake one on the bed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from engines import Bundle, EngineError
from engines.gpu.capture import PlanEngine
from engines.gpu.driver import PyCudaDriver
from engines.gpu.flavour import FLAVOURS, load_flavour
from engines.gpu.plan import BuildSpec
from engines.gpu.session import PlanFor, TensorRtEngine
from engines.graph.precision import to_precision


def flavour_name() -> str:
    """Return the first flavour whose package is here."""
    for name in FLAVOURS:
        if find_spec(name):
            return name
    raise EngineError(f"none of {', '.join(FLAVOURS)} is installed")


def planner(bundle: Bundle, max_batch: int = 256, precision: str = "f32") -> PlanFor:
    """Return what builds `bundle` in this process, for the sizes that a session asks for."""
    flavour, model = load_flavour(flavour_name()), to_precision(bundle.model, precision)

    def plan_for(dims: Mapping[str, int]) -> PlanEngine:
        plan, _ = flavour.build(model, BuildSpec(precision=precision, max_batch=max_batch, dims=dict(dims)))
        return flavour.deserialize(plan)

    return plan_for


@contextmanager
def session(bundle: Bundle, max_batch: int = 256, precision: str = "f32", **options: Any) -> Iterator[TensorRtEngine]:
    """Open a session on `bundle`, and close it."""
    plan_for = planner(bundle, max_batch, precision)
    engine = TensorRtEngine(bundle, plan_for, PyCudaDriver(), max_batch=max_batch, **options)
    try:
        yield engine
    finally:
        engine.close()
