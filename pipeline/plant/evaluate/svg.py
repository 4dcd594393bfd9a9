"""Pictures as inline SVG, pure functions of numbers: the same input, the same text. Colours come from the page's CSS.

Each returns a whole <figure> with a caption and a legend. NaN is a gap. A line of more points than the picture has
pixels is drawn by the least and greatest of each pixel, so no spike is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Numbers = Sequence[float] | F64

WIDTH, HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 10, 38
#: Least and greatest per so many pixels.
_PIXELS = 1.0
_TICKS = 6


@dataclass(frozen=True, slots=True)
class Curve:
    """A line: name for the legend, heights (n,) over the picture's x."""

    name: str
    y: Numbers


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of x that is shaded from edge to edge: where something was true."""

    start: float
    stop: float


@dataclass(slots=True)
class _Frame:
    """From data to pixels, and the axes."""

    x0: float
    x1: float
    y0: float
    y1: float
    width: int = WIDTH
    height: int = HEIGHT

    def x(self, value: Numbers | float) -> F64:
        share = (np.asarray(value, float) - self.x0) / (self.x1 - self.x0)
        return np.asarray(_LEFT + share * (self.width - _LEFT - _RIGHT))

    def y(self, value: Numbers | float) -> F64:
        share = (np.clip(np.asarray(value, float), self.y0, self.y1) - self.y0) / (self.y1 - self.y0)
        return np.asarray(self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM))

    def axes(self, x_label: str, y_label: str) -> str:
        right, bottom = self.width - _RIGHT, self.height - _BOTTOM
        parts = []
        for value in ticks(self.y0, self.y1):
            at = self.y(value)
            parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{right}"/>'
                         f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
        for value in ticks(self.x0, self.x1):
            at = self.x(value)
            parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">{value:g}</text>')
        parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
        middle = (_TOP + bottom) / 2
        parts.append(f'<text class="label" x="{(_LEFT + right) / 2:.0f}" y="{self.height - 6}" text-anchor="middle">'
                     f'{escape(x_label)}</text><text class="label" text-anchor="middle" transform="translate(12 '
                     f'{middle:.0f}) rotate(-90)">{escape(y_label)}</text>')
        return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers between `low` and `high`, some six."""
    raw = (high - low) / _TICKS
    size = 10.0 ** np.floor(np.log10(raw))
    step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= raw * 0.999)
    first = np.ceil(low / step - 1e-9)
    return [float(round((first + k) * step, 12)) for k in range(int(np.floor(high / step + 1e-9) - first) + 1)]


