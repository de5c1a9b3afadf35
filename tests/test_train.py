"""Training: that it can be killed anywhere, that folds never mix, that a run's folder says and gives back what it did.

Networks are as small as they come and runs are shared: tracing TensorFlow is what costs time here.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import Calling, class_folders, encode, smooth

from competition.base import backend, files
from competition.base.arrays import Memory
from competition.base.files import InputError
from competition.base.metrics import accuracy, log_loss
from competition.base.workspace import Workspace
from competition.blending.trained_apart import trained_again
from competition.cli.main import main
from competition.data.folds import make_folds
from competition.data.images import load_images
from competition.data.table import read_folds
from competition.features import extract, heads
from competition.features.augment import POLICIES
from competition.features.extract import predict
from competition.features.views import VIEWS
from competition.models import classifier
from competition.models.backbones import Weights
from competition.models.classifier import build_classifier, build_recipe_backbone
from competition.models.fuse import fuse_batchnorm
from competition.recipes import settle
from competition.recipes.recipe import Recipe
from competition.runs import record
from competition.runs.choose_runs import choose_runs
from competition.runs.kinds import read_run
from competition.runs.oof import read_oof
from competition.training import batches as batching
from competition.training import train as training
from competition.training import train_folds
from competition.training.batches import _in_batches, epoch_random
from competition.training.full_phase import _build_phase
from competition.training.job import Job
from competition.training.lessons import Taught, prepare_lessons
from competition.training.optimizer import compile_model, layer_rates

ROOT = Path(__file__).parents[1]
COUNTS = {"Füchse, rot": 13, "a b": 9, "été": 11}
FULL = (
    "epochs=12",
    "batch_size=8",
    "rate=1e-3",
    "schedule=one_cycle",
    "augment=d4,light",
    "mixup=0.3",
    "cutmix=0.3",
    "plain_epochs=2",
    "dropout=0.3",
    "label_smoothing=0.1",
    "weight_decay=0.05",
    "patience=10",
    "views=identity,hflip,transpose",
)
FROZEN = ("frozen_epochs=150", "image_size=32", "batch_size=8", "frozen_copies=1", "augment=hflip")
TINY = """# the tests' own recipe: what the shipped ones say may change
batch_size = 64
frozen_epochs = 2
[scratch]
epochs = 2
rate = 1e-3
"""
BOTH = ("frozen_epochs=2", "epochs=2", "batch_size=8")  # for models that the fixture `as_if_pretrained` freezes too


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with 33 pictures of 16x16 in 3 classes, and tables of them: "arten" and "zwei", alike, 3 folds."""
    place = tmp_path_factory.mktemp("place")
    with contextlib.chdir(place):
        data = class_folders(place / "Drei Arten", COUNTS, height=16, width=16)
        files.write_text("tiny.toml", TINY)
        for name in ("arten", "zwei"):
            make_folds(data, name=name, folds=3)
    return place


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)


def forget_features():
    """Those of all tables, as each takes over what others have of its images: tests draw other pixels for them."""
    for folder in Path("runs").glob("*/features"):
        shutil.rmtree(folder)


def train(model, **options):
    return training.train(model, "tiny.toml", **options)


@pytest.fixture(scope="module")
def full(place):
    """An uninterrupted run in which everything trains."""
    with contextlib.chdir(place):
        return place / train("scratch", name="arten", run="full", overrides=FULL)


@pytest.fixture(scope="module")
def frozen(place):
    """An uninterrupted run of heads on a frozen backbone."""
    with contextlib.chdir(place):
        return place / train("efficientnet_lite0", name="zwei", run="frozen", overrides=FROZEN)


@pytest.fixture
def as_if_pretrained(monkeypatch):
    """Lets the cheap models have a frozen phase, as if their random weights were worth something."""
    monkeypatch.setattr(settle, "is_pretrained", lambda model, weights: True)


@pytest.fixture
def table():
    return read_folds("arten")


def job_of(table, settings, model="baseline"):
    """A Job of the first fold that writes nothing."""
    return Job(Path("nowhere"), table, model, Weights("none"), settings, [0])


