"""Prediction files: comma-separated, a header, floats in their shortest form that reads back the same bits."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.errors import InputError


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table; a NaN is an empty cell. Raises InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as f:
            table = csv.writer(f, lineterminator="\n")
            table.writerow(header)
            table.writerows([_cell(v) for v in row] for row in rows)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if value != value else repr(value)
    return value
