"""Where images and labels come from: one contract for all adapters, layouts, labels that look alike, label tables."""

import json
import shutil
import tarfile
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders, encode, smooth
from PIL import Image

from competition.base.files import InputError
from competition.data.decode import decode
from competition.data.folds import make_folds
from competition.data.images import load_images, warn_of_others
from competition.data.sources import open_reader, open_source, open_unlabelled, read_column
from competition.data.sources.labels import look_alike
from competition.data.sources.roles import role_of
from competition.data.table import read_folds

COUNTS = {"ash": 3, "élan": 2, "oak": 4}


def write_files(root, *names):
    """Files of these names, each of other bytes; nothing here reads them as pictures."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def zip_of(folder, path, top=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, top + file.relative_to(folder).as_posix())
    return path


def write_csv(path, rows, header="image,label", end="\n", encoding="utf-8"):
    text = "".join(f"{line}{end}" for line in [*([header] if header else []), *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def labels(source):
    return dict(zip(source.images, source.labels))


# ---------------------------------------------------------------------------------------------- the contract of adapters


def a_folder(folder, place):
    return folder


def a_zip(folder, place):
    return zip_of(folder, place / "data.zip", "top/")


def a_tar(folder, place, ending=".tar", mode="w"):
    with tarfile.open(place / f"data{ending}", mode) as archive:
        archive.add(folder, "./top")
    return place / f"data{ending}"


def a_tgz(folder, place):
    return a_tar(folder, place, ".tgz", "w:gz")


def a_tar_xz(folder, place):
    return a_tar(folder, place, ".tar.xz", "w:xz")


def a_zip_in_a_zip(folder, place):
    inner = zip_of(folder, place / "inner.zip", "top/")
    with zipfile.ZipFile(place / "outer.zip", "w") as archive:
        archive.write(inner, "given/photos.zip")
        archive.writestr("readme.txt", "what is in it")
    return place / "outer.zip"


def a_csv(folder, place):
    files = sorted(folder.rglob("*.png"), reverse=True)
    return write_csv(folder / "labels.csv", [f"{f.relative_to(folder).as_posix()},{f.parent.name}" for f in files])


def a_parquet(folder, place):
    files = sorted(folder.rglob("*.png"), reverse=True)
    frame = pd.DataFrame({"path": [f.relative_to(folder).as_posix() for f in files], "n": 1})
    frame.assign(species=[f.parent.name for f in files]).to_parquet(folder / "labels.parquet")
    return folder / "labels.parquet"


def json_lines(folder, place):
    files = sorted(folder.rglob("*.png"), reverse=True)
    rows = [{"file_name": f.relative_to(folder).as_posix(), "label": f.parent.name} for f in files]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return folder / "metadata.jsonl"


KINDS = (a_folder, a_zip, a_zip_in_a_zip, a_tar, a_tgz, a_tar_xz, a_csv, a_parquet, json_lines)


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_of_adapters(kind, tmp_path):
    folder = class_folders(tmp_path / "data", COUNTS)
    expected = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.png")}
    data = kind(folder, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    source = open_source(data)
    assert list(zip(source.labels, source.images)) == sorted((image.split("/")[0], image) for image in expected)
    assert source.classes == sorted(COUNTS)
    reader = open_reader(str(source.data), source.root)
    for image, content in expected.items():
        assert source.read(image) == reader.read(image) == content
    for opened in (source, reader):
        with pytest.raises(InputError, match="gone.png: no such file") as error:
            opened.read("gone.png")
        assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    if kind not in (a_csv, a_parquet, json_lines):
        assert [image.removeprefix(source.root) for image in open_unlabelled(data).images] == sorted(expected)


# ------------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    "name, role",
    [
        *[
            (name, "train")
            for name in ("train", "Training", "seg_train", "train_images", "TrainImages", "images-train")
        ],
        *[(name, "train") for name in ("train2017", "training_data_final", "TRAIN")],
        *[(name, "val") for name in ("val", "valid", "Validation", "dev_set", "imagesVal")],
        *[(name, "test") for name in ("test", "seg_pred", "Testing", "test1", "test_images")],
        *[
            (name, None)
            for name in ("trainer", "strain", "oak", "contest", "1", "", "evaluate", "traintest", "train test")
        ],
    ],
)
def test_roles(name, role):
    assert role_of(name) == role


def split(root, train="train", val=None, test="test", inner=""):
    for part, count in ((train, 3), (val, 2), (test, 1)):
        for label in ("ash", "oak"):
            write_files(
                root, *(f"{part}/{inner and part + '/'}{label}/{part}{i}.jpg" for i in range(count if part else 0))
            )
    return root


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"train": "Training", "test": "Testing"},
        {"train": "seg_train", "test": "seg_test", "inner": True},
        {"train": "train_images", "test": "test_images"},
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_split_is_entered_at_its_training_part(tmp_path, names, packed):
    data = split(tmp_path / "data", **names)
    source = open_source(zip_of(data, tmp_path / "z.zip", "top/") if packed else data)
    assert Counter(source.labels) == {"ash": 3, "oak": 3}
    assert source.read(source.images[0]).decode().endswith("ash/" + source.images[0].split("/")[-1])
    left = [finding for what, finding in source.found if what == "left out"]
    assert len(left) == 1 and names.get("test", "test") in left[0]
    assert ("z.zip SAMPLE=`, or unpack it" in left[0]) == packed and "`make predict TEST=" in left[0]
    assert source.val == frozenset()


def test_a_flat_test_folder_beside_class_folders(tmp_path):
    data = write_files(tmp_path / "data", "train/a/1.jpg", "train/b/1.jpg", "seg_pred/1.jpg", "seg_pred/2.jpg")
    assert open_source(data).images == ["a/1.jpg", "b/1.jpg"]


def test_the_validation_part_is_left_out_joined_or_a_fold(tmp_path):
    data = split(tmp_path / "data", val="valid")
    source = open_source(data)
    assert len(source.images) == 6 and source.root == "train/"
    assert any("VAL=join" in remark and "VAL=fold" in remark for remark in source.remarks)
    assert open_source(data, val="out").images == source.images
    joined, fold = open_source(data, val="join"), open_source(data, val="fold")
    assert joined.images == fold.images and len(joined.images) == 10 and joined.root == ""
    assert joined.val == frozenset() and fold.val == {image for image in fold.images if image.startswith("valid/")}
    assert open_source(zip_of(data, tmp_path / "z.zip"), val="fold").val == fold.val
    with pytest.raises(InputError, match="VAL=twice: expected out, join, fold"):
        open_source(data, val="twice")
    with pytest.raises(InputError, match="VAL=join: found no validation part"):
        open_source(class_folders(tmp_path / "plain", COUNTS), val="join")
    table = write_csv(data / "all.csv", ["train/ash/train0.jpg,ash", "train/oak/train0.jpg,oak"])
    for options in ({}, {"images": str(data)}):
        with pytest.raises(InputError, match="all.csv: VAL=join: found no validation part"):
            open_source(table, val="join", **options)
    (data / "valid/oak").rename(data / "valid/Oak")
    assert open_source(data, val="join").classes == ["ash", "oak"]
    write_csv(data / "all.csv", [f"{part}/{c}/{part}0.jpg,{c}" for part in ("train", "test") for c in ("ash", "oak")])
    assert len(open_source(data).remarks) == 1, "a table of the same labels says nothing new"
    write_files(data, "valid/yew/1.jpg")
    with pytest.raises(InputError, match="the validation part has classes that the training part has not: yew"):
        open_source(data, val="join")


@pytest.mark.parametrize(
    "names, message",
    [
        (
            ["x/a/1.jpg", "x/b/1.jpg", "y/a/1.jpg", "y/b/1.jpg"],
            r"x/ and y/ share the folders a, b; .*DATA=.*/data/x or DATA=",
        ),
        (
            ["raw/a/1.jpg", "raw/b/1.jpg", "new/1.jpg"],
            "new/ holds images, raw/ folders of images; expected DATA=.*/data/raw$",
        ),
        (
            ["val/a/1.jpg", "val/b/1.jpg", "test/a/1.jpg", "test/b/1.jpg"],
            "split test, val with no part to train on; .*/val",
        ),
        (
            ["train/a/1.jpg", "train_2/a/1.jpg", "test/a/1.jpg"],
            "several parts to train on; .*/train or DATA=.*/train_2",
        ),
    ],
)
def test_folders_that_are_no_classes(tmp_path, names, message):
    data = write_files(tmp_path / "data", *names)
    with pytest.raises(InputError, match=message) as error:
        open_source(data)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="unpack it and give DATA="):
        open_source(zip_of(data, tmp_path / "z.zip"))


def test_folders_of_classes_of_which_one_lies_deeper(tmp_path):
    data = write_files(tmp_path / "data", *(f"CUB/images/{c}/{i}.jpg" for c in ("1.ash", "2.oak") for i in range(2)))
    write_files(data, *(f"segmentations/{c}/0.png" for c in ("1.ash", "2.oak")), "CUB/parts/parts.txt")
    message = (
        r"CUB/ and segmentations/ share the folders 1.ash, 2.oak; expected DATA=.*/CUB/images or DATA=.*/segmentations$"
    )
    with pytest.raises(InputError, match=message):
        open_source(data)
    data = write_files(tmp_path / "more", *(f"{c}/{c}_{i}/T{i}/0.jpg" for c in ("ill", "well") for i in range(2)))
    assert open_source(data).classes == ["ill", "well"]


def test_folders_called_like_a_split_among_others_are_classes(tmp_path):
    data = write_files(tmp_path / "data", "train/1.jpg", "bus/1.jpg", "test/1.jpg")
    assert open_source(data).classes == ["bus", "test", "train"]


def test_one_and_the_same_folder_in_each_class(tmp_path):
    data = write_files(
        tmp_path / "data", *(f"train/{name}/images/{i}.jpg" for name in ("n01", "n02") for i in range(2))
    )
    write_files(data, "val/images/1.jpg", "test/images/1.jpg", "train/n01/boxes.txt")
    source = open_source(data / "train")
    assert source.classes == ["n01", "n02"] and open_source(data).classes == ["n01", "n02"]


def test_folders_without_images_are_no_classes(tmp_path):
    data = write_files(tmp_path / "data", "a/1.jpg", "b/1.jpg", "annotations/1.xml", "annotations/2.xml")
    source = open_source(data)
    assert source.classes == ["a", "b"] and any("annotations" in remark for remark in source.remarks)
    data = write_files(tmp_path / "more", "images/a/1.jpg", "images/b/1.jpg", "annotations/1.xml", "docs/readme.txt")
    assert (open_source(data).classes, open_source(data).root) == (["a", "b"], "images/")


def download(root, header="image_id,label", ending=".jpg"):
    """What a competition's page gives: flat folders with the same names in train and test, and tables."""
    write_files(root, *(f"{part}/{i}{'.jpg'}" for part in ("train", "test") for i in range(6)))
    rows = [f"{i}{ending},{'ash' if i % 2 else 'oak'}" for i in range(6)]
    write_csv(root / "train.csv", rows, header)
    write_csv(root / "test.csv", [f"{i}{ending}" for i in range(6)], "image_id")
    write_csv(root / "sample_submission.csv", [f"{i}{ending},ash" for i in range(6)], header)
    return root


