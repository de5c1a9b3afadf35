import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders, encode, smooth

from bench import duplicates
from competition.base.files import InputError
from competition.cli.main import main
from competition.data import groups, near
from competition.data.folds import assign_folds, make_folds
from competition.data.groups import join_pairs, pair_equal
from competition.data.images import warn_of_others
from competition.data.near import (
    SIDE,
    _candidates,
    _inverse,
    _mirrored,
    _nearest,
    _spectrum,
    find_near,
    make_sketch,
    transform,
)
from competition.data.table import read_folds
from competition.features.augment import draw_numbers, plan_copies


def cloudy(seed, height=64, width=80, power=1.3):
    """uint8 [height, width, 3] with detail of every size, as photographs have: noise over frequency to a power."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    grey, *colours = (
        np.fft.irfft2(np.fft.rfft2(random.standard_normal((height, width))) / frequency**power, (height, width))
        for _ in range(4)
    )
    image = 120 + 40 * grey[..., None] / grey.std() + 8 * np.stack([c / c.std() for c in colours], -1)
    return np.clip(image, 0, 255).round().astype(np.uint8)


def photographs(folder, counts, first=0, **shape):
    """Class folders of cloudy pictures, each of its own."""
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for i in range(count):
            first += 1
            (folder / label / f"{i:03}.png").write_bytes(encode(cloudy(first, **shape)))
    return folder


def tied(*images):
    """The pairs of these images that are found, as a set of rows."""
    pairs = find_near(np.stack([make_sketch(image) for image in images]))
    return set(zip(pairs["first"].tolist(), pairs["second"].tolist()))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return duplicates.measure(photographs(tmp_path_factory.mktemp("planted") / "data", {"a": 60, "b": 60}), 40)


def test_planted_copies_of_each_kind_are_found(planted):
    rows = planted[0].set_index("kind")
    assert list(rows.index) == list(duplicates.KINDS) and (rows["planted"] == 40).all()
    assert (rows["recall"] >= 0.97).all(), rows


def test_no_others_are_grouped(planted):
    _, others, ties = planted
    assert ties == [] and others["in 1000 images"] == 0


def test_planted_copies_are_what_they_say(tmp_path):
    random, pixels = np.random.default_rng(0), cloudy(1, 60, 100)
    assert duplicates.frame(pixels).shape == duplicates.frame(pixels, random).shape == (48, 80, 3)
    assert (duplicates.frame(pixels) == pixels[6:54, 10:90]).all()
    ratio = duplicates.relight(pixels, random).astype(float).mean() / pixels.mean()
    assert 0.75 < ratio < 1.25
    turned = {duplicates.turn(pixels, random).tobytes() for _ in range(60)}
    assert len(turned) == 7 and pixels.tobytes() not in turned


def test_pictures_without_detail_are_not_compared():
    assert tied(*(smooth(seed) for seed in range(30))) == set()
    black = np.zeros((30, 40, 3), np.uint8)
    assert tied(black, black, black + 3) == set()


def test_light_and_shade_that_pictures_have_in_common_do_not_count():
    """The same large shade, which is most of what there is to see, on different grounds."""
    y, x = np.mgrid[:64, :80]
    light = 0.1 + 0.9 / (1 + np.exp((24 - np.hypot(y - 34, (x - 36) / 1.2)) / 4))
    pictures = [
        (cloudy(seed, power=0.8) * light[..., None] + 60 * light[..., None]).astype(np.uint8) for seed in range(20)
    ]
    assert tied(*pictures) == set()
    assert tied(*pictures, pictures[3][:, ::-1]) == {(3, 20)}


def test_the_same_shapes_in_other_colours_are_no_copies():
    grey = cloudy(1).mean(-1, keepdims=True) / 255
    colours = [230, 60, 60], [60, 60, 230], [190, 50, 50]
    red, blue, dull = (np.rint(grey * colour).astype(np.uint8) for colour in colours)
    assert tied(red, blue) == set()
    assert tied(red, dull) == {(0, 1)}


@pytest.mark.parametrize("symmetry", range(8))
def test_symmetries_of_spectra_are_those_of_images(symmetry):
    images = np.random.default_rng(0).integers(0, 255, (2, SIDE, SIDE))
    turned = np.stack([transform(image, symmetry) for image in images])
    mirrored = _mirrored(_spectrum(images), symmetry)
    np.testing.assert_allclose(mirrored, _spectrum(turned), atol=0.05)
    back = int(_inverse(np.array(symmetry)))
    assert (transform(turned[0], back) == images[0]).all()


def test_a_search_among_many_looks_at_few(monkeypatch):
    """Candidates come from pivots' neighbourhoods, and all copies are among them: images that differ by noise."""
    random = np.random.default_rng(0)
    images = np.stack([cloudy(seed, 48, 48)[..., 0] for seed in range(600)])
    copies = np.clip(images[:100] + random.normal(0, 3, (100, 48, 48)), 0, 255).astype(np.uint8)[:, :, ::-1]
    looked, nearest = [], _nearest

    def noted(turned, own, coarse, pivots, members):
        looked.append((len(pivots), max(map(len, members))))
        return nearest(turned, own, coarse, pivots, members)

    monkeypatch.setattr(near, "_nearest", noted)
    jobs = _candidates(np.concatenate([images, copies]), np.arange(700))
    assert {(i, 600 + i) for i in range(100)} <= {job[:2] for job in jobs}
    assert len(jobs) < 200 and looked[0][0] == 26 and looked[0][1] < 140


