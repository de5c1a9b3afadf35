"""Adapter: a table with a row an image, which names the image and its class."""

import csv
import os
import posixpath
from dataclasses import replace
from pathlib import Path

from competition.base.files import InputError
from competition.base.text import shorten
from competition.data.sources.folder import Folder
from competition.data.sources.labels import with_labels
from competition.data.sources.source import Reading, Source, Store

ENDINGS = (".csv",)


def matches(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in ENDINGS


def open_store(path: Path, expected: str = "") -> Folder:
    return Folder(path.parent)


def open_labelled(data: Path, store: Store, reading: Reading) -> Source:
    return with_labels(Source(data, "", store=store), _csv_pairs(data), "the label column")


def open_unlabelled(data: Path, store: Store, expected: str, classes: bool = False) -> Source:
    """The Source of the images that the table names; with `classes` they have labels where the table has that column."""
    if not classes:
        raise InputError(f"{data}: found another kind of file, expected {expected}")
    pairs = _csv_pairs(data, ("image", "label") if "label" in _csv_columns(data) else ("image",))
    labels = [label for label, _ in pairs if label is not None]
    source = Source(data, "", store=store)
    return replace(source, images=[image for _, image in pairs], labels=labels, classes=sorted(set(labels)))


def read_column(source: Source, column: str) -> dict[str, str]:
    """{image: text} of one more column of the table that a Source was made of. InputError where there is none."""
    if not matches(source.data):
        raise InputError(f"{column}: {source.data} has no columns, expected DATA= a CSV with one of that name")
    starts = source.data.parent, source.data.parent.resolve()
    found = {}
    for _, row in _csv_rows(source.data, ("image", "label", column)):
        found[_below(starts, row["image"])] = row[column]
    return found


def _csv_columns(data):
    """The names in a CSV's first line, [] where it cannot be read: reading its rows will tell why."""
    try:
        with open(data, encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _csv_pairs(data, columns=("image", "label")):
    """Sorted (label, image) of the rows of a CSV; without that column the label is None."""
    folder = data.parent
    starts = folder, folder.resolve()
    pairs, lines, missing = [], {}, []
    for line, row in _csv_rows(data, columns):
        if None in row or None in row.values():
            raise InputError(f"{data}, line {line}: other number of fields than the header has")
        if not all(row[column] for column in columns):
            raise InputError(f"{data}, line {line}: empty {' or '.join(columns)}")
        image = _below(starts, row["image"])
        if image is None:
            raise InputError(
                f"{data}, line {line}: {row['image']} is not below the CSV's folder {folder}; "
                "put the CSV beside the pictures"
            )
        if image in lines:
            raise InputError(f"{data}, line {line}: {row['image']} is in line {lines[image]} already")
        lines[image] = line
        if not os.path.isfile(folder / image):
            missing.append(f"{row['image']} (line {line})")
        pairs.append((row["label"] if "label" in columns else None, image))
    if not pairs:
        raise InputError(f"{data}: no rows, expected one an image")
    if missing:
        raise InputError(f"{data}: missing below {folder}: {shorten(missing)}")
    return sorted(pairs, key=lambda pair: (pair[0] or "", pair[1]))


def _csv_rows(data, expected=("image", "label")):
    """(line number, {column: text}) of each row; all is text, so 007, NA and True are labels like others."""
    try:
        with open(data, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            for column in expected:
                if columns.count(column) != 1:
                    found = f"columns {', '.join(map(repr, columns))}" if columns else "an empty file"
                    hint = ", with commas between them" if len(columns) == 1 and ";" in columns[0] else ""
                    raise InputError(
                        f"{data}: found {found}, expected {' and '.join(f'one {c!r}' for c in expected)}{hint}"
                    )
            for row in reader:
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise InputError(f"{data}: not UTF-8: {error}") from None
    except (OSError, csv.Error) as error:
        raise InputError(f"{data}: not a CSV that can be read: {error}") from None


def _below(starts, image):
    """The POSIX path of `image` below a folder, of which `starts` are the paths, or None when it lies elsewhere.

    A backslash parts folders, as in a CSV that was written on Windows, unless a file has one in its name.
    """
    if os.path.isabs(image):
        for start in starts:
            if Path(image).is_relative_to(start):
                image = Path(image).relative_to(start).as_posix()
                break
        else:
            return None
    if "\\" in image and (os.sep == "\\" or not os.path.isfile(starts[0] / image)):
        image = image.replace("\\", "/")
    image = posixpath.normpath(image)
    return None if image == ".." or image.startswith("../") else image
