"""The ops server: an allow-list of three paths, GET only, on the loopback, and it answers while the loop does not."""

import http.client
import json
import socket

import pytest

from pipeline.errors import ConfigError
from pipeline.ops.health import Health
from pipeline.ops.metrics import Metrics, PartitionView
from pipeline.ops.server import OpsServer


class Stage:
    def __init__(self) -> None:
        self.now = 0.0
        self.metrics, self.health = Metrics(), Health(stall_s=60, now=0)
        self.server = OpsServer(self.metrics, self.health, lambda: self.now, "127.0.0.1", 0)

    def ask(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


@pytest.fixture
def stage():
    stage = Stage()
    stage.server.start()
    yield stage
    stage.server.stop()


@pytest.mark.parametrize("path", ["/", "/metrics/", "/table", "/router", "/stats", "/live/x", "/%2e%2e/metrics"])
def test_every_path_outside_the_allow_list_is_404(stage, path):
    assert stage.ask(path)[0] == 404


def test_every_method_but_get_is_405(stage):
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"):
        for path in ("/metrics", "/live", "/ready", "/"):
            status, headers, _ = stage.ask(path, method)
            assert (status, headers["Allow"]) == (405, "GET"), (method, path)


def test_live_and_ready_say_what_the_health_says(stage):
    status, headers, body = stage.ask("/live")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {"live": True, "why": "there is nothing to read"}
    assert stage.ask("/ready")[0] == 503
    stage.health.warm = stage.health.joined = True
    assert stage.ask("/ready?verbose=1")[0] == 200
    stage.now = 61.0
    status, _, body = stage.ask("/live")
    assert status == 503
    assert "event loop has not run" in json.loads(body)["why"]


def test_metrics_show_the_health_of_this_moment(stage):
    stage.health.hold("publishing", now=0)
    _, headers, body = stage.ask("/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=")
    text = body.decode()
    assert "kizashi_live 1.0" in text
    assert "kizashi_ready 0.0" in text
    assert 'kizashi_held{hold="publishing"} 1.0' in text
    assert 'kizashi_held{hold="draining"} 0.0' in text


def test_answers_tell_nothing_of_the_software_below(stage):
    _, headers, _ = stage.ask("/live")
    assert "Python" not in headers["Server"]
    assert headers["Cache-Control"] == "no-store"


def test_listens_on_the_loopback_only(stage):
    assert stage.server._server.socket.getsockname()[0] == "127.0.0.1"


def test_a_slow_client_does_not_keep_others_waiting(stage):
    with socket.create_connection(("127.0.0.1", stage.server.port)) as slow:
        slow.sendall(b"GET /live HT")
        assert stage.ask("/live")[0] == 200


def test_a_taken_port_is_a_configuration_error_with_the_way_out(stage):
    with pytest.raises(ConfigError, match=r"the port is taken.*KIZASHI_METRICS__PORT") as caught:
        OpsServer(Metrics(), stage.health, lambda: 0.0, "127.0.0.1", stage.server.port)
    assert caught.value.exit_code == 2


def test_stopping_frees_the_port_and_may_be_repeated(stage):
    port = stage.server.port
    stage.server.stop()
    stage.server.stop()
    again = OpsServer(Metrics(), stage.health, lambda: 0.0, "127.0.0.1", port)
    again.stop()


def test_both_conservation_laws_can_be_read_off_one_scrape():
    metrics = Metrics()
    totals = {"received": 10, "judged": 5, "dead_lettered": 1, "late": 1, "duplicate": 1, "rows": 4, "rows_scored": 2,
              "rows_dead_lettered": 1}
    metrics.show(3, PartitionView(totals, in_flight=2, rows_in_flight=1, lag=7, assets=2))
    metrics.show(4, PartitionView({}))
    metrics.forget(4)
    text = metrics.text().decode()
    value = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if 'partition="3"' in line}
    assert 'partition="4"' not in text

    def of(name: str) -> float:
        return value[f'kizashi_{name}{{partition="3"}}']

    ends = ("judged", "dead_lettered", "late", "duplicate", "shed")
    assert of("frames_received_total") == sum(of(f"frames_{e}_total") for e in ends) + of("frames_in_flight")
    assert of("rows_total") == of("rows_scored_total") + of("rows_dead_lettered_total") + of("rows_in_flight")
    assert of("lag_records") == 7
