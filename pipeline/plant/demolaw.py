"""The conservation laws, read from a group's last checkpoints in the state topic."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from pipeline.checkpoint import UNASSIGNED, BlockRecord, Manifest, UnassignedRecord, decode_manifest
from pipeline.state import COUNTERS

_MANIFEST = "manifest"
_block = msgspec.msgpack.Decoder(BlockRecord)
_unassigned = msgspec.msgpack.Decoder(UnassignedRecord)


@dataclass(frozen=True, slots=True)
class Law:
    """Both laws at a checkpoint, where nothing is in flight.

    published: frames that we sent. counts: `pipeline.state.COUNTERS`, summed over all assets and over records without
    one. at_end: the checkpoint of every partition stands at the end of its log.
    """

    published: int
    counts: Mapping[str, int]
    at_end: bool

    @property
    def frames_accounted(self) -> int:
        """Return judged + dead-lettered + late + duplicate + shed."""
        return sum(self.counts[k] for k in ("judged", "dead_lettered", "late", "duplicate", "shed"))

    @property
    def rows_accounted(self) -> int:
        return self.counts["rows_scored"] + self.counts["rows_dead_lettered"]

    @property
    def holds(self) -> bool:
        c = self.counts
        frames = self.published == c["received"] == self.frames_accounted
        return self.at_end and frames and c["rows"] == self.rows_accounted

    def lines(self) -> list[str]:
        """Say both laws with their numbers."""
        c = self.counts
        return [
            f"frames   published {self.published:,} = received {c['received']:,}",
            f"         = judged {c['judged']:,} + dead-lettered {c['dead_lettered']:,} + late {c['late']:,} "
            f"+ duplicate {c['duplicate']:,} + shed {c['shed']:,}",
            f"rows     {c['rows']:,} = scored {c['rows_scored']:,} + dead-lettered {c['rows_dead_lettered']:,}",
        ]


def counts_of(records: Mapping[str, bytes]) -> tuple[dict[str, int], Manifest | None]:
    """Sum a partition's counters over its blocks. records: newest value by key, without the group's prefix."""
    total = np.zeros(len(COUNTERS), np.int64)
    for key, value in records.items():
        if key == UNASSIGNED:
            total += np.frombuffer(_unassigned.decode(value).counts, np.int64)
        elif key != _MANIFEST:
            block = _block.decode(value)
            total += np.frombuffer(block.columns["counts"], np.int64).reshape(-1, len(COUNTERS)).sum(axis=0)
            total += np.frombuffer(block.retired, np.int64)
    manifest = decode_manifest(records[_MANIFEST]) if _MANIFEST in records else None
    return dict(zip(COUNTERS, total.tolist(), strict=True)), manifest


def law_of(published: int, partitions: Iterable[tuple[Mapping[str, bytes], int]]) -> Law:
    """Put the laws together from (records, end offset of the telemetry log) of every partition."""
    totals, at_end = dict.fromkeys(COUNTERS, 0), True
    for records, end in partitions:
        counts, manifest = counts_of(records)
        at_end &= (manifest.offset if manifest else 0) == end
        for name, n in counts.items():
            totals[name] += n
    return Law(published, totals, at_end)
