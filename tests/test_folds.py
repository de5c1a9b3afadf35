import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders, encode, smooth
from PIL import Image

from competition.base.arrays import Memory
from competition.base.files import InputError
from competition.base.option_values import parse_size
from competition.base.workspace import Workspace
from competition.data import duplicates
from competition.data.decode import check_values
from competition.data.folds import assign_folds, make_folds
from competition.data.images import load_images
from competition.data.sources import Source
from competition.data.table import read_folds, table_hash
from competition.data.unlabelled import read_test

ROOT = str(Path(__file__).parents[1])
COLUMNS = ["image", "label", "fold", "group", "sha256", "width", "height"]


@pytest.fixture
def data(tmp_path, workdir):
    """A folder of 3 classes, 31 images, beside an empty current directory."""
    return class_folders(tmp_path / "My data", {"oak": 7, "ash tree": 13, "élm": 11})


def begin_run(folder):
    """What `make train` leaves of a run that uses a table."""
    Path(folder).mkdir(parents=True)
    (Path(folder) / "run.json").write_text("{}")


def counts(table):
    """[class, fold] counts."""
    found = np.zeros((len(table.classes), table.k), int)
    np.add.at(found, (table.labels, table.fold), 1)
    return found


# -------------------------------------------------------------------------------- what is written


def test_the_table(data, capsys):
    table = make_folds(data)
    frame = pd.read_csv("folds/My_data.csv", dtype=str, keep_default_na=False)
    assert list(frame.columns) == COLUMNS == list(table.frame.columns)
    assert table.classes == ["ash tree", "oak", "élm"] == sorted(frame["label"].unique())
    assert frame["image"].tolist() == sorted(frame["image"])
    assert frame["image"][0] == "ash tree/000.png"
    assert (frame["label"] == frame["image"].str.split("/").str[0]).all()
    assert frame["group"].tolist() == frame["image"].tolist()
    assert set(frame["width"]) == {"32"} and set(frame["height"]) == {"24"}
    assert frame["sha256"].str.fullmatch("[0-9a-f]{64}").all() and frame["sha256"].is_unique
    assert table.k == 5 and table.size == (24, 32) and table.name == "My_data" and table.seed == 0
    assert table.fold.dtype == table.labels.dtype == np.int64
    assert [table.classes[i] for i in table.labels] == frame["label"].tolist()
    assert table.images == frame["image"].tolist()
    assert np.ptp(counts(table), axis=1).max() <= 1 and counts(table).sum() == 31
    assert load_images(table).shape == (31, 24, 32, 3)
    out = capsys.readouterr().out
    assert "31 images, 3 classes, 5 folds, seed 0, size 24x32" in out
    assert "class order: ash tree, oak, élm" in out
    rows = {line[:12].strip(): line[12:].split() for line in out.splitlines()[-4:]}
    assert rows["oak"] == [str(n) for n in counts(table)[1]] + ["7"] and rows["all"][-1] == "31"


def test_the_record(data):
    table = make_folds(data, name="n", folds=3, seed=4, size="48")
    record = json.loads(Path("folds/n.json").read_text("utf-8"))
    assert record["data"] == data.as_posix() == table.data
    assert record["classes"] == ["ash tree", "oak", "élm"]
    assert record["counts"] == {"ash tree": 13, "oak": 7, "élm": 11}
    assert (record["folds"], record["seed"], record["size"], record["images"]) == (3, 4, [48, 48], 31)
    assert (record["hash"], record["data_hash"]) == (table.hash, table.data_hash)
    assert record["metric"] == table.metric == "accuracy"
    assert record["versions"]["python"] and record["versions"]["scikit-learn"]


def test_nothing_is_written_beside_the_data(data, tmp_path):
    def seen():
        return {path: path.stat().st_mtime_ns for path in [data, *data.rglob("*")]}

    before = seen()
    make_folds(data)
    assert seen() == before
    assert sorted(os.listdir(".")) == ["folds"]
    assert sorted(os.listdir("folds")) == ["My_data.csv", "My_data.json"]


