"""Adapter: images and labels as arrays of numpy, in an .npz or in .npy files beside each other.

An image is called after its number. What reads it gets the bytes of a PPM or PGM, which hold the pixels as they are.
"""

import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED

import numpy as np
import pandas as pd

from competition.base.archives import check_size, check_sizes
from competition.base.arrays import gigabytes, read_memory
from competition.base.files import InputError, warn
from competition.base.text import shorten
from competition.data.ranges import NARROW
from competition.data.sources.labels import with_labels
from competition.data.sources.layout import VAL, take_val
from competition.data.sources.roles import role_of
from competition.data.sources.source import Reading, Source, Store

LABELS = ("y", "label", "labels", "target", "targets", "class", "classes", "species", "breed", "category")
IMAGES = ("x", "image", "images", "img", "imgs", "data", "features", "pixels")


@dataclass(frozen=True)
class Range:
    """What becomes of an array's values: (value - low) * scale, rounded, is 0..255."""

    low: float
    scale: float
    text: str
    of: str = ""  # the array of the training part that these values are of, where that is another one


class Arrays:
    """The images of arrays by name: <array>/<number>.ppm, or .pgm where they are grey."""

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray]):
        self.path, self.arrays = path, arrays
        self.images = {name: _channels_last(array) for name, array in arrays.items() if _holds_images(array)}
        for name, images in self.images.items():
            check_size(path, f"an image of {name}", math.prod(images.shape[1:]) * images.itemsize)
        self._ranges = _find_ranges(path, self.images)

    def names(self, array: str) -> list[str]:
        images = self.images[array]
        ending = "ppm" if images.shape[-1] == 3 else "pgm"
        return [f"{number}.{ending}" for number in range(len(images))]

    def range_of(self, array: str) -> Range:
        return self._ranges[array]

    def list(self) -> tuple[list[str], list[str]]:
        return [f"{array}/{name}" for array in self.images for name in self.names(array)], list(self.images)

    def has(self, name: str) -> bool:
        try:
            self._find(name)
        except KeyError:
            return False
        return True

    def read(self, name: str) -> bytes:
        array, number = self._find(name)
        values, how = self.images[array][number], self._ranges[array]
        if values.dtype != np.uint8:
            values = np.clip(np.rint((values.astype(np.float64) - how.low) * how.scale), 0, 255).astype(np.uint8)
        height, width, channels = values.shape
        return b"P%d\n%d %d\n255\n" % (6 if channels == 3 else 5, width, height) + values.tobytes()

    def _find(self, name):
        """The array and the number of an image's name; KeyError where there is none."""
        array, _, last = name.rpartition("/")
        number = re.fullmatch(r"(0|[1-9]\d*)\.p[pg]m", last)
        if not number or array not in self.images or int(number[1]) >= len(self.images[array]):
            raise KeyError(name)
        return array, int(number[1])


def matches(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".npz", ".npy")


def open_store(path: Path, expected: str = "") -> Arrays:
    about = os.stat(path)
    return _open(path, about.st_mtime_ns, about.st_size)


def open_labelled(data: Path, store: Store, reading: Reading) -> Source:
    """The Source of the images and labels in arrays; of a training and a test part the first."""
    assert isinstance(store, Arrays)
    if (reading.val or VAL[0]) not in VAL:
        raise InputError(f"VAL={reading.val}: expected {', '.join(VAL)}")
    chosen = _choose_images(data, store, reading.image_column, "train")
    train = _open_array(data, store, chosen, reading)
    val = [name for name in store.images if role_of(name) == "val" and role_of(chosen) == "train"]
    if others := [name for name in store.images if name not in (chosen, *val)]:
        train = replace(train, found=(*train.found, ("left out", f"the images in {shorten(others)}")))
    if val:
        wanted = val if reading.val not in (None, VAL[0]) else []
        parts = [_open_array(data, store, name, replace(reading, label_column=None)) for name in wanted]
        return take_val(Source(data, "", store=store), train, parts, reading, shorten(val))
    if reading.val not in (None, VAL[0]):
        raise InputError(f"{data}: VAL={reading.val}: found no validation part of a split")
    return train


def _open_array(data, store, chosen, reading):
    """The Source of the images of one array."""
    images = store.images[chosen]
    arrays = dict(store.arrays) if data.suffix.lower() == ".npz" else _load_beside(data, len(images))
    arrays.pop(chosen, None)
    texts = {name: found for name, array in arrays.items() if (found := _texts(array, len(images))) is not None}
    column = _choose_labels(data, chosen, texts, reading.label_column, len(images))
    names = store.names(chosen)
    how = store.range_of(chosen)
    notes = (
        ("layout", "arrays"),
        ("columns", f"{chosen!r}, {images.dtype} {list(images.shape)}, holds the images, {column!r} their classes"),
        ("values", how.text),
    )
    pairs = [(label, name) for name, label in zip(names, texts[column])]
    if empty := [name for label, name in pairs if not label.strip()]:
        raise InputError(f"{data}: {len(empty)} images without a label in {column!r}: {shorten(empty)}")
    columns = pd.DataFrame(texts, index=pd.Index(names, dtype=object), dtype=object)
    remarks = (f"{data}: {how.text}",) if "scaled" in how.text else ()
    source = Source(data, chosen + "/", store=store, columns=columns, found=notes, remarks=remarks)
    return with_labels(source, pairs, "the labels", reading.alike)


