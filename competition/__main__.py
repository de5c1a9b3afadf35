"""The command line: `python -m competition <command>`; the commands are in competition/cli/verbs.py."""

import os
import sys

from competition.cli.main import main

if __name__ == "__main__":
    code = main()
    if code == 130:  # threads may be at work in native code, which a shutdown of the interpreter would abort
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
