import contextlib
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders, encode, smooth

from competition import Competition, formats
from competition.base.files import InputError, read_json, sha256_file
from competition.base.workspace import Workspace
from competition.data.folds import make_folds
from competition.data.images import load_images
from competition.data.table import FoldTable, read_folds
from competition.data.unlabelled import read_test
from competition.formats import kaggle_csv
from competition.formats.kaggle_csv import predict_images
from competition.runs.predict import each_fold, predict_folds
from competition.submission.ensemble import read_ensemble
from competition.submission.sample_csv import Wanted, check_csv, fill_csv, match_ids, read_sample
from competition.submission.score_log import read_log
from competition.training.train import train

RUNS = Workspace().runs
SUBMISSIONS = Workspace().submissions

CLASSES = ["oak", "ash tree", "ähre"]
IMAGES = ["a/1.png", "a/2.png", "b/10.jpg"]


def unlabelled(images=IMAGES, data="/data/test.zip"):
    return FoldTable("toy/predict/test", pd.DataFrame({"image": images}), CLASSES, (8, 8), data, 0, "", "")


def sample(path, *lines):
    path = path / "sample_submission.csv"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


# ------------------------------------------------------------------------------------------------------- the sample


@pytest.mark.parametrize(
    "ids",
    [
        ["b/10.jpg", "a/2.png", "a/1.png"],
        ["b/10", "a/2", "a/1"],
        ["10.jpg", "2.png", "1.png"],
        ["10", "2", "1"],
        ["test/b/10.jpg", "test/a/2.png", "test/a/1.png"],
    ],
)
def test_ids_may_be_paths_or_names_with_or_without_endings(ids):
    assert match_ids("s.csv", ids, IMAGES, "test") == ["b/10.jpg", "a/2.png", "a/1.png"]


def test_ids_that_fit_no_image_or_several_are_named():
    with pytest.raises(
        InputError, match=r"s.csv: line 2: id '4' is the name of no test image .1 more.*such as a/1.png"
    ):
        match_ids("s.csv", ["4", "3"], IMAGES)
    assert match_ids("s.csv", ["1", "3"], IMAGES) == ["a/1.png", None]
    with pytest.raises(InputError, match="line 2: id '1' is the name of 2 images .a/1.png, b/1.png"):
        match_ids("s.csv", ["1"], ["a/1.png", "b/1.png"])


@pytest.mark.parametrize(
    "header, value, asked, expected",
    [
        ("id,label", "ash tree", False, ("labels", [])),
        ("id,label", "", False, ("labels", [])),
        ("id,label", "0", False, ("labels", [])),
        ("id,ähre,oak,ash tree", "0.1,0.2,0.7", False, ("probabilities", [2, 0, 1])),
        ("id,ähre,oak,ash tree", "0,0,0", True, ("probabilities", [2, 0, 1])),
        ("id,2,0,1", "0,0,0", False, ("probabilities", [2, 0, 1])),
    ],
)
def test_the_columns_say_what_is_wanted(tmp_path, header, value, asked, expected):
    path = sample(tmp_path, header, f"1,{value}", f"10,{value}", f"2,{value}")
    wanted = read_sample(path, unlabelled(), CLASSES, asked)
    assert (wanted.values, wanted.order) == expected and wanted.columns == header.split(",")
    assert wanted.ids == ["1", "10", "2"] and wanted.images == ["a/1.png", "b/10.jpg", "a/2.png"]


def test_class_names_that_are_numbers_are_labels_and_two_classes_may_want_one_probability(tmp_path):
    path = sample(tmp_path, "id,label", "1,2", "2,2", "10,1")
    assert read_sample(path, unlabelled(), ["1", "2", "3"]).values == "labels"
    cases = ("label", False, "0.5", [1]), ("cat", False, "0.5", [0]), ("x", True, "0", [1])
    for column, asked, value, expected in cases:
        path = sample(tmp_path, f"id,{column}", *(f"{name},{value}" for name in ("1", "2", "10")))
        wanted = read_sample(path, unlabelled(), ["cat", "dog"], asked)
        assert (wanted.values, wanted.order) == ("one probability", expected)


