"""Features of a frozen backbone: computed once for all folds, epochs and heads, and kept on disk under their key.

What an image's features are depends on the image, the backbone and the view or the drawn augmentation, and on nothing
else: neither on its label, name and place nor on the images beside it. So another fold table, or more images, take
over the ones that are kept, and compute the rest. Images and features pass through memory a batch at a time, whatever their
number.
"""

import collections
import functools
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base.arrays import Room, Stored, build_array, find_flaw
from competition.base.backend import full_precision, use_xla
from competition.base.bars import UNLESS_SEEN, tqdm
from competition.base.files import (
    BROKEN,
    InputError,
    hash_json,
    read_json,
    sha256_bytes,
    sha256_file,
    warn,
    write_json,
    write_text,
)
from competition.base.sums import SUMS, find_damage, read_or_none
from competition.features.augment import build_policy
from competition.features.views import VIEWS

BATCH = 64
MS = "ms_an_image"  # how long the network takes for an image, in milliseconds: of the record of features, no part of the key


def predict(model, images, batch=BATCH, bar=None, taken=None):
    """The model's output for images (uint8 or float32 [n, h, w, 3], or features [n, d]): float32 [n, outputs].

    `images` may be an array, arrays.Stored or arrays.Rows: it is asked for one batch after another. Every call of the
    network gets exactly `batch` rows, the last one padded with zeros: it is traced once, and what an image gets does
    not depend on how many came with it. `taken`, a list, gets the milliseconds an image of each batch.
    """
    parts = (images[start : start + batch] for start in range(0, len(images), batch))
    rows = list(_predict_parts(model, parts, batch, bar, taken))
    return np.concatenate(rows) if rows else np.zeros((0, model.output_shape[-1]), np.float32)