def open_unlabelled(data: Path, store: Store, expected: str, classes: bool = False) -> Source:
    """The Source of the images in arrays, called <array>/<number>.ppm; of a training and a test part the second."""
    assert isinstance(store, Arrays)
    chosen = _choose_images(data, store, None, "test")
    _warn_of_range(data, chosen, store.images[chosen], store.range_of(chosen))
    return Source(data, "", sorted(f"{chosen}/{name}" for name in store.names(chosen)), store=store)


@lru_cache(maxsize=2)
def _open(path, *_):
    return Arrays(path, _load(path))


def _load(path):
    """{name: array} of an .npz, or of an .npy, which is called after the file."""
    try:
        with open(path, "rb") as file:
            start = file.read(6)
        single = path.suffix.lower() == ".npy"
        if not start.startswith(b"\x93NUMPY" if single else (b"PK\3\4", b"PK\5\6")):
            raise InputError(f"{path}: no arrays that can be read: not a file of numpy")
        if single:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return {path.stem: array}
        with np.load(path, allow_pickle=False) as members:
            _check_sizes(path, members.zip)
            return {name: _member(path, members, name) for name in members.files}
    except InputError:
        raise
    except (ValueError, EOFError) as error:
        if "pickle" in str(error):
            raise _pickled(path, path.stem) from None
        raise InputError(f"{path}: no arrays that can be read: {error}") from None
    except Exception as error:  # numpy reads a header as Python, which raises about anything
        raise InputError(f"{path}: no arrays that can be read: {error}") from None


def _check_sizes(path, archive):
    """InputError for arrays that are larger than memory has room for."""
    check_sizes(path, archive.infolist(), archive.start_dir)
    size, memory = sum(entry.file_size for entry in archive.infolist()), read_memory()
    if size > memory.total:
        raise InputError(f"{path}: its arrays have {gigabytes(size)}, which is more than {memory}")
    for entry in archive.infolist():
        if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise InputError(
                f"{path}: {entry.filename} is packed by method {entry.compress_type}, which numpy never does"
            )
        with archive.open(entry) as file:
            if file.read(6) == b"\x93NUMPY" and (claimed := _claimed(file)) > entry.file_size:
                raise InputError(
                    f"{path}: {entry.filename} says that it holds {gigabytes(claimed)}, found {gigabytes(entry.file_size)}"
                )


def _claimed(file):
    """The bytes of an array by the header of an .npy file, of which the first 6 bytes were read."""
    version = tuple(file.read(2))
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize


def _member(path, file, name):
    try:
        if isinstance(array := file[name], np.ndarray):
            return array
        raise InputError(f"{path}: {name!r} is no array")
    except InputError:
        raise
    except ValueError as error:
        if "pickle" not in str(error).lower() and "object" not in str(error).lower():
            raise
        raise _pickled(path, name) from None


def _pickled(path, name):
    return InputError(
        f"{path}: {name!r} holds Python objects, which are read by pickle and could run any code, so they are refused; "
        "save plain arrays: images as uint8 [n, height, width, 3], labels as .astype(str)"
    )


def _load_beside(path, count):
    """{name: array} of the .npy files beside one of images, which have a row an image; those called like it alone."""
    own = [word for word in _words(path.stem) if word not in IMAGES]
    found = {}
    for other in sorted(path.parent.glob("*.npy")):
        if other == path:
            continue
        words = _words(other.stem)
        if [word for word in words if word not in LABELS] == own and set(words) & set(LABELS):
            found |= _load(other)
    return found


def _words(name):
    return [word for word in re.split(r"[\W_]+", name.lower()) if word]


def _holds_images(array):
    if array.dtype.kind not in "uifb" or not array.size:
        return False
    return (
        array.ndim == 4
        and (array.shape[-1] in (1, 3) or array.shape[1] in (1, 3))
        or (array.ndim == 3 and min(array.shape[1:]) > 1)
    )


def _channels_last(array):
    """[n, height, width, channels] of [n, h, w], [n, c, h, w] or [n, h, w, c]."""
    if array.ndim == 3:
        return array[..., None]
    return array if array.shape[-1] in (1, 3) else np.moveaxis(array, 1, -1)


