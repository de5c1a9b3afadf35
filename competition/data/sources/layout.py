"""What the folders of a folder or an archive are: classes, the parts of a split, or a download with its label table."""

import posixpath
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from competition.base.files import InputError, warn
from competition.base.text import shorten
from competition.data.sources.columns import label_of, recognise
from competition.data.sources.labels import with_labels
from competition.data.sources.lookup import Lookup, SeveralFolders
from competition.data.sources.roles import is_answer_sheet, role_of
from competition.data.sources.source import Reading, Source, Store, check_text, looks_like_picture
from competition.data.sources.table_labels import label_images
from competition.data.sources.tables import LARGEST, READERS, read_table

VAL = ("out", "join", "fold")  # what to do with a given validation split; the first is the default
GIVEN = (
    *READERS,
    ".npz",
    ".npy",
    ".zip",
    ".tar",
    ".tgz",
    ".tar.gz",
    ".tar.xz",
)  # that DATA may name in place of a folder
DEEPEST = 3  # parts of the path of a label table in a download


@dataclass
class Tops:
    """The folders that lie together in `root`, and what is in them."""

    root: str  # "" or with a / at its end
    names: list[str]
    direct: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # pictures in each
    below: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # its folders that hold pictures
    leaves: dict[str, set[tuple[str, int]]] = field(
        default_factory=lambda: defaultdict(set)
    )  # and the last of them, how deep

    @property
    def pictured(self) -> list[str]:
        return [name for name in self.names if self.direct[name] or self.below[name]]

    def of_role(self, role: str) -> list[str]:
        return [name for name in self.pictured if role_of(name) == role]


def open_labelled(data: Path, store: Store, reading: Reading) -> Source:
    """The Source of class folders, of the training part of a split, or of the images in a label table beside them.

    Class folders may lie together in one single top folder. Raises InputError where the folders are no classes and it
    is not clear which to take; the line names the DATA= to give.
    """
    if (reading.val or VAL[0]) not in VAL:
        raise InputError(f"VAL={reading.val}: expected {', '.join(VAL)}")
    files, folders = store.list()
    source = _open_below(Source(data, "", store=store), files, folders, "", reading)
    if reading.val not in (None, VAL[0]) and not any(what == "val" for what, _ in source.found):
        raise InputError(f"{data}: VAL={reading.val}: found no validation part of a split")
    return source


def open_unlabelled(data: Path, store: Store, expected: str, classes: bool = False) -> Source:
    """The Source of all pictures by their names' endings; with `classes` they have labels where they lie in class folders.

    Without `classes` they are those to test: of a split the pictures of its test part alone. They are named from the
    folder on that holds all of them, if it is called after a test part or the archive. Where no name ends as a picture's
    does, files without any ending are taken for pictures. Raises InputError where there is no picture; other files are
    left out with a warning.
    """
    source = Source(data, "", store=store)
    names, folders = store.list()
    if classes:
        tops = _find_tops(names, folders, "")
        root = tops.root
        inside = [name.startswith(root) and "/" in name[len(root) :] for name in names if looks_like_picture(name)]
        filled = {
            name[len(root) :].split("/", 1)[0] for name in names if name.startswith(root) and "/" in name[len(root) :]
        }
        if len(tops.names) > 1 and filled == set(tops.names) and all(inside) and _are_classes(tops):
            return _from_class_folders(source, names, tops, Reading())
    images = sorted(name for name in names if looks_like_picture(name))
    images = images or sorted(name for name in names if _may_be_picture(name))
    others = sorted(set(names) - set(images))
    if not images:
        text = f"{len(others)} other files ({shorten(others)})" if others else "nothing"
        raise InputError(f"{data}: found {text}, expected {expected}")
    if others:
        warn(f"{data}: {len(others)} files that are no images by their names are left out: {shorten(others)}")
    part = "" if classes else _test_part(names, folders)
    if part:
        inside = [image for image in images if image.startswith(part)]
        others = len(images) - len(inside)
        warn(f"{data}: the {len(inside)} images in {part} are taken, and none of the {others} others")
        images = inside
    root = "" if classes else _top_of_test(data, images)
    for image in images:
        check_text(image)
    return replace(source, root=root, images=[image[len(root) :] for image in images])


