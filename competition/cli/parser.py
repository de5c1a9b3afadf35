"""The parser, made from the table of commands. It reads flags, and make's variables as words NAME=value before them."""

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from competition.base.files import InputError
from competition.cli.options import Option, Verb
from competition.cli.verbs import BY_NAME, VERBS


def parse(arguments: Iterable[str]) -> tuple[Verb, dict[str, Any]]:
    """The Verb that a command line names, and its options as {keyword: value}.

    arguments  list of str: the name of the command, then make's variables (NAME=value), then flags (--name value)

    InputError for a variable that the command does not know; SystemExit of code 2, after one line on stderr, for
    anything else that it cannot take.
    """
    words = list(arguments)
    if words and words[0] in BY_NAME:
        words[1:] = to_flags(BY_NAME[words[0]], words[1:])
    options = vars(make_parser().parse_args(words))
    return BY_NAME[options.pop("verb")], options


def make_parser() -> "Parser":
    """An ArgumentParser with a sub-parser for each command of the table; it sets `verb` to the command's name."""
    parser = Parser(
        prog=_program(),
        description="From a folder of images to a submission: folds, train, blend, submission.",
        epilog="Each command has its own --help. An input that cannot be used ends with one line and exit code 2.",
    )
    commands = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        lines = [f"  {parser.prog} {verb.name} {as_flags(verb, example)}".rstrip() for example in verb.examples]
        command = commands.add_parser(
            verb.name,
            help=verb.summary,
            description=verb.sentence,
            epilog="\n".join(["examples:", *lines]),
            formatter_class=argparse.RawDescriptionHelpFormatter,  # it leaves the examples' lines alone
        )
        command.set_defaults(verb=verb.name)
        add_options(command, verb)
    return parser


def _program() -> str:
    """How this process was started: by the script that an installation brings, or by Python."""
    return "competition" if Path(sys.argv[0]).stem == "competition" else "python -m competition"


def add_options(parser: argparse.ArgumentParser, verb: Verb) -> None:
    """Give an ArgumentParser the flags of a Verb."""
    for option in verb.options:
        said = option.help + (f" (default: {option.says_default})" if option.says_default else "")
        given = {"dest": option.key, "required": option.required, "help": said.replace("%", "%%")}
        if option.kind != "switch":
            given["metavar"] = option.metavar or option.variable
        parser.add_argument(
            option.flag,
            **given,  # type: ignore[arg-type]
            **{
                "text": {"default": option.default},
                "number": {"default": option.default, "type": int},
                "switch": {"action": "store_true"},
                "settings": {"default": [], "action": _Settings},
            }[option.kind],
        )


def to_flags(verb: Verb, words: Iterable[str]) -> list[str]:
    """Words of a command line as argparse takes them: make's variables, NAME=value, and --only_fold become flags.

    An empty value counts as not given, unless the option is `filled`; a switch is off at 0. InputError names a variable
    that the command lacks.
    """
    known = {name.upper(): option for option in verb.options for name in (option.name, *option.aliases)}
    flags, words = [], list(words)
    while words and "=" in words[0] and not words[0].startswith("-"):
        name, _, value = words.pop(0).partition("=")
        if name not in known:
            raise InputError(_say_unknown(verb, name, known))
        if known[name].kind == "switch":
            flags += [known[name].flag] if value not in ("", "0") else []
        elif value or known[name].filled:
            flags.append(f"{known[name].flag}={value}")
    return flags + [_with_hyphens(word) if word.startswith("--") else word for word in words]


def _say_unknown(verb: Verb, name: str, known: Mapping[str, Option]) -> str:
    near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]}=?" if near else ""
    expected = ", ".join(option.variable for option in verb.options)
    return f"make {verb.name}: unknown variable {name}=, expected one of {expected}{meant}"


def _with_hyphens(word: str) -> str:
    flag, sign, value = word.partition("=")
    return flag.replace("_", "-") + sign + value


def as_flags(verb: Verb, example: str) -> str:
    """An example of make's variables as flags, as a shell takes them: --set 'a=1 b=2'."""
    known, words = {option.variable: option for option in verb.options}, []
    for word in shlex.split(example):
        name, _, value = word.partition("=")
        words += [known[name].flag] if known[name].kind == "switch" else [known[name].flag, value]
    return shlex.join(words)


def split_settings(text: str) -> list[str]:
    """["KEY=VALUE", ...] of a text that may hold several; the spaces of a list or a table do not part it."""
    between = r"\s+(?=\w+\s*=)(?![^{]*\})"
    return [part for part in re.split(between, text.strip()) if part]


class _Settings(argparse.Action):
    """Collects the KEY=VALUE of a flag that may be repeated."""

    def __call__(self, parser: Any, namespace: Any, text: Any, flag: Any = None) -> None:
        setattr(namespace, self.dest, getattr(namespace, self.dest) + split_settings(text))


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line, by the names of make's variables as well."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, allow_abbrev=False, **options)  # --seed must not mean --seeds

    def error(self, message: str) -> NoReturn:
        flags = dict.fromkeys(re.findall(r"--[a-z][a-z-]*", message))
        typed = ", ".join(f"{flag[2:].upper().replace('-', '_')}=" for flag in flags)
        self.exit(2, f"error: {message}{f' (of make: {typed})' * bool(typed)}; {self.prog} --help explains them\n")
