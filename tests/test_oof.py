import dataclasses
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from competition.base.files import InputError, write_json
from competition.base.metrics import accuracy, confusion, log_loss, per_class_accuracy
from competition.base.text import text_table
from competition.base.workspace import Workspace
from competition.data.table import FoldTable
from competition.runs.oof import read_fold, read_oof, read_predictions, write_fold, write_oof
from competition.runs.record import all_runs

# class names that trip readers
AWKWARD = ["image", "label", "fold", "Füchse, rot", "1.0", 'ein "Wort"', "nan"]


def make_table(classes=("a", "b", "c"), n=30, name="toy", **changes):
    classes = list(classes)
    labels = sorted(i % len(classes) for i in range(n))
    frame = pd.DataFrame(
        {
            "image": [f"{classes[label]}/bild {i:04}.png" for i, label in enumerate(labels)],
            "label": [classes[label] for label in labels],
            "fold": np.arange(n) % 5,
            "sha256": [f"{i:064x}" for i in range(n)],
        }
    )
    table = FoldTable(
        name=name, frame=frame, classes=classes, size=(8, 8), data="/data", seed=0, hash="a" * 64, data_hash="b" * 64
    )
    return dataclasses.replace(table, **changes)


def random_probs(table, seed=0):
    logits = np.random.default_rng(seed).normal(0, 4, (len(table.frame), len(table.classes)))
    odds = np.exp(logits)
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def write_run(folder, table, probs, finished=True):
    write_oof(folder, table, probs)
    record = {"config": {"classes": table.classes}, "table": table.hash, "data": table.data_hash}
    write_json(folder / "run.json", record | {"finished": finished})
    return folder


@pytest.fixture
def table():
    return make_table()


@pytest.fixture
def run(tmp_path, table):
    return write_run(
        tmp_path / "toy" / "net-quick", table, {"identity": random_probs(table), "hflip": random_probs(table, 1)}
    )


def refused(run, table, *words):
    with pytest.raises(InputError) as error:
        read_oof(run, table)
    line = str(error.value)
    assert "\n" not in line and all(word in line for word in words), line


def test_round_trip_is_bit_for_bit(tmp_path):
    table = make_table(AWKWARD, 3000)
    probs = {"hflip": random_probs(table, 1), "identity": random_probs(table)}
    probs["identity"][0] = np.eye(len(AWKWARD), dtype=np.float32)[2]
    probs["identity"][1] = [1, 1e-45, 1.1754944e-38, 1e-7, 0, 0, 0]  # denormals too
    read = read_oof(write_run(tmp_path / "r", table, probs), table)
    assert read.run == "r" and read.views == ["hflip", "identity"] and read.probs.dtype == np.float32
    for view, values in zip(read.views, read.probs):
        assert values.tobytes() == probs[view].tobytes()
    np.testing.assert_array_equal(read.mean(["identity"]), probs["identity"])
    both = (probs["identity"] + probs["hflip"]) / 2
    np.testing.assert_allclose(read.mean(["identity", "hflip"]), both, atol=1e-6)
    with pytest.raises(KeyError, match="vflip"):
        read.mean(["vflip"])


def test_csv_has_the_table_s_rows_and_the_identity_view_in_shortest_form(tmp_path, table):
    probs = np.full((30, 3), np.float32(0.1))
    probs[:, 2] = 0.8
    write_oof(tmp_path, table, {"hflip": random_probs(table), "identity": probs})
    lines = (tmp_path / "oof.csv").read_text("utf-8").split("\n")
    assert lines[:2] == ["image,label,fold,a,b,c", "a/bild 0000.png,a,0,0.1,0.1,0.8"] and len(lines) == 32
    frame = pd.read_csv(tmp_path / "oof.csv")
    assert frame["image"].tolist() == table.images and frame["fold"].tolist() == table.fold.tolist()