def _top_of_test(data, images):
    """The folder that holds all test images, with a / at its end, where it is called after a test part or the archive."""
    parts = posixpath.commonpath([posixpath.dirname(image) for image in images]).split("/")
    stem = "" if data.is_dir() else data.name.split(".")[0]
    named = [place for place, part in enumerate(parts) if part and (part == stem or role_of(part) == "test")]
    return "".join(f"{part}/" for part in parts[: named[-1] + 1]) if named else ""


def _test_part(files, folders):
    """The folder of the test part of a split, with a / at its end; "" where there is no split, or no such part."""
    tops = _find_tops(files, folders, "")
    parts = tops.of_role("test") if _is_split(tops) else []
    return f"{tops.root}{parts[0]}/" if len(parts) == 1 else ""


def _open_below(source, files, folders, prefix, reading):
    """The Source of what lies in the folder `prefix`, "" or with a / at its end."""
    tops = _find_tops(files, folders, prefix)
    if _is_split(tops):
        return _open_split(source, files, folders, tops, reading)
    if len(tops.pictured) == 1 and len(tops.names) > 1 and len(tops.below[tops.pictured[0]]) > 1:
        return _open_below(source, files, folders, f"{tops.root}{tops.pictured[0]}/", reading)
    if len(tops.names) > 1 and len(tops.pictured) == 1:
        if by_table := _by_table(source, files, reading, "train", prefix, quiet=True):
            return _add_val_table(source, by_table, files, reading)
    if len(tops.names) > 1 and _are_classes(tops):
        found = _from_class_folders(source, files, tops, reading)
        return _compare(found, files, tops, reading)
    if len(tops.pictured) > 1 or len(tops.names) <= 1:
        if found := _by_table(source, files, reading, "train", prefix):
            return _add_val_table(source, found, files, reading)
    if len(tops.pictured) > 1:
        raise _no_classes(source, files, folders, tops)
    return _from_class_folders(source, files, tops, reading)


def _find_tops(files, folders, prefix):
    """The Tops below `prefix`: its folders, or those of its single folder, and so on."""
    root, names = prefix, _folders_in(folders, prefix)
    while len(names) == 1 and any(folder.startswith(f"{root}{names[0]}/") for folder in folders):
        root += names[0] + "/"
        names = _folders_in(folders, root)
    tops = Tops(root, names)
    for file in files:
        if file.startswith(root) and _may_be_picture(file):
            top, *rest = file[len(root) :].split("/")
            if len(rest) == 1:
                tops.direct[top] += 1
            elif rest:
                tops.below[top].add(rest[0])
                tops.leaves[top].add((rest[-2], len(rest)))
    return tops


def _folders_in(folders, root):
    return sorted({folder[len(root) :].split("/", 1)[0] for folder in folders if folder.startswith(root)})


def _may_be_picture(name):
    return looks_like_picture(name) or "." not in name.rsplit("/", 1)[-1]


def _is_split(tops):
    """Whether all folders with pictures are called after parts of a split, of two or more kinds."""
    roles = {role_of(name) for name in tops.pictured}
    return len(roles) > 1 and None not in roles


def _are_classes(tops):
    """Whether the folders may be classes: none shares a folder's name with another, and all are filled in one way."""
    return not _is_split(tops) and not _shared(tops) and not all(_mixed(tops))


def _shared(tops):
    """Two folders and the names of folders that both have, or None.

    One and the same folder in each, as in <class>/images/, is no sign of a split. Further down
    several count that lie in one deeper than in the other, as in a/images/<class>/ and masks/<class>/.
    """
    owner: dict[str, str] = {}
    if len({frozenset(tops.below[top]) for top in tops.pictured}) == 1 and len(tops.below[tops.pictured[0]]) == 1:
        return None
    for top in tops.pictured:
        for name in sorted(tops.below[top]):
            if name in owner:
                return owner[name], top, sorted(tops.below[owner[name]] & tops.below[top])
            owner[name] = top
    for other, top in _neighbours(tops):
        depths, own = dict(tops.leaves[other]), dict(tops.leaves[top])
        if len(both := sorted(name for name in own if depths.get(name, own[name]) != own[name])) > 1:
            return other, top, both
    return None


def _neighbours(tops):
    """Each folder with the first before it in which a last folder is called as in it."""
    owner: dict[str, str] = {}
    for top in tops.pictured:
        names = sorted({name for name, _ in tops.leaves[top]})
        if before := [owner[name] for name in names if name in owner]:
            yield before[0], top
        owner |= {name: top for name in names if name not in owner}


