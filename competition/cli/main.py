"""What runs a command: its words are parsed, the backend is chosen, errors become one line and an exit code."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from competition.base.backend import choose_backend
from competition.base.files import InputError
from competition.base.workspace import Workspace
from competition.cli.options import Verb
from competition.cli.parser import parse
from competition.cli.verbs import BY_NAME

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings about missing GPUs and the like say nothing to a user


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    It is 0, or the int that the command returns; 2 after one line that says what was wrong with the input; 130 after
    Ctrl-C. SystemExit of code 2 for words that no command takes.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a class name must not break what is printed
    try:
        verb, options = parse(sys.argv[1:] if arguments is None else arguments)
        if verb.backend:
            choose_backend(verb.name, verb.backend.split(" or "))
        if verb.in_workspace:
            here = Workspace()  # the current folder
            options["workspace"] = here if verb.name == "folds" else here.of(options.get("name"))
        code = call(verb, **options)
        return code if isinstance(code, int) else 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing is lost, the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:  # a full disk, a folder that cannot be written, ...
        print(f"error: {error}", file=sys.stderr)
        return 2


def call(verb: Verb, **options: Any) -> Any:
    """Import the function behind a Verb, call it with the options as keywords, return what it returns."""
    if verb.runs_others:
        options["commands"] = commands()
    return find_function(verb)(**options)


def find_function(verb: Verb) -> Callable[..., Any]:
    """The function behind a Verb; importing its module may take seconds."""
    module, _, name = verb.function.partition(":")
    return getattr(import_module(module), name)


def commands() -> dict[str, Callable[..., Any]]:
    """{name: function} of all commands, for one that runs others. They take options as keywords, and have the defaults
    of the table; each is imported when it is called."""
    return {name: partial(call, verb, **verb.defaults) for name, verb in BY_NAME.items()}
