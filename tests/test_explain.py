"""What a model looks at: maps and occlusion of models whose answer is known, and of runs from one end to the other."""

import contextlib
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders

from competition.base import files
from competition.base.files import InputError
from competition.base.workspace import Workspace
from competition.cli.main import main
from competition.data.folds import make_folds
from competition.data.table import read_folds
from competition.features.extract import predict
from competition.insight.explain import (
    Hidden,
    _centre,
    _patches,
    choose_measured,
    choose_shown,
    explain_run,
    lay_over,
    map_evidence,
    map_occlusion,
    share_in_centre,
    split_at_map,
    summarise,
)
from competition.models.backbones import build_backbone
from competition.recipes import settle
from competition.runs.oof import read_oof
from competition.training import train as training

CORNER = slice(0, 4), slice(12, 16)  # rows, columns of images of 16x16: the upper right


def wrap(backbone, classes=3, head=()):
    """A fold model as `SingleRun.build_fold_model` makes them; its dense layers start at random."""
    import keras
    from keras import layers

    image = keras.Input(backbone.input_shape[1:])
    x = backbone(image, training=False)
    for units in head:
        x = layers.Dense(units, "tanh")(x)
    logits = layers.Dense(classes, bias_initializer="random_normal", name="logits")(layers.Dropout(0.5)(x))
    model = keras.Model(image, logits)
    return keras.Model(model.input, layers.Softmax()(model.output))


def simple_backbone(flat):
    """Means of 2x2 pixels, then their average, or all of them."""
    import keras
    from keras import layers

    image = keras.Input((16, 16, 3))
    x = layers.AveragePooling2D(2)(layers.Rescaling(1 / 255)(image))
    x = layers.Flatten()(x) if flat else layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, x, name="backbone")


@pytest.fixture(scope="module")
def corner_model():
    """Class 1 is the more likely the brighter the corner is; nothing else counts."""
    model = wrap(simple_backbone(flat=True), 2)
    kernel = np.zeros((8, 8, 3, 2))
    kernel[0:2, 6:8, :, 1] = 1
    model.get_layer("logits").set_weights([kernel.reshape(-1, 2), np.array([6.0, 0.0])])
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)


def test_evidence_and_occlusion_find_the_corner(corner_model, images):
    ones, inside = np.ones(3, int), np.zeros((16, 16), bool)
    inside[CORNER] = True
    trunk, rest = split_at_map(corner_model)
    assert trunk.output_shape == (None, 8, 8, 3)
    evidence = map_evidence(trunk, rest, images, ones)
    assert evidence.shape == (3, 8, 8) and (evidence[:, 0:2, 6:8] > 0).all()
    assert np.count_nonzero(evidence) == 3 * 4  # and nowhere else
    assert not map_evidence(trunk, rest, images, 0 * ones).any()
    loss = map_occlusion(corner_model, images, ones, np.zeros(3))
    assert loss.shape == (3, 16, 16) and (loss[:, inside] > 0.001).all()
    assert np.allclose(loss[:, 0, 15], loss.max((1, 2)))  # only the patch that hides all of the corner hides this
    assert np.abs(loss[:, 8:]).max() < 1e-6 and np.abs(loss[:, :, :8]).max() < 1e-6
    against = map_occlusion(corner_model, images, 0 * ones, np.zeros(3))
    assert np.allclose(against, -loss, atol=1e-6)


def test_hiding_the_corner_lowers_the_probability_and_hiding_the_rest_does_not(corner_model, images):
    corner = np.zeros((16, 16), bool)
    corner[CORNER] = True
    masks = np.stack([np.zeros_like(corner), corner, ~corner])
    found = predict(corner_model, Hidden(images, masks, np.zeros(3)), batch=4).reshape(3, 3, 2)[..., 1]
    assert (found[:, 1] < found[:, 0]).all() and np.allclose(found[:, 2], found[:, 0])
    bright = images[:, *CORNER].mean((1, 2)).sum(1) / 255  # over its four places, three channels
    assert found[:, 0] == pytest.approx(1 / (1 + np.exp(6 - 4 * bright)), rel=1e-3)


