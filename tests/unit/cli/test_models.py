"""`kizashi models`: list, check, keygen, sign, rollback, as a person uses them one after the other."""

import errno
import os
import re
import shutil
import stat
import tomllib
from pathlib import Path

import msgspec
import pytest

from engines import load_bundle, shipped_bundles
from engines.archive import pack, read_files
from pipeline import modelbook
from pipeline.cli.main import main
from pipeline.ops.config import load_settings
from tests import models

SHIPPED = shipped_bundles()["anomaly-mewma"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "kizashi.toml").write_text('[models]\nfolder = "models"\nstate = "state"\n')
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main(["models", *map(str, args)])
    said = capsys.readouterr()
    return code, said.out, said.err


def versioned(folder: Path, version: str) -> Path:
    """Copy the shipped bundle and call it another version."""
    copy = shutil.copytree(SHIPPED, folder)
    passport = copy / "model.toml"
    passport.write_text(passport.read_text().replace('version = "1.1.0"', f'version = "{version}"'))
    return copy


def test_check_says_everything_of_the_shipped_bundles_and_that_they_are_in_order(here, capsys):
    code, out, err = run(capsys, "check", "--rounds", 5)
    assert (code, err) == (0, "")
    assert f"anomaly-mewma 1.1.0  {SHIPPED}\n  trust        as shipped (pinned in this package)\n" in out
    for text in ("model.onnx             1,132 B  sha256 ", "z f8[n, C]  [1]", "score f8[n]  [1]  what is judged",
                 "opset 13", "p50 f4[n]  [cycles]  remaining life, median",
                 "382 rows in 4 cases, 5 sequences; 121 within 10% of the limit", "tensorrt ", "tensorrt_rtx ",
                 "onnx_cpu     parity ok on 382 rows, no decision changes", "reference    parity ok on 382 rows",
                 "rows          1       8      32      64     128     256", "p99 us", "of 5; memory "):
        assert text in out, text
    assert out.endswith(f"{len(shipped_bundles())} checked, all in order\n")


def test_check_reads_a_bundle_that_nobody_vouches_for_and_never_runs_it(here, capsys, monkeypatch):
    folder = models.bundle(here / "models" / "a", models.dense())
    below = versioned(here / "models" / "b", "1.0.0")
    tried = []
    monkeypatch.setattr("pipeline.cli.modelsengine.try_engine", lambda *args: tried.append(args))
    run(capsys, "sign", below)
    least = ("--set", "models.allow_unsigned=true", "--set", 'models.min_version={anomaly-mewma = "1.1.0"}')
    for path, more, why in ((folder, (), "is not trusted: nobody signed it; sign it (`kizashi models sign`) "),
                            (below, least, "version 1.0.0 is below models.min_version = 1.1.0")):
        code, out, _ = run(capsys, "check", path, "--rounds", 5, *more)
        assert code == 4
        assert f"FAULT: {why}" in out
        assert "UNSIGNED: " in out and "  graph        " in out  # what it says is told all the same
        assert "  engines      not run: " in out
        assert out.endswith("1 checked, 1 not in order\n")
    assert not tried
    monkeypatch.undo()
    code, out, _ = run(capsys, "check", folder, "--rounds", 5, "--set", "models.allow_unsigned=true")
    assert code == 0
    assert "onnx_cpu     parity ok on 256 rows" in out


def test_check_tells_what_a_model_holds_whatever_was_checked_before_it(here, capsys):
    small = shipped_bundles()["slow-level"]
    code, out, _ = run(capsys, "check", SHIPPED, small, small, "--rounds", 5)
    assert code == 0
    held = [float(said) for said in re.findall(r"memory ([\d.]+) MiB", out)]
    assert len(held) == 3
    assert min(held) > 5  # ONNX Runtime's arenas and pools, which the first session of a process allocates
    assert held[1] == pytest.approx(held[2], rel=0.2)


