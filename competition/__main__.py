"""The command line: `python -m competition <command>`, which the script `competition` calls as well.

The commands are in competition/cli/verbs.py.
"""

import os
import sys

from competition.cli.main import main as run_command


def main() -> int:
    """Run the command of sys.argv; returns the exit code, unless Ctrl-C ended the command: then the process ends."""
    code = run_command()
    if code == 130:  # threads may be at work in native code, which a shutdown of the interpreter would abort
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
