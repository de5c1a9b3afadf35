"""What has no place in a submission: pickles, Python functions in a graph, and what tells of the machine it was made on.

Random weights hold any short run of bytes, and names in a graph look like paths: so text is searched for whole paths,
which neither begin earlier nor go on, and weights for long ones alone.
"""

import getpass
import io
import os
import pickletools
import re
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from competition.rehearsal.rehearsal import RehearsalError

PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth")
WEIGHTS = (".npz", ".npy", ".h5", ".bin", ".onnx", ".safetensors", ".png", ".jpg", ".jpeg")
GRAPH = "saved_model.pb"
SHORTEST = 4  # signs of a path that says something
LONG, PARTS = 8, 3  # signs or parts of a path that weights do not hold by chance
EVERYWHERE = ("/usr", "/usr/local")  # where a Python may lie that is no project's
HOMES = ("home", "Users", "mnt", "media")  # folders in which one is called after a user
BEGIN, END = rb"(?<![\w.~-])", rb"(?![\w.-])"
UNSAFE = {
    "a Python function in its graph": re.compile(rb"(?<![a-z])(Eager)?PyFunc(Stateless)?(?!\w)"),
    "a Lambda layer": re.compile(rb'"class_name":\s*"Lambda"'),
}


@dataclass(frozen=True)
class Mark:
    """A path that nobody else needs to know."""

    what: str
    text: re.Pattern  # as it stands in text
    weights: re.Pattern | None  # and among weights; None: too short to tell it from chance
    part: bytes  # its longest part: many times faster to look for, and where it is missing the path is as well


def check_package(folder, *paths, apart=()):
    """Raise RehearsalError where what is in a folder tells of this machine, or could not be loaded safely elsewhere.

    paths  of this machine, beside the current, home and temporary folder and Python's own: that of the images, say
    apart  names in the folder that are not looked into

    Looked for are those, folders that are called after the user, pickles, and Python functions in the graph (a Lambda
    or tf.py_function), which only this process knows.
    """
    folder, marks = Path(folder), machine_marks(*paths)
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        if file.relative_to(folder).parts[0] in apart:
            continue
        if found := find_unfit(file.name, file.read_bytes(), marks):
            name = file.relative_to(folder).as_posix()
            raise RehearsalError(f"{name} holds {found}, which has no place in a submission", "zip", "unpack")


def machine_marks(*paths):
    """The Marks of this machine, and of more paths of it."""
    known = {str(path) for path in (Path.cwd(), Path.home(), tempfile.gettempdir(), sys.prefix, *paths) if path}
    marks = [
        _mark(f"the path {path}", re.split(r"[/\\]+", path.rstrip("/\\")))
        for path in sorted(known)
        if len(path) >= SHORTEST and path not in EVERYWHERE and os.path.isabs(path)
    ]
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # nobody has that number, or Windows does not say who it is
        return marks
    return marks + [_mark(f"the user name {user}", ["", home, user]) for home in HOMES]


def _mark(what, parts):
    pattern = rb"[/\\]+".join(re.escape(part).encode() for part in parts) + END
    long = len("/".join(parts)) >= LONG or len(list(filter(None, parts))) >= PARTS
    longest = max((part.encode() for part in parts), key=len)
    return Mark(what, re.compile(BEGIN + pattern), re.compile(pattern) if long else None, longest)


def find_unfit(name, content, marks):
    """What has no place in a submission, in words, among the bytes of a file called `name`; None where nothing is."""
    weights = name.startswith("variables.") or Path(name).suffix in WEIGHTS
    text = content if weights or name != GRAPH else b"\0".join(_strings_of(content))
    for mark in marks:
        pattern = mark.weights if weights else mark.text
        if pattern and mark.part in text and pattern.search(text):
            return mark.what
    unsafe = [what for what, pattern in UNSAFE.items() if not weights and pattern.search(text)]
    return unsafe[0] if unsafe else "a pickle" if is_pickle(name, content) else None


def _strings_of(content):
    """All texts of a SavedModel's protobuf but those of constants, which hold weights; its bytes where it is none."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    def walk(value):
        if hasattr(value, "ListFields"):
            for field, inner in value.ListFields():
                if field.name != "tensor_content":
                    yield from walk(inner)
        elif isinstance(value, (str, bytes)):
            yield value.encode() if isinstance(value, str) else value
        elif hasattr(value, "items"):
            for key, inner in value.items():
                yield from (*walk(key), *walk(inner))
        elif hasattr(value, "__getitem__"):
            for inner in value:
                yield from walk(inner)

    try:
        return list(walk(saved_model_pb2.SavedModel.FromString(content)))
    except DecodeError:
        return [content]


def is_pickle(name, content):
    """Whether a file is one: by its name, what numpy and torch put around it, or as Python would unpickle it."""
    if Path(name).suffix in PICKLES:
        return True
    if content[:2] == b"PK":
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return any(Path(inner).suffix in PICKLES for inner in archive.namelist())
        except zipfile.BadZipFile:
            return False
    if content[:6] == b"\x93NUMPY":
        return b"'|O'" in content[:256]
    if name == GRAPH or name.startswith("variables."):
        return False
    count = end = 0
    try:
        for count, (operation, _, end) in enumerate(pickletools.genops(content), 1):
            pass
    except Exception:  # what is no pickle raises about anything
        return False
    whole = not content[end + 1 :].strip()  # text may begin like one
    return count > 2 and (whole or content[:1] == b"\x80")