def _mixed(tops):
    """Folders that hold pictures alone, and those that hold folders of pictures alone."""
    flat = [name for name in tops.pictured if not tops.below[name]]
    deep = [name for name in tops.pictured if not tops.direct[name]]
    return flat, deep


def _no_classes(source, files, folders, tops):
    """The InputError for folders that are no classes, with the DATA= to give."""
    if shared := _shared(tops):
        reason = f"{shared[0]}/ and {shared[1]}/ share the folders {shorten(shared[2])}"
    else:
        flat, deep = _mixed(tops)
        reason = f"{flat[0]}/ holds images, {deep[0]}/ folders of images"
    inner = [name for name in tops.pictured if len(tops.below[name]) > 1 or len(tops.leaves[name]) > 1]
    inner = [_enter(files, folders, f"{tops.root}{name}/")[len(tops.root) : -1] for name in inner]
    return InputError(f"{source.data}: found folders that are no classes: {reason}; {_give(source, tops.root, inner)}")


def _enter(files, folders, prefix):
    """The folder in `prefix` that holds several folders or all of the pictures, as long as one alone has pictures."""
    tops = _find_tops(files, folders, prefix)
    while len(tops.pictured) == 1 and tops.below[tops.pictured[0]]:
        tops = _find_tops(files, folders, f"{tops.root}{tops.pictured[0]}/")
    return tops.root


def _give(source, root, names):
    """Which DATA= is expected, of these folders or tables."""
    names = [f"{root}{name}" for name in names]
    if not names:
        return "expected a folder a class, or DATA= a label table"
    if source.data.is_dir():
        return f"expected DATA={' or DATA='.join((source.data / name).as_posix() for name in names[:5])}"
    return f"unpack it and give DATA={' or DATA='.join(names[:5])}"


# --------------------------------------------------------------------------------------------------------- class folders


def _from_class_folders(source, files, tops, reading):
    root, names = tops.root, tops.names
    data = source.data / root if root else source.data
    images = [name[len(root) :] for name in files if name.startswith(root)]
    loose = [name for name in images if "/" not in name and looks_like_picture(name)]
    if not names:
        found = f"{len(loose)} images" if loose else f"{len(images)} other files" if images else "nothing"
        other = [name for name in files if name.startswith(root) and name.lower().endswith(GIVEN)]
        hint = f"; else {_give(source, '', other)}" if other else ""
        raise InputError(f"{data}: found {found} but no class folders, expected one folder a class{hint}")
    if loose:
        warn(f"{data}: {len(loose)} images beside the class folders are left out: {shorten(loose)}")
    images = [(name.split("/", 1)[0], name) for name in images if "/" in name]
    filled = {label for label, _ in images}
    if empty := [label for label in names if label not in filled]:
        raise InputError(f"{data}: empty class folder: {shorten(empty)}; fill or remove it")
    notes = [("layout", "class folders" + (f" in {root}" if root else ""))]
    pictured = set(tops.pictured)
    if len(pictured) > 1 and (other := sorted(filled - pictured)):
        remark = f"{data}: folders without an image are no classes and are left out: {shorten(other)}"
        source = replace(source, remarks=(*source.remarks, remark))
        images = [(label, name) for label, name in images if label in pictured]
        notes.append(("left out", f"folders without an image: {shorten(other)}"))
    if loose:
        notes.append(("left out", f"{len(loose)} images beside the class folders"))
    return with_labels(replace(source, root=root, found=tuple(notes)), images, "class folders", reading.alike)


def _compare(source, files, tops, reading):
    """The Source of a label table beside folders that are no classes; else that of the folders.

    They are none where its labels are others than their names, and they only number parts of the data, or some of them
    have no row. Another table with other labels than the folders' names is named in a line.
    """
    levels = {"/".join(tops.root.split("/")[:depth]) for depth in range(tops.root.count("/") + 1)}
    tables = [name for name in files if "/".join(name.split("/")[:-1]) in levels]
    bare = replace(source, root="", images=[], labels=[], found=(), remarks=())
    try:
        by_table = _by_table(bare, tables, reading, "train", "", quiet=True)
    except SeveralFolders as error:
        remark = f"{source.data}: the class folders count, and no label table: {error}"
        return replace(source, remarks=(*source.remarks, remark))
    if by_table is None:
        return source
    of_folder = {source.root + image: label for image, label in zip(source.images, source.labels)}
    named = [(label, of_folder[image]) for image, label in zip(by_table.images, by_table.labels) if image in of_folder]
    pairs = set(named)
    if len(pairs) == len({label for label, _ in pairs}) == len({folder for _, folder in pairs}):
        return source
    table = dict(by_table.found)["table"].split(",")[0]
    numbered = len({re.sub(r"[\d_ .-]+", "", name) for name in tops.names}) == 1 and not tops.names[0].isdecimal()
    if numbered or {folder for _, folder in pairs} < set(source.labels):
        return by_table
    remark = (
        f"{source.data}: the class folders count, and the labels of {table}, which are others, do not; "
        "give the table as DATA for those"
    )
    return replace(source, remarks=(*source.remarks, remark))


