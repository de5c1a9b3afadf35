"""Sanity: that sound data pass, and that each check fails where what it stands for is broken."""

from pathlib import Path

import numpy as np
import pytest
from conftest import encode
from PIL import Image
from scipy.stats import fisher_exact

from competition.base.files import InputError
from competition.cli.main import main
from competition.data.decode import shrink_size
from competition.data.folds import make_folds
from competition.features import heads
from competition.insight import sanity


@pytest.fixture(autouse=True)
def few_deals(monkeypatch):
    monkeypatch.setattr(sanity, "DEALS", 1999)


def task(counts, folds=2, dimension=40, signal=1.0, seed=0):
    """Pixels [n, d], labels and folds of noise around a centre for each class; `counts` images a class."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = signal * random.normal(size=(len(counts), dimension))
    pixels = (centres[labels] + random.normal(size=(len(labels), dimension))).astype(np.float32)
    return pixels, labels, np.arange(len(labels)) % folds


def verdicts(pixels, labels, folds):
    return [c.good for c in sanity.check_pixels(pixels, labels, folds, labels.max() + 1)]


@pytest.mark.parametrize(
    "counts, signal",
    [
        ([30, 30, 30], 0.5),
        ([8] * 25, 1.0),
        ([190, 10], 0.5),  # a model may well be worth less than the most common class, and the data are sound
        ([12, 12], 1.0),
    ],
)
def test_sound_data_pass(counts, signal):
    assert verdicts(*task(counts, signal=signal)) == [True] * 5


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("counts", [[40, 40, 40], [90, 10], [5] * 20])
def test_labels_of_other_pictures_do_not(counts, seed):
    pixels, labels, folds = task(counts)
    labels = np.random.default_rng(seed).permutation(labels)
    assert verdicts(pixels, labels, folds) == [True, True, True, False, True]


def test_zero_inputs_give_the_most_common_class():
    _, labels, folds = task([30, 50, 20])
    probabilities = sanity.train_linear(sanity.BLIND, np.zeros((100, 12), np.float32), labels, folds, 3)
    assert (probabilities.argmax(1) == 1).all() and np.allclose(probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(probabilities.mean(0), [0.3, 0.5, 0.2], atol=0.05)
    for fold in range(2):
        assert len(np.unique(probabilities[folds == fold], axis=0)) == 1
    zeros = sanity.check_pixels(*task([30, 50, 20]), 3)[2]
    assert zeros.found == "accuracy 0.500" and zeros.expected.startswith("at most 0.500")


def test_what_is_trained_has_not_seen_what_it_is_scored_on():
    """A held-out picture's label has no effect on the probabilities it gets."""
    pixels, labels, folds = task([20, 20], folds=2)
    other = np.where(folds == 0, 1 - labels, labels)
    first, second = (sanity.train_linear(sanity.RECIPE, pixels, truth, folds, 2) for truth in (labels, other))
    np.testing.assert_array_equal(first[folds == 0], second[folds == 0])
    assert not np.allclose(first[folds == 1], second[folds == 1])


def test_a_leak_is_seen(monkeypatch):
    """Where copies of the held-out pictures are trained on, shuffled labels are no chance any more."""
    data = task([20, 20], dimension=60)  # more inputs than images: any labels can be learnt by heart
    honest = heads.train_epoch

    def leaking(state, settings, pool, plain, labels, fold_of, folds):
        twice = np.tile(np.arange(len(labels)), 2)
        never_held_out = np.concatenate([fold_of, fold_of * 0 + 9])
        return honest(state, settings, [pool[0][twice]], plain[twice], labels[twice], never_held_out, folds)

    assert verdicts(*data)[4]
    monkeypatch.setattr(heads, "train_epoch", leaking)
    assert not verdicts(*data)[4]


def test_a_batch_that_cannot_be_learnt_by_heart():
    pixels, labels, folds = task([40, 40])
    pixels[40:] = pixels[:40]  # each picture under two labels
    checks = sanity.check_pixels(pixels, labels, folds, 2)
    assert not checks[1].good and checks[1].found < "accuracy 0.95" and not checks[3].good
    blank = verdicts(np.zeros_like(pixels), labels, folds)
    assert blank == [True, False, True, False, True]


