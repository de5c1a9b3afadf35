"""Make the fold table: read and check every image once, tie those that show the same, deal them into folds.

table.py reads the table. Later stages take an image only if its hash is still the one in the table.
"""

import csv
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.arrays import gigabytes, read_memory
from competition.base.files import InputError, csv_bytes, warn
from competition.base.metrics import find_metric
from competition.base.option_values import parse_size, whole_number
from competition.base.text import class_order, natural_order, shorten
from competition.base.workspace import RUN_JSON, Workspace, check_competition_name
from competition.data.duplicates import read_groups
from competition.data.groups import join_pairs, pair_equal, write_report
from competition.data.ranges import find_ranges, say_range
from competition.data.sources import open_source, read_column
from competition.data.sources.source import Reading, absolute
from competition.data.table import COLUMNS, FoldTable, data_hash, default_name, make_table, read_folds, table_hash

RARE = ("train", "drop", "stop")  # what becomes of classes of fewer images than folds


@dataclass(frozen=True)
class Left:
    """How many images that can be read are not in the table."""

    conflicts: int  # their pictures have several labels
    foreign: int  # they show a picture of DROP_GROUPS=
    rare: int  # they are of rare classes


def make_folds(
    data: str | Path,
    name: str | None = None,
    folds: int | str = 5,
    seed: int | str = 0,
    size: str | int | Sequence[int] | None = None,
    classes: str | Sequence[str] | None = None,
    skip_bad: bool = False,
    force: bool = False,
    groups: str | None = None,
    near: bool | int | str = True,
    drop_conflicts: bool = False,
    metric: str = "accuracy",
    rare: str = "train",
    drop_groups: str | Sequence[str] | None = None,
    workspace: Workspace = Workspace(),
    image_column: str | None = None,
    label_column: str | None = None,
    images: str | Path | None = None,
    fold_column: str | None = None,
    val: str | None = None,
    alike: str = "merge",
    dry: bool = False,
) -> FoldTable:
    """Read and check every image once, deal them into stratified folds, write `folds/<name>.csv` and `.json`.

    data      folder of class folders, archive of one, label table, arrays, or a download that holds one of these
    name      of the table; default: the stem of `data`
    size      "96", "96x128" (height x width) or a tuple; default: the median height and width, rounded
    classes   all class names in the order wanted, as a list or "a,b,c"; default: sorted, integers as numbers. A table
              of this name that has the same integers in the order of text keeps that, unless `force` is given
    skip_bad  leave out files that are no pictures, and rows of a table without file or label, instead of stopping
    force     replace another table even though runs use it
    groups    a column of the table (patient, site, camera): images that have the same there share a group too
    near      1 or True: look for images that show the same picture (competition/data/groups.py); 0 or False: only those of
              identical bytes share a group
    drop_conflicts  leave out pictures that have several labels
    metric    what the competition is scored by, a name of metrics.METRICS
    rare      what becomes of a class of fewer different images than folds: "train", its images are in the training part of
              every fold and count in no score; "drop", they are left out, and so is the class; "stop", an InputError
    drop_groups  names of images, as a list or "a,b,c": they and all that show the same picture are left out
    workspace  where table and report are written
    image_column, label_column   columns of the label table; of arrays, names of these; default: recognised
    images    folder or archive that the images of a label table lie in; default: beside it
    fold_column  a column of whole numbers that are the folds; default: they are dealt
    val       what to do with a given validation split: "out" (default), "join" or "fold", a fold of its own
    alike     "merge": labels that differ only by blanks, case or Unicode form are one class; "keep": they are several
    dry       write nothing, only print what would be written

    A group lies in one fold. What was found is shown in runs/<name>/groups/. The table depends on data and
    arguments alone, not on the machine. Returns the FoldTable; raises InputError for data or arguments that
    cannot be used.
    """
    name = check_competition_name(name or default_name(data))
    folds = whole_number("FOLDS", folds, 2, 1000)
    seed = whole_number("SEED", seed, 0, 2**32 - 1)
    near = bool(whole_number("NEAR", int(near) if isinstance(near, bool) else near, 0, 1))
    size = parse_size(size)
    metric = find_metric(metric).name
    if rare not in RARE:
        raise InputError(f"RARE={rare}: expected one of {', '.join(RARE)}")
    options = Reading(image_column, label_column, str(images or "") or None, val, skip_bad, alike)
    reading = {key: value for key, value in vars(options).items() if value != getattr(Reading(), key)}
    source = open_source(data, **reading)
    for remark in source.remarks:
        warn(remark)
    _check_place(source, workspace)
    classes, given = _class_order(source.classes, classes)
    if not given and not force:
        classes = _kept_order(classes, workspace.competition(name).json)
    if metric == "quadratic_kappa" and not given and len(classes) > 2:
        _check_grades(classes)

    given_groups = read_column(source, groups) if groups else {}
    given_folds = _read_fold_column(source, fold_column) if fold_column else {}
    wanted = len(set(given_folds.values())) if given_folds else folds

    everything, pairs, deep = read_groups(source, skip_bad, near, wanted)
    foreign = _pictures_of(everything, drop_groups)
    frame = everything[~foreign].reset_index(drop=True)
    if drop_conflicts:
        frame = frame[~frame["conflict"]].reset_index(drop=True)
    conflicts = len(everything) - int(foreign.sum()) - len(frame)
    tied = pair_equal(frame["picture"]), pair_equal(_given(frame["image"], given_groups))
    frame["group"] = frame["image"].to_numpy()[join_pairs(len(frame), *tied)]
    few: dict[str, str] = {}
    if given_folds:
        _take_folds(frame, given_folds, classes, f"FOLD_COLUMN={fold_column}")
    else:
        frame, few = _deal(frame, source, folds, seed, rare)
        if rare == "drop":
            classes = [name for name in classes if name not in few]
    left = Left(conflicts, int(foreign.sum()), len(everything) - int(foreign.sum()) - conflicts - len(frame))
    made = wanted + bool(source.val and not given_folds)
    _warn_of_lacking(frame, made, f"FOLD_COLUMN={fold_column}" if given_folds else "")
    frame = _in_order(frame, classes)
    height, width = size or (int(frame[side].median() + 0.5) for side in ("height", "width"))

    values = [deep[image] for image in frame["image"] if image in deep]
    ranges = find_ranges(values)
    content = csv_bytes(frame)
    counts = frame["label"].value_counts()
    record = {
        "data": source.data.as_posix(),
        "root": source.root,
        "classes": classes,
        "counts": {label: int(counts[label]) for label in classes},
        "images": len(frame),
        "seed": seed,
        "folds": made,
        "size": [height, width],
        "metric": metric,
        "hash": table_hash(content, classes, (height, width), ranges),
        "data_hash": data_hash(frame),
        "near": bool(near),
        "groups": groups or "",
        "conflicts_left_out": left.conflicts,
        "versions": files.versions(),
        **({"ranges": ranges} if ranges else {}),
        **({"left_out": left.foreign + left.rare} if left.foreign + left.rare else {}),
    }
    if source.columns is None:
        reading.pop("skip_bad", None)
    if reading:  # how to find the same images again
        beside = {"data": str(absolute(data)), "images": str(source.data)} if images else {}
        record["reading"] = reading | beside
    if fold_column:
        record["fold_column"] = fold_column
    if dry:
        table, note = make_table(name, frame, record, workspace), "not written (DRY=1)"
    else:
        note = _write(workspace.competition(name), content, record, force)
        table = read_folds(name, workspace)
    _report(table, given, note, [*source.found, *_count_left(source, everything, left)])
    _report_ranges(table.ranges, values)
    _report_left(table, left, few, folds)
    if groups:
        print(f"images of one {groups} share a fold: {len(set(given_groups.values()) - {''})} different ones")
    if not dry:
        write_report(table, everything, pairs)
    return table


