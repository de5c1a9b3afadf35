"""`make help`: the targets of the Makefile, then the commands of the table. It needs no set-up; Python 3.8 will do."""

import re
import sys
from pathlib import Path

from competition.cli.verbs import VERBS

WIDTH = 100  # characters


def show(makefile):
    """A page: each target that the text of a Makefile describes (`name:  ## what -- example`), then each command."""
    own = re.findall(r"^([a-z]+):.*  ## (.*?)(?: -- (.*))?$", makefile, re.M)
    lines = [(name, what, example) for name, what, example in own]
    lines += [(verb.name, verb.summary, say_examples(verb)) for verb in VERBS]
    return "\n".join(
        f"  make {name:11} {what}" + f"\n{'':18}{example}" * bool(example) for name, what, example in lines
    )


def say_examples(verb):
    """The first as one types it, and the second where both fit into a line."""
    first, *others = (f"make {verb.name} {example}".rstrip() for example in verb.examples)
    both = "   or   ".join([first, *others[:1]])
    return both if len(both) <= WIDTH else first


if __name__ == "__main__":
    print(show(Path(sys.argv[1]).read_text("utf-8")))
