"""Where everything lies: by default in the current folder; no run is called like what lies beside the runs."""

import ast
import dataclasses
import os
import re
from pathlib import Path

import pytest
from conftest import class_folders

import competition
from competition.base import workspace as module
from competition.base.files import InputError, write_text
from competition.base.workspace import (
    BESIDE,
    RESERVED,
    Paths,
    Workspace,
    check_competition_name,
    check_run_name,
    epoch_file,
    fold_dir,
)
from competition.cli.main import main
from competition.data.folds import make_folds
from competition.data.table import read_folds
from competition.training.train import train

# methods of Paths that lead into a folder beside the runs, and what they are called with
INSIDE = {"shift": ["new"], "predict": ["new"], "tune": ["new"], "blend_heads": ["loose", "new"]}
# what lies on disk: the constants that name a file or folder, and the folders that Workspace and Paths name
WORDS = {"SAMPLE", "STUDY_RUN", "FOLD", "NODE"}  # of these, how names begin
CONSTANTS = {
    value for name, value in vars(module).items() if name.isupper() and type(value) is str and name not in WORDS
}
NAMES = (
    CONSTANTS | set(BESIDE) | {"folds", "runs", "submissions", "simulate", "kernels", "wheels", ".scorers", "explain"}
)
FILES = {name for name in NAMES if "." in name} - {".scorers"}
# these run without the toolkit
ALONE = ("kernel_script.py", "submission_model.py", "scorer_process.py", "enter_sandbox.py")


def test_the_default_is_the_current_folder_by_relative_paths():
    paths = Workspace().competition("plants")
    assert [str(path) for path in (paths.csv, paths.json, paths.run("a"), paths.blend, paths.zip, paths.zip_json)] == [
        "folds/plants.csv",
        "folds/plants.json",
        "runs/plants/a",
        "runs/plants/blend",
        "submissions/plants.zip",
        "submissions/plants.json",
    ]
    assert str(paths.predictions_json) == "submissions/plants.csv.json"
    assert str(paths.explain("a")) == "runs/plants/a/explain"
    assert str(paths.shift("new")) == "runs/plants/shift/new" and str(paths.predict("new")) == "runs/plants/predict/new"
    assert (
        str(Workspace().kernel_record("a")) == "kernels/a.json"
        and str(paths.blend_json) == "runs/plants/blend/blend.json"
    )
    assert str(epoch_file(fold_dir(paths.run("a"), 2), 7)) == "runs/plants/a/fold_2/epochs/007.npz"
    assert str(paths.study_md) == "runs/plants/study/study.md" and str(Workspace().sample_train) == "data/train"
    assert str(Workspace().score_log) == "submissions/log.csv" and str(Workspace().matrix) == ".scorers/matrix"


def test_the_sample_has_folders_of_its_own_but_shares_kernels_and_scorers():
    sample = Workspace("there").sample
    assert sample.competition("sample").csv == Path("there/sample/folds/sample.csv")
    assert sample.runs == Path("there/sample/runs") and sample.score_log == Path("there/sample/submissions/log.csv")
    assert sample.kernels == Path("there/kernels") and sample.scorers == Path("there/.scorers")


def test_name_sample_means_the_drawn_one_unless_there_is_a_table_of_that_name(workdir):
    here = Workspace()
    assert here.of("sample") == here and here.of(None) == here
    write_text(here.sample.competition("sample").json, "{}")
    assert here.of("sample") == here.sample and here.of("other") == here.of(None) == here
    write_text(here.competition("sample").json, "{}")
    assert here.of("sample") == here


@pytest.mark.parametrize("name", BESIDE)
def test_no_run_is_called_like_what_lies_beside_the_runs(name):
    with pytest.raises(InputError, match=f"^RUN={name}: expected another name, .* are other folders and files"):
        check_run_name(name)


def test_other_names_of_runs():
    assert check_run_name("vgg16-quick") == "vgg16-quick"
    with pytest.raises(InputError, match="RUN=../blend: expected up to 100 letters"):
        check_run_name("../blend")


@pytest.mark.parametrize("run", ["audit", "shift", "rank.csv"])
def test_commands_refuse_such_a_name(run, workdir, capsys):
    class_folders(workdir / "photos", {"a": 4, "b": 4})
    make_folds(workdir / "photos", name="toy", folds=2)
    for arguments in (["train", "--model", "baseline"], ["double", "--model", "scratch", "--splits", "a"]):
        assert main([*arguments, "--run", run, "--weights", "none"]) == 2
        assert f"RUN={run}: expected another name" in capsys.readouterr().err
    assert not Path("runs/toy", run).exists()


def test_all_that_lies_beside_the_runs_is_in_the_table():
    """Whatever Paths gives below the runs' folder, but for runs, no run may be called."""
    paths, found = Workspace().competition("toy"), set()
    for name, value in vars(Paths).items():
        if isinstance(value, property):
            path = getattr(paths, name)
        elif name in INSIDE:
            path = getattr(paths, name)(*INSIDE[name])
        else:
            assert name.startswith("__") or name in ("run", "explain", "workspace", "name"), f"{name}: beside the runs?"
            continue
        if isinstance(path, Path) and path.is_relative_to(paths.runs) and path != paths.runs:
            found.add(path.relative_to(paths.runs).parts[0])
    assert found == set(BESIDE)


