"""Groups of images that show the same picture: copies, byte for byte or redrawn, and frames of one scene.

A fold model that has trained on a copy of an image it is scored on scores too well. So images that are the same, or
nearly so, get one group and lie in one fold. Nearly: re-encoded, resized, mirrored, turned by 90 degrees, relit by up
to 20 %, or the same scene with up to 5 % of shift or scale and 3 degrees between the frames, or all of it at once.

near.py finds the pairs that are only nearly the same.
"""

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from competition.base import files, page
from competition.base.files import warn
from competition.base.text import shorten
from competition.base.workspace import GROUPS_HTML, PAIRS_CSV
from competition.data.images import map_images
from competition.data.near import LEAST_SCORE, NEIGHBOURS, find_near

LEVELS = 0.85, 0.93, 0.97, 0.99, 2  # that a group which is too large is cut at, one after the other; no score is 2
UNDEALT = 5  # folds that a group is measured by where none are asked for
FEW = 10  # images, that no group is too large with as long as its class can be dealt into folds
LEAST_SHARE = 0.75  # of one class in larger groups: copies with wrong labels are fewer
KNIT = 0.8  # share of a group's pairs that make it one scene: of drawings and digits it was 0.01 to 0.2
MOST = 0.5  # of a class, that such a group may hold
OFTEN, OFTEN_ALONE = 5, 20  # images with the same pixels, under several labels and under one, that hardly belong
NAMED = 5  # pictures named in one line
SHOWN, SHOWN_OF_GROUP, SHOWN_SIDE = 200, 8, 128  # groups of a kind on the page, images of each, and their longer side


def find_groups(frame, sketches, folds=5):
    """Which of n images show the same picture: a DataFrame with a row a pair, first, second (rows), how, score.

    frame     DataFrame with the columns image, label, sha256 and pixels (a hash of them); it gets two more: `picture`,
              the first row of those that show the same, and `conflict`, whether those have several labels
    sketches  uint8 [n, SKETCH], or [n, 0] not to look for pictures that are only nearly the same
    folds     how many the groups are for; None: they are not dealt into folds

    `how` is bytes, pixels or near, `score` the correlation of details (1 where bytes or pixels are equal).
    """
    found = []
    for how in ("bytes", "pixels"):
        pairs = pair_equal(frame["sha256" if how == "bytes" else "pixels"])
        found.append(pd.DataFrame(pairs, columns=["first", "second"]).assign(how=how, score=1.0))
    if sketches.shape[1]:
        different = np.flatnonzero(~frame["pixels"].duplicated())
        found.append(find_near(sketches[different]))
        found[-1][["first", "second"]] = different[found[-1][["first", "second"]].to_numpy()]
    pairs = pd.concat(found, ignore_index=True).drop_duplicates(["first", "second"], ignore_index=True)
    pairs = cut_pairs(frame["label"].to_numpy(), pairs, folds)
    frame["picture"] = join_pairs(len(frame), pairs[["first", "second"]].to_numpy())
    frame["conflict"] = (frame.groupby("picture")["label"].transform("nunique") > 1).astype(bool)
    conflicts = frame[frame["conflict"]].groupby("picture")["image"].agg(list).tolist()
    for images in conflicts[:100]:
        warn(f"the same picture under two labels: {shorten(images, 20)}")
    if len(conflicts) > 100:
        warn(f"and {len(conflicts) - 100} more such pictures: those rows of the table share a group")
    return pairs


def cut_pairs(labels, pairs, folds):
    """Those of `pairs` that stay: drawings, digits and icons of a class are all alike, and would be one group.

    labels  [n]; pairs and folds as find_groups has them. A group that is too large to be copies of one picture keeps only the
    pairs of a higher score, one of LEVELS after the other until it is not; in the end those that are equal in pixels.
    """
    whole = pairs
    for level in LEVELS:
        picture = join_pairs(len(labels), pairs[["first", "second"]].to_numpy())
        large = _too_large(labels, picture, folds, _close_knit(picture, pairs))
        near = large[pairs["first"].to_numpy()] & (pairs["how"] == "near").to_numpy()
        if not near.any():
            break
        pairs = pairs[~near | (pairs["score"] >= level)]
    gone = whole.drop(pairs.index)
    if len(gone):
        large = f"for {folds} folds" if folds else "to be one picture"
        remedy = "; where such images are of one scene or patient, say so with GROUPS=" if folds else ""
        warn(
            f"{len(np.unique(gone[['first', 'second']]))} images are as much alike as drawings are, in groups too large "
            f"{large}: {len(gone)} of {len(whole)} pairs do not count, those least alike{remedy}"
        )
    return pairs.reset_index(drop=True)