def _take_folds(frame, folds, classes, given):
    """Give each image of a frame its fold of {image: fold}; InputError where a class or a fold has no image left."""
    frame["fold"] = frame["image"].map(folds).astype(np.int64)
    if gone := sorted(set(classes) - set(frame["label"])):
        raise InputError(f"{given}: no image is left of class {shorten(gone, 20)}; remove its rows from the table")
    if gone := sorted(set(folds.values()) - set(frame["fold"])):
        raise InputError(f"{given}: no image is left of fold {shorten(list(map(str, gone)), 20)}, expected some")
    _warn_of_parted(frame, given)


def _deal(frame, source, folds, seed, rare):
    """The frame with a fold for each image, -1 for those that are only trained on; and {class: its counts} of rare ones.

    rare   as of make_folds; "drop" leaves out the images of rare classes

    Images of a given validation split are the fold `folds`.
    """
    dealt = ~frame["image"].isin(source.val)
    few = _check_classes(frame[dealt], source.classes, folds, rare)
    if rare == "drop":
        kept = ~frame["label"].isin(few)
        frame, dealt = frame[kept].reset_index(drop=True), dealt[kept]
    dealt = np.flatnonzero(dealt)
    scored = dealt[_choose_scored(frame.iloc[dealt], few, folds)]
    frame["fold"] = folds
    frame.loc[dealt, "fold"] = -1
    labels, group = (frame.loc[scored, column].to_numpy() for column in ("label", "group"))
    frame.loc[scored, "fold"] = assign_folds(labels, group, folds, seed)
    if source.val:
        _warn_of_parted(frame, "VAL=fold")
    return frame, few


