"""Pictures from wherever the user has them (class folders, a zip, a CSV) to RGB arrays as a person sees them.

Nothing here writes but `load_images`, which decodes what is too much for memory into a file below `runs/`. Images are
named by their POSIX path below the data root, so that a folder and a zip of that folder give the same names.
"""

import csv
import errno
import io
import lzma
import math
import os
import posixpath
import re
import stat
import warnings
import zipfile
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin  # noqa: F401
from PIL import PpmImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401 (importing registers)
from tqdm import tqdm

from competition.arrays import build_array, gigabytes, open_array
from competition.files import InputError, hash_json, read_json, sha256_bytes, warn

EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo", ".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
}
EXPECTED = "a folder of class folders, a zip of one, or a CSV with the columns image and label"
UNLABELLED = "a folder of images or a zip of one"
FORMATS = tuple(kind for kind in EXTENSIONS if kind != "MPO")  # Pillow opens MPO as a kind of JPEG
PNG_END = b"IEND\xaeB`\x82"  # the last chunk's name and its CRC (PNG specification, 11.2.5)
IMAGES_FORMAT = 1  # raise it when what is decoded from the same file changes
PART = 2**20  # bytes of decoded images that a thread hands over at a time
SYSTEM_FILES = ("__macosx", "thumbs.db", "desktop.ini", "icon\r")
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}

# EXIF orientation -> what turns the stored pixels upright (EXIF 2.32, tag 0x0112)
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)


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
    images = sorted(name for name in names if _looks_like_picture(name))
    others = sorted(set(names) - set(images))
    if not images:
        found = f"{len(others)} other files ({shorten(others)})" if others else "nothing"
        raise InputError(f"{data}: found {found}, expected {UNLABELLED}")
    if others:
        warn(f"{data}: {len(others)} files that are no images by their names are left out: {shorten(others)}")
    for image in images:
        _check_text(image)
    return replace(source, images=images)


def open_reader(data, root=""):
    """A Source that only reads: for images whose names and labels are known already, from a fold table."""
    data = _absolute(data)
    plain = data.is_dir() or data.suffix.lower() == ".csv"
    return Source(data, root) if plain else _open_zip(data, root)


def decode(data, name):
    """Bytes of a picture -> uint8 [height, width, 3], RGB as a person sees it.

    EXIF rotation is applied; transparency is laid on white; of several frames the first is taken; 16-bit grey
    is scaled to 8 bit (v / 257, rounded), 32-bit integers likewise, clipped at 65535; floats are taken as
    0..1 when none is outside of that, as 0..255 otherwise. Colour profiles are not applied. Raises InputError
    naming the file when it is empty, truncated or no picture.
    """
    return decode_with_format(data, name)[0]


def decode_with_format(data, name):
    """Like `decode`, and the format that the bytes have ("JPEG", "PNG", ...), whatever the name says."""
    pixels, _, kind = _decode(data, name)
    return pixels, kind


def check(data, name):
    """(height, width) that `decode` would give, and the format; InputError for all that it would refuse.

    Of a JPEG all bytes are decoded, but each 8 x 8 block of them to one pixel only (libjpeg's scaling within the
    cosine transform), in a half to a third of the time.
    """
    return check_with_draft(data, name, 1)[1:]


def check_with_draft(data, name, side):
    """Like `check`, and before that what it decoded: uint8 [h, w, 3], no smaller than `side` where the image is not."""
    return _decode(data, name, side)


def _decode(data, name, draft=0):
    """Pixels, (height, width) at full size, format.

    With a `draft` a JPEG's pixels may come at 1/2, 1/4 or 1/8 of their size, but no side smaller than that.
    """
    if not data:
        raise InputError(f"{name}: the file is empty, expected a picture")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise InputError(f"{name}: no picture that can be read, expected {', '.join(FORMATS)}") from None
    except Exception as error:  # decoders fail in many ways on hostile bytes; each means the same to the user
        raise InputError(f"{name}: no picture that can be read: {error}") from None
    try:
        full = image.size
        drafted = draft and image.draft(None, (draft, draft))
        image.load()
        if image.format == "PNG" and PNG_END not in data:  # Pillow is content once it has all rows
            raise OSError("the file ends before its end mark")
        pixels = np.asarray(_upright(_rgb(image), _orientation(image)))
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{name}: broken or truncated {image.format} picture: {reason}") from None
    size = pixels.shape[:2]
    if drafted:
        size = full if _orientation(image) in SIDEWAYS else full[::-1]
    return pixels, size, image.format


