"""Tables: our figures beside published ones and beside what costs nothing, for a terminal and for a page."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from math import isnan
from typing import Literal

from pipeline.plant.evaluate.bootstrap import Interval

#: ours: measured in this run. anchor: published, or measured by others. baseline: what needs no model (always on,
#: always off, never normal). bar: what is to be reached. left out: trained on, not in any headline.
Kind = Literal["ours", "anchor", "baseline", "bar", "left out"]
Cell = str | float | int | Interval | None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: its name, a cell for each column after the first, and what kind of figure it has."""

    name: str
    cells: tuple[Cell, ...]
    kind: Kind = "ours"


@dataclass(slots=True)
class Table:
    """title; columns: the heads, the first is that of the names; digits: of floats. note: protocol, command, source.

    private: tells of single windows of data that are not ours to publish; such a table stays out of the repository.
    """

    title: str
    columns: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    note: str = ""
    digits: int = 2
    private: bool = False

    def add(self, name: str, *cells: Cell, kind: Kind = "ours") -> None:
        """Append a line. Raises ValueError when it has not a cell for each column after the first."""
        if len(cells) != len(self.columns) - 1:
            raise ValueError(f"{self.title}: {name} has {len(cells)} cells, the columns want {len(self.columns) - 1}")
        self.rows.append(Row(name, cells, kind))

    def extend(self, rows: Iterable[Row]) -> None:
        """Append lines."""
        for row in rows:
            self.add(row.name, *row.cells, kind=row.kind)

    def text(self, cell: Cell) -> str:
        """Return a cell as it is shown."""
        if cell is None or (isinstance(cell, float) and isnan(cell)):
            return "-"
        if isinstance(cell, Interval):
            return cell.text(self.digits)
        return f"{cell:.{self.digits}f}" if isinstance(cell, float) else str(cell)

    def lines(self) -> Iterator[str]:
        """Yield the table for a terminal: figures to the right, the kind of those that are not ours in front."""
        names = [row.name if row.kind == "ours" else f"({row.kind}) {row.name}" for row in self.rows]
        columns = [[self.columns[0], *names]]
        for j, head in enumerate(self.columns[1:]):
            columns.append([head, *(self.text(row.cells[j]) for row in self.rows)])
        widths = [max(map(len, column)) for column in columns]
        yield self.title
        for cells in zip(*columns, strict=True):
            first, *rest = (c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(
                zip(cells, widths, strict=True)))
            yield "  ".join(("  " + first, *rest)).rstrip()
        if self.note:
            yield f"  {self.note}"

    def html(self) -> str:
        """Return the table as HTML."""
        heads = "".join(f"<th scope=col>{escape(c)}</th>" for c in self.columns)
        body = []
        for row in self.rows:
            mark = "" if row.kind == "ours" else f" <small>{row.kind}</small>"
            cells = "".join(f"<td>{escape(self.text(c))}</td>" for c in row.cells)
            kind = row.kind.replace(" ", "-")
            body.append(f'<tr class="{kind}"><th scope=row>{escape(row.name)}{mark}</th>{cells}</tr>')
        note = f"<p class=note>{escape(self.note)}</p>" if self.note else ""
        return (f"<figure class=table><figcaption>{escape(self.title)}</figcaption><div class=scroll><table><thead><tr>"
                f"{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>{note}</figure>")

    def markdown(self) -> Iterator[str]:
        """Yield the table as Markdown, for a file in the repository."""
        yield f"**{self.title}**"
        yield ""
        yield "| " + " | ".join(self.columns) + " |"
        yield "|" + "---|" * len(self.columns)
        for row in self.rows:
            name = row.name if row.kind == "ours" else f"*{row.name}* ({row.kind})"
            yield "| " + " | ".join([name, *(self.text(c) for c in row.cells)]) + " |"
        if self.note:
            yield ""
            yield self.note
