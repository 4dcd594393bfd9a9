"""Serve a model on an NVIDIA GPU: rows in page-locked memory go to the device, through a plan, and back, overlapping.

Batches in flight take turns in slots: each has a stream, memory on both sides, and per bucket a context with a graph.
The rows of a batch are written into the memory that the device reads; no host copy follows. All that a row shape needs
is allocated when its first asset appears; from then on a batch is three calls: copy, launch, copy, and a mark behind
them. An engine is made, used and closed on one thread, which holds the device's primary context meanwhile.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from engines.base import Array, Arrays, EngineError, EngineLost, Staging
from engines.bundle import Bundle
from engines.gpu.capture import COPIED, Lane, Layout, Maker, PlanEngine, Slot, agree, point
from engines.gpu.driver import Driver
from engines.gpu.faults import CudaError, code_of, translate
from engines.gpu.memory import StagingSet, choose_path
from engines.gpu.plan import buckets as buckets_up_to
from engines.signature import Signature
from engines.wire import read_model

#: Batches in flight: one computes, one copies in, one waits for its results to be read.
DEPTH = 3
# Sets lent out besides those in flight: a poll of 2,048 rows fills 8 batches of 256, and one more is open.
_SPARE_SETS = 9
# Page-locked memory cannot be swapped out: on an edge box with 8 GB a sixteenth is enough for 14 batches of 256 windows
# of 3 x 2048 float32 (6 MiB each) and small enough to leave the machine alone.
_PINNED_BYTES = 512 << 20
# TensorRT has no float64: what a model takes or gives so is float32 in its plan (`engines.graph.precision`).
_ON_DEVICE = {"f8": "f4"}

#: Makes the plan for sizes of the open dimensions (by name, batch excluded). Raises EngineError.
PlanFor = Callable[[Mapping[str, int]], PlanEngine]


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch that was begun. inputs: held until it is finished, so that nobody is lent the rows which are read."""

    ticket: int
    slot: Slot
    rows: int
    inputs: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Lending:
    """Page-locked memory that a session may use. sets: per row shape, to be lent out; none: depth + 9."""

    sets: int | None = None
    pinned_bytes: int = _PINNED_BYTES


