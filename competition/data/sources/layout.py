"""What the files of a folder or an archive are: class folders."""

from dataclasses import replace
from pathlib import Path

from competition.base.files import InputError, warn
from competition.base.text import shorten
from competition.data.sources.labels import with_labels
from competition.data.sources.source import Reading, Source, Store, check_text, looks_like_picture

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def open_labelled(data: Path, store: Store, reading: Reading) -> Source:
    """The Source of class folders, which may lie together in one single top folder."""
    files, folders = store.list()
    return _from_class_folders(Source(data, "", store=store), files, folders)


def open_unlabelled(data: Path, store: Store, expected: str, classes: bool = False) -> Source:
    """The Source of all pictures by their names' endings; with `classes` they have labels where they lie in class folders.

    Raises InputError where there is no picture; other files are left out with a warning.
    """
    source = Source(data, "", store=store)
    names, folders = store.list()
    if classes:
        root, tops = _class_folders(folders)
        inside = [name.startswith(root) and "/" in name[len(root) :] for name in names if looks_like_picture(name)]
        filled = {
            name[len(root) :].split("/", 1)[0] for name in names if name.startswith(root) and "/" in name[len(root) :]
        }
        found = len(tops) > 1 and filled == set(tops) and not {top.lower() for top in tops} <= SPLITS
        if found and all(inside):
            return _from_class_folders(source, names, folders)
    images = sorted(name for name in names if looks_like_picture(name))
    others = sorted(set(names) - set(images))
    if not images:
        text = f"{len(others)} other files ({shorten(others)})" if others else "nothing"
        raise InputError(f"{data}: found {text}, expected {expected}")
    if others:
        warn(f"{data}: {len(others)} files that are no images by their names are left out: {shorten(others)}")
    for image in images:
        check_text(image)
    return replace(source, images=images)


def _from_class_folders(source, files, folders):
    root, tops = _class_folders(folders)
    data = source.data / root if root else source.data
    images = [name[len(root) :] for name in files if name.startswith(root)]
    loose = [name for name in images if "/" not in name and looks_like_picture(name)]
    if not tops:
        found = f"{len(loose)} images" if loose else f"{len(images)} other files" if images else "nothing"
        raise InputError(f"{data}: found {found} but no class folders, expected one folder a class")
    if loose:
        warn(f"{data}: {len(loose)} images beside the class folders are left out: {shorten(loose)}")
    images = sorted(((name.split("/", 1)[0], name) for name in images if "/" in name))
    filled = {label for label, _ in images}
    if empty := [label for label in tops if label not in filled]:
        raise InputError(f"{data}: empty class folder: {shorten(empty)}; fill or remove it")
    return with_labels(replace(source, root=root), images, "class folders")


def _class_folders(folders):
    """The folder that class folders lie in, "" or with a / at its end, and their names."""
    root, tops = "", _tops(folders, "")
    while len(tops) == 1 and any(folder.startswith(f"{root}{tops[0]}/") for folder in folders):
        root += tops[0] + "/"
        tops = _tops(folders, root)
    return root, tops


def _tops(folders, root):
    return sorted({folder[len(root) :].split("/", 1)[0] for folder in folders if folder.startswith(root)})
