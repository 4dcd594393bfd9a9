"""The frame of evaluation: tables, intervals, pictures and the page, hashes of what was given."""

import gzip
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.ops.settings import Match, Route, Settings
from pipeline.plant.evaluate import bootstrap, svg
from pipeline.plant.evaluate.given import Given, sha256
from pipeline.plant.evaluate.report import Report, Section
from pipeline.plant.evaluate.stream import routed
from pipeline.plant.evaluate.table import Row, Table


def parsed(figure: str) -> ET.Element:
    return ET.fromstring(figure)


def paths(figure: str, kind: str) -> list[str]:
    found = [e for e in parsed(figure).iter() if kind in (e.get("class") or "").split()]
    return [e.get("d") or "rect" for e in found if e.get("d") != "M0 5H18"]  # without the legend's


def test_a_picture_is_well_formed_escaped_and_the_same_each_time():
    x = np.arange(50.0)
    given = dict(limits=[("limit <1>", 1.0)], truth=[svg.Stretch(10, 20)], alarms=[svg.Stretch(12, 22)])
    first = svg.series("a & b", x, [svg.Curve("score", np.sin(x))], **given)
    assert first == svg.series("a & b", x, [svg.Curve("score", np.sin(x))], **given)
    assert len(paths(first, "truth")) == len(paths(first, "alarm")) == len(paths(first, "limit")) == 1
    assert "a &amp; b" in first and "limit &lt;1&gt;" in first


def test_a_gap_in_the_data_is_a_gap_in_the_line():
    y = np.arange(10.0)
    y[4:6] = np.nan
    (line,) = paths(svg.series("t", np.arange(10.0), [svg.Curve("y", y)]), "line")
    assert line.count("M") == 2
    drawn = svg.fan("t", np.arange(10.0), y, y - 1, y + 1, truth=np.arange(10.0))
    assert len(paths(drawn, "band")) == 2 and len(paths(drawn, "real")) == 1


def test_a_spike_in_a_million_points_is_drawn():
    y = np.zeros(200_000)
    y[123_456] = 9.0
    drawn = svg.series("t", np.arange(len(y)), [svg.Curve("y", y)], y_range=(0.0, 9.0))
    assert len(drawn) < 60_000
    (line,) = paths(drawn, "line")
    assert f" {10:.1f}" in line  # the upper edge


@pytest.mark.parametrize("x", [[], [3.0]])
def test_a_picture_of_next_to_nothing_is_a_picture(x):
    for drawn in (svg.series("t", x, [svg.Curve("y", x)]), svg.fan("t", x, x, x, x), svg.bars("t", [], [], [], [])):
        assert "NaN" not in drawn and "nan" not in drawn
        parsed(drawn)


def test_confusion_scatter_and_bars_show_their_numbers():
    counts = np.array([[9, 1], [0, 0]])
    drawn = svg.confusion("t", ["normal", "inner"], counts)
    assert {"90 %", "10 %", "0 %", "9", "1"} <= {e.text for e in parsed(drawn).iter() if e.text}
    assert len(paths(svg.scatter("t", [1, 2], [1, 3], [0, 2], [2, 4]), "whisker")) == 2
    drawn = svg.bars("t", ["a", "b"], [1.0, np.nan], [0.5, np.nan], [1.5, np.nan])
    assert len(paths(drawn, "whisker")) == 1 and len(paths(drawn, "bar")) == 1


@pytest.mark.parametrize(("low", "high", "want"), [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 125, [0, 25, 50, 75, 100, 125]), (-3, 7, [-2, 0, 2, 4, 6])])  # fmt: skip
def test_ticks_are_round(low, high, want):
    assert svg.ticks(low, high) == want


def test_interval_of_a_mean_is_that_of_statistics():
    values = np.random.default_rng(3).normal(5.0, 2.0, 200)
    got = bootstrap.interval(200, lambda i: float(values[i].mean()))
    assert got.value == pytest.approx(values.mean())
    assert (got.high - got.low) / 2 == pytest.approx(1.96 * values.std() / 200**0.5, rel=0.1)
    assert got == bootstrap.interval(200, lambda i: float(values[i].mean()))
    assert bootstrap.rmse([3.0, 4.0]).value == pytest.approx(12.5**0.5)
    empty = bootstrap.rmse([])
    assert np.isnan([empty.value, empty.low, empty.high]).all()


def test_draws_without_a_figure_are_left_out():
    got = bootstrap.interval(3, lambda i: float("nan") if 0 not in i else 1.0)
    assert (got.value, got.low, got.high) == (1.0, 1.0, 1.0)


def test_a_table_says_the_same_in_text_html_and_markdown():
    table = Table("RMSE", ("model", "FD001", "n"), note="a < b", digits=1)
    table.add("ours", bootstrap.Interval(8.87, 8.1, 9.62), 100)
    table.extend([Row("DCNN", (12.61, None), "anchor"), Row("always 125", (51.0, 100), "baseline")])
    text = "\n".join(table.lines())
    assert "8.9 [8.1, 9.6]" in text and "(anchor) DCNN" in text and "(baseline) always 125" in text
    assert "<small>anchor</small>" in table.html() and "a &lt; b" in table.html()
    assert "| *DCNN* (anchor) | 12.6 | - |" in list(table.markdown())
    table.add("none", float("nan"), bootstrap.Interval(*[float("nan")] * 3))
    assert list(table.markdown())[-3] == "| none | - | - |"
    with pytest.raises(ValueError, match="short has 1 cells, the columns want 2"):
        table.add("short", 1)


def test_the_page_needs_no_network_and_is_closed_where_it_was_opened(tmp_path):
    table = Table("T", ("a", "b"))
    table.add("x<y", 1.0)
    report = Report("A report", "kizashi evaluate", ["found <2>"], [("test.csv", "0123456789ab")],
                    [Section("One", "text", [table], [svg.series("p", [0, 1], [svg.Curve("c", [0, 1])])])])  # fmt: skip
    report.write(tmp_path / "deep" / "report.html")
    page = (tmp_path / "deep" / "report.html").read_text()
    for part in ("src=", "@import", "url(", "<script", "http"):
        assert part not in page
    assert "prefers-color-scheme:dark" in page and "found &lt;2&gt;" in page and "0123456789ab" in page
    balance = _Balance()
    balance.feed(page)
    assert balance.open == []
    assert "x<y" in "\n".join(report.lines())


class _Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_hashes_are_of_the_unpacked_bytes_and_tell_what_was_trained_on(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"1,2\n")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"1,2\n", mtime=1))
    (tmp_path / "c.csv").write_bytes(b"3,4\n")
    given = Given({"train": f"ffffffff {sha256(tmp_path / 'a.csv')[:8]}"})
    given.read(tmp_path, [tmp_path / n for n in ("a.csv", "b.csv.gz", "c.csv")])
    assert given.left_out() == ("a.csv", "b.csv.gz")
    assert given.lines()[0][1].endswith("left out of the headline") and len(given.lines()[2][1]) == 12


def test_a_route_of_the_user_goes_before_the_evaluation_s():
    made = routed(Settings(), "turbofan", "rul-ewma")
    assert [r.bundle for r in made.routes] == ["rul-ewma"]
    own = Settings(routes=(Route(match=Match(asset_class="turbofan"), bundle="mine"),))
    assert routed(own, "turbofan", "rul-ewma") is own
