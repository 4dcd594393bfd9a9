"""Golden vectors: what a model must answer, so that an engine can be judged on any machine."""

from collections.abc import Mapping
from dataclasses import dataclass

from engines.base import Array


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
