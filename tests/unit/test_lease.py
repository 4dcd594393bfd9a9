"""How long after a heartbeat a worker may publish, and what it says when it may not."""

from types import SimpleNamespace
from typing import Any

from pipeline.app import Runtime, lease
from pipeline.ops.settings import Group


def test_a_lease_is_a_session_timeout_or_two_heartbeats_where_another_may_join_as_us() -> None:
    assert lease(Group()) == 10.0
    assert lease(Group(instance_id="edge-1")) == 6.0


def test_a_lapsed_lease_is_told_once_each_time() -> None:
    told: list[str] = []
    ages: list[float | None] = [None, 9.9, 10.0, 11.0, 0.1, 10.0]
    runtime: Any = SimpleNamespace(
        settings=SimpleNamespace(group=Group()), worker=SimpleNamespace(heartbeat_age_s=lambda: ages.pop(0)),
        events=SimpleNamespace(emit=lambda event, why: told.append(why)), lapsed=False)
    assert [Runtime._may_write(runtime) for _ in range(6)] == [True, True, False, False, True, False]
    assert told == ["alerts wait: the group has confirmed no heartbeat for 10 s"] * 2