def test_files_depend_on_the_predictions_alone(tmp_path, table):
    probs = {"identity": random_probs(table)}
    for run in ("one", "two"):
        write_oof(tmp_path / run, table, probs)
    for name in ("oof.csv", "oof.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_write_refuses_what_is_no_prediction(tmp_path, table):
    good = random_probs(table)
    for bad in (np.nan, np.inf, -0.5, 3):
        probs = good.copy()
        probs[4, 1] = bad
        with pytest.raises(InputError, match="hflip, row 4.*expected prob"):
            write_oof(tmp_path, table, {"identity": good, "hflip": probs})
    with pytest.raises(ValueError, match="shape"):
        write_oof(tmp_path, table, {"identity": good[:-1]})
    with pytest.raises(ValueError, match="identity"):
        write_oof(tmp_path, table, {"vflip": good, "hflip": good})
    assert not list(tmp_path.iterdir())


def test_reads_its_own(run, table):
    assert read_oof(run, table).views == ["identity", "hflip"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"classes": ["b", "a", "c"]}, ["run.json", "a, b, c", "b, a, c"]),
        ({"classes": ["a", "b"]}, ["run.json", "classes"]),
        ({"data_hash": "c" * 64}, ["run.json", "other images", "bbbbbbbbbbbb", "cccccccccccc"]),
        ({"hash": "c" * 64}, ["run.json", "another fold table", "aaaaaaaaaaaa", "cccccccccccc"]),
    ],
)
def test_refuses_a_run_of_another_table(run, table, changes, words):
    refused(run, dataclasses.replace(table, **changes), *words)


@pytest.mark.parametrize(
    "column, value, words",
    [
        ("image", "a/other.png", ["entry 3", "'a/bild 0003.png'", "'a/other.png'"]),
        ("label", "b", ["oof.csv", "line 5", "label 'a'", "'b'"]),
        ("fold", 1, ["oof.csv", "line 5", "fold 3", "1"]),
    ],
)
def test_refuses_rows_that_differ_even_if_the_hashes_agree(run, table, column, value, words):
    frame = table.frame.copy()
    frame.loc[3, column] = value
    refused(run, dataclasses.replace(table, frame=frame), *words)


def test_refuses_another_order_or_number_of_images(run, table):
    refused(run, dataclasses.replace(table, frame=table.frame.iloc[::-1].reset_index(drop=True)), "entry 0")
    refused(run, dataclasses.replace(table, frame=table.frame[:-1]), "30 images", "29")


def test_refuses_unfinished_and_missing(run, table, tmp_path):
    for record in ({"finished": False}, {}):
        write_json(run / "run.json", record)
        refused(run, table, "run.json", "unfinished")
    (run / "run.json").write_text("[]")
    refused(run, table, "run.json", "list")
    (run / "run.json").write_text("{")
    refused(run, table, "run.json")
    refused(tmp_path / "nothing", table, "nothing", "no such file")


