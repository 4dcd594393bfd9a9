"""The turbofans on a terminal: an engine a cell, a bar of the interval where there is room."""

from rich.table import Table
from rich.text import Text

from pipeline.plant.demolives import EngineState, Lives

#: Colour and mark, as those of the pumps. An engine over the limit has few cycles left.
_LOOK: dict[EngineState, tuple[str, str]] = {
    "waiting": ("dim", "·"), "normal": ("green", "■"), "over": ("yellow", "▲"), "alert": ("bold red", "✖"),
    "unknown": ("cyan", "?"),
}
_ACROSS = 2  # engines side by side: in 80 columns a reason still fits
_TEXT = 34  # the longest cell that is not cut: "? unit-100  198  not enough history"
_LEAST_BAR, _MOST_BAR = 12, 42  # of characters; less says nothing, more is wider than an eye takes in


def head(lives: Lives) -> Text:
    """Return the line above the cells."""
    text = Text(f"{len(lives.flights)} turbofans", "bold")
    return text.append("   NASA C-MAPSS: cycles flown, cycles left (80 % interval)", "not bold dim")


def rows(lives: Lives) -> int:
    """Return how many lines the cells take."""
    return -(-len(lives.flights) // _ACROSS)


def cells(lives: Lives, width: int) -> Table:
    """Draw the engines in columns, top to bottom, `width` characters wide."""
    each = (width - 2 * (_ACROSS - 1)) // _ACROSS
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(_ACROSS):
        grid.add_column(width=each, no_wrap=True, overflow="ellipsis")
    names, down = list(lives.flights), rows(lives)
    for k in range(down):
        grid.add_row(*(cell(lives, name, each) for name in names[k::down]))
    return grid


def cell(lives: Lives, asset: str, width: int) -> Text:
    """Draw one engine: mark, name, cycles flown, what is left; and a bar from 0 to the cap."""
    style, mark = _LOOK[lives.state(asset)]
    answer = lives.answers.get(asset)
    text = Text(f"{mark} {asset.rpartition('/')[2]:<8} ", style)
    if answer is None:
        return text.append("not heard of yet" if not lives.sent.get(asset) else "no answer yet")
    text.append(f"{answer.flight:>4}  {said(lives, asset)}", "default" if answer.state == "normal" else "")
    room = min(width - _TEXT - 2, _MOST_BAR)
    if room >= _LEAST_BAR and not answer.unknown:
        text.pad_right(_TEXT + 2 - text.cell_len)
        text.append_text(bar(answer.life, lives.cap, room, style))
    return text


def said(lives: Lives, asset: str) -> str:
    """Return what is said of an engine's life: `57 (41 to 74)`, `at least 125`, or why nothing is."""
    answer = lives.answers.get(asset)
    if answer is None:
        return "no answer"
    mean, low, _, high = answer.life
    if answer.unknown:
        return answer.unknown
    if mean >= lives.cap:
        return f"at least {lives.cap:.0f}"
    return f"{mean:.0f} ({low:.0f} to {high:.0f}{'+' if high >= lives.cap else ''})"


def bar(life: tuple[float, float, float, float], cap: float, width: int, style: str) -> Text:
    """Draw the interval and, within it, the mean, on a line from 0 to `cap`."""
    mean, low, high = (min(width - 1, int(v / cap * width)) for v in (life[0], life[1], life[3]))
    text = Text("─" * low, "dim")
    text.append("━" * (mean - low), style).append("●", style).append("━" * (high - mean), style)
    return text.append("─" * (width - 1 - high), "dim")


def line(lives: Lives) -> str:
    """Return all engines in one line, for where there is no picture."""
    known = [name for name in lives.flights if name in lives.answers]
    return ", ".join(f"{name.rpartition('/')[2]} {said(lives, name)}" for name in known)