@pytest.mark.parametrize("ending", [".jpg", ""])
@pytest.mark.parametrize("header", ["image_id,label", "id,breed", "Filename,Species"])
@pytest.mark.parametrize("how", ["folder", "zip", "table"])
def test_a_download_is_entered_by_its_label_table(tmp_path, ending, header, how):
    data = download(tmp_path / "data", header, ending)
    source = open_source(
        {"folder": data, "table": data / "train.csv"}.get(how) or zip_of(data, tmp_path / "z.zip", "c/")
    )
    top = "c/" if how == "zip" else ""
    assert labels(source) == {f"{top}train/{i}.jpg": "ash" if i % 2 else "oak" for i in range(6)}
    assert source.read(f"{top}train/3.jpg") == b"train/3.jpg"
    assert dict(source.found)["columns"].startswith(repr(header.split(",")[0]))


def test_a_download_with_one_folder_of_images(tmp_path):
    data = write_files(tmp_path / "data", *(f"images/{part}_{i}.jpg" for part in ("Train", "Test") for i in range(4)))
    rows = [f"Train_{i},{int(i == 0)},{int(i == 1)},{int(i > 1)}" for i in range(4)]
    write_csv(data / "train.csv", rows, "image_id,healthy,rust,scab")
    write_csv(data / "test.csv", [f"Test_{i}" for i in range(4)], "image_id")
    write_csv(data / "sample_submission.csv", [f"Test_{i},0.3,0.3,0.4" for i in range(4)], "image_id,healthy,rust,scab")
    source = open_source(data)
    assert labels(source) == dict(zip([f"images/Train_{i}.jpg" for i in range(4)], ["healthy", "rust", "scab", "scab"]))
    assert (
        "left out",
        "4 images without a row in it: images/Test_0.jpg, images/Test_1.jpg, images/Test_2.jpg and 1 more",
    ) in (source.found)


def test_a_download_of_zips(tmp_path):
    data = download(tmp_path / "data", "id,breed", "")
    for part in ("train", "test"):
        zip_of(data / part, data / f"{part}.zip", f"{part}/")
        shutil.rmtree(data / part)
    packed = zip_of(data, tmp_path / "z.zip")
    for path in (data, data / "train.csv", packed):
        source = open_source(path)
        assert labels(source) == {f"train/train/{i}.jpg": "ash" if i % 2 else "oak" for i in range(6)}
        assert open_reader(path, source.root).read("train/train/3.jpg") == b"train/3.jpg"


def test_a_packed_table_beside_pictures(tmp_path):
    data = download(tmp_path / "data", "id,breed", "")
    for name in ("train.csv", "sample_submission.csv"):
        with zipfile.ZipFile(data / f"{name}.zip", "w") as archive:
            archive.write(data / name, name)
        (data / name).unlink()
    for path in (data, zip_of(data, tmp_path / "z.zip")):
        assert labels(open_source(path)) == {f"train/{i}.jpg": "ash" if i % 2 else "oak" for i in range(6)}