def series(
    title: str, x: Numbers, curves: Sequence[Curve], *, limits: Sequence[tuple[str, float]] = (),
    truth: Sequence[Stretch] = (), alarms: Sequence[Stretch] = (), x_label: str = "", y_label: str = "",
    y_range: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """Draw lines over time with horizontal limits; truth: shaded stretches, alarms: bars along the lower edge."""
    heights = np.concatenate([np.asarray(c.y, float) for c in curves] + [np.array([v for _, v in limits])])
    frame = _frame(np.asarray(x, float), heights, y_range)
    body = [_stretches(frame, truth, "truth"), frame.axes(x_label, y_label)]
    for name, value in limits:
        body.append(f'<path class="limit" d="M{_LEFT} {frame.y(value):.1f}H{WIDTH - _RIGHT}"><title>{escape(name)}'
                    "</title></path>")
    for k, curve in enumerate(curves):
        body.append(f'<path class="line c{k % 6}" d="{_path(frame, np.asarray(x, float), curve)}"/>')
    bottom = frame.height - _BOTTOM
    for a in alarms:
        left, right = _ends(frame, a)
        body.append(f'<rect class="alarm" x="{left:.1f}" y="{bottom - 5}" width="{right - left:.1f}" height="5"/>')
    keys = [(f"line c{k % 6}", c.name) for k, c in enumerate(curves)]
    keys += [("limit", name) for name, _ in limits]
    keys += [("truth", "true anomaly")] * bool(truth) + [("alarm", "alarm")] * bool(alarms)
    return _figure(title, "".join(body), keys, HEIGHT)


def fan(
    title: str, x: Numbers, middle: Numbers, low: Numbers, high: Numbers, *, truth: Numbers | None = None,
    unknown: Sequence[Stretch] = (), x_label: str = "cycle", y_label: str = "remaining life",
    y_range: tuple[float, float] | None = None, share: str = "80 % interval",
) -> str:  # fmt: skip
    """Draw a forecast over time with its interval and what came true; unknown: stretches without an answer."""
    given = [np.asarray(v, float) for v in (middle, low, high)]
    at = np.asarray(x, float)
    told = np.concatenate(given + ([np.asarray(truth, float)] if truth is not None else []))
    frame = _frame(at, told, y_range)
    whole = np.isfinite(given[1]) & np.isfinite(given[2])
    body = [_stretches(frame, unknown, "unknown"), frame.axes(x_label, y_label)]
    for start, stop in runs(whole):
        part = slice(start, stop)
        there = zip(frame.x(at[part]), frame.y(given[2][part]), strict=True)
        back = zip(frame.x(at[part])[::-1], frame.y(given[1][part])[::-1], strict=True)
        outline = "L".join(f"{a:.1f} {b:.1f}" for a, b in (*there, *back))
        body.append(f'<path class="band" d="M{outline}Z"/>')
    body.append(f'<path class="line c0" d="{_path(frame, at, Curve("", middle))}"/>')
    if truth is not None:
        body.append(f'<path class="line real" d="{_path(frame, at, Curve("", truth))}"/>')
    keys = [("line c0", "forecast"), ("band", share)]
    keys += [("line real", "truth")] * (truth is not None) + [("unknown", "unknown")] * bool(unknown)
    return _figure(title, "".join(body), keys, HEIGHT)


def scatter(title: str, x: Numbers, y: Numbers, low: Numbers, high: Numbers) -> str:
    """Draw points with their intervals and the diagonal on which a point is right."""
    at, told = np.asarray(x, float), np.asarray(y, float)
    top = float(np.nanmax(np.concatenate([at, told, np.asarray(high, float), [1e-9]])))
    frame = _Frame(0.0, top, 0.0, top * 1.02, 420, 420)
    body = [frame.axes("truth", "forecast"),
            f'<path class="limit" d="M{frame.x(0):.1f} {frame.y(0):.1f}L{frame.x(top):.1f} {frame.y(top):.1f}"/>']
    body += [f'<path class="whisker" d="M{a:.1f} {b:.1f}V{c:.1f}"/>'
             for a, b, c in zip(frame.x(at), frame.y(low), frame.y(high), strict=True)]
    body += [f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="2.2"/>'
             for a, b in zip(frame.x(at), frame.y(told), strict=True) if np.isfinite(a + b)]
    keys = [("dot", "one unit"), ("limit", "right"), ("whisker", "80 % interval")]
    return _figure(title, "".join(body), keys, 420, 420)


def confusion(title: str, labels: Sequence[str], counts: NDArray[np.int64]) -> str:
    """Draw a confusion matrix: counts (true, said) with the share of the row, the shade is that share."""
    n, size, left, top = len(labels), 76, 118, 40
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    body = [f'<text class="label" x="{left + n * size / 2:.0f}" y="14" text-anchor="middle">said</text>',
            f'<text class="label" text-anchor="middle" transform="translate(12 {top + n * size / 2:.0f}) rotate(-90)">'
            "true</text>"]
    for i, name in enumerate(labels):
        body.append(f'<text class="tick" x="{left + (i + 0.5) * size:.0f}" y="32" text-anchor="middle">{escape(name)}'
                    f'</text><text class="tick" x="{left - 8}" y="{top + (i + 0.5) * size + 4:.0f}" text-anchor="end">'
                    f"{escape(name)}</text>")
        for j in range(n):
            x, y = left + j * size, top + i * size
            kind = "right" if i == j else "wrong"
            body.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{size - 2}" height="{size - 2}" '
                        f'style="fill-opacity:{share[i, j]:.2f}"/><rect class="cell" x="{x}" y="{y}" '
                        f'width="{size - 2}" height="{size - 2}"/>'
                        f'<text class="count" x="{x + size / 2 - 1:.0f}" y="{y + size / 2 - 2:.0f}" '
                        f'text-anchor="middle">{100 * share[i, j]:.0f} %</text><text class="tick" '
                        f'x="{x + size / 2 - 1:.0f}" y="{y + size / 2 + 16:.0f}" text-anchor="middle">'
                        f"{int(counts[i, j])}</text>")
    return _figure(title, "".join(body), [], top + n * size + 6, left + n * size + 6)