def test_joining_goes_over_others():
    assert join_pairs(6, np.array([[1, 4], [4, 5]]), np.array([[0, 2]])).tolist() == [0, 1, 0, 3, 1, 1]
    assert join_pairs(3, np.empty((0, 2), int)).tolist() == [0, 1, 2]
    assert pair_equal(["x", "y", "x", "z", "x"]).tolist() == [[0, 2], [0, 4]]
    assert pair_equal([]).shape == (0, 2) and pair_equal([("x",), "x", ("x",)]).tolist() == [[0, 2]]


# ------------------------------------------------------------------------------------------------------ make folds


@pytest.fixture
def data(tmp_path, workdir):
    """Two classes of 12 pictures; in a, 001 is 000 turned and darker, 002 its pixels in another file."""
    folder = photographs(tmp_path / "data", {"a": 12, "b": 12})
    pixels = cloudy(1)
    (folder / "a/001.png").write_bytes(encode((pixels * 0.85).astype(np.uint8)[::-1]))
    (folder / "a/002.png").write_bytes(encode(pixels, "TIFF"))
    return folder


def test_near_duplicates_share_a_group_and_are_shown(data, capsys):
    frame = make_folds(data, "t").frame.set_index("image")
    assert set(frame["group"][:3]) == {"a/000.png"} and frame["fold"][:3].nunique() == 1
    assert (frame["group"][3:] == frame.index[3:]).all()
    assert "3 images show 1 pictures" in capsys.readouterr().out
    pairs = pd.read_csv("runs/t/groups/pairs.csv").set_index(["first", "second"])
    assert pairs["how"].to_dict() == {("a/000.png", "a/001.png"): "near", ("a/000.png", "a/002.png"): "pixels"}
    page = Path("runs/t/groups/groups.html").read_text("utf-8")
    assert page.count("<img") == 3 and "a/001.png (a)" in page
    before = Path("folds/t.csv").read_bytes()
    make_folds(data, "t")
    assert Path("folds/t.csv").read_bytes() == before and "unchanged" in capsys.readouterr().out


def test_the_search_can_be_turned_off(data):
    assert make_folds(data, "t").frame["group"].nunique() == 22
    plain = make_folds(data, "t", near=False, force=True)
    assert plain.frame["group"].tolist() == plain.images
    assert not Path("runs/t/groups/groups.html").exists(), "of what is no longer so"
    labels = np.array(plain.frame["label"], object)
    assert (plain.fold == assign_folds(labels, labels + plain.frame["image"], 5, 0)).all()