def test_a_training_part_in_several_folders(tmp_path):
    data = write_files(
        tmp_path / "data", "train_1/0.jpg", "train_1/1.jpg", "train_2/2.jpg", "train_2/3.jpg", "test/4.jpg"
    )
    write_csv(data / "train.csv", [f"{i},{'ab'[i % 2]}" for i in range(4)], "id,label")
    assert labels(open_source(data)) == {f"train_{1 + i // 2}/{i}.jpg": "ab"[i % 2] for i in range(4)}


def test_a_table_in_a_folder_beside_that_of_the_images(tmp_path):
    data = write_files(tmp_path / "data", *(f"images/{i}.jpg" for i in range(4)))
    write_csv(data / "annotations/train.csv", [f"{i},{'ab'[i % 2]}" for i in range(4)], "id,label")
    assert labels(open_source(data)) == {f"images/{i}.jpg": "ab"[i % 2] for i in range(4)}


@pytest.mark.parametrize("names", [["test/0.jpg", "test/1.jpg"], ["c/test/0.jpg", "c/test/1.jpg"]])
def test_test_images_are_named_below_the_folder_of_that_name(tmp_path, names, capsys):
    data = write_files(tmp_path / "data", *names)
    packed = zip_of(data, tmp_path / "z.zip")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(packed, "inner.zip")
    for path in (data, packed, a_tar(data, tmp_path), tmp_path / "outer.zip"):
        source = open_unlabelled(path)
        assert source.images == ["0.jpg", "1.jpg"] and source.read("1.jpg") == names[1].encode()
        assert open_reader(path, source.root).read("1.jpg") == names[1].encode()
    assert capsys.readouterr().err == ""
    assert open_unlabelled(zip_of(data, tmp_path / "photos.zip", "photos/deep/")).images == ["0.jpg", "1.jpg"]
    plain = [name.replace("test", "deep") for name in names]
    for path in (write_files(tmp_path / "more", *plain), zip_of(tmp_path / "more", tmp_path / "more.zip")):
        assert open_unlabelled(path).images == plain, "a folder and a zip of it give the same names"


def test_test_images_of_a_download_are_those_of_its_test_part(tmp_path, capsys):
    data = download(tmp_path / "data")
    for path in (data, zip_of(data, tmp_path / "z.zip", "top/")):
        source = open_unlabelled(path)
        assert source.images == [f"{i}.jpg" for i in range(6)] and source.read("3.jpg") == b"test/3.jpg"
        assert "test/ are taken, and none of the 6 others" in capsys.readouterr().err


def test_test_images_without_any_ending(tmp_path):
    assert open_unlabelled(write_files(tmp_path / "data", "0", "1", "notes.txt")).images == ["0", "1"]


def test_a_table_for_each_part(tmp_path):
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        write_files(tmp_path / "data", *(f"images/{part}{i}.jpg" for i in range(count)))
        write_csv(
            tmp_path / f"data/{part}.csv", [f"{part}{i},{'ab'[i % 2]},s{i}" for i in range(count)], "id,label,site"
        )
    assert open_source(tmp_path / "data").images == [f"images/train{i}.jpg" for i in (0, 2, 1, 3)]
    source = open_source(tmp_path / "data", val="fold")
    assert len(source.images) == 6 and source.val == {"images/val0.jpg", "images/val1.jpg"}
    assert read_column(source, "site")["images/val1.jpg"] == "s1"


def test_numbered_folders_beside_a_label_table_are_no_classes(tmp_path):
    data = write_files(tmp_path / "data", *(f"images_part_{1 + i // 3}/{i}.jpg" for i in range(6)))
    write_csv(data / "metadata.csv", [f"{i},{'ab'[i % 2]}" for i in range(6)], "image_id,dx")
    assert Counter(open_source(data).labels) == {"a": 3, "b": 3}
    (data / "images_part_1").rename(data / "ash")
    (data / "images_part_2").rename(data / "oak")
    source = open_source(data)
    assert source.classes == ["ash", "oak"] and any("metadata.csv" in remark for remark in source.remarks)


def test_folders_of_images_and_of_masks(tmp_path):
    data = write_files(tmp_path / "data", *(f"{part}/{i}.png" for part in ("images", "masks") for i in range(4)))
    with pytest.raises(
        InputError, match="several folders hold the images of the table: images, masks; expected IMAGES="
    ):
        open_source(write_csv(data / "labels.csv", [f"{i},{'ab'[i % 2]}" for i in range(4)], "id,label"))
    (remark,) = open_source(data).remarks
    assert "the class folders count, and no label table: " in remark
    write_csv(data / "labels.csv", [f"images/{i}.png,{'ab'[i % 2]}" for i in range(4)])
    assert open_source(data).images == [f"images/{i}.png" for i in (0, 2, 1, 3)]


def test_several_label_tables(tmp_path):
    data = write_files(tmp_path / "data", *(f"images/{i}.jpg" for i in range(4)))
    write_csv(data / "one.csv", [f"{i},{'ab'[i % 2]}" for i in range(4)], "id,label")
    write_csv(data / "two.csv", [f"{i}.jpg,{'ab'[i % 2]}" for i in range(4)])
    assert open_source(data).classes == ["a", "b"]  # they say the same
    write_csv(data / "two.csv", [f"{i}.jpg,{'cd'[i % 2]}" for i in range(4)])
    with pytest.raises(InputError, match="several label tables; expected DATA=.*one.csv or DATA=.*two.csv"):
        open_source(data)
    (data / "two.csv").rename(data / "train.csv")
    assert open_source(data).classes == ["c", "d"]


def test_a_split_of_image_folders_with_metadata(tmp_path):
    for part, count in (("train", 4), ("validation", 2)):
        write_files(tmp_path / "data", *(f"{part}/{i}.jpg" for i in range(count)))
        write_csv(
            tmp_path / f"data/{part}/metadata.csv", [f"{i}.jpg,{'ab'[i % 2]}" for i in range(count)], "file_name,label"
        )
    source = open_source(tmp_path / "data")
    assert labels(source) == {f"train/{i}.jpg": "ab"[i % 2] for i in range(4)}
    fold = open_source(tmp_path / "data", val="fold")
    assert len(fold.images) == 6 and fold.val == {"validation/0.jpg", "validation/1.jpg"}


# ------------------------------------------------------------------------------------------------ labels that look alike


def test_labels_that_look_alike_are_one_class(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "hêtre") for form in ("NFC", "NFD"))
    forms = ["oak", "oak ", "Oak", " elm", "elm\u00a0", "elm", nfc, nfd, "ash", "ash tree", "ash  tree"]
    data = write_files(tmp_path / "data", *(f"{i}.jpg" for i in range(len(forms))))
    rows = [f'{i}.jpg,"{form}"' for i, form in enumerate(forms)]
    path = write_csv(data / "labels.csv", rows)
    source = open_source(path)
    assert source.classes == sorted(["oak", "elm", nfc, "ash", "ash tree"])
    (remark,) = source.remarks
    assert "'oak' = 'Oak' = 'oak '" in remark and "ALIKE=keep" in remark and "\\u0302" in remark and "\n" not in remark
    kept = open_source(path, alike="keep")
    assert kept.classes == sorted(forms) and "ALIKE=merge" in kept.remarks[0]
    with pytest.raises(InputError, match="ALIKE=some: expected merge or keep"):
        open_source(path, alike="some")


