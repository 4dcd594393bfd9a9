"""Reader of C-MAPSS: columns, labels only when asked for, broken files by name; and NASA's own files where they are."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from engines.recipes.rul_state import CHANNELS
from pipeline.errors import InputError
from pipeline.plant import cmapss


def table(units=2, cycles=3):
    return "".join(
        f"{u} {c} 0.1 0.2 100 " + " ".join(str(1000 * u + 10 * s + c / 10) for s in range(1, 22)) + " \n"
        for u in range(1, units + 1)
        for c in range(1, cycles + 1)
    )


def test_reads_units_with_cycle_settings_and_the_14_sensors(tmp_path):
    (tmp_path / "train_FD001.txt").write_text(table())
    histories = cmapss.train(tmp_path, ("FD001",))
    assert [h.name for h in histories] == ["train FD001/1", "train FD001/2"]
    second = histories[1].rows[2]
    assert len(second) == len(CHANNELS)
    assert second[:4].tolist() == [3, 0.1, 0.2, 100]
    assert second[4:].tolist() == [2000 + 10 * s + 0.3 for s in (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)]
    assert histories[0].rul().tolist() == [2, 1, 0]


def test_labels_are_opened_only_when_asked_for(tmp_path):
    (tmp_path / "test_FD003.txt.gz").write_bytes(gzip.compress(table().encode()))
    assert cmapss.subsets_in(tmp_path) == ("FD003",)
    assert [h.remaining for h in cmapss.test(tmp_path, ("FD003",))] == [None, None]
    with pytest.raises(InputError, match=r"holds no RUL_FD003\.txt"):
        cmapss.test(tmp_path, ("FD003",), labels=True)
    (tmp_path / "RUL_FD003.txt").write_text("7\n90\n")
    assert [h.rul()[0] for h in cmapss.test(tmp_path, ("FD003",), labels=True)] == [9, 92]
    (tmp_path / "RUL_FD003.txt").write_text("7\n")
    with pytest.raises(InputError, match="1 numbers for 2 units"):
        cmapss.test(tmp_path, ("FD003",), labels=True)


@pytest.mark.parametrize(
    ("text", "what"),
    [("1 2 3", "3 numbers, want rows of 26"), ("", "0 numbers"), ("a b", "not a table"), (table()[::-1], "not rise")],
)
def test_broken_files_are_named(tmp_path, text, what):
    (tmp_path / "train_FD002.txt").write_text(text if what != "not rise" else "\n".join(table().splitlines()[::-1]))
    with pytest.raises(InputError, match=rf"train_FD002\.txt.*{what}"):
        cmapss.train(tmp_path, ("FD002",))


def test_nasa_files_have_the_published_sizes():
    folder = Path(os.environ.get("KIZASHI_CMAPSS", Path(__file__).resolve().parents[4] / "shared" / "data" / "cmapss"))
    if not folder.is_dir():
        pytest.skip(f"C-MAPSS is not here: {folder}; KIZASHI_CMAPSS names another")
    sizes = [(len(u), sum(len(h.rows) for h in u)) for s in cmapss.SUBSETS for u in [cmapss.train(folder, (s,))]]
    assert sizes == [(100, 20631), (260, 53759), (100, 24720), (249, 61249)]
    assert all(np.isfinite(h.rows).all() for h in cmapss.test(folder, labels=True))