def test_pooled_features_give_the_class_activation_map(images):
    """CAM (Zhou et al. 2016), by its own formula: the map times the class's weights."""
    model = wrap(simple_backbone(flat=False))
    trunk, rest = split_at_map(model)
    classes = np.array([2, 0, 1])
    maps = np.asarray(trunk(images.astype(np.float32)))
    kernel, bias = model.get_layer("logits").get_weights()
    evidence = map_evidence(trunk, rest, images, classes)
    assert np.allclose(evidence, np.einsum("nhwc,cn->nhw", maps, kernel[:, classes]) / 64, atol=1e-6)
    logits = np.asarray(rest(maps))[np.arange(3), classes]
    assert np.allclose(evidence.sum((1, 2)) + bias[classes], logits, atol=1e-5)


def test_a_head_with_hidden_layers_by_finite_differences(images):
    trunk, rest = split_at_map(wrap(simple_backbone(flat=False), head=[5, 4]))
    maps, step = np.asarray(trunk(images[:1].astype(np.float32))), 0.02

    def logit(row, column, channel, change):
        moved = maps.copy()
        moved[0, row, column, channel] += change
        return np.asarray(rest(moved), np.float64)[0, 1]

    evidence = map_evidence(trunk, rest, images[:1], np.array([1]))
    for row, column in ((0, 0), (5, 3)):
        slopes = [(logit(row, column, c, step) - logit(row, column, c, -step)) / (2 * step) for c in range(3)]
        assert evidence[0, row, column] == pytest.approx(np.dot(maps[0, row, column], slopes), rel=0.02, abs=1e-6)


@pytest.mark.parametrize(
    "name, size, shape",
    [
        ("baseline", (10, 12), (10, 12, 3)),
        ("scratch", (24, 32), (3, 4, 128)),  # the last one with three places a side
        ("efficientnet_lite0", (96, 128), (3, 4, 1280)),
        ("efficientnet_lite0", (32, 32), (4, 4, 240)),
    ],
)
def test_backbones_are_cut_at_their_last_map_and_do_the_same(name, size, shape):
    model = wrap(build_backbone(name, size))
    trunk, rest = split_at_map(model)
    x = np.random.default_rng(0).uniform(0, 255, (2, *size, 3)).astype(np.float32)
    maps = np.asarray(trunk(x, training=False))
    assert maps.shape[1:] == shape
    logits = np.asarray(rest(maps, training=False))
    powers = np.exp(logits - logits.max(1, keepdims=True))
    assert np.allclose(powers / powers.sum(1, keepdims=True), np.asarray(model(x, training=False)), atol=1e-5)
    evidence = map_evidence(trunk, rest, x, np.array([0, 2]))
    assert evidence.shape == (2, *shape[:2]) and np.isfinite(evidence).all() and evidence.any()
    if name == "baseline":  # all of the logit but its bias is in the pixels
        bias = model.get_layer("logits").get_weights()[1]
        assert np.allclose(evidence.sum((1, 2)) + bias[[0, 2]], logits[[0, 1], [0, 2]], atol=1e-4)


def test_the_cut_is_behind_sums_and_before_branches(images):
    """A sum is no layer of its own in some networks (ConvNeXt); what a branch goes round does not hold all there is."""
    import keras
    from keras import layers

    image = keras.Input((16, 16, 3))
    first = layers.AveragePooling2D(2)(image)
    second = layers.Conv2D(3, 1)(first)
    pool, x = layers.GlobalAveragePooling2D(), images.astype(np.float32)
    backbone = keras.Model(image, pool(first + second), name="backbone")
    maps = np.asarray(split_at_map(wrap(backbone))[0](x))
    assert np.allclose(maps.mean((1, 2)), np.asarray(backbone(x)), rtol=1e-4)
    small = layers.AveragePooling2D(4)(second) + layers.AveragePooling2D(4)(first)  # 2x2: too small
    trunk, rest = split_at_map(wrap(keras.Model(image, pool(small), name="backbone")))
    assert np.allclose(np.asarray(trunk(x)), x.reshape(3, 8, 2, 8, 2, 3).mean((2, 4)), rtol=1e-4)


