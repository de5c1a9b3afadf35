"""Adapter: a zip, read in place."""

import re
import zipfile
from pathlib import Path

from competition.base.files import InputError
from competition.data.sources.layout import open_labelled, open_unlabelled
from competition.data.sources.source import EXPECTED, folders_of, is_ignored

__all__ = ["Zip", "matches", "open_labelled", "open_store", "open_unlabelled"]


class Zip:
    """The files of a zip."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self._archive = path, archive
        self._members: dict[str, zipfile.ZipInfo] = {}
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
                raise InputError(f"{self.path}: {name!r} is encrypted, expected a zip without a password")
            if any(part == "" or is_ignored(part) for part in name.rstrip("/").split("/")):
                continue
            if name.endswith("/"):
                folders.append(name.rstrip("/"))
            else:
                files.append(name)
        return files, folders_of(files, folders)

    def has(self, name: str) -> bool:
        return name in self._members and not name.endswith("/")

    def read(self, name: str) -> bytes:
        return self._archive.read(self._members[name])


def check_member(path: Path, name: str, kind: str) -> None:
    """InputError for a name that climbs out of an archive."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:[\\/]", name):
        raise InputError(f"{path}: {name!r} climbs out of the {kind}, expected paths below its root")


def matches(path: Path) -> bool:
    return path.is_file()  # the last adapter: it says what is expected of other files


def open_store(path: Path, expected: str = EXPECTED) -> Zip:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        if path.suffix.lower() != ".zip":
            raise InputError(f"{path}: found another kind of file, expected {expected}") from None
        raise InputError(f"{path}: broken zip: {error}") from None
    return Zip(path, archive)


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
