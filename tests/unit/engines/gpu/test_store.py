"""The engine cache: only bytes that this machine sealed, under this key, come back; whatever happened to the file."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.gpu.plan import BuildReport, PlanTensor
from engines.gpu.seal import seal
from engines.gpu.store import REASONS, Found, Missing, PlanStore

KEY, OTHER = "ab" * 32, "cd" * 32
PLAN = b"plan of a small model"
REPORT = BuildReport(
    flavour="tensorrt_rtx", version="1.7", precision="f32", max_batch=8, plan_bytes=len(PLAN), seconds=0.1,
    tensors=(PlanTensor("x", "f4", (-1, 8), True),), layers={"gemm": 2},
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    kept = PlanStore(tmp_path / "state" / "engines")
    assert kept.put(KEY, PLAN, REPORT) == ""
    return kept


def _file(store: PlanStore, key: str = KEY) -> Path:
    return store.folder / f"{key}.plan"


def _missing(store: PlanStore, reason: str, key: str = KEY) -> Missing:
    found = store.get(key)
    assert isinstance(found, Missing), f"a plan came back where {reason!r} was due"
    assert found.reason == reason and reason in REASONS, found
    return found


def test_a_plan_comes_back_with_its_report(store: PlanStore) -> None:
    assert store.get(KEY) == Found(PLAN, REPORT)


def test_everything_in_the_folder_is_for_its_owner_alone(store: PlanStore) -> None:
    with store.building() as alone:
        assert alone
    assert store.note(KEY, b"{}") == ""
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.folder.iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_secrets_of_two_machines_differ_and_have_32_bytes(store: PlanStore, tmp_path: Path) -> None:
    other = PlanStore(tmp_path / "other")
    other.put(KEY, PLAN, REPORT)
    secrets = [(s.folder / "secret").read_bytes() for s in (store, other)]
    assert secrets[0] != secrets[1] and {len(s) for s in secrets} == {32}


def test_a_plan_that_was_never_built_is_absent_and_nothing_is_made(tmp_path: Path) -> None:
    store = PlanStore(tmp_path / "none")
    assert KEY[:12] in _missing(store, "absent").why
    assert not store.folder.exists()


def test_an_unknown_key_is_absent(store: PlanStore) -> None:
    _missing(store, "absent", OTHER)
    assert _file(store).exists()


def test_every_flipped_bit_is_refused(store: PlanStore) -> None:
    file = _file(store)
    whole = file.read_bytes()
    for at in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[at // 8] ^= 1 << at % 8
        file.write_bytes(changed)
        _missing(store, "damaged")
        assert not file.exists(), "a damaged plan stays"
        file.touch(0o600)
    file.write_bytes(whole)
    assert isinstance(store.get(KEY), Found), "the test itself breaks plans"


def test_a_plan_cut_off_anywhere_is_refused(store: PlanStore) -> None:
    file = _file(store)
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        file.chmod(0o600)
        _missing(store, "damaged")


def test_bytes_after_the_plan_are_refused(store: PlanStore) -> None:
    with _file(store).open("ab") as file:
        file.write(b"\0")
    _missing(store, "damaged")


def test_a_plan_sealed_elsewhere_is_refused(store: PlanStore) -> None:
    _file(store).write_bytes(seal(bytes(32), KEY, PLAN, REPORT))
    assert "another machine" in _missing(store, "damaged").why


def test_a_plan_for_another_device_under_this_name_is_refused(store: PlanStore) -> None:
    _file(store).rename(_file(store, OTHER))
    _missing(store, "device", OTHER)
    assert not _file(store, OTHER).exists()


def test_a_plan_that_others_could_have_written_is_refused(store: PlanStore) -> None:
    for mode in (0o620, 0o602, 0o640, 0o604, 0o666):
        store.put(KEY, PLAN, REPORT)
        _file(store).chmod(mode)
        assert f"{mode:o}" in _missing(store, "mode").why
        assert not _file(store).exists()


def test_a_folder_that_others_could_write_in_is_not_used(store: PlanStore) -> None:
    store.folder.chmod(0o770)
    _missing(store, "mode")
    assert "chmod" in store.put(KEY, PLAN, REPORT)
    assert _file(store).exists(), "in a folder that is not ours nothing is removed"
    store.folder.chmod(0o700)
    assert isinstance(store.get(KEY), Found)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away: the owner is checked by the next test")
def test_a_plan_of_another_user_is_refused(store: PlanStore) -> None:
    os.chown(_file(store), 12345, 12345)
    assert "12345" in _missing(store, "owner").why


def test_files_of_another_user_are_refused(store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert "54321" in _missing(store, "owner").why
    assert "54321" in store.put(KEY, PLAN, REPORT)


def test_a_symbolic_link_is_refused_and_its_target_left_alone(store: PlanStore, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.plan"
    _file(store).rename(target)
    _file(store).symlink_to(target)
    _missing(store, "link")
    assert target.exists() and not _file(store).is_symlink()


def test_a_hard_link_to_a_plan_is_refused(store: PlanStore, tmp_path: Path) -> None:
    os.link(_file(store), tmp_path / "second name")
    _missing(store, "link")


def test_a_pipe_under_the_name_of_a_plan_is_refused_without_waiting(store: PlanStore) -> None:
    _file(store).unlink()
    os.mkfifo(_file(store), 0o600)
    _missing(store, "link")


def test_a_folder_under_the_name_of_a_plan_is_refused_and_holds_nothing_open(store: PlanStore) -> None:
    _file(store).unlink()
    _file(store).mkdir()
    before = len(os.listdir("/proc/self/fd"))
    _missing(store, "link")
    _missing(store, "link")
    assert len(os.listdir("/proc/self/fd")) == before
    assert "cannot be kept" in store.put(KEY, PLAN, REPORT)


def test_a_folder_that_is_a_symbolic_link_is_not_used(store: PlanStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.folder)
    linked = PlanStore(tmp_path / "link")
    _missing(linked, "link")
    assert "symbolic link" in linked.put(OTHER, PLAN, REPORT)


def test_a_file_in_place_of_the_folder_is_said_not_raised(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = PlanStore(tmp_path / "file")
    _missing(store, "link")
    assert store.put(KEY, PLAN, REPORT)
    with store.building() as alone:
        assert not alone


@pytest.mark.parametrize("spoil", [lambda f: f.chmod(0o644), lambda f: f.write_bytes(b"short")], ids=["mode", "size"])
def test_a_secret_that_cannot_be_trusted_is_not_used(store: PlanStore, spoil: Callable[[Path], object]) -> None:
    spoil(store.folder / "secret")
    _missing(store, "secret")
    assert _file(store).exists(), "the plan is not at fault"


def test_a_secret_cut_off_is_made_anew_with_the_next_plan(store: PlanStore) -> None:
    (store.folder / "secret").write_bytes(b"")
    assert store.put(OTHER, PLAN, REPORT) == ""
    assert isinstance(store.get(OTHER), Found)
    _missing(store, "damaged")


def test_a_lost_secret_makes_every_plan_absent_until_built_anew(store: PlanStore) -> None:
    (store.folder / "secret").unlink()
    _missing(store, "absent")
    assert store.put(KEY, PLAN, REPORT) == ""
    assert isinstance(store.get(KEY), Found)


def test_a_full_disk_is_said_and_leaves_the_old_plan(store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in store.put(KEY, b"another", REPORT)
    monkeypatch.undo()
    assert store.get(KEY) == Found(PLAN, REPORT)
    assert not list(store.folder.glob("*.unfinished"))


_CRASH = """
import os, sys
from pathlib import Path
from engines.gpu.store import PlanStore
from tests.unit.engines.gpu.test_store import KEY, REPORT
os.rename = lambda *a, **k: os._exit(9)     # the power goes between write and rename
PlanStore(Path(sys.argv[1])).put(KEY, b"half done", REPORT)
"""


def test_a_crash_between_write_and_rename_leaves_the_old_plan_and_is_cleaned_up(store: PlanStore) -> None:
    crashed = subprocess.run([sys.executable, "-c", _CRASH, str(store.folder)], check=False)
    assert crashed.returncode == 9
    left = list(store.folder.glob("*.unfinished"))
    assert len(left) == 1
    assert store.get(KEY) == Found(PLAN, REPORT)
    store.put(OTHER, PLAN, REPORT)
    assert left[0].exists(), "a file this young may have a writer"
    os.utime(left[0], (0, 0))
    store.put(OTHER, PLAN, REPORT)
    assert not left[0].exists()


def test_an_old_unfinished_file_stays_while_its_writer_lives(store: PlanStore) -> None:
    import fcntl

    busy = store.folder / "busy.unfinished"
    with busy.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(busy, (0, 0))
        store.put(OTHER, PLAN, REPORT)
        assert busy.exists()
    store.put(OTHER, PLAN, REPORT)
    assert not busy.exists()


def test_many_who_store_and_read_at_once_see_whole_plans_only(tmp_path: Path) -> None:
    faults: list[str] = []
    store = PlanStore(tmp_path / "engines")

    def work(number: int) -> None:
        for _ in range(20):
            why = store.put(KEY, PLAN * (number + 1), REPORT)
            found = store.get(KEY)
            if why or not (isinstance(found, Found) and found.plan.replace(PLAN, b"") == b""):
                faults.append(f"{why} {found}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[:3]


def test_only_one_builds_at_a_time_and_a_dead_builder_frees_the_right(store: PlanStore) -> None:
    code = ("import sys, time; from pathlib import Path; from engines.gpu.store import PlanStore\n"
            "with PlanStore(Path(sys.argv[1])).building() as alone:\n    print(alone, flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code, str(store.folder)], stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None and builder.stdout.readline() == b"True\n"
        asked = iter([False, False, True])
        with store.building(lambda: next(asked)) as alone:
            assert not alone, "two build at once"
        builder.kill()
        builder.wait()
        with store.building() as alone:
            assert alone


def test_the_least_recently_used_go_first_when_there_are_too_many(tmp_path: Path) -> None:
    clock = iter(range(1000, 2000))
    store = PlanStore(tmp_path / "engines", now=lambda: float(next(clock)), max_plans=3)
    keys = [f"{n:064x}" for n in range(4)]
    for n, key in enumerate(keys[:3]):
        store.put(key, PLAN, REPORT)
        store.note(key, b"{}")
        os.utime(_file(store, key), (n, n))
    assert isinstance(store.get(keys[0]), Found)  # used now: the second is the oldest
    store.put(keys[3], PLAN, REPORT)
    assert [_file(store, key).exists() for key in keys] == [True, False, True, True]
    assert not (store.folder / f"{keys[1]}.json").exists()


def test_plans_go_when_they_are_too_large_together_but_never_the_newest(tmp_path: Path) -> None:
    store = PlanStore(tmp_path / "engines", max_bytes=1)
    store.put(KEY, PLAN, REPORT)
    store.put(OTHER, PLAN, REPORT)
    assert isinstance(store.get(OTHER), Found) and not _file(store).exists()


def test_a_plan_that_the_device_refused_is_forgotten(store: PlanStore) -> None:
    store.forget(KEY)
    _missing(store, "absent")
    store.forget(KEY)