def test_labels_with_blanks_and_of_the_same_number_are_named(tmp_path):
    data = write_files(tmp_path / "data", *(f"{i}.jpg" for i in range(4)))
    source = open_source(write_csv(data / "l.csv", [f"{i}.jpg,{['oak ', 'elm'][i % 2]}" for i in range(4)]))
    assert source.classes == ["elm", "oak "] and source.remarks[0].endswith(
        "begin or end with blanks, which count: 'oak '"
    )
    source = open_source(write_csv(data / "l.csv", ["0.jpg,1", "1.jpg,01", "2.jpg,1.0", "3.jpg,2"]))
    assert source.remarks[0].endswith("the same number are classes of their own: 01 = 1 = 1.0")


def test_the_form_of_most_images_stands_for_a_class():
    assert look_alike(["OAK", "OAK", "oak", "yew"]) == {"OAK": "OAK", "oak": "OAK"}
    assert look_alike(["a", "A", "1", "l"]) == {}, "letters alone are classes of their own"
    assert look_alike(["A", "A "]) == {"A": "A", "A ": "A"}


def test_class_folders_of_both_unicode_forms(tmp_path):
    names = [unicodedata.normalize(form, "hêtre") for form in ("NFC", "NFD")]
    data = write_files(tmp_path / "data", f"{names[0]}/1.jpg", f"{names[0]}/2.jpg", f"{names[1]}/1.jpg", "orme/1.jpg")
    source = open_source(data)
    assert source.classes == [names[0], "orme"] and source.labels == [names[0]] * 3 + ["orme"]
    assert source.read(f"{names[1]}/1.jpg") == f"{names[1]}/1.jpg".encode()


def test_a_table_and_files_of_other_unicode_forms(tmp_path):
    nfd = [unicodedata.normalize("NFD", f"é{i}.jpg") for i in range(4)]
    data = write_files(tmp_path / "data", *nfd)
    path = write_csv(
        data / "l.csv", [f"{unicodedata.normalize('NFC', name)},{'ab'[i % 2]}" for i, name in enumerate(nfd)]
    )
    assert labels(open_source(path)) == {name: "ab"[i % 2] for i, name in enumerate(nfd)}


# --------------------------------------------------------------------------------------------------------- label tables

ROWS = [("h0.jpg", "healthy"), ("h1.jpg", "healthy"), ("r0.jpg", "rust"), ("s0.jpg", "scab")]


def table_text(separator=",", header=("image", "label"), blank="", ending=True):
    names = [(name if ending else name[:-4], label) for name, label in ROWS]
    return "".join(separator.join([row[0], blank + row[1]]) + "\n" for row in ([header] if header else []) + names)