@dataclass(frozen=True)
class Shelf:
    """Where the features of a set of images lie, and what they depend on."""

    folder: Path
    hashes: Sequence[str]  # of each image: the sha256 of its file
    key: dict  # JSON-able: what features depend on besides the image and the view: backbone, weights, sizes
    others: tuple[Path, ...] = ()  # folders of that kind whose features of the same images are taken over

    @functools.cached_property
    def names(self):
        """What each image is known by; no two are alike: of equal images the later ones are numbered."""
        seen, names = collections.Counter(), []
        for digest in self.hashes:
            name = digest[:32]
            names.append(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
        return names

    @functools.cached_property
    def images(self):
        """The hash of all names in their order, which every key has, and the file that lists the names."""
        return hash_json(self.names)

    def find(self, key):
        """Features of that key but for the images, an array [m, d], and int [n], where those of each image are there.

        They are those which have most of the images; -1 stands for an image that they lack. Last what an image took (MS).
        """
        candidates = []
        for path in (path for folder in sorted({self.folder, *self.others}) for path in sorted(folder.glob("*.json"))):
            try:
                other = read_json(path)
                took = other.get(MS)
                if _without_extras(other) | {"images": self.images} != key:
                    continue
                names = _list_of(path.parent, other["images"]).read_text("utf-8").split()
                if hash_json(names) != other["images"]:
                    continue
                array, places = Stored(path.with_suffix(".npy")), pd.Index(names).get_indexer(self.names)
            except (InputError, *BROKEN):  # removed, or not ours
                continue
            if len(array) == len(names) and (count := (places >= 0).sum()):
                candidates.append((count, path.with_suffix(".npy"), array, places, took))
        for _, path, array, places, took in sorted(candidates, key=lambda candidate: -candidate[0]):
            if is_usable(path):
                return array, places, took
        return None, np.full(len(self.names), -1), None

    def holding(self, view):
        """The files in the folder that have a view of exactly these images, in this order: [(key, path)], by name.

        Of what computed them the key asks only what `self.key` does.
        """
        wanted, found = self.key | _view(view) | {"images": self.images}, []
        for path in sorted(self.folder.glob("[!.]*.json")):
            try:
                record = read_json(path)
            except InputError:  # removed, or not ours
                continue
            same = isinstance(record, dict) and all(record.get(name) == value for name, value in wanted.items())
            if same and (array := path.with_suffix(".npy")).exists():
                found.append((record, array))
        return found


def read_ms(shelf):
    """The milliseconds that the backbone of a Shelf takes for an image, the least that was seen; None where nothing tells."""
    found = []
    for path in shelf.folder.glob("[!.]*.json"):
        try:
            record = read_json(path)
        except InputError:  # removed, or not ours
            continue
        if MS in record and all(record.get(name) == value for name, value in shelf.key.items()):
            found.append(record[MS])
    return min(found, default=None)


def view_features(backbone, images, views, shelf, room=None):
    """Features of every TTA view of every image: a list of float32 [n, d], one a view.

    images: uint8 [n, h, w, 3], an array or arrays.Stored. A view whose file lies on the shelf is read and not
    computed. Features for which there is no `room` (arrays.Room; None: there is no limit) come as arrays.Stored.
    """
    jobs = [(_view(view), lambda part, rows, view=view: VIEWS[view](part)) for view in views]
    return _compute(backbone, images, jobs, shelf, room)


def copy_features(backbone, images, copies, policy, seed, shelf, room=None, versions=None):
    """Features of augmented copies of every image, drawn with the named policies: a list of float32 [n, d], one a copy.

    What is drawn follows from seed, copy and image, so that it does not matter where a killed computation went on, or
    what other images there are. `versions` are those of what draws.
    """
    augment = build_policy(policy)

    def draw(part, rows, copy):
        seeds = (sha256_bytes(f"{seed} {copy} {shelf.names[row]}".encode())[:16] for row in rows)
        return np.stack([augment(image, int(digits, 16)) for image, digits in zip(part, seeds)])

    jobs = [
        (
            {"copy": copy, "policy": policy, "seed": seed, "drawn": versions or {}},
            lambda part, rows, copy=copy: draw(part, rows, copy),
        )
        for copy in range(copies)
    ]
    return _compute(backbone, images, jobs, shelf, room)


def _predict_parts(model, parts, batch, bar, taken=None):
    """The model's output for each of the parts, of up to `batch` rows; to `taken` the milliseconds an image are added."""
    model.jit_compile = use_xla()
    for part in parts:
        chunk = np.zeros((batch, *part.shape[1:]), np.float32)
        chunk[: len(part)] = part
        before = time.perf_counter()
        with full_precision():
            rows = np.asarray(model.predict_on_batch(chunk), np.float32)[: len(part)]
        if taken is not None:
            taken.append(1000 * (time.perf_counter() - before) / batch)
        yield rows
        if bar is not None:
            bar.update(len(part))


def _view(view):
    """What the key of features without augmentation says besides the Shelf's own."""
    return {"view": view}


def _compute(backbone, images, jobs, shelf, room):
    keys = [shelf.key | more | {"images": shelf.images} for more, _ in jobs]
    paths = [shelf.folder / f"{hash_json(key)[:16]}.npy" for key in keys]
    shape = len(images), backbone.output_shape[-1]
    for path in paths:
        _remove_damaged(path, shape)
    missing = sum(not path.exists() for path in paths)
    with tqdm(total=shape[0] * missing, desc="features", unit=" images", leave=False, disable=UNLESS_SEEN) as bar:
        for path, key, (_, change) in zip(paths, keys, jobs):
            took, taken = None, []
            if not path.exists():
                kept, places, took = shelf.find(key)
                rows_from = functools.partial(_rows_from, backbone, images, change, kept, places, bar, taken)
                build_array(path, shape, np.float32, rows_from, BATCH)
            names, text = _list_of(shelf.folder, shelf.images), "\n".join(shelf.names)
            if not names.exists() or names.read_bytes() != text.encode():
                write_text(names, text)
            if _without_extras(read_or_none(path.with_suffix(".json"))) != key:
                took = min(taken[1:] or taken, default=took)  # the first batch is traced
                extras = {SUMS: {path.name: sha256_file(path)}} | ({} if took is None else {MS: round(took, 3)})
                write_json(path.with_suffix(".json"), key | extras)
    room = room or Room()
    return [room.open(path) for path in paths]


def is_usable(path):
    """Whether an .npy of features is whole, by the sha256 in its record; a warning, with the remedy, where it is not."""
    if damage := find_flaw(path) or find_damage(path, read_or_none(path.with_suffix(".json"))):
        warn(f"{path}: {damage}; it counts as gone: the next `make train` or `make rank` that needs it makes it anew")
    return not damage


def _remove_damaged(path, shape):
    """Remove an .npy of features that is not whole, and its record, with a warning."""
    if not path.exists():
        return
    record = path.with_suffix(".json")
    if damage := find_flaw(path, shape, np.float32) or find_damage(path, read_or_none(record)):
        warn(f"{path}: {damage}; it is made anew")
        record.unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _without_extras(record):
    """Of the record of features the key alone; None of what is no record."""
    if not isinstance(record, dict):
        return None
    return {name: value for name, value in record.items() if name not in (MS, SUMS)}


def _list_of(folder, images):
    return folder / f"{images[:16]}.txt"


def _rows_from(backbone, images, change, kept, places, bar, taken, first):
    """Yield the features of the images from the row `first` on, BATCH at a time: kept ones, or else computed."""
    bar.update(first)
    missing = first + np.flatnonzero(places[first:] < 0)
    batches = (missing[start : start + BATCH] for start in range(0, len(missing), BATCH))
    parts = (change(images[rows], rows) for rows in batches)
    fresh = itertools.chain.from_iterable(_predict_parts(backbone, parts, BATCH, bar, taken))
    for start in range(first, len(places), BATCH):
        there = places[start : start + BATCH]
        old = there >= 0
        rows = np.empty((len(there), backbone.output_shape[-1]), np.float32)
        if old.any():
            rows[old] = kept[there[old]]
            bar.update(int(old.sum()))
        for row in np.flatnonzero(~old):
            rows[row] = next(fresh)
        yield rows