@pytest.mark.parametrize("classes", [2, 7])
def test_loss_at_the_start(classes, monkeypatch):
    pixels, labels, _ = task([6] * classes)
    loss, accuracy = sanity.learn_batch(pixels, labels, classes)
    assert loss == pytest.approx(np.log(classes), abs=1e-5) and accuracy == 1

    def lopsided(*arguments):
        state = start(*arguments)
        state.weights[..., -1, 0] = 1  # the first class is taken for likelier
        return state

    start = heads.start_heads
    monkeypatch.setattr(heads, "start_heads", lopsided)
    assert not sanity.check_pixels(pixels, labels, np.arange(len(labels)) % 2, classes)[0].good


def test_the_test_is_fisher_s_where_that_is_exact(monkeypatch):
    """Two classes, one fold, a reference that always says the same: labels dealt anew are Fisher's exact test."""
    monkeypatch.setattr(sanity, "DEALS", 4999)
    labels = np.repeat([0, 1], [12, 6])
    for right in ([9, 3], [10, 4], [6, 3]):
        predicted = np.concatenate([np.arange(12) >= right[0], np.arange(6) < right[1]]).astype(int)
        expected = fisher_exact([[right[0], 12 - right[0]], [6 - right[1], right[1]]], "greater").pvalue
        found = sanity.lead_by_chance(predicted, labels * 0, labels, labels * 0, np.random.default_rng(1))
        assert found == pytest.approx(expected, abs=4 * np.sqrt(expected / sanity.DEALS))


def test_p_is_what_it_says_where_there_is_nothing_to_find(monkeypatch):
    """No more false alarms than p allows, though shuffled labels may suit the clusters of the pictures in each fold."""
    monkeypatch.setattr(sanity, "DEALS", 99)
    monkeypatch.setattr(sanity, "STEPS", 40)
    random = np.random.default_rng(3)
    pixels, labels, folds = task([20, 20, 20], signal=4)
    p = []
    for _ in range(100):
        shuffled = random.permutation(labels)
        predicted = sanity.train_linear(sanity.RECIPE, pixels, shuffled, folds, 3).argmax(1)
        p.append(sanity.lead_by_chance(predicted, labels * 0, shuffled, folds, random))
    assert np.mean(np.array(p) <= 0.1) <= 0.19 and min(p) < 0.2  # 0.19: 3 standard errors above


def test_a_mean_of_the_classes():
    assert sanity.mean_recall(np.zeros(10, int), np.array([0] * 8 + [1, 3])) == pytest.approx(1 / 3)


def test_shrunk():
    assert shrink_size((96, 96)) == (32, 32) and shrink_size((20, 30)) == (20, 30)
    assert shrink_size((50, 200)) == (16, 64) and shrink_size((1, 5000)) == (1, 2263)


# ------------------------------------------------------------------------------------------------- the whole command


def photographs(root, count, mixed=False, mode="RGB", seed=0):
    """Folders of PNGs: the classes differ in which half is brighter, each picture in much else."""
    random = np.random.default_rng(seed)
    for label, name in enumerate(("é b", "Ä", "c")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            shown = random.integers(3) if mixed else label
            pixels = random.integers(40, 120, (10, 16, 3))
            pixels[:, [slice(0, 8), slice(8, 16), slice(0, 0)][shown]] += 30
            pixels = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
            (root / name / f"{i}.png").write_bytes(encode(pixels))
    return root


@pytest.mark.parametrize("mode, folds", [("RGB", 3), ("L", 12)])
def test_make_sanity(mode, folds, workdir, tmp_path, capsys, monkeypatch):
    make_folds(photographs(tmp_path / "photos", 20, mode=mode), folds=folds)
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(["sanity"]) == 0
    out, error = capsys.readouterr()
    assert out.count("good") == 5 and "FAILED" not in out and error == ""
    assert "photos: 60 images in 3 classes, shrunk to 10x16" in out and "ln(3) = 1.0986" in out
    assert sorted(Path().rglob("*")) == before, "nothing is written"
    monkeypatch.setattr(sanity, "LIMIT", 45)
    assert main(["sanity", "--name", "photos"]) == 0
    assert "photos: 45 of 60 images" in capsys.readouterr().out


def test_make_sanity_fails_loudly(workdir, tmp_path, capsys):
    make_folds(photographs(tmp_path / "photos", 20, mixed=True), folds=3)
    capsys.readouterr()
    assert main(["sanity"]) == 2
    out, error = capsys.readouterr()
    assert out.count("good") == 4 and out.count("FAILED") == 1
    assert error.startswith("error: folds/photos.csv: a model on pixels is not better than one on zero inputs (p = ")
    assert error.count("\n") == 1
    with pytest.raises(InputError, match="unless 60 pictures are too few"):
        sanity.sanity("photos")