def test_each_image_is_read_and_decoded_once(data, monkeypatch):
    read, decoded = [], []
    check, read_one = check_values, Source.read

    def counted_check(content, name, side, ranges):
        decoded.append(name)
        return check(content, name, side, ranges)

    def counted_read(source, image):
        read.append(image)
        return read_one(source, image)

    monkeypatch.setattr(duplicates, "check_values", counted_check)
    monkeypatch.setattr(Source, "read", counted_read)
    table = make_folds(data)
    assert sorted(read) == sorted(decoded) == sorted(table.images)


def test_reading_gives_what_making_gave(data):
    made, read = make_folds(data), read_folds()
    pd.testing.assert_frame_equal(made.frame, read.frame)
    assert {**vars(made), "frame": 0} == {**vars(read), "frame": 0}


def test_zip_csv_and_folder_give_the_same_table(data, tmp_path):
    by_folder = make_folds(data, name="folder")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for path in sorted(data.rglob("*.png"), reverse=True):
            archive.write(path, "top/" + path.relative_to(data).as_posix())
    by_zip = make_folds(tmp_path / "z.zip")
    rows = by_folder.frame[["label", "image"]].sample(frac=1, random_state=1)
    rows.to_csv(data / "labels.csv", index=False)
    by_csv = make_folds(data / "labels.csv")
    assert by_folder.hash == by_zip.hash == by_csv.hash
    assert by_folder.data_hash == by_zip.data_hash == by_csv.data_hash
    contents = {Path(f"folds/{name}.csv").read_bytes() for name in ("folder", "z", "labels")}
    assert len(contents) == 1
    for table in (by_zip, by_csv):
        assert (load_images(read_folds(table.name)) == load_images(by_folder)).all()


def test_same_bytes_in_another_process_and_locale(data):
    make_folds(data, name="a")
    code = f"from competition.data.folds import make_folds; make_folds({str(data)!r}, name='b')"
    env = {**os.environ, "LC_ALL": "C", "LANG": "C", "PYTHONHASHSEED": "7", "PYTHONPATH": ROOT}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
    assert Path("folds/a.csv").read_bytes() == Path("folds/b.csv").read_bytes()
    assert read_folds("a").hash == read_folds("b").hash


def test_no_tensorflow():
    code = "import sys, competition.data.folds; assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_seed_and_folds_matter(data):
    first, other, two = make_folds(data, "a"), make_folds(data, "b", seed=1), make_folds(data, "c", folds="2")
    assert (first.fold != other.fold).any() and first.hash != other.hash
    assert first.data_hash == other.data_hash == two.data_hash
    assert two.k == 2 and np.ptp(counts(two), axis=1).max() <= 1


LABELS = [
    "7",
    "007",
    "7.0",
    "1e3",
    "NA",
    "nan",
    "null",
    "None",
    "True",
    " lead",
    "trail ",
    "a,b",
    'qu"ote',
    "new\nline",
    "é",
    "e\u0301",
    "#",
    "-",
    "all",
    "image",
    "0x1F",
]


