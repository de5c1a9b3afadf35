"""Test images and other images without labels, as a fold table without labels."""

import pandas as pd

from competition.base import files
from competition.base.files import InputError, warn
from competition.base.text import shorten
from competition.base.threads import in_threads
from competition.data.decode import check_values
from competition.data.ranges import BEYOND, assumed_range, find_ranges, say_range
from competition.data.sources import open_unlabelled
from competition.data.table import FoldTable, default_name

FEWEST = 10  # test images that can be compared


def read_test(test, table, place=None, fewest=FEWEST):
    """The test images as a FoldTable without labels, called `<table>/shift/<test>`, at the training images' size.

    place   what gives the folder of a test's name, which the table is called after: default table.paths.shift

    Nothing is ever written beside them. InputError for what is no such folder or zip, and for broken images.
    """
    unknown, broken = read_usable(test, table, place, fewest)
    check_all_read(unknown, broken)
    return unknown


def check_all_read(unknown, broken):
    """InputError that names all images that cannot be read, if there are any: {image: why}, as of read_usable."""
    if broken:
        more = f"{unknown.data}: {len(broken)} images cannot be read: " if len(broken) > 1 else ""
        raise InputError(more + "; ".join(broken.values()))


def read_usable(test, table, place=None, fewest=FEWEST):
    """The FoldTable of read_test of those test images that can be read, and {image: why it cannot} of the others.

    InputError for what is no folder or zip of images, and for fewer than `fewest` images that can be read.
    """
    source = open_unlabelled(test)
    runs = table.workspace.runs
    if source.data.is_dir() and runs.resolve().is_relative_to(source.data.resolve()):
        raise InputError(
            f"{source.data}: the test folder holds the current one, whose {runs}/ is written; "
            "expected test images elsewhere, or another current folder"
        )

    deep = {}

    def examine(image):
        try:
            data = source.read(image)
            _, (height, width), _, values = check_values(data, image, 1)
        except InputError as error:
            return str(error)
        if values:
            deep[image] = values
        return {"image": image, "sha256": files.sha256_bytes(data), "width": width, "height": height}

    found = dict(zip(source.images, in_threads(examine, source.images, "check images")))
    broken = {image: one for image, one in found.items() if isinstance(one, str)}
    if len(broken) == len(found):
        raise InputError(f"{source.data}: none of {len(found)} images can be read: {shorten(list(broken.values()))}")
    frame = pd.DataFrame([one for image, one in found.items() if image not in broken]).assign(label="", fold=0)
    if len(frame) < fewest:
        readable = " that can be read" if broken else ""
        raise InputError(f"{source.data}: {len(frame)} images{readable}, expected {fewest} or more to compare")
    _warn_of_values(source.data, deep, table.ranges)
    digest = hash_images(frame)
    folder = (place or table.paths.shift)(default_name(source.data, "rename it"))
    unknown = FoldTable(
        folder.relative_to(runs).as_posix(),
        frame,
        table.classes,
        table.size,
        source.data.as_posix(),
        0,
        digest,
        digest,
        source.root,
        workspace=table.workspace,
        ranges=table.ranges,
    )
    return unknown, broken


def hash_images(frame):
    """The hash of a FoldTable without labels: of the columns image and sha256 of its frame."""
    return files.hash_json(frame[["image", "sha256"]].to_numpy().tolist())


def _warn_of_values(data, found, ranges):
    """Name test images of more than 8 bits whose values the training images' range clips, or leaves almost black.

    found   {image: ranges.Values}; ranges: those of the FoldTable
    """
    for kind in sorted({values.kind for values in found.values()}):
        of_kind = {image: values for image, values in sorted(found.items()) if values.kind == kind}
        low, high = ranges.get(kind) or assumed_range(kind, of_kind.values())
        outside = [image for image, values in of_kind.items() if values.low < low or values.high > high]
        if outside:
            worst = min(of_kind[image].low for image in outside), max(of_kind[image].high for image in outside)
            warn(
                f"{data}: {len(outside)} images of {kind} have values of {say_range(worst)}, which are clipped to the training "
                f"images' range, {say_range((low, high))}: {shorten(outside)}"
            )
        own = find_ranges(of_kind.values()).get(kind)
        if own and BEYOND * (own[1] - own[0]) <= high - low:
            warn(
                f"{data}: {len(of_kind)} images of {kind} have values of {say_range(own)} only, but the training images' "
                f"range is {say_range((low, high))}: they are almost of one grey"
            )
