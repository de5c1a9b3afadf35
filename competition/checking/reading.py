"""What a submission zip shows without being run: its members, its format, the Keras files in it.

`make check` (check_zip.py) begins with this. Nothing of the zip is executed or unpacked; model_code.py reads its code,
and the scorer's interpreter is asked only which modules it has. What is found is a list of Findings.
"""

import ast
import io
import json
import re
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import PurePosixPath

from competition.base.archives import member_pieces, read_member
from competition.base.arrays import gigabytes
from competition.base.text import shorten
from competition.checking.finding import CODE, FAILED, METADATA, OK, SKIPPED, WARNING, Reading
from competition.checking.model_code import (
    SHOWN,
    check_class,
    check_paths,
    find_classes,
    find_method,
    read_code,
    takes_arguments,
)
from competition.data.sources.source import UNREADABLE
from competition.rehearsal.content import UNSAFE, is_pickle

ARCHIVES = {
    b"\x1f\x8b": "a .tar.gz or .gz file",
    b"7z\xbc\xaf": "a .7z archive",
    b"Rar!": "a .rar archive",
    b"BZh": "a .bz2 file",
    b"\xfd7zXZ": "an .xz file",
    b"\x89HDF": "a Keras .h5 file",
    b"<!DO": "a web page",
    b"<htm": "a web page",
}
LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "__pycache__", ".ipynb_checkpoints", ".git")
LIBRARIES = (
    "numpy",
    "tensorflow",
    "keras",
    "torch",
    "scipy",
    "sklearn",
    "PIL",
    "cv2",
    "pandas",
    *sys.stdlib_module_names,
)
MOST_UNPACKED = 2**31  # bytes that a zip may unpack to
MOST_FILES = 50_000
LOOKED_INTO = 2**28  # bytes of a file that is looked into
ABOUT = 2**24  # bytes of what a .keras file says of itself
PICKLED, ALL_PICKLED = 2**18, 2**24  # bytes of a file, and of all, that are read as Python would unpickle them
UNSAFE_WORDS = (b"PyFunc", b'"Lambda"')  # one of which each mark of UNSAFE holds
FIRST_KERAS_3 = (2, 16)  # the first TensorFlow that comes with Keras 3

# What the scorer's Python is asked, with names of modules and {name: code} on its standard input.
ASK = """
import json, sys
from importlib import metadata, util
asked, missing, versions, syntax = json.load(sys.stdin), [], {}, {}
for name in asked["modules"]:
    try:
        if util.find_spec(name) is None:
            missing.append(name)
    except Exception:
        pass
for name in ("keras", "tensorflow", "tensorflow-cpu", "tensorflow-intel", "numpy"):
    try:
        versions[name.split("-")[0]] = metadata.version(name)
    except Exception:
        pass
for name, code in asked["code"].items():
    try:
        compile(code, name, "exec")
    except SyntaxError as error:
        syntax[name] = "%s, line %s" % (error.msg, error.lineno)
    except (RecursionError, MemoryError, ValueError, OverflowError) as error:
        syntax[name] = "it nests too deep" if isinstance(error, (RecursionError, MemoryError)) else str(error)
print(json.dumps({"missing": missing, "versions": versions, "syntax": syntax, "python": sys.version.split()[0]}))
"""


def read_zip(path, format=None, layouts=None):
    """The Reading of a zip; `layouts` are {format: package.Layout}, `format` the one asked for, or None to guess."""
    reading = Reading()
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            if not _check_members(reading, archive, infos):
                return reading
            names = [info.filename for info in infos]
            if not _find_code(reading, names):
                return reading
            reading.names = [name[len(reading.prefix) :] for name in names if name.startswith(reading.prefix)]
            _check_litter(reading, names)
            read_code(reading, archive)
            _choose_format(reading, format, layouts)
            _check_metadata(reading)
            if not reading.stopped and CODE in reading.trees:
                check_class(reading)
                check_paths(reading)
            _read_files(reading, archive)
    except (*UNREADABLE, ValueError) as error:
        reading.add(*_no_zip(path, error), stops=True)
    return reading


def _no_zip(path, error):
    with open(path, "rb") as file:
        start = file.read(8)
    if start[:2] == b"PK":
        return (
            "zip",
            FAILED,
            f"the zip is damaged or cut off ({error})",
            "Make it again, and compare its size after copying or downloading it: a part of it is missing.",
        )
    kind = next((kind for mark, kind in ARCHIVES.items() if start.startswith(mark)), "something else")
    kind = "an empty file" if not start else kind
    return (
        "zip",
        FAILED,
        f"this is no zip, it is {kind}",
        "Pack the files as .zip: `zip -r mine.zip model.py metadata SubmissionModel`, or `make submission`. "
        "Renaming another archive to .zip does not make it one.",
    )


