"""Where images and labels come from. An adapter is a module here for each kind of data, found by what a path is.

An adapter has these functions:

    matches(path)                             whether it reads this path
    open_store(path, expected)                a Store: the files by name
    open_labelled(path, store, reading)       a Source with labels
    open_unlabelled(path, store, expected, classes)   a Source of all images

The fold table is made of a Source and is the only thing that later stages know. They read images by `open_reader`.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from competition.base.files import InputError
from competition.data.sources import arrays, datasets_disk, folder, label_table, tar_file, tfrecord, zip_file
from competition.data.sources.folder import Folder
from competition.data.sources.source import EXPECTED, IMAGES, UNLABELLED, Reading, Source, absolute, check_text

__all__ = ["ADAPTERS", "Source", "open_images", "open_reader", "open_source", "open_unlabelled", "read_column"]

ADAPTERS = (datasets_disk, tfrecord, folder, label_table, arrays, tar_file, zip_file)  # tried in order


def open_source(data: str | os.PathLike[str], **options: object) -> Source:
    """Find images, labels and classes; reads no picture.

    The data is a folder of class folders, an archive of one, a label table, arrays, or a competition's download, which
    is entered by its label table. Of a given split the training part is taken. Class folders may lie together in one
    single top folder; pictures in folders below a class folder count as that class. Classes come in Python's `sorted`
    order, as `keras.utils.image_dataset_from_directory` sorts folders. Hidden files and those that systems leave
    behind (`__MACOSX`, `Thumbs.db`, ...) are ignored. `options` are those of `source.Reading`. Raises InputError for
    everything that is not such a source.
    """
    reading, path = Reading(**options), absolute(data)  # type: ignore[arg-type]
    adapter = _adapter(path)
    if not reading.images:
        return adapter.open_labelled(path, adapter.open_store(path, EXPECTED), reading)
    if adapter is not label_table:
        raise InputError(f"IMAGES={reading.images}: DATA={path} is no table, expected DATA= a table of their labels")
    beside = path.parent / reading.images
    images = absolute(reading.images if os.path.exists(reading.images) else beside, UNLABELLED)
    return label_table.open_beside(path, images, _adapter(images).open_store(images, UNLABELLED), reading)


def open_unlabelled(data: str | os.PathLike[str]) -> Source:
    """A Source of all pictures below a folder or in a zip, by their file names' endings, without labels or classes.

    Raises InputError for anything else, and where there is no picture; other files are left out with a warning.
    """
    return _open_images(data, UNLABELLED, classes=False)


def open_images(data: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Source:
    """A Source of all pictures of a folder, a zip, a CSV with the column image, or a list of files.

    It has labels where each picture lies in one of several class folders, which are no split, or the CSV has the column
    label; classes are those of the labels, and there may be one alone. Of a list the names are the paths as given.
    Raises InputError for anything else, and where there is no picture.
    """
    if not isinstance(data, (str, os.PathLike)):
        return _from_list([Path(path) for path in data])
    return _open_images(data, IMAGES, classes=True)


def open_reader(data: str | os.PathLike[str], root: str = "") -> Source:
    """A Source that only reads: for images whose names and labels are known already, from a fold table."""
    path = absolute(data)
    return Source(path, root, store=_adapter(path).open_store(path, EXPECTED))


def read_column(source: Source, column: str) -> dict[str, str]:
    """{image: text} of one more column of the table that a Source was made of. InputError where there is none."""
    if source.columns is None:
        raise InputError(f"{column}: {source.data} has no columns, expected DATA= a CSV with one of that name")
    if list(source.columns).count(column) != 1:
        found = ", ".join(map(repr, source.columns))
        raise InputError(f"{source.data}: found columns {found}, expected one {column!r}")
    return dict(zip(source.columns.index, source.columns[column]))


def _adapter(path):
    return next(adapter for adapter in ADAPTERS if adapter.matches(path))


def _open_images(data, expected, classes):
    path = absolute(data, expected)
    adapter = _adapter(path)
    return adapter.open_unlabelled(path, adapter.open_store(path, expected), expected, classes)


def _from_list(paths):
    """A Source of these files, each once, sorted; its folder is the current one, below which relative paths lie."""
    names = sorted(path.as_posix() for path in paths)
    if not names:
        raise InputError(f"an empty list, expected {IMAGES}")
    for name, following in zip(names, [*names[1:], None]):
        check_text(name)
        if name == following:
            raise InputError(f"{name}: more than once in the list of images, expected each once")
        if not os.path.isfile(name):
            raise InputError(f"{name}: no such file, expected an image")
    here = Path(os.path.abspath("."))
    return Source(here, "", names, store=Folder(here))