def test_labels_survive_as_they_are(tmp_path, workdir, capsys):
    folder = class_folders(tmp_path / "data", {"x": 2 * len(LABELS)})
    rows = [(f"x/{i:03}.png", LABELS[i // 2]) for i in range(2 * len(LABELS))]
    pd.DataFrame(rows, columns=["image", "label"]).to_csv(folder / "l.csv", index=False)
    table = make_folds(folder / "l.csv", folds=2, alike="keep")
    assert table.classes == sorted(LABELS)
    assert dict(zip(table.images, table.frame["label"])) == dict(rows)
    assert capsys.readouterr().out.splitlines()[-1].split()[-1] == str(2 * len(LABELS))


def test_class_folders_of_any_name(tmp_path, workdir):
    names = {name: 2 for name in LABELS if name != "new\nline"}
    table = make_folds(class_folders(tmp_path / "data", names), folds=2, alike="keep")
    assert table.classes == sorted(names)
    assert load_images(table).shape[0] == 2 * len(names)


def test_file_names_of_any_kind(tmp_path, workdir):
    folder = class_folders(tmp_path / "data", {"a": 2, "b": 2})
    names = ["new\nline.png", 'quo"te.png', "comma, semi;.png", " lead", "e\u0301.png", "é.png", "😀.png", "NA"]
    for i, name in enumerate(names):
        (folder / "a" / name).write_bytes(encode(smooth(50 + i)))
    make_folds(folder, folds=2)
    table = read_folds()
    assert set(table.images) >= {f"a/{name}" for name in names}
    assert len(load_images(table)) == 12


# -------------------------------------------------------------------------------- size and classes


def test_sizes(tmp_path, workdir, capsys):
    folder = tmp_path / "data"
    for seed, label in enumerate("ab"):
        (folder / label).mkdir(parents=True)
        for i, (height, width) in enumerate([(10, 40), (20, 30), (31, 33), (21, 32)]):
            (folder / label / f"{i}.png").write_bytes(encode(smooth(seed, height, width)))
    table = make_folds(folder, folds=2)
    assert table.size == (21, 33)  # the medians are 20.5 and 32.5
    assert "4 different sizes" in capsys.readouterr().out
    assert load_images(table).shape == (8, 21, 33, 3)
    assert make_folds(folder, "b", folds=2, size="12x16").size == (12, 16)
    assert read_folds("b").size == (12, 16)


def test_rotated_pictures_count_as_they_are_seen(tmp_path, workdir):
    folder = class_folders(tmp_path / "data", {"a": 2, "b": 2})
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "a/000.png").write_bytes(encode(smooth(9), exif=exif))
    row = make_folds(folder, folds=2).frame.iloc[0]
    assert (row["image"], row["width"], row["height"]) == ("a/000.png", 24, 32)


def test_parse_size():
    assert parse_size("96") == parse_size(96) == parse_size((96, 96)) == (96, 96)
    assert parse_size("96x128") == parse_size("96X128") == (96, 128)
    assert parse_size(None) is None
    for bad in ("", None):
        assert parse_size(bad) is None
    for bad in ("big", "0", "-3", "96x", "1x2x3", "96.5", "99999999"):
        with pytest.raises(InputError, match="SIZE"):
            parse_size(bad)


def test_class_order_can_be_given(data, capsys):
    default = make_folds(data, "a")
    capsys.readouterr()
    for given in ("élm,oak, ash tree", ["élm", "oak", "ash tree"]):
        table = make_folds(data, "b", classes=given)
        assert table.classes == read_folds("b").classes == ["élm", "oak", "ash tree"]
        assert table.frame["label"].drop_duplicates().tolist() == table.classes
    assert "(as given): élm, oak, ash tree" in capsys.readouterr().out
    assert table.hash != default.hash
    key = ["image", "fold"]
    assert table.frame[key].sort_values("image").values.tolist() == default.frame[key].values.tolist()


@pytest.mark.parametrize(
    "classes, message",
    [
        ("élm,oak,ash tree,yew", "unknown: yew"),
        ("élm,oak", "missing: ash tree"),
        ("élm,oak,ash tree,oak", "more than once: oak"),
        ("élm,oak,Ash tree", "unknown: Ash tree"),
    ],
)
def test_class_orders_that_do_not_fit(data, classes, message):
    with pytest.raises(InputError, match=f"CLASSES.*{message}"):
        make_folds(data, classes=classes)


def test_natural_order_is_pointed_out(tmp_path, workdir, capsys):
    folder = class_folders(tmp_path / "data", {"2": 2, "10": 2, "1": 2})
    assert make_folds(folder, folds=2, classes="1,10,2").classes == ["1", "10", "2"]
    assert "note:" not in capsys.readouterr().out
    folder = class_folders(tmp_path / "named", {"Species2": 2, "Species10": 2, "Species1": 2})
    assert make_folds(folder, folds=2).classes == ["Species1", "Species10", "Species2"]
    assert "by number it would be Species1, Species2, Species10" in capsys.readouterr().out
    make_folds(folder, "b", folds=2, classes="Species1,Species2,Species10")
    assert "by number" not in capsys.readouterr().out


def test_integers_are_ordered_as_numbers(tmp_path, workdir, capsys):
    folder = class_folders(tmp_path / "data", {"2": 2, "10": 2, "1": 2})
    table = make_folds(folder, folds=2)
    assert table.classes == ["1", "2", "10"] and table.frame["label"].tolist() == ["1", "1", "2", "2", "10", "10"]
    assert "Keras sorts folders as text, which would be 1, 10, 2" in capsys.readouterr().out
    folder = class_folders(tmp_path / "signed", {"-1": 2, "-10": 2, "0": 2})
    assert make_folds(folder, folds=2, metric="quadratic_kappa").classes == ["-10", "-1", "0"]
    folder = class_folders(tmp_path / "floats", {"10.0": 2, "9.0": 2})
    assert make_folds(folder, folds=2).classes == ["9.0", "10.0"]
    folder = class_folders(tmp_path / "mixed", {"10": 2, "9": 2, "none": 2})
    assert make_folds(folder, folds=2).classes == ["10", "9", "none"]
    capsys.readouterr()
    make_folds(class_folders(tmp_path / "few", {"0": 2, "1": 2}), folds=2)
    assert "note:" not in capsys.readouterr().out


def test_a_table_of_integers_in_the_order_of_text_keeps_it(tmp_path, workdir, capsys):
    """As every older version wrote it: its runs have their classes in that order."""
    folder = class_folders(tmp_path / "data", {"2": 2, "10": 2, "1": 2})
    old = make_folds(folder, folds=2, classes="1,10,2")
    before = Workspace().competition("data").csv.read_bytes()
    capsys.readouterr()
    assert make_folds(folder, folds=2).hash == old.hash
    assert Workspace().competition("data").csv.read_bytes() == before
    out = capsys.readouterr().out
    assert "unchanged" in out and "by number it would be 1, 2, 10" in out
    assert make_folds(folder, folds=2, force=True).classes == ["1", "2", "10"]


def test_natural_order_is_not_mentioned_where_it_is_the_same(data, capsys):
    make_folds(data)
    assert "by number" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- groups


def test_copies_share_group_and_fold(tmp_path, workdir, capsys):
    folder = class_folders(tmp_path / "data", {"a": 12, "b": 12})
    for i in range(6):
        (folder / f"a/copy{i}.png").write_bytes((folder / f"a/{i:03}.png").read_bytes())
    table = make_folds(folder)
    frame = table.frame.set_index("image")
    for i in range(6):
        copy, first = frame.loc[f"a/copy{i}.png"], frame.loc[f"a/{i:03}.png"]
        assert copy["group"] == first["group"] == f"a/{i:03}.png" and copy["fold"] == first["fold"]
    assert frame["group"].nunique() == 24
    assert np.ptp(counts(table), axis=1).max() <= 2
    assert "6 images are copies" in (captured := capsys.readouterr()).out
    assert "warning" not in captured.err


def test_the_same_picture_under_two_labels_is_a_warning(tmp_path, workdir, capsys):
    folder = class_folders(tmp_path / "data", {"a": 6, "b": 6})
    (folder / "b/000.png").write_bytes((folder / "a/003.png").read_bytes())
    frame = make_folds(folder).frame.set_index("image")
    assert frame.loc["a/003.png", "fold"] == frame.loc["b/000.png", "fold"]
    assert frame.loc["a/003.png", "group"] == frame.loc["b/000.png", "group"]
    err = capsys.readouterr().err
    assert "warning: the same picture under two labels: a/003.png, b/000.png\n" in err


@pytest.mark.parametrize("seed", range(5))
def test_assign_folds_with_groups(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.choice([1, 1, 1, 2, 3, 5], 300)
    groups = np.repeat(np.arange(300), sizes).astype(str)
    labels = np.repeat(rng.choice(["a", "b", "c"], 300, p=[0.7, 0.2, 0.1]), sizes)
    fold = assign_folds(labels, groups, 5, seed)
    table = pd.DataFrame({"label": labels, "fold": fold, "group": groups})
    assert (table.groupby("group")["fold"].nunique() == 1).all()
    per_fold = pd.crosstab(table["label"], table["fold"])
    assert per_fold.shape == (3, 5)
    assert (per_fold.max(axis=1) - per_fold.min(axis=1)).max() <= 1  # single images level what groups leave
    assert np.ptp(per_fold.sum().to_numpy()) <= 3
    assert (assign_folds(labels, groups, 5, seed) == fold).all()
    assert (assign_folds(labels, groups, 5, seed + 1) != fold).any()


# -------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "name, content",
    [
        ("oak/empty.png", b""),
        ("oak/notes.txt", b"not a picture"),
        ("oak/cut.png", encode(smooth())[:-40]),
        ("oak/cut.jpg", encode(smooth(), "JPEG")[:-40]),
    ],
)
def test_bad_files_stop_with_their_name_or_are_left_out(data, capsys, name, content):
    (data / name).write_bytes(content)
    with pytest.raises(InputError, match=f"^{name}: .*SKIP_BAD=1"):
        make_folds(data)
    assert not Path("folds").exists()
    table = make_folds(data, skip_bad=True)
    assert name not in table.images and len(table.images) == 31
    assert name in capsys.readouterr().err


def test_all_bad_files_are_named(data):
    for name in ("a.png", "b: c.png", "d.png"):
        (data / "oak" / name).write_bytes(b"")
    with pytest.raises(InputError, match="^oak/a.png: .* 2 more: oak/b: c.png, oak/d.png"):
        make_folds(data)


def test_leaving_out_is_no_advice_where_every_file_is_bad(data):
    for path in data.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of the files is a picture") as error:
        make_folds(data)
    assert "SKIP_BAD" not in str(error.value)


def test_left_out_files_count_for_the_class_size(data):
    for i in range(3):
        (data / f"oak/{i:03}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"fewer images than FOLDS=5 in class oak \(4\)"):
        make_folds(data, skip_bad=True, rare="stop")
    for path in data.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"fewer images than FOLDS=5 .*oak \(0\)"):
        make_folds(data, skip_bad=True)


def test_a_damaged_zip_member_is_a_bad_file(data, tmp_path):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(data.rglob("*.png")):
            archive.write(file, file.relative_to(data).as_posix())
    victim = (data / "oak/000.png").read_bytes()
    path.write_bytes(path.read_bytes().replace(victim, victim[:60] + b"\0\0\0\0" + victim[64:]))
    with pytest.raises(InputError, match="^oak/000.png: cannot be read"):
        make_folds(path)
    assert len(make_folds(path, skip_bad=True).images) == 30


def test_wrong_extension_is_a_warning(data, capsys):
    (data / "oak/liar.jpg").write_bytes(encode(smooth(90)))
    (data / "oak/UPPER.JPEG").write_bytes(encode(smooth(91), "JPEG"))
    (data / "oak/bare").write_bytes(encode(smooth(92)))
    frames = {"save_all": True, "append_images": [Image.fromarray(smooth(93))]}
    (data / "oak/stereo.jpg").write_bytes(encode(smooth(94), "MPO", **frames))
    assert "oak/liar.jpg" in make_folds(data).images
    err = capsys.readouterr().err
    assert err == "warning: 1 files are of another format than their names say: oak/liar.jpg (PNG)\n"


def test_every_format_in_one_folder(tmp_path, workdir, capsys):
    folder = class_folders(tmp_path / "data", {"a": 2, "b": 2})
    for i, kind in enumerate(["jpeg", "webp", "bmp", "gif", "tiff", "png"]):
        (folder / f"a/picture.{kind}").write_bytes(encode(smooth(20 + i), kind))
    (folder / "b/grey.png").write_bytes(encode(smooth(30)[:, :, 0]))
    (folder / "b/cmyk.jpg").write_bytes(encode(Image.fromarray(smooth(31)).convert("CMYK"), "JPEG"))
    (folder / "b/deep.png").write_bytes(encode(smooth(32)[:, :, 0].astype(np.uint16) * 257))
    table = make_folds(folder, folds=2)
    assert len(table.images) == 13 and capsys.readouterr().err == ""
    images = dict(zip(table.images, load_images(table)))
    assert (images["b/deep.png"] == smooth(32)[:, :, :1]).all()
    assert (images["b/grey.png"] == smooth(30)[:, :, :1]).all()
    assert np.abs(images["b/cmyk.jpg"].astype(int) - smooth(31)).max() < 30


def test_class_with_fewer_images_than_folds(data):
    make_folds(data, "seven", folds=7)
    with pytest.raises(InputError, match=r"FOLDS=8 in class oak \(7\)"):
        make_folds(data, folds=8, rare="stop")


def test_copies_do_not_fill_a_class(tmp_path, workdir):
    folder = class_folders(tmp_path / "data", {"a": 6, "b": 3})
    for i in range(3, 6):
        (folder / f"b/{i}.png").write_bytes((folder / "b/000.png").read_bytes())
    with pytest.raises(InputError, match=r"class b \(6, 3 of them different\)"):
        make_folds(folder, rare="stop")


@pytest.mark.parametrize(
    "option, message",
    [
        ({"folds": 1}, "FOLDS=1: expected 2 to"),
        ({"folds": 0}, "FOLDS=0"),
        ({"folds": "many"}, "FOLDS=many: expected a whole number"),
        ({"folds": 2.5}, "FOLDS=2.5"),
        ({"seed": -1}, "SEED=-1"),
        ({"seed": "x"}, "SEED=x"),
        ({"size": "0x5"}, "SIZE=0"),
        ({"name": "a/b"}, "NAME=a/b"),
        ({"name": "../b"}, "NAME=../b"),
        ({"name": ".hidden"}, "NAME=.hidden"),
        ({"name": "a b"}, "NAME=a b"),
        ({"name": "a\\b"}, "NAME="),
        ({"name": "x" * 200}, "NAME="),
        ({"name": "-rf"}, "NAME=-rf"),
    ],
)
def test_arguments_that_cannot_be_used(data, option, message):
    with pytest.raises(InputError) as error:
        make_folds(data, **option)
    assert message in str(error.value)
    assert not Path("folds").exists()


@pytest.mark.parametrize(
    "folder, name",
    [("data", "data"), ("my data (1)", "my_data_1"), ("v1.2", "v1.2"), (".dotted", "dotted"), ("Bäume", "Bäume")],
)
def test_default_name(tmp_path, workdir, folder, name):
    assert make_folds(class_folders(tmp_path / folder, {"a": 2, "b": 2}), folds=2).name == name


def test_default_name_of_a_relative_path(tmp_path, workdir, monkeypatch):
    class_folders(tmp_path / "pics/inner", {"a": 2, "b": 2})
    (tmp_path / "pics/work").mkdir()
    monkeypatch.chdir(tmp_path / "pics/work")
    assert make_folds("../inner/.", folds=2).name == "inner"


def test_a_data_folder_is_not_written_into(tmp_path, workdir, monkeypatch):
    class_folders(tmp_path / "pics", {"a": 2, "b": 2})
    monkeypatch.chdir(tmp_path / "pics")
    with pytest.raises(InputError, match="pics: the data folder holds the current one"):
        make_folds(".", folds=2)
    assert sorted(path.name for path in (tmp_path / "pics").iterdir()) == ["a", "b"]


def test_data_that_cannot_be_used_writes_nothing(tmp_path, workdir):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        make_folds(tmp_path / "nowhere")
    assert os.listdir(".") == []


# ---------------------------------------------------------------------- making again, reading, tampering


def snapshot():
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path("folds").iterdir()}


def test_the_same_table_again_changes_nothing(data, capsys):
    make_folds(data)
    before = snapshot()
    begin_run("runs/My_data/resnet")
    capsys.readouterr()
    make_folds(data)
    make_folds(data, force=True)
    assert snapshot() == before
    assert capsys.readouterr().out.count("folds/My_data.csv: unchanged") == 2


def test_another_table_replaces_one_that_no_run_uses(data, capsys):
    first = make_folds(data)
    second = make_folds(data, seed=1)
    assert read_folds().hash == second.hash != first.hash
    assert "replaced" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"seed": 1}, {"size": "8"}, {"classes": "oak,élm,ash tree"}, {"folds": 4}])
