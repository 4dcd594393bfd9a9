"""`kizashi models`: what bundles there are, whether they are in order, who vouches for them, and the way back."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.modelsbench import bench
from pipeline.cli.modelsbuild import build
from pipeline.cli.options import Assignments, ConfigFile, read_settings, user_name
from pipeline.cli.signing import ID_LINE, checked_id, read_key
from pipeline.errors import InputError, ModelError

if TYPE_CHECKING:
    from engines import BundleError
    from engines.bundle import Candidate
    from pipeline.modelbook import Record
    from pipeline.ops.settings import Settings

app = typer.Typer(add_completion=False)

#: Batches per bucket: enough for a p99 of two rounds. All buckets of a shipped bundle take 0.3 s.
_ROUNDS = 200
# Two years: long enough that no plant is stopped by a date, short enough that a forgotten key does not live for ever.
_KEY_DAYS = 730

Bundles = Annotated[list[Path] | None, typer.Argument(metavar="[BUNDLE]...", help="Folders or .zip; without: all.")]


@app.callback()
def models() -> None:
    """Bundles: what there is, whether it is in order, who vouches for it, and the way back to an older version."""


@app.command("list")
def list_(config: ConfigFile = None, assignments: Assignments = None) -> None:
    """List bundles, of models.folder and shipped: version, who vouches for them, and which version serves.

    SERVES: yes, by the record of this machine; next, at the next start or look at the folder; refused, by the record.
    """
    from pipeline.modelbook import candidates, ranked, read_record

    settings = read_settings(config, None, assignments)
    offers, record = candidates(settings), read_record(settings)
    best = [c for name in {c.name for c in offers} for c in ranked(name, offers, record)[:1]]
    rows = [("NAME", "VERSION", "TRUST", "SERVES", "WHERE")]
    rows += [(c.name, c.version or "-", _trust_of(c, settings), _serves(c, record, c in best), str(c.path))
             for c in offers]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    refused = (record.refuses(c.name, c.version) for c in offers if not c.fault)
    for line in [*(f"refused: {why}" for why in refused if why), *_history(record)]:
        print(line)


@app.command()
def check(
    paths: Bundles = None, config: ConfigFile = None, assignments: Assignments = None,
    rounds: Annotated[int, typer.Option(min=0, max=100_000, help="Batches measured per size; 0: no times.")] = _ROUNDS,
) -> None:
    """Check bundles: files, trust, shapes, dtypes, golden vectors on every engine of this machine, latency, memory.

    Needs no broker, no GPU and no network. A bundle that nobody vouches for is read, not run: sign it, or set
    models.allow_unsigned = true for this check. Exit code 4 when anything is wrong.
    """
    from engines.bundle import shipped_bundles
    from pipeline.cli.modelscheck import check as check_one
    from pipeline.modelbook import candidates

    settings = read_settings(config, None, assignments)
    wrong = 0
    found = paths or [c.path for c in candidates(settings)] or list(shipped_bundles().values())
    for path in found:
        result = check_one(path, settings, rounds)
        print("\n".join(result.lines), end="\n\n", flush=True)
        wrong += bool(result.faults)
    print(f"{len(found)} checked, {wrong} not in order" if wrong else f"{len(found)} checked, all in order")
    if wrong:
        raise typer.Exit(ModelError.exit_code)


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Gets the private key, owner only.")],
    key_id: Annotated[str | None, typer.Option("--id", help="Name of the key; without it a hash of it.")] = None,
    days: Annotated[int, typer.Option(min=1, max=36_500, help="How long it is to be believed.")] = _KEY_DAYS,
) -> None:
    """Make a pair of Ed25519 keys: the private one into FILE, the public one as an entry for the configuration."""
    import base64
    import hashlib

    from engines.trust import make_key

    pem, public = make_key()
    key_id = checked_id(key_id or f"key-{hashlib.sha256(public).hexdigest()[:8]}")
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(f"{ID_LINE}{key_id}\n".encode() + pem)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}{'; a key is never written over' * file.exists()}") from error
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    print(f"# The private key is in {file}: keep it off the machines that serve. For their configuration:")
    print("[[models.trusted_keys]]")
    print(f'id = "{key_id}"\nkey = "{base64.b64encode(public).decode()}"')
    print(f"not_after = {until.isoformat().replace('+00:00', 'Z')}")


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder or .zip.")],
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Private key; without it only a manifest.")] = None,
    key_id: Annotated[str | None, typer.Option("--id", help="Name of the key; without it the file's.")] = None,
    out: Annotated[Path | None, typer.Option("--zip", metavar="OUT", help="Write a .zip, leave BUNDLE alone.")] = None,
) -> None:
    """Check what is in BUNDLE, and write its manifest and signature."""
    from engines import BundleError
    from engines.archive import MANIFEST, SIGNATURE, pack
    from engines.sealing import sealed

    if out is None and not bundle.is_dir():
        raise InputError(f"{bundle} is no folder; with a .zip say where the signed one goes: --zip OUT")
    pem, name = read_key(key, key_id) or (None, None)
    try:
        files = sealed(bundle, pem, name)
    except BundleError as error:
        raise ModelError(f"not signed: {_lines(error)}") from error
    except ValueError as error:
        raise InputError(f"{key}: {error}") from error
    if out is not None:
        _replace(out, pack(files))
    else:
        _remove(bundle / SIGNATURE)
        for file in (MANIFEST, SIGNATURE):
            if file in files:
                _replace(bundle / file, files[file])
    what = f"signed by key {name!r}" if name else "has a manifest, no signature: it needs models.allow_unsigned"
    print(f"{out or bundle}: {what}")


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Bundle.")],
    to: Annotated[str, typer.Option(metavar="VERSION", help="Version to serve; those above it serve no more.")],
    why: Annotated[str, typer.Option(metavar="TEXT", help="For the record.")],
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Go back to an older version. It is recorded who did it and why.

    A version newer than all there are ends it, and so does a rollback to the one that was rolled back.
    """
    from engines import BundleError, load_bundle
    from engines.trust import version_key
    from pipeline.assembly import trust_policy
    from pipeline.modelbook import Rollback, candidates, read_record, record_rollback

    settings = read_settings(config, None, assignments)
    offers, record = candidates(settings), read_record(settings)
    of_name = [c for c in offers if c.name == name and not c.fault]
    target = next((c for c in of_name if c.version == to), None)
    if target is None:
        there = ", ".join(sorted({c.version for c in of_name}, key=version_key)) or "none"
        raise ModelError(f"no version {to} of bundle {name!r}, there are: {there}. Put it into models.folder first")
    known = [c.version for c in of_name] + [v for v in (record.active.get(name), record.highest.get(name)) if v]
    was = max(known, key=version_key)
    if version_key(was) <= version_key(to) and not record.refuses(name, to):
        raise ModelError(f"{to} is the highest version of bundle {name!r} here: there is nothing to go back from")
    try:
        load_bundle(target.path, trust_policy(settings))
    except BundleError as error:
        raise ModelError(f"not rolled back, {to} could not serve: {_lines(error)}") from error
    record_rollback(settings, Rollback(name, was, to, datetime.now(UTC).replace(microsecond=0), user_name(), why))
    print(f"{name}: {to} serves instead of {was}; a running worker changes within models.poll_s = "
          f"{settings.models.poll_s:g} s")


