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
from competition.base.workspace import BESIDE, Paths, Workspace, check_run_name
from competition.cli.main import main
from competition.data.folds import make_folds
from competition.data.table import read_folds
from competition.training.train import train

# methods of Paths that lead into a folder beside the runs
INSIDE = {"shift": "test", "predict": "test", "tune": "study"}


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
            path = getattr(paths, name)("a")
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


def test_no_other_module_changes_the_working_directory_or_names_these_folders():
    """The kernel's script does, which runs where the toolkit cannot be imported yet."""
    folder = Path(competition.__file__).parent
    for path in folder.rglob("*.py"):
        code = path.read_text("utf-8")
        assert not re.search(r"\bchdir\(", code), path
        if path != Path(module.__file__) and path.name != "kernel_script.py":
            assert not re.search(r'/ "(folds|runs|submissions|kernels|features|blend|tune|gan)"', code), path


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