# ---------------------------------------------------------------------------------------------------- splits and tables


def _open_split(source, files, folders, tops, reading):
    """The Source of the training part of a split; the validation part as asked for."""
    parts = {role: tops.of_role(role) for role in ("train", "val", "test")}
    if len(parts["train"]) > 1 and (by_table := _by_table(source, files, reading, "train", "", quiet=True)):
        return _add_val_table(source, by_table, files, reading)
    if len(parts["train"]) != 1:
        several = parts["train"] or parts["val"] + parts["test"]
        what = "several parts to train on" if parts["train"] else "no part to train on"
        raise InputError(
            f"{source.data}: found the split {shorten(tops.pictured)} with {what}; {_give(source, tops.root, several)}"
        )
    (train,) = parts["train"]
    found = _open_part(source, files, folders, tops, train, reading)
    text = f"a split; {tops.root}{train}/ is dealt into folds"
    notes = [("layout", text), *(note for note in found.found if note[0] != "layout")]
    found = replace(found, found=tuple(notes))
    if parts["val"]:
        names = ", ".join(f"{tops.root}{name}/" for name in parts["val"])
        wanted = parts["val"] if reading.val not in (None, VAL[0]) else []
        opened = [_open_part(source, files, folders, tops, name, reading) for name in wanted]
        found = take_val(source, found, opened, reading, names)
    notes = list(found.found)
    for name in parts["test"]:
        where = source.data / tops.root / name
        where = where if where.exists() else where.with_name(f"{name}.zip")
        remedy = f"`make predict TEST={where.as_posix()}`"
        if not where.exists():  # in an archive
            remedy = f"`make predict TEST={source.data.as_posix()} SAMPLE=`, or unpack it"
        notes.append(("left out", f"{tops.root}{name}/: {remedy}"))
    return replace(found, found=tuple(notes))


def _open_part(source, files, folders, tops, name, reading):
    """The Source of one part of a split: its class folders, or the label table that names its images."""
    prefix = f"{tops.root}{name}/"
    inner = _find_tops(files, folders, prefix)
    if len(inner.pictured) < 2:
        if by_table := _by_table(source, files, reading, role_of(name), prefix):
            return by_table
        pictures = sum(file.startswith(prefix) and looks_like_picture(file) for file in files)
        raise InputError(
            f"{source.data}: found the split {shorten(tops.pictured)} and {pictures} images in {prefix} but no class "
            "folders there and no label table; expected DATA= a table with their labels"
        )
    return _open_below(source, files, folders, prefix, reading)


def _join(source, train, others, reading):
    """The training part and others as one Source from the Store's root; and the images of the others."""
    added = [(label, part.root + image) for part in others for image, label in zip(part.images, part.labels)]
    own = [(label, train.root + image) for image, label in zip(train.images, train.labels)]
    seen = {image for _, image in own}
    added = [(label, image) for label, image in added if image not in seen]
    bare = replace(source, found=train.found, remarks=train.remarks)
    joined = with_labels(bare, own + added, "class folders", reading.alike)
    known = {label for image, label in zip(joined.images, joined.labels) if image in seen}
    if unknown := sorted(set(joined.classes) - known):
        raise InputError(
            f"{source.data}: the validation part has classes that the training part has not: {shorten(unknown)}"
        )
    return joined, frozenset(image for _, image in added)


def _add_val_table(source, train, files, reading):
    """The Source of a training table and, as VAL= asks, of the table of the validation part beside it."""
    tables = [name for name in files if name.lower().endswith(tuple(READERS))]
    tables = [name for name in tables if role_of(name.rsplit("/", 1)[-1].rsplit(".", 1)[0]) == "val"]
    found = _by_table(source, tables, reading, "val", "", quiet=True) if tables else None
    return train if found is None else take_val(source, train, [found], reading, shorten(tables))