def test_another_table_is_refused_while_runs_use_it(data, change):
    first = make_folds(data)
    Path("runs/My_data").mkdir(parents=True)
    Path("runs/My_data/notes.txt").write_text("no run")
    make_folds(data, seed=5)
    make_folds(data)
    begin_run("runs/My_data/resnet-quick")
    before = snapshot()
    with pytest.raises(InputError, match="resnet-quick.*FORCE=1"):
        make_folds(data, **change)
    assert snapshot() == before
    assert make_folds(data, name="other", **change).hash != first.hash
    assert make_folds(data, force=True, **change).hash == read_folds("My_data").hash != first.hash


def test_changed_data_is_another_table(data):
    first = make_folds(data)
    begin_run("runs/My_data/run")
    (data / "oak/000.png").write_bytes(encode(smooth(400)))
    with pytest.raises(InputError, match="FORCE=1"):
        make_folds(data)
    assert make_folds(data, force=True).data_hash != first.data_hash


def test_moved_data_keeps_its_table(data, tmp_path):
    first = make_folds(data, name="n")
    begin_run("runs/n/run")
    data.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="My data: no such file"):
        load_images(first)
    again = make_folds(tmp_path / "moved", name="n")
    assert again.hash == first.hash and again.data == (tmp_path / "moved").as_posix()
    assert len(load_images(again)) == 31