def bars(title: str, names: Sequence[str], values: Numbers, low: Numbers, high: Numbers) -> str:
    """Draw one horizontal bar a name, with its interval."""
    told = np.asarray(values, float)
    left, gap, width = 12 + 7 * max((len(n) for n in names), default=0), 22, WIDTH
    top = float(np.nanmax(np.concatenate([told, np.asarray(high, float), [0.0]]))) or 1.0
    span = width - left - 70

    def at(value: float) -> float:
        return left + max(value, 0.0) / top * span

    body, height = [], 8 + gap * len(names) + 26
    for k, name in enumerate(names):
        y = 8 + k * gap
        body.append(f'<text class="tick" x="{left - 6}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        if np.isfinite(told[k]):
            body.append(f'<rect class="bar" x="{left}" y="{y + 2}" width="{at(told[k]) - left:.1f}" '
                        f'height="{gap - 8}"/>'
                        f'<text class="tick" x="{width - 64}" y="{y + 12}">{told[k]:.4g}</text>')
        if np.isfinite(low[k]) and np.isfinite(high[k]):
            body.append(f'<path class="whisker" d="M{at(low[k]):.1f} {y + gap / 2 - 2:.1f}H{at(high[k]):.1f}"/>')
    foot = 8 + gap * len(names)
    for value in ticks(0.0, top):
        body.append(f'<text class="tick" x="{at(value):.1f}" y="{foot + 14}" text-anchor="middle">{value:g}</text>')
    return _figure(title, "".join(body), [("bar", "value"), ("whisker", "95 % interval")], height)


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return start and stop of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def stretches(x: Numbers, mask: NDArray[np.bool_]) -> list[Stretch]:
    """Return the stretches of x over which `mask` holds, each up to the next point."""
    at = np.asarray(x, float)
    return [Stretch(float(at[a]), float(at[min(b, len(at) - 1)])) for a, b in runs(mask)]


def _frame(x: F64, y: F64, y_range: tuple[float, float] | None) -> _Frame:
    finite = y[np.isfinite(y)]
    low, high = y_range or ((float(min(finite.min(), 0.0)), float(finite.max())) if len(finite) else (0.0, 1.0))
    x0, x1 = (float(x.min()), float(x.max())) if len(x) else (0.0, 1.0)
    return _Frame(x0, x1 if x1 > x0 else x0 + 1.0, low, high if high > low else low + 1.0)


def _path(frame: _Frame, x: F64, curve: Curve) -> str:
    y, parts = np.asarray(curve.y, float), []
    for start, stop in runs(np.isfinite(y)):
        px, py = _thin(frame.x(x[start:stop]), frame.y(y[start:stop]))
        parts.append("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(px, py, strict=True)))
    return "".join(parts)


def _thin(px: F64, py: F64) -> tuple[F64, F64]:
    """Keep the least and the greatest of each pixel, in their order."""
    if len(px) <= 2 * WIDTH:
        return px, py
    column = np.floor((px - px[0]) / _PIXELS).astype(np.int64)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    kept = []
    for a, b in zip(starts, [*starts[1:], len(px)], strict=True):
        kept += sorted({a + int(np.argmin(py[a:b])), a + int(np.argmax(py[a:b]))})
    return px[kept], py[kept]


def _ends(frame: _Frame, stretch: Stretch) -> tuple[float, float]:
    left = float(np.clip(frame.x(stretch.start), _LEFT, frame.width - _RIGHT))
    right = float(np.clip(frame.x(stretch.stop), _LEFT, frame.width - _RIGHT))
    return left, max(right, left + 1.0)


def _stretches(frame: _Frame, found: Sequence[Stretch], kind: str) -> str:
    parts = []
    for s in found:
        left, right = _ends(frame, s)
        parts.append(f'<rect class="{kind}" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" '
                     f'height="{frame.height - _TOP - _BOTTOM}"/>')
    return "".join(parts)


def _figure(title: str, body: str, keys: Sequence[tuple[str, str]], height: int, width: int = WIDTH) -> str:
    legend = "".join(f'<span><svg class="key" viewBox="0 0 18 10"><path class="{kind}" d="M0 5H18"/></svg>'
                     f"{escape(name)}</span>" for kind, name in dict.fromkeys(keys))
    return (f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{escape(title)}" style="max-width:{width}px">{body}</svg>'
            f'<div class="legend">{legend}</div></figure>')