def pair_equal(values):
    """Pairs int [m, 2] of (the first row of a value, another row of it), for values that a dict takes as keys.

    By a dict: `pd.factorize` before pandas 3 compares texts only up to a zero byte.
    """
    rows: dict = {}
    first = np.array([rows.setdefault(value, row) for row, value in enumerate(values)], int)
    pairs = np.stack([first, np.arange(len(first))], 1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def join_pairs(n, *pairs):
    """int [n]: of each row the first that pairs of rows, int [m, 2], tie it to, over others as well."""
    if not n:
        return np.empty(0, int)
    first, second = np.concatenate(pairs).T
    links = coo_array((np.ones(len(first), bool), (first, second)), (n, n))
    _, component = connected_components(links, directed=False)
    _, start = np.unique(component, return_index=True)
    return start[component]


def write_report(table, frame, pairs):
    """Say what `find_groups` found, and show it in `runs/<name>/groups/`: groups.html and pairs.csv.

    table   the FoldTable that was made; frame and pairs as find_groups left them, with what is not in the table
    """
    folder = table.paths.groups
    if not len(pairs):
        for name in (GROUPS_HTML, PAIRS_CSV):
            (folder / name).unlink(missing_ok=True)  # of another table of this name
        return
    pairs = pairs.assign(
        group=frame["image"].to_numpy()[frame["picture"].to_numpy()[pairs["first"]]],
        conflict=frame["conflict"].to_numpy()[pairs["first"]],
    )
    rows = dict(list(frame.groupby("picture").groups.items()))
    score = pairs.groupby("group")["score"].min()
    groups = sorted(
        (rows[picture] for picture in np.unique(frame["picture"].to_numpy()[pairs["first"]])),
        key=lambda group: score[frame["image"][group[0]]],
    )
    conflicts = [group for group in groups if frame["conflict"][group[0]]]
    others = [group for group in groups if not frame["conflict"][group[0]]]
    kept = set(table.everything.images)
    often = _find_often(frame, [group for group in groups if frame["image"][group[0]] in kept])
    named = pairs.assign(
        **{
            f"{side}{what}": frame[column].to_numpy()[pairs[side]]
            for side in ("first", "second")
            for what, column in (("", "image"), ("_label", "label"))
        }
    )
    columns = ["group", "first", "second", "first_label", "second_label", "how", "score", "conflict"]
    files.write_bytes(folder / PAIRS_CSV, files.sheet_bytes(named[columns].round({"score": 4})))
    page.write_page(
        folder / GROUPS_HTML,
        f"{table.name}: {len(groups)} pictures that occur more than once",
        _parts(table, frame, often, conflicts, others, score),
    )
    kinds = ", ".join(f"{count} {how}" for how, count in pairs["how"].value_counts(sort=False).items())
    print(
        f"{sum(map(len, groups))} images show {len(groups)} pictures, each in one fold (pairs: {kinds}); "
        f"{len(conflicts)} pictures have several labels; {folder / GROUPS_HTML} shows them"
    )
    if often:
        names = [frame["image"][group[0]] for group in often]
        told = [
            f"{name} ({len(group)} images, {frame['label'][group].nunique()} labels)"
            for name, group in zip(names, often)
        ]
        drop = ",".join(f'"{name}"' if "," in name else name for name in names[:NAMED])
        warn(
            f"{len(often)} pictures occur so often that they may not belong to the data: {shorten(told, NAMED)}; "
            f"{folder / GROUPS_HTML} shows them, and DROP_GROUPS={drop} leaves them out with their copies"
        )
    largest = max(groups, key=len)
    if len(largest) > len(table.frame) / table.k:
        warn(
            f"{frame['image'][largest[0]]} and {len(largest) - 1} others are one group, more than a fold: look at "
            f"{folder / GROUPS_HTML}, and use NEAR=0 where they are not the same"
        )


def _find_often(frame, groups):
    """Those of the groups (arrays of rows) that hold one picture many times, under several labels first, large ones first."""
    found = []
    for group in groups:
        copies = frame.loc[group].groupby("pixels")["label"].agg(["size", "nunique"])
        if ((copies["size"] >= OFTEN_ALONE) | ((copies["size"] >= OFTEN) & (copies["nunique"] > 1))).any():
            found.append(group)
    return sorted(found, key=lambda group: (-frame["label"][group].nunique(), -len(group)))


def _too_large(labels, picture, folds, close):
    """bool [n]: whether the images are in a group that is no picture's copies; `picture` [n] as `join_pairs` has it.

    Of a class it holds more than one fold should, or it mixes classes. While all groups hold no more of a class than
    a fold's share, the class has a group for each fold. Where almost all are like all others (`close`, bool [n]) it is a
    scene nevertheless, or one picture under several labels, unless it is most of a class or too few groups remain.
    Where groups are not dealt (`folds` None) it need not have a group for each fold: a share is one of UNDEALT.
    """
    frame = pd.DataFrame({"picture": picture, "label": labels})
    counts = frame.groupby(["picture", "label"], as_index=False).size()
    of_class = counts.groupby("label")["size"].agg(["sum", "size"])
    share = of_class["sum"] / (folds or UNDEALT)
    least = folds or 1  # groups of a class
    limit = share.clip(lower=FEW).where(of_class["size"] >= least, share).clip(lower=1)
    of_scene = limit.where(of_class["size"] < least, np.maximum(limit, MOST * of_class["sum"]))
    knit = counts["picture"].isin(picture[close])
    over = counts["size"] > counts["label"].map(limit).where(~knit, counts["label"].map(of_scene))
    of_picture = counts.groupby("picture")["size"].agg(["sum", "max"])
    mixed = (of_picture["sum"] > FEW) & (of_picture["max"] < LEAST_SHARE * of_picture["sum"])
    mixed &= ~of_picture.index.isin(picture[close])
    large = {*counts["picture"][over], *of_picture.index[mixed]}
    return np.isin(picture, list(large))


def _close_knit(picture, pairs):
    """bool [n]: whether the search found almost all pairs of the image's group."""
    size = np.bincount(picture, minlength=len(picture))
    found = np.bincount(picture[pairs["first"].to_numpy(int)], minlength=len(picture))
    return ((size > 1) & (2 * found >= KNIT * size * np.minimum(size - 1, NEIGHBOURS)))[picture]


def _parts(table, frame, often, conflicts, others, score):
    shown = {row for group in [*often[:SHOWN], *conflicts[:SHOWN], *others[:SHOWN]] for row in group[:SHOWN_OF_GROUP]}
    shown = sorted(shown)
    pictures = dict(zip(shown, map_images(replace(table, frame=frame.iloc[shown]), _draw)))

    def figure(group):
        lines = [f"{frame['image'][row]} ({frame['label'][row]})" for row in group]
        return page.figure(
            [pictures[row] for row in group[:SHOWN_OF_GROUP]],
            f"{score[frame['image'][group[0]]]:.2f}: {shorten(lines, SHOWN_OF_GROUP)}",
        )

    yield (
        "Images of one group show the same picture and lie in one fold. The number is the least correlation of "
        f"details among its pairs (at least {LEAST_SCORE}; 1: the same bytes or pixels). Nothing was deleted. "
        f"{table.data}"
    )
    for title, groups in (
        *(
            [(f"{len(often)} pictures that occur so often that they may not belong to the data", often)]
            if often
            else []
        ),
        (f"{len(conflicts)} pictures with several labels", conflicts),
        (f"{len(others)} pictures with one label, the least alike first", others),
    ):
        yield page.heading(title)
        yield page.grid(map(figure, groups[:SHOWN]))
        if len(groups) > SHOWN:
            yield f"and {len(groups) - SHOWN} more: pairs.csv"


def _draw(image):
    height, width = image.shape[:2]
    scale = min(1, SHOWN_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return page.picture(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