def assign_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold of each image, int64 [n]: stratified by label, a group in one fold. Both are strings [n].

    Without groups of several images this is scikit-learn's StratifiedKFold, shuffled. Otherwise groups are
    dealt one by one, large ones first, each to the fold that has least of its classes so far; as long as
    groups are of one class, its counts differ between folds by no more than one group. (StratifiedGroupKFold
    is slower: 20 s for 100 thousand images, against 1.)
    """
    if len(set(groups)) == len(groups):
        from sklearn.model_selection import StratifiedKFold

        fold = np.empty(len(labels), np.int64)
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
        for k, (_, held_out) in enumerate(splits):
            fold[held_out] = k
        return fold

    _, label_ids = np.unique(labels, return_inverse=True)
    _, group_ids = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(group_ids, kind="stable"), np.cumsum(np.bincount(group_ids))[:-1])
    members = [members[i] for i in np.random.RandomState(seed).permutation(len(members))]
    members.sort(key=len, reverse=True)
    share = 1 / np.bincount(label_ids)
    load = np.zeros((label_ids.max() + 1, folds))  # share of each class that each fold has so far
    total = np.zeros(folds)
    fold = np.empty(len(labels), np.int64)
    for rows in members:
        of = label_ids[rows]
        cost = load[of].sum(0)
        k = np.lexsort((total, np.round(cost, 9)))[0]
        fold[rows] = k
        np.add.at(load[:, k], of, share[of])
        total[k] += len(rows)
    return fold


def _read_fold_column(source, column):
    """{image: fold} of a column of whole numbers, which are counted from 0 if they are not; InputError for others."""
    texts = read_column(source, column)
    numbers = {image: text.strip().removesuffix(".0") for image, text in texts.items()}
    if bad := [f"{image} ({texts[image]!r})" for image, text in numbers.items() if not text.isdecimal()]:
        raise InputError(f"FOLD_COLUMN={column}: expected whole numbers from 0, found {shorten(bad)}")
    known = sorted({int(text) for text in numbers.values()})
    if len(known) < 2:
        raise InputError(f"FOLD_COLUMN={column}: found {known[0]} alone, expected 2 folds or more")
    if known != list(range(len(known))):
        print(f"FOLD_COLUMN={column}: {shorten(list(map(str, known)), 20)} are called 0 to {len(known) - 1}")
    place = {number: fold for fold, number in enumerate(known)}
    return {image: place[int(text)] for image, text in numbers.items()}


def _warn_of_parted(frame, given):
    """Say how many images have another of their group in another fold, which was given."""
    parted = frame.groupby("group")["fold"].transform("nunique") > 1
    if parted.any():
        warn(
            f"{given}: {int(parted.sum())} images show the same as one of another fold, whose score is too good for that: "
            f"{shorten(frame.loc[parted, 'image'].tolist())}"
        )


def _warn_of_lacking(frame, folds, given):
    """Name the classes that have images in some of the folds only; `given` says where the folds are from, if not dealt."""
    ever = frame[frame["fold"] >= 0]
    counts = pd.crosstab(ever["label"], ever["fold"]).reindex(columns=range(folds), fill_value=0)
    if lacking := counts.index[(counts == 0).any(axis=1)].tolist():
        reason, remedy = (given, "") if given else ("groups of several classes", "; fewer FOLDS= would hold more")
        leave = "leaves" if given else "leave"
        warn(f"{reason} {leave} a fold without images of {shorten(lacking)}{remedy}")


def _check_place(source, workspace):
    """InputError where what is written would lie in the data's folder."""
    if source.data.is_dir() and workspace.folds.resolve().is_relative_to(source.data.resolve()):
        raise InputError(
            f"{source.data}: the data folder holds the current one, whose {workspace.folds}/ and "
            f"{workspace.runs}/ are written; expected data elsewhere, or another current folder"
        )


