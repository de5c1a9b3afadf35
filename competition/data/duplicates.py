"""Which images of any folder show the same picture; `make folds` asks the same of its images.

No labels, no fold table and no Workspace are needed, and nothing is written.
"""

import hashlib
import os
from collections.abc import Iterable

import numpy as np
import pandas as pd

from competition.base.files import InputError, sha256_bytes, warn
from competition.base.option_values import whole_number
from competition.base.text import shorten
from competition.base.threads import in_threads
from competition.data.decode import EXTENSIONS, check_values
from competition.data.groups import find_groups
from competition.data.near import SIDE, make_sketch
from competition.data.ranges import Values, find_ranges
from competition.data.sources import Source, open_images


def find_duplicates(
    data: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    near: bool = True,
    *,
    skip_bad: bool = False,
    folds: int | None = None,
) -> pd.DataFrame:
    """Group the images that show the same picture: copies, re-encoded or turned copies, and frames of one scene.

    Every file is decoded once. Images of one group belong on the same side of a split, as a model that has trained on
    one of them is too good on the others.

    Parameters
    ----------
    data : path, or list of paths
        A folder of images at any depth, a zip of one, a CSV with the column ``image`` (paths relative to the CSV), or a
        list of image files. Labels are read from class folders or a CSV's column ``label`` where there are any.
    near : bool, default True
        Also find pictures that are nearly the same: re-encoded, resized, mirrored, turned by 90 degrees, relit by up to
        20 %, shifted or scaled by up to 5 %. False compares the files' bytes alone, which is faster.
    skip_bad : bool, default False
        Leave out files that are no pictures, with a warning, instead of raising an error.
    folds : int, optional
        Number of folds, from 2 to 1000, that the groups are made for. A group that no fold of that number can hold keeps
        its surest pairs alone; ``make folds FOLDS=`` with the same number has the same groups. By default only groups of
        more than 10 images and a fifth of all images (of a class, where there are labels) are cut so; a group of which
        almost every image is like every other may hold half of them.

    Returns
    -------
    pandas.DataFrame
        One row an image, sorted by image:

        - image: path relative to `data`, with ``/``; of a list the path as given
        - label: class, only where the data has labels
        - sha256: of the file's bytes, 64 hexadecimal digits
        - width, height: int64, pixels, upright
        - picture: int64, the same number for images with identical pixels, counted from 0. With ``near=False`` the
          same number for identical bytes
        - group: name of the first image of its group; an image like no other is a group of its own
        - exact: bool, another image has identical pixels
        - near: bool, an image with other pixels is nearly the same

    Raises
    ------
    InputError
        No such file or folder, no image in it, or a file that is no picture (named) without `skip_bad`.

    Examples
    --------
    >>> from competition import find_duplicates
    >>> found = find_duplicates("photos/")  # doctest: +SKIP
    >>> found[found["group"].duplicated(keep=False)]  # all images that are not alone  # doctest: +SKIP
    """
    folds = None if folds is None else whole_number("folds", folds, 2, 1000)
    source = open_images(data)
    frame, pairs, _ = read_groups(source, skip_bad, near, folds)
    if frame.empty:
        raise InputError(f"{data}: no file is a picture, expected some")
    images = [source.root + image for image in frame["image"]]
    alike = pairs["how"] == "near"
    copies = _rows(pairs[~alike])
    order = np.argsort(np.array(images, object), kind="stable")
    found = frame.assign(
        image=images,
        picture=frame["pixels"],
        exact=np.isin(np.arange(len(frame)), copies),
        near=frame["pixels"].isin(frame["pixels"].iloc[_rows(pairs[alike])]),
        group=frame["picture"],
    ).iloc[order]
    found["picture"] = pd.factorize(found["picture"])[0].astype(np.int64)
    found["group"] = found.groupby("group")["image"].transform("first")
    labels = ["label"] if source.labels else []
    columns = ["image", *labels, "sha256", "width", "height", "picture", "group", "exact", "near"]
    return found[columns].reset_index(drop=True)


def read_groups(
    source: Source, skip_bad: bool, near: bool, folds: int | None
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Values]]:
    """Read the images of a Source and find those that show the same.

    Returns a row an image (image, label, sha256, width, height, pixels, picture, conflict), in the order of the Source,
    and a row a pair, both as groups.find_groups describes them; and {image: ranges.Values} of pictures of more than 8
    bits. Raises InputError for a file that is no picture, unless `skip_bad`.
    """
    frame, sketches, values = _read_all(source, skip_bad, near)
    return frame, find_groups(frame, sketches, folds), values


def _rows(pairs):
    return np.unique(pairs[["first", "second"]].to_numpy(int))


def _read_all(source, skip_bad, near):
    """A row an image that can be used: image, label, sha256, width, height, pixels (a hash); their sketches; and
    {image: ranges.Values} of those of more than 8 bits, which are decoded again where their data set has a range of its own.

    Not to be `near`, `pixels` is that of the bytes, and there are no sketches: [n, 0]. Without labels they are "".
    """

    ranges: dict = {}
    deep: dict[str, Values] = {}

    def examine(job):
        image, label = job
        try:
            data = source.read(image)
            found = check_values(data, image, SIDE if near else 1, ranges)
        except InputError as error:
            return image, str(error)
        pixels, (height, width), kind, values = found
        if values:
            deep[image] = values
        sha256 = sha256_bytes(data)
        drawn = _hash_pixels(height, width, pixels) if near else sha256
        return (image, label, sha256, width, height, drawn, make_sketch(pixels) if near else b"", kind), None

    labels = source.labels or [""] * len(source.images)
    found = list(in_threads(examine, list(zip(source.images, labels)), "check images"))
    if near and (ranges := find_ranges(deep.values())):
        again = [at for at, (row, error) in enumerate(found) if not error and row[0] in deep]
        jobs = [found[at][0][:2] for at in again]
        for at, row in zip(again, in_threads(examine, jobs, "decode images by their range of values")):
            found[at] = row
    bad = [(image, error) for image, error in found if error]
    rows = [row for row, error in found if not error]
    if bad and not skip_bad:
        more = f"; and {len(bad) - 1} more: {shorten([image for image, _ in bad[1:]])}" if bad[1:] else ""
        remedy = " (SKIP_BAD=1 leaves such files out)" if rows else "; none of the files is a picture that can be read"
        raise InputError(f"{bad[0][1]}{more}{remedy}")
    if bad:
        warn(f"{len(bad)} files left out: {shorten([error for _, error in bad], 20)}")
    if other := [f"{row[0]} ({row[-1]})" for row in rows if _misnamed(row[0], row[-1])]:
        warn(f"{len(other)} files are of another format than their names say: {shorten(other)}")
    sketches = np.frombuffer(b"".join(row[-2] for row in rows), np.uint8).reshape(len(rows), -1 if rows else 0)
    columns = ["image", "label", "sha256", "width", "height", "pixels"]
    return pd.DataFrame([row[:-2] for row in rows], columns=columns), sketches, deep


def _hash_pixels(height, width, pixels):
    """sha256 of a picture's size and pixels, without a copy of these."""
    digest = hashlib.sha256(b"%d %d " % (height, width))
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _misnamed(image, kind):
    extension = os.path.splitext(image)[1].lower()
    return bool(extension) and extension not in EXTENSIONS[kind]