def _check_members(reading, archive, infos):
    """False where the zip cannot be unpacked."""
    names = [info.filename for info in infos]
    before = len(reading.findings)
    if not names:
        reading.add("zip", FAILED, "the zip is empty", "Pack model.py and the files that it loads.", stops=True)
        return False
    if locked := [info.filename for info in infos if info.flag_bits & 1]:
        reading.add("zip", FAILED, f"it asks for a password ({locked[0]})", "Pack it without a password.", stops=True)
        return False
    unpacked, packed = (sum(getattr(info, size) for info in infos) for size in ("file_size", "compress_size"))
    if unpacked > MOST_UNPACKED or packed > archive.start_dir:
        largest = max(infos, key=lambda info: info.file_size)
        reading.add(
            "zip",
            FAILED,
            f"it unpacks to {gigabytes(unpacked)}, expected {gigabytes(MOST_UNPACKED)} at most "
            f"({largest.filename} alone to {gigabytes(largest.file_size)})"
            if unpacked > MOST_UNPACKED
            else f"its files take {packed:,} bytes, more than the zip has: they overlap",
            f"Leave out what {CODE} does not load, and make the zip again.",
            stops=True,
        )
        return False
    if len(infos) > MOST_FILES:
        reading.add(
            "zip",
            FAILED,
            f"it holds {len(infos):,} files, expected {MOST_FILES:,} at most",
            f"Leave out what {CODE} does not load: an environment of Python, say.",
            stops=True,
        )
        return False
    if damaged := _find_damaged(archive, infos):
        reading.add(
            "zip",
            FAILED,
            f"the zip is damaged: {damaged} is not what was packed (checksum)",
            "Make the zip again; it was changed or cut off on its way.",
            stops=True,
        )
    outside = [name for name in names if name.startswith("/") or ".." in PurePosixPath(name).parts or name[1:2] == ":"]
    if outside:
        reading.add(
            "zip",
            FAILED,
            f"{outside[0]} lies outside the zip's own folder (absolute path or ..)",
            "Pack from within the folder: `cd folder; zip -r ../mine.zip .`",
            stops=True,
        )
    if back := [name for name in names if "\\" in name]:
        reading.add(
            "zip",
            FAILED,
            f"{back[0]}: its folders are written with \\ in place of /",
            "On Linux, where scorers run, this makes no folders. Pack it with another program, such as "
            "Python's `shutil.make_archive`.",
            stops=True,
        )
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        reading.add("zip", WARNING, f"{shorten(twice)}: in the zip twice; the last one counts")
    if not any(finding.stops for finding in reading.findings[before:]):
        reading.add("zip", OK, f"whole, {len(names)} files")
    return not reading.stopped


def _find_damaged(archive, infos):
    """The name of the first file whose checksum is another, or None."""
    for info in infos:
        try:
            for _ in member_pieces(archive, info):
                pass
        except zipfile.BadZipFile:
            return info.filename
    return None


def _find_code(reading, names):
    """Set the folder that holds model.py; False where there is none."""
    if CODE in names:
        reading.add("files at the root", OK, f"{CODE} is there")
        return True
    real = [name for name in names if not set(LITTER) & set(PurePosixPath(name).parts)]
    inside = sorted((name for name in real if PurePosixPath(name).name == CODE), key=lambda name: name.count("/"))
    if inside:
        reading.prefix = inside[0][: -len(CODE)]
        reading.add(
            "files at the root",
            FAILED,
            f"the files lie inside a folder: found {inside[0]}, expected {CODE} at the zip's root",
            f"Pack what is in the folder, and not the folder: `cd {reading.prefix.rstrip('/')}; "
            "zip -r ../mine.zip .` The checks below are of what is in the folder.",
        )
        return True
    named = re.compile(r"models?(\.py)?(\.txt|\.ipynb)?|.*\.py|.*\.ipynb", re.I)
    alike = [name for name in real if named.fullmatch(name.split("/")[-1])]
    alike.sort(key=lambda name: ("model" not in name.lower(), name.count("/"), name))
    if alike:
        notebook = " A notebook cannot be imported: copy the class into a file." if alike[0].endswith("ipynb") else ""
        reading.add(
            "files at the root",
            FAILED,
            f"{CODE} is missing: found {shorten(alike)}, expected {CODE}",
            f"The scorer imports a file of exactly that name, in small letters.{notebook}",
            stops=True,
        )
    else:
        reading.add(
            "files at the root",
            FAILED,
            f"{CODE} is missing: found {shorten(sorted(real) or names)}",
            "Write one, with the class that the competition asks for; weights alone cannot be scored.",
            stops=True,
        )
    return False


