"""What a sample_submission.csv asks for: labels or class ids, whatever holds their place; ids however they are written."""

import numpy as np
import pandas as pd
import pytest

from competition.base.files import InputError
from competition.data.table import FoldTable
from competition.submission.sample_csv import (
    Wanted,
    check_csv,
    check_labels,
    csv_content,
    fill_csv,
    plain_columns,
    read_sample,
)
from competition.submission.sample_ids import match_ids

GRADES = ["1", "2", "10", "11"]
WORDS = ["ash", "elm", "oak"]
IMAGES = [f"{number}.jpg" for number in range(1, 6)]
PROBS = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)


def read(folder, lines, classes, images=IMAGES, data="/data/test", encoding="utf-8", name="s.csv", root="", **options):
    path = folder / name
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    unknown = FoldTable("toy/predict/test", pd.DataFrame({"image": images}), classes, (8, 8), data, 0, "", "", root)
    return read_sample(path, unknown, classes, **options)


def column(*values, header="id,label"):
    values = values * 5 if len(values) == 1 else values
    return [header, *(f"{number}.jpg,{value}" for number, value in enumerate(values, 1))]


# --------------------------------------------------------------------------------------------------------- the values


@pytest.mark.parametrize("place", ["0", "-1", "", "unknown", "?", "1", "0.0", "1.0", "99", "nan", "0.5"])
def test_labels_that_are_integers_are_written_whatever_holds_their_place(tmp_path, capsys, place):
    wanted = read(tmp_path, column(place), GRADES)
    assert wanted.values == "labels"
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 1
    assert "labels (1, 2, 10 and 1 more) are written; LABELS=ids writes class ids (0 for 1, 1 for 2," in printed
    assert fill_csv(wanted, IMAGES, PROBS, GRADES)["label"].tolist() == ["11", "1", "10", "2", "11"]


def test_several_integers_are_labels_too(tmp_path):
    assert read(tmp_path, column(0, 1, 2, 3, 0), GRADES).values == "labels"
    assert read(tmp_path, column(1, 2, 10, 11, ""), GRADES).values == "labels"
    assert read(tmp_path, column("1.0", "2.0", "11.0", "10.0", ""), GRADES).values == "labels"


def test_labels_that_are_the_class_ids_need_no_word(tmp_path, capsys):
    assert read(tmp_path, column(0), ["0", "1", "2"]).values == "labels"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("place", ["0", "-1", "unknown", "?", "7", "0.5"])
def test_one_text_in_all_rows_is_no_class_id_of_words(tmp_path, capsys, place):
    assert read(tmp_path, column(place), WORDS).values == "labels"
    assert f"label holds {place}: labels (ash, elm, oak) are written; LABELS=ids" in capsys.readouterr().out


@pytest.mark.parametrize("ids", [(0, 1, 2, 0, 1), ("0.0", "1.0", "2.0", "1.0", ""), (0, 2, 0, 2, 0)])
def test_several_class_ids_of_words_are_class_ids(tmp_path, capsys, ids):
    assert read(tmp_path, column(*ids), WORDS).values == "class ids"
    assert "class ids (0 for ash, 1 for elm, 2 for oak) are written; LABELS=names" in capsys.readouterr().out


@pytest.mark.parametrize("values", [(1, 2, 3, 1, 2), (0.1, 0.2, 0.3, 0.1, 0.2), ("ash", "yew", "oak", "", "")])
def test_several_values_that_are_neither_are_refused_unless_the_user_says(tmp_path, values):
    with pytest.raises(InputError, match="expected a class .ash, elm, oak. or a class id from 0 to 2; LABELS=names or"):
        read(tmp_path, column(*values), WORDS)
    assert read(tmp_path, column(*values), WORDS, labels="names").values == "labels"
    assert read(tmp_path, column(*values), WORDS, labels="ids").values == "class ids"


def test_the_user_chooses(tmp_path, capsys):
    assert read(tmp_path, column(0), GRADES, labels="ids").values == "class ids"
    assert "class ids (0 for 1, 1 for 2, 2 for 10 and 1 more) are written" in capsys.readouterr().out
    assert read(tmp_path, column(0, 1, 2, 1, 0), WORDS, labels="names").values == "labels"
    assert read(tmp_path, column(0.5), ["cat", "dog"], labels="names").values == "labels"
    assert plain_columns(IMAGES, GRADES, False, "ids").values == "class ids"
    assert plain_columns(IMAGES, GRADES, True, "ids").columns == ["id", "0", "1", "2", "3"]
    with pytest.raises(InputError, match="LABELS=words: expected names or ids"):
        check_labels("words")


