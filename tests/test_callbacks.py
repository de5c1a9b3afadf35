"""Callbacks: they are told of every epoch, also by a run that goes on, and change nothing; TensorBoard is one of them."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders
from test_train import Killed, same_run

from competition.base import files
from competition.base.files import InputError
from competition.cli.main import main
from competition.data.folds import make_folds
from competition.recipes import settle
from competition.training import frozen_phase, full_phase
from competition.training.double import double
from competition.training.tensorboard import TAGS, TensorBoard
from competition.training.train import train, train_seeds

ROOT = Path(__file__).parents[1]
TINY = 'batch_size = 8\nviews = ["identity"]\n'
HEADS = ["frozen_epochs=4", "epochs=0"]
BOTH = ["frozen_epochs=2", "epochs=2", "rate=1e-3"]
COLUMNS = ["epoch", "phase", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two folds of a table "arten": 24 pictures of 12x12 in 3 classes."""
    place = tmp_path_factory.mktemp("place")
    with contextlib.chdir(place):
        files.write_text("tiny.toml", TINY)
        make_folds(class_folders(place / "data", {"a": 9, "b c": 8, "ö": 7}, height=12, width=12), "arten", folds=2)
    return place


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    """In that folder; the baseline has a frozen phase, as if its random weights were worth something."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(settle, "is_pretrained", lambda model, weights: True)


@pytest.fixture(scope="module")
def whole(place):
    """{name: the folder of an uninterrupted run without callbacks}."""
    with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "is_pretrained", lambda model, weights: True)
        return {name: place / fit(name, overrides) for name, overrides in (("heads", HEADS), ("both", BOTH))}


def fit(run, overrides, callbacks=(), **options):
    return train("baseline", "tiny.toml", "arten", "none", run, overrides=overrides, callbacks=callbacks, **options)


class Notes:
    """Notes what it is told of, and whether all of it is on disk; raises at the calls of these numbers."""

    def __init__(self, die=()):
        self.die, self.told, self.ends = die, [], []

    def on_epoch(self, run, fold, epoch, row):
        history = run.history.query("fold == @fold")
        assert list(row) == COLUMNS and row["epoch"] == epoch == len(history)
        assert history.drop(columns="fold").iloc[-1].to_dict() == pytest.approx(row)
        folder = run.dir / f"fold_{fold}"
        state = run.dir / "heads.npz" if row["phase"] == "frozen" else folder / "state.npz"
        assert state.exists() and (folder / f"epochs/{epoch:03d}.npz").exists()
        self.told.append((run.name, fold, epoch))
        row["loss"] = np.random.rand()  # what it does with its row and with random numbers is its own
        if len(self.told) in self.die:
            raise Killed

    def on_end(self, run):
        self.ends.append((run.name, run.finished))


def told(run, *epochs):
    """(run, fold, epoch) of pairs of fold and epoch."""
    return [(run, fold, epoch) for fold, epoch in epochs]


# ------------------------------------------------------------------------------------------------------------ told of


def test_every_epoch_is_told_once_and_nothing_changes(whole, place):
    notes = Notes()
    same_run(fit("noted", HEADS, [notes]), whole["heads"], folds=2)
    assert notes.told == told("noted", *((fold, epoch) for epoch in (1, 2, 3, 4) for fold in (0, 1)))
    assert notes.ends == [("noted", True)]
    fit("noted", HEADS, [notes])
    assert len(notes.told) == 8 and notes.ends == 2 * [("noted", True)]

    notes = Notes()
    same_run(fit("noted-both", BOTH, [notes]), whole["both"], folds=2)
    assert notes.told == told("noted-both", (0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (0, 4), (1, 3), (1, 4))


def test_what_a_callback_raises_ends_the_training_and_the_epoch_is_told_again(whole):
    notes = Notes(die=(3, 6, 8, 9))
    for _ in range(4):
        with pytest.raises(Killed):
            fit("raised", BOTH, [notes])
    same_run(fit("raised", BOTH, [notes]), whole["both"], folds=2)
    frozen = [(0, 1), (1, 1), (0, 2)], [(0, 2), (1, 2), (0, 3)]
    full = [(0, 3), (0, 4)], [(0, 4)], [(0, 4), (1, 3), (1, 4)]
    assert notes.told == told("raised", *(pair for call in (*frozen, *full) for pair in call))
    assert notes.ends == [("raised", False)] * 4 + [("raised", True)]


def test_killed_between_an_epoch_and_its_callbacks_the_epoch_is_told(whole, monkeypatch):
    """In either phase: the history is not on disk yet."""
    for overrides, name, phase, kills in ((HEADS, "heads", frozen_phase, 5), (BOTH, "both", full_phase, 2)):
        write_history, written = phase.write_history, []

        def die(*arguments):
            written.append(1)
            if len(written) == kills:
                raise Killed
            write_history(*arguments)

        notes, run = Notes(), f"gap-{name}"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(phase, "write_history", die)
            fit(run, overrides, [notes])
        last = notes.told[-1]
        same_run(fit(run, overrides, [notes]), whole[name], folds=2)
        assert sorted(notes.told) == sorted(told(run, *((fold, epoch) for fold in (0, 1) for epoch in range(1, 5))))
        assert last != notes.told[-1]


def test_heads_that_have_stopped_are_not_told_of(place):
    notes = Notes()
    folder = fit("patient", ["frozen_epochs=40", "epochs=0", "patience=2", "frozen_rate=1e-3"], [notes])
    lengths = [len(pd.read_csv(folder / f"fold_{fold}/history.csv")) for fold in (0, 1)]
    assert lengths[0] != lengths[1] and max(lengths) < 40
    assert sorted(notes.told) == told("patient", *((f, epoch) for f in (0, 1) for epoch in range(1, lengths[f] + 1)))


def test_nodes_and_seeds_are_told_of_with_their_own_run():
    notes = Notes()
    options = {"name": "arten", "weights": "none", "overrides": ["frozen_epochs=1"], "callbacks": [notes]}
    double("baseline", "ö", "tiny.toml", run="tree", **options)
    assert notes.told == [(f"tree/node_{node}", fold, 1) for node in (0, 1) for fold in (0, 1)]
    notes.told.clear()
    train_seeds(2, "baseline", "tiny.toml", "twice", **options)
    assert notes.told == [(run, fold, 1) for run in ("twice", "twice-seed1") for fold in (0, 1)]


def test_what_is_no_callback_is_refused_before_anything_trains():
    for callbacks, message in (
        ([Notes(), object()], r"callbacks: object has no on_epoch\(run, fold, epoch, row\)"),
        ([SimpleNamespace(on_epoch=1)], "callbacks: SimpleNamespace has no on_epoch"),
        ([Notes], r"callbacks: Notes is a class, expected an object: Notes\(\)"),
        (Notes(), "callbacks: expected a list of objects, found Notes"),
    ):
        with pytest.raises(InputError, match=message):
            fit("refused", HEADS, callbacks)
        with pytest.raises(InputError, match=message):
            double("baseline", "ö", "tiny.toml", "arten", "none", "refused", callbacks=callbacks)
        with pytest.raises(InputError, match=message):
            train_seeds(1, "baseline", "tiny.toml", "refused", name="arten", callbacks=callbacks)
    assert not Path("runs/arten/refused").exists()


# -------------------------------------------------------------------------------------------------------- TensorBoard


def read_curves(folder):
    """{tag: [(step, value), ...]} of all event files in a folder, as they lie there."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    curves = {}
    for path in sorted(folder.iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                (number,) = value.tensor.float_val
                curves.setdefault(value.tag, []).append((event.step, number))
    return curves


def check_curves(run, folds=(0, 1)):
    """Each epoch is a step, once and in order, with the values of history.csv."""
    for fold in folds:
        history = pd.read_csv(run / f"fold_{fold}/history.csv")
        curves = read_curves(run / f"tensorboard/fold_{fold}")
        assert curves.keys() == set(TAGS.values())
        for column, tag in TAGS.items():
            steps, values = zip(*curves[tag])
            assert list(steps) == history["epoch"].tolist(), (fold, tag)
            np.testing.assert_allclose(values, history[column], rtol=1e-6)


class Cut(TensorBoard):
    """A TensorBoard whose process dies at the call of this number: what it has begun to write is half there."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def on_epoch(self, run, fold, epoch, row):
        self.left -= 1
        super().on_epoch(run, fold, epoch, row)
        if not self.left:
            path = max((run.dir / f"tensorboard/fold_{fold}").iterdir())
            path.write_bytes(path.read_bytes()[:-20])
            raise Killed


@pytest.mark.parametrize("overrides", [HEADS, BOTH], ids=["heads", "both"])
def test_the_curve_of_a_run_that_goes_on_has_no_gap_and_no_double(overrides, whole, request):
    pytest.importorskip("tensorboard")
    name = request.node.callspec.id
    for number in (1, 3, 6, 2):  # epochs that it is told of again are calls too
        with contextlib.suppress(Killed):
            run = fit(f"cut-{name}", overrides, [Cut(number)])
    run = fit(f"cut-{name}", overrides, [TensorBoard()])
    check_curves(run)
    same_run(run, whole[name], folds=2)


def test_what_was_trained_without_it_gets_its_curves_too():
    pytest.importorskip("tensorboard")
    fit("later", HEADS, only_fold=0)
    run, callbacks = fit("later", HEADS), [TensorBoard()]
    assert not (run / "tensorboard").exists()
    fit("later", HEADS, callbacks)  # finished before
    check_curves(run)
    before = {path: path.stat().st_mtime_ns for path in run.glob("tensorboard/*/*")}
    fit("later", HEADS, callbacks)
    assert {path: path.stat().st_mtime_ns for path in run.glob("tensorboard/*/*")} == before

    fit("half", HEADS, only_fold=0)
    check_curves(fit("half", HEADS, callbacks))


def test_the_switch_of_the_commands(capsys):
    pytest.importorskip("tensorboard")
    command = ["--model", "baseline", "--recipe", "tiny.toml", "--name", "arten", "--weights", "none", "--tensorboard"]
    command += ["--set", "frozen_epochs=2"]
    assert main(["train", *command, "--run", "switched"]) == 0
    check_curves(Path("runs/arten/switched"))
    assert main(["double", *command, "--splits", "ö", "--run", "switched-tree"]) == 0
    for node in (0, 1):
        check_curves(Path(f"runs/arten/switched-tree/node_{node}"))


def test_without_the_package_one_line_says_so(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    command = ["train", "--model", "baseline", "--recipe", "tiny.toml", "--name", "arten", "--tensorboard"]
    assert main([*command, "--run", "missing"]) == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith("TENSORBOARD=1: the package tensorboard is not installed; expected `pip install tensorboard`")
    )
    assert not Path("runs/arten/missing").exists()


def test_it_needs_no_tensorflow(tmp_path):
    pytest.importorskip("tensorboard")
    code = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
sys.modules["tensorflow"] = None
from competition.training.tensorboard import TensorBoard
run, folder = SimpleNamespace(dir=Path({str(tmp_path)!r})), Path({str(tmp_path)!r}, "fold_0")
folder.mkdir()
rows = [dict(epoch=epoch, loss=0.5, val_loss=1.5, accuracy=0.75, val_accuracy=0.5, seconds=2.0) for epoch in (1, 2)]
board = TensorBoard()
for row in rows:
    (folder / "history.csv").write_text(",".join(row) + chr(10) + ",".join(map(str, row.values())) + chr(10))
    board.on_epoch(run, 0, row["epoch"], row)
board.on_end(run)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert read_curves(tmp_path / "tensorboard/fold_0")["loss/validation"] == [(1, 1.5), (2, 1.5)]


# --------------------------------------------------------------------------------------------------------------- docs


def test_the_callbacks_of_the_docs_call_mlflow_and_wandb_as_these_expect(monkeypatch):
    page = (ROOT / "docs/how-to/callbacks.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    calls, row = [], dict(zip(COLUMNS, [3, "full", 0.5, 0.75, 1.5, 0.25, 2.0]))

    def fake(module, *functions):
        made = ModuleType(module)
        for function in functions:
            setattr(made, function, lambda *values, function=function, **named: calls.append((function, values, named)))
        monkeypatch.setitem(sys.modules, module, made)

    fake("mlflow", "log_metrics")
    fake("wandb", "define_metric", "log")
    run = SimpleNamespace(name="plain", finished=False)
    found = {}
    for block in blocks:
        if "class " in block:
            exec(block, found)
    for name in ("Print", "MLflow", "WandB"):
        found[name]().on_epoch(run, 1, 3, row)
    values = {"fold_1/loss": 0.5, "fold_1/accuracy": 0.75, "fold_1/val_loss": 1.5, "fold_1/val_accuracy": 0.25}
    assert calls == [
        ("log_metrics", (values,), {"step": 3}),
        ("define_metric", ("fold_*",), {"step_metric": "epoch"}),
        ("log", (values | {"epoch": 3},), {}),
    ]
