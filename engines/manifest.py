"""The manifest of a bundle: name, version, and the hash and size of every file; and the signature over its bytes.

Both files have one form: decoded and encoded again they must give the same bytes, so nothing can hide in them.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from engines.archive import GOLDEN, MANIFEST, MODEL, PASSPORT, SIGNATURE
from engines.fields import Name, Version

#: What every bundle has; the manifest names exactly these.
FILES = (GOLDEN, MODEL, PASSPORT)

_Document = TypeVar("_Document", "Manifest", "Signature")
KeyId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}(?!\n)$")]


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A file: SHA-256 in hex, size in bytes."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?!\n)$")]
    size: Annotated[int, Meta(ge=0)]

    @classmethod
    def of(cls, data: bytes) -> "FileEntry":
        return cls(hashlib.sha256(data).hexdigest(), len(data))


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """`manifest.json`."""

    files: dict[str, FileEntry]
    name: Name
    version: Version
    format: Literal["kizashi-bundle/1"] = "kizashi-bundle/1"

    @classmethod
    def of(cls, name: str, version: str, files: Mapping[str, bytes]) -> "Manifest":
        return cls({file: FileEntry.of(files[file]) for file in FILES}, name, version)

    def faults(self, files: Mapping[str, bytes]) -> list[str]:
        """Say what of `files` is not as this manifest says; empty if all is."""
        found = [f"{file} is missing" for file in sorted(self.files.keys() - files.keys())]
        for file in sorted(files.keys() - {MANIFEST, SIGNATURE}):
            entry = self.files.get(file)
            if entry is None:
                found.append(f"{file} is not in the manifest")
            elif entry != FileEntry.of(files[file]):
                found.append(f"{file} is not what the manifest says: {len(files[file])} bytes, "
                             f"SHA-256 {FileEntry.of(files[file]).sha256[:12]}, there {entry.size} and "
                             f"{entry.sha256[:12]}; after an edit `kizashi models sign` writes a new manifest")
        return found


class Signature(Struct, frozen=True, forbid_unknown_fields=True):
    """`manifest.sig`: id of the key, and its Ed25519 signature over the bytes of `manifest.json`, 64 bytes in hex."""

    key: KeyId
    signature: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}(?!\n)$")]


def encode(document: Manifest | Signature) -> bytes:
    """Return the one form of a document: JSON, keys sorted, two spaces, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """Read `manifest.json`. Raises ValueError for anything that `encode` does not write."""
    manifest = _decode(data, Manifest)
    if sorted(manifest.files) != sorted(FILES):
        raise ValueError(f"names {', '.join(manifest.files) or 'no files'}; a bundle has {', '.join(FILES)}")
    return manifest


def decode_signature(data: bytes) -> Signature:
    """Read `manifest.sig`. Raises ValueError for anything that `encode` does not write."""
    return _decode(data, Signature)


def _decode(data: bytes, kind: type[_Document]) -> _Document:
    document = msgspec.json.decode(data, type=kind)
    if encode(document) != data:
        raise ValueError("is not in the form that `kizashi models sign` writes")
    return document