@pytest.mark.parametrize(
    "values, classes, expected",
    [
        (("-1",), ["cat", "dog"], "labels"),
        (("unknown",), ["cat", "dog"], "labels"),
        (("0",), ["1", "2"], "labels"),
        (("0.5",), ["1", "2"], "one probability"),
        ((0.1, 0.9, 0, 1, 0.5), ["cat", "dog"], "one probability"),
        ((0, 1, 0, 1, 0), ["cat", "dog"], "class ids"),
        ((0, 1, 0, 1, 0), ["1", "2"], "labels"),
    ],
)
def test_two_classes(tmp_path, values, classes, expected):
    assert read(tmp_path, column(*values), classes).values == expected


def test_two_classes_that_are_no_ids_are_no_probabilities(tmp_path):
    with pytest.raises(InputError, match="line 2: found '1' in label"):
        read(tmp_path, column(1, 2, 1, 2, 1), ["cat", "dog"])


def test_labels_are_spelled_as_the_sample_has_them(tmp_path, capsys):
    classes = ["A\u0308hre", "elm", "oak"]
    wanted = read(tmp_path, column("\u00c4hre", "Elm", "oak", "Elm", "oak"), classes)
    assert wanted.values == "labels"
    assert "labels are written as it has them: \u00c4hre for A\u0308hre, Elm for elm" in capsys.readouterr().out
    frame = fill_csv(wanted, IMAGES, np.eye(3)[[0, 1, 2, 1, 0]], classes)
    assert frame["label"].tolist() == ["\u00c4hre", "Elm", "oak", "Elm", "\u00c4hre"]
    (tmp_path / "made.csv").write_bytes(csv_content(frame, wanted))
    check_csv(tmp_path / "made.csv", wanted, classes)
    assert read(tmp_path, column("Elm"), ["elm", "ELM"]).spelling == {}  # of either


# -------------------------------------------------------------------------------------------------------- the columns


@pytest.mark.parametrize(
    "header, order",
    [
        ("id,prob_1,prob_10,prob_2,prob_11", [0, 2, 1, 3]),
        ("id,1_p,2_p,11_p,10_p", [0, 1, 3, 2]),
        ("id,0,1,2,3", [0, 1, 2, 3]),
        ("id,class_3,class_2,class_1,class_0", [3, 2, 1, 0]),
    ],
)
def test_columns_of_classes_may_have_the_same_text_around_the_name(tmp_path, header, order):
    wanted = read(tmp_path, [header, *(f"{n}.jpg,0,0,0,0" for n in range(1, 6))], GRADES)
    assert (wanted.values, wanted.order) == ("probabilities", order) and wanted.columns == header.split(",")


def test_columns_of_class_ids_are_said_and_other_case_and_form_of_a_name_do_not_matter(tmp_path, capsys):
    read(tmp_path, ["id,0,1,2,3", "1.jpg,0,0,0,0"], GRADES)
    assert "its columns are called by class ids: 0 for 1, 1 for 2" in capsys.readouterr().out
    wanted = read(tmp_path, ["id,A\u0308hre,Oak ,ash", "1.jpg,0,0,0"], ["ash", "oak", "ähre"])
    assert wanted.order == [2, 1, 0]
    with pytest.raises(InputError, match="no column for: ash, oak"):
        read(tmp_path, ["id,0,1", "1.jpg,0,0"], ["ash", "oak"], labels="names")


def test_ids_in_the_second_column_and_a_column_of_usage(tmp_path):
    lines = ["predicted,id,Usage", *(f"1,{number},Public" for number in (3, 1, 2))]
    wanted = read(tmp_path, lines, GRADES)
    assert wanted.images == ["3.jpg", "1.jpg", "2.jpg"] and wanted.id_at == 1
    frame = fill_csv(wanted, IMAGES, PROBS, GRADES)
    assert frame.to_numpy().tolist() == [["10", "3", "Public"], ["11", "1", "Public"], ["1", "2", "Public"]]
    (tmp_path / "made.csv").write_bytes(csv_content(frame, wanted))
    check_csv(tmp_path / "made.csv", wanted, GRADES)


@pytest.mark.parametrize(
    "text, encoding, made",
    [
        ("id;label\n2;1\n1;1", "utf-8", "id;label\n2;1\n1;11\n"),
        ("id\tlabel\n2\t1\n1\t1", "utf-8", "id\tlabel\n2\t1\n1\t11\n"),
        ("id,label\n2,1\n1,1", "utf-16", "id,label\n2,1\n1,11\n"),
        ("id,label\r\n2,1\r\n1,1", "utf-8-sig", "id,label\n2,1\n1,11\n"),
        ("2,1\n1,1", "utf-8", "2,1\n1,11\n"),
        ("sep=;\nid;label\n2;1\n1;1", "utf-8", "id;label\n2;1\n1;11\n"),
        ("id,label\n2,1\n1,1", "utf-16-le", "id,label\n2,1\n1,11\n"),
    ],
)
def test_other_signs_between_columns_other_encodings_and_no_header(tmp_path, text, encoding, made):
    wanted = read(tmp_path, [text], GRADES, encoding=encoding)
    frame = fill_csv(wanted, IMAGES, PROBS, GRADES)
    assert csv_content(frame, wanted).decode() == made
    (tmp_path / "made.csv").write_bytes(made.encode())
    check_csv(tmp_path / "made.csv", wanted, GRADES)


