"""The report of an evaluation: one HTML page that needs no network, and the same tables as text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from pipeline.errors import InputError
from pipeline.plant.evaluate.table import Table


@dataclass(slots=True)
class Section:
    """A part of the page. text: plain, a paragraph. tables are printed too; pictures: figures of `svg`."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[str] = ()


@dataclass(slots=True)
class Report:
    """title; summary: what was found, one line each. facts: name and text of bundle, seeds, hashes of the data.

    files: prediction files written. command: that makes this report again.
    """

    title: str
    command: str
    summary: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield what a terminal shows: facts, tables, summary."""
        yield self.title
        for name, text in self.facts:
            yield f"  {name}: {text}"
        for table in (t for section in self.sections for t in section.tables):
            yield ""
            yield from table.lines()
        yield ""
        yield from self.summary

    def html(self) -> str:
        """Return the page."""
        links = "".join(f'<a href="#s{k}">{escape(s.title)}</a>' for k, s in enumerate(self.sections))
        summary = "".join(f"<li>{escape(line)}</li>" for line in self.summary)
        facts = "".join(f"<tr><th scope=row>{escape(n)}</th><td>{escape(t)}</td></tr>" for n, t in self.facts)
        return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
                f'content="width=device-width,initial-scale=1"><title>{escape(self.title)}</title>'
                f"<style>{_STYLE}</style></head><body><main><h1>{escape(self.title)}</h1><p><code>"
                f"{escape(self.command)}</code></p><ul>{summary}</ul><nav>{links}</nav>"
                f"{''.join(_section(k, s) for k, s in enumerate(self.sections))}<section id=data>"
                f"<h2>Data and seeds</h2><div class=scroll><table class=facts><tbody>{facts}</tbody></table></div>"
                "</section></main></body></html>\n")

    def write(self, path: Path) -> None:
        """Write the page. Raises InputError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.html(), "utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _section(number: int, section: Section) -> str:
    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    tables = "".join(t.html() for t in section.tables)
    return (f'<section id="s{number}"><h2>{escape(section.title)}</h2>{text}{tables}<div class=pictures>'
            f"{''.join(section.pictures)}</div></section>")


# Okabe and Ito's colours, told apart by colour-blind readers; lighter ones on a dark ground.
_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--text:#1b1f24;--soft:#59636e;--edge:#d1d9e0;--fill:#f3f5f7;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;--c4:#8a6d00;--c5:#56b4e9;--truth:#f5d9a8;--unknown:#e4e7ea}
@media(prefers-color-scheme:dark){:root{--ground:#0d1117;--text:#e6edf3;--soft:#9198a1;--edge:#30363d;--fill:#161b22;
--c0:#58a6ff;--c1:#ff9b52;--c2:#3fd6a3;--c3:#f0a6cc;--c4:#e3c341;--c5:#9cd3ff;--truth:#4d3a14;--unknown:#21262d}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:24px 20px 64px}h1{font-size:1.6rem;margin:0 0 8px}
h2{font-size:1.15rem;margin:36px 0 8px;padding-bottom:4px;border-bottom:1px solid var(--edge)}
code{background:var(--fill);padding:2px 6px;border-radius:4px;overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:6px 16px}nav a{color:var(--c0)}
figure{margin:14px 0;min-width:0}figcaption{font-weight:600;margin-bottom:4px}.note{color:var(--soft);margin:6px 0}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(520px,100%),1fr));gap:8px 28px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:4px 12px;text-align:right;border-bottom:1px solid var(--edge);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:4px}th[scope=row]{font-weight:400;white-space:normal;min-width:7em}
thead th{color:var(--soft)}
.facts td{text-align:left;white-space:normal;overflow-wrap:anywhere}
tr.ours th,tr.ours td{font-weight:600}tr.anchor,tr.baseline,tr.left-out{color:var(--soft)}
tr.bar td,tr.bar th{font-style:italic}small{font-weight:400;color:var(--soft);margin-left:4px}
svg{display:block;width:100%;height:auto}svg text{fill:var(--text);font:11px system-ui,sans-serif}
.tick{fill:var(--soft)!important}svg text.count{font-size:13px;font-weight:600}
.grid{stroke:var(--edge);stroke-width:.6;fill:none}.axis{stroke:var(--soft);fill:none}
.line{fill:none;stroke-width:1.4}.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}
.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}.real{stroke:var(--text);stroke-dasharray:5 3}
.limit{stroke:var(--c1);stroke-dasharray:6 4;fill:none}.band{fill:var(--c0);fill-opacity:.2;stroke:none}
.truth{fill:var(--truth)}.unknown{fill:var(--unknown)}.alarm{fill:var(--c1)}.bar{fill:var(--c0)}
.whisker{stroke:var(--text);stroke-opacity:.45;fill:none}.dot{fill:var(--c0)}
.right{fill:var(--c2)}.wrong{fill:var(--c1)}.cell{fill:none;stroke:var(--edge)}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;color:var(--soft);font-size:13px}.legend span{display:flex;gap:6px}
.key{width:18px;height:10px;margin-top:6px;flex:none}
.key .band,.key .truth,.key .unknown,.key .alarm,.key .bar,.key .dot{stroke-width:9;fill:none}
.key .band{stroke:var(--c0);stroke-opacity:.3}.key .truth{stroke:var(--truth)}.key .unknown{stroke:var(--unknown)}
.key .alarm{stroke:var(--c1)}.key .bar,.key .dot{stroke:var(--c0)}
@media print{nav{display:none}section{break-inside:avoid}}
"""