def test_a_damaged_table_is_noticed_and_can_be_made_again(data):
    made = make_folds(data)
    begin_run("runs/My_data/run")
    path = Path("folds/My_data.csv")
    good = path.read_bytes()
    path.write_bytes(good.replace(b"oak,0", b"oak,1", 1) if b"oak,0" in good else good + b"\n")
    with pytest.raises(InputError, match="My_data.csv"):
        read_folds()
    assert make_folds(data).hash == made.hash
    assert path.read_bytes() == good
    path.unlink()
    with pytest.raises(InputError, match="My_data.csv"):
        read_folds()


@pytest.mark.parametrize("key, value", [("classes", ["oak", "ash tree", "élm"]), ("size", [5, 5]), ("hash", "0" * 64)])
def test_a_changed_record_is_noticed(data, key, value):
    make_folds(data)
    path = Path("folds/My_data.json")
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), key: value}))
    with pytest.raises(InputError, match="My_data"):
        read_folds()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"classes": 3}', "null"])
def test_a_broken_record_is_noticed(data, content):
    made = make_folds(data)
    Path("folds/My_data.json").write_text(content)
    with pytest.raises(InputError, match="My_data.json"):
        read_folds()
    assert make_folds(data).hash == made.hash == read_folds().hash
    Path("folds/My_data.json").write_text(content)
    begin_run("runs/My_data/run")
    with pytest.raises(InputError, match="FORCE=1"):
        make_folds(data)


