"""The model book: what may serve, what it keeps, and that no state of its file stops a worker."""

import stat
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import msgspec
import pytest

from engines import Bundle, EngineError
from engines.bundle import Candidate, available
from pipeline import modelbook as book
from pipeline.errors import ModelError
from pipeline.ops.settings import Models, Settings
from tests import models

WHEN = datetime(2026, 11, 25, 6, tzinfo=UTC)


def settings_of(place: Path, **of_models: object) -> Settings:
    return Settings(models=Models(state=place / "state", **of_models))  # type: ignore[arg-type]


def back(name: str, was: str, to: str) -> book.Rollback:
    return book.Rollback(name, was, to, WHEN, "ops", "false alarms")


def offer(version: str, name: str = "m", **fields: object) -> Candidate:
    return Candidate(Path(f"{name}-{version}"), name, version, version, **fields)  # type: ignore[arg-type]


def test_highest_version_serves_and_of_one_version_the_folders():
    offers = [offer("1.9.0"), offer("1.10.0"), Candidate(Path("shipped"), "m", "1.10.0", "", True), offer("9.0.0", "n")]
    assert [str(c.path) for c in book.ranked("m", offers, book.Record())] == ["m-1.10.0", "shipped", "m-1.9.0"]


def test_version_below_one_that_served_is_refused_until_it_is_rolled_back_to(tmp_path):
    settings, offers = settings_of(tmp_path), [offer("1.0.0"), offer("1.5.0")]
    assert book.record_active(settings, "m", "2.0.0") == ""
    with pytest.raises(ModelError, match=r"1\.0\.0 is below 2\.0\.0, which served .*models rollback m --to 1\.0\.0"):
        book.load_best("m", offers, book.read_record(settings), models.UNSIGNED)
    book.record_rollback(settings, back("m", "2.0.0", "1.5.0"))
    record = book.read_record(settings)
    assert [c.version for c in book.ranked("m", [*offers, offer("2.0.0")], record)] == ["1.5.0"]
    assert "rolled back to 1.5.0 by ops at 2026-11-25 06:00: false alarms" in record.refuses("m", "2.0.0")


def test_version_above_what_was_rolled_back_serves_and_ends_the_rollback(tmp_path):
    settings = settings_of(tmp_path)
    book.record_active(settings, "m", "2.0.0")
    book.record_rollback(settings, back("m", "2.0.0", "1.0.0"))
    book.record_active(settings, "m", "1.0.0")
    offers = [offer("1.0.0"), offer("2.0.0"), offer("2.0.1")]
    assert [c.version for c in book.ranked("m", offers, book.read_record(settings))] == ["2.0.1", "1.0.0"]
    book.record_active(settings, "m", "2.0.1")
    record = book.read_record(settings)
    assert record.active == record.highest == {"m": "2.0.1"}
    assert [c.version for c in book.ranked("m", offers, record)] == ["2.0.1"]
    assert len(record.rollbacks) == 1


def test_book_is_the_owners_alone_and_unchanged_when_nothing_is_new(tmp_path):
    settings = settings_of(tmp_path)
    book.record_active(settings, "m", "1.0.0")
    path = tmp_path / "state" / book.FILE
    before = path.stat()
    book.record_active(settings, "m", "1.0.0")
    assert path.stat().st_ino == before.st_ino
    assert stat.S_IMODE(before.st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(p.name for p in path.parent.iterdir()) == [book.FILE, book.LOCK]


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b'{"active": {"m": 1}}', b'{"active": {"m": "1.0.0\\n"}}', b"\xff" * 99,
])  # fmt: skip
def test_book_that_cannot_be_read_is_told_set_aside_and_stops_nothing(tmp_path, content):
    settings, path = settings_of(tmp_path), tmp_path / "state" / book.FILE
    path.parent.mkdir()
    path.write_bytes(content)
    record = book.read_record(settings)
    assert str(path) in record.fault
    assert [c.version for c in book.ranked("m", [offer("1.0.0")], record)] == ["1.0.0"]
    assert "it lies in" in book.record_active(settings, "m", "1.0.0")
    assert path.with_suffix(".bad").read_bytes() == content
    assert book.read_record(settings) == book.Record({"m": "1.0.0"}, {"m": "1.0.0"})


