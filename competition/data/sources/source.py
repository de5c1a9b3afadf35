"""What every adapter gives: a Store, which reads files by name, and a Source, which says which of them are images.

Nothing here writes. Images are named by their POSIX path below the data root, so that a folder and a zip of that folder
give the same names.
"""

import lzma
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pandas as pd

from competition.base.files import InputError
from competition.data.decode import EXTENSIONS

EXPECTED = "a folder of class folders, an archive of one (zip, tar), a label table (CSV) or arrays (npz, npy)"
UNLABELLED = "a folder of images or a zip of one"
IMAGES = "a folder of images, a zip of one, a CSV with the column image, or a list of image files"
SYSTEM_FILES = ("__macosx", "thumbs.db", "desktop.ini", "icon\r")
ENDINGS = tuple({extension for extensions in EXTENSIONS.values() for extension in extensions})
UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


class Store(Protocol):
    """Files by name, wherever they lie. Threads may call `read`."""

    def list(self) -> tuple[list[str], list[str]]:
        """The names of all files and of all folders, as relative POSIX paths; hidden files are left out."""

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def read(self, name: str) -> bytes:
        """The bytes of a file. KeyError or FileNotFoundError where there is none, one of UNREADABLE where it is broken."""


@dataclass(frozen=True)
class Reading:
    """How the user wants the data to be read: the options of `open_source`."""

    image_column: str | None = None  # the column of a label table that names the image
    label_column: str | None = None  # the column of its class
    images: str | None = None  # folder or archive that the images of a label table lie in
    val: str | None = None  # what to do with a given validation split: one of layout.VAL
    skip_bad: bool = False  # leave out rows of a label table whose file or label is missing
    alike: str = "merge"  # what to do with labels that look alike: one of labels.ALIKE


@dataclass(frozen=True)
class Source:
    """Where pictures come from: names, labels, a way to read bytes. Sorted by class, then by image."""

    data: Path  # absolute path of the folder, archive, table or array that the images are read from
    root: str  # the folder below it that image paths start from: "" or, say, "training_data_final/"
    images: list[str] = field(default_factory=list, repr=False)
    labels: list[str] = field(default_factory=list, repr=False)
    classes: list[str] = field(default_factory=list)
    store: Store | None = field(default=None, repr=False, compare=False)
    columns: pd.DataFrame | None = field(default=None, repr=False, compare=False)  # all text; a row an image, its index
    val: frozenset[str] = field(
        default=frozenset(), repr=False
    )  # images of a given validation split, a fold of its own
    found: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # (what, finding) for the user to check
    remarks: tuple[str, ...] = field(default=(), repr=False)  # lines that whoever makes a fold table is to read

    def read(self, image: str) -> bytes:
        """The bytes of one image; InputError when it is missing or cannot be read. Threads may call it."""
        assert self.store is not None
        try:
            return self.store.read(self.root + image)
        except (KeyError, FileNotFoundError):
            raise InputError(f"{image}: no such file in {self.data}") from None
        except UNREADABLE as error:
            raise InputError(f"{image}: cannot be read from {self.data}: {error}") from None


def absolute(data: str | os.PathLike[str], expected: str = EXPECTED) -> Path:
    """The path of a file or folder that exists; InputError for anything else."""
    if not str(data).strip():
        raise InputError(f"{'DATA' if expected == EXPECTED else 'the name'} is empty, expected {expected}")
    path = Path(os.path.abspath(os.path.expanduser(data)))
    check_text(str(path))
    if not path.exists():
        raise InputError(f"{path}: no such file or folder, expected {expected}")
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{path}: neither a file nor a folder")
    return path


def check_text(name: str) -> None:
    """Refuse what a UTF-8 CSV cannot hold."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{os.fsencode(name)!r}: the name is not UTF-8, please rename it") from None
    if "\r" in name or "\0" in name:
        raise InputError(f"{name!r}: a CSV cannot keep a carriage return or zero in a name, please rename it")


def is_ignored(part: str) -> bool:
    """Whether a part of a path is a hidden file, or one that systems leave behind."""
    return part.startswith(".") or part.lower() in SYSTEM_FILES


def looks_like_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's does."""
    return name.lower().endswith(ENDINGS)


def folders_of(files: Sequence[str], folders: Sequence[str] = ()) -> list[str]:
    """The names of all folders that these files lie in, and of those above `folders`, sorted."""
    found = set(folders)
    for name in [*files, *folders]:
        parts = name.split("/")
        found.update("/".join(parts[:i]) for i in range(1, len(parts)))
    return sorted(found)
