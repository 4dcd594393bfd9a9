"""Mistakes that people make: one message with what to do, an exit code, no traceback. D: an empty folder."""

import pytest

from tests.plant import SKAB_COLUMNS, kizashi


@pytest.mark.parametrize(("line", "code", "said"), [
    ("evaluate cmapss --data D --out D/out", 5, "D: holds no test_FD00k.txt or .txt.gz (k from 1 to 4)\n"),
    ("evaluate cmapss --data D/sets --out D/out", 5, "(k from 1 to 4); is it D/sets/cmapss?"),
    ("evaluate skab --data D/skab --out D/out --bundle rul-ewma", 5, "no row could be scored, no_route"),
    ("evaluate nab --data D/none --out D/out", 5, "D/none: is no folder"),
    ("train rul-ewma --data D --out D/b --id me", 2, "--id: names the key of --key"),
    ("train pca-t2q --data D/skab --out D/b", 5, "D/skab/map.toml: is not there; it says which columns"),
    ("import csv D/none.csv --map skab --to D/c", 5, "D/none.csv: cannot be read: No such file"),
    ("import parquet D/none.parquet --map skab --to D/c", 5, "D/none.parquet: cannot be read as Parquet: "),
    ("import csv D/skab/valve1/0.csv --map skab --to D", 5, "D: is a folder; --to takes a file's name"),
    ("calibrate pump-1 --reason LONG", 2, "Invalid value for --reason: "),
    ("models bench nonsense", 4, "there is no bundle 'nonsense', there are anomaly-convae, "),
    ("models keygen D/none/key", 5, "D/none/key: No such file or directory\n"),
])
def test_a_mistake_is_answered_in_one_message(tmp_path, line, code, said):
    (tmp_path / "sets" / "cmapss").mkdir(parents=True)
    (tmp_path / "skab" / "valve1").mkdir(parents=True)
    (tmp_path / "skab" / "valve1" / "0.csv").write_text(
        f"datetime;{SKAB_COLUMNS}\n" + "".join(f"2026-01-01 00:00:{i:02d};1;2;3;4;5;6;7;8\n" for i in range(3)))
    args = [word.replace("D", str(tmp_path), 1) if word[0] == "D" else word.replace("LONG", "x" * 501)
            for word in line.split()]
    got, _, err = kizashi(*args)
    assert got == code, err
    assert said.replace("D/", f"{tmp_path}/").replace("D:", f"{tmp_path}:") in err
    assert "Traceback" not in err
