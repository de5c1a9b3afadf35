"""Images and labels that lie together as records: what the adapters of such files share."""

import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from competition.base.files import InputError
from competition.base.text import shorten
from competition.data.sources.layout import VAL, take_val
from competition.data.sources.lookup import Lookup
from competition.data.sources.roles import role_of
from competition.data.sources.source import Reading, Source, Store, looks_like_picture
from competition.data.sources.table_labels import label_images
from competition.data.sources.tables import Table

IDS = ("id", "image_id", "image_name", "file_name", "filename")  # columns that name a record
LOOKED_AT = 5000  # entries of a folder, to tell of what kind it is


@dataclass
class Part:
    """The records of one part of a split."""

    count: int
    read: Callable[[int], bytes]  # the bytes of the picture of a record
    columns: dict[str, list[str]]  # the text of the other fields, a value a record

    def names(self) -> list[str]:
        """Of each record: its id where there is one, else its number."""
        for column in IDS:
            ids = self.columns.get(column, [])
            if ids and len(set(ids)) == len(ids) and all(re.fullmatch(r"\w[\w.+-]*", name) for name in ids):
                return ids
        return [str(number) for number in range(self.count)]


class Records:
    """The pictures of records by name: <part>/<id or number>."""

    def __init__(self, path: Path, parts: dict[str, Part]):
        self.path, self.parts = path, parts
        self._places = {
            f"{name}/{image}": (part, number)
            for name, part in parts.items()
            for number, image in enumerate(part.names())
        }

    def list(self) -> tuple[list[str], list[str]]:
        return list(self._places), list(self.parts)

    def has(self, name: str) -> bool:
        return name in self._places

    def read(self, name: str) -> bytes:
        part, number = self._places[name]
        return part.read(number)


def open_records(path: Path, endings: tuple[str, ...], make_part: Callable[[list[Path]], Part]) -> Records:
    """The Records of a file, or of those of these endings in a folder; `make_part` reads the files of one part.

    They are read once, as long as no file changes.
    """
    files = find_files(path, endings) if path.is_dir() else [path]
    return _open(path, make_part, *((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@lru_cache(maxsize=4)
def _open(path, make_part, *files):
    by_part = defaultdict(list)
    for file, *_ in files:
        by_part[part_of(file, path)].append(file)
    return Records(path, {name: make_part(members) for name, members in by_part.items()})


def open_labelled(data: Path, store: Store, reading: Reading) -> Source:
    """The Source of the records of the training part, and as VAL= asks of the validation part."""
    assert isinstance(store, Records)
    if (reading.val or VAL[0]) not in VAL:
        raise InputError(f"VAL={reading.val}: expected {', '.join(VAL)}")
    train = [name for name in store.parts if role_of(name) == "train"] or list(store.parts)[:1]
    if len(train) > 1 or len(store.parts) > 1 and role_of(train[0]) != "train":
        raise InputError(f"{data}: found the parts {shorten(list(store.parts))}, expected one that is called train")
    found = _open_part(data, store, train[0], reading)
    val = [name for name in store.parts if role_of(name) == "val"]
    left = [name for name in store.parts if name not in (*train, *val)]
    notes = (("layout", f"records; {train[0]} is dealt into folds"), *found.found[1:])
    found = replace(found, found=(*notes, *(("left out", f"{name}/") for name in left)))
    if val:
        wanted = val if reading.val not in (None, VAL[0]) else []
        parts = [_open_part(data, store, name, reading) for name in wanted]
        found = take_val(Source(data, "", store=store), found, parts, reading, shorten(val))
    elif reading.val not in (None, VAL[0]):
        raise InputError(f"{data}: VAL={reading.val}: found no validation part of a split")
    return found


def open_unlabelled(data: Path, store: Store, expected: str, classes: bool = False) -> Source:
    """The Source of all records; of a training and a test part of those to test."""
    assert isinstance(store, Records)
    chosen = [name for name in store.parts if role_of(name) == "test"] or list(store.parts)
    images = sorted(f"{name}/{image}" for name in chosen for image in store.parts[name].names())
    return Source(data, "", images, store=store)


def find_files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files of these endings in a folder that holds no picture; [] for other folders. Most are told at once."""
    found, seen = [], 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        seen += len(files) + len(folders)
        if seen > LOOKED_AT or any(map(looks_like_picture, files)):
            return []
        found += [Path(place, name) for name in sorted(files) if name.lower().endswith(endings)]
    return found


def part_of(path: Path, folder: Path) -> str:
    """What the part of a split is called that a file belongs to, by its name and those of its folders."""
    names = [path.name.split(".")[0], *path.relative_to(folder).parts[:-1][::-1]] if path != folder else [path.stem]
    return next((role for name in names if (role := role_of(name))), "train")


def _open_part(data, store, name, reading):
    part = store.parts[name]
    others = {column: values for column, values in part.columns.items() if column != "image"}
    rows = [list(row) for row in zip(part.names(), *others.values())]
    table = Table(f"{data} ({name})", ["image", *others], rows, list(range(1, part.count + 1)), "records")
    lookup = Lookup(store, f"{name}/", None, role_of(name))
    return label_images(Source(data, "", store=store), table, lookup, replace(reading, image_column=None))
