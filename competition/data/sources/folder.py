"""Adapter: a folder on disk."""

import errno
import os
import stat
from collections import defaultdict
from pathlib import Path

from competition.base.archives import check_path, check_size
from competition.base.files import InputError
from competition.data.sources import zip_file
from competition.data.sources.layout import open_labelled, open_unlabelled
from competition.data.sources.nested import Nested
from competition.data.sources.source import is_ignored

__all__ = ["Folder", "matches", "open_labelled", "open_store", "open_unlabelled"]

MOST_LINKS = 100  # ways to one and the same folder: a few links to each other make billions


class Folder:
    """The files below a folder. Links are followed, loops left out."""

    def __init__(self, path: Path):
        self.path = path

    def list(self) -> tuple[list[str], list[str]]:
        files: list[str] = []
        folders: list[str] = []
        visits: dict[tuple[int, int], int] = defaultdict(int)

        def scan(path, prefix, above):
            try:
                entries = sorted(os.listdir(path))
            except OSError as error:
                raise InputError(f"{path}: the folder cannot be read: {error.strerror}") from None
            for entry in entries:
                if is_ignored(entry):
                    continue
                full, name = os.path.join(path, entry), prefix + entry
                check_path(self.path, name)
                try:
                    found = os.stat(full)
                except OSError as error:
                    if error.errno != errno.ELOOP:
                        files.append(name)  # a link to nothing: reading it will name it
                    continue
                if stat.S_ISREG(found.st_mode):
                    files.append(name)
                elif stat.S_ISDIR(found.st_mode) and (found.st_dev, found.st_ino) not in above:
                    folders.append(name)
                    visits[found.st_dev, found.st_ino] += 1
                    if visits[found.st_dev, found.st_ino] > MOST_LINKS:
                        raise InputError(f"{full}: more than {MOST_LINKS} ways of links lead there, expected fewer")
                    scan(full, name + "/", above | {(found.st_dev, found.st_ino)})

        top = os.stat(self.path)
        scan(self.path, "", {(top.st_dev, top.st_ino)})
        return files, folders

    def has(self, name: str) -> bool:
        return os.path.isfile(os.path.join(self.path, name))

    def read(self, name: str) -> bytes:
        with open(os.path.join(self.path, name), "rb") as file:
            check_size(self.path, name, os.fstat(file.fileno()).st_size)
            return file.read()


def matches(path: Path) -> bool:
    return path.is_dir()


def open_store(path: Path, expected: str = "") -> Nested:
    return Nested(Folder(path), lambda name: zip_file.open_store(path / name))
