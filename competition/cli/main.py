"""What runs a command: its words are parsed, the Competition's method is called, errors become one line and a code."""

import sys
from collections.abc import Sequence

from competition.api.competition import Competition
from competition.base.files import UNWRITABLE, InputError, is_full, say_refused
from competition.base.output import shown
from competition.base.workspace import Workspace
from competition.cli.parser import parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    It is 0; 2 after one line that says what was wrong with the input; 130 after Ctrl-C; of a table that a method returns
    its `attrs["exit_code"]`. SystemExit of code 2 for words that no command takes.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a class name must not break what is printed
    with shown():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        verb, options = parse(sys.argv[1:] if arguments is None else arguments)
        here = Competition(Workspace(), verbose=True)  # relative, so that messages show paths as one types them
        result = getattr(here, verb.name)(**options)
        return getattr(result, "attrs", {}).get("exit_code", 0)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "competition"):
            raise
        print(f"error: this Python has no {package}, expected the packages of requirements.txt", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except OSError as error:
        if not is_full(error) and error.errno not in UNWRITABLE:
            raise
        print(f"error: {say_refused(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing is lost, the same command goes on", file=sys.stderr)
        return 130
