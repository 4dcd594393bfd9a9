"""Find stretches of public recordings in files: what may be used to measure with, and may not be passed on.

SKAB is GPL-3.0; CWRU, FEMTO and NAB state no licence, or another one once. So no recording, window, row or row-wise
statistic of them may be in a tracked file or in the wheel. Numbers are compared, not files: every value is taken to 5
significant digits, and runs of 4 or 8 of them (*grams*) are hashed, so that the same numbers are found as text, as
float32, float64 or int16, in milli or kilo, at any place of any file. Not found: what was standardised, or scaled by
other than a power of ten, before it was written.
"""

import csv
import gzip
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SETS = ("skab", "cwru", "femto", "nab")
LONG, SHORT = 8, 4  # values of a gram: of series of samples; of rows and statistics, whose values have more digits
#: Values beyond these are no measurement but bytes that were read as numbers.
_LEAST, _MOST = 1e-9, 1e9
_NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e[-+]?\d+)?(?![\w.])", re.I)
#: Samples of the windows whose statistics are looked for.
_WINDOWS = (1024, 2048, 4096, 12_000)

Array = np.ndarray


def keys(x: Array) -> Array:
    """Return an int64 for each value: its 5 leading digits, exponent and sign; 0 for none; -1 where it is no number."""
    with np.errstate(invalid="ignore"):  # bytes that are no numbers
        x = np.asarray(x, np.float64)
    size = np.abs(x)
    good = np.isfinite(x) & (size < _MOST)
    zero = good & (size < _LEAST)
    good &= ~zero
    size = np.where(good, size, 1.0)
    exponent = np.floor(np.log10(size))
    digits = np.rint(size / 10.0 ** (exponent - 4))
    key = ((exponent + 32) * 2**20 + digits * 2 + (x < 0)).astype(np.int64)
    return np.where(good, key, np.where(zero, 0, -1))


def grams(x: Array, length: int, stride: int = 1) -> Array:
    """Return the sorted hashes of the runs of `length` values of x that begin at every `stride`th one.

    Runs with fewer than 5/8 different values, or that differ in their last two digits only, are left out: a constant, a
    few steps, or numbers near 1 are nobody's.
    """
    return _grams(keys(x), length, stride)


def _grams(key: Array, length: int, stride: int = 1) -> Array:
    if len(key) < length:
        return np.empty(0, np.uint64)
    usable = np.lib.stride_tricks.sliding_window_view(key >= 0, length)[::stride].all(axis=1)
    runs = np.lib.stride_tricks.sliding_window_view(key, length)[::stride][usable]
    ranked = np.sort(runs, axis=1)
    apart = ranked[:, -1] - ranked[:, 0] > 2 * 100
    chosen = apart & ((ranked[:, 1:] != ranked[:, :-1]).sum(axis=1) + 1 >= length * 5 / 8)
    # the largest value's power of ten is taken out: mg and g are the same
    runs = np.where(runs > 0, runs - (ranked[:, -1:] >> 20 << 20) + 2**26, 0)[chosen]
    out = np.full(len(runs), 0x9E3779B97F4A7C15, np.uint64)
    for column in runs.astype(np.uint64).T:
        out = (out ^ column) * np.uint64(0xBF58476D1CE4E5B9)
        out ^= out >> np.uint64(29)
    return np.unique(out)


def sequences(content: bytes) -> Iterator[Array]:
    """Yield the numbers of a file: its bytes as floats and integers of each kind.

    Of a text: those with a point, in their order, and by columns where lines have equally many.
    """
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text:
        lines = [[float(n) for n in _NUMBER.findall(line)] for line in text.splitlines()]
        yield np.array([n for line in lines for n in line])
        for width, group in itertools.groupby(lines, len):
            if width > 1:
                yield from np.array(list(group)).T
        return
    for dtype in ("<f8", "<f4", "<i2"):
        size = np.dtype(dtype).itemsize
        for start in range(size):
            yield np.frombuffer(content[start:], dtype, (len(content) - start) // size)


def statistics(x: Array) -> Iterator[Array]:
    """Yield the usual statistics of each row of x (windows, samples), as series over the windows."""
    centred = x - x.mean(axis=1, keepdims=True)
    deviation, rms, peak = x.std(axis=1), np.sqrt((x**2).mean(axis=1)), np.abs(x).max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        yield from (x.mean(axis=1), deviation, rms, peak, np.abs(x).mean(axis=1), peak / rms,
                    (centred**4).mean(axis=1) / deviation**4)


def grams_of_series(x: Array, *, dense: bool = False) -> Array:
    """Return the grams of a series of samples; dense: from each of its values on."""
    return grams(x, LONG, 1 if dense else LONG)


def grams_of_table(x: Array, windows: tuple[int, ...]) -> Array:
    """Return the grams of a table (rows, columns): row by row, column by column, and of windows' statistics."""
    found = [grams(row, SHORT) for row in (x.ravel(), *(x[:, k] for k in range(x.shape[1])))]
    for size in windows:
        for k in range(x.shape[1]):
            whole = x[: len(x) // size * size, k].reshape(-1, size)
            found += [grams(s, SHORT) for s in statistics(whole)] if len(whole) else []
    first = x[:400]  # SKAB's calibration part: what a fixture of a baseline would hold
    found += [grams(s, SHORT) for s in (first.mean(axis=0), first.std(axis=0))]
    return np.unique(np.concatenate(found))


def grams_of(name: str, data: Path) -> Iterator[tuple[str, Array]]:
    """Yield each recording of a set, and its grams."""
    if name in ("skab", "nab"):
        for path in sorted((data / name).glob("**/*.csv.gz")):
            rows = list(csv.reader(io.StringIO(gzip.decompress(path.read_bytes()).decode()), delimiter=";" if
                                   name == "skab" else ","))[1:]
            table = np.array([row[1:9] for row in rows], float)
            label = f"{name}/{path.relative_to(data / name)}"
            yield label, grams_of_table(table, (60, 100) if name == "skab" else (12, 288))
            for some in ([0, 1, 7], [1, 2, 7], [0, 1, 2, 7]) if name == "skab" else ():  # sensors that charts take
                yield label, grams(table[:, some].ravel(), SHORT)
        return
    for path in sorted((data / name).glob("*.npz")):
        yield f"{name}/{path.name}", np.unique(np.concatenate(list(_recording(path))))


def _recording(path: Path) -> Iterator[Array]:
    """Yield the grams of the arrays of samples in a recording: counts, physical values, and statistics of windows."""
    with np.load(path, allow_pickle=False) as file:
        step = float(file["step"]) if "step" in file else 1.0
        arrays = [file[n] for n in file.files if file[n].size > max(_WINDOWS)]
    for counts in arrays:
        flat = counts.ravel()
        yield grams_of_series(flat)
        values = flat * step
        yield grams_of_series(values)
        windows = [counts.reshape(-1, counts.shape[-1]) * step]  # snapshots, where it has them
        if counts.ndim == 1:
            windows = [values[: len(values) // n * n].reshape(-1, n) for n in _WINDOWS]
        for x in windows:
            for series in statistics(x):
                yield grams(series, SHORT)


def grams_in(content: bytes) -> Array:
    """Return all grams of a file's numbers."""
    return np.unique(np.concatenate([_grams(k, n) for k in map(keys, sequences(content)) for n in (SHORT, LONG)]))