def _in_order(frame, classes):
    """The columns of a fold table, its rows by class, then as they were."""
    position = {label: i for i, label in enumerate(classes)}
    order = np.argsort([position[label] for label in frame["label"]], kind="stable")
    return frame.iloc[order][COLUMNS].reset_index(drop=True)


def _count_left(source, everything, left):
    """(what, finding) of the images of the table and those that are not in it."""
    counts = {
        "no images that can be read": len(source.images) - len(everything),
        "images with several labels": left.conflicts,
        "images of DROP_GROUPS=": left.foreign,
        "images of rare classes": left.rare,
    }
    rows = [("left out", f"{count} {what}") for what, count in counts.items() if count]
    return [("images", str(len(source.images) - sum(counts.values()))), *rows]


def _check_grades(classes):
    """InputError unless the names say by numbers that they are in the order of grades, lowest first."""
    if natural_order(classes) != list(classes) or not all(re.search(r"\d", name) for name in classes):
        raise InputError(
            f"METRIC=quadratic_kappa: the classes would be grades in the order {shorten(classes, 60)}; "
            "expected CLASSES=<all of them, lowest grade first>"
        )


def _class_order(found, wanted):
    """The class order, and whether the user gave it."""
    if not wanted:
        return class_order(found), False
    wanted = _split_names("CLASSES", wanted) if isinstance(wanted, str) else list(wanted)
    composed = {unicodedata.normalize("NFC", name): name for name in found}
    wanted = [name if name in found else composed.get(unicodedata.normalize("NFC", name), name) for name in wanted]
    if unknown := [name for name in wanted if name not in found]:
        raise InputError(f"CLASSES: unknown: {shorten(unknown)}; the data has {shorten(found, 20)}")
    if doubled := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise InputError(f"CLASSES: named more than once: {shorten(doubled)}")
    if missing := [name for name in found if name not in wanted]:
        raise InputError(f"CLASSES: missing: {shorten(missing)}; expected all {len(found)} of the data")
    return wanted, True


def _split_names(variable, text):
    """The names of "a,b,c", of which one may stand in double quotes; InputError for what is no such text."""
    try:
        return next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error as error:
        raise InputError(f"{variable}={text!r}: {error}; expected one line, a,b,c") from None


