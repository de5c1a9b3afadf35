"""Soups: that they are the mean of their members' weights, fold by fold, and runs like any other."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders
from test_oof import make_table

from competition.base import files
from competition.base.files import InputError
from competition.base.metrics import accuracy, log_loss
from competition.base.workspace import Workspace
from competition.cli.main import main
from competition.data.folds import make_folds
from competition.data.images import load_images
from competition.data.table import read_folds
from competition.features.extract import predict
from competition.formats.codalab import make as make_submission
from competition.runs import oof
from competition.runs.kinds import read_run
from competition.training import soup, train

RUNS = Workspace().runs / "toy"
SETTINGS = {
    "one": ("scratch", ["epochs=2", "rate=3e-3", "views=identity,hflip,vflip"]),
    "two": ("scratch", ["epochs=2", "rate=3e-3", "views=identity,vflip", "dropout=0.2", "seed=1"]),
}
RECORDS = {  # of runs that are refused before anything else of them is read
    "unfinished": lambda record: record | {"finished": False},
    "heads": lambda record: record | {"frozen": True},
    "flat": lambda record: record | {"config": record["config"] | {"model": "baseline"}},
    "double": lambda record: record | {"config": record["config"] | {"splits": [[["a b"], ["ä"]]]}},
    "other_head": lambda record: (
        record | {"config": record["config"] | {"recipe": record["config"]["recipe"] | {"head": [4]}}}
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with runs of small models, and the soup of two of them."""
    data = class_folders(tmp_path_factory.mktemp("data") / "toy", {"a b": 12, "ä": 9}, height=16, width=16)
    place = tmp_path_factory.mktemp("work")
    with contextlib.chdir(place):
        make_folds(data, folds=2)
        files.write_text("tiny.toml", "batch_size = 4\n[scratch]\nepochs = 1\n")
        for run, (model, overrides) in SETTINGS.items():
            train.train(model, "tiny.toml", run=run, overrides=overrides)
        for run, change in RECORDS.items():
            files.write_json(RUNS / run / "run.json", change(files.read_json(RUNS / "one/run.json")))
        assert main(["soup", "--runs", "two,one", "--run", "both"]) == 0
    return place


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture
def table():
    return read_folds()


def test_it_is_the_average_by_hand_fold_by_fold(table):
    for fold in range(2):
        one, two, both = (read_run(RUNS / run, table).build_fold_model(table, fold) for run in ("one", "two", "both"))
        for a, b, found in zip(one.get_weights(), two.get_weights(), both.get_weights(), strict=True):
            np.testing.assert_allclose(found, (a + b) / 2, atol=1e-7)
            assert found.dtype == np.float32
        assert any((a != b).any() for a, b in zip(one.get_weights(), two.get_weights()))


def test_its_oof_is_that_of_models_that_never_saw_the_image(table):
    found = oof.read_oof(RUNS / "both", table)
    assert found.views == ["identity", "vflip"]
    for fold in range(2):
        rows = table.fold == fold
        model = read_run(RUNS / "both", table).build_fold_model(table, fold)
        np.testing.assert_allclose(predict(model, load_images(table)[rows]), found.probs[0][rows], atol=1e-5)
    record = files.read_json(RUNS / "both/run.json")
    assert record["finished"] and record["accuracy"] == accuracy(found.probs[0], table.labels)
    assert record["config"]["soup"] == {run: files.sha256_file(RUNS / run / "oof.npz") for run in ("one", "two")}
    assert list(pd.read_csv(RUNS / "both/oof.csv")) == ["image", "label", "fold", "a b", "ä"]