def test_a_sample_in_an_older_encoding(tmp_path):
    wanted = read(tmp_path, ["id,label", "é1,ash", "é2,oak"], WORDS, ["é1.jpg", "é2.jpg"], encoding="cp1252")
    assert wanted.ids == ["é1", "é2"] and wanted.images == ["é1.jpg", "é2.jpg"]
    with pytest.raises(InputError, match="s.csv: not UTF-8: "):
        read(tmp_path, ["id,label", "1,chêne"], WORDS, encoding="cp1252")


# ------------------------------------------------------------------------------------------------------------ the ids


@pytest.mark.parametrize(
    "ids",
    [
        ["00003", "00001"],
        ["data/images/test/3.jpg", "data/images/test/1.jpg"],
        ["3.JPG", "1.JPG"],
        ["3.png", "1.png"],
        ["3.dcm", "1.dcm"],
        ["3.0", "1.0"],
        [r"images\3.jpg", r"images\1.jpg"],
        ["./3.jpg", "./1.jpg"],
        ["unknown/3", "unknown/1"],
    ],
)
def test_ids_are_found_by_what_they_mean(ids):
    assert match_ids("s.csv", ids, [f"unknown/{name}" for name in IMAGES], "test") == ["unknown/3.jpg", "unknown/1.jpg"]


def test_an_id_in_another_unicode_form():
    assert match_ids("s.csv", ["a\u0308hre.jpg"], ["\u00e4hre.jpg"]) == ["\u00e4hre.jpg"]


def test_ids_with_the_folder_of_an_archive(tmp_path):
    lines = ["id,label", "test/0/1.jpg,ash", "test/1/1.jpg,ash"]
    wanted = read(tmp_path, lines, WORDS, ["0/1.jpg", "1/1.jpg"], "/data/z.zip", root="top/test/")
    assert wanted.images == ["0/1.jpg", "1/1.jpg"]


def test_the_folder_parts_names_that_are_the_same():
    images = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"]
    assert match_ids("s.csv", ["x/test/b/1.png", "x/test/a/1.png"], images, "test") == ["b/1.jpg", "a/1.jpg"]
    assert match_ids("s.csv", ["a/1.jpg", "b/1.jpg", "b/3.jpg"], images) == ["a/1.jpg", "b/1.jpg", None]


@pytest.mark.parametrize(
    "ids, images",
    [
        (["1.jpg", "2.jpg"], ["a/1.jpg", "b/1.jpg", "a/2.jpg", "b/2.jpg"]),
        (["1", "2"], ["1.jpg", "1.png", "2.jpg"]),
        (["1.gif", "2.gif"], ["1.jpg", "1.png", "2.jpg"]),
        (["1.jpg", "9.jpg"], ["a/1.jpg", "b/1.jpg"]),
        (["0001", "2"], ["1.jpg", "01.jpg", "2.jpg"]),
    ],
)
def test_ids_of_several_images_are_refused(ids, images):
    with pytest.raises(InputError, match="is the name of 2 images"):
        match_ids("s.csv", ids, images)


def test_an_id_without_an_image_is_none_and_takes_none_of_another(tmp_path):
    assert match_ids("s.csv", ["1.jpg", "1.png", "2.jpg"], ["1.jpg", "2.jpg"]) == ["1.jpg", None, "2.jpg"]
    assert match_ids("s.csv", ["1", "01", "2"], ["1.jpg", "2.jpg"]) == ["1.jpg", None, "2.jpg"]
    wanted = read(tmp_path, column(1, 1, 1, 1, 1, 1, 1), GRADES)
    assert wanted.images == [*IMAGES, None, None]


def test_rows_without_an_answer_get_the_shares():
    shares = np.array([0.1, 0.2, 0.6, 0.1])
    wanted = Wanted(["id", "label"], ["2.jpg", None, "broken.jpg"], ["2", "8", "broken"], "labels", [])
    assert fill_csv(wanted, IMAGES, PROBS, GRADES, shares)["label"].tolist() == ["1", "10", "10"]
    wanted = Wanted(["id", "2", "1"], [None, "2.jpg"], ["8", "2"], "probabilities", [1, 0])
    assert np.allclose(fill_csv(wanted, IMAGES, PROBS, GRADES, shares)[["2", "1"]], [[0.2, 0.1], [0.1, 0.7]])