def _check_litter(reading, names):
    if litter := sorted({part for name in names for part in PurePosixPath(name).parts if part in LITTER}):
        reading.add(
            "litter",
            WARNING,
            f"{shorten(litter)}: left by the computer that packed it",
            "It does no harm on most scorers, but leave it out: `zip -r mine.zip . -x '*/.*' -x '__MACOSX*'`.",
        )
    hides = sorted(
        {
            name.split("/")[0].removesuffix(".py")
            for name in reading.names
            if re.fullmatch(r"[^/]+\.py|[^/]+/__init__\.py", name)
        }
        & set(LIBRARIES)
    )
    if hides:
        reading.add("litter", WARNING, f"{hides[0]} in the zip hides the library of that name", "Rename it.")
    if "model/__init__.py" in reading.names:
        reading.add(
            "files at the root",
            FAILED,
            f"the folder model/ hides {CODE}: Python imports the folder",
            "Rename the folder.",
            stops=True,
        )


def _check_metadata(reading):
    if reading.format != "codalab" or METADATA in reading.names:
        return
    alike = [name for name in reading.names if re.fullmatch(r"metadata(\..*)?", name.split("/")[-1], re.I)]
    found = f": found {alike[0]}" if alike else ""
    reading.add(
        "metadata",
        FAILED,
        f"the file {METADATA} is missing at the zip's root{found}",
        "CodaLab looks for a file of exactly that name, without an ending. Its text: `description: Provides "
        "prediction model to be executed by the ingestion program`",
    )


def _choose_format(reading, format, layouts):
    """The format asked for, or the one that the zip looks most like, and why."""
    if format:
        reading.format, reading.why = format, "FORMAT="
    elif CODE in reading.trees:
        classes = find_classes(reading.trees[CODE])
        made = find_method(classes, "Model", "__init__") if "Model" in classes else None
        with_path = isinstance(made, ast.FunctionDef) and not takes_arguments(made, 0)
        if METADATA in reading.names:
            reading.why = f"it has the file {METADATA}"
        elif "Model" in classes and "model" in classes:
            reading.format, reading.why = "codabench", f"it has the class Model and no {METADATA}"
        elif "Model" in classes and not with_path:
            reading.format = "codabench"
            reading.why = f"its class is Model, made without a path, and it has no {METADATA}"
        else:
            reading.why = (
                "its class is model"
                if "model" in classes
                else "its class is made with a path"
                if with_path
                else "the default"
            )
    else:
        reading.why = "the default"
    reading.entry = layouts[reading.format].entry


