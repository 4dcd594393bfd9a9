"""The demo on a terminal: a live picture by rich, or plain lines where nobody looks at a terminal."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipeline.plant import demolivesview
from pipeline.plant.demoscene import AssetState, Scene, quantiles_ms
from schemas import Alert

#: Colour and mark, so that the picture also reads without colours.
_LOOK: dict[AssetState, tuple[str, str, str]] = {
    "calibrating": ("dim", "·", "calibrating"), "normal": ("green", "■", "normal"),
    "over": ("yellow", "▲", "over the limit"), "alert": ("bold red", "✖", "alert"),
    "unknown": ("cyan", "?", "unknown"),
}
_SEVERITY = {"low": "yellow", "medium": "dark_orange", "high": "red", "critical": "bold red"}
#: Lines of the picture without pumps, engines and alerts, and one that stays free; alerts shown, newest first: what the
#: terminal's height leaves.
_FRAME, _FEWEST, _MOST = 9, 2, 12
_NAMED = 3  # channels of a remaining life
_ABREAST = 6  # pumps side by side: 76 characters
#: How often a plain line says where things stand; alerts get their lines at once.
_LINE_EVERY_S = 5.0
_REFRESH_HZ = 4


class View(Protocol):
    """Shows a scene while the context lasts."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def update(self, phase: str, now: float) -> None:
        """Show what has changed. phase: what the demo is doing; now: seconds of the scene's clock."""


def view_for(console: Console, scene: Scene, title: str, begin: float, seconds: float) -> View:
    """Choose the live picture for a terminal, plain lines for anything else."""
    make: Callable[..., View] = LiveView if console.is_terminal else PlainView
    return make(console, scene, title, begin, seconds)


class LiveView:
    """A picture that is drawn over and over, and gone at the end: the verdict follows below."""

    def __init__(self, console: Console, scene: Scene, title: str, begin: float, seconds: float) -> None:
        self._scene, self._title, self._begin, self._seconds = scene, title, begin, seconds
        self._live = Live(console=console, refresh_per_second=_REFRESH_HZ, transient=True)
        self._drawn = float("-inf")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def update(self, phase: str, now: float) -> None:
        if now - self._drawn >= 1 / _REFRESH_HZ:
            self._drawn = now
            # Not to the last column: there the ^C that a terminal echoes wraps, and a line of the picture stays behind.
            width, height = self._live.console.width - 2, self._live.console.height
            progress = bar(phase, now - self._begin, self._seconds)
            self._live.update(picture(self._scene, self._title, progress, now, width, height))


class PlainView:
    """One line every few seconds, and one per alert."""

    def __init__(self, console: Console, scene: Scene, title: str, begin: float, seconds: float) -> None:
        self._console, self._scene, self._title, self._begin = console, scene, title, begin
        self._said = float("-inf")
        self._phase, self._alerts = "", 0

    def __enter__(self) -> Self:
        self._say(self._title)
        return self

    def __exit__(self, *error: object) -> None:
        return

    def update(self, phase: str, now: float) -> None:
        for alert in self._scene.alerts[self._alerts:]:
            self._say(f"{now - self._begin:5.1f} s  {alert_text(alert).plain}")
        self._alerts = len(self._scene.alerts)
        if phase != self._phase or now - self._said >= _LINE_EVERY_S:
            self._phase, self._said = phase, now
            line = f"{figures(self._scene, now).plain}   {states(self._scene).plain}"
            self._say(f"{now - self._begin:5.1f} s  {phase}: {line}")
            if self._scene.lives.answers:
                self._say(f"{'':7}  turbofans, cycles left: {demolivesview.line(self._scene.lives)}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def figures(scene: Scene, now: float) -> Text:
    """Return the line of figures: rate and latencies, 75 characters at most."""
    score, alert = (
        f"{found[0]:.0f}/{found[1]:.0f} ms" if (found := quantiles_ms(seconds)) else "-"
        for seconds in (scene.score_s, scene.alert_s)
    )
    return Text(f"{scene.frames_per_s(now):,.0f} frames/s   frame to score {score}  to alert {alert}  (p50/p99)")


def states(scene: Scene) -> Text:
    """Return the line of assets by state."""
    text = Text()
    for state, (style, mark, name) in _LOOK.items():
        if scene.count(state):
            text.append(f"{mark} {scene.count(state)} {name}   ", style)
    text.rstrip()
    return text


def alert_text(alert: Alert) -> Text:
    """Return an alert as one line: time, transition, severity, asset, and how long or why, whichever matters more."""
    clock = datetime.fromtimestamp(alert.t_last // 10**9, UTC)
    text = Text(f"{clock:%H:%M:%S} {alert.state:<7} ")
    text.append(f"{alert.severity:<8} ", "green" if alert.state == "cleared" else _SEVERITY[alert.severity])
    text.append(f"{alert.asset}  {_what(alert)}")
    return text


def _what(alert: Alert) -> str:
    """Return why there is an alert; of a remaining life how long it is, since its why names the channels first."""
    life = alert.life
    if life is None or alert.state == "cleared":
        return alert.why
    by = ", ".join(f"{c.channel} {c.share:.0%}" for c in alert.contributions[:_NAMED])
    return f"{life.mean:.0f} {life.unit} left ({life.p10:.0f} to {life.p90:.0f}), by {by}"


def bar(phase: str, elapsed_s: float, seconds: float) -> Text:
    """Draw how far the demo is, and what it is doing."""
    filled = round(40 * min(1.0, elapsed_s / seconds))
    clock = f"  {min(elapsed_s, seconds):.0f} of {seconds:.0f} s  "
    return Text.assemble(("━" * filled, "cyan"), ("━" * (40 - filled), "dim"), clock, (phase, "cyan"))


def picture(
    scene: Scene, title: str, progress: RenderableType, now: float, width: int, height: int = 24
) -> RenderableType:
    """Draw the whole scene at `now` by its clock, `width` characters wide, for a terminal of `height` lines."""
    grid = Table.grid(padding=(0, 2))
    cells = []
    for asset in scene.assets:
        style, mark, _ = _LOOK[scene.states[asset]]
        cells.append(Text(f"{mark} {asset.rpartition('/')[2]}", style))
    for k in range(0, len(cells), _ABREAST):
        grid.add_row(*cells[k:k + _ABREAST])
    pumps, inner, gap = -(-len(cells) // _ABREAST), width - 4, Text("")
    head = Text.assemble((f"{len(cells)} pumps   ", "bold"), states(scene))
    parts = [progress, figures(scene, now), gap, head, grid, gap]
    if scene.lives.flights:
        parts += [demolivesview.head(scene.lives), demolivesview.cells(scene.lives, inner), gap]
    taken = _FRAME + pumps + (demolivesview.rows(scene.lives) + 2 if scene.lives.flights else 0)
    room = max(_FEWEST, min(_MOST, height - taken))
    newest = [alert_text(a) for a in scene.newest(room)] or [Text("none yet", "dim")]
    for line in newest:
        line.no_wrap, line.overflow = True, "ellipsis"
    body = Group(*parts, Text("newest alerts", "bold"), *newest, *[gap] * (room - len(newest)))
    return Panel(body, title=title, title_align="left", border_style="cyan", width=width)