def resize(image, size):
    """uint8 [h, w, 3] -> uint8 [height, width, 3] for `size` = (height, width): Pillow's antialiased bicubic.

    An image of that size already comes back as it is. The aspect ratio is not kept.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


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
    path = table.paths.images / f"{hash_json(key)[:16]}.npy"
    print(f"images: {gigabytes(size)}, more than half of {memory}; read from {path}")
    if not path.exists():
        for old in path.parent.glob("*.npy*"):  # of another table of this name, or another size
            if not old.name.startswith(path.name):
                old.unlink(missing_ok=True)
        build_array(path, shape, np.uint8, lambda start: (image[None] for image in map_images(table, start=start)))
    return open_array(path, 0)


def warn_of_others(table):
    """Name the images beside those of a FoldTable: they would otherwise be left out without a word."""
    try:
        others = sorted(set(open_source(table.data).images) - set(table.frame["image"]))
    except InputError:  # of what is missing or broken among the table's own images, reading them will tell
        return
    record = table.paths.json
    if others and record.exists() and len(others) <= read_json(record).get("conflicts_left_out", 0):
        return  # as was asked for
    if others:
        warn(f"{table.data}: {len(others)} images are not in the fold table, which was made before they came, or "
             f"without them: {shorten(others)}")


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
        return work(resize(decode(data, name), table.size))

    part = max(1, min(64, PART // (3 * math.prod(table.size))))
    return in_threads(load, range(start, len(names)), "load images", part)


def in_threads(work, items, title, part=64):
    """Yield `work(item)` for each item, in order, from a pool of threads, with a bar on a terminal.

    A thread takes `part` items at a time. They never run far ahead of whoever uses the results, so that what waits to
    be used does not depend on the number of items.
    """
    threads = min(16, 2 * (os.cpu_count() or 1))
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # say, of broken metadata in a good picture
        with tqdm(total=len(items), desc=title, unit=" images", disable=None) as bar:
            running = deque()
            try:
                for start in range(0, len(items), part):
                    chunk = items[start : start + part]
                    running.append(pool.submit(lambda chunk: [work(item) for item in chunk], chunk))
                    if len(running) == 2 * threads:
                        yield from _finished(running, bar)
                while running:
                    yield from _finished(running, bar)
            finally:  # after an error nothing more is begun
                for future in running:
                    future.cancel()


def _finished(running, bar):
    """The results of the oldest of the running parts."""
    results = running.popleft().result()
    bar.update(len(results))
    return results


def natural_order(names):
    """Names sorted as people do, "2" before "10"."""

    def key(name):
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]

    return sorted(names, key=key)


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


# -------------------------------------------------------------------------------------------- class folders


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
    root, tops = "", _tops(folders, "")
    while len(tops) == 1 and any(folder.startswith(f"{root}{tops[0]}/") for folder in folders):
        root += tops[0] + "/"
        tops = _tops(folders, root)
    data = source.data / root if root else source.data
    images = [name[len(root):] for name in files if name.startswith(root)]
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


def _tops(folders, root):
    return sorted({folder[len(root):].split("/", 1)[0] for folder in folders if folder.startswith(root)})


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


def shorten(names, limit=5):
    """A list of names for one line: the first few, and how many more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


# ------------------------------------------------------------------------------------------------------ CSV


def _from_csv(data):
    folder = data.parent
    starts = folder, folder.resolve()
    pairs, lines, missing = [], {}, []
    for line, row in _csv_rows(data):
        if None in row or None in row.values():
            raise InputError(f"{data}, line {line}: other number of fields than the header has")
        if not row["image"] or not row["label"]:
            raise InputError(f"{data}, line {line}: empty image or label")
        image = _below(starts, row["image"])
        if image is None:
            raise InputError(f"{data}, line {line}: {row['image']} is not below the CSV's folder {folder}")
        if image in lines:
            raise InputError(f"{data}, line {line}: {row['image']} is in line {lines[image]} already")
        lines[image] = line
        if not os.path.isfile(folder / image):
            missing.append(f"{row['image']} (line {line})")
        pairs.append((row["label"], image))
    if not pairs:
        raise InputError(f"{data}: no rows, expected one an image")
    if missing:
        raise InputError(f"{data}: missing below {folder}: {shorten(missing)}")
    return _checked(Source(data, ""), "", sorted(pairs), "the label column")


def read_column(source, column):
    """{image: text} of one more column of the CSV that a Source was made of. InputError where there is none."""
    if source.data.suffix.lower() != ".csv" or source.data.is_dir():
        raise InputError(f"{column}: {source.data} has no columns, expected DATA= a CSV with one of that name")
    starts = source.data.parent, source.data.parent.resolve()
    found = {}
    for _, row in _csv_rows(source.data, ("image", "label", column)):
        found[_below(starts, row["image"])] = row[column]
    return found


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
                    raise InputError(f"{data}: found {found}, expected {' and '.join(f'one {c!r}' for c in expected)}"
                                     f"{hint}")
            for row in reader:
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise InputError(f"{data}: not UTF-8: {error}") from None
    except (OSError, csv.Error) as error:
        raise InputError(f"{data}: not a CSV that can be read: {error}") from None


def _below(starts, image):
    """The POSIX path of `image` below a folder, of which `starts` are the paths, or None when it lies elsewhere."""
    if os.path.isabs(image):
        for start in starts:
            if Path(image).is_relative_to(start):
                image = Path(image).relative_to(start).as_posix()
                break
        else:
            return None
    image = posixpath.normpath(image)
    return None if image == ".." or image.startswith("../") else image


# --------------------------------------------------------------------------------------------------- pixels


def _orientation(image):
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # broken metadata: viewers show such a picture as it is stored
        return 1


def _upright(image, orientation):
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _rgb(image):
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values):
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
        scale = 255.0 if values.min() >= 0 and values.max() <= 1 else 1.0
        return np.rint(np.clip(values * scale, 0, 255)).astype(np.uint8)
    return ((np.clip(values.astype(np.int64), 0, 65535) + 128) // 257).astype(np.uint8)
