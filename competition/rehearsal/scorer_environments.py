"""The scorer's own libraries: virtual environments that are built once, for rehearsals, in `.scorers/`.

Each is named after what is in it. `make submission SCORER=tensorflow==2.12.1` makes one by pip, from wherever pip is
told to take packages from; later rehearsals find it there.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from competition.base import files
from competition.base.files import InputError
from competition.base.workspace import Workspace

READY = ".ready"  # what an environment that is whole holds
WINDOWS = os.name == "nt"
RELEASE = re.compile(r"[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?==[\w.+!-]+")


def find_python(scorer=None, workspace=Workspace()):
    """The interpreter of a scorer, built when it is not there: the path of one.

    scorer  None: the project's own. "tensorflow==2.12.1", or several releases with commas between: an environment of
            these and what they need. The path of an interpreter: that one

    Raises InputError where this Python has no such release, or pip fails.
    """
    if not scorer:
        return sys.executable
    if is_path(scorer):
        if not os.access(scorer, os.X_OK) or Path(scorer).is_dir():
            raise InputError(f"SCORER={scorer}: no such program, expected a Python interpreter, or tensorflow==2.12.1")
        return os.path.abspath(scorer)
    releases = read_releases(scorer)
    python = ".".join(platform.python_version_tuple()[:2])
    folder = (workspace.scorers / f"{'-'.join(sorted(releases))}-py{python}").absolute()
    found = folder / ("Scripts/python.exe" if WINDOWS else "bin/python")
    if not (folder / READY).exists():
        _build(folder, found, releases, scorer, python)
    return str(found)


def is_path(scorer):
    """Whether SCORER= names an interpreter by its path, and not releases."""
    return os.sep in scorer or bool(os.altsep) and os.altsep in scorer


def read_releases(scorer):
    """The releases that SCORER= names, ["tensorflow==2.12.1", ...]; none of a path, or of no scorer.

    InputError for what is neither releases nor a path.
    """
    if not scorer or is_path(scorer):
        return []
    releases = [part for part in re.split(r"[\s,]+(?![^\[]*\])", scorer.strip()) if part]
    if not releases or not all(map(RELEASE.fullmatch, releases)):
        raise InputError(
            f"SCORER={scorer}: expected releases such as tensorflow==2.12.1 or "
            "tensorflow==2.12.1,numpy==1.23.5, or the path of a Python interpreter"
        )
    return releases


def _build(folder, interpreter, releases, scorer, python):
    print(f"{folder}: building an environment with {', '.join(releases)}, once", flush=True)
    shutil.rmtree(folder, ignore_errors=True)  # what a process that was killed left
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], scorer)
    try:
        _run(
            [
                sys.executable,
                "-m",
                "pip",
                "--python",
                str(interpreter),
                "install",
                "-q",
                "--no-input",
                "--disable-pip-version-check",
                *releases,
            ],
            scorer,
            python,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    files.write_text(folder / READY, "\n".join(releases) + "\n")


def _run(command, scorer, python=None):
    """Run it; InputError, one line, when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if not done.returncode:
        return
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    for line in lines:
        if missing := re.search(r"that satisfies the requirement (\S+)(?: \(from versions: ([^)]*)\))?", line):
            versions = [version for version in (missing[2] or "none").split(", ") if re.fullmatch(r"[\d.]+", version)]
            has = f"it has {', '.join(versions[-6:])}" if versions else "it finds no release of that name at all"
            raise InputError(
                f"SCORER={scorer}: pip has no {missing[1]} for Python {python} ({has}); expected another "
                "release, or SCORER=<the interpreter of an environment that has it>"
            )
    errors = [line for line in lines if line.lower().startswith("error")] or lines or ["no message"]
    raise InputError(f"SCORER={scorer}: {command[2]} fails, expected to build an environment with it: {errors[-1]}")
