"""What the models folder offers is tried out before it may take over, and refused with everything that is wrong."""

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from engines import BundleError, EngineError
from engines.archive import pack, read_files
from engines.bundle import Candidate
from pipeline.errors import ModelError
from pipeline.fitting import Fitter
from pipeline.modelbook import Rollback, read_record, record_active, record_rollback
from pipeline.offers import FolderModels, Tried
from pipeline.ops.settings import Batch, Models, Settings
from tests import models
from tests.unit.test_modelbook import WHEN


class Bed:
    """A folder with version 1.0.0 of bundle `made`, which serves."""

    def __init__(self, place: Path, **of_models: Any) -> None:
        self.folder = place / "models"
        models.bundle(self.folder / "a", models.dense(), version="1.0.0")
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.settings = Settings(batch=Batch(max_size=32), models=Models(
            folder=self.folder, state=place / "state", **{"allow_unsigned": True, **of_models}))
        self.installed: list[Any] = []
        self.layouts = [(4, 32)]
        serving = SimpleNamespace(bundle=models.load(self.folder / "a"), shapes=[], replace=self.installed.append)
        self.fleet: Any = SimpleNamespace(servings={"made": serving})
        self.fitter = Fitter(self.settings, self)  # type: ignore[arg-type]
        self.offers = FolderModels(self.settings, self.fitter, self.fleet, self,  # type: ignore[arg-type]
                                   lambda name: self.layouts)
        self.tried: list[Tried] = []

    def emit(self, name: str, **fields: Any) -> None:
        self.events.append((name, fields))

    def offer(self, version: str, **changes: Any) -> Candidate:
        models.bundle(self.folder / f"v{version}", models.dense(1), version=version, **changes)
        return self.best()

    def best(self) -> Candidate:
        return self.offers.offers()["made"][0]

    def prepare(self, candidate: Candidate) -> Tried:
        tried = self.offers.prepare(candidate)
        assert tried is not None
        self.tried.append(tried)
        return tried


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    made = Bed(tmp_path)
    yield made
    for tried in made.tried:
        tried.discard()


def test_a_new_version_is_prepared_warm_and_its_engines_take_over(bed: Bed) -> None:
    assert bed.offers.serving()["made"][1] == bed.best().mark
    candidate = bed.offer("1.1.0")
    tried = bed.prepare(candidate)
    assert tried.bundle.spec.version == "1.1.0" and [t.name for t in tried.inputs] == ["x"]
    x = np.ones((2, 1, 4, 32), "f4")
    assert tried.engines.ground.thread.call(lambda engine: engine.infer({"x": x}))["score"].shape == (2,)
    tried.install()
    assert bed.installed == [tried.engines]
    bed.offers.record(tried, candidate)
    assert bed.offers.serving()["made"][1] == candidate.mark
    assert read_record(bed.settings).active == {"made": "1.1.0"}


def test_a_version_that_is_too_slow_for_its_budget_is_refused_and_closed(bed: Bed) -> None:
    with pytest.raises(EngineError, match=r"batch of 32 rows takes .* ms \(median of 20\), budget.latency_ms = 1e-06"):
        bed.prepare(bed.offer("1.1.0", budget={"latency_ms": 1e-6}))


def test_a_version_whose_golden_vectors_the_engine_does_not_meet_is_refused(bed: Bed) -> None:
    models.lying(bed.folder / "v1.1.0", models.dense(1), models.dense(7), version="1.1.0")
    with pytest.raises(EngineError, match="golden"):
        bed.prepare(bed.best())


def test_a_version_that_would_take_all_memory_is_refused_before_it_is_loaded_here(bed: Bed) -> None:
    small = read_files(models.bundle(bed.folder.parent / "small", models.hungry(10), version="1.1.0"))
    models.write(bed.folder / "v1.1.0", {k: small[k] for k in ("model.toml", "golden.msgpack")} | {
        "model.onnx": models.hungry(5 * 10**8)}, version="1.1.0")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(EngineError, match="in its trial, within 1024 MiB: .*allocate memory"):
        bed.prepare(bed.best())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "KiB: it was loaded here"