def _read_files(reading, archive):
    """What could not be loaded safely, and the versions of Keras that saved its files."""
    unsafe, large, left = [], [], ALL_PICKLED
    for name in reading.names:
        if name.endswith((".py", ".txt", "/")):
            continue
        entry = archive.getinfo(reading.prefix + name)
        if entry.file_size > LOOKED_INTO:
            large.append(f"{name} ({gigabytes(entry.file_size)})")
            continue
        data = read_member(archive, entry)
        part = data if data[:2] == b"PK" else data[: max(PICKLED // 256, min(PICKLED, left))]
        left -= min(PICKLED, len(data))
        if _holds_pickle(name, part):
            unsafe.append(f"{name} is a pickle")
        if PurePosixPath(name).suffix in (".keras", ".h5", ".hdf5"):
            reading.keras_files[name], data = _read_keras(data)
        if any(word in data for word in UNSAFE_WORDS):  # many times faster to look for
            unsafe += [f"{name} holds {what}" for what, mark in UNSAFE.items() if mark.search(data)]
    if unsafe:
        reading.add(
            "safe files",
            WARNING,
            shorten(unsafe),
            "Such files run code when they are loaded, which some scorers refuse and other versions of the "
            "libraries cannot do. A SavedModel, .npz or plain weights are better.",
        )
    if large:
        reading.add("safe files", SKIPPED, f"{shorten(large)}: of more than {gigabytes(LOOKED_INTO)}, not looked into")


def _holds_pickle(name, data):
    try:
        return is_pickle(PurePosixPath(name).name, data)
    except Exception:  # a zip in the zip that is none: such bytes raise about anything
        return False


def _read_keras(data):
    """The version of Keras that saved a file, or None, and the bytes that show what is in it."""
    try:
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                about = json.loads(read_member(archive, archive.getinfo("metadata.json"), ABOUT))
                return _text(about["keras_version"]), read_member(archive, archive.getinfo("config.json"), ABOUT)
        import h5py

        with h5py.File(io.BytesIO(data)) as file:
            return _text(file.attrs.get("keras_version")), data
    except Exception:  # such bytes raise about anything
        return None, data


def _text(version):
    version = version.decode() if isinstance(version, bytes) else version
    return version if isinstance(version, str) and len(version) < 100 else None


def read_version(version):
    """ "2.12.1" -> (2, 12, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", version or "")[:3])


def find_keras_version(versions):
    """The version of Keras in {"keras": ..., "tensorflow": ...}, as numbers; () where neither is there."""
    if "keras" in versions:
        return read_version(versions["keras"])
    tensorflow = read_version(versions.get("tensorflow"))
    return () if not tensorflow else (3,) if tensorflow >= FIRST_KERAS_3 else (2, *tensorflow[1:])


def check_keras(reading, versions, scorer):
    """Whether the scorer's Keras can read the zip's files. versions: {library: version} of the scorer."""
    has = find_keras_version(versions)
    shown = f"Keras {'.'.join(map(str, has))}" + (
        f" (TensorFlow {versions['tensorflow']})" if "tensorflow" in versions else ""
    )
    for name, version in reading.keras_files.items():
        saved = read_version(version)
        if not saved or not has:
            continue
        if saved[0] >= 3 > has[0]:
            reading.add(
                "Keras files",
                FAILED,
                f"{name} is a Keras 3 file (saved by {version}), and the scorer has {shown}",
                'Keras 2 cannot read it. Save it as a SavedModel, `model.export("SubmissionModel")`, and '
                "load that with `tf.saved_model.load`; or train and save with the scorer's release of "
                "TensorFlow.",
                stops=True,
            )
        elif saved[0] >= 3 and not scorer:
            reading.add(
                "Keras files",
                WARNING,
                f"{name} is a Keras 3 file (saved by {version}): a scorer with TensorFlow before 2.16 cannot read it",
                "Ask which release the scorer has, and try it: SCORER=tensorflow==2.12.1.",
            )
        elif saved[0] < has[0]:
            reading.add(
                "Keras files",
                WARNING,
                f"{name} was saved by Keras {version}, and the scorer has {shown}",
                "Keras 3 reads only a part of what older releases saved; the run below tells.",
            )
        elif saved[:2] > has[:2] and len(has) > 1:
            reading.add(
                "Keras files",
                WARNING,
                f"{name} was saved by Keras {version}, newer than the scorer's {shown}",
                "Older releases may not know what newer ones save; the run below tells.",
            )


def ask_python(python, reading):
    """What the scorer's Python says to ASK, or a text that says why it says nothing."""
    asked = {"modules": sorted(reading.modules), "code": reading.code}
    try:
        done = subprocess.run(
            [python, "-I", "-W", "ignore", "-c", ASK],
            input=json.dumps(asked),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=120,
        )
        return json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return f"it ends while it reads the code: {said[0]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def check_imports(reading, answer, scorer):
    """Whether the scorer has what the code imports. answer: of ask_python."""
    who = scorer or "the project's own Python, which stands for the scorer (SCORER= names another)"
    if isinstance(answer, str):
        return reading.add("scorer", FAILED, f"the scorer's Python does not answer: {answer}", "", stops=True)
    for name, error in answer["syntax"].items():
        reading.add(
            "code",
            FAILED,
            f"{name} is not Python {answer['python']}, which the scorer has: {error}",
            "Write it without what only newer releases of Python know.",
            stops=True,
        )
    for name in answer["missing"][:SHOWN]:
        reading.add(
            "imports",
            FAILED,
            f"import {name} ({reading.modules[name]}): the scorer lacks {name}",
            f"Not there: {name}, in {who}. Do without it, or pack its code beside {CODE} if it is small; a "
            "scorer installs nothing.",
            stops=True,
        )
    if not answer["missing"] and reading.trees:
        reading.add("imports", OK, f"{shorten(sorted(reading.modules), 8) or 'none'}: the scorer has them")