def test_a_command_works_in_another_folder_and_the_current_one_stays_empty(workdir):
    there = Workspace(workdir / "there")
    class_folders(workdir / "photos", {"a": 4, "b": 4})
    table = make_folds(workdir / "photos", name="toy", folds=2, workspace=there)
    assert table.paths.csv == workdir / "there/folds/toy.csv" and table.paths.csv.exists()
    assert read_folds(workspace=there).hash == table.hash == dataclasses.replace(table, workspace=Workspace()).hash
    with pytest.raises(InputError, match="^folds/: no fold table yet"):
        read_folds()
    with pytest.raises(InputError, match="ONLY_FOLD=9"):
        train("baseline", name="toy", only_fold=9, workspace=there)
    assert sorted(os.listdir()) == ["photos", "there"]


def names_on_disk(code):
    """[line, name] of what code names of a Workspace: a file anywhere, a folder where it is made a part of a path."""
    found = []
    for node in ast.walk(ast.parse(code)):
        parts = [node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else []
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            parts = node.args if called in ("Path", "joinpath", "with_name", "glob", "rglob", "join") else []
        for text in (part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)):
            pieces = text.split("/")
            found += [
                (node.lineno, piece) for piece in pieces if piece in NAMES or piece.startswith(("fold_", "node_"))
            ]
        if isinstance(node, ast.Constant) and " " not in str(node.value):  # else it is a message
            found += [(node.lineno, node.value)] if str(node.value).rpartition("/")[2] in FILES else []
        if isinstance(node, ast.JoinedStr):
            first = node.values[0].value if node.values and isinstance(node.values[0], ast.Constant) else ""
            last = node.values[-1].value if node.values and isinstance(node.values[-1], ast.Constant) else ""
            if first.startswith("fold_"):
                found.append((node.lineno, first))
            if last.startswith("/") and last[1:] in FILES:
                found.append((node.lineno, last))
    return found


def test_no_other_module_changes_the_working_directory_or_names_these_folders():
    """But for the scripts that run where the toolkit cannot be imported; `images` and `wheels` are what a kernel packs,
    and presets.py names a file of KerasHub that is called as one of ours."""
    folder, found = Path(competition.__file__).parent, []
    for path in sorted(folder.rglob("*.py")):
        code = path.read_text("utf-8")
        assert not re.search(r"\bchdir\(", code) or path.name == "enter_sandbox.py", path
        if path != Path(module.__file__) and path.name not in ALONE:
            found += [(path.name, *where) for where in names_on_disk(code)]
    allowed = [("kaggle_kernel.py", "images"), ("kaggle_kernel.py", "wheels"), ("presets.py", "model.weights.h5")]
    assert [(file, name) for file, _, name in found] == allowed, found


@pytest.mark.parametrize(
    "code",
    [
        'folder / "run.json"',
        'KEPT = ("a", "oof.npz")',
        'folder.glob("*/run.json")',
        'folder.glob("fold_*/*")',
        'folder / f"fold_{fold}"',
        'part = f"fold_{fold}/views.npz"',
        'paths.runs / "blend"',
        'root / "runs" / name',
        'folder / "hidden/pictures"',
        'Path(folder, "epochs")',
    ],
)
def test_what_names_a_file_or_folder_is_found(code):
    assert names_on_disk(code)


@pytest.mark.parametrize("code", ['"""In `run.json`."""', 'print(f"{path}: no run.json")', 'record["epochs"]', "a / b"])
def test_what_names_none_is_not(code):
    assert not names_on_disk(code)


@pytest.mark.parametrize("name", RESERVED)
def test_no_competition_is_called_like_the_log_or_what_was_simulated(name, workdir, capsys):
    """Its predictions would be written over submissions/log.csv, its runs among those of `make simulate`."""
    class_folders(workdir / "photos", {"a": 4, "b": 4})
    with pytest.raises(InputError, match=f"^NAME={name}: expected another name, {re.escape(RESERVED[name])}$"):
        make_folds(workdir / "photos", name=name, folds=2)
    assert main(["folds", "--data", "photos", "--name", name, "--folds", "2"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    (workdir / "photos").rename(workdir / name)
    with pytest.raises(InputError, match=f"^NAME={name}: expected another name"):
        make_folds(workdir / name, folds=2)  # called like its folder
    assert sorted(os.listdir()) == [name]
    assert check_competition_name("logs") == "logs"
    with pytest.raises(InputError, match="^NAME=../log: expected up to 100 letters"):
        check_competition_name("../log")


def test_a_workspace_that_is_given_is_used():
    """A function that takes a Workspace looks at it, and whoever reads a fold table says of which Workspace."""
    for path in sorted(Path(competition.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                takes = any(argument.arg == "workspace" for argument in node.args.args + node.args.kwonlyargs)
                used = {name.id for line in node.body for name in ast.walk(line) if isinstance(name, ast.Name)}
                assert not takes or "workspace" in used, f"{path}: {node.name}"
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "read_folds":
                assert len(node.args) == 2, f"{path}:{node.lineno}"