def test_twice_it_says_so_and_a_lost_fold_comes_back(capsys):
    before = {path: path.read_bytes() for path in (RUNS / "both").rglob("*") if path.is_file()}
    arguments = ["soup", "--runs", "one,two", "--run", "both"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "finished before, nothing to do" in out and "soup of one, two: OOF accuracy" in out
    for name in ("fold_1/model.weights.h5", "oof.npz"):
        (RUNS / "both" / name).unlink()
    assert main(arguments) == 0
    assert "nothing to do" not in capsys.readouterr().out
    after = {path: path.read_bytes() for path in before}
    assert {path.name for path in before if before[path] != after[path]} <= {"model.weights.h5", "fold.json"}
    # the first has times in it, the second its sha256
    assert main(["soup", "--runs", "one,two,flat", "--run", "both"]) == 2


@pytest.mark.parametrize(
    "runs, words",
    [
        ("one", ["one run", "two or more"]),
        ("one,flat", ["run.json: model is", "baseline", "scratch"]),
        ("one,other_head", ["other_head/run.json: head is [4]", "expected []"]),
        ("one,unfinished", ["unfinished/run.json", "expected a finished one"]),
        ("one,double", ["double/run.json: a double run"]),
        ("one,heads", ["heads/run.json", "frozen backbone", "make blend"]),
        ("one,nowhere", ["nowhere", "no such run"]),
    ],
)
def test_what_cannot_be_averaged_is_refused(runs, words, capsys):
    assert main(["soup", "--runs", runs, "--run", "never"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not (RUNS / "never").exists()
    assert all(word in error for word in words), error


def test_other_members_are_refused_by_name(capsys):
    assert main(["soup", "--runs", "one,two", "--run", "one"]) == 2
    assert "run was begun with" in capsys.readouterr().err


def test_the_verdict(monkeypatch, tmp_path):
    """100 images: the better member gets 80 right; a soup of 79 holds, one of 60 does not."""
    right = {"a": slice(0, 80), "b": slice(0, 70), "good": slice(3, 82), "bad": slice(0, 60)}

    def read_oof(path, table):
        probs = np.full((100, 2), [0.4, 0.6], np.float32)
        probs[right[path.name]] = [0.6, 0.4]
        return oof.OOF(path.name, ["identity"], probs[None])

    monkeypatch.setattr(oof, "read_oof", read_oof)
    table = SimpleNamespace(labels=np.zeros(100, int), metric="accuracy")
    members = [SimpleNamespace(name=name, dir=tmp_path / name) for name in "ba"]
    lines = {name: soup._judge(tmp_path / name, table, members) for name in ("good", "bad")}
    assert "0.7900, -0.0100 +- 0.0225 to the best of them (a, 0.8000)" in lines["good"] and "It holds" in lines["good"]
    assert "does not hold" in lines["bad"]


def test_the_verdict_is_of_the_metric(monkeypatch, tmp_path):
    """The more accurate member is the worse by log-loss; a soup between them is behind the other by its own loss."""
    sure = {"right": 0.51, "sure": 0.9, "soup": 0.8}  # of the true class; "sure" gets 10 of 100 wrong
    found = {}
    for name, value in sure.items():
        found[name] = np.full((100, 2), [value, 1 - value], np.float32)
    found["sure"][:10] = [0.4, 0.6]
    monkeypatch.setattr(oof, "read_oof", lambda path, table: oof.OOF(path.name, ["identity"], found[path.name][None]))
    table = make_table(["a", "b"], 100, metric="log_loss")
    table = replace(table, frame=table.frame.assign(label="a"))
    members = [SimpleNamespace(name=name, dir=tmp_path / name) for name in ("right", "sure")]
    line = soup._judge(tmp_path / "soup", table, members)
    loss = log_loss(found["sure"], table.labels)
    assert f"OOF log_loss 0.2231, {0.22314 - loss:+.4f} +- " in line and f"(sure, {loss:.4f})" in line
    assert "does not hold" in line
    found["soup"][:5] = [0.4, 0.6]
    line = soup._judge(tmp_path / "soup", replace(table, metric="balanced_accuracy"), members)
    assert "OOF balanced_accuracy 0.9500, -0.0500 +- 0.0" in line and "to the best of them (right, 1.0000)" in line
    assert "+- 0.0000" not in line


def test_it_packs_as_a_submission(table):
    assert make_submission(run="both").exists()
    assert files.read_json(Workspace().submissions / "toy.json")["source"] == "run both"


def test_weights_of_other_shapes_are_no_average():
    assert soup.average_weights([[np.float32([1, 2])], [np.float32([3, 6])]])[0].tolist() == [2, 4]
    with pytest.raises(ValueError):
        soup.average_weights([[np.zeros(2)], [np.zeros(2), np.zeros(2)]])


def test_runs_are_needed():
    with pytest.raises(InputError, match="RUNS= is missing"):
        soup.soup()