def start(place, log, *arguments):
    """`python -m competition train` as a process of its own."""
    command = [sys.executable, "-m", "competition", "train", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(place / log, "ab") as file:
        return subprocess.Popen(command, cwd=place, env=environment, stdout=file, stderr=file)


def kill(process, log, reached, seconds=200):
    """Send SIGKILL as soon as `reached()`."""
    end = time.time() + seconds
    while not reached():
        assert process.poll() is None and time.time() < end, Path(log).read_text()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def epochs_done(directory):
    path = directory / "history.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def tiny(overrides):
    """The recipe on the command line."""
    return ["--recipe", "tiny.toml", "--set", " ".join(overrides)]


def same_run(one, two, folds=3):
    """Two runs left the same, bit for bit: OOF, predictions of all epochs and views, histories but for the time."""
    for name in ("oof.csv", "oof.npz"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    for fold in range(folds):
        same_fold(one / f"fold_{fold}", two / f"fold_{fold}")


def same_fold(one, two):
    epochs = sorted(path.name for path in (one / "epochs").iterdir())
    assert epochs == sorted(path.name for path in (two / "epochs").iterdir())
    for name in ["views.npz", *(f"epochs/{name}" for name in epochs)]:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    histories = [pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in (one, two)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def snapshot(folder):
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


def softmax(logits):
    exponent = np.exp(logits - logits.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


# ------------------------------------------------------------------------------------------------ killed, and again


def test_sigkill_while_everything_trains_and_between_folds(place, full, table, capsys):
    run, log = place / "runs/arten/killed", place / "killed.log"
    arguments = ["--model", "scratch", "--run", "killed", "--name", "arten", *tiny(FULL)]

    process = start(place, log.name, *arguments)
    kill(process, log, lambda: epochs_done(run / "fold_0") >= 3)
    assert not (run / "fold_0/fold.json").exists(), "killed too late"
    assert not files.read_json(run / "run.json")["finished"]
    with pytest.raises(InputError, match="unfinished"):
        read_oof(run, table)
    first = (run / "fold_0/epochs/001.npz").stat().st_mtime_ns
    (run / "fold_0/.partial-abc-state.npz").write_bytes(b"what a kill may leave")

    process = start(place, log.name, *arguments)
    while not (run / "fold_0/fold.json").exists() and process.poll() is None:
        if epochs_done(run / "fold_0") >= 5:  # by now it surely works; another process must keep out
            assert main(["train", *arguments]) == 2
            assert "another process" in capsys.readouterr().err
            break
        time.sleep(0.002)
    kill(process, log, lambda: (run / "fold_0/fold.json").exists())
    assert not (run / "fold_1/fold.json").exists(), "killed too late"
    assert (run / "fold_0/epochs/001.npz").stat().st_mtime_ns == first, "finished epochs are not trained again"

    assert main(["train", *arguments]) == 0
    same_run(run, full)
    assert not list(run.rglob(".partial-*")) and not list(run.rglob("state.npz"))


def test_sigkill_in_the_frozen_phase(place, frozen):
    run, log = place / "runs/arten/killed-frozen", place / "frozen.log"
    arguments = ["--model", "efficientnet_lite0", "--run", "killed-frozen", "--name", "arten", *tiny(FROZEN)]
    kill(start(place, log.name, *arguments), log, lambda: epochs_done(run / "fold_0") >= 3)
    assert not (run / "fold_0/fold.json").exists(), "killed too late"
    assert main(["train", *arguments]) == 0
    same_run(run, frozen)


def test_an_interrupted_frozen_phase_belongs_to_its_config_and_its_folds(as_if_pretrained, monkeypatch, capsys):
    """Its state is one file for all folds: no other config may go on from it, any other choice of folds does."""
    overrides = [*BOTH, "frozen_epochs=9", "dropout=0.3"]
    whole = train("baseline", name="arten", run="whole-heads", overrides=overrides)
    write_npz = files.write_npz

    def stop_at(name):
        def write(path, **arrays):
            if Path(path).name == name and "fold_1" in str(path):
                raise Killed
            write_npz(path, **arrays)

        monkeypatch.setattr(files, "write_npz", write)
        with pytest.raises(Killed):
            train("baseline", name="arten", run=run, overrides=overrides)
        monkeypatch.setattr(files, "write_npz", write_npz)

    for run, name, folds in (("cut-early", "006.npz", [2, 0, None]), ("cut-late", "head.npz", [1, None])):
        stop_at(name)
        folder = Path("runs/arten", run)
        times = {path: path.stat().st_mtime_ns for path in folder.glob("fold_*/epochs/00[1-5].npz")}
        assert (folder / "heads.npz").exists() and len(times) == 15
        for fold in folds:
            train("baseline", name="arten", run=run, only_fold=fold, overrides=overrides)
            assert times == {path: path.stat().st_mtime_ns for path in times}, "finished epochs are not trained again"
        same_run(folder, whole)
        assert not (folder / "heads.npz").exists()

    run = "cut-and-robbed"
    stop_at("006.npz")
    for directory in Path("runs/arten", run).glob("fold_*"):
        shutil.rmtree(directory)
    refused(
        capsys, "--model", "baseline", "--name", "arten", "--run", run, *tiny(["epochs=1"]), words=["frozen_epochs"]
    )
    train("baseline", name="arten", run=run, overrides=overrides)
    same_run(Path("runs/arten", run), whole)


def test_a_run_begun_by_a_version_that_trains_otherwise_is_refused(as_if_pretrained, monkeypatch, capsys):
    arguments = ["--model", "baseline", "--name", "arten", "--run", "old", *tiny(BOTH)]
    now = record.TRAIN_FORMAT
    monkeypatch.setattr(record, "TRAIN_FORMAT", 1)
    assert main(["train", *arguments, "--only_fold", "0"]) == 0
    monkeypatch.setattr(record, "TRAIN_FORMAT", now)
    refused(capsys, *arguments, words=["old/run.json", "trains otherwise", "RUN="])


class Killed(BaseException):
    pass


def test_any_write_can_be_the_last(place, as_if_pretrained, monkeypatch):
    """Both phases, early stopping; the process dies after each of the files it writes, one after another."""
    make_folds(place / "Drei Arten", name="halb", folds=2)
    overrides = [
        *BOTH,
        "patience=1",
        "dropout=0.3",
        "mixup=0.3",
        "cutmix=0.3",
        "fmix=0.3",
        "rate=0.01",
        "frozen_rate=0.01",
        "oversample_count=9",
        "oversample_augment=randaugment",
        "head=6,5",
        "ema=0.9",
    ]
    whole = train("baseline", name="halb", run="whole", overrides=overrides)
    shutil.rmtree("runs/halb/features")
    died, write_with = set(), files.write_with

    def write_and_die(path, write, *more, **options):
        write_with(path, write, *more, **options)
        path = Path(path)
        # in fold_1 it would be the same again; a name that is written each epoch counts anew each epoch
        key = (path.relative_to(path.parent.parent), len(list(path.parent.glob("epochs/*"))))
        if "fold_1" not in path.parts and key not in died:
            died.add(key)
            raise Killed

    monkeypatch.setattr(files, "write_with", write_and_die)
    for attempt in range(40):
        try:
            run = train("baseline", name="halb", run="dying", overrides=overrides)
            break
        except Killed:
            pass
    assert attempt >= 15 and {"run.json", "oof.csv", "state.npz", "fold.json"} <= {key[0].name for key in died}
    same_run(run, whole, folds=2)


def test_only_fold_is_the_same_fold_and_the_rest_can_follow(place, full, table, capsys):
    run = train("scratch", name="arten", run="single", only_fold="1", overrides=FULL)
    assert "folds still to train before there is an OOF: 0, 2" in capsys.readouterr().out
    assert sorted(path.name for path in run.glob("fold_*")) == ["fold_1"] and not (run / "oof.csv").exists()
    same_fold(run / "fold_1", full / "fold_1")
    with pytest.raises(InputError, match="unfinished"):
        read_oof(run, table)
    train("scratch", name="arten", run="single", overrides=FULL)
    same_run(run, full)  # also: what is written does not depend on the run's name


def test_a_finished_run_says_so_and_changes_nothing(place, full, capsys):
    before = snapshot(place)
    assert main(["train", "--model", "scratch", "--run", "full", "--name", "arten", "--again", "0", *tiny(FULL)]) == 0
    out = capsys.readouterr().out
    assert "finished before, nothing to do" in out and "OOF accuracy" in out
    assert snapshot(place) == before


def test_two_processes_do_not_train_one_run(full, capsys):
    with record.locked(full):
        assert main(["train", "--model", "scratch", "--run", "full", "--name", "arten", *tiny(FULL)]) == 2
    assert "another process" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- refused


def refused(capsys, *arguments, words):
    before = snapshot(Path())
    capsys.readouterr()
    assert main(["train", *arguments]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and all(word in error for word in words), error
    after = snapshot(Path())
    assert {path: after.get(path) for path in before} == before


def test_a_mistake_before_the_first_epoch_can_be_put_right(tmp_path, capsys):
    run = ["train", "--model", "mobilenet", "--weights", "none", "--name", "arten", "--run", "begun"]
    assert main([*run, *tiny(["image_size=8"])]) == 2
    assert "image_size is 8" in capsys.readouterr().err
    assert main(["train", "--model", "baseline", "--name", "arten", "--run", "begun", *tiny(["epochs=1"])]) == 0


def test_what_was_removed_from_a_finished_run_comes_back(capsys):
    run, folder = ["train", "--model", "baseline", "--name", "arten", *tiny(["epochs=2"]), "--run"], Path("runs/arten")
    for name in ("whole", "robbed"):
        assert main([*run, name]) == 0
    shutil.rmtree(folder / "robbed/fold_1")
    for name in ("fold_2/model.weights.h5", "oof.npz", "oof.csv"):
        (folder / "robbed" / name).unlink()
    assert main([*run, "robbed"]) == 0
    same_run(folder / "robbed", folder / "whole")

    (folder / "robbed/fold_0/model.weights.h5").write_bytes(b"not whole")
    table = read_folds("arten")
    with pytest.raises(InputError, match="fold_0/model.weights.h5: not the weights that this run wrote"):
        read_run(folder / "robbed", table).build_fold_model(table, 0)

    (folder / "robbed/run.json").unlink()
    refused(capsys, *run[1:], "robbed", words=["robbed/run.json: no such file"])


def test_a_broken_state_starts_the_fold_anew(capsys):
    run, folder = ["train", "--model", "baseline", "--name", "arten", *tiny(["epochs=2"]), "--run"], Path("runs/arten")
    assert main([*run, "sound"]) == 0
    (folder / "broken/fold_0").mkdir(parents=True)
    (folder / "broken/fold_0/state.npz").write_bytes(b"PK not whole")
    files.write_json(folder / "broken/run.json", files.read_json(folder / "sound/run.json") | {"finished": False})
    assert main([*run, "broken"]) == 0
    assert "broken/fold_0/state.npz: cannot be read" in capsys.readouterr().err
    same_run(folder / "broken", folder / "sound")


def test_another_config_is_refused_by_name(full, frozen, capsys):
    run = ["--name", "arten", "--run", "full"]
    refused(
        capsys,
        "--model",
        "scratch",
        *run,
        *tiny([*FULL, "rate=0.5"]),
        words=["full/run.json", "recipe.rate = 0.001 (now 0.5)", "RUN="],
    )
    refused(
        capsys,
        "--model",
        "scratch",
        *run,
        *tiny(FULL),
        "--set",
        "seed=1 dropout=0",
        words=["recipe.seed = 0 (now 1)", "recipe.dropout = 0.3 (now 0.0)"],
    )
    refused(capsys, "--model", "baseline", *run, *tiny(FULL), words=["model = scratch (now baseline)"])
    run = ["--name", "zwei", "--run", "frozen", "--model", "efficientnet_lite0", *tiny(FROZEN)]
    refused(capsys, *run, "--weights", "none", "--set", "frozen_epochs=0 epochs=1", words=["weights = ", "(now None)"])


def test_other_folds_and_other_images_are_refused(tmp_path, monkeypatch, capsys):
    data = class_folders(tmp_path / "data", {"a": 4, "b": 4}, height=8, width=8)
    monkeypatch.chdir(tmp_path)
    files.write_text("tiny.toml", TINY)
    make_folds(data, folds=2)
    train("baseline", only_fold=0, overrides=["epochs=1"])
    arguments = ["--model", "baseline", *tiny(["epochs=1"])]
    make_folds(data, folds=2, seed=2, force=True)
    refused(capsys, *arguments, words=["run.json", "another fold table", "RUN="])
    make_folds(data, folds=2, size="8x9", force=True)
    refused(capsys, *arguments, words=["run.json", "another fold table"])
    make_folds(data, folds=2, force=True)
    (data / "a/000.png").write_bytes(encode(smooth(99, 8, 8)))
    refused(capsys, *arguments, words=["a/000.png", "changed since"])
    make_folds(data, folds=2, force=True)
    refused(capsys, *arguments, words=["run.json", "another set of images", "RUN="])
    with pytest.raises(InputError, match="other images"):
        read_run(Path("runs/data/baseline-tiny"), read_folds())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--only-fold", "3"], ["ONLY_FOLD=3", "0 to 2"]),
        (["--only-fold", "-1"], ["ONLY_FOLD=-1"]),
        (["--only-fold", "1.5"], ["ONLY_FOLD=1.5"]),
        (["--only-fold", "0,3"], ["ONLY_FOLD=0,3", "0 to 2"]),
        (["--run", "blend"], ["RUN=blend"]),
        (["--run", "features"], ["RUN=features"]),
        (["--run", "images"], ["RUN=images"]),
        (["--memory", "lots"], ["MEMORY=lots", "4G"]),
        (["--run", "a,b"], ["RUN=a,b"]),
        (["--run", "../a"], ["RUN=../a"]),
        (["--run", ".a"], ["RUN=.a"]),
        (["--recipe", "quik"], ["quik", "quick"]),
        (["--set", "batch_sise=4"], ["batch_sise", "batch_size"]),
        (["--name", "nichts"], ["nichts"]),
        (["--weights", "nowhere"], ["nowhere"]),
    ],
)
def test_what_cannot_be_trained_is_refused(arguments, words, capsys):
    refused(capsys, *"--model scratch --name arten --recipe tiny.toml".split(), *arguments, words=words)


def test_unknown_models_and_several_tables(capsys):
    refused(capsys, "--model", "scretch", "--name", "arten", words=["scretch", "scratch"])
    refused(capsys, "--model", "scratch", words=["fold tables", "arten", "zwei"])


def test_oblong_images_go_without_quarter_turns(tmp_path, capsys):
    make_folds(class_folders(tmp_path / "data", {"a": 2, "b": 2}, height=8, width=12), "oblong", folds=2)
    arguments = tiny(["epochs=1", "views=identity,rot180,rot90", "augment=hflip,d4,light"])
    assert main(["train", "--model", "baseline", "--name", "oblong", "--run", "turned", *arguments]) == 0
    assert "8x12" in capsys.readouterr().err
    record = files.read_json(Path("runs/oblong/turned/run.json"))
    assert record["views"] == record["config"]["recipe"]["views"] == ["identity", "rot180"]
    assert record["config"]["recipe"]["augment"] == ["vflip", "hflip", "light"]
    Path("folds/oblong.csv").unlink(), Path("folds/oblong.json").unlink()


# ------------------------------------------------------------------------------------- no validation image in training


@pytest.fixture
def batches(monkeypatch):
    """What any model was trained on and predicted, batch by batch, as (model, kind, inputs, targets); heads are
    "heads", and their targets are None."""
    import keras

    calls, train_on_batch, predict_on_batch = [], keras.Model.train_on_batch, keras.Model.predict_on_batch
    gather, predict_heads = heads._gather, heads.predict_heads

    def spy_train(model, x, y, *rest, **named):
        calls.append((model, "train", np.array(x), np.array(y)))
        return train_on_batch(model, x, y, *rest, **named)

    def spy_predict(model, x):
        calls.append((model, "predict", np.array(x), None))
        return predict_on_batch(model, x)

    def spy_gather(pool, copies, numbers, random, out):
        gather(pool, copies, numbers, random, out)
        calls.append(("heads", "train", out.copy(), None))

    def spy_heads(weights, features):
        calls.append(("heads", "predict", np.array(features), None))
        return predict_heads(weights, features)

    monkeypatch.setattr(heads, "_gather", spy_gather)
    monkeypatch.setattr(heads, "predict_heads", spy_heads)
    monkeypatch.setattr(keras.Model, "train_on_batch", spy_train)
    monkeypatch.setattr(keras.Model, "predict_on_batch", spy_predict)
    return calls


def pixels(inputs):
    """Images [n, 16, 16, 3], 0..255, of images or of the baseline's features, which are scaled pixels.

    Rows of zeros, which fill up a batch, are left out."""
    inputs = inputs[inputs.reshape(len(inputs), -1).any(1)]
    return inputs if inputs.ndim == 4 else ((inputs + 1) * 127.5).round().reshape(-1, 16, 16, 3)


def by_epoch(calls):
    """(training calls, validation inputs) of each epoch: what a model was trained on before it predicted."""
    trained = []
    for model, kind, inputs, targets in calls:
        if kind == "train":
            trained.append((model, pixels(inputs), targets))
        elif trained and trained[-1][0] is model:
            yield trained, pixels(inputs)
            trained = []
    assert not trained


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "augment=d4,affine,erase",
            "mixup=0.3",
            "cutmix=0.4",
            "fmix=0.3",
            "frozen_copies=2",
            "oversample_count=11",
            "oversample_augment=hflip,gridmask",
        ],
        ["views=identity,hflip,rot90", "batchnorm=train"],
    ],
)
def test_no_validation_image_reaches_training(overrides, table, as_if_pretrained, batches, monkeypatch):
    """Images of fold k have nothing but the colour channel k: no transformation or mixture could hide one."""
    marked = np.random.default_rng(0).integers(100, 256, (33, 16, 16, 3)).astype(np.uint8)
    marked *= np.eye(3, dtype=np.uint8)[table.fold][:, None, None]
    if "erase" in overrides[0]:  # which fills holes with any colour: those are put out
        monkeypatch.setitem(POLICIES, "erase", lambda A: A.CoarseDropout(fill=0, p=0.5))
    monkeypatch.setattr(train_folds, "load_images", lambda table, memory: marked)
    forget_features()
    for fold in range(3):  # the heads of several folds would learn side by side
        run = train(
            "baseline", name="arten", run=f"marked-{len(overrides)}", only_fold=fold, overrides=[*BOTH, *overrides]
        )
    forget_features()

    held_out = []
    for trained, validated in by_epoch(batches):
        channels = np.flatnonzero(validated.any((0, 1, 2)))
        assert len(channels) == 1, "validation is of one fold"
        for _, inputs, _ in trained:
            assert not inputs[..., channels[0]].any(), "a validation image in training"
        seen = np.concatenate([inputs for _, inputs, _ in trained])
        assert seen.shape[1:] == (16, 16, 3) and (seen.any((0, 1, 2)).sum() == 2), "both other folds"
        held_out.append(int(channels[0]))
    assert held_out == [0] * 4 + [1] * 4 + [2] * 4
    assert [epochs_done(run / f"fold_{fold}") for fold in range(3)] == [4, 4, 4]


