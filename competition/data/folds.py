"""Make the fold table: read and check every image once, tie those that show the same, deal them into folds.

table.py reads the table. Later stages take an image only if its hash is still the one in the table.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.arrays import gigabytes, read_memory
from competition.base.files import InputError, csv_bytes, warn
from competition.base.metrics import find_metric
from competition.base.option_values import parse_size, whole_number
from competition.base.text import natural_order, shorten
from competition.base.workspace import RUN_JSON, Workspace, check_competition_name
from competition.data.duplicates import read_groups
from competition.data.groups import join_pairs, pair_equal, write_report
from competition.data.ranges import find_ranges, say_range
from competition.data.sources import open_source, read_column
from competition.data.table import COLUMNS, FoldTable, data_hash, default_name, read_folds, table_hash

RARE = ("train", "drop", "stop")  # what becomes of classes of fewer images than folds


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
) -> FoldTable:
    """Read and check every image once, deal them into stratified folds, write `folds/<name>.csv` and `.json`.

    data      folder of class folders, zip of one, or CSV with the columns image and label
    name      of the table; default: the stem of `data`
    size      "96", "96x128" (height x width) or a tuple; default: the median height and width, rounded
    classes   all class names in the order wanted, as a list or "a,b,c"; default: sorted
    skip_bad  leave out files that are no pictures instead of stopping
    force     replace another table even though runs use it
    groups    a column of the CSV (patient, site, camera): images that have the same there share a group too
    near      1 or True: look for images that show the same picture (competition/data/groups.py); 0 or False: only those of
              identical bytes share a group
    drop_conflicts  leave out pictures that have several labels
    metric    what the competition is scored by, a name of metrics.METRICS
    rare      what becomes of a class of fewer different images than folds: "train", its images are in the training part of
              every fold and count in no score; "drop", they are left out, and so is the class; "stop", an InputError
    drop_groups  names of images, as a list or "a,b,c": they and all that show the same picture are left out
    workspace  where table and report are written

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
    source = open_source(data)
    if source.data.is_dir() and workspace.folds.resolve().is_relative_to(source.data.resolve()):
        raise InputError(
            f"{source.data}: the data folder holds the current one, whose {workspace.folds}/ and "
            f"{workspace.runs}/ are written; expected data elsewhere, or another current folder"
        )
    classes, given = _class_order(source.classes, classes)
    if metric == "quadratic_kappa" and not given and len(classes) > 2:
        _check_grades(classes)

    given_groups = read_column(source, groups) if groups else {}

    everything, pairs, deep = read_groups(source, skip_bad, near, folds)
    foreign = _pictures_of(everything, drop_groups)
    frame = everything[~foreign].reset_index(drop=True)
    if drop_conflicts:
        frame = frame[~frame["conflict"]].reset_index(drop=True)
    conflicts_left_out = len(everything) - int(foreign.sum()) - len(frame)
    tied = pair_equal(frame["picture"]), pair_equal(_given(frame["image"], given_groups))
    frame["group"] = frame["image"].to_numpy()[join_pairs(len(frame), *tied)]
    few = _check_classes(frame, source.classes, folds, rare)
    dropped = int(frame["label"].isin(few).sum()) if rare == "drop" else 0
    if dropped:
        frame = frame[~frame["label"].isin(few)].reset_index(drop=True)
    classes = [name for name in classes if rare != "drop" or name not in few]
    scored = _choose_scored(frame, few, folds)
    frame["fold"] = -1
    labels, group = (frame.loc[scored, column].to_numpy() for column in ("label", "group"))
    frame.loc[scored, "fold"] = assign_folds(labels, group, folds, seed)
    counts = pd.crosstab(frame["label"][scored], frame["fold"]).reindex(columns=range(folds), fill_value=0)
    if lacking := counts.index[(counts == 0).any(axis=1)].tolist():
        warn(
            f"groups of several classes leave a fold without images of {shorten(lacking)}; fewer FOLDS= would hold more"
        )
    position = {label: i for i, label in enumerate(classes)}
    order = np.argsort([position[label] for label in frame["label"]], kind="stable")
    frame = frame.iloc[order][COLUMNS].reset_index(drop=True)
    size = size or tuple(int(frame[side].median() + 0.5) for side in ("height", "width"))

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
        "folds": folds,
        "size": list(size),
        "metric": metric,
        "hash": table_hash(content, classes, size, ranges),
        "data_hash": data_hash(frame),
        "near": bool(near),
        "groups": groups or "",
        "conflicts_left_out": conflicts_left_out,
        "versions": files.versions(),
        **({"ranges": ranges} if ranges else {}),
        **({"left_out": left_out} if (left_out := int(foreign.sum()) + dropped) else {}),
    }
    note = _write(workspace.competition(name), content, record, force)
    table = read_folds(name, workspace)
    _report(table, given, note)
    _report_ranges(table.ranges, values)
    if foreign.any():
        print(f"{foreign.sum()} images were left out because they show a picture of DROP_GROUPS=")
    _report_rare(table, few, dropped, folds)
    if left := record["conflicts_left_out"]:
        print(f"{left} images were left out because their pictures have several labels (DROP_CONFLICTS=1)")
    if groups:
        print(f"images of one {groups} share a fold: {len(set(given_groups.values()) - {''})} different ones")
    write_report(table, everything, pairs)
    return table


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
        return found, False
    wanted = next(csv.reader([wanted], skipinitialspace=True)) if isinstance(wanted, str) else list(wanted)
    if unknown := [name for name in wanted if name not in found]:
        raise InputError(f"CLASSES: unknown: {shorten(unknown)}; the data has {shorten(found, 20)}")
    if doubled := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise InputError(f"CLASSES: named more than once: {shorten(doubled)}")
    if missing := [name for name in found if name not in wanted]:
        raise InputError(f"CLASSES: missing: {shorten(missing)}; expected all {len(found)} of the data")
    return wanted, True


def _given(images, groups):
    """What the user gave as the group of each image; an image without is one of its own."""
    return [groups.get(image) or f"\0{image}" for image in images]


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
        named = next(csv.reader([named], skipinitialspace=True), [])
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


def _report_rare(table, few, dropped, folds):
    """Say what became of classes of fewer different images than folds."""
    if not few:
        return
    named = f"{len(few)} classes have fewer different images than FOLDS={folds}: {shorten(list(few.values()), 10)}"
    if table.train_only is None:
        print(f"{named}; their {dropped} images were left out (RARE=drop)")
    else:
        print(
            f"{named}; {len(table.train_only)} images are in the training part of every fold and count in no score "
            "(RARE=drop leaves them out)"
        )


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
    files.write_bytes(csv_path, content)
    files.write_json(json_path, record)
    return "replaced" if there else "written"


def _report(table, given, note):
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
    natural = natural_order(table.classes)
    if not given and natural != table.classes:
        print(
            f"note: that is the order of text, as Keras sorts folders; by number it would be "
            f"{shorten(natural, 60)} (CLASSES= sets another order)"
        )
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
