"""Adapter: a tar archive, plain or compressed.

A compressed one is unpacked into a temporary file, once in a process, as nothing in it can be found otherwise.
"""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tempfile
import threading
import zlib
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

from competition.base.archives import PIECE, check_size, copy_pieces
from competition.base.files import InputError
from competition.data.sources.layout import open_labelled, open_unlabelled
from competition.data.sources.source import EXPECTED, folders_of, is_ignored
from competition.data.sources.zip_file import check_member

__all__ = ["Tar", "matches", "open_labelled", "open_store", "open_unlabelled"]

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}  # by how a file begins


class Tar:
    """The files of a tar archive, of which `file` is the content, not compressed."""

    def __init__(self, path: Path, file: IO[bytes]):
        self.path, self._file, self._lock = path, file, threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}  # where a file begins, and how long it is
        known: dict[str, tarfile.TarInfo] = {}  # of its links
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for entry in archive:
                name = entry.name.removeprefix("./")
                check_member(path, name, "tar")
                if entry.islnk() and not known:
                    known = {one.name: one for one in archive.getmembers()}
                source = known[entry.linkname.rstrip("/")] if entry.islnk() else entry
                if not source.isreg() or any(part == "" or is_ignored(part) for part in name.split("/")):
                    continue
                if name in self._places:
                    raise InputError(f"{path}: holds {name} more than once")
                self._places[name] = source.offset_data, source.size

    def list(self) -> tuple[list[str], list[str]]:
        files = list(self._places)
        return files, folders_of(files)

    def has(self, name: str) -> bool:
        return name in self._places

    def read(self, name: str) -> bytes:
        start, size = self._places[name]
        check_size(self.path, name, size)
        with self._lock:
            self._file.seek(start)
            data = self._file.read(size)
        if len(data) < size:
            raise EOFError("the archive ends within the file")
        return data


def matches(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ENDINGS)


def open_store(path: Path, expected: str = EXPECTED) -> Tar:
    about = os.stat(path)
    try:
        return Tar(path, open(path, "rb")) if _opener(path) is open else _unpack(path, about.st_mtime_ns, about.st_size)
    except InputError:
        raise
    except (tarfile.TarError, OSError, EOFError, KeyError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{path}: cannot be unpacked: {error}; unpack it yourself and give the folder") from None
        text = f"{path}: found another kind of file or a broken archive ({error}), expected {expected}"
        raise InputError(text) from None


@lru_cache(maxsize=2)
def _unpack(path, *_):
    """The Tar of a compressed archive; once in a process for each state of the file."""
    file = tempfile.TemporaryFile(prefix="competition-")
    with _opener(path)(path, "rb") as packed:
        copy_pieces(path, iter(lambda: packed.read(PIECE), b""), file, os.path.getsize(path))
    file.seek(0)
    return Tar(path, cast(io.BufferedRandom, file))


def _opener(path):
    """What opens a tar, packed or not, whatever its name says of that."""
    with open(path, "rb") as file:
        start = file.read(6)
    return next((opener for mark, opener in OPENERS.items() if start.startswith(mark)), open)
