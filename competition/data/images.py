"""The images of a fold table as RGB arrays, each checked by its hash.

Only `load_images` writes: it decodes what is too much for memory into a file below `runs/`.
"""

import math
from contextlib import suppress

import numpy as np

from competition.base.arrays import build_array, find_flaw, gigabytes, open_array
from competition.base.files import InputError, hash_json, read_json, sha256_bytes, sha256_file, warn, write_json
from competition.base.sums import SUMS, find_damage, read_or_none
from competition.base.text import shorten
from competition.base.threads import in_threads
from competition.data.decode import decode, resize
from competition.data.sources import open_reader, open_source

IMAGES_FORMAT = 1  # raise it when what is decoded from the same file changes
PART = 2**20  # bytes of decoded images that a thread hands over at a time


def load_images(table, memory=None):
    """All images of a FoldTable, in its order and at its size: uint8 [n, height, width, 3].

    What is more than the share of `memory` (arrays.Memory; None: there is no limit) comes as arrays.Stored, indexed
    alike, from a file in `runs/<name>/images/` that is written at the first time and read from then on.
    Raises InputError naming the first file that vanished or changed (by sha256) since `make folds`, and when the disk
    has no room for the decoded images.
    """
    shape = (len(table.frame), *table.size, 3)
    size = math.prod(shape)
    if memory is None or size <= memory.images:
        images = np.empty(shape, np.uint8)
        for row, image in enumerate(map_images(table)):
            images[row] = image
        return images
    key = [IMAGES_FORMAT, table.images, table.frame["sha256"].tolist(), list(table.size)]
    key += [dict(table.ranges)] if table.ranges else []
    path = table.paths.images / f"{hash_json(key)[:16]}.npy"
    print(f"images: {gigabytes(size)}, more than half of {memory}; read from {path}")
    record = path.with_name(f"{path.name}.json")
    if path.exists():
        if damage := find_flaw(path, shape, np.uint8) or find_damage(path, read_or_none(record)):
            warn(f"{path}: {damage}; it is made anew")
            path.unlink()
    if not path.exists():
        for old in path.parent.glob("*.npy*"):  # of another table of this name, or another size
            if not old.name.startswith(path.name):
                with suppress(OSError):  # gone, or, on Windows, another process reads it
                    old.unlink()
        build_array(path, shape, np.uint8, lambda start: (image[None] for image in map_images(table, start=start)))
        write_json(record, {SUMS: {path.name: sha256_file(path)}})
    return open_array(path, 0)


def warn_of_others(table):
    """Name the images beside those of a FoldTable: they would otherwise be left out without a word."""
    record = table.paths.json
    known = read_json(record) if record.exists() else {}
    reading = {"data": table.data, **known.get("reading", {})}
    try:
        source = open_source(reading.pop("data"), **reading)
    except InputError:  # of what is missing or broken among the table's own images, reading them will tell
        return
    own = {table.root + image for image in table.everything.images}
    others = sorted(image for image in source.images if source.root + image not in own)
    if others and len(others) <= known.get("conflicts_left_out", 0) + known.get("left_out", 0):
        return  # as was asked for
    if others:
        warn(
            f"{table.data}: {len(others)} images are not in the fold table, which was made before they came, or "
            f"without them: {shorten(others)}"
        )


def map_images(table, work=lambda image: image, start=0):
    """Yield `work(image)` of the images of a FoldTable from row `start` on, in its order.

    `work` gets uint8 [height, width, 3] at the table's size; threads call it. Few images are in memory at once.
    Raises InputError as `load_images` does.
    """
    source = open_reader(table.data, table.root)
    names, hashes = table.images, table.frame["sha256"].array

    def load(row):
        name = names[row]
        try:
            data = source.read(name)
        except InputError as error:
            raise InputError(f"{error}; it was there at `make folds`: bring it back or rerun that") from None
        if sha256_bytes(data) != hashes[row]:
            raise InputError(f"{name} in {table.data}: changed since `make folds` (other sha256), rerun that")
        return work(resize(decode(data, name, table.ranges), table.size))

    part = max(1, min(64, PART // (3 * math.prod(table.size))))
    return in_threads(load, range(start, len(names)), "load images", part)
