"""Adapter: a label table, with a row an image, that lies beside the images or in a folder above them."""

import os
from pathlib import Path

from competition.base.files import InputError
from competition.data.sources import folder
from competition.data.sources.layout import VAL
from competition.data.sources.lookup import Lookup
from competition.data.sources.nested import Nested
from competition.data.sources.roles import role_of
from competition.data.sources.source import Reading, Source, Store
from competition.data.sources.table_labels import label_images
from competition.data.sources.tables import READERS, Table, check_bytes, read_table


def matches(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in READERS


def open_store(path: Path, expected: str = "") -> Nested:
    return folder.open_store(path.parent)


def open_labelled(data: Path, store: Store, reading: Reading) -> Source:
    """The Source of the images and labels in a table. InputError for VAL=, as a table is no split."""
    _check_val(data, reading)
    lookup = Lookup(store, "", data.parent, role_of(data.stem))
    return label_images(Source(data, "", store=store), _read(data, lookup), lookup, reading)


def open_beside(data: Path, images: Path, store: Store, reading: Reading) -> Source:
    """The Source of a table whose images lie elsewhere, in the Store of the folder or archive `images`."""
    _check_val(data, reading)
    lookup = Lookup(store, "", images if images.is_dir() else None, role_of(data.stem))
    return label_images(Source(images, "", store=store), _read(data, lookup), lookup, reading)


def open_unlabelled(data: Path, store: Store, expected: str, classes: bool = False) -> Source:
    """The Source of the images that the table names; with `classes` they have labels where the table has that column."""
    if not classes:
        raise InputError(f"{data}: found another kind of file, expected {expected}")
    lookup = Lookup(store, "", data.parent, role_of(data.stem))
    return label_images(Source(data, "", store=store), _read(data, lookup), lookup, Reading(), labelled=False)


def _check_val(data, reading):
    if reading.val not in (None, VAL[0]):
        raise InputError(
            f"{data}: VAL={reading.val}: found no validation part of a split in a table, expected DATA= the folder of both"
        )


def _read(path: Path, lookup: Lookup) -> Table:
    try:
        with open(path, "rb") as file:
            check_bytes(os.fspath(path), os.fstat(file.fileno()).st_size)
            return read_table(os.fspath(path), file.read(), lookup.list_files)
    except OSError as error:
        raise InputError(f"{path}: not a table that can be read: {error}") from None
