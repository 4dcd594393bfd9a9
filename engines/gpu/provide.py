"""A bundle on this machine's GPU: its plans, found in the store or built, and the engine that runs them."""

from collections.abc import Callable, Mapping

from engines.base import EngineError
from engines.bundle import Bundle
from engines.gpu.build import BuildLimits, obtain
from engines.gpu.driver import PyCudaDriver, probe
from engines.gpu.flavour import PlanEngine, load_flavour
from engines.gpu.plan import PRECISIONS, BuildSpec, EngineKey, Precision
from engines.gpu.session import TensorRtEngine
from engines.gpu.store import Found, Missing, PlanStore
from engines.supply import EngineOptions, cache_folder
from engines.wire import read_model

Shapes = Mapping[str, tuple[int, ...]]


def dims_of(bundle: Bundle, shapes: Shapes) -> dict[str, int]:
    """Name the sizes of the model's open dimensions. shapes: of one row of each input."""
    dims = {}
    for tensor in read_model(bundle.model).inputs:
        for axis, (dim, size) in enumerate(zip(tensor.dims[1:], shapes[tensor.name], strict=True), 1):
            if not isinstance(dim, int):
                dims[dim or f"{tensor.name}[{axis}]"] = size
    return dims


class GpuSupply:
    """Plans of one bundle for this device. Any thread may look for and build them; `open` is for the engine's own."""

    def __init__(self, name: str, bundle: Bundle, options: EngineOptions) -> None:
        """name: "tensorrt" or "tensorrt_rtx". Raises EngineError when the package or the device is not there."""
        self.name, self._bundle, self._options = name, bundle, options
        self._flavour, self._device = load_flavour(name), probe().id
        self._store = PlanStore(cache_folder(options))
        self._kept: dict[str, bytes] = {}  # what the store could not keep

    def missing(self, shapes: Shapes) -> str:
        """Say why there is no plan for rows of these shapes; "" if there is."""
        key = self._key(self._spec(dims_of(self._bundle, shapes)))
        found = self._store.get(key)
        return "" if key in self._kept or isinstance(found, Found) else found.why

    def ensure(self, shapes: Shapes, on_line: Callable[[str], None] = lambda line: None,
               stop: Callable[[], bool] = lambda: False) -> None:
        """Build the plan of rows of these shapes unless it is there; takes seconds to minutes. Raises EngineError."""
        spec = self._spec(dims_of(self._bundle, shapes))
        key = self._key(spec)
        if key in self._kept:
            return
        limits = BuildLimits(self._options.build_timeout_s, self._options.build_memory_mb << 20)
        got = obtain(self._store, self._bundle, spec, self._flavour, self._device, limits, on_line, stop=stop)
        if got.unkept:
            on_line(got.unkept)
            self._kept[key] = got.plan

    def note(self, shapes: Shapes, text: bytes) -> None:
        """Lay what the parity gate found beside the plan."""
        self._store.note(self._key(self._spec(dims_of(self._bundle, shapes))), text)

    def open(self) -> TensorRtEngine:
        """Open the engine, on the thread that is to own it. Raises EngineError, EngineLost."""
        return TensorRtEngine(self._bundle, self._plan, PyCudaDriver(), name=self.name, depth=self._options.depth,
                              max_batch=self._options.max_batch)

    def _plan(self, dims: Mapping[str, int]) -> PlanEngine:
        key = self._key(self._spec(dims))
        plan = self._kept.get(key)
        if plan is None:
            found = self._store.get(key)
            if isinstance(found, Missing):
                sizes = ", ".join(f"{name} = {size}" for name, size in dims.items())
                raise EngineError(f"{found.why}{f' (rows with {sizes})' if sizes else ''}: "
                                  f"kizashi models build {self._bundle.spec.name}")
            plan = found.plan
        try:
            return self._flavour.deserialize(plan)
        except EngineError:
            self._kept.pop(key, None)
            self._store.forget(key)
            raise

    def _spec(self, dims: Mapping[str, int]) -> BuildSpec:
        precision: Precision = next(p for p in PRECISIONS if p == self._options.precision)
        return BuildSpec(precision, self._options.max_batch, dims=dict(dims))

    def _key(self, spec: BuildSpec) -> str:
        return EngineKey.of(self._bundle.sha256, spec, self._flavour, self._device)
