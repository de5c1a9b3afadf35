import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from conftest import class_folders

from competition import __main__
from competition.api.competition import Competition, commands
from competition.base import files
from competition.base.files import InputError
from competition.base.workspace import Workspace
from competition.blending import blend
from competition.cli import docs
from competition.cli import help as helping
from competition.cli.main import main
from competition.cli.parser import as_flags, make_parser, parse
from competition.cli.verbs import BY_NAME
from competition.cli.verbs import VERBS as TABLE
from competition.training import train
from competition.training.double import double

ROOT = Path(__file__).parents[1]
VERBS = (
    "folds",
    "look",
    "sanity",
    "train",
    "double",
    "tune",
    "gan",
    "rank",
    "study",
    "explain",
    "audit",
    "shift",
    "soup",
    "blend",
    "simulate",
    "submission",
    "check",
    "score",
    "matrix",
    "predict",
    "kernel",
    "take",
)


def tool(*arguments, folder=ROOT):
    """The command line in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "competition", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_training_needs_no_tensorflow_where_jax_is(tmp_path):
    """Where there is no JAX there is nothing to train with, which is said."""
    class_folders(tmp_path / "data", {"a": 4, "b": 4}, height=8, width=8)
    hidden = """
import importlib.util as util, sys

class Hide:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

find = util.find_spec
util.find_spec = lambda name: None if name == "tensorflow" else find(name)
sys.meta_path.insert(0, Hide)
from competition.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": ""}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", hidden, *arguments], cwd=tmp_path, env=environment, text=True, capture_output=True
        )

    assert run("folds", "--data", "data", "--folds", "2").returncode == 0
    result = run("train", "--model", "baseline", "--set", "epochs=1")
    if find_spec("jax"):
        assert result.returncode == 0 and "OOF accuracy" in result.stdout
        assert files.read_json(tmp_path / "runs/data/baseline-quick/run.json")["versions"]["backend"] == "jax"
    else:
        assert result.returncode == 2 and "train: tensorflow and jax not installed here" in result.stderr
    result = run("submission")
    assert result.returncode == 2 and "submission: tensorflow not installed here" in result.stderr