@pytest.mark.parametrize(
    "overrides",
    [
        ["frozen_copies=2", "epochs=0", "augment=hflip,light"],
        ["mixup=0.5", "augment=d4,light", "views=identity,rot90", "oversample_count=20", "oversample_augment=shift"],
    ],
)
def test_what_does_not_fit_into_memory_trains_the_same(overrides, table, as_if_pretrained):
    runs = []
    for memory in ("1G", "0.001M"):
        forget_features()
        name = f"{memory}-{overrides[0].replace('=', '-')}"
        runs.append(train("baseline", name="arten", run=name, overrides=[*BOTH, *overrides], memory=memory))
    same_run(*runs)
    (decoded,) = Path("runs/arten/images").glob("*.npy")
    assert np.load(decoded).nbytes > 1048 and sorted(os.listdir("runs/arten/images")) == [
        decoded.name,
        f"{decoded.name}.json",
    ]
    shutil.rmtree("runs/arten/images")


def test_images_keep_their_labels(table, as_if_pretrained, batches, monkeypatch):
    """The row's number is written into the image: rows are of the training folds, each with its own label."""
    numbered = np.full((33, 16, 16, 3), 7, np.uint8) * np.arange(1, 34, dtype=np.uint8)[:, None, None, None]
    monkeypatch.setattr(train_folds, "load_images", lambda table, memory: numbered)
    forget_features()
    train("baseline", name="arten", run="numbered", only_fold=2, overrides=[*BOTH, "frozen_epochs=3", "epochs=5"])
    forget_features()
    expected = set(np.flatnonzero(table.fold != 2))
    for part in (slice(0, 3), slice(3, 8)):
        seen = []
        for trained, validated in list(by_epoch(batches))[part]:
            np.testing.assert_array_equal(validated[:, 0, 0, 0] / 7 - 1, np.flatnonzero(table.fold == 2))
            rows = np.concatenate([inputs[:, 0, 0, 0] for _, inputs, _ in trained]) / 7 - 1
            rows = rows.astype(int)
            if part.start:  # of heads see tests/test_heads.py
                targets = np.concatenate([y for *_, y in trained])
                np.testing.assert_array_equal(targets.argmax(1), table.labels[rows])
            assert len(set(rows)) == len(rows) and set(rows) <= expected
            seen += rows.tolist()
        assert set(seen) == expected, "in some epoch, every training image"


