"""Fitting: opens the engines of bundles as the settings say, and builds TensorRT plans while the CPU serves.

A GPU engine serves only after the parity gate: its numbers and decisions on the golden vectors are the bundle's. What
fails is told by an event; the CPU goes on. No frame is ever refused for it.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from engines.base import Array, Engine, EngineError, EngineLost, Pipelined, TensorSpec, Unready
from engines.bundle import Bundle
from engines.golden import Golden, GoldenCase
from engines.parity import compare
from engines.select import Choice, choose
from engines.supply import GPU_ENGINES, EngineOptions, open_engine
from engines.trial import TrialLimits, try_out
from pipeline import parity
from pipeline.enginethread import EngineThread
from pipeline.errors import ModelError
from pipeline.ops.events import Events
from pipeline.ops.settings import Settings
from pipeline.serving import CLOSE_S, Active, Engines, Shapes, layout_of

T = TypeVar("T")


class Differs(EngineError):
    """An engine says other things than the golden vectors: it would again."""


CPU = "onnx_cpu"
#: A device that opens for the first time loads hundreds of MB of kernels. Nothing that an engine is asked takes longer.
OPEN_S = 120.0
#: Rows of a batch in the gate, where batches may be as large.
GATE_ROWS = 256


def engine_options(settings: Settings) -> EngineOptions:
    """Return what the settings say about engines."""
    e, batch = settings.engine, settings.batch
    return EngineOptions(e.threads, e.precision, batch.max_size, batch.in_flight, e.cache, e.build_timeout_s,
                         e.build_memory_mb)


class Supply(Protocol):
    """Plans and engines of one bundle for one device; `engines.gpu.provide.GpuSupply`."""

    def missing(self, shapes: Shapes) -> str:
        """Say why there is no plan for rows of these shapes; "" if there is."""

    def ensure(self, shapes: Shapes, *, stop: Callable[[], bool]) -> None:
        """Build the plan unless it is there. Raises EngineError."""

    def note(self, shapes: Shapes, text: bytes) -> None:
        """Lay a report beside the plan."""

    def open(self) -> Engine:
        """Open the engine on the calling thread. Raises EngineError, EngineLost."""


def golden_shapes(bundle: Bundle) -> list[Shapes]:
    """Return the row shapes of the golden vectors."""
    return [{name: array.shape[1:] for name, array in case.inputs.items()}
            for case in (bundle.golden.cases if bundle.golden is not None else ())]


class Fitter:
    """Opens engines. Every method blocks; none needs the event loop."""

    def __init__(self, settings: Settings, events: Events, choice: Choice | None = None,
                 supply: Callable[[Bundle], Supply] | None = None) -> None:
        """choice, supply: instead of what this machine has. Raises ModelError when the engine cannot be had."""
        self._options, self._events, self.stopped = engine_options(settings), events, False
        self._trial = TrialLimits(OPEN_S, settings.models.trial_memory_mb << 20)
        try:
            self.choice = choice or choose(settings.engine.name)
        except EngineError as error:
            raise ModelError(str(error)) from error
        self._make_supply = supply or self._of_this_machine
        self._supplies: dict[str, Supply] = {}  # by manifest: a supply keeps the plans that its store could not

    def try_out(self, bundle: Bundle, shapes: Iterable[Shapes]) -> None:
        """Run a bundle in a child process before this one loads it: it may ask for more memory than there is.

        Shipped ones need none. Raises EngineError.
        """
        if bundle.trust.status != "pinned":
            name = CPU if self.wants_device else self.choice.name
            try_out(bundle, name, shapes, self._options.max_batch, self._options.threads, self._trial,
                    stop=lambda: self.stopped)

    @property
    def wants_device(self) -> bool:
        return self.choice.name in GPU_ENGINES

    def ground(self, bundle: Bundle) -> Active:
        """Open the engine on the CPU, warm and checked on the golden vectors. Raises EngineError."""
        name = CPU if self.wants_device else self.choice.name
        thread = EngineThread(lambda: open_engine(name, bundle, self._options), self._options.max_batch,
                              bundle.spec.name)
        try:
            thread.start(OPEN_S)
            self._judge(thread, bundle)
        except Exception as error:  # whatever it is, another version may serve
            thread.close(CLOSE_S)
            raise (Differs if isinstance(error, Differs) else EngineError)(_said(error)) from error
        if self.wants_device:
            return Active(thread, name, f"{self.choice.name} is being prepared", degraded=True)
        return Active(thread, name, self.choice.why)

    def engines(self, bundle: Bundle, shapes: Iterable[Shapes] = (), *, build: bool = False) -> Engines:
        """Open all engines of a bundle; the device only where its plans are stored, or with `build`.

        Raises EngineError; with `build` also with why the device cannot serve (Unready: not now).
        """
        engines = Engines(bundle, self.ground(bundle))
        if bundle.trust.status == "unsigned":
            self._events.emit("bundle_unsigned", bundle=bundle.spec.name, version=bundle.spec.version,
                              why=bundle.trust.why)
        if self.wants_device and (build or not self.missing(bundle)):
            try:
                return self.with_device(engines, shapes)
            except Exception as error:  # whatever becomes of a device, the ground is closed or serves
                if build:
                    engines.ground.thread.close(CLOSE_S)
                    raise (Differs if isinstance(error, Differs) else Unready)(_said(error)) from error
                self.refuse(bundle, _said(error))
        return engines

    def missing(self, bundle: Bundle) -> str:
        """Say why the plans that the gate needs are not there; "" if they are."""
        try:
            supply = self._supply(bundle)
            return next(filter(None, map(supply.missing, golden_shapes(bundle))), "")
        except EngineError as error:
            return str(error)

    def with_device(self, engines: Engines, shapes: Iterable[Shapes] = ()) -> Engines:
        """Add the device, checked on the golden vectors and warm for rows of these shapes. Builds what is missing.

        Raises EngineError, EngineLost.
        """
        bundle = engines.bundle
        supply, golden = self._supply(bundle), golden_shapes(bundle)
        wanted = {layout_of(s): s for s in (*golden, *shapes)}
        for shape in wanted.values():
            self._ensure(supply, bundle, shape)
        judged = self._thread(supply.open, bundle)
        try:
            self._judge(judged, bundle, supply)
        finally:
            judged.close(CLOSE_S)
        device = Active(self._thread(supply.open, bundle), self.choice.name, self.choice.why)
        fitted = Engines(bundle, replace(engines.ground, why=f"beside {device.backend}", degraded=False), device)
        try:
            for shape in shapes:
                self.prepare(fitted, shape)
                fitted.ready.add(layout_of(shape))
        except BaseException:  # nobody else knows of it yet
            device.thread.close(CLOSE_S)
            raise
        return fitted

    def prepare(self, engines: Engines, shapes: Shapes) -> None:
        """Make the device ready for rows of these shapes; `Serving.admit` them then. Raises EngineError, EngineLost.

        Rows of other shapes than the golden ones have a plan of their own: what it says is held against the ground.
        """
        assert engines.device is not None
        bundle, rows = engines.bundle, self._options.max_batch
        self._ensure(self._supply(bundle), bundle, shapes)
        _call(engines.device.thread, lambda engine: cast(Pipelined, engine).staging(shapes, rows))
        if layout_of(shapes) in map(layout_of, golden_shapes(bundle)):
            return
        inputs = _examples(engines.ground.thread.engine.inputs, shapes, rows)
        outputs = {name: np.array(array) for name, array in
                   _call(engines.ground.thread, lambda engine: engine.infer(inputs)).items()}
        case = GoldenCase(f"rows of {dict(shapes)}", inputs, outputs)
        self._judge(engines.device.thread, replace(bundle, golden=Golden((case,))), self._supply(bundle))

    def refuse(self, bundle: Bundle, why: str, again_s: float | None = None) -> None:
        """Say that the device cannot serve. again_s: when it is tried again, None: not before the next start."""
        again: dict[str, Any] = {} if again_s is None else {"again_s": again_s}
        self._events.emit("engine_refused", bundle=bundle.spec.name, version=bundle.spec.version,
                          backend=self.choice.name, why=why, **again)

    def _judge(self, thread: EngineThread, bundle: Bundle, supply: Supply | None = None) -> None:
        """Hold an engine against the golden vectors. supply: keeps the report beside their plans. Raises Differs."""
        if bundle.golden is None:  # not from a file: made in memory, for a test
            return
        rows = min(GATE_ROWS, self._options.max_batch)
        report = _call(thread, lambda engine: compare(engine, bundle, parity, rows))
        if supply is not None:
            for shapes in golden_shapes(bundle):
                supply.note(shapes, report.to_json())
        if not report.ok:
            raise Differs(f"{report.engine} does not say what the golden vectors say: {report.why()}")

    def _supply(self, bundle: Bundle) -> Supply:
        if bundle.manifest_sha256 not in self._supplies:
            self._supplies[bundle.manifest_sha256] = self._make_supply(bundle)
        return self._supplies[bundle.manifest_sha256]

    def _of_this_machine(self, bundle: Bundle) -> Supply:
        from engines.gpu.provide import GpuSupply

        return GpuSupply(self.choice.name, bundle, self._options)

    def _thread(self, factory: Callable[[], Engine], bundle: Bundle) -> EngineThread:
        thread = EngineThread(factory, self._options.max_batch, f"{bundle.spec.name}-gpu")
        thread.start(OPEN_S)
        return thread

    def _ensure(self, supply: Supply, bundle: Bundle, shapes: Shapes) -> None:
        why = supply.missing(shapes)
        if why:
            self._events.emit("engine_build", bundle=bundle.spec.name, backend=self.choice.name, why=why,
                              rows=dict(shapes))
            supply.ensure(shapes, stop=lambda: self.stopped)


def _call(thread: EngineThread, do: Callable[[Engine], T]) -> T:
    """Let an engine do something within OPEN_S. Raises EngineError, EngineLost."""
    try:
        return thread.call(do, OPEN_S)
    except TimeoutError:
        raise EngineLost(f"the engine hangs: no answer within {OPEN_S:g} s") from None


def _examples(specs: Iterable[TensorSpec], shapes: Shapes, rows: int) -> dict[str, Array]:
    """Make rows of any shape that a model should take: noise, positive where a row has a single number (a limit)."""
    rng = np.random.default_rng(0)
    made = {spec.name: rng.normal(size=(rows, *shapes[spec.name])) for spec in specs}
    return {spec.name: (np.abs(made[spec.name]) + 0.5 if not shapes[spec.name] else made[spec.name]).astype(spec.dtype)
            for spec in specs}


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, (EngineError, EngineLost)) else f"{type(error).__name__}: {error}"
