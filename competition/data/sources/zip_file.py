"""Adapter: a zip, read in place. Zips in a zip are unpacked into temporary files, once in a process."""

import os
import re
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

from competition.base.archives import check_path, check_sizes, copy_pieces, member_pieces, read_member
from competition.base.files import InputError
from competition.data.sources.layout import open_labelled, open_unlabelled
from competition.data.sources.nested import Nested
from competition.data.sources.source import EXPECTED, UNREADABLE, folders_of, is_ignored

__all__ = ["Zip", "matches", "open_labelled", "open_store", "open_unlabelled"]


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)  # that Python unpacks
METHOD_NAMES = {9: "Deflate64, as Windows packs large files,", 93: "Zstandard", 95: "xz", 98: "PPMd"}
UNPACK = "unpack it (7z x, or the system's own program) and give the folder as DATA"
OTHERS = {".7z": "7z archive", ".rar": "RAR archive", ".zst": "Zstandard archive", ".lz4": "LZ4 archive"}
PART = re.compile(r"\.(z\d\d+|zip\.\d\d\d+|\d\d\d)$", re.IGNORECASE)  # how parts of a split archive are called


class Zip:
    """The files of a zip."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self._archive = path, archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        check_sizes(path, archive.infolist(), archive.start_dir)
        for entry in archive.infolist():
            name = _name_of(entry)
            if name in self._members and not entry.is_dir():
                raise InputError(f"{path}: holds {name} more than once")
            self._members[name] = entry

    def list(self) -> tuple[list[str], list[str]]:
        files, folders = [], []
        for name, entry in self._members.items():
            check_member(self.path, name, "zip")
            if entry.flag_bits & 1:
                raise InputError(f"{self.path}: {name!r} is encrypted, expected a zip without a password; {UNPACK}")
            if any(part == "" or is_ignored(part) for part in name.rstrip("/").split("/")):
                continue
            if entry.compress_type not in METHODS:
                method = METHOD_NAMES.get(entry.compress_type, f"method {entry.compress_type}")
                raise InputError(f"{self.path}: {name!r} is packed by {method} which Python cannot unpack; {UNPACK}")
            if name.endswith("/"):
                folders.append(name.rstrip("/"))
            else:
                files.append(name)
        return files, folders_of(files, folders)

    def has(self, name: str) -> bool:
        return name in self._members and not name.endswith("/")

    def read(self, name: str) -> bytes:
        return read_member(self._archive, self._members[name])

    def open_zip(self, name: str) -> "Zip":
        """The Zip of a zip in this one."""
        about = os.stat(self.path)
        try:
            inner = _unpack(self.path, self._members[name].filename, about.st_mtime_ns, about.st_size)
        except InputError:
            raise
        except (*UNREADABLE, ValueError) as error:
            raise InputError(f"{self.path}: {name}, a zip in it, cannot be read: {error}; {UNPACK}") from None
        return Zip(self.path / name, inner)


@lru_cache(maxsize=8)
def _unpack(path, name, *_):
    """A zip in a zip, unpacked once in a process for each state of the file."""
    file = tempfile.TemporaryFile(prefix="competition-")
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(name)
        copy_pieces(Path(path) / name, member_pieces(archive, entry), file, entry.compress_size)
    return zipfile.ZipFile(file)


def check_member(path: Path, name: str, kind: str) -> None:
    """InputError for a name that climbs out of an archive, is too long or lies too deep."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:[\\/]", name):
        raise InputError(f"{path}: {name!r} climbs out of the {kind}, expected paths below its root")
    check_path(path, name)


def matches(path: Path) -> bool:
    return path.is_file()  # the last adapter: it says what is expected of other files


def open_store(path: Path, expected: str = EXPECTED) -> Nested:
    ending = path.suffix.lower()
    if ending in OTHERS:
        raise InputError(f"{path}: a {OTHERS[ending]}, expected {expected}; {UNPACK}")
    if PART.search(path.name) or path.with_suffix(".z01").exists():
        whole = f"zip -s 0 {path.with_suffix('.zip').name} --out whole.zip"
        raise InputError(f"{path}: a part of a split archive, expected a whole one; join its parts: {whole}")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        if ending != ".zip":
            raise InputError(f"{path}: found another kind of file, expected {expected}") from None
        raise InputError(f"{path}: broken zip: {error}; {_say_start(path)}") from None
    opened = Zip(path, archive)
    return Nested(opened, opened.open_zip)


def _say_start(path):
    """What a broken zip seems to be by how it begins, and what to do."""
    with open(path, "rb") as file:
        start = file.read(100).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, which a download leaves that has failed: fetch it again"
    if not start.startswith(b"pk"):
        return "it does not begin as a zip does: look at what made it"
    return "it ends too early perhaps: fetch it again, all of it"


def _name_of(entry):
    """The name of a zip's entry, also where a program wrote UTF-8 without saying so, or backslashes."""
    name = entry.filename
    if not entry.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            pass
    name = name if "/" in name else name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name
