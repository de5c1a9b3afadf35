"""What the code of `model.py` shows without being run: syntax, imports, classes, paths."""

import ast
import re
import warnings
from dataclasses import replace

from competition.base.archives import read_member
from competition.base.text import shorten
from competition.checking.finding import CODE, FAILED, OK, WARNING

HOME = re.compile(r"(/home/|/Users/|/root/|/content/|/kaggle/|/mnt/|/media/|/gdrive/|~/|[A-Za-z]:[\\/])")
LARGEST = 2**24  # bytes of all code that is read
MOST_WORDS = 1_000_000  # of all code; each takes some hundred bytes once it is parsed
BRACE = 20  # words that a brace counts as: the time for a text of many grows with their square
WORD = re.compile(rb"\w+|[^\w\s]")
SHOWN = 20  # findings of one kind
NOTEBOOK = re.compile(r"\s*[!%]\s*\w")  # a line that only a notebook understands


def read_code(reading, archive):
    """Parse model.py and the modules of the zip that it imports."""
    waiting, left, words = [CODE], LARGEST, MOST_WORDS
    own = _modules(reading.names)
    while waiting:
        name = waiting.pop()
        if name in reading.code:
            continue
        entry = archive.getinfo(reading.prefix + name)
        left -= entry.file_size
        data = b"" if left < 0 else read_member(archive, entry, LARGEST)
        words -= sum(1 for _ in WORD.finditer(data)) + BRACE * data.count(b"{")
        if left < 0 or words < 0:
            reading.add(
                "code",
                FAILED,
                f"{name}: with it the code has more than {LARGEST / 2**20:.0f} MB or {MOST_WORDS:,} words",
                "Keep numbers in a file of numpy beside the code, which loads them.",
                stops=True,
            )
            return
        try:
            reading.code[name] = data.decode("utf-8-sig")
            with warnings.catch_warnings(action="ignore"):  # of Python about the code
                reading.trees[name] = tree = ast.parse(data, name)
        except (RecursionError, MemoryError):  # the scorer's Python, which compiles it, says whether it can be read
            reading.add(
                "code",
                WARNING,
                f"{name} nests too deep to be looked into",
                "Some Pythons read no more than a few thousand signs, brackets or terms within each other: write it in "
                "several lines.",
            )
            continue
        except (SyntaxError, ValueError) as error:
            reading.code.setdefault(name, "")
            _add_syntax_error(reading, name, error)
            continue
        for module, line, guarded, relative in _imports(tree):
            if relative and "/" not in name:
                reading.add(
                    "imports",
                    FAILED,
                    f"{name}, line {line}: `from .{module} import ...`; {name} is no part of a package",
                    "Leave out the dot.",
                    stops=True,
                )
            found = own.get(module, [])
            waiting += [other for other in found if other not in reading.code]
            own[module] = found[:1]  # the others wait already
            if not found and not guarded and not relative:
                reading.modules.setdefault(module, f"{name}, line {line}")
    if CODE in reading.trees:
        reading.add("code", OK, "it can be read")


def _add_syntax_error(reading, name, error):
    line = getattr(error, "lineno", None)
    text = (getattr(error, "text", None) or "").strip()[:80]
    said = getattr(error, "msg", error)
    if NOTEBOOK.match(text):
        advice = f"`{text}` is a command of notebooks, not Python: take such lines out."
    elif isinstance(error, (IndentationError, TabError)):
        advice = "The spaces at the start of its lines are not as Python wants them."
    else:
        advice = f"Python stops at `{text}`." if text else "Save the file as UTF-8 text."
    where = f", line {line}" if line else ""
    reading.add(
        "code",
        FAILED,
        f"{name}{where}: not Python ({said})",
        f"{advice} `python {name}` shows it.",
        stops=True,
    )


def _imports(tree):
    """Of each import that runs with the module: the module's first name, the line, whether a failure is caught, and
    whether it is relative."""

    waiting = [(tree, False)]  # the last is the next, as code may nest deeper than Python calls
    while waiting:
        node, guarded = waiting.pop()
        inner = []
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno, guarded, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0], node.lineno, guarded, bool(node.level)
        elif isinstance(node, ast.Try):
            caught = guarded or any(map(_catches_import, node.handlers))
            inner = [(part, caught) for part in node.body]
            inner += [(part, guarded) for part in [*node.handlers, *node.orelse, *node.finalbody]]
        elif not _is_main(node):
            inner = [(part, guarded) for part in ast.iter_child_nodes(node)]
        waiting += reversed(inner)


def _modules(names):
    """{module: the files of the zip that hold its code}, of the modules and packages at the folder's top."""
    found = {}
    for name in names:
        top, inside, _ = name.partition("/")
        if inside and name.endswith(".py"):
            found.setdefault(top, []).append(name)
    return found | {name[:-3]: [name] for name in names if "/" not in name and name.endswith(".py")}


