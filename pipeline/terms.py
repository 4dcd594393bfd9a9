"""Terms: under whose name a checkpoint's records are written. Pure.

Every restore begins a term, and all records of a term have one writer. A worker that was only paused goes on writing
under its own, lower term, where it cannot overwrite what its successor has written: of the compacted topic's newest
values those of the highest term that has a manifest are, as a whole, a checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MANIFEST = "manifest"


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored of a partition. records: of the newest term that has a manifest, keys without it (empty if none).

    keys: of all terms, as stored.
    """

    records: dict[str, bytes]
    keys: tuple[str, ...]

    def next_term(self, writer: str) -> str:
        """Name a term that is higher than all. writer: no other worker's, for two may restore at once."""
        numbers = [term_of(key).partition(".")[0] for key in self.keys]
        return f"{max((int(n) for n in numbers if n.isdecimal()), default=0) + 1:010d}.{writer}"


def term_of(key: str) -> str:
    return key.partition("|")[0]


def renewed(term: str) -> str:
    """Name a term of the same writer that is higher than `term`, and lower than any that begins with a restore.

    A partition's owner may begin anew in the middle of its ownership; if it was only paused, and has a successor by
    then, what it writes must still count for nothing.
    """
    number, writer, part = (*term.split("."), "0000", "0000")[:3] if term else ("0" * 10, "", "0000")
    return f"{number}.{writer}.{int(part) + 1:04d}"


def sort_out(stored: Mapping[str, bytes]) -> Stored:
    """Pick the checkpoint out of the newest values of all keys (`term|key`)."""
    terms = [term_of(key) for key in stored if key.partition("|")[2] == MANIFEST]
    newest = max(terms, default="")
    records = {key.partition("|")[2]: value for key, value in stored.items() if terms and term_of(key) == newest}
    return Stored(records, tuple(stored))
