"""What `look` says of the data: that its numbers are what they are called, and that odd images are named."""

import base64
import io
import re

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import encode
from PIL import Image

from competition.base.files import InputError
from competition.base.workspace import Workspace
from competition.cli.main import main
from competition.data.folds import make_folds
from competition.insight import look as looking
from competition.insight.look import OUTLIER_KINDS, find_outliers, look, measure_image, robust_z

CLASSES = {"a <b> & c": 30, "été": 14}  # the first must not break the page
RED, DARK, BLURRED, SMALL = "été/003.png", "a <b> & c/005.png", "été/007.png", "a <b> & c/011.png"


def texture(seed, height=20, width=30, level=110):
    """A picture uint8 [height, width, 3] like the others: noise around a greenish grey."""
    random = np.random.default_rng(seed)
    colour = level * np.array([0.9, 1.0, 0.8]) * random.uniform(0.93, 1.07, 3)
    return np.clip(random.normal(1, 0.25, (height, width, 1)) * colour, 0, 255).astype(np.uint8)


def spoil(name, pixels):
    if name == RED:
        pixels = np.clip(pixels * np.array([1.5, 0.8, 0.8]), 0, 255).astype(np.uint8)
    if name == DARK:
        pixels = pixels // 5
    if name == BLURRED:
        pixels = cv2.GaussianBlur(pixels, (0, 0), 3)
    if name == SMALL:
        pixels = pixels[::5, ::5]
    return pixels


@pytest.fixture
def data(tmp_path, workdir):
    """Pictures of 20x30 in two classes, four of them spoiled; their fold table is called "odd"."""
    seed = 0
    for label, count in CLASSES.items():
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(count):
            name = f"{label}/{i:03}.png"
            (tmp_path / "data" / name).write_bytes(encode(spoil(name, texture(seed))))
            seed += 1
    make_folds(tmp_path / "data", name="odd", folds=2)
    return tmp_path / "data"


def pictures(page):
    """[(title, pixels)] of all pictures on a page."""
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" title="([^"]*)"', page)
    return [(title, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))) for data, title in found]


def test_the_odd_images_are_named_and_no_others(data, capsys):
    frame = look()
    outliers = frame.set_index("image")["outlier"]
    assert set(outliers[outliers.str.contains("red-shifted")].index) == {RED}
    assert "dark" in outliers[DARK] and "blurred" in outliers[BLURRED] and "small" in outliers[SMALL]
    assert (outliers == "").sum() > 30
    assert re.search(rf"^red-shifted: 1 images, {RED}$", capsys.readouterr().out, re.M)
    pd.testing.assert_frame_equal(pd.read_csv("runs/odd/look/images.csv", keep_default_na=False), frame)
    assert frame["width"].tolist().count(30) == 43 and frame.set_index("image")["width"][SMALL] == 6


def test_the_page_stands_alone_and_shows_each_image_under_its_name(data):
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    look("odd")
    text = (Workspace().runs / "odd/look/look.html").read_text("utf-8")
    assert not re.search(r'https?:|<script|<link|src="(?!data:)', text)
    assert "<b>" not in text and "a &lt;b&gt; &amp; c" in text and "été" in text
    shown = pictures(text)
    titles = [title for title, _ in shown]
    assert titles.count("été/000.png") == 1 and titles.count(RED) >= 2  # on its sheet, and among what stands out
    for title, pixels in shown:
        if title.startswith("été"):
            name = title.partition("/")[2]
            with Image.open(data / "été" / name) as image:
                assert np.allclose(pixels.mean((0, 1)), np.asarray(image).mean((0, 1)), atol=4), title
    mean = shown[0][1].astype(float)  # the first class's
    expected = np.mean(
        [
            measure_image(np.asarray(Image.open(path).resize((30, 20)))).brightness
            for path in sorted((data / "a <b> & c").iterdir())
        ]
    )
    assert cv2.cvtColor(mean.astype(np.uint8), cv2.COLOR_RGB2GRAY).mean() == pytest.approx(expected, abs=3)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_sheets_are_limited_and_large_pictures_shrunk(data, monkeypatch):
    monkeypatch.setattr(looking, "SHEETS", 12)
    monkeypatch.setattr(looking, "EXTREMES", 1)
    monkeypatch.setattr(looking, "SIDE", 15)
    look()
    text = (Workspace().runs / "odd/look/look.html").read_text("utf-8")
    sheets = text[text.index("<h2>a &lt;b&gt;") :]
    assert len(pictures(sheets)) == 12
    assert {pixels.shape for _, pixels in pictures(text)} == {(10, 15, 3)}
    assert len(re.findall("<figure", text)) == sum(len(rows) > 0 for rows in _outliers().values())