def test_two_classes_and_a_metric_of_probabilities(tmp_path, capsys):
    """The usual placeholder is 0, which is no class id then."""
    for metric, value, expected in (
        ("auc", "0", ("one probability", [1])),
        ("log_loss", "1", ("one probability", [1])),
        ("accuracy", "0", ("labels", [])),
        ("auc", "dog", ("labels", [])),
        ("auc", "-1", ("one probability", [1])),
    ):
        path = sample(tmp_path, "id,label", *(f"{name},{value}" for name in ("1", "2", "10")))
        wanted = read_sample(path, unlabelled(), ["cat", "dog"], metric=metric)
        assert (wanted.values, wanted.order) == expected
        assert ("taken for the probability of dog" in capsys.readouterr().out) == (expected[0] == "one probability")


def test_ids_with_a_point_and_folders_with_one(tmp_path):
    path = sample(tmp_path, "id,label", "test.v2/a/1,0.0", "test.v2/a/2,1.0", "test.v2/b/10,0.0")
    wanted = read_sample(path, unlabelled(data="/data/test.v2"), CLASSES)
    assert wanted.values == "class ids" and wanted.images == IMAGES


@pytest.mark.parametrize(
    "lines, message",
    [
        (["id,label", "1,oak", "1,oak"], "ids more than once: 1"),
        (
            ["id,label", "1,elm", "2,oak"],
            "line 2: found 'elm' in label, expected a class .oak, ash tree, ähre. or .* 0 to 2",
        ),
        (["id,label", "1,oak", "2,3"], "line 3: found '3' in label"),
        (["id,label", "1,0.5", "2,0.25"], "line 2: found '0.5'.*LABELS=names or LABELS=ids"),
        (["id,label", ",oak", "2,oak"], "line 2: no id, expected the name of a test image"),
        (["id,oak,ash tree,elm", "1,0,0,0"], "no column for: ähre; columns that are no class: elm"),
        (["id,oak,oak", "1,0,0"], "expected each name once"),
        (["id label", "1 oak"], "1 columns and 1 rows"),
        (["id,label"], "2 columns and 0 rows"),
        ([""], "not a CSV that can be read"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        read_sample(sample(tmp_path, *lines), unlabelled(), CLASSES)


def test_one_column_holds_no_probabilities_of_three_classes(tmp_path):
    with pytest.raises(InputError, match="one column, label; expected one for each of 3 classes"):
        read_sample(sample(tmp_path, "id,label", "1,oak"), unlabelled(), CLASSES, probabilities=True)
    with pytest.raises(InputError, match="nowhere.csv: no such file"):
        read_sample(tmp_path / "nowhere.csv", unlabelled(), CLASSES)
    with zipfile.ZipFile(tmp_path / "s.csv.zip", "w") as archive:
        archive.writestr("s.csv", "id,label\n1,oak\n")
    with pytest.raises(
        InputError, match="s.csv.zip: not a CSV that can be read: a zip, expected the CSV that is in it$"
    ):
        read_sample(tmp_path / "s.csv.zip", unlabelled(), CLASSES)


def test_images_that_the_sample_lacks_are_left_out_and_named(tmp_path, capsys):
    wanted = read_sample(sample(tmp_path, "id,label", "2,oak"), unlabelled(), CLASSES)
    assert wanted.images == ["a/2.png"] and "2 images of /data/test.zip" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- the CSV


def test_filled_by_hand():
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
    rows = ["b/10.jpg", "a/1.png"]
    labels = fill_csv(Wanted(["id", "label"], rows, ["10", "1"], "labels", []), IMAGES, probs, CLASSES)
    assert labels.to_numpy().tolist() == [["10", "ash tree"], ["1", "oak"]]
    ids = fill_csv(Wanted(["id", "label"], rows, ["10", "1"], "class ids", []), IMAGES, probs, CLASSES)
    assert ids["label"].tolist() == [1, 0]
    some = fill_csv(Wanted(["i", "ähre", "oak"], rows, ["10", "1"], "probabilities", [2, 0]), IMAGES, probs, CLASSES)
    assert some[["ähre", "oak"]].to_numpy().tolist() == np.float32([[0.3, 0.2], [0.1, 0.7]]).tolist()


@pytest.mark.parametrize(
    "content, message",
    [
        ("id,label\n1,oak\n2,ähre\n", None),
        ("id,class\n1,oak\n2,ähre\n", "columns id, class, expected id, label"),
        ("id,label\n1,oak\n", "1 rows, expected 2"),
        ("id,label\n2,ähre\n1,oak\n", "line 2: id '2', expected '1'"),
        ("id,label\n1,oak\n2,\n", "line 3: found '', expected one of oak"),
    ],
)
def test_a_finished_csv_is_checked(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content, "utf-8")
    wanted = Wanted(["id", "label"], ["1.png", "2.png"], ["1", "2"], "labels", [])
    with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
        check_csv(tmp_path / "a.csv", wanted, CLASSES)


@pytest.mark.parametrize("value", ["nan", "", "1.5", "-0.1", "inf"])
def test_no_probability_in_a_csv(tmp_path, value):
    (tmp_path / "a.csv").write_text(f"id,a,b\n1,0.5,{value}\n")
    with pytest.raises(InputError, match="line 2: found .*, expected a probability"):
        check_csv(tmp_path / "a.csv", Wanted(["id", "a", "b"], ["1"], ["1"], "probabilities", [0, 1]), ["a", "b"])


# -------------------------------------------------------------------------------------------------- the predictions


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """A work folder with two runs, one of heads alone, and test images beside it: a folder and a zip of it."""
    root = tmp_path_factory.mktemp("kaggle")
    class_folders(root / "data", {"oak": 8, "ash tree": 7, "ähre": 9}, height=12, width=16)
    (root / "test" / "deep").mkdir(parents=True)
    for number in range(9):
        height, width = (12, 16) if number else (30, 20)
        (root / f"test/deep/{number}.jpg").write_bytes(encode(smooth(100 + number, height, width), "JPEG"))
    with zipfile.ZipFile(root / "test.zip", "w") as archive:
        for path in sorted((root / "test").rglob("*.jpg")):
            archive.write(path, path.relative_to(root))
    (root / "work").mkdir()
    with (
        contextlib.chdir(root / "work"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        make_folds(root / "data", name="toy", folds=2)
        train("baseline", run="pixels", overrides=["epochs=2", "rate=0.003"])
        train("efficientnet_lite0", run="heads", overrides=["frozen_epochs=3", "frozen_rate=0.03", "image_size=0"])
    return root


@pytest.mark.parametrize("run", ["pixels", "heads"])
def test_the_csv_says_what_the_fold_models_say(competition, run, monkeypatch, capsys):
    monkeypatch.chdir(competition / "work")
    path = formats.make("kaggle-csv", run=run, test=competition / "test", probabilities=True)
    table = read_folds()
    ensemble = read_ensemble(table, run)
    unknown = read_test(competition / "test", table, table.paths.predict, 1)
    expected = predict_folds(ensemble.members[0][0], table, ensemble.views, load_images(unknown)).mean((0, 1))
    expected = expected ** (1 / ensemble.temperature)
    found = pd.read_csv(path)
    assert list(found) == ["id", *table.classes] and found["id"].tolist() == unknown.images
    np.testing.assert_allclose(found[table.classes], expected / expected.sum(1, keepdims=True), atol=1e-5)
    record = read_json(SUBMISSIONS / "toy.csv.json")
    assert record["format"] == "kaggle-csv" and record["source"] == f"run {run}"
    assert record["sha256"] == sha256_file(path)
    assert read_log()[-1]["sha256"] == record["sha256"] and read_log()[-1]["zip"] == "toy.csv"
    assert "9 rows" in capsys.readouterr().out

    if run == "heads":
        return
    lines = ["image,species", *(f"{number},{number % 2}" for number in range(8, -1, -1))]
    path = formats.make("kaggle-csv", run=run, test=competition / "test.zip", sample=sample(competition, *lines))
    assert pd.read_csv(path).to_numpy().tolist() == [[n, expected.argmax(1)[n]] for n in range(8, -1, -1)]


def test_what_was_predicted_before_is_not_predicted_again(competition, monkeypatch):
    monkeypatch.chdir(competition / "work")
    table = read_folds()
    ensemble, unknown = read_ensemble(table, "pixels"), read_test(competition / "test", table, table.paths.predict, 1)
    first = predict_images(ensemble, table, unknown)
    kept = [part.path for part in kaggle_csv._parts(*ensemble.members[0], ensemble.views, table, unknown)]
    assert len(kept) == 2 and kept[0].parent == RUNS / "toy/predict/test"
    kept[1].unlink()  # killed before it was written
    predict, asked = each_fold, []
    monkeypatch.setattr(
        kaggle_csv,
        "each_fold",
        lambda run, table, folds, *rest, **more: asked.extend(folds) or predict(run, table, folds, *rest, **more),
    )
    assert np.array_equal(predict_images(ensemble, table, unknown), first) and len(asked) == 1
    assert np.array_equal(predict_images(ensemble, table, unknown), first) and len(asked) == 1
    np.savez(kept[0], probs=np.full((9, 3), np.nan, np.float32))
    with pytest.raises(InputError, match="it gives probabilities that are no numbers"):
        predict_images(ensemble, table, unknown)
    kept[0].write_bytes(b"half")
    with pytest.raises(InputError, match="not what `make predict` wrote"):
        predict_images(ensemble, table, unknown)
    kept[0].unlink()


def test_images_that_the_sample_lacks_are_neither_predicted_nor_counted(competition, tmp_path, monkeypatch, capsys):
    """A download as TEST= holds the training images too."""
    monkeypatch.chdir(competition / "work")
    alone, whole = competition / "test", tmp_path / "download"
    shutil.copytree(alone, whole / "test")
    shutil.copytree(competition / "data", whole / "train")
    path = sample(tmp_path, "id,oak,ash tree,ähre", *(f"test/deep/{number}.jpg,0,0,0" for number in range(9)))
    expected = pd.read_csv(formats.make("kaggle-csv", run="pixels", test=alone, sample=path))
    forecast = read_json(SUBMISSIONS / "toy.csv.json")["forecast"]
    said = capsys.readouterr().out
    asked = []
    loaded = kaggle_csv.load_images
    monkeypatch.setattr(
        kaggle_csv, "load_images", lambda table, memory: asked.extend(table.images) or loaded(table, memory)
    )
    found = pd.read_csv(formats.make("kaggle-csv", run="pixels", test=whole, sample=path))
    assert asked == [f"deep/{number}.jpg" for number in range(9)]
    pd.testing.assert_frame_equal(found, expected, atol=1e-6)
    assert read_json(SUBMISSIONS / "toy.csv.json")["forecast"] == forecast and forecast["hidden_n"] == 9
    assert said.partition("9 rows")[2] == capsys.readouterr().out.partition("9 rows")[2], "shares and forecast"

    for file in (whole / "test/deep").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match="download: none of 9 images can be read: deep/0.jpg: "):
        formats.make("kaggle-csv", run="pixels", test=whole, sample=path)


def test_a_sample_that_is_missing_is_named_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"s\.csv: no such file, .*sample_submission\.csv; unpack it if it is in an"):
        formats.make("kaggle-csv", test="nowhere", sample="s.csv")


def test_a_test_set_that_holds_the_work_is_refused(competition, monkeypatch):
    monkeypatch.chdir(competition / "work")
    with pytest.raises(InputError, match="holds the current one"):
        formats.make("kaggle-csv", run="pixels", test=competition)


# ------------------------------------------------------------------------- test images that are missing or unreadable


@pytest.fixture
def damaged(competition, tmp_path, monkeypatch):
    """The work folder is the current one; the test images are here with one cut off, one empty and one a page."""
    monkeypatch.chdir(competition / "work")
    shutil.copytree(competition / "test", tmp_path / "damaged")
    for number, change in enumerate((lambda data: data[:-40], lambda data: b"", lambda data: b"<html>404</html>")):
        path = tmp_path / f"damaged/deep/{number}.jpg"
        path.write_bytes(change(path.read_bytes()))
    return tmp_path


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_images_that_cannot_be_read_or_are_missing_are_filled_and_named(competition, damaged, packed, capsys):
    whole = pd.read_csv(
        formats.make("kaggle-csv", run="pixels", test=competition / "test", probabilities=True), index_col="id"
    )
    capsys.readouterr()
    test = damaged / "damaged"
    if packed:
        test = Path(shutil.make_archive(str(test), "zip", test))
    path = sample(damaged, "image,species", *(f"{number},?" for number in (9, 4, 0, 8, 2, 1)))
    made = pd.read_csv(formats.make("kaggle-csv", run="pixels", test=test, sample=path))
    likeliest = [whole.loc[f"deep/{number}.jpg"].idxmax() for number in (4, 8)]
    assert made.to_numpy().tolist() == [
        [9, "ähre"], [4, likeliest[0]], [0, "ähre"], [8, likeliest[1]], [2, "ähre"], [1, "ähre"]
    ]  # fmt: skip
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "cannot be read" in line]
    assert "4 of 6 test images" in line and "likeliest class, ähre" in line and "STRICT=1" in line
    assert "9: no such file" in line and "deep/0.jpg: broken" in line and "deep/1.jpg: the file is empty" in line
    assert read_json(SUBMISSIONS / "toy.csv.json")["filled"] == ["9", "0", "2", "1"]

    made = pd.read_csv(formats.make("kaggle-csv", run="pixels", test=test, probabilities=True), index_col="id")
    assert made.index.tolist() == whole.index.tolist()
    shares = [7 / 24, 8 / 24, 9 / 24]
    np.testing.assert_allclose(made.iloc[:3], [shares] * 3, atol=1e-6)
    np.testing.assert_allclose(made.iloc[3:], whole.iloc[3:], atol=1e-5)
    assert "class shares of training" in capsys.readouterr().err


def test_strict_stops_and_names_all_of_them(damaged, capsys):
    before = sorted(SUBMISSIONS.glob("*"))
    path = sample(damaged, "image,species", "9,?", "4,?")
    with pytest.raises(InputError) as error:
        formats.make("kaggle-csv", run="pixels", test=damaged / "damaged", sample=path, strict=True)
    line = str(error.value)
    assert "4 test images are missing or cannot be read" in line and "\n" not in line
    for name in ("deep/0.jpg", "deep/1.jpg", "deep/2.jpg", "9: no such file"):
        assert name in line
    assert sorted(SUBMISSIONS.glob("*")) == before
    for path in (damaged / "damaged/deep").glob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of 9 images can be read: deep/0.jpg: the file is empty"):
        formats.make("kaggle-csv", run="pixels", test=damaged / "damaged")


def test_pseudo_labels_take_no_broken_image(damaged):
    table = read_folds()
    with pytest.raises(InputError, match="3 images cannot be read: deep/0.jpg: .*deep/1.jpg: .*deep/2.jpg: "):
        read_test(damaged / "damaged", table, fewest=1)


def test_a_csv_that_is_parted_by_semicolons_is_read_again(competition, monkeypatch):
    monkeypatch.chdir(competition / "work")
    path = sample(competition, "image;species", *(f"{number};oak" for number in range(9)))
    made = Competition(verbose=False).predict(test=competition / "test", run="pixels", sample=path, labels="ids")
    assert list(made.frame) == ["image", "species"] and set(made.frame["species"]) <= {"0", "1", "2"}
    with pytest.raises(InputError, match="LABELS=maybe: expected names or ids"):
        formats.make("kaggle-csv", run="pixels", test=competition / "test", labels="maybe")