def test_hidden_images_are_painted_over_where_the_mask_is(images):
    masks = np.zeros((2, 16, 16), bool)
    masks[1, 3:5, 7] = True
    found = Hidden(images, masks, np.array([1.0, 2.0, 3.0]))
    assert len(found) == 6
    part = found[3:99]
    assert part.shape == (3, 16, 16, 3) and part.dtype == np.float32
    assert np.array_equal(part[1], images[2]) and (part[[0, 2]][:, 3:5, 7] == [1, 2, 3]).all()
    assert (part[2] != images[2]).any(-1).sum() <= 2


@pytest.mark.parametrize("size", [(96, 96), (33, 50), (7, 200), (2, 3), (1, 1)])
def test_patches_cover_the_image_and_the_centre_is_half_of_it(size):
    patches = _patches(*size)
    assert patches.shape[1:] == size and patches.any(0).all() and patches.any((1, 2)).all()
    if min(size) > 30:
        assert patches.mean() == pytest.approx(1 / 16, rel=0.15)
        assert _centre(*size).mean() == pytest.approx(0.5, abs=0.04)
    centre = _centre(*size)
    assert np.array_equal(centre, centre[::-1, ::-1]) and centre[size[0] // 2, size[1] // 2]


def test_the_share_in_the_centre():
    size = 64, 96
    everywhere = share_in_centre(np.ones((1, 4, 4), np.float32), size)
    assert everywhere == pytest.approx(_centre(*size).mean(), abs=1e-6)  # cells on the line count in part
    places = np.zeros((4, 4, 4), np.float32)
    places[0, 1:3, 1:3] = 1
    places[1, 0] = 1
    places[2] = -1  # speaks against the class: no evidence for it
    places[3, 1, 1], places[3, 0, 0] = 3, -5
    inside, border, none, mixed = share_in_centre(places, size)
    assert inside == mixed == 1 and np.isnan(none)
    assert border == pytest.approx(_centre(*size)[:16].mean(), abs=1e-6)


def test_the_most_confident_right_and_wrong_ones_are_chosen():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    first = np.array([0.9, 0.6, 0.2, 0.4, 0.1, 0.3, 0.7, 0.8])
    probabilities = np.stack([first, 1 - first], 1)
    among = np.ones(8, bool)
    assert choose_shown(probabilities, labels, among).tolist() == [0, 1, 2, 3, 4, 5, 7, 6]
    among[[0, 7]] = False
    assert choose_shown(probabilities, labels, among).tolist() == [1, 2, 3, 4, 5, 6]
    many = np.eye(200)[np.repeat(np.arange(200), 5)]
    assert len(choose_shown(many, np.repeat(np.arange(200), 5), np.ones(1000, bool))) == 200


def test_the_measured_images_are_of_all_classes_alike():
    labels = np.repeat([0, 1, 2, 3], [1000, 400, 150, 3])
    among = np.arange(len(labels)) % 2 == 0
    rows = choose_measured(labels, among)
    assert np.bincount(labels[rows]).tolist() == [200, 200, 75, 2] and (rows % 2 == 0).all()
    assert rows[:200].max() > 900 and len(set(rows)) == len(rows)


def test_the_summary_by_hand():
    labels = np.array([0, 0, 1])
    right, wrong = np.eye(3)[labels], np.eye(3)[(labels + 1) % 3]
    hidden = np.stack([right, wrong, np.concatenate([right[:1], wrong[1:]])], 1)
    frame = summarise(labels, hidden, np.array([0.2, np.nan, 0.6]), ["a", "b", "c"]).set_index("class")
    assert frame.loc["a"].tolist() == [2, 1, 0, 0.5, 0.2]
    assert frame.loc["b"].tolist() == [1, 1, 0, 0, 0.6]
    assert frame.loc["c"].isna().tolist() == [False] + 4 * [True]
    assert frame.loc["all"].tolist() == pytest.approx([3, 1, 0, 1 / 3, 0.4])


def test_a_map_is_laid_over_in_colour():
    grey = np.full((8, 12, 3), 128, np.uint8)
    places = np.array([[-1.0, 0, 0], [0, 0, 2]])
    over = lay_over(grey, places).astype(int)
    assert over.shape == grey.shape
    red, blue = over[-1, -1], over[0, 0]
    assert red[0] > red[2] + 30 and blue[0] < red[0] - 30
    assert np.array_equal(lay_over(grey, places)[0, 0], lay_over(grey, 0 * places)[0, 0])
    faint = lay_over(grey, places / 100, least=1.0).astype(int)
    assert abs(faint - over[0, 0]).max() < 20


# ------------------------------------------------------------------------------------------- runs, end to end


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs of both kinds on 27 pictures of 20x16 in three classes."""
    place = tmp_path_factory.mktemp("explain")
    with contextlib.chdir(place):
        data = class_folders(place / "data", {"a <b>": 6, "été": 9, "z": 12}, height=20, width=16)
        make_folds(data, name="odd", folds=2)
        files.write_text(
            "mine.toml",
            "frozen_epochs = 30\nimage_size = 24\nviews = ['identity']\nbatch_size = 8\n"
            "frozen_rate = 1e-2\n[scratch]\nepochs = 2\nrate = 1e-3\nimage_size = 0\n",
        )
        with pytest.MonkeyPatch.context() as patch:  # lets the cheapest network have a frozen phase
            patch.setattr(settle, "is_pretrained", lambda model, weights: True)
            training.train("scratch", "mine.toml", run="frozen")
        training.train("scratch", "mine.toml", run="full")
    return place


@pytest.fixture
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    return read_folds()


@pytest.mark.parametrize("run", ["frozen", "full"])
def test_the_figures_are_of_the_models_that_never_saw_the_image(run, inside, capsys):
    """With nothing hidden, accuracy a class is that of the run's OOF."""
    frame = explain_run(run=run).set_index("class")
    oof = read_oof(Workspace().runs / "odd" / run, inside)
    right = oof.probs[0].argmax(1) == inside.labels
    expected = [right[inside.labels == label].mean() for label in range(3)]
    assert frame["images"].tolist() == [6, 12, 9, 27]
    assert frame["accuracy"].tolist() == pytest.approx([*expected, right.mean()])
    assert frame["evidence in centre"].dropna().between(0, 1).all()
    saved = pd.read_csv(f"runs/odd/{run}/explain/explain.csv").set_index("class")
    pd.testing.assert_frame_equal(saved, frame)
    assert "Hiding the centre costs" in capsys.readouterr().out
    text = (Workspace().runs / "odd" / run / "explain/explain.html").read_text("utf-8")
    assert not re.search(r'https?:|<script|<link|src="(?!data:)', text) and "<b>" not in text
    shown = choose_shown(oof.mean(["identity"]), inside.labels, np.ones(27, bool))
    assert len(re.findall("<figure", text)) == len(shown) and len(re.findall("<img", text)) == 3 * len(shown)
    for row in shown:
        seen = oof.probs[0][row].argmax()
        caption = f"{inside.images[row]}: {inside.classes[seen]} {oof.probs[0][row, seen]:.2f}"
        assert caption.replace("<", "&lt;").replace(">", "&gt;") in text


def test_one_fold_on_the_command_line(inside, capsys):
    assert main(["explain", "--name", "odd", "--fold", "1"]) == 0
    best = max(("frozen", "full"), key=lambda run: files.read_json(f"runs/odd/{run}/run.json")["accuracy"])
    frame = pd.read_csv(f"runs/odd/{best}/explain/explain.csv")
    assert frame["images"].iloc[-1] == (inside.fold == 1).sum()
    assert f"runs/odd/{best}/explain/explain.html" in capsys.readouterr().out


def test_what_cannot_be_explained_is_refused(inside, tmp_path):
    for arguments, reason in (
        ({"fold": 2}, "FOLD=2"),
        ({"fold": "x"}, "FOLD=x"),
        ({"run": "none"}, "none"),
        ({"run": "../odd"}, "RUN="),
    ):
        with pytest.raises(InputError, match=reason):
            explain_run(**arguments)
    record = files.read_json("runs/odd/full/run.json")
    files.write_json("runs/odd/half/run.json", record | {"finished": False})
    with pytest.raises(InputError, match="unfinished"):
        explain_run(run="half")
    shutil.copytree("folds", tmp_path / "folds")
    with pytest.raises(InputError, match="no finished run"):
        explain_run(workspace=Workspace(tmp_path))