def test_check_tells_of_the_files_that_were_verified_and_reads_them_once(here, capsys, monkeypatch):
    def nothing(path):
        raise AssertionError("read again")

    monkeypatch.setattr("engines.bundle.read_files", nothing)
    assert run(capsys, "check", SHIPPED, "--rounds", 0)[0] == 0


def test_check_says_that_the_reference_does_not_know_an_operator_and_finds_no_fault(here, capsys, monkeypatch):
    from engines import reference

    folder = models.bundle(here / "models" / "a", models.rounded_up())
    assert "Ceil" not in reference.OPERATORS
    code, out, _ = run(capsys, "check", folder, "--rounds", 0, "--set", "models.allow_unsigned=true")
    assert code == 0
    assert "reference    cannot check this model: reference: no operator Ceil here; known are Add, " in out
    assert "onnx_cpu     parity ok on 256 rows" in out


def test_check_tells_of_an_engine_whose_process_dies(here, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.cli.modelsengine._MODULE", "antigravity_that_is_not_there")
    code, out, _ = run(capsys, "check", SHIPPED, "--rounds", 0)
    assert code == 4
    assert "onnx_cpu     FAULT: its process ended with exit code 1 and no answer; its last words: " in out


def test_check_names_faults_of_files_and_contents_and_goes_on_with_the_next(here, capsys, monkeypatch):
    monkeypatch.setattr("engines.select.backends", lambda: [])  # engines are another test's
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    broken = models.bundle(here / "models" / "a", models.dense())
    (broken / "model.onnx").write_bytes(b"")
    (here / "models" / "b.zip").write_bytes(b"PK")
    code, out, _ = run(capsys, "check", "-c", "kizashi.toml", "--rounds", 0)
    assert code == 4
    assert "FAULT: model.onnx is not what the manifest says" in out
    assert "FAULT: is neither a folder nor a .zip of a bundle" in out
    assert f"{2 + len(shipped_bundles())} checked, 2 not in order" in out


def test_check_refuses_golden_vectors_that_the_model_does_not_meet_and_names_the_row(here, capsys):
    folder = models.bundle(here / "models" / "a", models.dense(0))
    other = read_files(models.bundle(here / "other", models.dense(1)))
    models.write(folder, {**{k: v for k, v in read_files(folder).items() if k != "manifest.json"},
                          "golden.msgpack": other["golden.msgpack"]})
    code, out, _ = run(capsys, "check", folder, "--rounds", 0, "--set", "models.allow_unsigned=true")
    assert code == 4
    assert "FAULT: parity: given row " in out
    assert "times the tolerance" in out


def test_check_holds_the_model_to_its_budget(here, capsys):
    folder = models.bundle(here / "models" / "a", models.dense(), budget={"latency_ms": 1e-6, "memory_mb": 1e-9})
    code, out, _ = run(capsys, "check", folder, "--rounds", 5, "--set", "models.allow_unsigned=true")
    assert code == 4
    assert "FAULT: p99 of 256 rows: " in out
    assert "the budget is 1e-06 ms" in out


def test_key_that_is_made_signs_and_its_entry_is_what_the_configuration_takes(here, capsys):
    code, entry, _ = run(capsys, "keygen", "key.pem", "--id", "acme")
    assert code == 0
    assert stat.S_IMODE((here / "key.pem").stat().st_mode) == 0o600
    (here / "kizashi.toml").write_text('models.folder = "models"\nmodels.state = "state"\n' + entry)
    folder = versioned(here / "models" / "a", "1.2.0")
    assert run(capsys, "check", "-c", "kizashi.toml", folder, "--rounds", 0)[0] == 4
    code, out, _ = run(capsys, "sign", folder, "--key", "key.pem")
    assert (code, out) == (0, "models/a: signed by key 'acme'\n".replace("models/a", str(folder)))
    code, out, _ = run(capsys, "check", "-c", "kizashi.toml", folder, "--rounds", 0)
    assert code == 0
    assert "signed by key 'acme'" in out
    settings = load_settings(here / "kizashi.toml", {}, {})
    (key,) = settings.models.trusted_keys
    assert key.not_after is not None
    assert key.not_after.tzinfo is not None
    code, out, _ = run(capsys, "list", "-c", "kizashi.toml")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["NAME", "VERSION", "TRUST", "SERVES", "WHERE"]
    assert rows[1] == ["anomaly-mewma", "1.2.0", "signed", "acme", "next", "models/a"]
    assert ["anomaly-mewma", "1.1.0", "pinned", "-", str(SHIPPED)] in rows


def test_key_is_never_written_over_and_has_an_id_of_its_own(here, capsys):
    code, entry, _ = run(capsys, "keygen", "key.pem")
    assert code == 0
    assert tomllib.loads(entry)["models"]["trusted_keys"][0]["id"].startswith("key-")
    before = (here / "key.pem").read_bytes()
    code, _, err = run(capsys, "keygen", "key.pem")
    assert code == 5
    assert "File exists; a key is never written over" in err
    assert (here / "key.pem").read_bytes() == before
    assert run(capsys, "keygen", "other.pem", "--id", "no good")[0] == 2


def test_sign_writes_a_canonical_zip_and_leaves_the_folder_alone(here, capsys):
    run(capsys, "keygen", "key.pem", "--id", "acme")
    folder = versioned(here / "a", "1.2.0")
    before = read_files(folder)
    code, out, _ = run(capsys, "sign", folder, "--key", "key.pem", "--id", "acme-2", "--zip", "models/a.zip")
    assert (code, out) == (0, "models/a.zip: signed by key 'acme-2'\n")
    assert read_files(folder) == before
    files = read_files(here / "models" / "a.zip")
    assert (here / "models" / "a.zip").read_bytes() == pack(files)
    assert msgspec.json.decode(files["manifest.sig"])["key"] == "acme-2"
    code, out, _ = run(capsys, "sign", "models/a.zip", "--zip", "b.zip")  # from .zip to .zip, without a key
    assert (code, out) == (0, "b.zip: has a manifest, no signature: it needs models.allow_unsigned\n")
    assert "manifest.sig" not in read_files(here / "b.zip")
    assert load_bundle(here / "b.zip", models.UNSIGNED).spec.version == "1.2.0"
    assert sorted(p.name for p in here.iterdir()) == ["a", "b.zip", "key.pem", "kizashi.toml", "models"]


def test_sign_writes_through_no_link_that_lies_where_it_writes(here, capsys):
    folder, mine = versioned(here / "a", "1.2.0"), here / "mine"
    mine.write_text("keep")
    for name in ("b.zip", ".b.zip.part"):
        (here / name).symlink_to(mine)
    assert run(capsys, "sign", folder, "--zip", "b.zip")[0] == 0
    assert mine.read_text() == "keep"
    assert not (here / "b.zip").is_symlink()
    assert load_bundle(here / "b.zip", models.UNSIGNED).spec.version == "1.2.0"
    assert sorted(p.name for p in here.glob(".b.zip*")) == [".b.zip.part"]  # nothing of its own is left


def test_sign_without_a_key_takes_an_old_signature_away(here, capsys):
    run(capsys, "keygen", "key.pem")
    folder = versioned(here / "a", "1.2.0")
    assert run(capsys, "sign", folder, "--key", "key.pem")[0] == 0
    assert (folder / "manifest.sig").exists()
    assert run(capsys, "sign", folder)[0] == 0
    assert not (folder / "manifest.sig").exists()
    assert load_bundle(folder, models.UNSIGNED).trust.status == "unsigned"


def test_sign_says_that_an_old_signature_cannot_be_taken_away(here, capsys, monkeypatch):
    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    folder = versioned(here / "a", "1.2.0")
    before = read_files(folder)
    monkeypatch.setattr(Path, "unlink", unlink)  # root may write into any folder
    code, _, err = run(capsys, "sign", folder)
    assert code == 5
    assert f"{folder / 'manifest.sig'}: Read-only file system" in err
    assert read_files(folder) == before


@pytest.mark.parametrize(("args", "code", "text"), [
    (["a", "--key", "nowhere.pem"], 5, "nowhere.pem: No such file or directory; `kizashi models keygen` makes a key"),
    (["a", "--key", "plain.pem"], 5, "plain.pem does not say its key's id; give it with --id"),
    (["a", "--key", "plain.pem", "--id", "k"], 5, "plain.pem: no private key in PEM"),
    (["a.zip"], 5, "a.zip is no folder; with a .zip say where the signed one goes: --zip OUT"),
    (["nowhere", "--zip", "b.zip"], 4, "not signed: cannot be read: No such file or directory"),
    (["bad"], 4, "not signed: colour: unknown key"),
    (["a", "--zip", "nowhere/b.zip"], 5, "nowhere/b.zip: No such file or directory"),
])  # fmt: skip
def test_sign_refuses_what_cannot_be_signed(here, capsys, args, code, text):
    (here / "plain.pem").write_bytes(b"nothing")
    models.bundle(here / "a", models.dense())
    models.bundle(here / "bad", models.dense(), colour="red")
    got, _, err = run(capsys, "sign", *args)
    assert got == code
    assert text in err


def test_rollback_is_recorded_and_keeps_newer_versions_from_serving(here, capsys):
    config = ("-c", "kizashi.toml", "--set", "models.allow_unsigned=true")
    for version in ("1.2.0", "1.3.0"):
        run(capsys, "sign", versioned(here / "models" / version, version))
    settings = load_settings(here / "kizashi.toml", {}, {})
    modelbook.record_active(settings, "anomaly-mewma", "1.2.0")
    code, out, _ = run(capsys, "rollback", "anomaly-mewma", "--to", "1.1.0", "--why", "false alarms", *config)
    assert code == 0
    assert out.startswith("anomaly-mewma: 1.1.0 serves instead of 1.3.0; a running worker changes within")
    (back,) = modelbook.read_record(settings).rollbacks
    assert (back.from_, back.to, back.why) == ("1.3.0", "1.1.0", "false alarms")
    assert back.who
    _, out, _ = run(capsys, "list", *config)
    served = {line.split()[1]: line.split()[3] for line in out.splitlines() if line.startswith("anomaly-mewma")}
    assert served == {"1.1.0": "next", "1.2.0": "refused", "1.3.0": "refused"}
    assert "refused: 1.3.0 was rolled back to 1.1.0 by " in out
    assert "anomaly-mewma 1.3.0 -> 1.1.0 by " in out
    modelbook.record_active(settings, "anomaly-mewma", "1.1.0")
    assert " yes " in run(capsys, "list", *config)[1]
    assert run(capsys, "rollback", "anomaly-mewma", "--to", "1.3.0", "--why", "they were true", *config)[0] == 0
    assert not modelbook.read_record(settings).refuses("anomaly-mewma", "1.3.0")


@pytest.mark.parametrize(("args", "text"), [
    (("anomaly-mewma", "--to", "0.9.0"), "no version 0.9.0 of bundle 'anomaly-mewma', there are: 1.1.0. Put it into"),
    (("nothing", "--to", "1.0.0"), "no version 1.0.0 of bundle 'nothing', there are: none"),
    (("anomaly-mewma", "--to", "1.1.0"), "1.1.0 is the highest version of bundle 'anomaly-mewma' here"),
    (("made", "--to", "1.0.0"), "not rolled back, 1.0.0 could not serve: is not trusted: nobody signed it"),
])  # fmt: skip
def test_rollback_refuses_what_could_not_serve(here, capsys, args, text):
    for version in ("1.0.0", "1.1.0"):
        models.bundle(here / "models" / version, models.dense(), version=version)
    code, _, err = run(capsys, "rollback", *args, "--why", "w", "-c", "kizashi.toml")
    assert code == 4
    assert text in err
    assert not (here / "state").exists()


def test_record_that_cannot_be_read_is_told_and_nothing_crashes(here, capsys):
    (here / "state").mkdir()
    (here / "state" / modelbook.FILE).write_text("{")
    code, out, _ = run(capsys, "list", "-c", "kizashi.toml")
    assert code == 0
    assert "FAULT: the record " in out
