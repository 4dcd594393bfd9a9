"""What a passport says of a model's outputs: which of them is the score, and which answer an operator's questions."""

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from engines.fields import Positive, Text

Labels = Annotated[tuple[Text, ...], Meta(min_length=2, max_length=64)]


class ModeSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What: the failure mode. probabilities: output (n, labels), rows sum to 1. normal: the label of no failure."""

    labels: Labels
    normal: Text
    probabilities: Text = "probabilities"


class LifeSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """How long: outputs (n,) of the remaining life in `unit`, its mean and the quantiles 10, 50 and 90 %.

    cap: an answer from here on means "at least".
    """

    unit: Text
    mean: Text = "rul"
    p10: Text = "p10"
    p50: Text = "p50"
    p90: Text = "p90"
    cap: Positive | None = None

    @property
    def names(self) -> tuple[str, str, str, str]:
        return self.mean, self.p10, self.p50, self.p90


class UnknownSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the model answers at all. name: output (n,), 0 when it does, else the number of a reason, from 1.

    For an output of floats 1 and above mean reason 1.
    """

    name: Text
    reasons: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=64)]


class LineSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Why, for what turns: output (n, 4), expected Hz, found Hz, order found, dB above chance; zeros: no line."""

    name: Text = "line"


class Described(Struct, frozen=True, forbid_unknown_fields=True):
    """What a number is: UCUM unit, "1" for none, and what it means."""

    unit: Text
    meaning: Text


class OutputSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the graph's outputs: the score of a row, its shares per channel, answers; none where it has none.

    features: output (n, F) that a `[baseline]` makes the score and the shares of; `score` is then what golden vectors
    compare engines by, and nothing else. others: what else the graph gives, by name; nothing here reads it.
    """

    score: Text = "score"
    contributions: Text | None = None
    mode: ModeSpec | None = None
    life: LifeSpec | None = None
    unknown: UnknownSpec | None = None
    line: LineSpec | None = None
    features: Text | None = None
    others: dict[Text, Described] = {}

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield key and name of every output that is named."""
        yield "score", self.score
        if self.contributions:
            yield "contributions", self.contributions
        if self.mode:
            yield "mode.probabilities", self.mode.probabilities
        if self.life:
            yield from zip(("life.mean", "life.p10", "life.p50", "life.p90"), self.life.names, strict=True)
        if self.unknown:
            yield "unknown.name", self.unknown.name
        if self.line:
            yield "line.name", self.line.name
        if self.features:
            yield "features", self.features
        for name in self.others:
            yield f"others.{name}", name

    def described(self) -> dict[str, Described]:
        """Return what each output that is named here is."""
        score = "compares engines; what is judged is made of the features" if self.features else "what is judged"
        found = {self.score: Described("1", score)}
        if self.contributions:
            found[self.contributions] = Described("1", "share of each channel in the score")
        if self.mode:
            found[self.mode.probabilities] = Described("1", f"probability of {', '.join(self.mode.labels)}")
        if self.life:
            for name, what in zip(self.life.names, ("mean", "10 % quantile", "median", "90 % quantile"), strict=True):
                found[name] = Described(self.life.unit, f"remaining life, {what}")
        if self.unknown:
            reasons = "; ".join(self.unknown.reasons)
            found[self.unknown.name] = Described("1", f"0: answered; from 1 on why not: {reasons}")
        if self.line:
            found[self.line.name] = Described("Hz, Hz, 1, dB", "line expected and found, its order, its height")
        if self.features:
            found[self.features] = Described("any", "features that the asset's own baseline is learnt of")
        return {**found, **self.others}

    def faults(self) -> list[str]:
        """Say what of it does not agree."""
        named = {name for key, name in self.names() if not key.startswith("others.")}
        found = [f"outputs.others.{name}: it has its meaning by another key of [outputs]"
                 for name in self.others if name in named]
        if self.mode is not None and self.mode.normal not in self.mode.labels:
            found.append(f"outputs.mode.normal = {self.mode.normal!r} is none of its labels "
                         f"{', '.join(self.mode.labels)}")
        return found
