"""A bundle's files, read once from a folder or a canonical .zip, within limits; nothing is unpacked to disk.

A canonical .zip holds the files sorted by name, stored, with one fixed time and nothing else: no extra fields, no
comments, no gaps. It is read by its local headers and built anew from what they gave; any byte that differs refuses
it. So a .zip has one form per contents, and no second directory that another reader would see differently.
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from engines.spec import BundleError

MODEL, PASSPORT, GOLDEN = "model.onnx", "model.toml", "golden.msgpack"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
#: Every file that a bundle may have, with its limit in bytes. A bundle is for an edge box: the shipped model has 2 kB.
#: 64 MiB leave room for a convolutional net and stop a wrong file (a data set, a disk image) before it is read.
LIMITS = {MODEL: 64 << 20, PASSPORT: 256 << 10, GOLDEN: 32 << 20, MANIFEST: 16 << 10, SIGNATURE: 4 << 10}

# Local header, entry of the directory, its end (APPNOTE 6.3: 4.3.7, 4.3.12, 4.3.16), without their variable parts.
_LOCAL, _ENTRY, _END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s4H2LH")
# Version 2.0, no flags, stored, 1980-01-01 00:00 (the first moment that a .zip can say).
_VERSION, _STORED, _TIME, _DATE = 20, 0, 0, 0x21
_UNIX, _MODE = 3 << 8, (stat.S_IFREG | 0o644) << 16
_MAX_ZIP = sum(LIMITS.values()) + 1024  # headers of five files take less
_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_REPACK = "write it by `kizashi models sign BUNDLE --zip OUT`"


def read_files(path: Path) -> dict[str, bytes]:
    """Return the files of the bundle at `path` by name. Raises BundleError with every fault; nothing is parsed yet."""
    try:
        if path.is_dir():
            files, faults = _read_folder(path)
        else:
            files, faults = unpack(_read(path, _MAX_ZIP)), []
    except OSError as error:
        raise BundleError(path, [f"cannot be read: {error.strerror or error}"]) from error
    except ValueError as error:
        raise BundleError(path, [str(error)]) from error
    if faults:
        raise BundleError(path, faults)
    return files


def read_manifest(path: Path) -> bytes:
    """Return the bytes of the manifest alone, to list a bundle. Raises OSError or ValueError."""
    if path.is_dir():
        return _read(path / MANIFEST, LIMITS[MANIFEST])
    with path.open("rb") as file:
        for name, at, size in _entries(file, path.stat().st_size):
            if name == MANIFEST:
                file.seek(at)
                return file.read(size)
    raise ValueError(f"no {MANIFEST} in it")


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the canonical .zip of `files`."""
    body, directory = bytearray(), bytearray()
    for name, data in sorted(files.items()):
        label, crc = name.encode("ascii"), zlib.crc32(data)
        common = (_VERSION, 0, _STORED, _TIME, _DATE, crc, len(data), len(data), len(label), 0)
        directory += _ENTRY.pack(b"PK\1\2", _UNIX | _VERSION, *common, 0, 0, 0, _MODE, len(body)) + label
        body += _LOCAL.pack(b"PK\3\4", *common) + label + data
    end = _END.pack(b"PK\5\6", 0, 0, len(files), len(files), len(directory), len(body), 0)
    return bytes(body + directory + end)


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the files of a canonical .zip. Raises ValueError for any other."""
    import io  # of a file that was read once: what is checked is what is used

    files = {name: data[at : at + size] for name, at, size in _entries(io.BytesIO(data), len(data))}
    if pack(files) != data:
        raise ValueError(f"the .zip is not canonical, bytes beside the files differ; {_REPACK}")
    return files


def _entries(file: BinaryIO, total: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of each file, in the order of a canonical .zip. Raises ValueError."""
    at, before = 0, ""
    while True:
        file.seek(at)
        head = file.read(_LOCAL.size)
        if at and head[:4] in (b"PK\1\2", b"PK\5\6"):
            return
        if len(head) < _LOCAL.size or head[:4] != b"PK\3\4":
            raise ValueError(f"the .zip is broken at byte {at}" if at else "is neither a folder nor a .zip of a bundle")
        _, _, flags, method, _, _, _, packed, size, length, _ = _LOCAL.unpack(head)
        name = file.read(min(length, 256)).decode("ascii", "replace")
        if name not in LIMITS:
            raise ValueError(f"the .zip holds {name!r}; a bundle has {', '.join(LIMITS)} and nothing else")
        if method != _STORED or packed != size or flags:
            raise ValueError(f"{name} in the .zip is compressed or encrypted (method {method}, {packed} for {size} "
                             f"bytes); bundles are stored: {_REPACK}")
        if size > LIMITS[name]:
            raise ValueError(f"{name} is {size} bytes, the limit is {LIMITS[name]} bytes")
        if name <= before:
            raise ValueError(f"{name} in the .zip comes after {before}; files are sorted, each once: {_REPACK}")
        at, before = at + _LOCAL.size + length, name
        if at + size > total:
            raise ValueError(f"{name} in the .zip is cut off")
        yield name, at, size
        at += size


def _read_folder(path: Path) -> tuple[dict[str, bytes], list[str]]:
    files, faults = {}, []
    for entry in sorted(os.scandir(path), key=lambda e: e.name):
        if entry.name not in LIMITS:
            faults.append(f"{entry.name!r} is not of a bundle, which has {', '.join(LIMITS)} and nothing else")
            continue
        try:
            files[entry.name] = _read(Path(entry.path), LIMITS[entry.name])
        except OSError as error:
            why = "it is a symbolic link" if entry.is_symlink() else error.strerror or error
            faults.append(f"{entry.name} cannot be read: {why}")
        except ValueError as error:
            faults.append(str(error))
    return files, faults


def _read(path: Path, limit: int) -> bytes:
    """Read a regular file, once, without following a link. Raises OSError, or ValueError when it is over `limit`."""
    # A link at the end of the path that the user gave (a mounted ConfigMap) is followed; links inside a bundle are not.
    with open(os.open(path if path.name in LIMITS else path.resolve(), _OPEN), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path.name} is not a regular file")
        if status.st_size > limit:
            raise ValueError(f"{path.name} is {status.st_size} bytes, the limit is {limit} bytes")
        data = file.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"{path.name} grows while it is read; it is over the limit of {limit} bytes")
        return data