def test_which_table(data):
    with pytest.raises(InputError, match="no fold table yet"):
        read_folds()
    make_folds(data, "a")
    assert read_folds().name == read_folds("a").name == "a"
    with pytest.raises(InputError, match="b.json: no such fold table"):
        read_folds("b")
    make_folds(data, "b", seed=1)
    with pytest.raises(InputError, match="2 fold tables.*a, b"):
        read_folds()
    assert read_folds("b").seed == 1
    with pytest.raises(InputError, match="NAME="):
        read_folds("../a")


def test_the_metric_is_recorded(workdir):
    data = class_folders(workdir.parent / "data", {"a": 4, "b": 4})
    table = make_folds(data, folds=2)
    scored = make_folds(data, folds=2, metric="macro_f1")  # says how to score, and changes no fold
    assert scored.metric == read_folds().metric == "macro_f1" and scored.hash == table.hash
    path = Path("folds/data.json")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "metric"}))
    assert read_folds().metric == "accuracy"  # as older tables say nothing
    with pytest.raises(InputError, match="METRIC=best: expected one of accuracy"):
        make_folds(data, folds=2, metric="best")


@pytest.mark.parametrize(
    "names, classes, good",
    [
        (["bad", "good", "medium"], None, False),
        (["bad", "good", "medium"], "bad,medium,good", True),
        (["1", "2", "10"], None, True),
        (["grade1", "grade2", "grade10"], None, False),
        (["1", "2", "3"], None, True),
        (["grade 0", "grade 1", "none"], None, False),
        (["no", "yes"], None, True),
    ],
)
def test_grades_are_in_an_order_that_somebody_gave(tmp_path, workdir, names, classes, good):
    """Quadratic kappa counts how far apart two grades are."""
    data = class_folders(tmp_path / "grades", dict.fromkeys(names, 4))
    make_folds(data, folds=2, classes=classes)  # any other metric does without
    if good:
        assert make_folds(data, folds=2, classes=classes, metric="quadratic_kappa").metric == "quadratic_kappa"
    else:
        with pytest.raises(InputError, match="the classes would be grades in the order .*; expected CLASSES="):
            make_folds(data, folds=2, metric="quadratic_kappa")


