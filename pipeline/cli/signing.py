"""Private keys of those who sign bundles: read from a file, with the name that it gives them."""

import re
from pathlib import Path

import typer

from pipeline.errors import InputError

#: First line of a key file that `kizashi models keygen` writes.
ID_LINE = "# kizashi key id: "


def checked_id(key_id: str) -> str:
    """Return the name of a key. Raises typer.BadParameter."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", key_id):
        raise typer.BadParameter(f"{key_id!r}: letters, digits, . _ -, up to 64 characters", param_hint="--id")
    return key_id


def read_key(path: Path | None, key_id: str | None) -> tuple[bytes, str] | None:
    """Return a private key and its name, `key_id` or the file's own; None without a file. Raises InputError."""
    if path is None:
        if key_id is not None:
            raise typer.BadParameter("names the key of --key, which is not given", param_hint="--id")
        return None
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; `kizashi models keygen` makes a key") from error
    if key_id is None:
        first = pem.split(b"\n", 1)[0].decode(errors="replace")
        if not first.startswith(ID_LINE):
            raise InputError(f"{path} does not say its key's id; give it with --id, as it is in models.trusted_keys")
        key_id = first.removeprefix(ID_LINE).strip()
    return pem, checked_id(key_id)
