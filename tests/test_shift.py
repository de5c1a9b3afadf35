"""What `shift` says of test images: nothing of like ones, what differs of others; and weights that move the score."""

import json
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import encode
from test_oof import write_run

from competition.base.files import InputError
from competition.base.workspace import Workspace
from competition.data.folds import make_folds
from competition.data.sources import open_unlabelled
from competition.insight.shift import (
    compare_statistics,
    measure_auc,
    prepare_statistics,
    shift,
    tell_apart,
    weigh_images,
    weigh_score,
)


def texture(seed, light=1.0, side=16):
    """uint8 [side, side, 3]: noise around a grey that differs from image to image."""
    random = np.random.default_rng(seed)
    level = 100 * light * random.uniform(0.7, 1.3)
    return np.clip(random.normal(level, 20, (side, side, 3)), 0, 255).astype(np.uint8)


def pictures(folder, seeds, **options):
    folder.mkdir(parents=True)
    for seed in seeds:
        (folder / f"{seed:04}.png").write_bytes(encode(texture(seed, **options)))
    return folder


@pytest.fixture
def trained(tmp_path, workdir):
    for i, label in enumerate(("a b", "été")):
        pictures(tmp_path / "known" / label, range(60 * i, 60 * i + 60))
    make_folds(tmp_path / "known", folds=2)
    return tmp_path


def test_like_images_give_no_shift_and_copies_are_named(trained, capsys):
    test = pictures(trained / "like", range(2000, 2060))
    (test / "same.png").write_bytes((trained / "known/été/0061.png").read_bytes())
    (test / "again.bmp").write_bytes(encode(texture(3), "BMP"))  # other bytes, same pixels
    (test / "notes.txt").write_text("no picture")
    before = {path: path.stat().st_mtime_ns for path in test.rglob("*")}
    record = shift(test, model="baseline")
    captured = capsys.readouterr()
    assert record["verdict"].startswith("no shift seen") and record["score"] is None
    for one in record["told"].values():
        assert one["interval"][0] <= 0.5 and one["verdict"] == "no shift seen"
    assert record["copies"] == {"same.png": "été/0061.png", "again.bmp": "a b/0003.png"}
    assert "notes.txt" in captured.err and "again.bmp = a b/0003.png" in captured.out
    folder = Workspace().runs / "known/shift/like"
    assert json.loads((folder / "shift.json").read_text()) == record
    rows = pd.read_csv(folder / "shift.csv", keep_default_na=False)
    assert rows["set"].value_counts().to_dict() == {"training": 120, "test": 62}
    page = (folder / "shift.html").read_text("utf-8")
    assert page.count("<img") == 4 * 48 and "https:" not in page
    shift(test, model="baseline")
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in test.rglob("*")} == before


def test_brighter_and_larger_images_of_a_zip_are_told_and_what_differs_is_named(trained):
    bright = pictures(trained / "bright", range(1000, 1060), light=1.6)
    with zipfile.ZipFile(trained / "bright.zip", "w") as archive:
        for path in bright.iterdir():
            archive.write(path, f"deep/er/{path.name}")
    record = shift(trained / "bright.zip", model="baseline")
    assert record["verdict"].startswith("strong shift") and "brightness +" in record["verdict"]
    large = shift(pictures(trained / "large", range(1000, 1060), side=32), model="baseline")
    assert large["told"]["statistics"]["verdict"] == "strong" and "width +" in large["verdict"]


def test_what_is_no_test_set_is_refused(trained):
    (trained / "void").mkdir()
    with pytest.raises(InputError, match="void: found nothing"):
        open_unlabelled(trained / "void")
    with pytest.raises(InputError, match="few: 3 images"):
        shift(pictures(trained / "few", range(3)), model="baseline")
    with pytest.raises(InputError, match="---: no name can be made of this, rename it"):
        shift(pictures(trained / "---", range(12)), model="baseline")
    broken = pictures(trained / "broken", range(20))
    (broken / "0007.png").write_bytes(encode(texture(7))[:200])
    with pytest.raises(InputError, match="0007.png"):
        shift(broken, model="baseline", strict=True)
    with pytest.raises(InputError, match="holds the current one"):
        shift(trained, model="baseline")


def test_images_that_cannot_be_read_are_left_out_by_name(trained, capsys):
    whole = pictures(trained / "whole", range(2000, 2030))
    record = shift(whole, model="baseline")
    assert "left_out" not in record
    capsys.readouterr()
    shutil.copytree(whole, trained / "damaged")
    for name, data in (("a.png", b""), ("b.png", b"<html>"), ("c.jpg", encode(texture(7), "JPEG")[:300])):
        (trained / "damaged" / name).write_bytes(data)
    found = shift(trained / "damaged", model="baseline")
    assert found["left_out"] == ["a.png", "b.png", "c.jpg"] and found["told"] == record["told"]
    captured = capsys.readouterr()
    assert "3 images cannot be read and are left out: a.png: the file is empty" in captured.err
    assert "3 test images cannot be read and are left out: a.png, b.png, c.jpg" in captured.out
    with pytest.raises(InputError, match="3 images cannot be read: a.png: .*; b.png: .*; c.jpg: "):
        shift(trained / "damaged", model="baseline", strict=True)


