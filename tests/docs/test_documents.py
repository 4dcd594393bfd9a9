"""Documents are tests: their Python runs, their commands exist, their links and paths lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from pipeline.cli.main import app, main
from pipeline.ops.config import load_settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(ROOT.glob("*.md"))
EXECUTED = [path for path in DOCUMENTS if path.name in {"README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "MODELS.md"}]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
PATH = re.compile(r"^(schemas|engines|pipeline|tests|infra)/[\w./*-]*$")
#: Placeholders of a description, as in `pipeline/NAME.py`.
PLACEHOLDER = re.compile(r"[A-Z]{3,}")

by_name = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def commands(document: Path, program: str) -> list[str]:
    """Return every `program ...` in the document's shell blocks and code spans, without what starts it or follows."""
    text = document.read_text()
    lines = [line for language, body in FENCE.findall(text) if language in {"", "sh", "bash", "console", "shell"}
             for line in body.replace("\\\n", " ").splitlines()]
    lines += SPAN.findall(FENCE.sub("", text))
    found = []
    for line in lines:
        line = re.sub(r"^\s*(\$ |sudo )*([A-Z_]+=\S+ )*(\.venv/bin/)?", "", line)
        if re.match(rf"{program}( |$)", line):
            found.append(re.split(r" #|\s[>&;]|\s\|\s", line)[0].strip())
    return found


def slug(heading: str) -> str:
    """Return the anchor of a heading as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", EXECUTED, ids=lambda path: path.name)
def test_python_blocks_of_a_document_run_in_order(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a block that writes a file writes it here
    for example in Sybil(parsers=[PythonCodeBlockParser(), SkipParser()]).parse(document).examples():
        example.evaluate()


@by_name
def test_configuration_shown_in_a_document_is_accepted(document, tmp_path):
    for language, body in FENCE.findall(document.read_text()):
        if language == "toml" and re.search(r"^\[(broker|group|worker|topics|engine)\]", body, re.M):
            (tmp_path / "named.pem").touch()  # stands for every file that the plant has and we have not
            body = re.sub(r'(folder = )".*?"', rf'\1"{tmp_path}"', body)
            (tmp_path / "kizashi.toml").write_text(re.sub(r'(_file = )".*?"', rf'\1"{tmp_path}/named.pem"', body))
            load_settings(tmp_path / "kizashi.toml", {}, {"KIZASHI_BROKER__PASSWORD": "from the environment"})


@by_name
def test_make_targets_named_in_a_document_exist(document):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for command in commands(document, "make"):
        words = [word for word in shlex.split(command)[1:] if "=" not in word and not word.startswith("-")]
        assert set(words) <= targets, command


@by_name
def test_kizashi_commands_named_in_a_document_exist_with_their_options(document):
    for command in commands(document, "kizashi"):
        words = shlex.split(command)[1:]
        node, path = typer.main.get_command(app), []
        while words and hasattr(node, "get_command") and not words[0].startswith("-"):
            *others, word = words.pop(0).split("|")
            with node.make_context("kizashi", ["--help"], resilient_parsing=True) as context:
                children = [node.get_command(context, name) for name in [*others, word]]
            assert None not in children, command
            node, path = children[-1], [*path, word]
        known = {"--help"}.union(*([*parameter.opts, *parameter.secondary_opts] for parameter in node.params))
        asked = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert asked <= known, f"{command}: {sorted(asked - known)} not among {sorted(known)}"
        assert main([*path, "--help"]) == 0, command


@by_name
def test_relative_links_of_a_document_lead_to_a_file_and_a_heading(document):
    for target in LINK.findall(FENCE.sub("", document.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.M)
            assert anchor in {slug(heading) for heading in headings}, target


@by_name
def test_paths_named_in_a_document_exist(document):
    for span in SPAN.findall(FENCE.sub("", document.read_text())):
        if PATH.match(span) and not PLACEHOLDER.search(span):
            assert any(ROOT.glob(span.rstrip("/"))), span


def test_how_to_add_something_takes_at_most_ten_lines():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    sections = dict(re.findall(r"^## (Add .*)\n((?:(?!^## ).*\n)*)", text, re.M))
    assert len(sections) >= 3
    for heading, body in sections.items():
        assert len(body.strip().splitlines()) <= 10, heading