def test_without_near_duplicates_the_table_is_what_it_was(tmp_path, workdir):
    folder = photographs(tmp_path / "data", {"a": 10, "b": 7})
    tied, plain = make_folds(folder, "near"), make_folds(folder, "plain", near=False)
    assert tied.hash == plain.hash and not Path("runs").exists()


def test_conflicts_are_told_and_can_be_left_out(data, capsys):
    (data / "b/000.png").write_bytes(encode(cloudy(1)[:, ::-1]))
    table = make_folds(data, "t")
    assert "same picture under two labels: a/000.png, a/001.png, a/002.png, b/000.png\n" in capsys.readouterr().err
    assert len(table.images) == 24 and table.frame["group"].nunique() == 21
    assert "1 pictures with several labels" in Path("runs/t/groups/groups.html").read_text("utf-8")
    assert pd.read_csv("runs/t/groups/pairs.csv")["conflict"].all()
    with pytest.raises(InputError, match="fewer images than FOLDS=10 in class a"):
        make_folds(data, "t", folds=10, drop_conflicts=True)
    assert main(["folds", "--data", str(data), "--name", "t", "--drop-conflicts"]) == 0
    assert "4 images were left out because their pictures have several labels" in capsys.readouterr().out
    table = read_folds("t")
    capsys.readouterr()
    warn_of_others(table)
    assert not capsys.readouterr().err, "what is missing was asked for"
    (data / "a/new.png").write_bytes((data / "a/001.png").read_bytes())
    warn_of_others(table)
    assert "5 images are not in the fold table" in capsys.readouterr().err
    (data / "a/new.png").unlink()
    assert len(table.images) == 20 and not {"a/000.png", "b/000.png"} & set(table.images)
    assert (data / "b/000.png").exists() and Path("runs/t/groups/groups.html").read_text("utf-8").count("<img") == 4


def test_groups_of_a_column_are_merged_with_those_found(data, capsys):
    images = [f"{label}/{i:03}.png" for label in "ab" for i in range(12)]
    patients = ["1", "", "", "1", "2", "2", *"......", "1", "7", "7", "7", *"........"]
    rows = pd.DataFrame({"image": images, "label": [name[0] for name in images], "patient": patients})
    rows["patient"] = [f"p{i}" if name == "." else name for i, name in enumerate(patients)]
    rows.to_csv(data / "labels.csv", index=False)
    frame = make_folds(data / "labels.csv", "t", groups="patient").frame.set_index("image")
    together = [
        ["a/000.png", "a/001.png", "a/002.png", "a/003.png", "b/000.png"],
        ["a/004.png", "a/005.png"],
        ["b/001.png", "b/002.png", "b/003.png"],
    ]
    for names in together:
        assert set(frame.loc[names, "group"]) == {names[0]} and frame.loc[names, "fold"].nunique() == 1
    assert frame["group"].nunique() == 24 - 4 - 1 - 2
    assert "two labels" not in capsys.readouterr().err, "a patient may have several"
    with pytest.raises(InputError, match="expected one 'site'"):
        make_folds(data / "labels.csv", "t", groups="site")
    with pytest.raises(InputError, match="patient: .* has no columns"):
        make_folds(data, "t", groups="patient")


def test_other_pictures_are_no_group_where_pandas_reads_texts_up_to_a_zero_byte(data, monkeypatch):
    """As pandas 2 does in `factorize`."""
    cut, factorize = np.vectorize(lambda value: str(value).split("\0")[0]), pd.factorize
    monkeypatch.setattr(pd, "factorize", lambda values: factorize(cut(values)))
    assert pair_equal(["\0a", "\0b", "\0a"]).tolist() == [[0, 2]]
    frame = make_folds(data, "t").frame
    assert frame["group"].nunique() == 22 and set(frame["group"].value_counts()) == {1, 3}


