"""README, CONTRIBUTING and docs: their links lead somewhere, and what they tell a reader to type is accepted."""

import argparse
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from competition.base.files import InputError
from competition.cli.parser import make_parser, to_flags
from competition.cli.verbs import BY_NAME

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
# no commands of python -m competition
OTHER_TARGETS = {"help", "setup", "test", "lint", "packages", "docs", "bench"}
OF_MAKE = {"PYTHON", "GPU", "HUB"}  # variables that no command takes
OF_ENVIRONMENT = {
    "KERAS_BACKEND",
    "KAGGLE_ROOT",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTEROP_THREADS",
    "PIP_NO_INDEX",
    "PIP_FIND_LINKS",
}
FOR_CONTRIBUTORS = {"packages"}  # the README does not name them

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


class Parsed(Exception):
    """A parser took the command line."""


def parts(text):
    """The code blocks, fenced or indented by four, and the rest of a page, as two texts."""
    code, rest, fenced = [], [], False
    for line in text.splitlines():
        fence = line.startswith("```")
        fenced ^= fence
        inside = fence or fenced or line.startswith("    ")
        (code if inside else rest).append("" if fence else line)
        (rest if inside else code).append("")
    return "\n".join(code), "\n".join(rest)


def spans(text):
    """The inline code of a page, each in one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", parts(text)[1])]


def commands(text):
    """Every command of make, `competition` and python with -m that a page shows: its words, a word for a placeholder."""
    lines = [line.strip().removeprefix("$ ").partition("  #")[0] for line in parts(text)[0].splitlines()]
    start = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\S*/)?(?:make|competition|python3? -m)(?: |$)")
    found = []
    for line in filter(start.match, [*lines, *spans(text)]):
        words = shlex.split(re.sub(r"<[^>]*>", "placeholder", line))
        while re.match(r"[A-Z_]+=", words[0]):
            assert words.pop(0).partition("=")[0] in OF_ENVIRONMENT, line
        found.append(words)
    return found


def verbs():
    """{command: its parser}."""
    return next(action.choices for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))


def takes(verb, variable):
    """Whether a command knows a variable of make."""
    return any(variable in (name.upper() for name in (option.name, *option.aliases)) for option in verb.options)


def parse_with(module, words, monkeypatch):
    """Let the main of a module of bench/ parse a command line, and do nothing else."""
    parse = argparse.ArgumentParser.parse_args

    def stop(parser, *arguments, **options):
        parse(parser, *arguments, **options)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed):
            importlib.import_module(module).main(words)


def check_make(words, monkeypatch):
    target, *words = words
    if target == "placeholder":  # make <command>
        return
    assert target in {*verbs(), *OTHER_TARGETS}, f"make {target}: no such target"
    words = [word for word in words if word.partition("=")[0] not in OF_MAKE]
    if target == "bench":
        switches = [f"--{word[:-2].lower()}" for word in words if word in ("QUICK=1", "LONG=1")]
        rest = [f"--{word[0].lower()}{word[1:]}" for word in words if word not in ("QUICK=1", "LONG=1")]
        rest = [re.sub(r"^--[A-Za-z]+", lambda flag: flag[0].lower(), word) for word in rest]
        parse_with("bench.__main__", switches + rest, monkeypatch)
    elif target in OTHER_TARGETS:
        assert not words or words == ["CLUSTER=1"] and target == "setup", (
            f"make {target} {words}: it takes no variables"
        )
    elif words:  # a command in running text may lack what it needs: `make train` trains
        verbs()[target].parse_args(to_flags(BY_NAME[target], words))


def check_python(words, monkeypatch):
    module, *words = words
    if module == "competition":
        if words[0] == "placeholder" or words[1:] == ["--help"] and words[0] in verbs():
            return
        make_parser().parse_args(words)
    elif module == "pytest":
        for word in words:
            assert not word.startswith("tests/") or (ROOT / word).exists(), word
    elif module.startswith("bench"):
        parse_with("bench.__main__" if module == "bench" else module, words, monkeypatch)
    else:
        assert find_spec(module), module


@each_page
def test_commands_that_a_page_shows_are_accepted(page, monkeypatch, capsys):
    for words in commands(page.read_text("utf-8")):
        try:
            if words[0].endswith("make"):
                check_make(words[1:] or ["help"], monkeypatch)
            elif words[0] == "competition":  # the script of an installation, which has no targets besides
                assert not words[1:] or words[1] in {*verbs(), "placeholder"}, shlex.join(words)
                check_make(words[1:] or ["help"], monkeypatch)
            else:
                check_python(words[2:], monkeypatch)
        except (SystemExit, InputError) as error:
            pytest.fail(f"{shlex.join(words)}: {error} {capsys.readouterr().err}")


@pytest.mark.parametrize(
    "line",
    [
        "train MODEL=a REZIPE=best",
        "train MODEL=a SEED=3",
        "folds",
        "nothing",
        "setup A=1",
        "blend HIDDEN_N=",
        "bench QUICK=1 LONGER=1",
    ],
)
def test_wrong_commands_would_be_noticed(line, monkeypatch, capsys):
    words = line.split()
    with pytest.raises((InputError, SystemExit, AssertionError)):
        check_make(words, monkeypatch)
        if words in (["folds"], ["blend", "HIDDEN_N="]):
            verbs()[words[0]].parse_args([] if words == ["folds"] else ["--hidden-n"])


@each_page
def test_variables_that_a_page_names_exist(page):
    """Of some command, of make itself, or of the environment."""
    for span in spans(page.read_text("utf-8")):
        name = re.match(r"([A-Z][A-Z_]*)=", span)
        if name and name[1] not in OF_MAKE | OF_ENVIRONMENT | {"LONG", "ONLY", "QUICK"}:
            assert any(takes(verb, name[1]) for verb in BY_NAME.values()), span


@each_page
def test_relative_links_lead_somewhere(page):
    for text, target in re.findall(
        r"\[([^\]]+)\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "code", parts(page.read_text())[1])
    ):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_file(), f"[{text}]({target})"
        assert DOCS not in page.parents or DOCS in found.parents, (
            f"[{text}]({target}) leaves docs/, the site has no such page"
        )
        assert not anchor or anchor in anchors(found), f"[{text}]({target}): no such heading"


def anchors(page):
    """The headings of a page as GitHub and mkdocs write them in addresses."""
    headings = re.findall(r"^#+ (.+)$", parts(page.read_text("utf-8"))[1], re.M)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"\s", "-", text) for text in plain} & {re.sub(r"[-\s]+", "-", text) for text in plain}


@each_page
def test_files_that_a_page_names_exist(page):
    """Where code lies, that is; what a command will write is not there yet."""
    for span in spans(page.read_text("utf-8")):
        if re.fullmatch(
            r"(?:competition|tests|bench|docs|\.ci)/[\w./*-]*|\w+\.(?:ini|yml)|requirements[\w-]*\.txt|Makefile", span
        ):
            assert list(ROOT.glob(span.rstrip("/"))), span


def test_readme_is_short_and_names_every_command():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 120
    table = "\n".join(line for line in lines if line.startswith("| `make "))
    for target in {*verbs(), *OTHER_TARGETS} - {"help", *FOR_CONTRIBUTORS}:
        assert re.search(rf"`make {target}[ `]", table), target


def test_readme_shows_four_commands_on_own_data_with_their_minutes():
    text = (ROOT / "README.md").read_text("utf-8")
    steps = re.findall(r"\*\*\d\. [^*]+\*\* \(([\d.]+) minutes[^)]*\)\n\n    \$ make (\w+)[^\n]*\n     ?\S", text)
    assert [verb for _, verb in steps] == ["folds", "train", "blend", "submission"]


@pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")
def test_every_command_is_a_target_of_the_makefile():
    printed = subprocess.run(["make", "-pn", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    phony = {name for line in re.findall(r"^\.PHONY:(.*)$", printed, re.M) for name in line.split()}
    assert phony == {*verbs(), *OTHER_TARGETS}


def test_every_page_is_in_the_site_s_menu():
    shown = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    assert sorted(shown) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_the_site_builds(tmp_path):
    """Strict: a broken link is an error. In a copy, with the notebooks as they lie in git: to run them takes minutes."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    for name in ("docs", "competition"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "examples"))
    shutil.copytree(ROOT / "examples", tmp_path / "docs/examples", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "how-to" / "get-started" / "index.html").exists()