def _kept_order(classes, path):
    """The order of text if a table's record at `path` has these classes in it, else `classes` as they are.

    Before integers were ordered as numbers all tables had that order, and the runs of such a table go on with it.
    """
    try:
        stored = files.read_json(path)["classes"]
    except (InputError, KeyError, TypeError):
        return classes
    return stored if stored == sorted(classes) else classes


def _given(images, groups):
    """What the user gave as the group of each image, a text; an image without is one of its own, a tuple."""
    return [groups.get(image) or (image,) for image in images]


def _check_classes(frame, classes, folds, rare):
    """{class: how to say its counts} of the classes that cannot reach every fold; InputError unless something is done.

    rare   as of make_folds
    """
    images, pictures = (frame.groupby("label")[column].nunique() for column in ("image", "group"))
    few: dict[str, str] = {}
    for label in classes:
        count, distinct = int(images.get(label, 0)), int(pictures.get(label, 0))
        if distinct < folds:
            few[label] = f"{label} ({count}{f', {distinct} of them different' if distinct < count else ''})"
    if few and rare == "stop":
        raise InputError(f"fewer images than FOLDS={folds} in class {shorten(list(few.values()), 20)}")
    if len(few) > len(classes) - 2:
        raise InputError(
            f"fewer images than FOLDS={folds} in class {shorten(list(few.values()), 20)}; expected two classes with as many"
        )
    if gone := [label for label in few if rare == "train" and label not in images.index]:
        raise InputError(f"no image is left of class {shorten(gone, 20)}; RARE=drop leaves out the class")
    return few


def _pictures_of(everything, named):
    """bool [n]: the images that show the same picture as one of those `named`, a list or "a,b,c"; InputError for others."""
    if isinstance(named, str):
        named = _split_names("DROP_GROUPS", named)
    place = {image: row for row, image in enumerate(everything["image"])}
    if unknown := [image for image in named or [] if image not in place]:
        known = shorten(everything["image"].tolist(), 2)
        raise InputError(f"DROP_GROUPS: no such image: {shorten(unknown)}; expected names of images: {known}")
    pictures = everything["picture"].to_numpy()
    return np.isin(pictures, [pictures[place[image]] for image in named or []])


def _choose_scored(frame, few, folds):
    """bool [n]: which images are dealt into folds; not those of the classes `few`, and whatever else these make rare.

    A group stays whole, since no fold may be scored on a picture that it has trained on under another label. InputError
    where fewer than two classes would be scored.
    """
    groups = set(frame["group"][frame["label"].isin(few)])
    while True:
        scored = ~frame["group"].isin(groups).to_numpy()
        left = frame[scored]
        distinct = left.groupby("label")["group"].nunique()
        more = set(left["group"][left["label"].isin(distinct.index[distinct < folds])])
        if not more:
            break
        groups |= more
    if len(distinct) < 2:
        raise InputError(
            f"fewer than two classes have FOLDS={folds} pictures or more that show nothing of the rare classes "
            f"{shorten(list(few), 20)}; expected two (RARE=drop leaves those out)"
        )
    return scored


def _report_left(table, left, few, folds):
    """Say which images were left out or are only trained on; `few` of classes of fewer different images than folds."""
    if left.foreign:
        print(f"{left.foreign} images were left out because they show a picture of DROP_GROUPS=")
    named = f"{len(few)} classes have fewer different images than FOLDS={folds}: {shorten(list(few.values()), 10)}"
    if few and table.train_only is None:
        print(f"{named}; their {left.rare} images were left out (RARE=drop)")
    elif few:
        print(
            f"{named}; {len(table.train_only)} images are in the training part of every fold and count in no score "
            "(RARE=drop leaves them out)"
        )
    if left.conflicts:
        print(f"{left.conflicts} images were left out because their pictures have several labels (DROP_CONFLICTS=1)")


