"""docs/reference/commands.md, made from the table: `python -m competition.cli.docs > docs/reference/commands.md`."""

from competition.api.competition import Competition
from competition.cli.parser import as_flags
from competition.cli.verbs import VERBS

LIBRARIES = {"tensorflow": "TensorFlow", "jax": "JAX"}
START = """# Commands

`make <command> NAME=value` and `python -m competition <command> --name value` do the same. On make's command line the
options are variables in capitals. A switch is on at `1` and off at `0`. The column "default" says what holds without
the option. `make` does the set-up first where it is missing; `python` is that of an environment that has it (`.venv`).

This page is made from the table of commands, `competition/cli/verbs.py`: `python -m competition.cli.docs` prints it.
"""


def write_page():
    """The page as a text."""
    listed = "\n".join(f"- [{verb.name}](#{verb.name}): {_cell(verb.summary)}" for verb in VERBS)
    return "\n".join([START, listed, "", *map(_section, VERBS)])


def _section(verb):
    backends = getattr(Competition, verb.name).backends
    needs = f" It needs {' or '.join(LIBRARIES[name] for name in backends)}." if backends else ""
    make = [f"make {verb.name} {example}".rstrip() for example in verb.examples]
    flags = [f"python -m competition {verb.name} {as_flags(verb, example)}".rstrip() for example in verb.examples]
    rows = "\n".join(
        f"| {_names(option)} | {_cell(option.help)} | {_cell(_default(option))} |" for option in verb.options
    )
    return (
        f"## {verb.name}\n\n{_cell(verb.sentence)}{needs}\n\n"
        f"```sh\n" + "\n".join(make) + "\n```\n\nThe same in flags:\n\n```sh\n" + "\n".join(flags) + "\n```\n\n"
        f"| variable | meaning | default |\n|---|---|---|\n{rows}\n"
    )


def _names(option):
    return " or ".join(f"`{name.upper()}=`" for name in (option.name, *option.aliases))


def _default(option):
    if option.required:
        return "required"
    return "off" if option.kind == "switch" else option.says_default


def _cell(text):
    """A text as Markdown has it in a table: <model> is no tag, and a bar ends no cell."""
    return text.replace("<", "&lt;").replace("|", "\\|")


if __name__ == "__main__":
    print(write_page(), end="")