@pytest.mark.parametrize("name", ["oof.csv", "oof.npz"])
def test_refuses_missing_empty_and_broken_files(run, table, name):
    content = (run / name).read_bytes()
    for broken in (b"", b"\xff\xfe\x00 nonsense", content[: len(content) // 2]):
        (run / name).write_bytes(broken)
        refused(run, table, name, "expected")
    (run / name).unlink()
    refused(run, table, name, "no such file")


@pytest.mark.parametrize(
    "find, put, words",
    [
        ("image,label,fold,a,b,c", "image,label,fold,b,a,c", ["columns", "b, a, c"]),
        ("a/bild 0001.png,a,1,", "a/bild 0001.png,a,1,0.", ["oof.csv"]),
        ("a/bild 0001.png,a,1,", "a/bild 0001.png,a,1,x", ["oof.csv"]),
        ("a/bild 0001.png,a,1,", "a/bild 0001.png,a,1,,", ["oof.csv"]),
        ("a/bild 0001.png", "a/bild 0007.png", ["line 3"]),
    ],
)
def test_refuses_an_edited_csv(run, table, find, put, words):
    path = run / "oof.csv"
    text = path.read_text("utf-8")
    assert find in text
    path.write_text(text.replace(find, put), "utf-8")
    refused(run, table, *words)


def test_other_columns_are_named_in_one_message_and_not_in_two(run, table):
    path = run / "oof.csv"
    path.write_text(path.read_text("utf-8").replace("fold,a,b,c", "fold,b,a,c"), "utf-8")
    with pytest.raises(InputError) as caught:
        read_oof(run, table)
    assert str(caught.value) == f"{path}: columns image, label, fold, b, a, c, expected image, label, fold, a, b, c"


@pytest.mark.parametrize(
    "key, change, words",
    [
        ("probs", lambda x: x[:, :, :2], ["float32 [2, 30, 3]", "[2, 30, 2]"]),
        ("probs", lambda x: x.astype(np.float64), ["float64"]),
        ("probs", lambda x: x * np.nan, ["probabilities", "nan"]),
        ("views", lambda x: np.array(["hflip", "hflip"]), ["each once"]),
        ("views", lambda x: np.array(["rot180", "hflip"]), ["identity"]),
        ("classes", lambda x: x[::-1], ["oof.npz", "c, b, a"]),
        ("table", lambda x: np.array("x"), ["oof.npz", "fold table"]),
        ("data", lambda x: np.array("x"), ["oof.npz", "images"]),
    ],
)
def test_refuses_an_edited_npz(run, table, key, change, words):
    with np.load(run / "oof.npz") as file:
        arrays = dict(file)
    np.savez(run / "oof.npz", **arrays | {key: change(arrays[key])})
    refused(run, table, *words)


def test_one_other_view_alone_is_shown(tmp_path, table):
    probs = random_probs(table)
    write_oof(tmp_path, table, {"blend": probs})
    assert read_predictions(tmp_path, table).probs[0].tobytes() == probs.tobytes()


def test_lists_runs_and_whether_they_are_finished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = Workspace().competition("toy")
    assert all_runs(paths) == {}
    for run, finished in (("b", True), ("a", True), ("c", False), ("blend", True)):
        write_json(tmp_path / "runs" / "toy" / run / "run.json", {"finished": finished})
    (tmp_path / "runs" / "toy" / "empty").mkdir()
    assert all_runs(paths) == {"a": True, "b": True, "c": False}


def test_metrics_agree_with_scikit_learn():
    table = make_table(n=200)
    probs, labels = random_probs(table), table.labels
    probs[0] = [0, 0, 1]  # certain and wrong
    classes = np.arange(3)
    assert accuracy(probs, labels) == metrics.accuracy_score(labels, probs.argmax(1))
    with warnings.catch_warnings(action="ignore"):
        expected = metrics.log_loss(labels, probs, labels=classes)
    assert log_loss(probs, labels) == pytest.approx(expected, rel=1e-6)
    expected = metrics.confusion_matrix(labels, probs.argmax(1))
    np.testing.assert_array_equal(confusion(probs, labels), expected)
    expected = metrics.recall_score(labels, probs.argmax(1), average=None)
    np.testing.assert_allclose(per_class_accuracy(probs, labels), expected)


def test_metrics_where_a_class_has_no_images():
    probs = np.array([[0.8, 0.1, 0.1], [0.3, 0.3, 0.4]], np.float32)
    labels = np.array([0, 0])
    np.testing.assert_array_equal(per_class_accuracy(probs, labels), [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(confusion(probs, labels), [[1, 0, 1], [0, 0, 0], [0, 0, 0]])


def test_text_table_is_aligned():
    columns = {"run": ["a", "longer"], "accuracy": [0.5, 1], "n": [7, 123], "why": ["x", "because"]}
    frame = pd.DataFrame(columns)
    assert text_table(frame, decimals=2).split("\n") == [
        "run     accuracy   n why",
        "a           0.50   7 x",
        "longer      1.00 123 because",
    ]


def test_text_table_keeps_columns_of_one_name():
    frame = pd.DataFrame([["x", 1, "y"]], columns=["true", "n", "true"])
    assert text_table(frame).split() == ["true", "n", "true", "x", "1", "y"]


def test_starts_without_tensorflow():
    code = "import sys, competition.blending.blend, competition.runs.oof; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_fold_s_predictions_are_those_of_the_images_that_it_holds_out(tmp_path, table):
    rows = np.flatnonzero(table.fold == 2)
    views = {"identity": random_probs(table, 1)[rows], "hflip": random_probs(table, 2)[rows]}
    write_fold(tmp_path, table, 2, views)
    found = read_fold(tmp_path, table, 2)
    assert list(found) == list(views) and all(np.array_equal(found[view], views[view]) for view in views)
    with pytest.raises(InputError, match="views.npz: other images than toy holds out in that fold"):
        read_fold(tmp_path, table, 1)
    with pytest.raises(InputError, match="views.npz: expected the predictions of a fold, found .*No such file"):
        read_fold(tmp_path / "nowhere", table, 2)
    path = tmp_path / "views.npz"
    for content in (path.read_bytes()[:100], b"PK"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="views.npz: expected the predictions of a fold, found"):
            read_fold(tmp_path, table, 2)
