"""A module for each format that competitions ask for, which `make submission FORMAT=` finds here.

To add one, write `competition/formats/<name>.py` with a function

    make(name=None, run=None, ..., workspace=Workspace()) -> path of what was made

and name it in FORMATS. `name` is that of the fold table, `run` a run in place of the blend, `workspace` says where both
lie (base/workspace.py); the names of its other arguments are the options that it takes, which the user gives in capitals
(`test` is TEST=), and None means not given.
A new option is one of the verb `submission` in competition/cli/verbs.py as well. `make` writes a record beside
its output that names the format, with `record_of`, and raises InputError for whatever cannot be used.

Where the format is a zip with code around the same network, it is a package.Layout: codabench.py is one in 40 lines.
LAYOUTS in competition/checking/check_zip.py lists it, so that `make check` knows such zips.
Where it is a file of predictions, `predict_images` of kaggle_csv.py gives them.
"""

import inspect
from importlib import import_module
from typing import Any

from competition.base.files import InputError
from competition.base.workspace import Workspace

FORMATS = {  # name: what it is, for --help; the module's name has _ for -
    "codalab": "a zip with model.py, class model(path), for CodaLab",
    "codabench": "a zip with model.py, class Model without arguments, for Codabench",
    "kaggle-csv": "a CSV of predictions for Kaggle, as of `predict`",
    "kaggle-kernel": "a kernel for Kaggle that predicts there, without network",
}


def make(
    format: str | None = None,
    name: str | None = None,
    run: str | None = None,
    workspace: Workspace = Workspace(),
    **options: Any,
) -> Any:
    """Make what the format asks for of the blend, or of one run; returns its path.

    Options that are None or False were not given. InputError for an unknown format, for options that it does not take
    or lacks, and whatever its own `make` raises.
    """
    format = format or "codalab"
    if format not in FORMATS:
        raise InputError(f"FORMAT={format}: expected one of {', '.join(FORMATS)}")
    function = import_module(f"{__name__}.{format.replace('-', '_')}").make
    taken = inspect.signature(function).parameters
    given = {key: value for key, value in options.items() if value not in (None, False)}
    for key, value in given.items():
        if key not in taken:
            known = ", ".join(f"{key.upper()}=" for key in taken if key in options) or "none of its own"
            raise InputError(f"{key.upper()}={value}: not an option of FORMAT={format}, which has {known}")
    return function(name, run, workspace=workspace, **given)
