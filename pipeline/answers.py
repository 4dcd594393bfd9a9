"""Answers: what a model says of a row beside its score, in columns: what, how sure, how long, why, or why not. [PA]

Which output says what is in the passport ([outputs]); this is where outputs become what assessments and alerts carry.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.answerspec import OutputSpec
from engines.base import Arrays
from pipeline.columns import F64, I64, Array


@dataclass(slots=True)
class Answers:
    """Columns over rows (n,). Each is None where the model has no such output.

    unknown: number of a reason of `reasons` from 1, 0 when the answer counts. probabilities: (n, labels).
    life: (n, 4) mean, p10, p50, p90. line: (n, 4) expected Hz, found Hz, order, dB. shares: (n, C).
    """

    spec: OutputSpec
    unknown: I64
    reasons: tuple[str, ...] = ()
    probabilities: Array | None = None
    life: Array | None = None
    line: Array | None = None
    shares: Array | None = None

    def why_unknown(self, row: int) -> str:
        """Say why the answer of a row counts for nothing; empty if it counts."""
        return self.reasons[self.unknown[row] - 1] if self.unknown[row] else ""

    def doubt(self, rows: Array, reason: str) -> None:
        """Say of rows (n,) bool that nobody else doubts why they count for nothing."""
        self.reasons = (*self.reasons, reason)
        self.unknown = np.where(rows & (self.unknown == 0), len(self.reasons), self.unknown)

    def modes(self) -> tuple[list[str], F64]:
        """Return the likeliest failure mode of each row, and its probability."""
        mode, p = self.spec.mode, self.probabilities
        assert mode is not None and p is not None
        best = p.argmax(axis=1)
        return [mode.labels[k] for k in best.tolist()], p[np.arange(len(p)), best].astype(np.float64)


def read(spec: OutputSpec, outputs: Arrays, here: slice, doubt: Array | None = None,
         reasons: Sequence[str] = ()) -> Answers:
    """Read the rows `here` of a batch's outputs.

    doubt: (n,) numbers of `reasons`, which go before the model's own: what a row was made of is known better.
    """
    n = here.stop - here.start
    said, names = np.zeros(n, np.int64), tuple(reasons)
    if doubt is not None:
        said = doubt.astype(np.int64)
    if spec.unknown is not None:
        found = np.asarray(outputs[spec.unknown.name])[here].reshape(-1)
        codes = (~(found < 1.0)).astype(np.int64) if found.dtype.kind == "f" else found.astype(np.int64)
        # a number that the passport does not know is a doubt all the same
        codes = np.where((codes < 0) | (codes > len(spec.unknown.reasons)), len(spec.unknown.reasons), codes)
        said = np.where(said != 0, said, np.where(codes != 0, codes + len(names), 0))
        names = (*names, *spec.unknown.reasons)
    life = None
    if spec.life is not None:
        life = np.stack([np.asarray(outputs[n], np.float64)[here].reshape(-1) for n in spec.life.names], axis=1)
    return Answers(
        spec, said, names, None if spec.mode is None else outputs[spec.mode.probabilities][here], life,
        None if spec.line is None else outputs[spec.line.name][here],
        None if spec.contributions is None else outputs[spec.contributions][here])