def _catches_import(handler):
    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(names & {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


def _is_main(node):
    """`if __name__ == "__main__":` and `if TYPE_CHECKING:`, which a scorer does not run."""
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id in ("__name__", "TYPE_CHECKING") for part in ast.walk(node.test)
    )


def find_classes(tree):
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


def find_method(classes, name, wanted):
    """A method's ast, of the class or of one of the same file that it is derived from; None where there is none, and
    "elsewhere" where it may be that of a class of another module."""
    waiting, seen = [name], set()
    while waiting:
        name = waiting.pop()
        if name is None:
            return "elsewhere"
        if name in seen:
            continue
        seen.add(name)
        node = classes[name]
        for part in node.body:
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) and part.name == wanted:
                return part
        if any(
            isinstance(part, ast.Assign) and isinstance(target, ast.Name) and target.id == wanted
            for part in node.body
            for target in getattr(part, "targets", [])
        ):
            return "elsewhere"
        bases = [base.id if isinstance(base, ast.Name) else None for base in node.bases]
        waiting += [base if base in classes and base != name else None for base in reversed(bases) if base != "object"]
    return None


def takes_arguments(function, count):
    """Whether a method can be called with so many arguments beside self."""
    if function.decorator_list:
        return True
    given = function.args
    every = [*given.posonlyargs, *given.args]
    least = len(every) - len(given.defaults) - 1
    required = [value for value in given.kw_defaults if value is None]
    return not required and least <= count and (given.vararg is not None or count <= len(every) - 1)


def check_class(reading):
    """The class has the format's name, and takes what a scorer gives; `entry` becomes what can be run."""
    wanted, classes = reading.entry, find_classes(reading.trees[CODE])
    name = wanted.class_name
    alike = [other for other in classes if other.lower() == name.lower()]
    if name not in classes:
        if name in _names(reading.trees[CODE]):
            return reading.add("class", OK, f"{name} is there")
        if not alike:
            has = f"it has {shorten(sorted(classes))}" if classes else "it has no class at all"
            return reading.add(
                "class",
                FAILED,
                f"{CODE} has no class {name}; {has}",
                f"Call the class `{name}`: the scorer asks for exactly that.",
                stops=True,
            )
        reading.add(
            "class",
            FAILED,
            f"found class {alike[0]}, expected class {name}: upper and lower case differ",
            f"FORMAT={reading.format} asks for `class {name}`; Python takes `{alike[0]}` for another one. "
            f"Rename it, or say FORMAT={'codabench' if name == 'model' else 'codalab'} if your competition is "
            "of that format.",
        )
        name = alike[0]
    else:
        reading.add("class", OK, f"class {name} is there")
    reading.entry = _check_methods(reading, classes, name, wanted)


def _check_methods(reading, classes, name, wanted):
    """The Entry by which the class can be made."""
    entry = replace(wanted, class_name=name)
    predict, made = find_method(classes, name, "predict"), find_method(classes, name, "__init__")
    if predict is None:
        others = [
            part.name
            for part in classes[name].body
            if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")
        ]
        reading.add(
            "predict",
            FAILED,
            f"class {name} has no predict" + (f"; it has {shorten(others)}" if others else ""),
            "Add `def predict(self, X):` inside the class, indented like __init__; X are the images "
            "[n, height, width, 3], and it returns their n class ids.",
            stops=True,
        )
    elif predict != "elsewhere" and not takes_arguments(predict, 1):
        shown = _say_arguments(predict)
        lacks = "" if shown.split(",")[0].strip() == "self" else "self is missing; "
        reading.add(
            "predict",
            FAILED,
            f"predict({shown}): {lacks}expected predict(self, X)",
            "The scorer calls it with the images alone: `def predict(self, X):`.",
            stops=True,
        )
    given = int(wanted.with_path)
    if made is not None and made != "elsewhere" and takes_arguments(made, given):
        return entry
    if made == "elsewhere" or made is None and not given:
        return entry
    shown = _say_arguments(made) if made else "self"
    expected = "__init__(self, path)" if given else "__init__(self)"
    can = made is None or takes_arguments(made, 1 - given)
    how = "with the path of the folder that holds the zip's files" if given else "without arguments"
    reading.add(
        "__init__",
        FAILED,
        f"__init__({shown}): expected {expected}",
        f"FORMAT={reading.format} makes the object {how}: `def {expected}:`"
        + ("." if given else ", and files are found by `os.path.dirname(os.path.abspath(__file__))`."),
        stops=not can,
    )
    return replace(entry, with_path=not wanted.with_path) if can else entry


def _say_arguments(function):
    try:
        text = ast.unparse(function.args)
    except RecursionError:
        return "..."
    return text if len(text) <= 200 else f"{text[:200]}..."


def check_paths(reading):
    """Texts in the code that are paths of one computer."""
    left = SHOWN
    for name, tree in reading.trees.items():
        for value, line in _texts(tree):
            if HOME.match(value):
                left -= 1
                if left < 0:
                    return
                reading.add(
                    "paths",
                    FAILED,
                    f"{name}, line {line}: {value[:80]} is a path of your own computer",
                    "The scorer does not have it. Pack the file and find it by "
                    + (
                        'the path that __init__ gets: `os.path.join(path, "weights.h5")`.'
                        if reading.entry.with_path
                        else '`os.path.join(os.path.dirname(os.path.abspath(__file__)), "weights.h5")`.'
                    ),
                    stops=True,
                )


def _texts(tree):
    """Texts of a module with their lines, but for docstrings and what a scorer does not run."""

    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if _is_main(node) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno
        waiting += reversed(list(ast.iter_child_nodes(node)))


def find_keyword(reading, name, value):
    """Where the code calls something with `name=value`: "model.py, line 3", or None."""
    for file, tree in reading.trees.items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.keyword)
                and node.arg == name
                and isinstance(node.value, ast.Constant)
                and node.value.value == value
            ):
                return f"{file}, line {node.value.lineno}"
    return None
