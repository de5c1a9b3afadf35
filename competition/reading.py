"""What a submission zip shows without being run: its members, the code of `model.py`, the Keras files in it.

`make check` (check.py) begins with this. Nothing of the zip is executed or unpacked; code is read with `ast`, and the
scorer's interpreter is asked only which modules it has. What is found is a list of Findings.
"""

import ast
import io
import json
import re
import subprocess
import sys
import warnings
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from competition.content import UNSAFE, is_pickle
from competition.images import shorten
from competition.rehearsal import Entry

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "FAILED", "not checked"
CODE = "model.py"
METADATA = "metadata"
ARCHIVES = {b"\x1f\x8b": "a .tar.gz or .gz file", b"7z\xbc\xaf": "a .7z archive", b"Rar!": "a .rar archive",
            b"BZh": "a .bz2 file", b"\xfd7zXZ": "an .xz file", b"\x89HDF": "a Keras .h5 file", b"<!DO": "a web page",
            b"<htm": "a web page"}
LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "__pycache__", ".ipynb_checkpoints", ".git")
LIBRARIES = ("numpy", "tensorflow", "keras", "torch", "scipy", "sklearn", "PIL", "cv2", "pandas",
             *sys.stdlib_module_names)
HOME = re.compile(r"(/home/|/Users/|/root/|/content/|/kaggle/|/mnt/|/media/|/gdrive/|~/|[A-Za-z]:[\\/])")
NOTEBOOK = re.compile(r"\s*[!%]\s*\w")  # a line that only a notebook understands
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
print(json.dumps({"missing": missing, "versions": versions, "syntax": syntax, "python": sys.version.split()[0]}))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the table: what was checked, how it went, what was found, in plain words, and how to mend it."""

    check: str
    result: str  # OK, WARNING, FAILED or SKIPPED
    found: str
    advice: str = ""
    stops: bool = False  # with this wrong there is no use in running the zip


@dataclass
class Reading:
    """What was read of a zip. `entry` is how its code wants to be called, whatever the format says."""

    findings: list = field(default_factory=list)
    names: list = field(default_factory=list)  # members, as paths from the folder that holds model.py
    prefix: str = ""  # that folder, "" or "folder/"
    format: str = "codalab"
    why: str = "the default"  # why it is taken to be of that format
    entry: Entry = Entry()
    trees: dict = field(default_factory=dict)  # {name: ast} of model.py and the modules of the zip that it imports
    code: dict = field(default_factory=dict)  # {name: text} of the same
    modules: dict = field(default_factory=dict)  # {name: "model.py, line 3"} that it imports from elsewhere
    keras_files: dict = field(default_factory=dict)  # {name: version of Keras that saved it, or None}

    def add(self, *arguments, **more):
        self.findings.append(Finding(*arguments, **more))

    @property
    def stopped(self):
        return any(finding.stops for finding in self.findings)


def read_zip(path, format=None, layouts=None):
    """The Reading of a zip; `layouts` are {format: submission.Layout}, `format` the one asked for, or None to guess."""
    reading = Reading()
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            if not _check_members(reading, archive, infos):
                return reading
            names = [info.filename for info in infos]
            if not _find_code(reading, names):
                return reading
            reading.names = [name[len(reading.prefix):] for name in names if name.startswith(reading.prefix)]
            _check_litter(reading, names)
            _read_code(reading, archive)
            _choose_format(reading, format, layouts)
            _check_metadata(reading)
            if not reading.stopped:
                _check_class(reading)
                _check_paths(reading)
            _read_files(reading, archive)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, ValueError, zlib.error) as error:
        reading.add(*_no_zip(path, error), stops=True)
    return reading


# ------------------------------------------------------------------------------------------------------- members


def _no_zip(path, error):
    with open(path, "rb") as file:
        start = file.read(8)
    if start[:2] == b"PK":
        return ("zip", FAILED, f"the zip is damaged or cut off ({error})",
                "Make it again, and compare its size after copying or downloading it: a part of it is missing.")
    kind = next((kind for mark, kind in ARCHIVES.items() if start.startswith(mark)), "something else")
    kind = "an empty file" if not start else kind
    return ("zip", FAILED, f"this is no zip, it is {kind}",
            "Pack the files as .zip: `zip -r mine.zip model.py metadata SubmissionModel`, or `make submission`. "
            "Renaming another archive to .zip does not make it one.")


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
    if damaged := archive.testzip():
        reading.add("zip", FAILED, f"the zip is damaged: {damaged} is not what was packed (checksum)",
                    "Make the zip again; it was changed or cut off on its way.", stops=True)
    outside = [name for name in names
               if name.startswith("/") or ".." in PurePosixPath(name).parts or name[1:2] == ":"]
    if outside:
        reading.add("zip", FAILED, f"{outside[0]} lies outside the zip's own folder (absolute path or ..)",
                    "Pack from within the folder: `cd folder; zip -r ../mine.zip .`", stops=True)
    if back := [name for name in names if "\\" in name]:
        reading.add("zip", FAILED, f"{back[0]}: its folders are written with \\ in place of /",
                    "On Linux, where scorers run, this makes no folders. Pack it with another program, such as "
                    "Python's `shutil.make_archive`.", stops=True)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        reading.add("zip", WARNING, f"{shorten(twice)}: in the zip twice; the last one counts")
    if not any(finding.stops for finding in reading.findings[before:]):
        reading.add("zip", OK, f"whole, {len(names)} files")
    return not reading.stopped


def _find_code(reading, names):
    """Set the folder that holds model.py; False where there is none."""
    if CODE in names:
        reading.add("files at the root", OK, f"{CODE} is there")
        return True
    real = [name for name in names if not set(LITTER) & set(PurePosixPath(name).parts)]
    inside = sorted((name for name in real if PurePosixPath(name).name == CODE), key=lambda name: name.count("/"))
    if inside:
        reading.prefix = inside[0][: -len(CODE)]
        reading.add("files at the root", FAILED,
                    f"the files lie inside a folder: found {inside[0]}, expected {CODE} at the zip's root",
                    f"Pack what is in the folder, and not the folder: `cd {reading.prefix.rstrip('/')}; "
                    "zip -r ../mine.zip .` The checks below are of what is in the folder.")
        return True
    named = re.compile(r"models?(\.py)?(\.txt|\.ipynb)?|.*\.py|.*\.ipynb", re.I)
    alike = [name for name in real if named.fullmatch(name.split("/")[-1])]
    alike.sort(key=lambda name: ("model" not in name.lower(), name.count("/"), name))
    if alike:
        notebook = " A notebook cannot be imported: copy the class into a file." if alike[0].endswith("ipynb") else ""
        reading.add("files at the root", FAILED, f"{CODE} is missing: found {shorten(alike)}, expected {CODE}",
                    f"The scorer imports a file of exactly that name, in small letters.{notebook}", stops=True)
    else:
        reading.add("files at the root", FAILED, f"{CODE} is missing: found {shorten(sorted(real) or names)}",
                    "Write one, with the class that the competition asks for; weights alone cannot be scored.",
                    stops=True)
    return False


def _check_litter(reading, names):
    if litter := sorted({part for name in names for part in PurePosixPath(name).parts if part in LITTER}):
        reading.add("litter", WARNING, f"{shorten(litter)}: left by the computer that packed it",
                    "It does no harm on most scorers, but leave it out: `zip -r mine.zip . -x '*/.*' -x '__MACOSX*'`.")
    hides = sorted({name.split("/")[0].removesuffix(".py") for name in reading.names
                    if re.fullmatch(r"[^/]+\.py|[^/]+/__init__\.py", name)} & set(LIBRARIES))
    if hides:
        reading.add("litter", WARNING, f"{hides[0]} in the zip hides the library of that name", "Rename it.")
    if "model/__init__.py" in reading.names:
        reading.add("files at the root", FAILED, f"the folder model/ hides {CODE}: Python imports the folder",
                    "Rename the folder.", stops=True)


def _check_metadata(reading):
    if reading.format != "codalab" or METADATA in reading.names:
        return
    alike = [name for name in reading.names if re.fullmatch(r"metadata(\..*)?", name.split("/")[-1], re.I)]
    found = f": found {alike[0]}" if alike else ""
    reading.add("metadata", FAILED, f"the file {METADATA} is missing at the zip's root{found}",
                "CodaLab looks for a file of exactly that name, without an ending. Its text: `description: Provides "
                "prediction model to be executed by the ingestion program`")


# ---------------------------------------------------------------------------------------------------------- code


def _read_code(reading, archive):
    """Parse model.py and the modules of the zip that it imports."""
    waiting = [CODE]
    while waiting:
        name = waiting.pop()
        if name in reading.code:
            continue
        data = archive.read(reading.prefix + name)
        try:
            reading.code[name] = data.decode("utf-8-sig")
            with warnings.catch_warnings(action="ignore"):  # of Python about the code
                reading.trees[name] = tree = ast.parse(data, name)
        except (SyntaxError, ValueError) as error:
            reading.code.setdefault(name, "")
            _add_syntax_error(reading, name, error)
            continue
        for module, line, guarded, relative in _imports(tree):
            if relative and "/" not in name:
                reading.add("imports", FAILED, f"{name}, line {line}: `from .{module} import ...`; {name} is no part "
                            "of a package", "Leave out the dot.", stops=True)
            found = [f"{module}.py"] if f"{module}.py" in reading.names else [
                other for other in reading.names if other.startswith(f"{module}/") and other.endswith(".py")]
            waiting += found
            if not found and not guarded and not relative:
                reading.modules.setdefault(module, f"{name}, line {line}")
    if CODE in reading.trees:
        reading.add("code", OK, "it can be read")


def _add_syntax_error(reading, name, error):
    line = getattr(error, "lineno", None)
    text = (getattr(error, "text", None) or "").strip()
    if NOTEBOOK.match(text):
        advice = f"`{text}` is a command of notebooks, not Python: take such lines out."
    elif isinstance(error, (IndentationError, TabError)):
        advice = "The spaces at the start of its lines are not as Python wants them."
    else:
        advice = f"Python stops at `{text}`." if text else "Save the file as UTF-8 text."
    where = f", line {line}" if line else ""
    reading.add("code", FAILED, f"{name}{where}: not Python ({getattr(error, 'msg', error)})",
                f"{advice} `python {name}` shows it.", stops=True)


def _imports(tree):
    """Of each import that runs with the module: the module's first name, the line, whether a failure is caught, and
    whether it is relative."""

    def walk(nodes, guarded):
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from ((alias.name.split(".")[0], node.lineno, guarded, False) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield (node.module or "").split(".")[0], node.lineno, guarded, bool(node.level)
            elif isinstance(node, ast.Try):
                yield from walk(node.body, guarded or any(map(_catches_import, node.handlers)))
                yield from walk([*node.handlers, *node.orelse, *node.finalbody], guarded)
            elif not _is_main(node):
                yield from walk(ast.iter_child_nodes(node), guarded)

    return walk([tree], False)


def _catches_import(handler):
    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


def _is_main(node):
    """`if __name__ == "__main__":` and `if TYPE_CHECKING:`, which a scorer does not run."""
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id in ("__name__", "TYPE_CHECKING") for part in ast.walk(node.test))


def _choose_format(reading, format, layouts):
    """The format asked for, or the one that the zip looks most like, and why."""
    if format:
        reading.format, reading.why = format, "FORMAT="
    elif CODE in reading.trees:
        classes = _classes(reading.trees[CODE])
        made = _method(classes, "Model", "__init__") if "Model" in classes else None
        with_path = isinstance(made, ast.FunctionDef) and not _accepts(made, 0)
        if METADATA in reading.names:
            reading.why = f"it has the file {METADATA}"
        elif "Model" in classes and "model" in classes:
            reading.format, reading.why = "codabench", f"it has the class Model and no {METADATA}"
        elif "Model" in classes and not with_path:
            reading.format = "codabench"
            reading.why = f"its class is Model, made without a path, and it has no {METADATA}"
        else:
            reading.why = "its class is model" if "model" in classes else "its class is made with a path" if with_path \
                else "the default"
    else:
        reading.why = "the default"
    reading.entry = layouts[reading.format].entry


def _classes(tree):
    """{name: ast.ClassDef} of a module."""
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _names(tree):
    """What a module has after its import, as far as its top level shows."""
    found = set()
    for node in tree.body:
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                found.add(part.id)
            elif isinstance(part, ast.alias):
                found.add((part.asname or part.name).split(".")[0])
    return found


def _method(classes, name, wanted):
    """A method's ast, of the class or of one of the same file that it is derived from; None where there is none, and
    "elsewhere" where it may be that of a class of another module."""
    node = classes[name]
    for part in node.body:
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) and part.name == wanted:
            return part
    if any(isinstance(part, ast.Assign) and isinstance(target, ast.Name) and target.id == wanted
           for part in node.body for target in getattr(part, "targets", [])):
        return "elsewhere"
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes and base.id != name:
            if found := _method(classes, base.id, wanted):
                return found
        elif not (isinstance(base, ast.Name) and base.id == "object"):
            return "elsewhere"
    return None


def _accepts(function, count):
    """Whether a method can be called with so many arguments beside self."""
    if function.decorator_list:
        return True
    given = function.args
    every = [*given.posonlyargs, *given.args]
    least = len(every) - len(given.defaults) - 1
    required = [value for value in given.kw_defaults if value is None]
    return not required and least <= count and (given.vararg is not None or count <= len(every) - 1)


def _check_class(reading):
    """The class has the format's name, and takes what a scorer gives; `entry` becomes what can be run."""
    wanted, classes = reading.entry, _classes(reading.trees[CODE])
    name = wanted.class_name
    alike = [other for other in classes if other.lower() == name.lower()]
    if name not in classes:
        if name in _names(reading.trees[CODE]):
            return reading.add("class", OK, f"{name} is there")
        if not alike:
            has = f"it has {shorten(sorted(classes))}" if classes else "it has no class at all"
            return reading.add("class", FAILED, f"{CODE} has no class {name}; {has}",
                               f"Call the class `{name}`: the scorer asks for exactly that.", stops=True)
        reading.add("class", FAILED, f"found class {alike[0]}, expected class {name}: upper and lower case differ",
                    f"FORMAT={reading.format} asks for `class {name}`; Python takes `{alike[0]}` for another one. "
                    f"Rename it, or say FORMAT={'codabench' if name == 'model' else 'codalab'} if your competition is "
                    "of that format.")
        name = alike[0]
    else:
        reading.add("class", OK, f"class {name} is there")
    reading.entry = _check_methods(reading, classes, name, wanted)