@pytest.fixture
def marked(table, monkeypatch):
    """Images of their row's number, black in the first line. "hflip" inverts them, "vflip" turns them upside down."""
    images = np.full((33, 16, 16, 3), 3, np.uint8) * np.arange(1, 34, dtype=np.uint8)[:, None, None, None]
    images[:, 0] = 0
    monkeypatch.setitem(POLICIES, "hflip", lambda A: A.InvertImg(p=1))
    monkeypatch.setitem(POLICIES, "vflip", lambda A: A.VerticalFlip(p=1))
    monkeypatch.setattr(train_folds, "load_images", lambda table, memory: images)
    forget_features()
    yield
    forget_features()


def read_marks(inputs):
    """Of images that `marked` drew: their rows, whether they are inverted, and whether they are upside down."""
    inverted = inputs[:, 0, 0, 0] + inputs[:, -1, 0, 0] > 200
    upright = np.where(inverted[:, None], 255 - inputs[:, [0, -1], 0, 0], inputs[:, [0, -1], 0, 0])
    return (upright.max(1) / 3 - 1).round().astype(int), inverted, upright[:, 0] > upright[:, 1]


@pytest.mark.parametrize("phases, inverted", [("both", [1, 1]), ("frozen", [1, 0]), ("full", [0, 1])])
def test_augmentation_in_both_phases_or_in_one(phases, inverted, as_if_pretrained, batches, marked):
    train(
        "baseline",
        name="arten",
        run=f"augment-{phases}",
        only_fold=1,
        overrides=[*BOTH, "augment=hflip", "frozen_copies=2", f"augment_phases={phases}"],
    )
    epochs = list(by_epoch(batches))
    assert len(epochs) == 4
    for expected, (trained, validated) in zip(np.repeat(inverted, 2), epochs):
        assert (read_marks(np.concatenate([inputs for _, inputs, _ in trained]))[1] == expected).all()
        assert not read_marks(validated)[1].any(), "no validation image is augmented"


@pytest.mark.parametrize(
    "options, target",
    [
        (["oversample_classes=a b"], [0, 15, 0]),
        (["frozen_copies=2"], [15, 15, 15]),
    ],
)
def test_copies_of_rare_classes(options, target, table, as_if_pretrained, batches, marked):
    """In both phases: each class has as many images as it shall, what is more of them is augmented in its own way, of
    training images alone; then all images as always. Killed or not, the same is drawn."""
    overrides = [*BOTH, "batch_size=1", "oversample_count=15", "oversample_augment=vflip", "augment=hflip", *options]
    run = train("baseline", name="arten", run=f"copies-{len(options[0])}", only_fold=0, overrides=overrides)
    rows = np.flatnonzero(table.fold != 0)
    own = np.bincount(table.labels[rows])
    steps = np.maximum(own, target)
    assert (steps > own).any()
    phases = ["frozen", "frozen", "full", "full"]
    for phase, (trained, validated) in zip(phases, by_epoch(batches), strict=True):
        seen, inverted, turned = read_marks(np.concatenate([inputs for _, inputs, _ in trained]))
        np.testing.assert_array_equal(np.bincount(table.labels[seen]), steps)
        np.testing.assert_array_equal(np.sort(seen[~turned]), rows)
        assert set(seen[turned]) <= set(rows), "a copy of a validation image"
        np.testing.assert_array_equal(np.bincount(table.labels[seen[turned]], minlength=3), steps - own)
        assert inverted.all() if phase == "full" or "frozen_copies=2" in options else not inverted.any()
        if phase == "full":
            np.testing.assert_array_equal(np.concatenate([y for *_, y in trained]).argmax(1), table.labels[seen])
        at, flipped, upside = read_marks(validated)
        assert (table.fold[at] == 0).all() and not flipped.any() and not upside.any()
    again = train("baseline", name="arten", run=f"copies-{len(options[0])}-again", only_fold=0, overrides=overrides)
    same_fold(run / "fold_0", again / "fold_0")


@pytest.mark.parametrize("class_weight", ["none", "balanced", {"été": 3.0, "Füchse, rot": 0.5}])
def test_class_weights_change_the_gradient_as_they_should(class_weight, table):
    """Of the second phase's head: an image's part of it, (p - y) x, counts as often as its class is worth."""
    settings = settle.fit_classes(
        table, Recipe(epochs=1, batch_size=22, class_weight=class_weight, precision="float32")
    )
    images = load_images(table)
    phase = _build_phase(job_of(table, settings), images, {1: Taught(table, images)}, [])
    model = phase.model
    phase.train_epoch(1, 0, 1, lambda *_: None)
    kernel = model.get_layer("logits").kernel
    (momentum,) = [v for v in model.optimizer.variables if v.shape == kernel.shape and "momentum" in v.path]
    rows = np.flatnonzero(table.fold != 1)
    weights = {"none": np.ones(3), "balanced": 22 / (3 * np.bincount(table.labels[rows]))}.get(
        class_weight if isinstance(class_weight, str) else "",
        np.array([{"été": 3, "Füchse, rot": 0.5}.get(name, 1) for name in table.classes]),
    )
    features = predict(model.get_layer("backbone"), images[rows])
    truth = np.eye(3)[table.labels[rows]]
    expected = features.T @ ((1 / 3 - truth) * weights[table.labels[rows]][:, None]) / 22
    np.testing.assert_allclose(np.asarray(momentum) / (1 - heads.BETA_1), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "way, other", [("mixup", {}), ("fmix", {}), ("cutmix", {}), ("cutmix", {"cutmix_least": 0.25, "cutmix_most": 0.25})]
)
def test_images_are_mixed_as_the_recipe_says(way, other, table):
    """Of pictures whose grey is their class's: a mixed one's mean, target and weight are mixed alike; in the last
    epochs none is."""
    weights = {name: weight for name, weight in zip(table.classes, (3.0, 1.0, 0.5))}
    settings = Recipe(
        epochs=3, plain_epochs=1, batch_size=11, precision="float32", class_weight=weights, **{way: 1.0}, **other
    )
    greys = np.array([50, 110, 230])
    images = np.ones((33, 16, 16, 3), np.uint8) * greys[table.labels, None, None, None].astype(np.uint8)
    phase = _build_phase(job_of(table, settings), images, {0: Taught(table, images)}, [])
    for epoch, mixed in enumerate([True, True, False]):
        inputs, targets, counted = (np.concatenate(parts) for parts in zip(*phase.batches(0, epoch)))
        np.testing.assert_allclose(inputs.mean((1, 2, 3)), targets @ greys, rtol=1e-4)
        np.testing.assert_allclose(counted, targets @ list(weights.values()), rtol=1e-5)
        assert (targets.max(1) < 1).any() == mixed
        if mixed:
            plain = (np.ptp(inputs, (1, 2, 3)) < 1e-3)[targets.max(1) < 1]
            assert plain.all() if way == "mixup" else not plain.any()
            pasted = np.sort(targets, 1)[:, :2].sum(1)
            assert not other or 0.2 < pasted.max() < 0.3


def test_classes_are_named_as_the_fold_table_has_them(capsys):
    arguments = ["--model", "baseline", "--name", "arten", *tiny(["epochs=1"]), "--set"]
    for override, key in (
        ("class_weight=été:3,ete:2", "class_weight"),
        ('class_weight={ "ete" = 2 }', "class_weight"),
        ("oversample_count=20 oversample_classes=été,ete", "oversample_classes"),
    ):
        refused(capsys, *arguments, override, words=[f"{key} names 'ete'", "folds/arten.csv", "Füchse, rot, a b, été"])
    assert (
        main(
            [
                "train",
                *arguments,
                'class_weight={ "Füchse, rot" = 2, "été" = 3 } seed=4',
                "--run",
                "weighed",
                "--only-fold",
                "0",
            ]
        )
        == 0
    )
    recipe = files.read_json(Path("runs/arten/weighed/run.json"))["config"]["recipe"]
    assert recipe["class_weight"] == {"Füchse, rot": 2.0, "a b": 1.0, "été": 3.0} and recipe["seed"] == 4
    refused(
        capsys, *arguments, "class_weight=été:2", "--run", "weighed", words=["recipe.class_weight.été = 3.0 (now 2.0)"]
    )