def test_a_group_larger_than_a_fold_is_a_warning(tmp_path, workdir, capsys):
    folder = photographs(tmp_path / "data", {"a": 12, "b": 6})
    for i in range(7):
        (folder / f"a/{i:03}.png").write_bytes(encode(cloudy(1), "JPEG", quality=95 - 3 * i))
    make_folds(folder)
    assert "a/000.png and 6 others are one group, more than a fold" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- what is made of images


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_rare_classes_never_share_a_group_with_what_is_held_out(seed):
    """Whatever the groups, labels and folds: a copy's fold is looked up at its source, there is no other to give it."""
    random = np.random.default_rng(seed)
    group = random.integers(0, 60, 200)
    labels = random.choice(4, 200, p=[0.6, 0.25, 0.1, 0.05])
    fold = assign_folds(labels.astype(str), group.astype(str), 4, seed)
    copies = plan_copies(labels, fold, np.full(4, 150))
    for k in range(4):
        for epoch in range(5):
            rows = copies.sources[draw_numbers(copies, labels, fold, k, np.random.default_rng([seed, k, epoch]))]
            assert len(rows) > 400 and not set(group[rows]) & set(group[fold == k])


def test_dealing_keeps_groups_of_several_classes_together():
    random = np.random.default_rng(3)
    group = np.repeat(np.arange(150), random.choice([1, 2, 4], 150))
    labels = random.choice(["a", "b"], len(group))
    fold = assign_folds(labels, group.astype(str), 5, 0)
    assert (pd.DataFrame({"g": group, "f": fold}).groupby("g")["f"].nunique() == 1).all()
    counts = pd.crosstab(labels, fold)
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 4, "within the largest group"