def test_a_graph_that_has_run_here_in_the_same_shapes_is_not_tried_out_again(
        bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(bed.fitter, "try_out", lambda bundle, shapes: tried.append(bundle.spec.version))
    bed.prepare(bed.offer("1.1.0"))
    bed.prepare(bed.offer("1.1.1", budget={"latency_ms": 500.0}))  # the same graph
    assert tried == ["1.1.0"]
    bed.layouts[:] = [(4, 16)]
    bed.prepare(bed.offer("1.1.2"))
    models.bundle(bed.folder / "v1.2.0", models.dense(2), version="1.2.0")
    bed.prepare(bed.best())
    assert tried == ["1.1.0", "1.1.2", "1.2.0"]
    models.bundle(bed.folder / "v1.2.1", models.dense(2), version="1.2.1", budget={"rows_at_once": 16})
    bed.prepare(bed.best())
    assert tried == ["1.1.0", "1.1.2", "1.2.0", "1.2.1"]


def test_a_version_that_changes_while_it_is_read_is_refused_and_what_serves_has_its_new_mark(bed: Bed) -> None:
    candidate = bed.offer("1.1.0")
    models.bundle(bed.folder / "v1.1.0", models.dense(1), version="1.2.0")
    with pytest.raises(ModelError, match="changed while it was read"):
        bed.offers.prepare(candidate)
    (bed.folder / "copy.zip").write_bytes(pack(read_files(bed.folder / "a")))
    copy = Candidate(bed.folder / "copy.zip", "made", "1.0.0", "m")
    assert bed.offers.prepare(copy) is None
    assert bed.offers.serving()["made"][1] == "m"


def test_nothing_below_what_serves_is_offered_where_no_record_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    bed = Bed(tmp_path)
    models.bundle(bed.folder / "v0.9.0", models.dense(2), version="0.9.0")
    bed.offers.begin()
    assert [name for name, _ in bed.events] == ["degraded"]
    before = bed.best().mark
    os.utime(bed.folder / "a" / "model.onnx")
    assert [c.version for c in bed.offers.offers()["made"]] == ["1.0.0"] and bed.best().mark != before
    assert bed.offers.prepare(bed.best()) is None
    assert bed.offers.serving()["made"][1] == bed.best().mark


def test_nobodys_version_is_refused_where_unsigned_ones_may_not_serve(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    candidate = bed.offer("1.1.0")
    strict = Settings(models=Models(folder=bed.folder, state=tmp_path / "state"))
    offers = FolderModels(strict, bed.fitter, bed.fleet, bed, lambda name: [])  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="unsigned|signature|signed"):
        offers.prepare(candidate)


def test_a_version_that_was_rolled_back_is_not_offered(bed: Bed) -> None:
    assert bed.offer("1.1.0").version == "1.1.0"
    record_rollback(bed.settings, Rollback("made", "1.1.0", "1.0.0", WHEN, "ops", "false alarms"))
    assert bed.best().version == "1.0.0"


def test_what_has_no_manifest_to_read_is_told_once(bed: Bed) -> None:
    (bed.folder / "half.zip").write_bytes(b"PK\3\4 cut off")
    bed.offers.offers()
    bed.offers.offers()
    (event,) = [fields for name, fields in bed.events if name == "swap_refused"]
    assert event["bundle"] == "half" and "half.zip" in event["why"]


def test_a_file_name_that_is_no_text_is_told_and_the_others_are_offered(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    Path(os.fsdecode(bytes(folder) + b"/\xff.zip")).write_bytes(b"PK")
    bed = Bed(tmp_path)
    candidate = bed.offer("1.1.0")
    (candidate.path / os.fsdecode(b"\xfe")).write_bytes(b"")
    assert bed.best().version == "1.1.0"
    (event,) = [fields for name, fields in bed.events if name == "swap_refused"]
    assert event["bundle"] == "\\xff" and "its file name is not UTF-8; rename it" in event["why"]
    assert b"xff.zip" in msgspec.json.encode(event)
    with pytest.raises(BundleError, match=r"udcfe.* is not of a bundle"):
        bed.prepare(bed.best())


def test_an_engine_that_breaks_in_service_is_told_with_the_version_that_is_next(bed: Bed) -> None:
    bed.offers.broken("made", "no answer within 10 s")
    ((name, told),) = bed.events
    assert (name, told["version"], told["serving"]) == ("swap_refused", "1.0.0", "1.0.0")
    assert "no version before it that is in order; put one into models.folder" in told["why"]
    bed.events.clear()
    models.bundle(bed.folder / "v0.9.0", models.dense(2), version="0.9.0")
    record_active(bed.settings, "made", "0.9.0")
    bed.offers.begin()
    bed.offers.broken("made", "no answer within 10 s")
    ((name, told),) = bed.events
    assert (name, told["version"], told["serving"]) == ("swap_refused", "1.0.0", "0.9.0")
    assert "no answer within 10 s. 0.9.0 serves from the next start on" in told["why"]
    shutil.rmtree(bed.folder)
    bed.offers.broken("made", "again")
    assert len(bed.events) == 1