def _outliers():
    frame = pd.read_csv("runs/odd/look/images.csv")
    return find_outliers(frame.assign(pixels=frame["width"] * frame["height"]))


def test_the_table_by_class(data, capsys):
    assert main(["look", "--name", "odd"]) == 0
    out = capsys.readouterr().out
    head, first, second, both = out.splitlines()[:4]
    assert head.split()[:3] == ["class", "images", "brightness"] and "red-shifted" in head.split()
    assert (re.split(r"\s{2,}", first)[:2], second.split()[:2], both.split()[:2]) == (
        ["a <b> & c", "30"],
        ["été", "14"],
        ["all", "44"],
    )
    assert second.split()[head.split().index("red-shifted")] == both.split()[head.split().index("red-shifted")] == "1"


def test_a_changed_image_is_refused(data):
    (data / "été/001.png").write_bytes(encode(texture(99)))
    with pytest.raises(InputError, match="été/001.png.*changed"):
        look()


def test_grey_pictures_of_many_sizes_and_few_images(tmp_path, workdir, capsys):
    for label in "ab":
        (tmp_path / "grey" / label).mkdir(parents=True)
        for i in range(3):
            pixels = texture(i, 8 + i, 12, level=60 + 9 * i)[..., 1]
            (tmp_path / "grey" / label / f"{i}.png").write_bytes(encode(pixels))
    make_folds(tmp_path / "grey", folds=2)
    frame = look()
    assert (frame["redness"] == 0).all() and not frame["outlier"].str.contains("red-shifted").any()
    assert frame["height"].tolist() == [8, 9, 10] * 2
    assert "8 x 12: 1, 9 x 12: 1, 10 x 12: 1" in (Workspace().runs / "grey/look/look.html").read_text("utf-8")


def test_measures_of_pictures_that_can_be_reckoned_by_hand():
    picture = np.zeros((6, 10, 3), np.uint8)
    picture[:, 5:] = 200, 100, 50
    found = measure_image(picture)
    assert found.brightness == pytest.approx(round(0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 2)
    assert found.contrast == pytest.approx(found.brightness)  # half 0, half twice the mean
    assert (found.black, found.white) == (0.5, 0)
    assert (found.red, found.green, found.blue) == (100, 50, 25)
    assert found.redness == pytest.approx(np.log2(101 / 51))
    assert found.sharpness == pytest.approx((2 * found.brightness) ** 2 * 2 / 10)  # +v and -v in 2 columns of 10
    picture[:] = 255, 10, 0  # one channel at its end is clipped
    assert (measure_image(picture).white, measure_image(picture).sharpness) == (1, 0)


def test_redness_is_of_the_light_and_not_of_its_strength():
    plain = texture(1, level=160)
    red, yellow = (
        np.clip(plain * np.array(cast), 0, 255).astype(np.uint8) for cast in ((1.3, 0.9, 1), (1.2, 1.2, 0.5))
    )
    base, half, red, yellow = (measure_image(picture).redness for picture in (plain, plain // 2, red, yellow))
    assert abs(half - base) < 0.02 and abs(yellow - base) < 0.05 and red > base + 0.3


def test_robust_z_by_hand():
    values = np.array([1, 2, 3, 4, 100.0])
    assert robust_z(values) == pytest.approx(0.6745 * (values - 3) / 1)
    most_equal = np.array([0, 0, 0, 0, 5.0])
    assert robust_z(most_equal) == pytest.approx(most_equal / (1.2533 * 1))
    assert (robust_z(np.full(4, 7)) == 0).all()
    normal = np.random.default_rng(0).normal(10, 3, 4000)
    assert robust_z(normal).std() == pytest.approx(1, abs=0.05)


def test_outliers_come_most_extreme_first_and_only_where_they_matter():
    columns = {kind.column for kind in OUTLIER_KINDS}
    frame = pd.DataFrame({column: np.linspace(90, 110, 41) for column in columns} | {"black": 0.0, "white": 0.0})
    frame.loc[[3, 7], "redness"] = 300, 400
    frame.loc[5, "brightness"] = 1
    frame.loc[[1, 2], "white"] = 0.04, 0.2
    found = find_outliers(frame)
    assert found["red-shifted"] == [7, 3] and found["dark"] == [5] and found["bright"] == []
    assert found["clipped white"] == [2] and found["clipped black"] == []