def test_validation_pixels_do_not_change_the_training(table, as_if_pretrained, monkeypatch):
    images = load_images(table)
    poisoned = images.copy()
    poisoned[table.fold == 0] = np.random.default_rng(0).integers(0, 256, poisoned[table.fold == 0].shape)
    histories, weights = [], []
    for name, given in (("clean", images), ("poisoned", poisoned)):
        monkeypatch.setattr(train_folds, "load_images", lambda table, memory, given=given: given)
        forget_features()
        run = train("baseline", name="arten", run=name, only_fold=0, overrides=[*BOTH, "mixup=0.5"])
        histories.append(pd.read_csv(run / "fold_0/history.csv"))
        weights.append(read_run(run, table).build_fold_model(table, 0).get_weights())
    forget_features()
    for column in ("loss", "accuracy"):
        assert histories[0][column].tolist() == histories[1][column].tolist()
    assert (histories[0]["val_loss"] != histories[1]["val_loss"]).all(), "the poison was there"
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("batch_size", [4, 8, 64])
def test_an_epoch_s_order(batch_size, table):
    """Full batches of training rows, none twice while there are enough."""
    orders = []
    for epoch in range(30):
        order = _in_batches(np.flatnonzero(table.fold != 1), batch_size, epoch_random(Recipe(), 1, epoch))
        assert order.shape == (max(1, 22 // batch_size), batch_size)
        assert (table.fold[order] != 1).all()
        assert np.bincount(order.ravel()).max() == np.ceil(order.size / 22)
        orders.append(order)
    assert set(np.concatenate(orders).ravel()) == set(np.flatnonzero(table.fold != 1))
    assert len({order.tobytes() for order in orders}) == 30


def test_draws_differ_between_seeds_folds_and_epochs():
    drawn = {epoch_random(Recipe(seed=seed), *key).integers(2**60) for seed in (0, 1) for key in np.ndindex(3, 4)}
    assert len(drawn) == 24


# ------------------------------------------------------------------------------------------- what a run's folder holds


def test_a_run_s_files(full, frozen, table):
    for run, is_frozen in ((full, False), (frozen, True)):
        names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
        assert names - {"backbone.weights.h5"} == {"run.json", "oof.csv", "oof.npz", "fold_0", "fold_1", "fold_2"}
        assert ("backbone.weights.h5" in names) == is_frozen
        record = files.read_json(run / "run.json")
        assert record["finished"] and record["frozen"] == is_frozen and record["table"] == table.hash
        assert record["data"] == table.data_hash and {"python", "keras", "numpy"} <= record["versions"].keys()
        oof = read_oof(run, table)
        assert oof.views == record["views"] and oof.probs.shape == (len(oof.views), 33, 3)
        assert record["accuracy"] == accuracy(oof.probs[0], table.labels)
        for fold in range(3):
            names = {path.name for path in (run / f"fold_{fold}").iterdir()}
            weights = "head.npz" if is_frozen else "model.weights.h5"
            assert names == {"history.csv", "epochs", "fold.json", "views.npz", weights}


def test_history_has_a_line_an_epoch_with_its_predictions(full, table):
    for fold in range(3):
        history = pd.read_csv(full / f"fold_{fold}/history.csv")
        assert list(history) == ["epoch", "phase", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
        assert history["epoch"].tolist() == list(range(1, len(history) + 1)) and set(history["phase"]) == {"full"}
        assert len(history) == len(list((full / f"fold_{fold}/epochs").iterdir()))
        labels = table.labels[table.fold == fold]
        for row in history.itertuples():
            with np.load(full / f"fold_{fold}/epochs/{row.epoch:03d}.npz") as saved:
                assert saved["image"].tolist() == [name for name, k in zip(table.images, table.fold) if k == fold]
                assert saved["probs"].dtype == np.float32 and saved["probs"].shape == (len(labels), 3)
                assert accuracy(saved["probs"], labels) == pytest.approx(row.val_accuracy)
                assert log_loss(saved["probs"], labels) == pytest.approx(row.val_loss, rel=1e-6)
        assert 0.1 < history["loss"].min() and history["accuracy"].between(0, 1).all()


def test_early_stop_keeps_the_best_epoch(table, as_if_pretrained):
    """Wild rates: validation gets worse again. The best epoch of each phase counts, and the second starts from the
    first's."""
    run = train(
        "baseline",
        name="arten",
        run="stopped",
        overrides=[
            "frozen_epochs=40",
            "frozen_rate=0.2",
            "frozen_schedule=constant",
            "epochs=40",
            "rate=1e-12",
            "patience=3",
            "batch_size=8",
            "dropout=0",
        ],
    )
    oof, stopped, model = read_oof(run, table), 0, None
    for fold in range(3):
        directory = run / f"fold_{fold}"
        history = pd.read_csv(directory / "history.csv")
        best = {}
        for phase, rows in history.groupby("phase"):
            order = rows.sort_values(["val_accuracy", "val_loss", "epoch"], ascending=[False, True, True])
            best[phase] = int(order["epoch"].iloc[0])
            last = int(rows["epoch"].iloc[-1])
            assert len(rows) == 40 or last == best[phase] + 3
            stopped += len(rows) < 40
        predictions = {epoch: np.load(directory / f"epochs/{epoch:03d}.npz")["probs"] for epoch in history["epoch"]}
        first = int(history.index[history["phase"] == "full"][0]) + 1
        np.testing.assert_allclose(predictions[first], predictions[best["frozen"]], atol=1e-5)
        assert files.read_json(directory / "fold.json")["best_epoch"] == best["full"]
        kept = oof.probs[0][table.fold == fold]
        np.testing.assert_array_equal(kept, predictions[best["full"]])
        model = read_run(run, table).build_fold_model(table, fold)
        np.testing.assert_allclose(predict(model, load_images(table)[table.fold == fold]), kept, atol=1e-6)
    assert stopped >= 3


def test_the_metric_chooses_the_epoch_and_is_reported(place, as_if_pretrained, capsys):
    """Wild rates: sure of what is wrong, so that the epochs of best accuracy and of best log-loss are others."""
    table = make_folds(place / "Drei Arten", name="verlust", folds=3, metric="log_loss")
    overrides = [
        "frozen_epochs=12",
        "frozen_rate=0.2",
        "frozen_schedule=constant",
        "epochs=12",
        "rate=0.02",
        "schedule=constant",
        "patience=12",
        "batch_size=8",
        "dropout=0",
    ]
    run = train("baseline", name="verlust", overrides=overrides, run="loss")
    apart = 0
    for fold in range(3):
        history = pd.read_csv(run / f"fold_{fold}/history.csv")
        for phase, rows in history.groupby("phase"):
            apart += rows["val_loss"].idxmin() != rows["val_accuracy"].idxmax()
        rows = history[history["phase"] == "full"]
        best = int(rows["epoch"][rows["val_loss"].idxmin()])
        assert files.read_json(run / f"fold_{fold}/fold.json")["best_epoch"] == best
        kept = np.load(run / f"fold_{fold}/epochs/{best:03d}.npz")["probs"]
        np.testing.assert_array_equal(read_oof(run, table).probs[0][table.fold == fold], kept)
    assert apart, "accuracy would choose the same"
    record, loss = files.read_json(run / "run.json"), log_loss(read_oof(run, table).probs[0], table.labels)
    assert (record["config"]["metric"], record["metric"], record["score"]) == ("log_loss", "log_loss", loss)
    assert f", log_loss {loss:.4f}, " in capsys.readouterr().out

    make_folds(place / "Drei Arten", name="verlust", folds=3, force=True)  # by accuracy: another choice
    with pytest.raises(InputError, match=r"begun with metric = log_loss \(now None\)"):
        train("baseline", name="verlust", overrides=overrides, run="loss")
    shutil.rmtree(run)
    last = train("baseline", name="verlust", overrides=["epochs=1", "batch_size=8"], run="last")
    record = files.read_json(last / "run.json")
    assert not {"metric", "score"} & {*record, *record["config"]}
    assert "log_loss 0." not in capsys.readouterr().out


def test_without_patience_the_last_epoch_counts(table):
    run = train("baseline", name="arten", run="last", overrides=["epochs=4", "rate=0.1", "batch_size=8"])
    for fold in range(3):
        assert files.read_json(run / f"fold_{fold}/fold.json")["best_epoch"] == 4
        last = np.load(run / f"fold_{fold}/epochs/004.npz")["probs"]
        np.testing.assert_array_equal(read_oof(run, table).probs[0][table.fold == fold], last)


# --------------------------------------------------------------------------------------------- models from the folder


def check_fold_models(run, table, folds):
    run, images, oof = read_run(run, table), load_images(table).astype(np.float32), read_oof(run, table)
    for fold in folds:
        model = run.build_fold_model(table, fold)
        held_out = table.fold == fold
        for view, expected in zip(oof.views, oof.probs):
            np.testing.assert_allclose(predict(model, VIEWS[view](images[held_out])), expected[held_out], atol=1e-5)


def test_fold_models_reproduce_the_oof(full, frozen, table):
    check_fold_models(full, table, range(3))
    check_fold_models(frozen, table, [1])


def test_a_shared_backbone_and_its_heads_reproduce_the_oof(frozen, table):
    run = read_run(frozen, table)
    assert run.frozen and not run.config["recipe"]["epochs"]
    backbone, (layer,) = run.build_shared(table)
    features = predict(backbone, load_images(table))
    assert layer.shape == (3, features.shape[1] + 1, 3) and layer.dtype == np.float32
    kernel, bias = layer[:, :-1], layer[:, -1]
    expected = read_oof(frozen, table).probs[0]
    for fold in range(3):
        rows = table.fold == fold
        np.testing.assert_allclose(softmax(features[rows] @ kernel[fold] + bias[fold]), expected[rows], atol=1e-5)


@pytest.mark.parametrize("overrides", [["frozen_epochs=20"], ["frozen_epochs=9", "epochs=1", "rate=1e-12"]])
def test_hidden_layers_of_the_head(overrides, table, as_if_pretrained):
    """They learn, the second phase begins with what the first has learnt, and fold models have them."""
    run = train(
        "baseline",
        name="arten",
        run=f"hidden{len(overrides)}",
        overrides=[*overrides, "head=6,5", "frozen_rate=0.01", "batch_size=8", "dropout=0.1"],
    )
    check_fold_models(run, table, [0, 1])
    model = read_run(run, table).build_fold_model(table, 1)
    assert [model.get_layer(name).units for name in ("hidden_0", "hidden_1", "logits")] == [6, 5, 3]
    with np.load(run / "fold_1/head.npz") as saved:
        for name in ("hidden_0", "hidden_1"):
            kernel, bias = map(np.asarray, model.get_layer(name).get_weights())
            np.testing.assert_allclose(np.append(kernel, bias[None], 0), saved[name], atol=1e-6)
            assert bias.any(), "it has learnt"
    if len(overrides) == 1:
        backbone, layers = read_run(run, table).build_shared(table)
        rows = table.fold == 1
        found = heads.predict_heads([layer[1] for layer in layers], predict(backbone, load_images(table)[rows]))
        np.testing.assert_allclose(found, read_oof(run, table).probs[0][rows], atol=1e-5)
    else:
        predictions = [np.load(run / f"fold_1/epochs/{epoch:03d}.npz")["probs"] for epoch in (9, 10)]
        np.testing.assert_allclose(*predictions, atol=1e-5)


def test_the_average_of_the_weights_is_what_counts(table, monkeypatch):
    """By hand, from the weights after each step; killed after an epoch and after the last it comes out the same."""
    overrides = ("epochs=3", "batch_size=8", "rate=0.01", "ema=0.8")
    train_on_batch, steps = keras.Model.train_on_batch, []

    def spy(model, *arguments):
        found = train_on_batch(model, *arguments)
        steps.append([np.asarray(variable).copy() for variable in model.trainable_variables])
        return found

    monkeypatch.setattr(keras.Model, "train_on_batch", spy)
    whole = train("baseline", name="arten", run="average", overrides=overrides)
    monkeypatch.setattr(keras.Model, "train_on_batch", train_on_batch)
    count = len(steps) // 9
    own = steps[3 * count : 6 * count]  # fold 1
    averages = [own[0]]
    for weights in own[1:]:
        averages.append([0.8 * average + 0.2 * now for average, now in zip(averages[-1], weights)])
    model = read_run(whole, table).build_fold_model(table, 1)
    for found, average, last in zip(model.trainable_variables, averages[-1], own[-1], strict=True):
        np.testing.assert_allclose(np.asarray(found), average, atol=1e-5)
        assert np.abs(average - last).max() > 1e-3
    check_fold_models(whole, table, [1])
    images = load_images(table)[table.fold == 1]
    for epoch in (1, 2, 3):
        for variable, average in zip(model.trainable_variables, averages[epoch * count - 1]):
            variable.assign(average)
        probs = np.load(whole / f"fold_1/epochs/{epoch:03d}.npz")["probs"]
        np.testing.assert_allclose(predict(model, images), probs, atol=1e-5)

    def die():
        calls.append(1)
        if len(calls) % 2:
            raise Killed

    calls = []
    for _ in range(10):
        with contextlib.suppress(Killed):
            again = train("baseline", name="arten", run="average-killed", overrides=overrides, callbacks=[Calling(die)])
    assert len(calls) == 18  # each epoch is told again by the run that goes on
    same_run(again, whole)
    weights = [read_run(run, table).build_fold_model(table, 2).get_weights() for run in (again, whole)]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_statistics_of_batch_normalisation_are_learnt_when_the_recipe_says_so_and_saved(place, tmp_path):
    """Also: weights from a file, layer-wise rates, a network that enlarges its images, an average of its weights."""
    import keras

    make_folds(place / "Drei Arten", name="halb", folds=2)
    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3))
    network.save_weights(tmp_path / "m.weights.h5")
    moving = [np.asarray(v).copy() for v in network.non_trainable_variables]
    run = train(
        "mobilenet",
        name="halb",
        weights=str(tmp_path / "m.weights.h5"),
        run="net",
        overrides=[
            "frozen_epochs=1",
            "epochs=1",
            "image_size=32",
            "batch_size=8",
            "batchnorm=train",
            "layer_decay=0.5",
            "ema=0.5",
        ],
    )
    table = read_folds("halb")
    check_fold_models(run, table, [1])
    learnt = read_run(run, table).build_fold_model(table, 1).get_layer("backbone").non_trainable_variables
    assert any((np.asarray(one) != two).any() for one, two in zip(learnt, moving, strict=True))
    history = pd.read_csv(run / "fold_0/history.csv")
    assert history["phase"].tolist() == ["frozen", "full"] and history["epoch"].tolist() == [1, 2]
    refusal = ["train", "--model", "mobilenet", "--name", "halb", "--run", "net", "--weights"]
    network.layers[1].set_weights([w + 1 for w in network.layers[1].get_weights()])
    network.save_weights(tmp_path / "other.weights.h5")
    assert main([*refusal, str(tmp_path / "other.weights.h5")]) == 2


def test_layer_decay_scales_the_steps(table):
    """AdamW's first step is as long as the rate, whatever the gradient: what a layer moves tells its rate."""
    moved = {}
    for decay in (1.0, 0.01):
        settings = Recipe(epochs=1, layer_decay=decay)
        model = build_classifier("scratch", table.size, len(table.classes), settings, Weights("none"))
        compile_model(model, 0.0, 0.0, layer_rates(model, settings))
        model.optimizer.learning_rate = 1e-3
        rng = np.random.default_rng(0)
        model.get_layer("logits").kernel.assign(rng.normal(size=model.get_layer("logits").kernel.shape))
        layers = [layer for layer in model.get_layer("backbone").layers if layer.weights] + [model.get_layer("logits")]
        before = [np.asarray(layer.kernel).copy() for layer in layers]
        inputs = rng.uniform(0, 255, (8, 16, 16, 3)).astype(np.float32)
        model.train_on_batch(inputs, np.eye(3, dtype=np.float32)[np.arange(8) % 3])
        moved[decay] = [np.abs(np.asarray(layer.kernel) - old).max() for layer, old in zip(layers, before)]
    np.testing.assert_allclose(moved[1.0], 1e-3, rtol=0.05)
    np.testing.assert_allclose(moved[0.01], 1e-3 * 0.01 ** (1 - np.arange(7) / 6), rtol=0.05)


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_weights_decay_at_the_rate_of_their_layer(layer_decay, table):
    """Images of weight 0 have no gradient: what moves is the decay's, of kernels alone."""
    settings = Recipe(epochs=1, layer_decay=layer_decay)
    model = build_classifier("scratch", table.size, len(table.classes), settings, Weights("none"))
    compile_model(model, 0.1, 0.0, layer_rates(model, settings))
    model.optimizer.learning_rate = 0.5
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    model.train_on_batch(load_images(table)[:8].astype(np.float32), np.eye(3)[np.arange(8) % 3], np.zeros(8))
    layers = [layer for layer in model.get_layer("backbone").layers if layer.weights] + [model.get_layer("logits")]
    kept = [float(np.unique(layer.kernel).item()) for layer in layers]
    np.testing.assert_allclose(kept, 1 - 0.1 * 0.5 * layer_decay ** (1 - np.arange(7) / 6), rtol=1e-6)
    assert all((np.asarray(variable) == 1).all() for variable in model.trainable_variables if variable.name != "kernel")


def test_a_step_is_traced_once(table, monkeypatch):
    """Variables that the first step makes, of a metric say, have TensorFlow trace it once more."""
    model = build_classifier("scratch", table.size, len(table.classes), Recipe(epochs=1), Weights("none"))
    compile_model(model, 0.0, 0.0, {})
    traced, step = [], model.train_step
    monkeypatch.setattr(model, "train_step", lambda data: traced.append(1) or step(data))
    for _ in range(2):
        model.train_on_batch(load_images(table)[:4].astype(np.float32), np.eye(3)[[0] * 4], np.ones(4))
    assert len(traced) == 1


def test_labels_are_smoothed(table):
    """The slope of the loss in the logits is p - y: of y, 0.3 goes to the three classes alike."""
    model = build_classifier("baseline", table.size, len(table.classes), Recipe(epochs=1), Weights("none"))
    compile_model(model, 0.0, 0.3, {})
    model.train_on_batch(load_images(table)[:4].astype(np.float32), np.eye(3)[[0] * 4])
    (momentum,) = [v for v in model.optimizer.variables if v.shape == (3,) and "momentum" in v.path]
    np.testing.assert_allclose(np.asarray(momentum) / (1 - heads.BETA_1), 1 / 3 - np.array([0.8, 0.1, 0.1]), rtol=1e-4)


def test_a_share_of_the_layers_keeps_its_weights(table):
    settings = Recipe(epochs=1, frozen_share=0.5, batchnorm="train")
    model = build_classifier("scratch", table.size, len(table.classes), settings, Weights("none"))
    compile_model(model, 0.1, 0.0, layer_rates(model, settings))
    model.optimizer.learning_rate = 0.01
    model.get_layer("logits").kernel.assign(
        np.random.default_rng(0).normal(size=model.get_layer("logits").kernel.shape)
    )
    layers = model.get_layer("backbone").layers
    before = [layer.get_weights() for layer in layers]
    model.train_on_batch(load_images(table)[:8].astype(np.float32), np.eye(3)[np.arange(8) % 3])
    moved = [
        any((new != old).any() for new, old in zip(layer.get_weights(), weights))
        for layer, weights in zip(layers, before)
    ]
    half = round(len(layers) / 2)
    assert any(before[:half]) and not any(moved[:half])
    assert moved[half:] == [bool(weights) for weights in before[half:]]


# ---------------------------------------------------------------------------------------------------- other data


def test_grey_oblong_pictures_from_a_csv_go_through_train_and_blend(tmp_path, monkeypatch, capsys):
    """PNG, greyscale, several sizes, three classes with spaces and accents, labels in a CSV; all by command line."""
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    rows = []
    for i in range(24):
        image = f"bild {i:02}.png"
        shade = smooth(i, *((12, 20) if i % 4 else (30, 40)))[..., 0] // 4 + 60 * (i % 3)
        (tmp_path / image).write_bytes(encode(shade.astype(np.uint8)))
        rows.append({"image": image, "label": ["accuracy", "étoile filante", "nuit, noire"][i % 3]})
    pd.DataFrame(rows).to_csv(tmp_path / "grey.csv", index=False)
    assert main(["folds", "--data", str(tmp_path / "grey.csv"), "--folds", "2"]) == 0
    files.write_text("tiny.toml", TINY)
    tiny = ["train", "--recipe", "tiny.toml", "--model"]
    assert main([*tiny, "baseline", "--set", "epochs=8", "--set", "rate=0.01"]) == 0
    assert main([*tiny, "scratch", "--set", "epochs=2 batch_size=6"]) == 0
    out = capsys.readouterr().out
    assert "true \\ predicted" in out and "étoile filante" in out and "OOF accuracy" in out
    assert main(["blend"]) == 0
    table = read_folds()
    assert table.size == (12, 20)
    for run in ("baseline-tiny", "scratch-tiny"):
        frame = pd.read_csv(folder / "runs/grey" / run / "oof.csv")
        assert list(frame) == ["image", "label", "fold", *table.classes] and frame["image"].tolist() == table.images
    assert (folder / "runs/grey/blend/oof.csv").exists() and read_oof(Path("runs/grey/baseline-tiny"), table)
    assert accuracy(read_oof(Path("runs/grey/baseline-tiny"), table).probs[0], table.labels) > 0.6
    assert main(["submission", "--run", "baseline-tiny"]) == 0  # the rehearsal compares height and width as well
    assert (folder / "submissions/grey.zip").exists()


def test_on_a_device_the_same_is_drawn(table, monkeypatch):
    """Symmetries alone, of which nothing is rounded: so all that follows is the same, too."""
    overrides = ("epochs=2", "batch_size=8", "rate=1e-3", "augment=d4,hflip", "views=identity")
    here = read_oof(train("baseline", name="arten", run="here", overrides=overrides), table)
    for module in (backend, batching):
        monkeypatch.setattr(module, "has_gpu", lambda: True)
    monkeypatch.setattr(backend, "_compute_capability", lambda: 7.5)
    drawn = []
    keep = batching.keep_on_device
    monkeypatch.setattr(batching, "keep_on_device", lambda *arguments: drawn.append(1) or keep(*arguments))
    there = read_oof(train("baseline", name="arten", run="there", overrides=overrides), table)
    assert drawn == [1]
    np.testing.assert_allclose(here.probs, there.probs, atol=1e-4)
    train("baseline", name="arten", run="mixed", overrides=(*overrides, "mixup=0.5", "epochs=1"))
    assert drawn == [1], "pairs are mixed by the processor"


def test_mixed_bfloat16(as_if_pretrained, table):
    """Weights are float32, and so is what is scored: the fold models say the same, validation nearly the same."""
    overrides = ("epochs=1", "frozen_epochs=1", "batch_size=8", "rate=1e-4", "precision=mixed_bfloat16")
    folder = train("scratch", name="arten", run="bf16", weights="none", overrides=overrides)
    run = read_run(folder, table)
    assert files.read_json(folder / "run.json")["precision"] == "mixed_bfloat16"
    fold = table.fold == 0
    probs = predict(run.build_fold_model(table, 0), load_images(table)[fold])
    expected = read_oof(folder, table).probs[0][fold]
    np.testing.assert_allclose(probs, expected, atol=1e-6)
    with np.load(folder / "fold_0" / "epochs" / "002.npz") as epoch:
        assert 0 < np.abs(epoch["probs"] - expected).max() < 0.05
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("batchnorm", ["frozen", "train"])
def test_frozen_batchnorm_and_stochastic_depth(batchnorm):
    """What a step sees of the backbone: the network of inference, or one with batch statistics and dropped blocks."""
    table = SimpleNamespace(size=(32, 32), classes=["a", "b"])
    settings = Recipe(batchnorm=batchnorm)
    model = build_classifier("efficientnet_lite0", table.size, len(table.classes), settings, Weights("none"))
    model.get_layer("logits").set_weights([np.random.default_rng(0).normal(size=(1280, 2)), np.zeros(2)])
    images = np.random.default_rng(1).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    same = np.array_equal(model(images, training=True), model(images, training=False))
    assert same == (batchnorm == "frozen")
    assert len(model.get_layer("backbone").trainable_weights) > 100, "gamma and beta learn all the same"
    assert len(fuse_batchnorm(model).weights) < len(model.weights) - 100


def test_fold_models_can_be_saved_whole(frozen, tmp_path):
    run, table = read_run(frozen, read_folds("zwei")), read_folds("zwei")
    assert run.recipe.batchnorm == "frozen"
    model = run.build_fold_model(table, 0)
    model.save(tmp_path / "model.keras")
    images = load_images(table)[:2]
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(predict(loaded, images), predict(model, images), atol=1e-5)


def test_progressive_resizing_grows_to_the_full_size(monkeypatch, table):
    """Four of six epochs on smaller images, two sizes; stopped in the midst of them it ends as if it had not been."""

    def build_backbone(model, size, *_):
        x = keras.layers.Conv2D(4, 3, 2)(image := keras.Input((*size, 3)))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(x))
        return keras.Model(image, x, name="backbone")

    monkeypatch.setattr(classifier, "build_backbone", build_backbone)
    overrides = ["epochs=6", "progressive=0.7", "batch_size=8", "rate=3e-3", "ema=0.5", "dropout=0.2", "views=identity"]
    options = {"name": "arten", "only_fold": 1, "overrides": overrides}
    seen, train_on_batch = [], keras.Model.train_on_batch

    def note(model, inputs, *others):
        assert inputs.shape[1:] == model.input_shape[1:]
        seen.append(tuple(inputs.shape[1:3]))
        return train_on_batch(model, inputs, *others)

    monkeypatch.setattr(keras.Model, "train_on_batch", note)
    once = train("scratch", run="growing", **options)
    assert [size for size, before in zip(seen, [None, *seen]) if size != before] == [(8, 8), (12, 12), (16, 16)]
    assert [seen.count((side, side)) * 6 // len(seen) for side in (8, 12, 16)] == [2, 2, 2]
    with pytest.raises(ZeroDivisionError):
        train(
            "scratch",
            run="growing-stopped",
            **options,
            callbacks=[Calling(lambda: 1 / (epochs_done(Path("runs/arten/growing-stopped/fold_1")) - 3))],
        )
    twice = train("scratch", run="growing-stopped", **options)
    for name in ("views.npz", "epochs/006.npz"):
        with np.load(once / "fold_1" / name) as one, np.load(twice / "fold_1" / name) as other:
            assert np.array_equal(one["probs"], other["probs"])


def test_progressive_resizing_of_oblong_images_and_what_cannot_have_it(table):
    settings = Recipe(epochs=4, progressive=0.5, least_size=64, precision="float32")
    oblong, images = replace(table, size=(16, 24)), np.zeros((len(table.labels), 16, 24, 3), np.uint8)
    start = build_recipe_backbone("mobilenet", oblong.size, settings, Weights("none")).get_weights()
    taught = {0: Taught(oblong, images)}
    phase = _build_phase(job_of(oblong, settings, "mobilenet"), images, taught, start)
    assert [model.input_shape[1:3] for model in phase.smaller] == [(32, 48), (48, 72)]
    assert phase.small == 2 and phase.model.input_shape[1:3] == (16, 24)  # which it enlarges
    with pytest.raises(InputError, match="progressive is 0.5, expected 0: the number of weights of baseline"):
        _build_phase(job_of(oblong, settings), images, taught, [])


def test_seeds_are_runs_that_differ_in_their_seed_alone(table):
    folders = training.train_seeds(3, "scratch", "tiny.toml", overrides=["epochs=1", "seed=4"], name="arten")
    assert [folder.name for folder in folders] == ["scratch-tiny", "scratch-tiny-seed1", "scratch-tiny-seed2"]
    recipes = [files.read_json(folder / "run.json")["config"]["recipe"] for folder in folders]
    assert recipes == [recipes[0] | {"seed": seed} for seed in (4, 5, 6)]
    first, *others = (read_oof(folder, table).probs for folder in folders)
    assert all((first != probs).any() for probs in others)
    with pytest.raises(InputError, match="SEEDS=0"):
        training.train_seeds(0, "scratch", "tiny.toml", name="arten")


def test_a_fold_is_trained_once_more_for_the_forecast(table, as_if_pretrained, capsys):
    def train_all(run, *overrides, **options):
        folders = training.train_seeds(1, "baseline", overrides=[*BOTH, *overrides], name="arten", run=run, **options)
        return {folder.name: [path.parent.name for path in sorted(folder.glob("*/fold.json"))] for folder in folders}

    all_folds = [f"fold_{fold}" for fold in range(table.k)]
    assert train_all("more-whole") == {"more-whole": all_folds, "more-whole-seed1": ["fold_0"]}
    printed = capsys.readouterr().out
    assert (
        "more-whole is done. Its first fold once more" in printed and "the forecast needs no other fold of" in printed
    )
    rows, others = trained_again(Workspace().runs / "arten/more-whole", table, ["identity"])
    assert set(table.fold[rows]) == {0} and len(others) == 1
    assert train_all("more-once", again="0") == {"more-once": all_folds}
    assert train_all("more-part", "rate=0.1", only_fold=1) == {"more-part": ["fold_1"]}
    assert train_all("study-x", "rate=0.2") == {"study-x": all_folds}, "what is only compared needs no forecast"
    assert train_all("more-heads", "epochs=0") == {"more-heads": all_folds}, "measured on heads that lack two folds"
    assert train_all("more-copies", "epochs=0", "frozen_copies=2", "augment=hflip") == {
        "more-copies": all_folds,
        "more-copies-seed1": ["fold_0"],
    }
    with pytest.raises(InputError, match="AGAIN=2"):
        train_all("more-wrong", again=2)

    assert train_all("more-part", "rate=0.1", only_fold="0,2") == {
        "more-part": all_folds,
        "more-part-seed1": ["fold_0"],
    }

    train_all("more-half", only_fold=2)
    training.train(
        "baseline",
        name="arten",
        run="more-copies-seed1",
        only_fold=1,
        overrides=[*BOTH, "epochs=0", "frozen_copies=2", "augment=hflip", "seed=1"],
    )
    capsys.readouterr()
    choose_runs(Workspace().competition("arten"), None)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "since unfinished" in line]
    assert {"more-copies-seed1", "more-half"} <= set(line.replace(",", " ").split())
    assert "more-whole-seed1" not in line, "that fold is not meant to blend"


