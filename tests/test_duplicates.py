"""What stands alone of the data's part: near-duplicates of any folder, and the splitter."""

import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import encode
from test_groups import cloudy

from competition.base.files import InputError
from competition.data.duplicates import find_duplicates
from competition.data.folds import assign_folds, make_folds
from competition.data.splitter import StratifiedGroupFolds

COLUMNS = ["image", "sha256", "width", "height", "picture", "group", "exact", "near"]
TIED = {"a/0.png": "a/0.png", "a/copy.png": "a/0.png", "a/mirror.png": "a/0.png", "b/same.bmp": "a/0.png"}


def draw(folder):
    """Two folders: one picture as it is, copied, mirrored and as another format, and 9 others; 80 x 64."""
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for i in range(10):
        (folder / "ab"[i % 2] / f"{i}.png").write_bytes(encode(cloudy(i)))
    (folder / "a/copy.png").write_bytes((folder / "a/0.png").read_bytes())
    (folder / "a/mirror.png").write_bytes(encode(cloudy(0)[:, ::-1]))
    (folder / "b/same.bmp").write_bytes(encode(cloudy(0), "BMP"))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("photos") / "my photos")


def groups_of(found):
    return dict(zip(found["image"], found["group"]))


def test_copies_of_each_kind_are_one_group(photos):
    found = find_duplicates(photos)
    assert list(found) == ["image", "label", *COLUMNS[1:]]
    assert found["image"].is_monotonic_increasing and len(found) == 13
    assert groups_of(found) == {image: TIED.get(image, image) for image in found["image"]}
    rows = found.set_index("image")
    assert rows["exact"][rows["exact"]].index.tolist() == ["a/0.png", "a/copy.png", "b/same.bmp"]
    assert rows["near"][rows["near"]].index.tolist() == ["a/0.png", "a/copy.png", "a/mirror.png", "b/same.bmp"]
    assert rows["picture"]["a/0.png"] == rows["picture"]["b/same.bmp"] == 0 != rows["picture"]["a/mirror.png"]
    assert rows["picture"].nunique() == 11 and rows["picture"].dtype == np.int64
    assert (rows["width"] == 80).all() and (rows["height"] == 64).all()
    assert (rows["label"] == [image[0] for image in rows.index]).all()


def test_bytes_alone(photos):
    found = find_duplicates(photos, near=False)
    tied = found[found["group"] != found["image"]]
    assert tied["image"].tolist() == ["a/copy.png"] and not found["near"].any() and found["exact"].sum() == 2


def test_no_labels_are_needed(photos, tmp_path):
    flat = tmp_path / "top" / "flat"
    (flat / "deep" / "deeper").mkdir(parents=True)
    for path in photos.rglob("*.*"):
        folder = flat / "deep" / "deeper" if path.name == "mirror.png" else flat
        (folder / path.name).write_bytes(path.read_bytes())
    found = find_duplicates(flat)
    assert list(found) == COLUMNS and len(found) == 13
    group = ["0.png", "copy.png", "deep/deeper/mirror.png", "same.bmp"]
    assert found["image"][found["group"] == "0.png"].tolist() == group
    assert find_duplicates(tmp_path)["image"][0] == "top/flat/0.png"  # relative to the folder given
    few = find_duplicates([flat / "0.png", flat / "copy.png", flat / "deep/deeper/mirror.png"])
    assert few["group"].nunique() == 1  # all of a small folder may be one picture
    assert few["image"].tolist() == [(flat / name).as_posix() for name in group[:3]]


def test_a_split_is_no_class(photos, tmp_path):
    """What leaks from train to test is what many look for."""
    for old, new in (("a", "train"), ("b", "test")):
        (tmp_path / new).mkdir()
        for path in (photos / old).iterdir():
            (tmp_path / new / path.name).write_bytes(path.read_bytes())
    found = find_duplicates(tmp_path)
    assert list(found) == COLUMNS and groups_of(found)["train/copy.png"] == "test/same.bmp"


def test_zips_and_tables_say_the_same(photos, tmp_path):
    expected = find_duplicates(photos)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in photos.rglob("*.*"):
            archive.write(path, path.relative_to(photos).as_posix())
    pd.testing.assert_frame_equal(find_duplicates(tmp_path / "photos.zip"), expected)
    for columns in (["image", "label"], ["image"]):
        path = photos / "table.csv"
        expected[columns].to_csv(path, index=False)
        try:
            pd.testing.assert_frame_equal(find_duplicates(path), expected[columns + COLUMNS[1:]])
        finally:
            path.unlink()


