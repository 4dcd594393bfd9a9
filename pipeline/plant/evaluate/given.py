"""What an evaluation was given: hashes of its files, and which of them the bundle was trained on."""

import gzip
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pipeline.errors import InputError

#: Digits of a hash that are shown: two files of one evaluation never share them by chance.
SHOWN = 12

T = TypeVar("T")


def readable(root: Path, paths: Iterable[Path], read: Callable[[Path], T]) -> tuple[dict[Path, T], dict[str, str]]:
    """Read files; also return the others by their names below `root`, with a line that says why they are left out.

    Raises InputError if none can be read.
    """
    found, left = dict[Path, T](), dict[str, str]()
    for path in paths:
        try:
            found[path] = read(path)
        except InputError as error:
            left[path.relative_to(root).as_posix()] = f"left out: {error}"
    if not found:
        raise InputError(f"{root}: none of its files can be read; {next(iter(left.values()), '')}")
    return found, left


def content(path: Path) -> bytes:
    """Return the bytes of a file, unpacked where its name ends with .gz. Raises InputError."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's unpacked bytes: x.csv and x.csv.gz of it are the same data."""
    return hashlib.sha256(content(path)).hexdigest()


@dataclass(slots=True)
class Given:
    """Files by the names that the report has for them, with their SHA-256; trained_on: `Card.trained_on`."""

    trained_on: Mapping[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def read(self, root: Path, paths: Iterable[Path]) -> None:
        """Note the hashes of files below `root`."""
        for path in paths:
            self.files[path.relative_to(root).as_posix()] = sha256(path)

    def seen(self, digest: str) -> bool:
        """Say whether the bundle was trained on what has this SHA-256: its card holds it, whole or by its head."""
        return any(digest.startswith(known) for text in self.trained_on.values() for known in text.split())

    def left_out(self) -> tuple[str, ...]:
        """Return the names of the files that the bundle was trained on: they are no part of a headline."""
        return tuple(name for name, digest in self.files.items() if self.seen(digest))

    def lines(self) -> list[tuple[str, str]]:
        """Return name and text of each file, for `Report.facts`."""
        return [(name, digest[:SHOWN] + (", trained on: left out of the headline" if self.seen(digest) else ""))
                for name, digest in self.files.items()]
