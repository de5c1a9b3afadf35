"""Classes of fewer images than folds: trained on in every fold, and never scored."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import encode

from competition.base import files
from competition.base.files import InputError
from competition.blending.forecast import lower_own_class
from competition.data.folds import make_folds
from competition.data.images import load_images, warn_of_others
from competition.features.augment import draw_numbers, plan_copies
from competition.insight.look import look
from competition.recipes import settle
from competition.runs.kinds import read_run
from competition.runs.oof import read_oof
from competition.runs.predict import each_fold
from competition.runs.tree import take_part
from competition.training import double, train

COLOURS = {"blue": (30, 60, 220), "green": (20, 200, 60), "red": (220, 40, 30)}


def coloured(path, colour, seed):
    noise = np.random.RandomState(seed).randint(-25, 25, (16, 16, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode((np.array(colour) + noise).clip(0, 255).astype(np.uint8)))


@pytest.fixture
def data(tmp_path, workdir):
    """Class folders of 16x16 pixels: 9 blue, 2 green and 9 red pictures; the green ones are fewer than 3 folds."""
    folder = tmp_path / "data"
    for label, count in (("blue", 9), ("green", 2), ("red", 9)):
        for i in range(count):
            coloured(folder / label / f"{i}.png", COLOURS[label], 100 * len(label) + i)
    files.write_text("tiny.toml", "batch_size = 8\nfrozen_epochs = 40\nfrozen_rate = 0.05\nviews = ['identity']\n")
    return folder


def green_probability(run, table):
    """What the fold models of a run say of the green pictures, [k]."""
    green = load_images(replace(table, frame=table.train_only, train_only=None))
    found = each_fold(read_run(run, table), table, list(range(table.k)), ["identity"], green)
    return [views["identity"][:, 1].min() for _, _, views in found]


# ------------------------------------------------------------------------------------------------------- the table


def test_a_rare_class_has_no_fold_and_its_images_come_apart(data, capsys):
    table = make_folds(data, folds=3)
    said = capsys.readouterr().out
    assert "1 classes have fewer different images than FOLDS=3: green (2); 2 images are in the training part of" in said
    assert table.k == 3 and len(table.frame) == 18 and table.classes == ["blue", "green", "red"]
    assert table.train_only["image"].tolist() == ["green/0.png", "green/1.png"]
    assert table.everything.fold.tolist() == [*table.fold, -1, -1] and table.everything.train_only is None
    assert sorted(set(table.labels)) == [0, 2]
    assert table.counts().loc["green"].tolist() == [0, 0, 0]
    rows = Path("folds/data.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows if "green/" in row] == ["-1", "-1"]
    record = json.loads(Path("folds/data.json").read_text())
    assert record["counts"]["green"] == 2 and record["images"] == 20
    assert "green" in table.show(1) and "2 images are only trained on" in table._repr_html_()
    warn_of_others(table)
    assert capsys.readouterr().err == ""


def test_a_rare_class_is_left_out_or_refused(data, capsys):
    table = make_folds(data, folds=3, rare="drop")
    assert table.classes == ["blue", "red"] and table.train_only is None and len(table.images) == 18
    assert "their 2 images were left out (RARE=drop)" in capsys.readouterr().out
    warn_of_others(table)
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError, match=r"fewer images than FOLDS=3 in class green \(2\)$"):
        make_folds(data, folds=3, rare="stop")
    with pytest.raises(InputError, match="RARE=keep: expected one of train, drop, stop"):
        make_folds(data, folds=3, rare="keep")
    with pytest.raises(InputError, match=r"FOLDS=10 in class blue \(9\), .*expected two classes with as many"):
        make_folds(data, folds=10)


def test_a_class_without_any_image_cannot_be_trained_on(data):
    for path in (data / "green").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"no image is left of class green; RARE=drop leaves out the class"):
        make_folds(data, folds=3, skip_bad=True)
    assert make_folds(data, folds=3, skip_bad=True, rare="drop").classes == ["blue", "red"]


def test_a_table_without_rare_classes_is_the_same_whatever_becomes_of_them(data):
    tables = [make_folds(data, name, folds=2, rare=name) for name in ("train", "drop", "stop")]
    assert len({table.hash for table in tables}) == 1


def test_no_fold_is_scored_on_a_picture_that_it_has_trained_on_under_a_rare_label(data):
    (data / "red/2.png").write_bytes((data / "green/0.png").read_bytes())
    table = make_folds(data, folds=3)
    assert set(table.train_only["image"]) == {"green/0.png", "green/1.png", "red/2.png"}
    assert "the whole of 1 rare classes (green)" in table.say_unscored()


def test_what_a_rare_class_takes_along_may_make_another_rare(data):
    for i in range(7):
        (data / f"red/{i}.png").write_bytes((data / "green/0.png").read_bytes())
    coloured(data / "pink/0.png", (250, 150, 160), 1)
    for i in range(1, 4):
        coloured(data / f"pink/{i}.png", (250, 150, 160), i)
    table = make_folds(data, folds=3)
    assert set(table.frame["label"]) == {"blue", "pink"}
    for path in (data / "pink").iterdir():
        path.write_bytes((data / "green/1.png").read_bytes())
    with pytest.raises(InputError, match="fewer than two classes have FOLDS=3 pictures"):
        make_folds(data, folds=3)


# ------------------------------------------------------------------------------------------------------ training


def test_copies_are_drawn_of_images_without_a_fold():
    labels, fold = np.array([0, 0, 0, 1]), np.array([0, 1, 2, -1])
    copies = plan_copies(labels, fold, np.array([0, 3]))
    assert copies.needed.tolist() == [[0, 2]] * 3 and copies.sources.tolist() == [0, 1, 2, 3, 3, 3]
    drawn = draw_numbers(copies, labels, fold, 1, np.random.RandomState(0))
    assert sorted(copies.sources[drawn].tolist()) == [0, 2, 3, 3, 3]


@pytest.fixture
def as_if_pretrained(monkeypatch):
    monkeypatch.setattr(settle, "is_pretrained", lambda model, weights: True)


@pytest.mark.parametrize("phase", [["frozen_epochs=60"], ["frozen_epochs=0", "epochs=30", "rate=1e-2"]])
def test_every_fold_learns_of_a_rare_class_and_nothing_scores_it(data, as_if_pretrained, capsys, phase):
    table = make_folds(data, folds=3)
    run = train.train("baseline", "tiny.toml", overrides=phase)
    assert "2 images are only trained on and count in no score" in capsys.readouterr().out
    assert read_oof(run, table).probs.shape == (1, 18, 3)
    assert min(green_probability(run, table)) > 0.4


def test_a_student_learns_of_a_rare_class_by_its_label(data, as_if_pretrained):
    table = make_folds(data, folds=3)
    teacher = train.train("baseline", "tiny.toml", run="teacher", overrides=["frozen_epochs=3"])
    student = train.train("baseline", "tiny.toml", run="student", overrides=["frozen_epochs=60"], teacher=teacher.name)
    assert min(green_probability(student, table)) > 0.4


def test_a_double_run_takes_a_rare_class_to_its_branch(data, as_if_pretrained):
    table = make_folds(data, folds=3)
    part = take_part(table, [["green"], ["blue", "red"]])
    assert part.everything.frame["label"].value_counts().to_dict() == {"blue + 1 more": 18, "green": 2}
    assert take_part(table, [["blue"], ["red"]]).train_only is None
    weights = ["class_weight={green=3, red=2}", "frozen_epochs=60"]
    run = double.double("baseline", "green", "tiny.toml", overrides=weights)
    assert min(green_probability(run, table)) > 0.4
    with pytest.raises(InputError, match="fold 0 has no image of green to train on"):
        take_part(replace(table, train_only=None), [["green"]])


def test_the_forecast_does_not_take_a_class_without_images_for_a_small_one():
    probs, labels, rows = np.full((6, 2), 0.5), np.array([0, 0, 0, 1, 1, 1]), np.arange(6)
    with_rare = np.hstack([probs * 0.9, np.full((6, 1), 0.1)])
    lowered = lower_own_class(with_rare, labels, rows, rows % 3)
    assert np.allclose(
        lowered[:, :2] / lowered[:, :2].sum(1, keepdims=True), lower_own_class(probs, labels, rows, rows % 3)
    )


def test_the_page_of_the_data_shows_rare_classes(data):
    make_folds(data, folds=3)
    assert len(look()) == 20