def test_a_fold_more_that_cannot_be_trained_leaves_the_run_as_it_is(table, capsys):
    options = {"recipe": "tiny.toml", "name": "arten", "run": "apart"}
    training.train("scratch", overrides=["epochs=2", "seed=1"], only_fold=0, **options | {"run": "apart-seed1"})
    (folder,) = training.train_seeds(1, "scratch", overrides=["epochs=1"], **options)
    assert read_oof(folder, table) and "apart-seed1/run.json: this run was begun with" in capsys.readouterr().err


def test_of_two_folds_no_head_can_lack_two(place, as_if_pretrained):
    make_folds(place / "Drei Arten", name="halves", folds=2)
    folders = training.train_seeds(1, "baseline", overrides=[*BOTH, "epochs=0"], name="halves")
    assert [folder.name for folder in folders] == ["baseline-quick", "baseline-quick-seed1"]


def test_stopped_at_the_fold_for_the_forecast_a_run_is_whole(table, monkeypatch):
    real = training.train

    def stopped(*arguments, only_fold=None, **options):
        if only_fold is not None:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    options = {"overrides": ["epochs=1"], "name": "arten", "run": "more-stopped"}
    monkeypatch.setattr(training, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        training.train_seeds(1, "scratch", "tiny.toml", **options)
    before = files.sha256_file(Workspace().runs / "arten/more-stopped/oof.npz")
    monkeypatch.setattr(training, "train", real)
    folders = training.train_seeds(1, "scratch", "tiny.toml", **options)
    assert (folders[1] / "fold_0/fold.json").exists() and files.sha256_file(folders[0] / "oof.npz") == before


def test_other_names_and_class_orders_of_the_same_images_take_over_features(
    place, table, as_if_pretrained, monkeypatch
):
    make_folds(place / "Drei Arten", name="umgekehrt", folds=3, classes=table.classes[::-1])
    overrides = [*BOTH, "epochs=0", "frozen_copies=2", "augment=hflip,light"]
    forget_features()
    train("baseline", name="umgekehrt", run="alone", overrides=overrides)
    forget_features()
    train("baseline", name="arten", run="whose-features-serve", overrides=overrides)
    monkeypatch.setattr(extract, "_predict_parts", lambda model, parts, *_: (pytest.fail("computed") for _ in parts))
    train("baseline", name="umgekehrt", run="taken-over", overrides=overrides)
    same_run(*(Path("runs/umgekehrt", run) for run in ("alone", "taken-over")))
    forget_features()


def test_unlabelled_images_take_what_the_labelled_leave_of_their_half(table):
    class Teaching:
        def teach(self, job, images, taught):
            left.append(job.memory.images)
            return taught

    left, images = [], np.zeros((33, 16, 16, 3), np.uint8)
    for total in (10 * images.nbytes, images.nbytes):
        job = replace(job_of(table, Recipe(epochs=1)), memory=Memory(total, ""), teaching=Teaching())
        prepare_lessons(job, images)
    assert left == [4 * images.nbytes, 0]