def _check_methods(reading, classes, name, wanted):
    """The Entry by which the class can be made."""
    entry = replace(wanted, class_name=name)
    predict, made = _method(classes, name, "predict"), _method(classes, name, "__init__")
    if predict is None:
        others = [part.name for part in classes[name].body
                  if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")]
        reading.add("predict", FAILED, f"class {name} has no predict"
                    + (f"; it has {shorten(others)}" if others else ""),
                    "Add `def predict(self, X):` inside the class, indented like __init__; X are the images "
                    "[n, height, width, 3], and it returns their n class ids.", stops=True)
    elif predict != "elsewhere" and not _accepts(predict, 1):
        shown = ast.unparse(predict.args)
        lacks = "" if shown.split(",")[0].strip() == "self" else "self is missing; "
        reading.add("predict", FAILED, f"predict({shown}): {lacks}expected predict(self, X)",
                    "The scorer calls it with the images alone: `def predict(self, X):`.", stops=True)
    given = int(wanted.with_path)
    if made is not None and made != "elsewhere" and _accepts(made, given):
        return entry
    if made == "elsewhere" or made is None and not given:
        return entry
    shown = ast.unparse(made.args) if made else "self"
    expected = "__init__(self, path)" if given else "__init__(self)"
    can = made is None or _accepts(made, 1 - given)
    how = "with the path of the folder that holds the zip's files" if given else "without arguments"
    reading.add("__init__", FAILED, f"__init__({shown}): expected {expected}",
                f"FORMAT={reading.format} makes the object {how}: `def {expected}:`"
                + ("." if given else ", and files are found by `os.path.dirname(os.path.abspath(__file__))`."),
                stops=not can)
    return replace(entry, with_path=not wanted.with_path) if can else entry


def _check_paths(reading):
    """Texts in the code that are paths of one computer."""
    for name, tree in reading.trees.items():
        for value, line in _texts(tree):
            if HOME.match(value):
                reading.add("paths", FAILED, f"{name}, line {line}: {value[:80]} is a path of your own computer",
                            "The scorer does not have it. Pack the file and find it by "
                            + ("the path that __init__ gets: `os.path.join(path, \"weights.h5\")`."
                               if reading.entry.with_path else
                               "`os.path.join(os.path.dirname(os.path.abspath(__file__)), \"weights.h5\")`."),
                            stops=True)


def _texts(tree):
    """Texts of a module with their lines, but for docstrings and what a scorer does not run."""
    def walk(node):
        if _is_main(node) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno
        for part in ast.iter_child_nodes(node):
            yield from walk(part)

    return walk(tree)


def keyword(reading, name, value):
    """Where the code calls something with `name=value`: "model.py, line 3", or None."""
    for file, tree in reading.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == name and isinstance(node.value, ast.Constant) \
                    and node.value.value == value:
                return f"{file}, line {node.value.lineno}"
    return None


# --------------------------------------------------------------------------------------------- files, and the scorer


def _read_files(reading, archive):
    """What could not be loaded safely, and the versions of Keras that saved its files."""
    unsafe = []
    for name in reading.names:
        if name.endswith((".py", ".txt", "/")):
            continue
        data = archive.read(reading.prefix + name)
        if is_pickle(PurePosixPath(name).name, data):
            unsafe.append(f"{name} is a pickle")
        if PurePosixPath(name).suffix in (".keras", ".h5", ".hdf5"):
            reading.keras_files[name], data = _read_keras(data)
        unsafe += [f"{name} holds {what}" for what, mark in UNSAFE.items() if mark.search(data)]
    if unsafe:
        reading.add("safe files", WARNING, shorten(unsafe),
                    "Such files run code when they are loaded, which some scorers refuse and other versions of the "
                    "libraries cannot do. A SavedModel, .npz or plain weights are better.")


def _read_keras(data):
    """The version of Keras that saved a file, or None, and the bytes that show what is in it."""
    try:
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                about = json.loads(archive.read("metadata.json"))
                return about.get("keras_version"), archive.read("config.json")
        import h5py

        with h5py.File(io.BytesIO(data)) as file:
            version = file.attrs.get("keras_version")
            return version.decode() if isinstance(version, bytes) else version, data
    except (ImportError, KeyError, ValueError, OSError, zipfile.BadZipFile):
        return None, data


def numbers(version):
    """ "2.12.1" -> (2, 12, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", version or "")[:3])


def keras_of(versions):
    """The version of Keras in {"keras": ..., "tensorflow": ...}, as numbers; () where neither is there."""
    if "keras" in versions:
        return numbers(versions["keras"])
    tensorflow = numbers(versions.get("tensorflow"))
    return () if not tensorflow else (3,) if tensorflow >= FIRST_KERAS_3 else (2, *tensorflow[1:])


def check_keras(reading, versions, scorer):
    """Whether the scorer's Keras can read the zip's files. versions: {library: version} of the scorer."""
    has = keras_of(versions)
    shown = f"Keras {'.'.join(map(str, has))}" + (
        f" (TensorFlow {versions['tensorflow']})" if "tensorflow" in versions else "")
    for name, version in reading.keras_files.items():
        saved = numbers(version)
        if not saved or not has:
            continue
        if saved[0] >= 3 > has[0]:
            reading.add("Keras files", FAILED,
                        f"{name} is a Keras 3 file (saved by {version}), and the scorer has {shown}",
                        "Keras 2 cannot read it. Save it as a SavedModel, `model.export(\"SubmissionModel\")`, and "
                        "load that with `tf.saved_model.load`; or train and save with the scorer's release of "
                        "TensorFlow.",
                        stops=True)
        elif saved[0] >= 3 and not scorer:
            reading.add("Keras files", WARNING, f"{name} is a Keras 3 file (saved by {version}): a scorer with "
                        "TensorFlow before 2.16 cannot read it", "Ask which release the scorer has, and try it: "
                        "SCORER=tensorflow==2.12.1.")
        elif saved[0] < has[0]:
            reading.add("Keras files", WARNING, f"{name} was saved by Keras {version}, and the scorer has {shown}",
                        "Keras 3 reads only a part of what older releases saved; the run below tells.")
        elif saved[:2] > has[:2] and len(has) > 1:
            reading.add("Keras files", WARNING, f"{name} was saved by Keras {version}, newer than the scorer's {shown}",
                        "Older releases may not know what newer ones save; the run below tells.")


def ask_python(python, reading):
    """What the scorer's Python says to ASK, or a text that says why it says nothing."""
    asked = {"modules": sorted(reading.modules), "code": reading.code}
    try:
        done = subprocess.run([python, "-I", "-c", ASK], input=json.dumps(asked), capture_output=True, text=True,
                              timeout=120)
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return str(error)


def check_imports(reading, answer, scorer):
    """Whether the scorer has what the code imports. answer: of ask_python."""
    who = scorer or "the project's own Python, which stands for the scorer (SCORER= names another)"
    if isinstance(answer, str):
        return reading.add("scorer", FAILED, f"the scorer's Python does not answer: {answer}", "", stops=True)
    for name, error in answer["syntax"].items():
        reading.add("code", FAILED, f"{name} is not Python {answer['python']}, which the scorer has: {error}",
                    "Write it without what only newer releases of Python know.", stops=True)
    for name in answer["missing"]:
        reading.add("imports", FAILED, f"import {name} ({reading.modules[name]}): the scorer lacks {name}",
                    f"Not there: {name}, in {who}. Do without it, or pack its code beside {CODE} if it is small; a "
                    "scorer installs nothing.", stops=True)
    if not answer["missing"] and reading.trees:
        reading.add("imports", OK, f"{shorten(sorted(reading.modules), 8) or 'none'}: the scorer has them")