def test_the_interval_holds_one_half_where_there_is_no_shift():
    """95 of 100 draws in expectation; of 60, fewer than 52 has a chance of 0.2 % where the interval is right."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        values, is_test = random.normal(size=(200, 20)), random.permutation(200) < 80
        low, high = tell_apart(values, is_test, np.arange(200), 1e-2).interval
        held += low <= 0.5 <= high
    assert held >= 52


def test_auc_by_hand_and_its_error_by_drawing_again():
    assert measure_auc(np.array([1, 2, 3, 4.0]), np.array([0, 1, 0, 1], bool))[0] == 0.75
    random = np.random.default_rng(0)
    positive = np.arange(150) < 60
    found = np.array([measure_auc(random.normal(positive * 1.0, 1), positive) for _ in range(400)])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.12)
    assert found[:, 0].mean() == pytest.approx(0.760, abs=0.01)  # Phi(1 / sqrt(2))


def test_copies_of_training_images_do_not_make_a_shift():
    """Each training image thrice: known again it would be told from test images, were groups not kept together."""
    random = np.random.default_rng(0)
    single = random.normal(size=(200, 150))
    values = np.concatenate([np.repeat(single[:100], 3, axis=0), single[100:]])
    is_test = np.repeat([False, True], [300, 100])
    apart = tell_apart(values, is_test, np.arange(400), 1.0)
    kept = tell_apart(values, is_test, np.append(np.repeat(np.arange(100), 3), np.arange(100, 200)), 1.0)
    assert kept.auc < 0.6 < apart.auc


def test_weights_find_the_known_accuracy_of_the_test():
    """x is N(0, 1) in training and N(1, 1) in the test; right with probability 1 / (1 + e^(x - 1)), .70 and .5."""
    random = np.random.default_rng(0)
    n = 4000
    x, is_test = random.normal(size=2 * n), np.repeat([False, True], n)
    x[is_test] += 1
    right = (random.random(2 * n) < 1 / (1 + np.exp(x - 1))).astype(float)
    told = tell_apart(x[:, None], is_test, np.arange(2 * n), 1.0)
    weight = weigh_images(told.logits, is_test)
    truth = np.exp(x[:n] - 0.5)  # the ratio of the densities
    assert np.corrcoef(np.log(weight), np.log(truth))[0, 1] > 0.99
    score = weigh_score(right[:n], weight)
    assert score.change < -0.1 and score.weighted == pytest.approx(right[n:].mean(), abs=0.04)
    assert score.effective == pytest.approx(n / np.e, rel=0.2)  # E[w]^2 / E[w^2] = e^-1
    assert 1 < score.weighted_error / score.error < 3

    nothing = weigh_images(random.normal(size=2 * n), is_test)
    assert weigh_score(right[:n], nothing).effective > 0.98 * n


def test_a_score_by_hand():
    score = weigh_score(np.array([1, 1, 0, 0.0]), np.array([1, 1, 3, 3.0]))
    assert (score.plain, score.weighted, score.change) == (0.5, 0.25, -0.25)
    assert score.effective == pytest.approx(64 / 20)
    assert score.error == pytest.approx(0.25)
    assert score.weighted_error == pytest.approx(np.sqrt(2 * (0.75 / 8) ** 2 + 2 * (0.25 * 3 / 8) ** 2))


def test_the_score_that_is_weighted_is_of_the_metric_or_says_that_it_is_not(trained, capsys):
    test = pictures(trained / "test", range(2000, 2030))
    for metric in ("log_loss", "macro_f1", "accuracy"):
        table = make_folds(trained / "known", folds=2, metric=metric)
        probs = {"identity": np.where(np.eye(2)[table.labels] > 0, 0.8, 0.2).astype(np.float32)}
        write_run(Workspace().runs / "known/net", table, probs)
        record, out = shift(test, model="baseline"), capsys.readouterr().out
        weighed = "log_loss" if metric == "log_loss" else "accuracy"
        assert record["score"][weighed] == pytest.approx({"log_loss": -np.log(0.8), "accuracy": 1}[weighed])
        assert f"\n{weighed} of net: {record['score'][weighed]:.4f} +-" in out
        assert ("macro_f1 is no mean of a figure an image" in out) == (metric == "macro_f1")
        assert record.get("metric", "accuracy") == metric and len({"accuracy", "log_loss"} & set(record["score"])) == 1


def test_standardised_differences_by_hand():
    frame = pd.DataFrame({"x": [0, 2, 3, 5.0], "same": 1.0, "other": [1, 1, 2, 2.0]})
    found = compare_statistics(frame, np.array([0, 0, 1, 1], bool)).set_index("statistic")["difference"]
    assert found.index.tolist() == ["other", "x", "same"]
    assert found.tolist() == [np.inf, pytest.approx(3 / np.sqrt(2)), 0]
    sizes = prepare_statistics(
        pd.DataFrame({"width": [3], "height": [7]} | dict.fromkeys(("brightness", "contrast", "sharpness"), [0.0]))
    )
    assert sizes["pixels"][0] == pytest.approx(np.log(22)) and sizes["width"][0] == pytest.approx(np.log(4))
