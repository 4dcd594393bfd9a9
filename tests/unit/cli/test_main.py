"""The command line: exit codes, readable errors, what is offered, and how fast."""

import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from pipeline.cli import main as cli
from pipeline.errors import BrokerError, ConfigError, Fatal, InputError, ModelError, Retryable

#: A module that stands in for a command; `main` imports commands by name, so a real module is what it gets.
FAILING = """
import typer
from pipeline import errors
app = typer.Typer(add_completion=False)

@app.command()
def failing(kind: str) -> None:
    '''Fail as told.'''
    if kind == "exit":
        raise typer.Exit(7)
    if kind == "bug":
        raise ZeroDivisionError("by nothing")
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind != "ok":
        raise getattr(errors, kind)("what, where, limit, what to do")
"""


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """Register the command `failing` for this test."""
    (tmp_path / "failing_command.py").write_text(FAILING)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(cli.COMMANDS, "failing", cli.Entry("failing_command", "Fail as told."))
    yield
    sys.modules.pop("failing_command", None)


def kizashi(*args: str, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pipeline.cli.main", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | env, timeout=60)


@pytest.mark.parametrize(("kind", "code"), [
    ("ok", 0), ("exit", 7), ("Fatal", 1), ("ConfigError", 2), ("BrokerError", 3), ("Retryable", 3), ("ModelError", 4),
    ("InputError", 5), ("bug", 1), ("interrupt", 130),
])
def test_every_end_has_its_exit_code(failing, capsys, kind, code):
    assert cli.main(["failing", kind]) == code


@pytest.mark.parametrize("kind", ["ConfigError", "BrokerError", "Retryable", "ModelError", "InputError"])
def test_an_error_that_a_person_can_mend_is_readable_and_has_no_traceback(failing, capsys, kind):
    cli.main(["failing", kind])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kizashi: what, where, limit, what to do")
    assert "Traceback" not in err


def test_a_fault_of_the_program_shows_where_it_is(failing, capsys):
    cli.main(["failing", "bug"])
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "ZeroDivisionError: by nothing" in err
    assert "please report it" in err


def test_exit_codes_are_those_of_the_error_tree():
    codes = {e: e.exit_code for e in (Fatal, ConfigError, BrokerError, ModelError, InputError)}
    assert list(codes.values()) == [1, 2, 3, 4, 5]
    assert not issubclass(Retryable, Fatal)


@pytest.mark.parametrize(("args", "says"), [
    (["rum"], "No such command 'rum'. Did you mean 'run'?"),
    (["run", "--nonsense"], "No such option: --nonsense"),
    (["run", "--set", "batch.max_size"], "is no SECTION.KEY=VALUE"),
])
def test_wrong_usage_exits_2_and_says_how(capsys, args, says):
    assert cli.main(args) == 2
    assert says in capsys.readouterr().err


def test_wrong_settings_exit_2_with_every_fault_on_stderr():
    done = kizashi("run", "--set", "batch.max_size=0", "--set", "engine.threads=many", KIZASHI_METRICS__PORT="-1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 4
    for part in ("3 faults", "batch.max_size = 0 rows", "engine.threads = 'many'", "KIZASHI_METRICS__PORT = '-1'"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_can_be_checked_without_a_broker(tmp_path):
    path = tmp_path / "kizashi.toml"
    path.write_text("[batch]\nmax_size = 64\n")
    done = kizashi("run", "--check", "-c", str(path))
    assert (done.returncode, done.stdout) == (0, "the configuration is valid\n")


def test_an_assignment_is_read_as_toml_and_else_as_text(tmp_path):
    done = kizashi("run", "--check", "--set", "group.id=line-1", "--set", "topics.assessment=true",
                   "--set", "routes=[{bundle = 'a'}]", "--broker", "plant-broker:9092")
    assert done.returncode == 0, done.stderr


def test_a_broker_that_is_away_exits_3_with_one_readable_line():
    for command in (["topics", "plan"], ["tail", "alerts"], ["deadletters", "replay"]):
        done = kizashi(*command, "--broker", "127.0.0.1:1")
        assert done.returncode == 3, command
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("kizashi: cannot ")
        assert "127.0.0.1:1" in done.stderr


def test_a_secret_shows_in_no_output():
    done = kizashi("run", "--set", "batch.max_size=0", KIZASHI_BROKER__PASSWORD="hunter2-secret",
                   KIZASHI_BROKER__SECURITY_PROTOCOL="SASL_SSL")
    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr


def test_help_lists_the_commands():
    result = CliRunner().invoke(cli.app, ["--help"], prog_name="kizashi")
    assert result.exit_code == 0
    for name in cli.COMMANDS:
        assert f"  {name} " in result.output


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_explains_itself(name, capsys):
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: kizashi {name} ")
    assert "--install-completion" not in out


def test_a_command_s_modules_are_imported_only_when_it_is_called():
    done = _run_and_name_heavy_imports("--help")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "[]\n"


def _run_and_name_heavy_imports(*args: str) -> subprocess.CompletedProcess:
    code = f"""
import sys
from pipeline.cli.main import main
code = main({list(args)!r})
heavy = {{"numpy", "faust", "aiokafka", "onnxruntime", "pydantic", "rich", "structlog"}}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_help_comes_within_half_a_second():
    best = min(_seconds("--help") for _ in range(3))
    assert best < 0.5, f"{best:.2f} s"


def _seconds(*args: str) -> float:
    start = time.perf_counter()
    assert kizashi(*args).returncode == 0
    return time.perf_counter() - start


def test_the_health_check_of_a_container_needs_no_heavy_import():
    done = _run_and_name_heavy_imports("doctor", "--live", "--set", "metrics.port=1")
    assert done.returncode == 1
    assert done.stderr == "['pydantic']\n"
    assert done.stdout.startswith("no worker answers at 127.0.0.1:1: ")


@pytest.mark.parametrize(("arguments", "said"), [
    (("nab", "--protocol", "cv"), "nothing is fitted"), (("femto", "--protocol", "cv"), "nothing is fitted"),
    (("skab", "--protocol", "cv", "--seeds", "3"), "nothing is drawn by chance"),
    (("cmapss", "--seeds", "3"), "only --protocol cv fits seeds"),
])
def test_an_option_of_evaluate_that_would_do_nothing_is_refused(tmp_path, capsys, arguments, said):
    assert cli.main(["evaluate", *arguments, "--data", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert said in capsys.readouterr().err


def test_evaluate_tries_where_it_writes_before_the_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["evaluate", "cmapss", "--data", str(tmp_path), "--out", str(tmp_path / "file")]) == 5
    assert "cannot be a folder" in capsys.readouterr().err
