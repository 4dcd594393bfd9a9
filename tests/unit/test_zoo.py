"""The file of the models' figures: a section a name, in order, written anew when its name has run."""

import pytest

from pipeline.plant.evaluate.report import Report, Section
from pipeline.plant.evaluate.table import Table
from tests import zoo


@pytest.fixture
def results(tmp_path, monkeypatch):
    said = {"b": "first"}
    monkeypatch.setattr(zoo, "RESULTS", tmp_path / "MODELS.md")
    monkeypatch.setattr(zoo, "DATA", tmp_path)

    def told(name):
        return [f"{name} says", said.get(name, "")]

    monkeypatch.setattr(zoo, "_parts", lambda: {"a": told, "b": told})
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return tmp_path / "MODELS.md", said


def test_a_section_is_replaced_and_the_others_are_left_alone(results):
    path, said = results
    zoo.main(["b"])
    zoo.main(["a"])
    assert path.read_text() == zoo.HEAD + "\n## a\n\na says\n\n## b\n\nb says\nfirst\n"
    said["b"] = "second"
    zoo.main(["b"])
    assert path.read_text() == zoo.HEAD + "\n## a\n\na says\n\n## b\n\nb says\nsecond\n"


def test_a_set_that_is_not_here_is_skipped_and_an_unknown_name_refused(results, capsys):
    path, _ = results
    (path.parent / "a").rmdir()
    zoo.main([])
    assert "skipped" in capsys.readouterr().out and "## a" not in path.read_text()
    with pytest.raises(SystemExit, match="no nonsense; there are a, b"):
        zoo.main(["nonsense"])


def test_a_report_is_told_with_its_tables_and_the_hashes_of_its_data(tmp_path):
    (tmp_path / "x.csv").touch()
    table = Table("T", ("", "v"))
    table.add("ours", 1.0)
    report = Report("R", "c", ["found it"], [("x.csv", "0123"), ("seeds", "0, 1")], [Section("S", tables=[table])])
    text = "\n".join(zoo._told(report, "set", zoo.Options("cv"), tmp_path, 61.2, told := set()))
    for part in ("### cv", f"--data {tmp_path.name} --out OUT --protocol cv", "- data, 1 files: x.csv 0123",
                 "- seeds: 0, 1", "| ours | 1.00 |", "found it"):
        assert part in text
    files = [tmp_path / f"f{k:02}.csv" for k in range(13)]
    for path in files:
        path.touch()
    hashes = []
    for suffix in ("", ", trained on: left out of the headline"):
        report.facts = [(path.name, f"0123{suffix}") for path in files]
        told_of = "\n".join(zoo._told(report, "set", zoo.Options(), tmp_path, 1.0, set()))
        hashes.append(told_of.partition("SHA-256 of names and hashes ")[2][:12])
    assert hashes[0] == hashes[1] != ""
    assert "| ours" not in "\n".join(zoo._told(report, "set", zoo.Options("cv"), tmp_path, 61.2, told))