def _write(paths, content, record, force):
    """Write table and record unless they are there already; what was done, in a word."""
    csv_path, json_path = paths.csv, paths.json
    there = json_path.exists() or csv_path.exists()
    try:
        old = files.read_json(json_path)
        same = old["hash"] == record["hash"]
    except (InputError, KeyError, TypeError):
        same = False
    if same and csv_path.exists() and csv_path.read_bytes() == content:
        if {**old, "versions": None} != {**record, "versions": None}:
            files.write_json(json_path, record)  # the same pictures, moved to another place
        return "unchanged"
    if there and not same and not force:
        folder = paths.runs
        runs = sorted(path.parent.name for path in folder.glob(f"*/{RUN_JSON}"))
        if runs:
            raise InputError(
                f"{csv_path}: another table than the one that {shorten(runs)} in {folder}/ "
                "use; take another NAME=, or FORCE=1 to replace it"
            )
    files.write_bytes(csv_path, content, durable=True)
    files.write_json(json_path, record, durable=True)
    return "replaced" if there else "written"


def _report(table, given, note, notes):
    frame, (height, width) = table.everything.frame, table.size
    print(
        f"{table.paths.csv}: {note}; {len(frame)} images, {len(table.classes)} classes, "
        f"{table.k} folds, seed {table.seed}, size {height}x{width} (height x width)"
    )
    sizes = len(frame[["height", "width"]].drop_duplicates())
    if sizes > 1:
        print(f"{sizes} different sizes: all images are brought to {height}x{width}; SIZE= sets another")
    memory, decoded = read_memory(), len(frame) * height * width * 3
    if decoded > memory.images:
        print(
            f"at {height}x{width} the images take {gigabytes(decoded)}, more than half of {memory}: training will "
            f"keep them in a file below {table.workspace.runs}/; SIZE= sets another size"
        )
    copies = int(frame["sha256"].duplicated().sum())
    if copies:
        print(f"{copies} images are copies of others, byte for byte; copies share a fold")
    print(f"class order{' (as given)' if given else ''}: {shorten(table.classes, 60)}")
    natural, text = natural_order(table.classes), sorted(table.classes)
    if not given and natural != table.classes:
        print(
            f"note: that is the order of text, as Keras sorts folders; by number it would be "
            f"{shorten(natural, 60)} (CLASSES= sets another order)"
        )
    elif not given and text != table.classes:
        print(
            f"note: that is the order of numbers; Keras sorts folders as text, which would be "
            f"{shorten(text, 60)} (CLASSES= sets another order)"
        )
    print("found:")
    for what, finding in [*notes, ("classes", f"{len(table.classes)}: {shorten(table.classes, 20)}")]:
        print(f"  {what:<9} {finding}")
    counts = pd.crosstab(frame["label"], frame["fold"]).reindex(table.classes, fill_value=0)
    counts.columns = [f"fold {k}" if k >= 0 else "train only" for k in counts.columns]
    counts["all"] = counts.sum(axis=1)
    totals = counts.sum().to_frame("all").T  # a row of its own, since a class may be called "all" too
    print(pd.concat([counts, totals]).to_string(max_rows=60))


def _report_ranges(ranges, values):
    """Say by which ranges pictures of more than 8 bits become 0..255, and how many are clipped by them."""
    for kind, (low, high) in ranges.items():
        of_kind = [one for one in values if one.kind == kind]
        found = min(one.low for one in of_kind), max(one.high for one in of_kind)
        clipped = sum(one.low < low or one.high > high for one in of_kind)
        print(
            f"{len(of_kind)} pictures of {kind} hold values of {say_range(found)}: {say_range((low, high))} becomes 0..255, "
            "for test images too (a zip gets 0..255 from its scorer)"
            + (f"; in {clipped} of them a few values lie outside and are clipped" if clipped else "")
        )