def test_groups_are_those_of_the_fold_table(photos, workdir):
    """One label column, one dealing: the same sets of images."""
    table = make_folds(photos, folds=2).frame
    found = find_duplicates(photos, folds=2).set_index("image").loc[table["image"]]
    pairs = set(zip(table["group"], found["group"]))
    assert len(pairs) == table["group"].nunique() == found["group"].nunique() == 10
    assert found["sha256"].tolist() == table["sha256"].tolist()


def test_files_that_are_no_pictures(photos, tmp_path, capsys):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(encode(cloudy(int(name[0]))))
    (tmp_path / "3.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"^3.png: no picture that can be read"):
        find_duplicates(tmp_path)
    capsys.readouterr()
    assert find_duplicates(tmp_path, skip_bad=True)["image"].tolist() == ["1.png", "2.png"]
    assert "1 files left out: 3.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: path / "none", "no such file or folder, expected a folder of images"),
        (lambda path: path, "found nothing, expected a folder of images"),
        (lambda path: [], "an empty list"),
        (lambda path: [path / "x.png"], "x.png: no such file"),
    ],
)
def test_what_is_no_data(tmp_path, make, words):
    with pytest.raises(InputError, match=words):
        find_duplicates(make(tmp_path))


def test_splitter_deals_as_the_fold_table():
    random = np.random.default_rng(0)
    labels, groups = random.integers(0, 3, 200), random.integers(0, 60, 200)
    splitter = StratifiedGroupFolds(4, random_state=7)
    parts = list(splitter.split(np.zeros((200, 2)), labels, groups))
    assert len(parts) == splitter.get_n_splits() == 4
    fold = assign_folds(labels.astype(str), groups.astype(str), 4, 7)
    named = list(splitter.split(None, labels.astype(str), groups.astype(str)))
    for k, (train, test) in enumerate(parts):
        assert not set(groups[train]) & set(groups[test])
        assert (np.sort(np.concatenate([train, test])) == np.arange(200)).all()
        assert (named[k][1] == np.flatnonzero(fold == k)).all()
    assert (np.sort(np.concatenate([test for _, test in parts])) == np.arange(200)).all()


def test_splitter_without_groups_is_scikit_learn_s():
    from sklearn.model_selection import StratifiedKFold

    labels = np.repeat(["x", "y"], [30, 20])
    expected = StratifiedKFold(5, shuffle=True, random_state=3).split(labels, labels)
    for (train, test), (other_train, other_test) in zip(StratifiedGroupFolds(5, 3).split(labels, labels), expected):
        assert (train == other_train).all() and (test == other_test).all()


def test_splitter_serves_cross_val_score():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score

    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = labels[:, None] + 0.1 * random.standard_normal((60, 3))
    splitter = StratifiedGroupFolds(3)
    scores = cross_val_score(LogisticRegression(), features, labels, groups=np.arange(60) // 2, cv=splitter)
    assert len(scores) == 3 and min(scores) > 0.9
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=splitter)
    search.fit(features, pd.Series(labels), groups=pd.Series(np.arange(60) // 2).astype(str))
    assert search.n_splits_ == 3 and repr(splitter) == "StratifiedGroupFolds(n_splits=3, random_state=0)"


@pytest.mark.parametrize(
    "labels, groups, words",
    [
        ([0, 0, 0, 1], [0, 0, 1, 1], "groups: 2 different ones, expected n_splits=3"),
        ([0, 0, 1, 1], [0, 1, 2, 3], "y: 2 rows in the largest class"),
        ([0, 0, 0, 1], [0, 1, 2], "have 4, 4 and 3 rows"),
        ([[0, 1]], None, "shape"),
        ([0.5, 0.1, 0.2, 0.3], None, "float64"),
        (["a", "a", "a", None], None, "missing"),
    ],
)
def test_splitter_names_what_it_cannot_split(labels, groups, words):
    with pytest.raises(InputError, match=words):
        next(StratifiedGroupFolds(3).split(np.zeros(4), labels, groups))


def test_splitter_checks_its_settings_and_warns_of_small_classes():
    with pytest.raises(ValueError, match="n_splits=1"):
        StratifiedGroupFolds(1)
    labels, groups = np.array([0] * 8 + [1] * 2), np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 7])
    with pytest.warns(UserWarning, match="fewer groups than n_splits=3 in class 1"):
        list(StratifiedGroupFolds(3).split(labels, labels, groups))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(StratifiedGroupFolds(2).split(np.zeros(8), np.arange(8) % 2, np.arange(8) // 2))
