"""Routes: which bundle serves an asset, and what happens to those that no route knows."""

import pytest

from pipeline.births import BirthBook
from pipeline.errors import Rejected
from pipeline.flow import Flow, FlowSettings
from pipeline.seating import Route, Seating
from pipeline.state import Partition
from tests.rig import Rig, WindowMean, birth, frame, window_bundle

PUMP = birth("pump-1", asset_class="pump", site="kyoto", channels=("a", "b", "rpm"))
FAN = birth("fan-1", asset_class="fan", site="osaka", channels=("rpm", "a"))
BUNDLES = {name: window_bundle() for name in ("win", "other")}


def seating(*routes, fallback=None):
    return Seating(BUNDLES, routes, BirthBook(), 10, None, fallback)


@pytest.mark.parametrize(("route", "pump", "fan"), [
    (Route("win"), True, True), (Route("win", "pump"), True, False), (Route("win", site="osaka"), False, True),
    (Route("win", channels=("a", "rpm")), True, True), (Route("win", channels=("b",)), True, False),
    (Route("win", "fan", "osaka", ("rpm",)), False, True),
])
def test_a_route_matches_by_class_site_and_channels(route, pump, fan):
    assert (route.matches(PUMP), route.matches(FAN)) == (pump, fan)


def test_the_first_matching_route_wins():
    seats = seating(Route("win", "pump"), Route("other"))
    assert seats.route(PUMP) is BUNDLES["win"] and seats.route(FAN) is BUNDLES["other"]


def test_without_a_fallback_an_asset_that_no_route_matches_is_refused():
    with pytest.raises(Rejected, match="no route matches asset_class=fan"):
        seating(Route("win", "pump")).route(FAN)


def test_the_fallback_serves_what_no_route_matches_and_the_log_says_so_once():
    seats = seating(Route("win", "pump"), fallback="win")
    for b in (PUMP, FAN):
        seats.births.add(b)
    engine = WindowMean()
    flow = Flow(FlowSettings(max_size=4), seats, {"win": engine.inputs})
    flow.adopt(Partition(0), 0.0)
    rig = Rig(flow, engine)
    rig.poll([frame(PUMP, 0), frame(FAN, 0), frame(FAN, 1)])
    rig.poll([frame(FAN, 2)])
    assert rig.effects.notes == [("unrouted", {
        "asset": "fan-1", "asset_class": "fan", "site": "osaka", "bundle": "win"})]
    assert not rig.effects.dead_letters and rig.part().assets == 2
