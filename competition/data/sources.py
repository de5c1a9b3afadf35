"""Where images and labels come from: class folders, a zip of them, or a CSV.

Nothing here writes. Images are named by their POSIX path below the data root, so that a folder and a zip of that folder
give the same names.
"""

import csv
import errno
import lzma
import os
import posixpath
import re
import stat
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from competition.base.files import InputError, warn
from competition.base.text import shorten
from competition.data.decode import EXTENSIONS

EXPECTED = "a folder of class folders, a zip of one, or a CSV with the columns image and label"
UNLABELLED = "a folder of images or a zip of one"
IMAGES = "a folder of images, a zip of one, a CSV with the column image, or a list of image files"
SYSTEM_FILES = ("__macosx", "thumbs.db", "desktop.ini", "icon\r")
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True)
class Source:
    """Where pictures come from: names, labels, a way to read bytes. Sorted by class, then by image."""

    data: Path  # absolute path of the folder, zip or CSV that the user gave
    root: str  # the folder below it that image paths start from: "" or, say, "training_data_final/"
    images: list[str] = field(default_factory=list, repr=False)
    labels: list[str] = field(default_factory=list, repr=False)
    classes: list[str] = field(default_factory=list)
    archive: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)
    members: dict[str, zipfile.ZipInfo] = field(default_factory=dict, repr=False, compare=False)

    def read(self, image):
        """The bytes of one image; InputError when it is missing or cannot be read. Threads may call it."""
        try:
            if self.archive is not None:
                return self.archive.read(self.members[self.root + image])
            return (self._folder / self.root / image).read_bytes()
        except (KeyError, FileNotFoundError):
            raise InputError(f"{image}: no such file in {self.data}") from None
        except (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
            raise InputError(f"{image}: cannot be read from {self.data}: {error}") from None

    @property
    def _folder(self):
        return self.data if self.data.is_dir() else self.data.parent


def open_source(data):
    """Find images, labels and classes of a folder of class folders, a zip of one, or a CSV; reads no picture.

    Class folders may lie together in one single top folder; pictures in folders below a class folder count as
    that class. Classes come in Python's `sorted` order, as `keras.utils.image_dataset_from_directory` sorts
    folders. Hidden files and those that systems leave behind (`__MACOSX`, `Thumbs.db`, ...) are ignored.
    Raises InputError for everything that is not such a source.
    """
    data = _absolute(data)
    if data.is_dir():
        files, folders = _list_folder(data)
        return _from_class_folders(Source(data, ""), files, folders)
    if data.suffix.lower() == ".csv":
        return _from_csv(data)
    source = _open_zip(data)
    files, folders = _list_zip(source)
    return _from_class_folders(source, files, folders)


def open_unlabelled(data):
    """A Source of all pictures below a folder or in a zip, by their file names' endings, without labels or classes.

    Raises InputError for anything else, and where there is no picture; other files are left out with a warning.
    """
    data = _absolute(data, UNLABELLED)
    source = Source(data, "") if data.is_dir() else _open_zip(data, expected=UNLABELLED)
    names = (_list_folder(data) if data.is_dir() else _list_zip(source))[0]
    return _from_names(source, names, UNLABELLED)


def open_images(data):
    """A Source of all pictures of a folder, a zip, a CSV with the column image, or a list of files.

    It has labels where each picture lies in one of several class folders, which are no split, or the CSV has the column
    label; classes are those of the labels, and there may be one alone. Of a list the names are the paths as given.
    Raises InputError for anything else, and where there is no picture.
    """
    if not isinstance(data, (str, os.PathLike)):
        return _from_list([Path(path) for path in data])
    data = _absolute(data, IMAGES)
    if data.is_file() and data.suffix.lower() == ".csv":
        pairs = _csv_pairs(data, ("image", "label") if "label" in _csv_columns(data) else ("image",))
        labels = [label for label, _ in pairs if label is not None]
        return Source(data, "", [image for _, image in pairs], labels, sorted(set(labels)))
    source = Source(data, "") if data.is_dir() else _open_zip(data, expected=IMAGES)
    names, folders = _list_folder(data) if data.is_dir() else _list_zip(source)
    root, tops = _class_folders(folders)
    inside = [name.startswith(root) and "/" in name[len(root) :] for name in names if _looks_like_picture(name)]
    filled = {
        name[len(root) :].split("/", 1)[0] for name in names if name.startswith(root) and "/" in name[len(root) :]
    }
    classes = len(tops) > 1 and filled == set(tops) and not {top.lower() for top in tops} <= SPLITS
    if classes and all(inside):
        return _from_class_folders(source, names, folders)
    return _from_names(source, names, IMAGES)


def _from_names(source, names, expected):
    """The Source with those of these files that are pictures by their names' endings."""
    data = source.data
    images = sorted(name for name in names if _looks_like_picture(name))
    others = sorted(set(names) - set(images))
    if not images:
        found = f"{len(others)} other files ({shorten(others)})" if others else "nothing"
        raise InputError(f"{data}: found {found}, expected {expected}")
    if others:
        warn(f"{data}: {len(others)} files that are no images by their names are left out: {shorten(others)}")
    for image in images:
        _check_text(image)
    return replace(source, images=images)


def _from_list(paths):
    """A Source of these files, each once, sorted; its folder is the current one, below which relative paths lie."""
    names = sorted(path.as_posix() for path in paths)
    if not names:
        raise InputError(f"an empty list, expected {IMAGES}")
    for name, following in zip(names, [*names[1:], None]):
        _check_text(name)
        if name == following:
            raise InputError(f"{name}: more than once in the list of images, expected each once")
        if not os.path.isfile(name):
            raise InputError(f"{name}: no such file, expected an image")
    return Source(Path(os.path.abspath(".")), "", names)


def open_reader(data, root=""):
    """A Source that only reads: for images whose names and labels are known already, from a fold table."""
    data = _absolute(data)
    plain = data.is_dir() or data.suffix.lower() == ".csv"
    return Source(data, root) if plain else _open_zip(data, root)


def read_column(source, column):
    """{image: text} of one more column of the CSV that a Source was made of. InputError where there is none."""
    if source.data.suffix.lower() != ".csv" or source.data.is_dir():
        raise InputError(f"{column}: {source.data} has no columns, expected DATA= a CSV with one of that name")
    starts = source.data.parent, source.data.parent.resolve()
    found = {}
    for _, row in _csv_rows(source.data, ("image", "label", column)):
        found[_below(starts, row["image"])] = row[column]
    return found


def _absolute(data, expected=EXPECTED):
    if not str(data).strip():
        raise InputError(f"{'DATA' if expected == EXPECTED else 'the name'} is empty, expected {expected}")
    path = Path(os.path.abspath(os.path.expanduser(data)))
    _check_text(str(path))
    if not path.exists():
        raise InputError(f"{path}: no such file or folder, expected {expected}")
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{path}: neither a file nor a folder")
    return path


def _check_text(name):
    """Refuse what a UTF-8 CSV cannot hold."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{os.fsencode(name)!r}: the name is not UTF-8, please rename it") from None
    if "\r" in name or "\0" in name:
        raise InputError(f"{name!r}: a CSV cannot keep a carriage return or zero in a name, please rename it")


def _ignored(part):
    return part.startswith(".") or part.lower() in SYSTEM_FILES


def _list_folder(data):
    """All files and folders below `data`, as relative POSIX paths. Links are followed, loops left out."""
    files, folders = [], []

    def scan(path, prefix, above):
        try:
            entries = sorted(os.listdir(path))
        except OSError as error:
            raise InputError(f"{path}: the folder cannot be read: {error.strerror}") from None
        for entry in entries:
            if _ignored(entry):
                continue
            full, name = os.path.join(path, entry), prefix + entry
            try:
                found = os.stat(full)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    files.append(name)  # a link to nothing: reading it will name it
                continue
            if stat.S_ISREG(found.st_mode):
                files.append(name)
            elif stat.S_ISDIR(found.st_mode) and (found.st_dev, found.st_ino) not in above:
                folders.append(name)
                scan(full, name + "/", above | {(found.st_dev, found.st_ino)})

    top = os.stat(data)
    scan(data, "", {(top.st_dev, top.st_ino)})
    return files, folders


def _open_zip(data, root="", expected=EXPECTED):
    try:
        archive = zipfile.ZipFile(data)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        if data.suffix.lower() != ".zip":
            raise InputError(f"{data}: found another kind of file, expected {expected}") from None
        raise InputError(f"{data}: broken zip: {error}") from None
    members = {}
    for entry in archive.infolist():
        name = _zip_name(entry)
        if name in members and not entry.is_dir():
            raise InputError(f"{data}: holds {name} more than once")
        members[name] = entry
    return Source(data, root, archive=archive, members=members)


def _zip_name(entry):
    """The name of a zip's entry, also where a program wrote UTF-8 without saying so, or backslashes."""
    name = entry.filename
    if not entry.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            pass
    name = name if "/" in name else name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def _list_zip(source):
    files, folders = [], set()
    for name, entry in source.members.items():
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:[\\/]", name):
            raise InputError(f"{source.data}: {name!r} climbs out of the zip, expected paths below its root")
        if entry.flag_bits & 1:
            raise InputError(f"{source.data}: {name!r} is encrypted, expected a zip without a password")
        parts = name.rstrip("/").split("/")
        if any(part == "" or _ignored(part) for part in parts):
            continue
        folder = name.endswith("/")
        if not folder:
            files.append(name)
        folders.update("/".join(parts[:i]) for i in range(1, len(parts) + folder))
    return files, sorted(folders)


def _from_class_folders(source, files, folders):
    root, tops = _class_folders(folders)
    data = source.data / root if root else source.data
    images = [name[len(root) :] for name in files if name.startswith(root)]
    loose = [name for name in images if "/" not in name and _looks_like_picture(name)]
    if not tops:
        found = f"{len(loose)} images" if loose else f"{len(images)} other files" if images else "nothing"
        raise InputError(f"{data}: found {found} but no class folders, expected one folder a class")
    if loose:
        warn(f"{data}: {len(loose)} images beside the class folders are left out: {shorten(loose)}")
    images = sorted(((name.split("/", 1)[0], name) for name in images if "/" in name))
    filled = {label for label, _ in images}
    if empty := [label for label in tops if label not in filled]:
        raise InputError(f"{data}: empty class folder: {shorten(empty)}; fill or remove it")
    return _checked(source, root, images, "class folders")


def _class_folders(folders):
    """The folder that class folders lie in, "" or with a / at its end, and their names."""
    root, tops = "", _tops(folders, "")
    while len(tops) == 1 and any(folder.startswith(f"{root}{tops[0]}/") for folder in folders):
        root += tops[0] + "/"
        tops = _tops(folders, root)
    return root, tops


def _tops(folders, root):
    return sorted({folder[len(root) :].split("/", 1)[0] for folder in folders if folder.startswith(root)})


def _looks_like_picture(name):
    return any(name.lower().endswith(extensions) for extensions in EXTENSIONS.values())


def _checked(source, root, pairs, kind):
    """Complete a source from its sorted (label, image) pairs, after the checks that every kind needs."""
    labels = sorted({label for label, _ in pairs})
    for text in [*labels, *(image for _, image in pairs)]:
        _check_text(text)
    if len(labels) < 2:
        raise InputError(f"{source.data}: found 1 class ({labels[0]}) in {kind}, expected 2 or more")
    if {label.lower() for label in labels} <= SPLITS:
        warn(f"{source.data}: the classes are {', '.join(labels)}; if that is a split, give one part as DATA")
    images, per_image = [image for _, image in pairs], [label for label, _ in pairs]
    return Source(source.data, root, images, per_image, labels, source.archive, source.members)


def _from_csv(data):
    return _checked(Source(data, ""), "", _csv_pairs(data), "the label column")


def _csv_columns(data):
    """The names in a CSV's first line, [] where it cannot be read: reading its rows will tell why."""
    try:
        with open(data, encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _csv_pairs(data, columns=("image", "label")):
    """Sorted (label, image) of the rows of a CSV; without that column the label is None."""
    folder = data.parent
    starts = folder, folder.resolve()
    pairs, lines, missing = [], {}, []
    for line, row in _csv_rows(data, columns):
        if None in row or None in row.values():
            raise InputError(f"{data}, line {line}: other number of fields than the header has")
        if not all(row[column] for column in columns):
            raise InputError(f"{data}, line {line}: empty {' or '.join(columns)}")
        image = _below(starts, row["image"])
        if image is None:
            raise InputError(
                f"{data}, line {line}: {row['image']} is not below the CSV's folder {folder}; "
                "put the CSV beside the pictures"
            )
        if image in lines:
            raise InputError(f"{data}, line {line}: {row['image']} is in line {lines[image]} already")
        lines[image] = line
        if not os.path.isfile(folder / image):
            missing.append(f"{row['image']} (line {line})")
        pairs.append((row["label"] if "label" in columns else None, image))
    if not pairs:
        raise InputError(f"{data}: no rows, expected one an image")
    if missing:
        raise InputError(f"{data}: missing below {folder}: {shorten(missing)}")
    return sorted(pairs, key=lambda pair: (pair[0] or "", pair[1]))


def _csv_rows(data, expected=("image", "label")):
    """(line number, {column: text}) of each row; all is text, so 007, NA and True are labels like others."""
    try:
        with open(data, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            for column in expected:
                if columns.count(column) != 1:
                    found = f"columns {', '.join(map(repr, columns))}" if columns else "an empty file"
                    hint = ", with commas between them" if len(columns) == 1 and ";" in columns[0] else ""
                    raise InputError(
                        f"{data}: found {found}, expected {' and '.join(f'one {c!r}' for c in expected)}{hint}"
                    )
            for row in reader:
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise InputError(f"{data}: not UTF-8: {error}") from None
    except (OSError, csv.Error) as error:
        raise InputError(f"{data}: not a CSV that can be read: {error}") from None


def _below(starts, image):
    """The POSIX path of `image` below a folder, of which `starts` are the paths, or None when it lies elsewhere.

    A backslash parts folders, as in a CSV that was written on Windows, unless a file has one in its name.
    """
    if os.path.isabs(image):
        for start in starts:
            if Path(image).is_relative_to(start):
                image = Path(image).relative_to(start).as_posix()
                break
        else:
            return None
    if "\\" in image and (os.sep == "\\" or not os.path.isfile(starts[0] / image)):
        image = image.replace("\\", "/")
    image = posixpath.normpath(image)
    return None if image == ".." or image.startswith("../") else image