class TensorRtEngine:
    """`base.Pipelined` over plans, one for each row shape.

    copied_rows: rows that took a host copy because they were not in staging memory.
    """

    def __init__(self, bundle: Bundle, plan_for: PlanFor, driver: Driver, *, name: str = "tensorrt", depth: int = DEPTH,
                 max_batch: int = 256, lending: Lending = Lending()) -> None:
        """Open the device on this thread. Raises EngineError, EngineLost."""
        self.name, self.depth, self.max_batch = name, depth, max_batch
        self.buckets = buckets_up_to(max_batch)
        self._bundle, self._plan_for, self._driver = bundle, plan_for, driver
        facts = read_model(bundle.model)
        self._signature = Signature.of(*(
            [(t.name, _ON_DEVICE.get(t.dtype, t.dtype), t.dims) for t in ts] for ts in (facts.inputs, facts.outputs)))
        self._signature.require(bundle.spec)
        self.inputs, self.outputs = self._signature.inputs, self._signature.outputs
        self.copied_rows = 0
        self._names = tuple(s.name for s in self.inputs)
        self._bucket_of = [next(b for b in self.buckets if b >= n) for n in range(max_batch + 1)]
        self._layouts: dict[tuple[tuple[int, ...], ...], Layout] = {}
        self._staged: dict[int, tuple[Layout, StagingSet]] = {}
        self._flying: deque[_Flight] = deque()
        self._begun = 0
        self._lost: str | None = None
        self._closed = False
        self._thread = threading.get_ident()
        self._launch, self._h2d, self._d2h = driver.graphs.launch, driver.h2d, driver.d2h
        self._errors: tuple[type[Exception], ...] = (*driver.errors, CudaError, EngineError, EngineLost)
        driver.open()
        try:
            self._lanes = [self._lane() for _ in range(depth)]
        except self._errors as error:
            fault = translate(error, code_of(error, driver.graphs, 0), "opening", driver.info.name)
            if isinstance(fault, EngineLost):
                driver.lost(str(fault))
            driver.close()
            raise fault from error
        path = choose_path(driver.info)
        self.path = path.name
        self._copy_in, self._copy_out = path.copy_in, path.copy_out
        sets = depth + _SPARE_SETS if lending.sets is None else lending.sets
        self._maker = Maker(driver, path, self._lanes, self.buckets, sets, lending.pinned_bytes)

    def staging(self, shapes: Mapping[str, tuple[int, ...]], rows: int) -> Staging:
        """Lend input arrays of `rows` rows; see `base.Pipelined`. For a known layout this may be any thread.

        They come back by themselves when nobody refers to them any more.
        """
        if rows > self.max_batch:
            raise EngineError(f"staging for {rows} rows, this engine was built for batches of up to {self.max_batch}")
        if set(shapes) != set(self._names):
            raise EngineError(f"staging for {sorted(shapes)}, the model takes {', '.join(self._names)}")
        layout = self._layout(tuple(tuple(shapes[name]) for name in self._names))
        arrays = layout.pool.lend(rows)
        if arrays is not None:
            return Staging(arrays, pinned=True)
        return Staging({s.name: np.zeros((rows, *shapes[s.name]), s.dtype) for s in self.inputs})

    def warm_up(self, batch: int) -> None:
        """Prepare the row shape where the model fixes it, and run `batch` rows; others are warm once they are staged.

        A model that leaves dimensions open needs a plan for each: which ones, the assets tell.
        """
        if all(None not in s.shape for s in self.inputs):
            self._layout(tuple(tuple(d for d in s.shape if d is not None) for s in self.inputs))
        for layout in self._layouts.values():
            arrays = layout.slots[self._begun % self.depth].own.arrays
            self.infer({name: array[: min(batch, self.max_batch)] for name, array in arrays.items()})

    def infer(self, inputs: Arrays) -> dict[str, Array]:
        """Compute a batch of any size, in parts of `max_batch`. Nothing else may be in flight."""
        rows = max((len(array) for array in inputs.values() if array.ndim), default=0)
        if rows <= self.max_batch:
            return self.finish(self.begin(inputs))
        self._signature.check(inputs)
        parts = []
        for at in range(0, rows, self.max_batch):
            part = self.finish(self.begin({name: array[at : at + self.max_batch] for name, array in inputs.items()}))
            parts.append({name: array.copy() for name, array in part.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def begin(self, inputs: Arrays) -> int:
        """Put a batch on the device and return without waiting; see `base.Pipelined`."""
        if self._lost is not None or self._closed:
            raise self._gone()
        if len(self._flying) >= self.depth:
            raise EngineError(f"{self.depth} batches are begun: finish the oldest before another one")
        layout, staged, rows = self._recognise(inputs) or self._copy(inputs)
        ticket = self._begun
        slot, bucket = layout.slots[ticket % self.depth], self._bucket_of[rows]
        try:
            self._issue(layout, staged, slot, bucket)
        except self._errors as error:
            raise self._fault(error, f"starting {rows} rows", slot) from error
        self._flying.append(_Flight(ticket, slot, rows, tuple(inputs.values())))
        self._begun = ticket + 1
        return ticket

    def _issue(self, layout: Layout, staged: StagingSet, slot: Slot, bucket: int) -> None:
        """Put copies and computation on the slot's stream. Each call counts: they are all that a batch costs here."""
        stream, run, key = slot.stream, slot.runs[bucket], COPIED
        if self._copy_in:
            for offset, piece in staged.pieces[bucket]:
                self._h2d(slot.inputs + offset, piece, stream)
        else:
            key = staged.index
        graph = run.graphs.get(key)
        if graph is None:
            if key != COPIED:
                point(run.context, layout.inputs, staged)
            run.context.enqueue(slot.handle)
        else:
            code = self._launch(graph, slot.handle)
            if code:
                self._driver.graphs.check(code, "cuGraphLaunch")
        if self._copy_out:
            for address, piece in slot.pieces[bucket]:
                self._d2h(piece, address, stream)
        slot.event.record(stream)

    def finish(self, ticket: int) -> dict[str, Array]:
        """Wait for a batch; see `base.Pipelined`."""
        if self._lost is not None or self._closed:
            raise self._gone()
        if not self._flying or self._flying[0].ticket != ticket:
            raise EngineError(f"batch {ticket} is not the oldest of those begun: {[f.ticket for f in self._flying]}")
        flight = self._flying.popleft()
        slot, rows = flight.slot, flight.rows
        try:
            slot.event.synchronize()
        except self._errors as error:
            raise self._fault(error, f"computing {rows} rows", slot) from error
        return {name: array[:rows] for name, array in slot.results.items()}

    def profile(self, inputs: Arrays) -> tuple[float, float, float]:
        """Run a batch of staged rows alone; return seconds of h2d, compute and d2h by the device's clock."""
        found = self._recognise(inputs)
        if found is None or self._flying:
            raise EngineError("only rows in staging memory can be timed, and nothing else in flight")
        layout, staged, rows = found
        slot, bucket = layout.slots[self._begun % self.depth], self._bucket_of[rows]
        run, key = slot.runs[bucket], COPIED if self._copy_in else staged.index
        try:
            marks = [self._driver.event(timing=True) for _ in range(4)]
            marks[0].record(slot.stream)
            for offset, piece in staged.pieces[bucket] if self._copy_in else ():
                self._h2d(slot.inputs + offset, piece, slot.stream)
            marks[1].record(slot.stream)
            if key in run.graphs:
                self._driver.graphs.check(self._launch(run.graphs[key], slot.handle), "cuGraphLaunch")
            else:
                run.context.enqueue(slot.handle)
            marks[2].record(slot.stream)
            for address, piece in slot.pieces[bucket] if self._copy_out else ():
                self._d2h(piece, address, slot.stream)
            marks[3].record(slot.stream)
            marks[3].synchronize()
            parts = [end.time_since(start) / 1e3 for start, end in zip(marks, marks[1:], strict=False)]
        except self._errors as error:
            raise self._fault(error, f"timing {rows} rows", slot) from error
        return parts[0], parts[1], parts[2]

    @property
    def captured(self) -> str:
        """Say whether graphs are replayed: "yes", or why not."""
        return next((f"no: {layout.uncaptured}" for layout in self._layouts.values() if layout.uncaptured), "yes")

    def close(self) -> None:
        """Free what the engine holds, on the thread that made it; what is lent out, once it has come back."""
        if self._closed:
            return
        if threading.get_ident() != self._thread:
            raise EngineError("a GPU engine is closed on the thread that made it")
        self._closed = True
        try:
            if self._lost is None:
                self._free()
        except self._errors as error:
            self._lost = str(translate(error, code_of(error, self._driver.graphs, 0), "closing",
                                       self._driver.info.name))
        finally:
            if self._lost is not None:
                # The dead context goes first: PyCUDA then drops what belongs to it without calling the driver.
                self._driver.lost(self._lost)
                self._driver.close()
            self._flying.clear()
            self._staged.clear()
            self._layouts.clear()
            self._lanes.clear()
            self._maker.lanes, self._maker.making = (), None
            self._driver.close()

    def _free(self) -> None:
        """Wait for what is in flight and free all memory. By itself, so that no local name outlives the context."""
        while self._flying:
            with suppress(*self._errors):
                self._flying.popleft().slot.event.synchronize()
        self._maker.undo()
        for layout in self._layouts.values():
            layout.close()

    def _lane(self) -> Lane:
        stream = self._driver.stream()
        return Lane(stream, stream.handle, self._driver.event())

    def _recognise(self, inputs: Arrays) -> tuple[Layout, StagingSet, int] | None:
        """Find the staging set whose first rows `inputs` are; None for any other arrays."""
        names = self._names
        if len(inputs) != len(names) or names[0] not in inputs:
            return None
        first = inputs[names[0]]
        rows = len(first) if first.ndim else 0
        known = self._staged.get(first.__array_interface__["data"][0])
        if known is None or not 0 < rows <= self.max_batch:
            return None
        layout, staged = known
        for part, address in zip(layout.inputs.parts, staged.addresses, strict=True):
            array = inputs.get(part.name)
            if (array is None or array.shape != (rows, *part.shape) or array.dtype != part.dtype
                    or not array.flags.c_contiguous or array.__array_interface__["data"][0] != address):
                return None
        return layout, staged, rows

    def _copy(self, inputs: Arrays) -> tuple[Layout, StagingSet, int]:
        """Copy rows that lie elsewhere into the staging set of the slot whose turn it is."""
        rows = self._signature.check(inputs)
        if rows > self.max_batch:
            raise EngineError(f"a batch of {rows} rows, this engine was built for up to {self.max_batch}")
        layout = self._layout(tuple(inputs[name].shape[1:] for name in self._names))
        staged = layout.slots[self._begun % self.depth].own
        for name in self._names:
            staged.arrays[name][:rows] = inputs[name]
        self.copied_rows += rows
        return layout, staged, rows

    def _layout(self, shapes: tuple[tuple[int, ...], ...]) -> Layout:
        known = self._layouts.get(shapes)
        if known is not None:
            return known
        if self._lost is not None or self._closed:
            raise self._gone()
        if threading.get_ident() != self._thread:
            raise EngineError("a new row shape is prepared on the engine's own thread only")
        dims = self._dims(shapes)
        try:
            plan = self._plan_for(dims)
        except EngineLost as error:
            raise self._fault(error, "loading a plan", None) from error
        doing = f"preparing rows of {', '.join(map(str, shapes))} for batches of up to {self.max_batch}"
        try:
            agree(self.inputs, self.outputs, plan, dict(zip(self._names, shapes, strict=True)))
            made = self._maker.layout(self.inputs, shapes, plan)
        except self._errors as error:
            fault = self._fault(error, doing, None)
            if self._lost is None:
                self._maker.undo()
            raise fault from error
        self._layouts[shapes] = made
        for staged in made.sets:
            self._staged[staged.addresses[0]] = made, staged
        return made

    def _dims(self, shapes: tuple[tuple[int, ...], ...]) -> dict[str, int]:
        """Name the sizes of the open dimensions. Raises EngineError where shapes do not fit the model."""
        dims: dict[str, int] = {}
        for spec, labels, shape in zip(self.inputs, self._signature.dims, shapes, strict=True):
            spec.check(np.broadcast_to(np.zeros((), spec.dtype), (1, *shape)))
            for axis, (label, size) in enumerate(zip(labels[1:], shape, strict=True), 1):
                if isinstance(label, int):
                    continue
                name = label or f"{spec.name}[{axis}]"
                if dims.setdefault(name, size) != size:
                    raise EngineError(f"input {spec.name!r} has {name} = {size}, another input has {dims[name]}")
        return dims

    def _fault(self, error: BaseException, doing: str, slot: Slot | None) -> EngineError | EngineLost:
        graphs = self._driver.graphs
        code = code_of(error, graphs, slot.handle if slot is not None else self._lanes[0].handle)
        fault = translate(error, code, doing, self._driver.info.name)
        if isinstance(fault, EngineLost):
            self._lost = str(fault)
            self._driver.lost(self._lost)
        return fault

    def _gone(self) -> EngineError | EngineLost:
        return EngineLost(self._lost) if self._lost is not None else EngineError("the engine is closed")
