"""Models are swapped under load on Apache Kafka: no window is lost, whatever the folder offers."""

import json
import time
from collections import defaultdict
from pathlib import Path

import pytest

from tests import soak
from tests.bench.models import HOP, SAMPLES, WINDOW
from tests.kafka import KafkaBroker


@pytest.mark.timeout(300)
def test_twenty_swaps_under_load_fail_no_window(kafka: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                ) -> None:
    monkeypatch.setattr(soak, "WARM_S", 4.0)
    found = soak.soak(kafka.address, tmp_path, count=20, rate=1000, every_s=0.8)
    assert found.failed == 0 and found.windows > 5_000
    assert found.versions == 21


@pytest.mark.timeout(120)
def test_what_serves_is_noted_also_where_the_folder_is_not_watched(kafka: KafkaBroker, tmp_path: Path) -> None:
    bed = soak.Bed(kafka.address, tmp_path, rate=1000, seconds=1, **{"models.poll_s": 0})
    try:
        for version, before in ((0, {}), (1, {"w1-null": "1.0.0"})):
            if version:
                soak.offer(bed.folder, version, soak.make(bed.folder, version))
                bed.worker.stop()
                bed.start()
            book, number = tmp_path / "state" / "models.json", f"1.0.{version}"
            while not book.exists() or f'"w1-null": "{number}"' not in book.read_text():
                time.sleep(0.05)  # after the worker has joined
            assert next(e for e in bed.worker.events if e["event"] == "engine_serving")["version"] == number
            assert json.loads(book.read_text()).get("before", {}) == before
    finally:
        bed.halt()


@pytest.mark.timeout(300)
def test_a_bad_version_is_refused_another_state_warms_up_and_a_crash_resumes_what_served(
        kafka: KafkaBroker, tmp_path: Path) -> None:
    bed = soak.Bed(kafka.address, tmp_path, rate=1000, seconds=120, **{"checkpoint.interval_s": 1.0})
    try:
        bed.produce()
        time.sleep(3.0)
        broken = soak.make(bed.folder, 1)
        (broken / "model.onnx").write_bytes((broken / "model.onnx").read_bytes()[:-1] + b"\0")
        soak.offer(bed.folder, 1, broken)
        why = bed.worker.wait_for(lambda e: e["event"] == "swap_refused")["why"]
        assert "model.onnx is not what the manifest says" in why
        bed.swap(2, soak.make(bed.folder, 2, window=2 * WINDOW))
        time.sleep(1.0)
        bed.worker.kill()
        bed.start()
        serving = next(e for e in bed.worker.events if e["event"] == "engine_serving")
        assert serving["version"] == "1.0.2"
        assert not [e for e in bed.worker.events if e["event"] == "state_discarded"]
        bed.swap(3, soak.make(bed.folder, 3, window=2 * WINDOW))
        time.sleep(2.0)
    finally:
        bed.halt()
    rows: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for _, seen in bed.assessed():
        for seq in seen.seq:
            rows[seen.asset][seq].add(seen.model)
    sent, step = bed.sent(), HOP // SAMPLES
    assert bed.refused() == 0 and len(rows) == len(sent)
    for asset, n in sent.items():
        # every window of the old and of the new version, without a gap between them: heirs were warm
        assert sorted(rows[asset]) == list(range(WINDOW // SAMPLES - 1, n, step)), asset
        models = [min(rows[asset][seq]) for seq in sorted(rows[asset])]
        assert models == sorted(models), "after a crash a version judged what another had judged before"
        assert all(len(found) == 1 for found in rows[asset].values())
    assert {m for of in rows.values() for found in of.values() for m in found} == {
        "w1-null@1.0.0", "w1-null@1.0.2", "w1-null@1.0.3"}