def helped(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_verb():
    result = tool("--help")
    assert result.returncode == 0 and result.stderr == ""
    assert all(re.search(rf"^ +{verb}\s+\w", result.stdout, re.M) for verb in VERBS)


@pytest.mark.parametrize("verb", [*VERBS, "backbones", "demo"])
def test_each_verb_s_help_has_examples_that_can_be_parsed(verb, capsys):
    text = helped(verb, capsys)
    examples = re.findall(r"^  python -m competition (.*)", text, re.M)
    assert examples and all(example.split()[0] == verb for example in examples)
    for example in examples:
        found, _ = parse(shlex.split(example))
        assert found.name == verb


@pytest.mark.parametrize(
    "verb, flags, defaults",
    [
        (
            "folds",
            ["--data", "--name", "--folds", "--seed", "--size", "--classes", "--skip-bad", "--force", "--metric"],
            ["default: 5", "default: 0", "default: the stem", "default: the median", "default: sorted"],
        ),
        (
            "train",
            [
                "--model",
                "--recipe",
                "--name",
                "--weights",
                "--run",
                "--only-fold",
                "--set",
                "--memory",
                "--seeds",
                "--again",
                "--teacher",
                "--pseudo",
            ],
            ["default: quick", "default: imagenet", "default: <model>-<recipe>", "default: half of what is available"],
        ),
        (
            "tune",
            [
                "--model",
                "--space",
                "--recipe",
                "--name",
                "--weights",
                "--run",
                "--folds-used",
                "--trials",
                "--minutes",
                "--set",
                "--memory",
            ],
            ["default: auto", "default: quick", "default: all", "default: <model>-<recipe>-<keys>"],
        ),
        ("blend", ["--name", "--runs", "--hidden-n", "--hidden"], ["default: all finished", "default: random"]),
        ("simulate", ["--name", "--n", "--hidden", "--seed"], ["default: 20", "default: random"]),
        (
            "study",
            ["--name", "--backbone", "--quick", "--budget", "--weights", "--memory"],
            ["default: efficientnet_lite0", "default: imagenet"],
        ),
        (
            "submission",
            [
                "--format",
                "--name",
                "--run",
                "--test",
                "--kaggle-user",
                "--scorer",
                "--hidden-n",
                "--max-mb",
                "--max-seconds",
                "--max-memory",
                "--fit",
            ],
            ["default: codalab", "default: the project's own"],
        ),
        (
            "check",
            [
                "--zip",
                "--format",
                "--name",
                "--scorer",
                "--size",
                "--hidden-n",
                "--max-mb",
                "--max-seconds",
                "--max-memory",
            ],
            ["default: guessed from the zip", "default: the project's own"],
        ),
        ("score", ["--zip", "--phase", "--value"], ["default: print"]),
        ("matrix", ["--scorers", "--families", "--folder"], ["default: 2.12.1,2.15.1,current"]),
        ("predict", ["--name", "--run", "--test", "--sample", "--probabilities", "--memory"], []),
        (
            "kernel",
            ["--model", "--recipe", "--name", "--only-fold", "--kaggle-user", "--competition", "--dataset"],
            ["default: quick"],
        ),
        ("take", ["--from"], []),
    ],
)
def test_each_verb_s_help_shows_flags_and_defaults(verb, flags, defaults, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = helped(verb, capsys)
    assert all(re.search(rf"^  {flag}\b", text, re.M) for flag in flags)
    assert all(f"({default}" in text for default in defaults)
    assert "None" not in text and "[]" not in text and "False" not in text


def test_a_bad_input_ends_with_one_line_and_code_2(tmp_path):
    result = tool("folds", "--data", "nowhere.zip", folder=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert re.fullmatch(r"error: .*nowhere\.zip: no such file.*\n", result.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["sanity"],
        ["train", "--model", "scratch"],
        ["look"],
        ["explain"],
        ["blend"],
        ["submission"],
        ["blend", "--name", "nothing"],
    ],
)
def test_before_there_are_folds(arguments, workdir, capsys):
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and re.fullmatch(r"error: .*make folds.*\n", error)
    assert not Path("runs").exists()


@pytest.mark.parametrize("arguments", [[], ["bake"], ["train"], ["folds"], ["train", "--modell", "scratch"]])
def test_wrong_usage_is_code_2_as_well(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, error = capsys.readouterr()
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and "--help" in error


@pytest.fixture
def given(monkeypatch):
    """What reaches train.train_seeds."""
    calls = []
    signature = inspect.signature(train.train_seeds)

    def note(*arguments, **more):
        found = signature.bind(*arguments, **more).arguments
        calls.append(found | found.pop("options"))
        return [Path("runs")]

    monkeypatch.setattr(train, "train_seeds", note)
    monkeypatch.setattr(Competition, "_trained", lambda *_: None)
    return calls


@pytest.mark.parametrize(
    "texts, overrides",
    [
        ([], []),
        (["batch_size=16"], ["batch_size=16"]),
        (["batch_size=16", "rate=1e-3"], ["batch_size=16", "rate=1e-3"]),
        (["batch_size=16 image_size=160"], ["batch_size=16", "image_size=160"]),
        (["  batch_size=16   image_size = 160 ", "rate=1"], ["batch_size=16", "image_size = 160", "rate=1"]),
        (["augment=d4,light rate=1"], ["augment=d4,light", "rate=1"]),
        (['views=["identity", "hflip"] rate=1'], ['views=["identity", "hflip"]', "rate=1"]),
        (["views=identity, hflip rate=1"], ["views=identity, hflip", "rate=1"]),
        ([""], []),
    ],
)
def test_set_repeated_and_several_in_one(texts, overrides, given):
    arguments = ["train", "--model", "scratch"]
    assert main(arguments + [part for text in texts for part in ("--set", text)]) == 0
    ((found),) = given
    assert [found[key] for key in ("seeds", "model", "recipe", "run", "overrides")] == [
        1,
        "scratch",
        "quick",
        None,
        overrides,
    ]


def test_flags_reach_the_verb(given):
    line = (
        "train --model vgg16 --recipe best --name plants --weights none --run mine --only-fold 2 --memory 4G --seeds 3 "
        "--again 0"
    )
    assert main(line.split()) == 0
    assert given == [
        {
            "seeds": "3",
            "model": "vgg16",
            "recipe": "best",
            "run": "mine",
            "overrides": [],
            "again": "0",
            "name": "plants",
            "weights": "none",
            "only_fold": "2",
            "memory": "4G",
            "teacher": None,
            "pseudo": None,
            "workers": None,
            "cluster": None,
            "scorer": None,
            "tensorboard": False,
            "callbacks": (),
            "workspace": Workspace(),
        }
    ]


def test_a_double_run_has_seeds_too(given):
    assert main("double --model vgg16 --splits a --seeds 2 --set epochs=1".split()) == 0
    (found,) = given
    assert [found[key] for key in ("seeds", "model", "recipe", "run", "overrides", "how", "again", "splits")] == [
        "2",
        "vgg16",
        "quick",
        None,
        ["epochs=1"],
        double,
        1,
        "a",
    ]


@pytest.mark.parametrize(
    "started, shown",
    [
        ("/env/bin/competition", "competition"),
        (r"C/env/Scripts/competition.exe", "competition"),
        ("/env/lib/competition/__main__.py", "python -m competition"),
        ("", "python -m competition"),
    ],
)
def test_help_says_how_the_command_was_started(started, shown, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [started])
    text = helped("folds", capsys)
    assert text.startswith(f"usage: {shown} folds ") and f"\n  {shown} folds --data" in text


def test_the_script_ends_with_the_command_s_code_and_at_once_after_ctrl_c(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    for code in (0, 2, 130):
        monkeypatch.setattr(__main__, "run_command", lambda code=code: code)
        assert __main__.main() == code
    assert ended == [130]


def test_exit_codes_of_errors_and_ctrl_c(monkeypatch, capsys):
    cases = ((InputError("a.csv: bad"), 2, "error: a.csv: bad\n"), (KeyboardInterrupt(), 130, "stopped"))
    for error, code, text in cases:

        def fail(error=error, **_):
            raise error

        monkeypatch.setattr(blend, "make_blend", fail)
        assert main(["blend"]) == code
        assert text in capsys.readouterr().err
    monkeypatch.setattr(blend, "make_blend", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a mistake of ours is not dressed up as one of the user
        main(["blend"])


def test_help_and_folds_start_without_tensorflow(tmp_path):
    data = class_folders(tmp_path / "photos", {"a": 4, "b": 4})
    code = (
        "import sys; from competition.cli.main import main; "
        "code = main(sys.argv[1:]); sys.exit(code or 'tensorflow' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "folds", "--data", str(data), "--folds", "2"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "folds" / "photos.csv").exists()


def test_backbones_are_listed(capsys):
    assert main(["backbones"]) == 0
    listed = capsys.readouterr().out.split()
    assert {"baseline", "scratch", "efficientnet_lite0", "mobilenet", "vgg16", "cv:resnet18_v2"} <= set(listed)


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")


@pytest.fixture
def makefile(tmp_path):
    """Runs make in a folder that has no .venv, untouched by a make that these tests run under."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "competition").symlink_to(ROOT / "competition")

    def run(*arguments, environment=None):
        return subprocess.run(
            ["make", *arguments],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]} | (environment or {}),
            capture_output=True,
            text=True,
        )

    run.folder = tmp_path
    return run


@pytest.fixture
def made(makefile):
    """Runs make with a Python that does nothing but note its arguments; returns these, a list for each start."""
    python = makefile.folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word" >> calls; done; echo ---- >> calls\n')
    python.chmod(0o755)
    (makefile.folder / ".venv/bin/pip").symlink_to("/bin/true")
    calls = makefile.folder / "calls"

    def run(*arguments, environment=None):
        calls.write_text("")
        (makefile.folder / ".venv/.ready").touch()
        result = makefile(*arguments, environment=environment)
        assert result.returncode == 0, result.stderr
        return [text.splitlines() for text in calls.read_text().split("----\n")[:-1]]

    run.python, run.run = (
        python,
        lambda *arguments: ((makefile.folder / ".venv/.ready").touch(), makefile(*arguments))[1],
    )
    return run


@needs_make
def test_make_alone_prints_each_target_with_an_example(makefile):
    result = makefile()
    assert result.returncode == 0 and result.stderr == ""
    for target in ("setup", "test", "bench", *BY_NAME):
        assert re.search(rf"^  make {target} +\w.*\n +make {target}\b", result.stdout, re.M), result.stdout
    assert sorted(path.name for path in makefile.folder.iterdir()) == ["Makefile", "competition", "requirements.txt"]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("folds DATA=a.zip", "folds --data='a.zip'"),
        (
            "folds DATA=a NAME=n FOLDS=3 SEED=1 SIZE=8x9 CLASSES=b,a SKIP_BAD=1 FORCE=1",
            "folds --data='a' --name='n' --folds='3' --seed='1' --size='8x9' --classes='b,a' --skip-bad --force",
        ),
        ("folds DATA=a SKIP_BAD=0 FORCE=", "folds --data='a'"),
        ("sanity NAME=n", "sanity --name='n'"),
        ("backbones", "backbones"),
        ("backbones MODEL=vgg16,scratch SIZE=96", "backbones --model='vgg16,scratch' --size='96'"),
        ("train MODEL=vgg16", "train --model='vgg16'"),
        (
            "train MODEL=vgg16 RECIPE=best NAME=n WEIGHTS=w RUN=r ONLY_FOLD=0 MEMORY=4G|SET=batch_size=16 image_size=160",
            "train --model='vgg16' --recipe='best' --name='n' --weights='w' --run='r' --only-fold='0' "
            "--set='batch_size=16 image_size=160' --memory='4G'",
        ),
        ("folds|DATA=it's here", "folds --data='it'\\''s here'"),
        ("gan NAME=n ONLY_FOLD=1|SET=side=64 epochs=9", "gan --name='n' --only-fold='1' --set='side=64 epochs=9'"),
        (
            "tune MODEL=vgg16 NAME=n FOLDS_USED=0,1 TRIALS=9 MINUTES=5 RUN=r SET=seed=1|SPACE=rate=1:3:log dropout=0,0.5",
            "tune --model='vgg16' --space='rate=1:3:log dropout=0,0.5' --name='n' --run='r' --folds-used='0,1' "
            "--trials='9' --minutes='5' --set='seed=1'",
        ),
        (
            "rank NAME=n MODELS=a,b WEIGHTS=w|GRID=dropout=0,0.5 frozen_rate=1e-3",
            "rank --name='n' --models='a,b' --weights='w' --grid='dropout=0,0.5 frozen_rate=1e-3'",
        ),
        ("look NAME=n", "look --name='n'"),
        (
            "study NAME=n BACKBONE=b QUICK=1 WEIGHTS=w MEMORY=4G",
            "study --name='n' --backbone='b' --quick --weights='w' --memory='4G'",
        ),
        ("study BUDGET=full QUICK=0", "study --budget='full'"),
        ("explain RUN=a FOLD=0 NAME=n", "explain --name='n' --run='a' --fold='0'"),
        ("blend RUNS=a,b NAME=n", "blend --name='n' --runs='a,b'"),
        ("submission RUN=a", "submission --run='a'"),
        (
            "submission FORMAT=kaggle-kernel NAME=n KAGGLE_USER=me COMPETITION=c DATASET=o/d TEST=t SAMPLE=s.csv PROBABILITIES=1",
            "submission --format='kaggle-kernel' --name='n' --test='t' --sample='s.csv' --probabilities --kaggle-user='me' "
            "--competition='c' --dataset='o/d'",
        ),
        (
            "submission SCORER=tensorflow==2.12.1 MAX_MB=100 MAX_SECONDS=60 MAX_MEMORY=4G HIDDEN_N=1000 FIT=1",
            "submission --scorer='tensorflow==2.12.1' --hidden-n='1000' --max-mb='100' --max-seconds='60' --max-memory='4G' "
            "--fit",
        ),
        ("check ZIP=a.zip", "check --zip='a.zip'"),
        (
            "check ZIP=a.zip FORMAT=codabench NAME=n SCORER=s/python SIZE=96x128 HIDDEN_N=9 MAX_MB=1 MAX_SECONDS=2 MAX_MEMORY=4G",
            "check --zip='a.zip' --format='codabench' --name='n' --scorer='s/python' --size='96x128' --hidden-n='9' --max-mb='1' "
            "--max-seconds='2' --max-memory='4G'",
        ),
        ("score ZIP=a.zip PHASE=final VALUE=0.8", "score --zip='a.zip' --phase='final' --value='0.8'"),
        ("matrix SCORERS=current FAMILIES=scratch", "matrix --scorers='current' --families='scratch'"),
        ("predict TEST=t RUN=a MEMORY=4G PROBABILITIES=0", "predict --run='a' --test='t' --memory='4G'"),
        (
            "kernel MODEL=m RECIPE=best RUN=r ONLY_FOLD=0 KAGGLE_USER=me|SET=a=1 b=2",
            "kernel --model='m' --recipe='best' --run='r' --only-fold='0' --set='a=1 b=2' --kaggle-user='me'",
        ),
        ("take FROM=out", "take --from='out'"),
    ],
)
def test_make_s_variables_become_flags(line, expected):
    """As the Makefile hands them on, which the next test tries."""
    start, *rest = line.split("|")
    assert parse([*start.split(), *rest]) == parse(shlex.split(expected))


@needs_make
def test_make_hands_on_what_came_on_its_command_line(made):
    odd = {
        "SET": "a=1 b=2  c=3",
        "GRID": "x|y",
        "SPLITS": '"oak; ash"',
        "DATA": "it's here",
        "RUN": "a$b$(X)$$c#d",
        "TEST": "a\\b*",
        "FORCE": "",
        "only_fold": "0",
    }
    expected = sorted(f"{name}={value}" for name, value in odd.items())
    assert made("train", *expected, "GPU=0", "PYTHON=python3") == [["-m", "competition", "train", *expected]]
    assert made("bench", "DATA=a b", "QUICK=1") == [["-m", "bench", "DATA=a b", "QUICK=1"]]
    assert made("-e", "look", environment={"NAME": "n"}) == [["-m", "competition", "look"]]


HOSTILE = (  # values that a file's name may have, and that make or a shell would expand
    "$(shell touch PWNED)",
    "${shell touch PWNED}x",
    "`touch PWNED`$(info said)$(error stopped)",
    "a'; touch PWNED; '\"$$(touch PWNED)#b",
    "$(eval X := $(shell touch PWNED))\\",
)


@needs_make
@pytest.mark.parametrize("command", BY_NAME)
def test_make_expands_no_value_of_any_variable(command, made):
    verb = BY_NAME[command]
    variables = sorted(name.upper() for option in verb.options for name in (option.name, *option.aliases))
    for turn in range(len(HOSTILE)):
        words = [f"{name}={HOSTILE[(at + turn) % len(HOSTILE)]}" for at, name in enumerate(variables)]
        assert made(command, *words) == [["-m", "competition", command, *words]]
        assert not [path for path in made.python.parents[2].rglob("PWNED*")]


@needs_make
def test_a_value_of_several_lines_is_refused_by_make(made):
    """Make would run each line as a command of its own."""
    for value in ("a\nb", "a'\ntouch PWNED '"):
        result = made.run("check", f"ZIP={value}")
        assert result.returncode == 2 and "ZIP=: the value has a line break, expected one line" in result.stderr
        assert not made.python.parents[2].joinpath("PWNED").exists()


@needs_make
def test_make_knows_the_commands_of_the_table(made):
    assert made(*BY_NAME) == [["-m", "competition", name] for name in BY_NAME]


@pytest.mark.parametrize(
    "line, unknown, near",
    [
        ("train SEED=3 MODEL=vgg16", "SEED", "SEEDS"),
        ("train MODEL=vgg16 SEED=", "SEED", "SEEDS"),
        ("folds FOLD=3", "FOLD", "FOLDS"),
        ("tune model=vgg16", "model", "MODEL"),
        ("soup RUNS=a,b NAMES=n", "NAMES", "NAME"),
        ("look FOO=1", "FOO", ""),
    ],
)
def test_a_variable_that_a_command_does_not_know_is_named_with_its_nearest(line, unknown, near, capsys):
    assert main(line.split()) == 2
    command = line.split()[0]
    names = ", ".join(option.variable for option in BY_NAME[command].options)
    meant = f"; did you mean {near}=?" if near else ""
    assert capsys.readouterr() == (
        "",
        f"error: make {command}: unknown variable {unknown}=, expected one of {names}{meant}\n",
    )


@needs_make
def test_make_ends_with_the_code_of_the_command(made):
    made.python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    result = made.run("train", "SEED=3")
    assert result.returncode == 2 and result.stderr.startswith(
        "error: make train: unknown variable SEED=, expected one of"
    )


def test_singular_names_and_underscores_are_taken():
    for line, expected in (
        ("rank MODEL=a,b", "rank --models a,b"),
        ("audit RUN=a", "audit --runs a"),
        ("shift TEST=t RUN=a", "shift --test t --runs a"),
        ("blend RUN=a", "blend --runs a"),
        ("blend RUN=b RUNS=a,b", "blend --runs a,b"),
        ("soup RUN=both RUNS=a", "soup --runs a --run both"),
        ("kernel --model a --only_fold=0 --kaggle_user x_y", "kernel --model a --only-fold 0 --kaggle-user x_y"),
        ("train --model a --set a_b=1", "train --model a --set=a_b=1"),
    ):
        assert parse(line.split()) == parse(expected.split())


# ---------------------------------------------------------------------------------------------------------- the table


BESIDE = {"train": {"callbacks"}, "double": {"callbacks"}}  # what only Python can give
SETTINGS = {"train", "double", "tune", "gan", "kernel"}  # take keys of a recipe as keywords too


@pytest.mark.parametrize("verb", TABLE, ids=lambda verb: verb.name)
def test_the_method_of_a_command_takes_its_options_and_no_others(verb):
    """Competition's methods have every argument of the commands, with the same defaults."""
    taken = dict(inspect.signature(getattr(Competition, verb.name)).parameters)
    del taken["self"]
    assert (taken.pop("settings", None) is not None) == (verb.name in SETTINGS)
    assert set(taken) == {option.key for option in verb.options} | BESIDE.get(verb.name, set())
    for option in verb.options:
        default = taken[option.key].default
        if option.required or (verb.name, option.key) == ("predict", "test"):  # whose error names what TEST= may be
            assert default is inspect.Parameter.empty
        else:
            assert default == option.default, option.name


def test_each_command_has_a_method_and_each_method_says_what_its_arguments_are():
    assert set(commands()) == set(BY_NAME)
    for name in BY_NAME:
        method = getattr(Competition, name)
        assert set(method.backends) <= {"tensorflow", "jax"}
        for parameter in inspect.signature(method).parameters.values():
            if parameter.name not in ("self", "name") and "not listed are as of" not in method.__doc__:
                assert re.search(rf"\b{parameter.name}\b", method.__doc__), (name, parameter.name)


def test_names_in_the_table_are_told_apart():
    assert len(BY_NAME) == len(TABLE) and set(BY_NAME) == {*VERBS, "backbones", "demo"}
    for verb in TABLE:
        names = [name for option in verb.options for name in (option.name, *option.aliases)]
        assert len(names) == len(set(names)) and all(re.fullmatch("[a-z][a-z_]*", name) for name in names)
        assert verb.examples
        assert not verb.summary.endswith(".") and "\n" not in verb.summary


@pytest.mark.parametrize(
    "verb, example",
    [(verb, example) for verb in TABLE for example in verb.examples],
    ids=lambda value: getattr(value, "name", None),
)
def test_each_example_is_the_same_in_make_s_words_and_in_flags(verb, example):
    found, options = parse([verb.name, *shlex.split(example)])
    assert found is verb and options == parse([verb.name, *shlex.split(as_flags(verb, example))])[1]
    for word in shlex.split(example):
        name, _, value = word.partition("=")
        option = next(option for option in verb.options if option.variable == name)
        assert options[option.key] == {
            "switch": True,
            "settings": value.split(),
            "number": value.isdigit() and int(value),
        }.get(option.kind, value)


def test_a_command_that_runs_others_gets_them_with_the_methods_defaults(given):
    commands()["train"](model="scratch", run="r")
    (found,) = given
    assert (found["model"], found["run"], found["recipe"], found["seeds"]) == ("scratch", "r", "quick", 1)
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("competition.trials.study.run_study", lambda **options: asked.append(options))
        Competition().study(name="n")
    assert asked[0]["name"] == "n" and set(asked[0]["commands"]) == set(BY_NAME)


def test_a_table_may_say_the_exit_code(monkeypatch):
    for code in (3, 0, None):
        frame = pd.DataFrame({"state": []})
        frame.attrs |= {} if code is None else {"exit_code": code}
        monkeypatch.setattr("competition.insight.sanity.sanity", lambda frame=frame, **_: frame)
        assert main(["sanity"]) == (code or 0)


def test_help_and_table_need_the_standard_library_alone():
    """`make help` runs before set-up, and --help should not take the seconds that pandas does."""
    code = (
        "import sys, json; before = set(sys.modules); from competition.cli import docs, help, main; "
        "main.parse(['folds', '--data', 'x']); print(json.dumps(sorted({name.partition('.')[0] for name in "
        "set(sys.modules) - before} - set(sys.stdlib_module_names))))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == ["competition"]


def test_make_help_lists_the_targets_of_a_makefile_and_all_commands():
    page = helping.show("own: dep  ## do it -- make own   or   make own X=1\nhidden: dep\nplain:  ## just that\n")
    assert page.startswith(
        "  make own         do it\n                  make own   or   make own X=1\n"
        "  make plain       just that\n  make demo        play"
    )
    assert "hidden:" not in page and re.findall(r"^  make (\w+)", page, re.M) == ["own", "plain", *BY_NAME]


def test_the_reference_of_the_commands_is_up_to_date():
    written = (ROOT / "docs/reference/commands.md").read_text("utf-8")
    assert written == docs.write_page(), "python -m competition.cli.docs > docs/reference/commands.md"
    assert re.findall("^## (.*)", written, re.M) == list(BY_NAME)
    rows = [line for line in written.splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(verb.options) for verb in TABLE)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)


def test_the_parser_has_a_flag_for_each_option():
    (commands_of,) = [action for action in make_parser()._actions if action.choices]
    for verb in TABLE:
        flags = [flag for action in commands_of.choices[verb.name]._actions for flag in action.option_strings]
        assert flags == ["-h", "--help", *(option.flag for option in verb.options)]


@needs_make
def test_setup_is_done_once_and_again_when_the_requirements_change_or_cuda_is_wanted(makefile):
    """With a pip that does nothing but note what it was asked for."""
    pip = makefile.folder / ".venv/bin/pip"
    pip.parent.mkdir(parents=True)
    pip.write_text('#!/bin/sh\necho "$@" >> calls\n')
    pip.chmod(0o755)
    calls, asked = makefile.folder / "calls", makefile.folder / ".venv/requirements.txt"

    def times(*arguments):
        calls.write_text("")
        assert makefile("setup", *arguments).returncode == 0
        return calls.read_text().count("install -q")

    def names():
        return {line.partition("==")[0] for line in asked.read_text().splitlines()}

    assert times() == 1 and times() == 0
    assert {"tensorflow-cpu", "keras"} <= names() and "tensorflow[and-cuda]" not in names()
    later = time.time() + 5
    os.utime(makefile.folder / "requirements.txt", (later, later))
    assert times() == 1
    os.utime(makefile.folder / ".venv/.ready", (later + 1, later + 1))
    assert times() == 0
    os.utime(makefile.folder / ".venv/.ready", (1, 1))
    assert times("GPU=1") == 2, "tensorflow-cpu goes, the rest is installed"
    assert {"tensorflow[and-cuda]", "keras"} <= names() and "tensorflow-cpu" not in names()
    assert "uninstall -q -y tensorflow-cpu" in calls.read_text()
