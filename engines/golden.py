"""Golden vectors: what a model must answer, so that an engine can be judged on any machine.

`golden.msgpack` holds named cases of typed arrays, nothing that could run. At least 256 rows, and at least a fifth of
them near the limit: that is where engines that differ in their last bits would decide differently.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from engines.base import Array, Engine
from engines.spec import ModelSpec, Tolerance
from engines.wire import ModelFacts

MIN_ROWS, MAX_ROWS = 256, 65_536
#: Share of rows that must have a score within NEAR of the limit, relative to it.
MIN_NEAR, NEAR = 0.2, 0.1

#: Sequences of all cases, and features of all rows of a case where there is a `[baseline]`: a worker that compares
#: an engine with them has a baseline of its own for each sequence, 25 bytes a feature, four times over.
MAX_SEQUENCES, MAX_FEATURES = 1024, 1 << 18

#: Bytes of all arrays as the model has them. Half of it fits the file's own limit as it is; the rest is for samples
#: that lie as signed bytes, of which 32 MiB would be 256 as float64.
MAX_BYTES = 64 << 20

# Little endian whatever the machine.
_DTYPES = {"f2": "<f2", "f4": "<f4", "f8": "<f8", "i4": "<i4", "i8": "<i8", "u1": "|u1", "b1": "|b1"}
#: Windows of samples take megabytes as float32. What has so many elements, all of them small whole numbers, lies in the
#: file as signed bytes: a model that knows no scale can be shown such samples as well as any.
MANY = 1 << 16
_STORED, _MOST = "|i1", 127
#: Rows that are the same are stored once; no file may grow to more than this many times what it stores.
_MOST_SHARED = 16
_Size = Annotated[int, Meta(ge=0, le=1 << 24)]


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """Rows that one engine call could take: inputs and outputs (n, ...) by name.

    starts: first row of each sequence. A sequence is one asset's rows in order, as the judge meets them.
    """

    name: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    starts: tuple[int, ...] = (0,)

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True, slots=True)
class Golden:
    """All cases of a bundle; they differ in what is fixed within a batch, as the number of channels."""

    cases: tuple[GoldenCase, ...]

    @property
    def rows(self) -> int:
        return sum(case.rows for case in self.cases)


class _Array(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """dtype: that the model has. stored: that the data have, where it is another; reading widens them.

    rows: which of the stored rows each row is, where several are the same: one window of samples under many lines.
    """

    dtype: Literal["f2", "f4", "f8", "i4", "i8", "u1", "b1"]
    shape: Annotated[tuple[_Size, ...], Meta(min_length=1, max_length=8)]
    data: bytes
    stored: Literal["i1"] | None = None
    rows: Annotated[tuple[_Size, ...], Meta(min_length=1, max_length=MAX_ROWS)] | None = None


class _Case(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    starts: Annotated[tuple[_Size, ...], Meta(min_length=1, max_length=MAX_ROWS)]
    inputs: Annotated[dict[str, _Array], Meta(min_length=1, max_length=64)]
    outputs: Annotated[dict[str, _Array], Meta(min_length=1, max_length=64)]


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    cases: Annotated[tuple[_Case, ...], Meta(min_length=1, max_length=64)]
    format: Literal["kizashi-golden/1"] = "kizashi-golden/1"


def encode(golden: Golden) -> bytes:
    """Return the bytes of golden.msgpack. Raises ValueError for a dtype that no engine takes."""
    cases = []
    for case in golden.cases:
        inputs, outputs = ({n: _packed(array) for n, array in side.items()} for side in (case.inputs, case.outputs))
        cases.append(_Case(case.name, case.starts, inputs, outputs))
    return msgspec.msgpack.encode(_File(tuple(cases)), order="deterministic")


def decode(data: bytes) -> Golden:
    """Read golden.msgpack; arrays are read-only views. Raises ValueError naming what is wrong and where."""
    file = msgspec.msgpack.decode(data, type=_File)
    size = sum(prod(array.shape) * np.dtype(_DTYPES[array.dtype]).itemsize
               for case in file.cases for side in (case.inputs, case.outputs) for array in side.values())
    if size > MAX_BYTES:
        raise ValueError(f"its arrays take {size / 2**20:.0f} MiB, the limit is {MAX_BYTES >> 20} MiB; take fewer rows")
    cases = []
    for case in file.cases:
        sides = [{name: _array(f"{case.name}: {name}", array) for name, array in side.items()}
                 for side in (case.inputs, case.outputs)]
        rows = {name: len(array) for side in sides for name, array in side.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"{case.name}: rows differ: {rows}")
        n = min(rows.values())
        if not n or case.starts[0] != 0 or list(case.starts) != sorted(set(case.starts)) or case.starts[-1] >= n:
            raise ValueError(f"{case.name}: starts must rise from 0 to below its {n} rows")
        cases.append(GoldenCase(case.name, sides[0], sides[1], case.starts))
    return Golden(tuple(cases))


def faults(golden: Golden, spec: ModelSpec, facts: ModelFacts) -> list[str]:
    """Say what of the golden vectors does not fit the model, and whether they are enough."""
    found = list(_count_faults(golden))
    for case in golden.cases:
        for side, tensors in ((case.inputs, facts.inputs), (case.outputs, facts.outputs)):
            known = {tensor.name: tensor for tensor in tensors}
            if side.keys() != known.keys():
                found.append(f"{case.name}: has {', '.join(sorted(side))}, the model {', '.join(sorted(known))}")
                continue
            for name, array in side.items():
                fits = array.ndim == len(known[name].dims) and all(
                    not isinstance(want, int) or want == got
                    for want, got in zip(known[name].dims[1:], array.shape[1:], strict=True))
                if array.dtype != np.dtype(_DTYPES.get(known[name].dtype, "V")) or not fits:
                    found.append(f"{case.name}: {name} is {array.dtype}{list(array.shape)}, the model has "
                                 f"{known[name].dtype}{list(known[name].dims)}")
                elif array.dtype.kind == "f" and not np.isfinite(array).all():
                    if side is case.outputs or np.isinf(array).any():  # a NaN that comes in may have a meaning
                        found.append(f"{case.name}: {name} holds NaN or infinite values")
    if not found:
        found += [*_near_faults(golden, spec), *_wide_faults(golden, spec), *_many_faults(golden, spec)]
    return found


def make_golden(engine: Engine, cases: Sequence[tuple[str, Mapping[str, Array], Sequence[int]]]) -> Golden:
    """Let an engine that is right answer, as the reference. cases: (name, inputs, first row of each sequence)."""
    made = []
    for name, inputs, starts in cases:
        outputs = {key: np.array(array) for key, array in engine.infer(inputs).items()}
        made.append(GoldenCase(name, dict(inputs), outputs, tuple(starts)))
    return Golden(tuple(made))


def toward_limit(engine: Engine, score: str, inputs: Mapping[str, Array], name: str, wanted: Array) -> dict[str, Array]:
    """Scale the rows of input `name` until their scores are about `wanted` (n,), and return the inputs.

    By bisection over factors of 1e-9 to 1e9, for models whose score grows with that input.
    """
    shape = (len(wanted), *(1,) * (inputs[name].ndim - 1))
    low, high = np.full(len(wanted), -9.0), np.full(len(wanted), 9.0)
    for _ in range(40):  # 18 decades halved 40 times: the factor is known to 4e-11
        middle = (low + high) / 2
        rows = {**inputs, name: (inputs[name] * (10.0**middle).reshape(shape)).astype(inputs[name].dtype)}
        got = np.asarray(engine.infer(rows)[score], np.float64).reshape(-1)
        below = got < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return rows


def _count_faults(golden: Golden) -> Iterator[str]:
    if not MIN_ROWS <= golden.rows <= MAX_ROWS:
        yield f"{golden.rows} rows; {MIN_ROWS} to {MAX_ROWS} are wanted"
    sequences = sum(len(case.starts) for case in golden.cases)
    if sequences > MAX_SEQUENCES:
        yield f"{sequences} sequences; at most {MAX_SEQUENCES} are allowed"


def _near_faults(golden: Golden, spec: ModelSpec) -> Iterator[str]:
    limit = spec.threshold
    scores = np.concatenate([np.asarray(c.outputs[spec.outputs.score], np.float64).reshape(-1) for c in golden.cases])
    near = int(np.count_nonzero(np.abs(scores - limit) <= NEAR * limit))
    if near < MIN_NEAR * golden.rows:
        yield (f"{near} of {golden.rows} rows have a score within {NEAR:.0%} of the limit {limit:g}, at least "
               f"{MIN_NEAR:.0%} are wanted")


def _wide_faults(golden: Golden, spec: ModelSpec) -> Iterator[str]:
    """Name tolerances so wide that another model would pass for this one. Those of the shipped ones are below 3 %."""
    for name, allowed in spec.golden.tolerance.items():
        values = np.concatenate([case.outputs[name].astype(np.float64).reshape(-1) for case in golden.cases])
        what, reach, most = "the limit", spec.threshold, spec.threshold
        if name != spec.outputs.score:
            what = "what its golden values span"
            most = float(np.abs(values).max(initial=0.0))  # that `parity` weighs the relative one by
            reach = float(np.ptp(values) or most) if values.size else 0.0
        width = allowed.abs + allowed.rel * most
        if width > max(NEAR * reach, Tolerance().abs):
            yield f"the tolerance of {name!r} is {width:g}, at most {NEAR:.0%} of {what}, {reach:g}, are allowed"


def _many_faults(golden: Golden, spec: ModelSpec) -> Iterator[str]:
    for case in golden.cases:
        features = case.outputs[spec.outputs.features or ""].size if spec.baseline is not None else 0
        if features > MAX_FEATURES:
            yield f"{case.name}: {features} features in {case.rows} rows; at most {MAX_FEATURES} are allowed"


def _packed(array: Array) -> _Array:
    kind = array.dtype.kind + str(array.dtype.itemsize)
    if kind not in _DTYPES:
        raise ValueError(f"dtype {array.dtype} is none of {', '.join(_DTYPES)}")
    stored: Literal["i1"] | None = "i1" if array.size >= MANY and _small_integers(array) else None
    data = np.ascontiguousarray(array, _STORED if stored else _DTYPES[kind])
    once = dict[bytes, int]()
    rows = tuple(once.setdefault(row.tobytes(), len(once)) for row in data) if array.size >= MANY else ()
    if not 0 < 2 * len(once) <= len(rows) <= _MOST_SHARED * len(once):
        return _Array(kind, array.shape, data.tobytes(), stored)  # type: ignore[arg-type]  # checked
    return _Array(kind, array.shape, b"".join(once), stored, rows)  # type: ignore[arg-type]  # checked


def _small_integers(array: Array) -> bool:
    """Say whether signed bytes hold these floats as they are; a zero with a sign is none."""
    if array.dtype.kind != "f" or not np.isfinite(array).all() or np.abs(array).max() > _MOST:
        return False
    return bool((array == np.round(array)).all() and not (np.signbit(array) & (array == 0)).any())


def _array(where: str, array: _Array) -> Array:
    dtype = np.dtype(_STORED if array.stored else _DTYPES[array.dtype])
    shape = array.shape if array.rows is None else (max(array.rows) + 1, *array.shape[1:])
    if prod(shape) * dtype.itemsize != len(array.data):
        raise ValueError(f"{where}: {len(array.data)} bytes are not {array.stored or array.dtype}{list(shape)}")
    if array.dtype == "b1" and np.frombuffer(array.data, "u1").max(initial=0) > 1:
        raise ValueError(f"{where}: bytes of b1 are 0 or 1")
    found = np.frombuffer(array.data, dtype).reshape(shape)
    if array.rows is not None:
        if not len(array.rows) == array.shape[0] <= _MOST_SHARED * shape[0]:
            raise ValueError(f"{where}: {len(array.rows)} rows of {shape[0]} stored, the shape says {array.shape[0]}; "
                             f"at most {_MOST_SHARED} of each")
        found = found[np.array(array.rows)]
    if array.stored:
        found = found.astype(_DTYPES[array.dtype])
    found.flags.writeable = False
    return found