def _find_ranges(path, images):
    """{array: its Range}; a validation or test part has that of the training part, here or in an .npy beside it."""
    found = {}
    for name, array in images.items():
        trained = {}
        if role_of(name) in ("val", "test") and array.dtype != np.uint8:
            others = images if path.suffix.lower() == ".npz" else _training_beside(path)
            trained = {other: one for other, one in others.items() if _is_training_of(other, name)}
        if len(trained) == 1:
            ((other, one),) = trained.items()
            found[name] = replace(_range_of(one), of=other)
        else:
            found[name] = _range_of(array)
    return found


def _training_beside(path):
    """{name: array} of the .npy files of images beside one that are called after a training part."""
    found = {}
    for other in sorted(path.parent.glob("*.npy")):
        if other != path and _is_training_of(other.stem, path.stem):
            with suppress(InputError):
                found |= {name: array for name, array in _load(other).items() if _holds_images(array)}
    return found


def _is_training_of(other, name):
    """Whether an array is the training part of another one, by their names: x_train of x_test."""
    words = ([word for word in _words(one) if not role_of(word)] for one in (other, name))
    return role_of(other) == "train" and next(words) == next(words)


def _warn_of_range(data, name, array, how):
    """Say where test images are scaled by their own values, or clipped to those of the training images."""
    if how.of:
        low, high = float(array.min()), float(array.max())
        if low < how.low or high > how.low + 255 / how.scale:
            warn(
                f"{data}: {name} has values from {low:g} to {high:g}, which are clipped to the range of {how.of}: {how.text}"
            )
    elif "scaled" in how.text:
        warn(
            f"{data}: {name}: {how.text} by its own values, which may be others than those of the training images; "
            "expected the training part in the same file, or beside it as x_train.npy is beside x_test.npy"
        )


def _range_of(array):
    """The Range of an array's values, by what they are as a whole."""
    if array.dtype == np.uint8:
        return Range(0, 1, "uint8")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"an array of {array.dtype} holds values that are no finite numbers, expected pixels")
    text = f"{array.dtype} from {low:g} to {high:g}"
    if array.dtype.kind == "f" and 0 <= low and high <= 1 or array.dtype.kind == "b":
        return Range(0, 255, f"{text}, taken as 0..1")
    if low == high or 0 <= low and high <= 255 and high - low >= NARROW * 255:
        return Range(0, 1, f"{text}, taken as 0..255")
    if array.dtype.kind == "f" and -1 <= low and high <= 1:
        return Range(-1, 127.5, f"{text}, taken as -1..1")
    low = min(low, 0)
    return Range(low, 255 / (high - low), f"{text}, scaled to 0..255")


def _texts(array, count):
    """The values of an array as a text an image, of columns of 0 and 1 the number of the 1; None for other arrays."""
    if array.ndim == 2 and array.shape == (count, 1):
        array = array[:, 0]
    if array.ndim == 2 and len(array) == count and array.dtype.kind in "uifb" and array.shape[1] > 1:
        if not (np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all()):
            return None
        array = array.argmax(1)
    if array.shape != (count,):
        return None
    if array.dtype.kind == "S":
        return [value.decode("utf-8", "replace") for value in array.tolist()]
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and (array == np.round(array)).all()):
            return None
        array = array.astype(np.int64)
    return [str(value) for value in array.tolist()] if array.dtype.kind in "uibU" else None


def _choose_images(data, store, wanted, role):
    names = list(store.images)
    if wanted:
        if wanted not in names:
            raise InputError(f"{data}: IMAGE_COLUMN={wanted}: {_found(store)}, expected one of images")
        return wanted
    chosen = names if len(names) == 1 else [name for name in names if role_of(name) == role]
    if len(chosen) != 1:
        which = f"; IMAGE_COLUMN= one of {shorten(names)}" if names else ""
        raise InputError(f"{data}: {_found(store)}, expected one of images, [n, height, width, 3] of numbers{which}")
    return chosen[0]


def _choose_labels(data, images, texts, wanted, count):
    if wanted:
        if wanted not in texts:
            raise InputError(f"{data}: LABEL_COLUMN={wanted}: expected one of {shorten(list(texts)) or 'none'}")
        return wanted
    named = [name for name in texts if set(_words(name)) & set(LABELS)]
    named = [name for name in named if role_of(name) == role_of(images)] or named
    chosen = named or list(texts)
    if len(chosen) != 1:
        which = f"; LABEL_COLUMN= one of {shorten(chosen)}" if chosen else ""
        beside = f" in it or, for {data.name}, in a file such as y_train.npy beside it" if data.suffix == ".npy" else ""
        raise InputError(f"{data}: found {len(chosen)} arrays of {count} labels{beside}, expected one{which}")
    return chosen[0]


def _found(store):
    shown = [f"{name} {array.dtype} {list(array.shape)}" for name, array in store.arrays.items()]
    return f"found the arrays {shorten(shown, 10)}" if shown else "found no arrays"
