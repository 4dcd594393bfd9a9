"""Report: figures against their bars, as a Markdown table; ratios as medians over interleaved rounds."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Run = dict[str, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and what it must reach. must, moonshot: in the figure's unit. lower: less is better."""

    name: str
    value: float
    unit: str
    must: float
    moonshot: float
    lower: bool = False
    spread: str = ""

    def reaches(self, limit: float) -> bool:
        return self.value <= limit if self.lower else self.value >= limit

    @property
    def verdict(self) -> str:
        return "moonshot" if self.reaches(self.moonshot) else "met" if self.reaches(self.must) else "MISSED"

    def row(self) -> str:
        sign = "<=" if self.lower else ">="
        spread = f" ({self.spread})" if self.spread else ""
        return (f"| {self.name} | {shown(self.value)} {self.unit}{spread} | {sign} {shown(self.must)} "
                f"| {sign} {shown(self.moonshot)} | {self.verdict} |")


def shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


def judge(bars: Iterable[Bar]) -> int:
    """Print the table of bars; return 1 if one that must be met is missed."""
    bars = list(bars)
    print("\n| bar | measured | must | moonshot | |\n|---|---|---|---|---|")
    for bar in bars:
        print(bar.row(), flush=True)
    return int(any(bar.verdict == "MISSED" for bar in bars))


def parse(text: str) -> tuple[str, Run] | None:
    """Return name and figures of the last RESULT line, or None."""
    lines = re.findall(r"RESULT (\S+) (.*)$", text, re.M)  # Faust puts its log's prefix before what is printed
    if not lines:
        return None
    name, rest = lines[-1]
    return name, {k: float(v) for k, v in re.findall(r"(\w+)=([\d.]+)(?=\s|$)", rest)}


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def span(values: Sequence[float]) -> str:
    return f"{shown(min(values))} to {shown(max(values))}"


def ratios(ours: Sequence[Run], theirs: Sequence[Run], key: str = "second_half_per_s") -> list[float]:
    """Divide round by round."""
    return [a[key] / b[key] for a, b in zip(ours, theirs, strict=False)]