def take_val(source: Source, train: Source, parts: list[Source], reading: Reading, names: str) -> Source:
    """The training Source with the Sources of the validation part as VAL= asks; `names` says which that are."""
    if (val := reading.val or VAL[0]) == "out":
        text = f"{names} is left out; VAL=join deals it too, VAL=fold makes it a fold of its own"
        remarks = (*train.remarks, f"{source.data}: {text}")
        return replace(train, found=(*train.found, ("val", text)), remarks=remarks)
    joined, added = _join(source, train, parts, reading)
    text = f"{names} is {'a fold of its own' if val == 'fold' else 'dealt into folds as well'}"
    fixed = added if val == "fold" else frozenset()
    columns = _columns([train, *parts])
    return replace(joined, found=(*train.found, ("val", text)), val=fixed, columns=columns)


def _columns(sources):
    """The columns of several label tables; None where there is none."""
    frames = [
        part.columns.rename(index=lambda name, root=part.root: root + name)
        for part in sources
        if part.columns is not None
    ]
    return pd.concat(frames).fillna("") if frames else None


def _by_table(source, files, reading, role, prefix, quiet=False):
    """The Source of the label table in a download, from the Store's root; None where there is none.

    With `quiet` a table that cannot be used, or several, count as none. Else InputError says what is wrong with them.
    """
    good, errors = [], []
    for name in sorted(files):
        place = source.data / name
        if not _is_table_of(name, role, prefix) or place.is_file() and place.stat().st_size > LARGEST:
            continue
        folder, _, _ = name.rpartition("/")
        base = folder + "/" if folder else ""
        place = source.data / folder if source.data.is_dir() else None
        lookup = Lookup(source.store, base, place, role)
        try:
            table = read_table((source.data / name).as_posix(), source.store.read(name), lookup.list_files)
            if opened := _try(source, table, lookup, reading):
                good.append((name, *opened))
        except SeveralFolders:
            raise
        except InputError as error:
            errors.append(error)
    if len(good) > 1:
        named = [each for each in good if role_of(each[0].rsplit("/", 1)[-1].rsplit(".", 1)[0]) == role]
        if len(named) == 1 or len({_content(table, lookup, reading) for _, table, lookup in good}) == 1:
            good = (named or good)[:1]
    if quiet and len(good) != 1:
        return None
    if len(good) > 1:
        raise InputError(f"{source.data}: found several label tables; {_give(source, '', [name for name, *_ in good])}")
    if not good:
        if errors and not quiet:
            raise errors[0]
        return None
    ((name, table, lookup),) = good
    try:
        found = label_images(source, table, lookup, reading)
    except InputError:
        if quiet:
            return None
        raise
    known = set(found.images)
    left = [name for name in files if name.startswith(prefix) and looks_like_picture(name) and name not in known]
    notes = [
        ("layout", f"a download, by its label table {name}"),
        *(note for note in found.found if note[0] != "layout"),
    ]
    if left:
        notes.append(("left out", f"{len(left)} images without a row in it: {shorten(left, 3)}"))
    return replace(found, found=tuple(notes))


def _try(source, table, lookup, reading):
    """(the table, its Lookup) where most of its rows name an image and have a label, else None."""
    try:
        read, columns = recognise(table, reading, lookup.count)
    except InputError:
        few = table.rows[:50]
        if any(2 * lookup.count(list(cells)) > len(few) for cells in zip(*few)):
            raise  # it names images: the line says which columns are to be given
        return None
    names = [row[columns.image] for row in read.rows]
    return (table, lookup) if names and 2 * lookup.count(names) > len(names) else None


def _content(table, lookup, reading):
    """The images and labels of a table, to compare it with others."""
    read, columns = recognise(table, reading, lookup.count)
    found, _ = lookup.find([row[columns.image] for row in read.rows])
    return frozenset(zip(found, (label_of(read, columns, row) for row in read.rows)))


def _is_table_of(name, role, prefix):
    """Whether a file may be the label table of that part of the data, by its name."""
    if not name.lower().endswith(tuple(READERS)) or name.count("/") >= DEEPEST:
        return False
    *above, last = name.split("/")
    stem = last.rsplit(".", 1)[0]
    roles = {role_of(part) for part in [*above, stem]} - {None}
    return not is_answer_sheet(stem) and roles <= {role}