def test_book_without_a_place_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    settings = Settings(models=Models(state=tmp_path / "file" / "state"))
    assert "cannot be read" in book.read_record(settings).fault
    assert "was not written" in book.record_active(settings, "m", "1.0.0")
    with pytest.raises(ModelError, match="was not recorded"):
        book.record_rollback(settings, back("m", "2.0.0", "1.0.0"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert "Set models.state" in book.read_record(Settings()).fault


def test_place_follows_the_users_state_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert book.folder_of(Settings()) == tmp_path / "kizashi"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert book.folder_of(Settings()) == tmp_path / ".local" / "state" / "kizashi"


def _record_many(folder: Path, name: str) -> None:
    for minor in range(20):
        book.record_active(settings_of(folder), name, f"1.{minor}.0")


def test_workers_that_write_at_once_lose_nothing(tmp_path):
    context = get_context("spawn")
    workers = [context.Process(target=_record_many, args=(tmp_path, f"m{i}")) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert book.read_record(settings_of(tmp_path)).active == {f"m{i}": "1.19.0" for i in range(4)}


def test_file_is_json_that_a_person_can_read(tmp_path):
    settings = settings_of(tmp_path)
    book.record_active(settings, "m", "2.0.0")
    book.record_rollback(settings, back("m", "2.0.0", "1.0.0"))
    assert msgspec.json.decode((tmp_path / "state" / book.FILE).read_bytes()) == {
        "active": {"m": "2.0.0"}, "highest": {"m": "2.0.0"},
        "rollbacks": [{"name": "m", "from": "2.0.0", "to": "1.0.0", "when": "2026-11-25T06:00:00Z", "who": "ops",
                       "why": "false alarms"}]}  # fmt: skip


def test_best_bundle_in_order_is_loaded_and_better_ones_are_named(tmp_path):
    folder = tmp_path / "models"
    models.bundle(folder / "a", models.dense(), version="1.0.0")
    broken = models.bundle(folder / "b", models.dense(), version="1.1.0") / "model.onnx"
    broken.write_bytes(broken.read_bytes()[:-1])
    (folder / "made.zip").write_bytes(b"PK\3\4 cut off")
    settings, refused = settings_of(tmp_path, folder=folder), []
    offers, record = book.candidates(settings), book.Record()
    assert book.load_best("made", offers, record, models.UNSIGNED, refused).spec.version == "1.0.0"
    assert [r.split(":")[0] for r in refused] == [f"bundle {folder / 'made.zip'}", f"bundle {folder / 'b'}"]
    with pytest.raises(ModelError, match="model.onnx is not what the manifest says"):
        book.load_best("made", offers, book.Record(highest={"made": "1.1.0"}), models.UNSIGNED)
    with pytest.raises(ModelError, match="there is no bundle 'other', there are .*anomaly-mewma"):
        book.load_best("other", offers, record, models.UNSIGNED)
    assert book.load_best("anomaly-mewma", offers, record, models.UNSIGNED).trust.status == "pinned"


def test_folder_that_is_away_is_a_clear_error(tmp_path):
    with pytest.raises(ModelError, match=r"models\.folder .*nowhere cannot be read: No such file"):
        book.candidates(Settings(models=Models(folder=tmp_path / "nowhere")))


def test_restart_resumes_the_version_that_served_and_newer_ones_wait_for_a_swap(tmp_path):
    folder = tmp_path / "models"
    for number in ("1.0.0", "1.1.0"):
        models.bundle(folder / number, models.dense(), version=number)
    settings = settings_of(tmp_path, folder=folder)
    book.record_active(settings, "made", "1.0.0")
    offers, record = book.candidates(settings), book.read_record(settings)
    assert book.load_best("made", offers, record, models.UNSIGNED).spec.version == "1.1.0"
    assert book.load_best("made", offers, record, models.UNSIGNED, resume=True).spec.version == "1.0.0"
    (folder / "1.0.0" / "model.onnx").write_bytes(b"broken")
    assert book.load_best("made", offers, record, models.UNSIGNED, resume=True).spec.version == "1.1.0"


def test_what_cannot_start_is_passed_over_and_what_never_served_here_is_named_unknown(tmp_path):
    for version in ("1.0.0", "1.1.0"):
        models.bundle(tmp_path / version, models.dense(), version=version)
    offers, started, refused = available(tmp_path), [], []

    def start(bundle: Bundle, unknown: bool) -> None:
        started.append((bundle.spec.version, unknown))
        if unknown:
            raise EngineError("too large")

    load = partial(book.load_best, "made", offers, policy=models.UNSIGNED, refused=refused, start=start)
    assert load(record=book.Record(active={"made": "1.0.0"})).spec.version == "1.0.0"
    assert started == [("1.1.0", True), ("1.0.0", False)] and refused == [f"bundle {tmp_path / '1.1.0'}: too large"]
    with pytest.raises(ModelError, match="too large"):
        load(record=book.Record())
    started.clear()
    book.load_best("anomaly-mewma", offers, book.Record(), models.UNSIGNED, start=start)
    assert [unknown for _, unknown in started] == [False], "shipped ones need no trial"