# ---------------------------------------------------------------------------- values of more than 8 bits


def twelve_bits(folder, highest=4095):
    """Class folders of grey pictures of 12 bits in files of 16."""
    class_folders(folder, {"a": 6, "b": 6})
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        values = np.random.RandomState(i).rand(24, 32)
        values = (values - values.min()) / (values.max() - values.min()) * highest
        path.write_bytes(encode(values.astype(np.uint16)))
    return folder


def test_values_of_twelve_bits_are_scaled_by_the_range_that_the_table_holds(tmp_path, workdir, capsys):
    folder = twelve_bits(tmp_path / "data")
    table = make_folds(folder, folds=2)
    assert table.ranges == {"16-bit grey": (0, 4095)} == read_folds().ranges
    assert "12 pictures of 16-bit grey hold values of 0..4095: 0..4095 becomes 0..255" in capsys.readouterr().out
    images = load_images(table)
    assert images.min() == 0 and images.max() == 255
    stored = load_images(table, Memory(1000, "MEMORY=1000"))
    assert np.array_equal(stored[np.arange(12)], images)
    assert make_folds(folder, folds=2).hash == table.hash

    record = json.loads(Path("folds/data.json").read_text())
    plain = record["hash"]
    del record["ranges"]
    Path("folds/data.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="not the table that"):
        read_folds()
    content = Path("folds/data.csv").read_bytes()
    record["hash"] = table_hash(content, table.classes, table.size)
    assert record["hash"] != plain
    Path("folds/data.json").write_text(json.dumps(record))  # as an older version wrote it
    assert load_images(read_folds()).max() == 16


def test_pictures_of_eight_bits_have_no_range(data):
    make_folds(data)
    assert "ranges" not in json.loads(Path("folds/My_data.json").read_text())


def test_nearly_black_pictures_are_no_copies(tmp_path, workdir, capsys):
    folder = twelve_bits(tmp_path / "data", 255)
    for path in folder.rglob("*.png"):
        path.write_bytes(encode(Image.fromarray(np.asarray(Image.open(path)).astype(np.int32)), "TIFF"))
    table = make_folds(folder, folds=2)
    assert table.ranges == {"32-bit integers": (0, 255)}
    assert table.frame["group"].nunique() == 12


def test_test_images_are_scaled_alike_and_clipping_is_named(tmp_path, workdir, capsys):
    table = make_folds(twelve_bits(tmp_path / "data"), folds=2)
    capsys.readouterr()
    test = read_test(twelve_bits(tmp_path / "same"), table)
    assert test.ranges == table.ranges and load_images(test).max() == 255
    assert capsys.readouterr().err == ""
    read_test(twelve_bits(tmp_path / "brighter", 9000), table)
    assert "12 images of 16-bit grey have values of 0..9000, which are clipped" in capsys.readouterr().err
    read_test(twelve_bits(tmp_path / "darker", 250), table)
    assert "have values of 0..255 only" in capsys.readouterr().err