def drawings(count, side=48):
    """uint8 [count, side, side, 3]: plain discs of any place, size and colour on white, as icons are."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    pictures = np.full((count, side, side, 3), 255, np.uint8)
    for picture in pictures:
        place, radius = random.integers(20, 28, 2), random.integers(8, 18)
        picture[np.hypot(y - place[0], x - place[1]) < radius] = random.integers(0, 200, 3)
    return pictures


def test_drawings_that_are_all_alike_make_folds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = photographs(tmp_path / "data", {"photos": 12})
    (folder / "discs").mkdir()
    for i, picture in enumerate(drawings(40)):
        (folder / "discs" / f"{i:02}.png").write_bytes(encode(picture))
    (folder / "discs" / "again.png").write_bytes(encode(drawings(1)[0], "BMP"))
    (folder / "photos" / "again.jpg").write_bytes(encode(cloudy(3), "JPEG", quality=60))
    frame = make_folds(folder, folds=5).frame.set_index("image")
    discs = frame[frame["label"] == "discs"]
    assert discs["group"].value_counts().max() <= 10 and discs["fold"].value_counts().min() >= 6
    assert frame["group"]["discs/again.png"] == frame["group"]["discs/00.png"]  # the same pixels stay together
    assert frame["group"]["photos/again.jpg"] == frame["group"]["photos/002.png"]  # and copies of other classes
    assert "GROUPS=" in capsys.readouterr().err


def cut(labels, pairs, folds):
    """What groups.cut_pairs keeps of (first, second, score)."""
    pairs = pd.DataFrame(pairs, columns=["first", "second", "score"]).assign(how="near")
    return groups.cut_pairs(np.array(labels), pairs, folds)[["first", "second"]].to_numpy().tolist()


def test_a_group_too_large_keeps_its_surest_pairs():
    chain = [(i, i + 1, 0.98 if i % 10 == 0 else 0.8) for i in range(59)]
    others = [(60, 61, 0.77)]
    assert cut(["a"] * 62, chain + others, 5) == [[i, i + 1] for i in range(0, 59, 10)] + [[60, 61]]
    assert cut(["a"] * 600, chain + others, 5) == [[i, i + 1] for i in range(59)] + [[60, 61]]  # half of a fold
    assert cut(["a", "b"] * 300, chain + others, 5) == [[i, i + 1] for i in range(0, 59, 10)] + [[60, 61]]  # mixed
    noisy = ["a"] * 55 + ["b"] * 5 + ["a", "b"] * 300
    assert len(cut(noisy, chain, 5)) == 59  # wrong labels among the copies of one picture


def test_a_scene_of_many_frames_is_no_drawing():
    """Each is like each other: 30 frames of a class of 100, and 12 copies of one picture, half of them mislabelled."""
    scene = [(i, j, 0.83) for i in range(30) for j in range(i + 1, 30)]
    assert len(cut(["a"] * 100 + ["b"] * 100, scene, 5)) == len(scene)
    assert len(cut(["a"] * 45 + ["b"] * 100, scene, 5)) == 0  # most of a class: it is all alike
    copies = [(i, j, 0.9) for i in range(12) for j in range(i + 1, 12)]
    assert len(cut(["a", "b"] * 60, copies, 5)) == len(copies)


def test_a_small_class_keeps_a_group_for_each_fold():
    ring = [(i, (i + 1) % 8, 0.8) for i in range(7)]
    assert cut(["a"] * 8 + ["b"] * 50, ring, 5) == []
    assert len(cut(["a"] * 14 + ["b"] * 50, ring, 5)) == 7  # six more: a group for each of 5 folds
    assert len(cut(["a"] * 8 + ["b"] * 50, [(0, 1, 0.8)], 5)) == 1


def test_how_long_folds_of_drawn_images_take(workdir, capsys):
    assert duplicates.main(["--drawn", "60"]) == 0
    assert re.match(r"make folds on 60 drawn JPEGs of 96 x 96: \d+ s, 0 tied", capsys.readouterr().out)
    assert duplicates.main(["--data", "nowhere"]) == 2


def test_a_planted_foreign_picture_is_named_shown_and_left_out(tmp_path, workdir, capsys):
    random = np.random.RandomState(0)
    folder = class_folders(tmp_path / "data", {"a": 12, "b": 12, "c": 12})
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        path.write_bytes(encode(random.randint(0, 255, (24, 32, 3)).astype(np.uint8)))
    cartoon = encode(smooth(99))
    for label, count in (("a", 4), ("b", 3)):
        for i in range(count):
            (folder / label / f"x{i}.png").write_bytes(cartoon)
    table = make_folds(folder, folds=3)
    said = capsys.readouterr().err
    assert "1 pictures occur so often that they may not belong to the data: a/x0.png (7 images, 2 labels)" in said
    assert "DROP_GROUPS=a/x0.png leaves them out" in said
    html = (table.paths.groups / "groups.html").read_text("utf-8")
    assert "1 pictures that occur so often" in html

    without = make_folds(folder, folds=3, drop_groups="b/x1.png", force=True)
    told = capsys.readouterr()
    assert len(without.images) == 36 and not any("x" in image for image in without.images)
    assert "7 images were left out because they show a picture of DROP_GROUPS=" in told.out
    assert "occur so often" not in told.err
    assert "groups.html shows 1 pictures that were left out" in told.out, "no group is left to be told of"
    warn_of_others(without)
    assert capsys.readouterr().err == ""
    assert make_folds(folder, folds=3, drop_groups=["a/x0.png"]).hash == without.hash
    with pytest.raises(
        InputError, match="DROP_GROUPS: no such image: a/nothing.png; expected names of images: a/000.png"
    ):
        make_folds(folder, folds=3, drop_groups="a/nothing.png")


def test_what_was_left_out_is_in_no_fold(tmp_path, workdir, capsys):
    """The images of a group that was left out were counted, and advice was given on them."""
    folder = photographs(tmp_path / "data", {"a": 12, "b": 12})
    for label, count in (("a", 8), ("b", 6)):
        for i in range(count):
            (folder / label / f"x{i}.png").write_bytes(encode(smooth(99)))
    shutil.copy(folder / "a/000.png", folder / "a/y.png")
    make_folds(folder, folds=3)
    told = capsys.readouterr()
    assert "16 images show 2 pictures, each in one fold (pairs: 14 bytes); 1 pictures have several labels" in told.out
    assert "DROP_GROUPS=a/x0.png leaves them out" in told.err and "more than a fold" not in told.err
    for options in ({"drop_groups": "a/x0.png"}, {"drop_conflicts": True}):
        make_folds(folder, folds=3, force=True, **options)
        told = capsys.readouterr()
        assert "2 images show 1 pictures, each in one fold (pairs: 1 bytes); 0 pictures have several" in told.out
        assert "groups.html shows them, and 1 pictures that were left out" in told.out
        assert "more than a fold" not in told.err