def _trust_of(candidate: "Candidate", settings: "Settings") -> str:
    from dataclasses import replace

    from engines import BundleError, load_bundle
    from pipeline.assembly import trust_policy

    policy = trust_policy(settings)
    try:
        trust = load_bundle(candidate.path, replace(policy, allow_unsigned=True)).trust
    except BundleError as error:
        return f"REFUSED: {error.faults[0][:60]}"
    return f"signed {trust.key_id}" if trust.status == "signed" else trust.status


def _history(record: "Record") -> list[str]:
    lines = [f"rolled back {r.when:%Y-%m-%d %H:%M} {r.name} {r.from_} -> {r.to} by {r.who}: {r.why}"
             for r in record.rollbacks]
    return [*lines, *([f"FAULT: {record.fault}"] if record.fault else [])]


def _serves(candidate: "Candidate", record: "Record", is_best: bool) -> str:
    if candidate.fault:
        return "-"
    if record.refuses(candidate.name, candidate.version):
        return "refused"
    if not is_best:
        return "-"
    return "yes" if record.active.get(candidate.name) == candidate.version else "next"


def _replace(path: Path, data: bytes) -> None:
    """Write a file at once: who looks meanwhile sees the old one or the new one. A link in its place goes."""
    try:
        # a name that nobody can lay a link under beforehand; one with a dot in front is no bundle
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as part:
            try:
                part.write(data)
                part.flush()
                os.fchmod(part.fileno(), 0o644)  # it holds no secret, and a worker is another user
                os.replace(part.name, path)
            except BaseException:
                os.unlink(part.name)
                raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _lines(error: "BundleError") -> str:
    return "; ".join(error.faults)


app.command()(build)
app.command()(bench)