FORMS = {
    "plain.csv": table_text(),
    "capital.csv": table_text(header=("Image", "Label")),
    "species.csv": table_text(header=("filename", "species")),
    "breed.csv": table_text(header=("id", "breed"), ending=False),
    "semicolon.csv": table_text(";"),
    "tab.csv": table_text("\t"),
    "tab.tsv": table_text("\t"),
    "bar.csv": table_text("|"),
    "blank.csv": table_text(blank=" "),
    "no_header.csv": table_text(header=None),
    "other_label.csv": table_text(header=("image", "kind of thing")),
    "bom_crlf.csv": "\ufeff" + table_text().replace("\n", "\r\n"),
    "blank_lines.csv": table_text() + "\n,\n",
    "spreadsheet.csv": "sep=;\n" + table_text(";"),
    "last.csv": "image,label\n" + "".join(f"{n},{label},\n" for n, label in ROWS),
    "padded.csv": "image,label\n" + "".join(f" {n} ,{label}\n" for n, label in ROWS),
    "share.csv": "image,label\n" + "".join(f"\\\\server\\set\\{n},{label}\n" for n, label in ROWS),
    "index.csv": ",image,label\n" + "".join(f"{i},{n},{label}\n" for i, (n, label) in enumerate(ROWS)),
    "unnamed.csv": "Unnamed: 0,name,type\n" + "".join(f"{i},{n},{label}\n" for i, (n, label) in enumerate(ROWS)),
    "both.csv": "image,class_id,class\n" + "".join(f"{n},{ord(label[0])},{label}\n" for n, label in ROWS),
    "two_names.csv": "id,file,label\n" + "".join(f"{i},{n},{label}\n" for i, (n, label) in enumerate(ROWS)),
    "windows.csv": "image,label\n" + "".join(f"C:\\data\\set\\{n},{label}\n" for n, label in ROWS),
    "kaggle.csv": "image,label\n" + "".join(f"/kaggle/input/set/{n},{label}\n" for n, label in ROWS),
    "above.csv": "image,label\n" + "".join(f"data/{n},{label}\n" for n, label in ROWS),
    "one_hot.csv": "image_id,healthy,rust,scab\n"
    + "".join(f"{n[:-4]},{int(c == 'healthy')},{int(c == 'rust')},{int(c == 'scab')}\n" for n, c in ROWS),
    "one_hot_floats.csv": "image,healthy,rust,scab,width\n"
    + "".join(f"{n},{float(c == 'healthy')},{float(c == 'rust')},{float(c == 'scab')},640\n" for n, c in ROWS),
    "lines.jsonl": "".join(json.dumps({"file_name": n, "label": label}) + "\n" for n, label in ROWS),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_forms_of_label_tables(tmp_path, name, encoding):
    data = write_files(tmp_path / "data", *(image for image, _ in ROWS))
    (data / name).write_bytes(FORMS[name].lstrip("\ufeff" if encoding == "utf-16" else "").encode(encoding))
    assert labels(open_source(data / name)) == dict(ROWS)


def test_parquet_with_names_of_classes(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    data = write_files(tmp_path / "data", "0.jpg", "1.jpg", "2.jpg")
    features = {"file": {"dtype": "string"}, "label": {"names": ["ash", "oak"], "_type": "ClassLabel"}}
    table = pa.table({"file": ["0.jpg", "1.jpg", "2.jpg"], "label": [1, 0, 1]})
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(about), data / "l.parquet")
    assert labels(open_source(data / "l.parquet")) == {"0.jpg": "oak", "1.jpg": "ash", "2.jpg": "oak"}
    (data / "l.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="l.parquet: not a Parquet file"):
        open_source(data / "l.parquet")


def test_columns_that_are_given(tmp_path):
    data = write_files(tmp_path / "data", *(f"{i}.jpg" for i in range(4)))
    rows = [f"{i}.jpg,{3 - i}.jpg,{'ab'[i % 2]},{'cdc'[i % 3]}" for i in range(4)]
    path = write_csv(data / "l.csv", rows, "left,right,shape,colour")
    with pytest.raises(InputError, match="found columns 'left', 'right', 'shape', 'colour', .*IMAGE_COLUMN="):
        open_source(path)
    source = open_source(path, image_column="right", label_column="colour")
    assert labels(source) == {"3.jpg": "c", "2.jpg": "d", "1.jpg": "c", "0.jpg": "c"}
    assert read_column(source, "shape") == {"3.jpg": "a", "2.jpg": "b", "1.jpg": "a", "0.jpg": "b"}
    with pytest.raises(InputError, match="LABEL_COLUMN=size: found columns 'left'"):
        open_source(path, image_column="left", label_column="size")
    path = write_csv(data / "l.csv", rows, "image,more,species,category")
    with pytest.raises(
        InputError, match="several columns may be the label: 'species', 'category'; expected LABEL_COLUMN="
    ):
        open_source(path)


def test_images_elsewhere(tmp_path):
    path = write_csv(tmp_path / "tables/labels.csv", [f"{i},{'ab'[i % 2]}" for i in range(4)], "id,label")
    data = write_files(tmp_path / "pictures", *(f"all/{i}.jpg" for i in range(4)))
    with pytest.raises(InputError, match="missing below .*IMAGES= names the folder") as error:
        open_source(path)
    assert "SKIP_BAD" not in str(error.value), "no advice that would leave out everything"
    for images in (data, data / "all", zip_of(data, tmp_path / "p.zip")):
        source = open_source(path, images=str(images))
        assert source.labels == ["a", "a", "b", "b"] and source.data == images
        assert open_reader(source.data, source.root).read(source.images[0]) == b"all/0.jpg"
    write_files(tmp_path / "tables", *(f"{part}/{i}.jpg" for part in ("large", "small") for i in range(4)))
    with pytest.raises(
        InputError, match="several folders hold the images of the table: large, small; expected IMAGES="
    ):
        open_source(path)
    assert open_source(path, images="small").data == tmp_path / "tables/small"
    with pytest.raises(InputError, match="IMAGES=x: DATA=.* is no table"):
        open_source(data, images="x")


def test_rows_without_file_or_label(tmp_path):
    data = write_files(tmp_path / "data", *(f"{i}.jpg" for i in range(6)), "other/lost.jpg")
    rows = [f"{i}.jpg,{'ab'[i % 2] if i != 2 else ''}" for i in range(6)]
    path = write_csv(data / "l.csv", [*rows, "lost.jpg,a", "5.jpg,a"])
    with pytest.raises(
        InputError, match=r"line 4: empty image or label; and 1 more \(SKIP_BAD=1 leaves such rows out\)"
    ):
        open_source(path)
    source = open_source(path, skip_bad=True)
    assert source.images == ["0.jpg", "4.jpg", "1.jpg", "3.jpg", "5.jpg"], "lost.jpg is not taken from another folder"
    (remark,) = source.remarks
    assert "3 rows" in remark and "lost.jpg (line 8)" in remark and "line 4" in remark and "line 9: 5.jpg" in remark
    path = write_csv(data / "one_hot.csv", ["0,1,0", "1,0,1", "2,1,1", "3,0,1", "4,1,0"], "image,dry,wet")
    with pytest.raises(InputError, match="line 4: 2 is of none or several of the classes dry, wet"):
        open_source(path)
    assert len(open_source(path, skip_bad=True).images) == 4


def test_an_image_twice_with_the_same_label_counts_once(tmp_path, workdir, capsys):
    data = pictures(tmp_path / "data", *(f"{i}.png" for i in range(4)))
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(4)]
    source = open_source(write_csv(data / "l.csv", [*rows, "./1.png,b", "0,a"]))
    assert labels(source) == {f"{i}.png": "ab"[i % 2] for i in range(4)}
    assert ("left out", "2 rows that repeat an image with its label") in source.found
    assert make_folds(data / "l.csv", folds=2).hash == make_folds(write_csv(data / "k.csv", rows), folds=2).hash
    assert "l.csv: 2 rows repeat an image with its label: ./1.png (line 6), 0 (line 7)" in capsys.readouterr().err
    with pytest.raises(InputError, match="line 6: 0.png is in line 2 already as a"):
        open_source(write_csv(data / "l.csv", [*rows, "0.png,b"]))


def test_a_table_in_an_older_encoding_is_read_where_names_of_images_tell_which(tmp_path):
    names = ["Érable/1.jpg", "Érable/2.jpg", "orme/1.jpg"]
    data = write_files(tmp_path / "data", *names)
    rows = [f"{name},{name.split('/')[0]}" for name in names]
    for encoding in ("cp1252", "mac_roman"):
        source = open_source(write_csv(data / "l.csv", rows, encoding=encoding))
        assert labels(source) == {name: name.split("/")[0] for name in names}
        assert f"in the encoding {encoding}" in dict(source.found)["table"]
    write_csv(data / "l.csv", [*rows[:2], "orme/1.jpg,chêne"], encoding="cp1252")  # or, in that of Poland, chęne
    with pytest.raises(InputError, match="l.csv: not UTF-8: .*expected the table saved as UTF-8"):
        open_source(data / "l.csv")


def test_a_missing_file_is_not_taken_from_another_folder(tmp_path):
    data = write_files(tmp_path / "data", "train/0.jpg", "train/1.jpg", *(f"test/{i}.jpg" for i in range(9)))
    path = write_csv(data / "l.csv", [f"train/{i}.jpg,{'ab'[i % 2]}" for i in range(9)])
    with pytest.raises(InputError, match="missing below .*: train/2.jpg"):
        open_source(path)
    assert open_source(path, skip_bad=True).images == ["train/0.jpg", "train/1.jpg"]
    shutil.rmtree(data / "train")
    with pytest.raises(InputError, match="missing below .*: train/0.jpg"):
        open_source(path)


@pytest.mark.parametrize(
    "names", [["1.png", "2.png", "10.png"], ["1", "2", "10"], ["1.0", "2.0", "10.0"], ["train/001.png"]]
)
def test_names_that_lost_their_zeros_or_have_another_ending(tmp_path, names):
    data = write_files(tmp_path / "data", *(f"train/{i:03}.jpg" for i in (1, 2, 10)), "test/002.jpg")
    rows = [f"{name},{'ab'[i % 2]}" for i, name in enumerate(names * 2 if len(names) > 1 else [*names, "train/2.png"])]
    source = open_source(write_csv(data / "l.csv", rows[: max(3, len(names))]))
    assert source.images[0] == "train/001.jpg" and "test/002.jpg" not in source.images and len(source.classes) == 2
    assert f"{names[0]} is train/001.jpg" in source.remarks[0]
    write_files(data, "train/1.JPEG")
    with pytest.raises(InputError, match="missing below"):
        open_source(write_csv(data / "l.csv", ["01.png,a", "0002.png,b"]))


def test_numbers_that_several_folders_have_are_no_names(tmp_path):
    data = write_files(
        tmp_path / "data", *(f"{part}/{c}/{i}.jpg" for part in ("train", "test") for c in "ab" for i in range(2))
    )
    rows = [f"{n % 2},train/{'ab'[n // 2]}/{n % 2}.jpg,{'ab'[n // 2]},train" for n in range(4)]
    for header in ("nr,filepaths,labels,data set", "nr,where,labels,data set"):
        source = open_source(write_csv(data / "birds.csv", rows, header))
        assert labels(source) == {f"train/{c}/{i}.jpg": c for c in "ab" for i in range(2)} and not source.remarks


def test_a_column_that_names_parts_of_a_split_is_named(tmp_path):
    data = write_files(tmp_path / "data", *(f"{i}.jpg" for i in range(4)))
    rows = [f"{i}.jpg,{'ab'[i % 2]},{('train', 'valid')[i // 2]}" for i in range(4)]
    (remark,) = open_source(write_csv(data / "l.csv", rows, "image,label,split")).remarks
    assert "the column 'split' names parts of a split (train, valid), and all are dealt" in remark


@pytest.mark.parametrize(
    "text, found",
    [("<!DOCTYPE html>\n<p>404, no\n", "web page"), ("version https://git-lfs.github.com/spec/v1\n", "Git LFS")],
)
def test_files_that_are_no_tables_are_named(tmp_path, text, found):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(InputError, match=f"l.csv: found a.*{found}"):
        open_source(tmp_path / "l.csv")


def test_a_column_whose_names_exist_is_taken_before_one_called_image(tmp_path):
    data = write_files(tmp_path / "data", *(f"{i}.jpg" for i in range(4)))
    path = write_csv(data / "l.csv", [f"picture {i},{i}.jpg,{'ab'[i % 2]}" for i in range(4)], "image,path,label")
    assert labels(open_source(path)) == {f"{i}.jpg": "ab"[i % 2] for i in range(4)}


def test_labels_that_are_made_of_others(tmp_path):
    data = write_files(tmp_path / "data", *(f"{i}.jpg" for i in range(3)))
    source = open_source(write_csv(data / "l.csv", ["0.jpg,rust", "1.jpg,scab", "2.jpg,rust scab"], "image,labels"))
    assert source.classes == ["rust", "rust scab", "scab"] and "made of others" in source.remarks[0]


# ------------------------------------------------------------------------------------------------- archives and arrays


def test_links_and_hidden_files_of_a_tar(tmp_path):
    folder = write_files(tmp_path / "data", "a/1.jpg", "b/1.jpg", "a/._1.jpg", "a/.DS_Store")
    (folder / "b/2.jpg").hardlink_to(folder / "a/1.jpg")
    source = open_source(a_tar(folder, tmp_path))
    assert source.images == ["a/1.jpg", "b/1.jpg", "b/2.jpg"] and source.read("b/2.jpg") == b"a/1.jpg"


def test_tars_that_cannot_be_used(tmp_path):
    folder = write_files(tmp_path / "data", "a/1.jpg", "b/1.jpg")
    path = a_tar(folder, tmp_path, ".tar.gz", "w:gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="data.tar.gz: (broken archive|cannot be unpacked|found another kind)"):
        open_source(path)
    with tarfile.open(tmp_path / "out.tar", "w") as archive:
        archive.add(folder / "a/1.jpg", "../a/1.jpg")
    with pytest.raises(InputError, match="out.tar: '../a/1.jpg' climbs out of the tar"):
        open_source(tmp_path / "out.tar")


def test_tars_whose_name_says_another_packing(tmp_path):
    folder = write_files(tmp_path / "data", "a/1.jpg", "b/1.jpg")
    for ending, mode in ((".tar", "w:gz"), (".tgz", "w:xz"), (".tar.gz", "w")):
        assert open_source(a_tar(folder, tmp_path, ending, mode)).images == ["a/1.jpg", "b/1.jpg"]


@pytest.mark.parametrize(
    "content, words",
    [(b"\n<!DOCTYPE html>", "a web page"), (b"Rar!", "does not begin as a zip"), (b"PK\3\4", "too early")],
)
def test_a_file_that_is_called_zip_and_is_none(tmp_path, content, words):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(InputError, match=f"x.zip: broken zip: .*; it .*{words}"):
        open_source(tmp_path / "x.zip")


def test_archives_that_python_cannot_unpack(tmp_path):
    folder = write_files(tmp_path / "data", "a/1.jpg", "b/1.jpg")
    path = zip_of(folder, tmp_path / "z.zip")
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.find(mark)
        while at >= 0:
            content[at + place] = 9
            at = content.find(mark, at + 4)
    path.write_bytes(content)
    with pytest.raises(InputError, match="z.zip: '.*' is packed by Deflate64.*unpack it .* and give the folder"):
        open_source(path)
    (tmp_path / "part.z01").write_bytes(b"PK")
    (tmp_path / "part.zip").write_bytes(b"PK")
    for name in ("part.z01", "part.zip"):
        with pytest.raises(InputError, match=f"{name}: a part of a split archive.*zip -s 0 part.zip"):
            open_source(tmp_path / name)
    (tmp_path / "x.7z").write_bytes(b"7z")
    with pytest.raises(InputError, match="x.7z: a 7z archive, .*unpack it"):
        open_source(tmp_path / "x.7z")
    write_files(tmp_path / "packed", "photos.tgz", "notes.txt")
    with pytest.raises(InputError, match="expected one folder a class; else expected DATA=.*packed/photos.tgz$"):
        open_source(tmp_path / "packed")


PIXELS = np.stack([smooth(seed, 6, 8) for seed in range(6)])
NAMES = np.array(["ash", "oak", "ash", "élan", "oak", "ash"])


def decoded(source):
    return np.stack([decode(source.read(f"{number}.{'ppm'}"), "n") for number in range(len(source.images))])


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        PIXELS.astype(np.float32),
        PIXELS / 255,
        PIXELS.astype(np.float32) / 127.5 - 1,
        PIXELS.astype(np.int64),
        np.moveaxis(PIXELS, -1, 1),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_arrays(tmp_path, images, packed):
    path = tmp_path / ("x_train.npy" if not packed else "all.npz")
    if packed:
        np.savez_compressed(path, data=images, labels=NAMES)
    else:
        np.save(path, images)
        np.save(tmp_path / "y_train.npy", NAMES)
        np.save(tmp_path / "y_test.npy", NAMES[:2])
    source = open_source(path)
    assert labels(source) == {f"{number}.ppm": name for number, name in enumerate(NAMES)}
    np.testing.assert_array_equal(decoded(source), PIXELS)
    reader = open_reader(path, source.root)
    assert all(reader.read(image) == source.read(image) for image in source.images)
    for name in ("6.ppm", "01.ppm", "x"):
        with pytest.raises(InputError, match=f"{name}: no such file"):
            reader.read(name)


@pytest.mark.parametrize(
    "given, expected",
    [
        (np.array([3, 10, 3, 2, 10, 2]), ["3", "10", "3", "2", "10", "2"]),
        (np.array([[1.0], [0.0], [1.0], [0.0], [1.0], [0.0]]), list("101010")),
        (np.eye(3)[[0, 1, 2, 2, 1, 0]], list("012210")),
        (np.array([b"a", b"b", b"a", b"b", b"a", b"b"]), list("ababab")),
    ],
)
def test_labels_of_arrays(tmp_path, given, expected):
    np.savez(tmp_path / "d.npz", images=PIXELS, y=given, weight=np.linspace(0, 1, 6))
    assert labels(open_source(tmp_path / "d.npz")) == {f"{number}.ppm": label for number, label in enumerate(expected)}


def test_a_training_and_a_test_array(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, x_train=PIXELS[..., 0], y_train=NAMES, x_test=PIXELS[:2, ..., 0], y_test=NAMES[:2], site=NAMES)
    source = open_source(path)
    assert (
        len(source.images) == 6 and source.root == "x_train/" and ("left out", "the images in x_test") in source.found
    )
    np.testing.assert_array_equal(decode(source.read("3.pgm"), "n")[..., 1], PIXELS[3, ..., 0])
    assert open_unlabelled(path).images == ["x_test/0.pgm", "x_test/1.pgm"]
    assert read_column(source, "site")["3.pgm"] == "élan"
    assert open_source(path, label_column="site").labels == source.labels
    for options, message in (
        ({"label_column": "y_test"}, "LABEL_COLUMN=y_test"),
        ({"image_column": "y"}, "IMAGE_COLUMN=y"),
    ):
        with pytest.raises(InputError, match=f"set.npz: {message}"):
            open_source(path, **options)


def test_a_validation_array(tmp_path):
    path = tmp_path / "med.npz"
    labels_of = {"train": [0, 1, 0, 1, 0, 1], "val": [1, 0], "test": [0, 1]}
    arrays = {f"{part}_images": PIXELS[: len(given)] for part, given in labels_of.items()}
    np.savez(path, **arrays, **{f"{part}_labels": np.array(given)[:, None] for part, given in labels_of.items()})
    source = open_source(path)
    assert labels(source) == {f"{number}.ppm": str(label) for number, label in enumerate(labels_of["train"])}
    fold = open_source(path, val="fold")
    assert fold.val == {"val_images/0.ppm", "val_images/1.ppm"} and labels(fold)["val_images/0.ppm"] == "1"
    assert fold.read("val_images/0.ppm") == source.read("0.ppm")
    with pytest.raises(InputError, match="VAL=join: found no validation part"):
        np.savez(path, x=PIXELS, y=NAMES)
        open_source(path, val="join")


def test_twelve_bits_are_scaled_by_what_the_array_holds(tmp_path):
    np.savez(tmp_path / "d.npz", x=PIXELS.astype(np.uint16) * 16, y=NAMES)
    source = open_source(tmp_path / "d.npz")
    assert decoded(source).max() == 255 and "scaled to 0..255" in source.remarks[0]


def test_values_a_little_above_one_and_dark_ones_are_not_taken_for_black(tmp_path):
    for values in (PIXELS / 255 * 1.2, (PIXELS // 16).astype(np.uint16)):
        np.savez(tmp_path / "d.npz", x=values, y=NAMES)
        source = open_source(tmp_path / "d.npz")
        assert decoded(source).max() == 255 and "scaled to 0..255" in source.remarks[0]
    np.savez(tmp_path / "d.npz", x=np.zeros((6, 8, 8, 3)), y=NAMES)
    assert decoded(open_source(tmp_path / "d.npz")).max() == 0


@pytest.mark.parametrize("packed", [False, True])
def test_a_test_array_is_scaled_as_the_training_array_is(tmp_path, packed, capsys):
    train, test = PIXELS.astype(np.uint16) * 16, PIXELS[:2].astype(np.uint16) * 8
    path = tmp_path / ("x_test.npy" if not packed else "all.npz")
    if packed:
        np.savez(path, x_train=train, y_train=NAMES, x_test=test)
    else:
        for name, array in (("x_train", train), ("y_train", NAMES), ("x_test", test)):
            np.save(tmp_path / f"{name}.npy", array)
    source = open_unlabelled(path)
    expected = np.rint(test[1] * (255 / train.max()))
    np.testing.assert_array_equal(decode(source.read("x_test/1.ppm"), "n"), expected)
    assert capsys.readouterr().err == ""
    if not packed:
        np.save(path, train + 99)
        assert decode(open_unlabelled(path).read("x_test/1.ppm"), "n").max() == 255
        assert "which are clipped to the range of x_train" in capsys.readouterr().err
        np.save(tmp_path / "z_test.npy", train)
        open_unlabelled(tmp_path / "z_test.npy")
        assert "scaled to 0..255 by its own values" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"x": PIXELS.astype(object), "y": NAMES}, "'x' holds Python objects, .* pickle .* refused; save plain arrays"),
        ({"x": PIXELS, "y": NAMES.astype(object)}, "'y' holds Python objects"),
        ({"x": PIXELS}, "found 0 arrays of 6 labels"),
        ({"x": PIXELS, "a": NAMES, "b": NAMES}, "found 2 arrays of 6 labels, expected one; LABEL_COLUMN= one of a, b"),
        ({"y": NAMES}, r"found the arrays y <U4 \[6\], expected one of images"),
        ({"x": PIXELS, "z": PIXELS, "y": NAMES}, "IMAGE_COLUMN= one of x, z"),
        ({"x": PIXELS * np.nan, "y": NAMES}, "no finite numbers"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(InputError, match=message) as error:
        open_source(tmp_path / "d.npz")
    assert "d.npz" in str(error.value) or "array of" in str(error.value)
    (tmp_path / "e.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="e.npz: no arrays that can be read"):
        open_source(tmp_path / "e.npz")


def test_arrays_and_archives_become_fold_tables(tmp_path, workdir):
    folder = class_folders(tmp_path / "data", COUNTS)
    plain, packed = make_folds(folder, folds=2), make_folds(a_tgz(folder, tmp_path), "packed", folds=2)
    assert plain.hash == packed.hash and (load_images(read_folds("packed")) == load_images(plain)).all()
    np.savez(tmp_path / "arrays.npz", x=load_images(plain), y=[plain.classes[label] for label in plain.labels])
    table = make_folds(tmp_path / "arrays.npz", folds=2)
    order = [int(image.split(".")[0]) for image in table.images]
    assert (load_images(read_folds("arrays")) == load_images(plain)[order]).all()
    assert (table.labels == plain.labels[order]).all()


# -------------------------------------------------------------------------------------------------------------- records


def write_arrow(path, count, labels=True, kind=".arrow"):
    """What `datasets` writes: pictures as structs of bytes and path, labels as numbers with names in the metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    images = pa.array([{"bytes": encode(smooth(i)), "path": None} for i in range(count)])
    columns = {"image": images, **({"label": [i % 2 for i in range(count)]} if labels else {})}
    features = {"label": {"names": ["ash", "oak"], "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table(columns).replace_schema_metadata(about)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == ".parquet":
        return parquet.write_table(table, path)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_tfrecord(path, count, label=True):
    tf = pytest.importorskip("tensorflow")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i in range(count):
            fields = {"image": encode(smooth(i)), "id": f"{path.stem[:2]}{i}".encode()}
            features = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for key, v in fields.items()}
            if label:
                features["class"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[i % 2]))
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


@pytest.mark.parametrize("kind", [".arrow", ".parquet"])
def test_datasets_on_disk(tmp_path, kind, workdir):
    data = tmp_path / "plants"
    for part, count in (("train", 6), ("validation", 2), ("test", 2)):
        name = f"{part}/data-00000-of-00001" if kind == ".arrow" else f"data/{part}-00000-of-00001"
        write_arrow(data / f"{name}{kind}", count, kind=kind)
    source = open_source(data)
    assert labels(source) == {f"train/{i}": ["ash", "oak"][i % 2] for i in range(6)}
    assert source.read("train/3") == open_reader(data).read("train/3") == encode(smooth(3))
    fold = open_source(data, val="fold")
    assert len(fold.images) == 8 and fold.val == {"val/0", "val/1"}
    assert len(open_unlabelled(data).images) == 2
    with pytest.raises(InputError, match="train/9: no such file"):
        source.read("train/9")
    if kind == ".parquet":
        assert open_source(data / "data/train-00000-of-00001.parquet").classes == ["ash", "oak"]
    assert (load_images(make_folds(data, folds=2))[:3] == np.stack([smooth(0), smooth(2), smooth(4)])).all()


def test_tfrecords(tmp_path):
    data = tmp_path / "flowers"
    write_tfrecord(data / "train/00-of-02.tfrec", 4)
    write_tfrecord(data / "train/01-of-02.tfrec", 2)
    write_tfrecord(data / "test/00-of-01.tfrec", 2, label=False)
    source = open_source(data)
    assert labels(source) == {
        f"train/{name}": str(int(name[-1]) % 2) for name in ("000", "001", "002", "003", "010", "011")
    }
    assert source.read("train/011") == encode(smooth(1))
    assert open_unlabelled(data).images == ["test/000", "test/001"]
    path = data / "train/00-of-02.tfrec"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="00-of-02.tfrec: .* ends within record 3"):
        open_source(data)


# ------------------------------------------------------------------------------------------------------ into the fold table


def pictures(root, *names):
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(smooth(seed)))
    return root


def test_a_given_validation_part_is_a_fold_of_its_own(tmp_path, workdir, capsys):
    counts = (("train", 4), ("val", 3))
    data = pictures(
        tmp_path / "data", *(f"{part}/{label}/{i}.png" for part, n in counts for label in "ab" for i in range(n))
    )
    plain = make_folds(data / "train", "plain", folds=2)
    table = make_folds(data, folds=2, val="fold")
    assert table.k == 3 and set(table.frame["fold"][table.frame["image"].str.startswith("val/")]) == {2}
    own = table.frame[table.frame["fold"] < 2]
    assert own["fold"].tolist() == plain.frame["fold"].tolist()
    out = capsys.readouterr()
    assert "val/ is a fold of its own" in out.out
    assert load_images(read_folds("data")).shape == (14, 24, 32, 3)
    warn_of_others(table)
    assert capsys.readouterr().err == ""
    (data / "val/a/9.png").write_bytes(encode(smooth(99)))
    warn_of_others(table)
    assert "val/a/9.png" in capsys.readouterr().err


def test_classes_are_given_in_either_unicode_form(tmp_path, workdir):
    nfc, nfd = (unicodedata.normalize(form, "hêtre") for form in ("NFC", "NFD"))
    data = pictures(tmp_path / "data", *(f"{label}/{i}.png" for label in (nfd, "orme") for i in range(2)))
    assert make_folds(data, folds=2, classes=["orme", nfc]).classes == ["orme", nfd]


def test_given_folds_are_taken_over(tmp_path, workdir, capsys):
    data = pictures(tmp_path / "data", *(f"{i}.png" for i in range(8)))
    (data / "7.png").write_bytes((data / "0.png").read_bytes())
    path = write_csv(
        data / "l.csv", [f"{i}.png,{'ab'[i % 2]},{1 + i // 3},{'xy'[i // 7]}" for i in range(8)], "image,label,fold,why"
    )
    table = make_folds(path, fold_column="fold")
    assert dict(zip(table.images, table.fold.tolist())) == {f"{i}.png": i // 3 for i in range(8)}
    out = capsys.readouterr()
    assert "1, 2, 3 are called 0 to 2" in out.out and "2 images show the same as one of another fold" in out.err
    assert json.loads(Path("folds/l.json").read_text())["fold_column"] == "fold"
    with pytest.raises(InputError, match="FOLD_COLUMN=why: expected whole numbers"):
        make_folds(path, fold_column="why")
    with pytest.raises(InputError, match="found columns .*, expected one 'gone'"):
        make_folds(path, fold_column="gone")


def test_given_folds_of_images_that_cannot_be_read(tmp_path, workdir, capsys):
    data = pictures(tmp_path / "data", *(f"{i}.png" for i in range(6)))
    (data / "5.png").write_bytes(b"no picture")
    for name, label, fold, message in (("c", "c", "0", "of class c"), ("f", "a", "2", "of fold 2")):
        rows = [f"{i}.png,{'ab'[i % 2]},{i // 2 % 2}" for i in range(5)]
        path = write_csv(data / f"{name}.csv", [*rows, f"5.png,{label},{fold}"], "image,label,fold")
        with pytest.raises(InputError, match=f"FOLD_COLUMN=fold: no image is left {message}"):
            make_folds(path, fold_column="fold", skip_bad=True)
    make_folds(
        write_csv(data / "g.csv", [f"{i}.png,{'ab'[i % 2]},{i % 2}" for i in range(4)], "id,label,fold"),
        fold_column="fold",
    )
    assert "warning: FOLD_COLUMN=fold leaves a fold without images of a, b\n" in capsys.readouterr().err


def test_rare_classes_are_said_to_be_fewer_than_the_folds_asked_for(tmp_path, workdir, capsys):
    counts = (("train", "ab", 3), ("train", "c", 1), ("val", "ab", 2))
    data = pictures(
        tmp_path / "data", *(f"{p}/{label}/{i}.png" for p, labels, n in counts for label in labels for i in range(n))
    )
    assert make_folds(data, folds=3, val="fold").k == 4
    assert "fewer different images than FOLDS=3: c (1)" in capsys.readouterr().out


def test_dry_prints_what_was_found_and_writes_nothing(tmp_path, workdir, capsys):
    data = download(pictures(tmp_path / "data"))
    pictures(data, *(f"train/{i}.jpg" for i in range(6)))
    table = make_folds(data, folds=2, dry=True)
    assert list(Path().iterdir()) == [] and len(table.images) == 6
    out = capsys.readouterr().out
    for line in (
        "not written (DRY=1)",
        "table     train.csv",
        "'image_id' is the image",
        "classes   2: ash, oak",
        "test/",
    ):
        assert line in out
    assert make_folds(data, folds=2).hash == table.hash


def test_dry_says_and_returns_the_same_as_the_making(tmp_path, workdir, capsys):
    data = pictures(
        tmp_path / "data", *(f"{label}/{i}.png" for label, n in (("a", 4), ("b", 4), ("c", 1)) for i in range(n))
    )
    for path in sorted(data.rglob("*.png")):
        deep = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16
        path.write_bytes(encode(Image.fromarray(deep)))
    dry = make_folds(data, folds=2, dry=True)
    said = capsys.readouterr().out.splitlines()
    made = make_folds(data, folds=2)
    assert said[1:] == [line for line in capsys.readouterr().out.splitlines()[1:] if "groups.html" not in line]
    assert any("0..4095 becomes 0..255" in line for line in said)
    assert any("c (1); 1 images are in the training part of every fold" in line for line in said)
    pd.testing.assert_frame_equal(dry.frame, made.frame)
    pd.testing.assert_frame_equal(dry.train_only, made.train_only)
    assert {**vars(dry), "frame": 0, "train_only": 0} == {**vars(made), "frame": 0, "train_only": 0}


def test_options_of_the_data_are_kept_for_later_stages(tmp_path, workdir, capsys):
    data = pictures(tmp_path / "data", *(f"pics/{i}.png" for i in range(6)))
    path = write_csv(tmp_path / "labels.csv", [f"{i},{'ab'[i % 2]}" for i in range(6)] + ["9,a"], "id,label")
    table = make_folds(path, folds=2, images=str(data / "pics"), skip_bad=True)
    assert table.images == ["0.png", "2.png", "4.png", "1.png", "3.png", "5.png"]
    assert load_images(read_folds("labels")).shape[0] == 6
    warn_of_others(table)
    assert "not in the fold table" not in capsys.readouterr().err
    assert np.unique(table.labels, return_counts=True)[1].tolist() == [3, 3]
