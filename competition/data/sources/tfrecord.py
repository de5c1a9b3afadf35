"""Adapter: TFRecord files of tf.train.Example, each with an encoded picture and its label."""

import os
import struct
from collections import defaultdict
from pathlib import Path

from competition.base.archives import check_size
from competition.base.files import InputError
from competition.data.sources.records import (
    Part,
    Records,
    find_files,
    open_labelled,
    open_records,
    open_unlabelled,
)

__all__ = ["matches", "open_labelled", "open_store", "open_unlabelled"]

ENDINGS = (".tfrec", ".tfrecord", ".tfrecords")
PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")  # how encoded pictures begin
LONGEST = 1000  # bytes of a field that is text


def matches(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() in ENDINGS
    return bool(find_files(path, ENDINGS))


def open_store(path: Path, expected: str = "") -> Records:
    return open_records(path, ENDINGS, _part)


def _part(files):
    """The Part of the records in these files, one after the other."""
    places = [(file, start, size) for file in files for start, size in _places(file)]
    columns: dict[str, list[str]] = defaultdict(list)
    key = None
    for number, place in enumerate(places):
        fields = _fields(place)
        key = key or next((name for name, value in fields.items() if _is_picture(value)), None)
        if key is None:
            raise InputError(f"{place[0]}: record {number}: found {', '.join(fields)}, expected an encoded picture")
        for name, value in fields.items():
            text = _text(value) if name != key else None
            if text is not None:
                column = columns[name]
                column += [""] * (number - len(column))
                column.append(text)
    filled = {name: column + [""] * (len(places) - len(column)) for name, column in columns.items()}

    def read(number):
        value = _fields(places[number]).get(key)
        if not _is_picture(value):
            raise OSError(f"the record has no picture in {key}")
        return value

    return Part(len(places), read, filled)


def _places(path):
    """(begin, size) of each record of a file; InputError where it ends within one or is no such file."""
    found, size = [], os.path.getsize(path)
    with open(path, "rb") as file:
        at = 0
        while at < size:
            file.seek(at)
            head = file.read(12)
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else size
            if at + 16 + length > size:
                raise InputError(f"{path}: no TFRecord file, or it ends within record {len(found)}")
            found.append((at + 12, length))
            at += 16 + length
    return found


def _fields(place):
    """{name: bytes, whole number or float} of the fields of a record that have one value."""
    from tensorflow.core.example import example_pb2

    path, start, size = place
    check_size(path, "a record", size)
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(size)
    try:
        features = example_pb2.Example.FromString(data).features.feature
    except Exception as error:  # of the protobuf library that is installed
        raise InputError(f"{path}: a record that is no tf.train.Example: {error}") from None
    lists = {
        name: getattr(feature, feature.WhichOneof("kind") or "bytes_list").value for name, feature in features.items()
    }
    return {name: values[0] for name, values in sorted(lists.items()) if len(values) == 1}


def _is_picture(value):
    return isinstance(value, bytes) and value.startswith(PICTURES)


def _text(value):
    """A field as text; None for bytes that are none."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode("utf-8") if len(value) <= LONGEST else None
    except UnicodeDecodeError:
        return None
