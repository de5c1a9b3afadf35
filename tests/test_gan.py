"""GANs: that they follow their label, know nothing of held-out images, are judged rightly, and can be killed.

The features in which images are compared are their pixels (the backbone `baseline`), which need no network.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import encode
from PIL import Image

from competition.base import files
from competition.base.files import InputError
from competition.data.folds import make_folds
from competition.data.images import load_images
from competition.data.table import read_folds
from competition.features import heads
from competition.recipes import settle
from competition.training import batches
from competition.training import train as training
from competition.training.double import double
from competition.training.gan import gan, networks
from competition.training.gan import judge as judge_module
from competition.training.gan.judge import decide, kernel_distance, measure_generated
from competition.training.gan.networks import build_discriminator, build_pair, count_doublings, fit_shape

ROOT = Path(__file__).parents[1]
TINY = ["side=16", "width=8", "noise=8", "batch_size=8", "epochs=50", "rate=2e-3", "ema=0.9", "features=baseline"]
RED, BLUE = 0, 1


def plain_colours(root, count=18, size=(16, 16), grey=False):
    """Folders "a red" and "b blue" of noisy pictures of about one colour each; or dark and light, if grey."""
    random = np.random.default_rng(0)
    for label, colour in ("a red", (200, 60, 60)), ("b blue", (60, 60, 200)):
        (root / label).mkdir(parents=True)
        for i in range(count):
            pixels = np.array(colour) + random.normal(0, 8, 3) + random.normal(0, 12, (*size, 3))
            pixels = pixels.clip(0, 255).astype(np.uint8)
            pixels = pixels[..., 0] if grey else pixels
            (root / label / f"{i}.png").write_bytes(encode(Image.fromarray(pixels)))
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the tables "farben" and "again", alike, of 3 folds; the GAN of fold 0 of "farben" is trained.

    seen.npy: what its training was given.
    """
    place = tmp_path_factory.mktemp("place")
    seen, train_epoch, write_state = [], networks.train_epoch, gan.write_state

    def noted(pair, images, *arguments):
        seen.append(images)
        return train_epoch(pair, images, *arguments)

    def sheet_first(directory, name, history, **groups):
        epoch = len(history)
        assert epoch % 5 or (directory / f"samples/{epoch:04d}.png").exists(), "a kill after the state would lose it"
        write_state(directory, name, history, **groups)

    with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch:
        data = plain_colours(place / "Zwei Farben")
        for name in ("farben", "again"):
            make_folds(data, name=name, folds=3)
        patch.setattr(gan, "train_epoch", noted)
        patch.setattr(networks, "train_epoch", noted)
        patch.setattr(gan, "write_state", sheet_first)
        gan.gan("farben", 0, TINY)
        np.save("seen.npy", np.concatenate([images[None] for images in seen]))
    return place


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture
def table():
    return read_folds("farben")


@pytest.fixture
def record():
    """gan.json of fold 0 of "farben", put back after the test."""
    path = Path("runs/farben/gan/fold_0/gan.json")
    kept = path.read_bytes()
    yield path
    path.write_bytes(kept)


def declare_good(path):
    files.write_json(path, files.read_json(path) | {"verdict": "good"})


def weights(name):
    with np.load(f"runs/{name}/gan/fold_0/state.npz") as saved:
        return {key: saved[key] for key in saved.files if key != "history"}


def test_samples_follow_their_label(record, table):
    declare_good(record)
    images, labels = gan.read_synthetic(table, 0, 10)
    assert images.shape == (20, 16, 16, 3) and images.dtype == np.uint8 and labels.tolist() == [RED] * 10 + [BLUE] * 10
    redness = images[..., 0].mean((1, 2)) - images[..., 2].mean((1, 2))
    assert (redness[labels == RED] > 0).mean() >= 0.9 and (redness[labels == BLUE] < 0).mean() >= 0.9
    assert redness[labels == RED].mean() > 60 and redness[labels == BLUE].mean() < -60  # 140 and -140 in the pictures
    assert np.array_equal(images, gan.read_synthetic(table, 0, 10)[0])


def test_held_out_images_are_never_seen(table):
    seen = {image.tobytes() for image in np.load("seen.npy").reshape(-1, 16, 16, 3)}
    images = load_images(table)
    assert seen == {image.tobytes() for image in images[table.fold != 0]}
    assert not seen & {image.tobytes() for image in images[table.fold == 0]}


def test_it_writes_sheets_and_a_history():
    folder = Path("runs/farben/gan/fold_0")
    assert [path.name for path in sorted((folder / "samples").iterdir())] == [f"{e:04d}.png" for e in range(5, 51, 5)]
    for sheet in (folder / "samples/0050.png", folder / "neighbours.png"):
        assert np.asarray(Image.open(sheet)).std() > 20
    assert len((folder / "history.csv").read_text().splitlines()) == 51


@pytest.mark.parametrize("verdict", ["collapsed", "copies"])
def test_collapse_and_copies_are_declared(verdict, record, table, monkeypatch):
    """The judgement is made anew from the trained state, of what a useless generator gives."""
    images, labels = load_images(table)[table.fold != 0], table.labels[table.fold != 0]

    def collapsed(generator, asked, random):
        return images[[np.flatnonzero(labels == label)[0] for label in asked]]

    def copies(generator, asked, random):
        order = [iter(random.permutation(np.flatnonzero(labels == label))) for label in (RED, BLUE)]
        return images[[next(order[label]) for label in asked]]

    monkeypatch.setattr(gan, "generate", {"collapsed": collapsed, "copies": copies}[verdict])
    monkeypatch.setattr(networks, "generate", {"collapsed": collapsed, "copies": copies}[verdict])
    files.write_json(record, files.read_json(record) | {"verdict": None})
    frame = gan.gan("farben", 0, TINY)
    assert frame["verdict"].tolist() == [verdict] == [files.read_json(record)["verdict"]]
    with pytest.raises(InputError, match=f"GAN of fold 0 is {verdict}"):
        gan.read_synthetic(table, 0, 1)


def test_verdicts_on_features():
    """Two classes of 10-dimensional features: another sample of the same is good, and what teaches nothing poor."""
    random = np.random.default_rng(0)

    def draw(n, apart=2.0):
        labels = np.arange(n) % 2
        return (random.normal(size=(n, 10)) + apart * labels[:, None]).astype(np.float32), labels

    train, held_out = draw(300), draw(100)

    def judge(generated, labels):
        measures, nearest = measure_generated(generated, labels, *train, *held_out, random)
        assert nearest.shape == labels.shape
        return measures, decide(measures)

    measures, verdict = judge(*draw(300))
    assert verdict == "good" and abs(measures["kid"]) < 2 and abs(measures["floor"]) < 2
    assert 0.8 < measures["diversity"] < 1.25 and measures["copies"] < 0.15 and measures["taught"] > 0.95
    features, labels = draw(300)
    measures, verdict = judge(features + 50, labels)
    assert measures["kid"] > 1000
    assert judge(*draw(300, apart=0))[1] == "poor" and judge(features, random.permutation(labels))[1] == "poor"
    assert judge(*train)[1] == "copies"
    part = np.where(np.arange(300)[:, None] < 120, train[0], features)  # two of five are copies
    assert judge(part, labels)[1] == "copies"
    three = features[np.arange(300) % 6]  # three images a class
    assert judge(three, labels)[1] == "collapsed"
    assert judge(np.where(labels[:, None] == 1, features, features[:1]), labels)[1] == "collapsed"  # one class alone


def test_kernel_distance_is_its_definition():
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3))
    kernel = np.vectorize(lambda a, b: (a @ b / 3 + 1) ** 3, signature="(d),(d)->()")
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    expected = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs) / 20 - 2 * kernel(x[:, None], y).mean()
    assert np.isclose(kernel_distance(x, y), expected)


def test_killed_and_run_again_it_ends_with_the_same_weights():
    command = [
        sys.executable,
        "-m",
        "competition",
        "gan",
        "--name",
        "again",
        "--only-fold",
        "0",
        "--set",
        " ".join(TINY),
    ]
    state = Path("runs/again/gan/fold_0/state.npz")
    with open("log", "w") as log:
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log)
    end = time.time() + 200
    while not state.exists():
        assert process.poll() is None and time.time() < end, Path("log").read_text()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with np.load(state) as saved:
        assert str(saved["history"]).count("epoch") < 50
    gan.gan("again", 0, TINY)
    once, twice = weights("farben"), weights("again")
    assert once.keys() == twice.keys()
    assert all(np.array_equal(once[key], twice[key]) for key in once)


def test_a_damaged_generator_is_refused(record, table):
    files.write_json(record, files.read_json(record) | {"verdict": "good"})
    gan.read_synthetic(table, 0, 1)
    path = record.with_name("generator.weights.h5")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    try:
        with pytest.raises(
            InputError, match=f"{path}: .*damaged or changed.*`rm -r {path.parent}` and `make gan NAME="
        ):
            gan.read_synthetic(table, 0, 1)
    finally:
        path.write_bytes(data)


def test_another_config_table_or_version_is_refused(record, table):
    with pytest.raises(InputError, match=r"settings.width = 8 \(now 16\)"):
        gan.gan("farben", 0, [*TINY, "width=16"])
    files.write_json(record, files.read_json(record) | {"table": "0" * 64, "verdict": "good"})
    for call in (lambda: gan.gan("farben", 0, TINY), lambda: gan.read_synthetic(table, 0, 1)):
        with pytest.raises(InputError, match="made on another fold table"):
            call()
    for setting in ("wdth=3", "width=0", "width=x", "epochs=1.5", "ema=1"):
        with pytest.raises(InputError, match=setting.split("=")[0]):
            gan.read_gan_settings([setting])


def test_synthetic_images_join_the_training_part_alone(record, table, monkeypatch):
    """Both phases: a head on pixels as features, then everything."""
    options = {
        "name": "farben",
        "only_fold": 0,
        "overrides": [
            "synthetic=3",
            "frozen_epochs=1",
            "epochs=2",
            "batch_size=4",
            "views=identity",
            "augment=hflip",
            "frozen_copies=0",
            "plain_epochs=0",
            "image_size=0",
        ],
    }
    monkeypatch.setattr(settle, "is_pretrained", lambda model, weights: True)
    for fold, reason in ((0, "GAN of fold 0 is"), (1, "no such GAN")):
        files.write_json(record, files.read_json(record) | {"verdict": "poor"})
        with pytest.raises(InputError, match=reason):
            training.train("baseline", **options | {"only_fold": fold})
    assert not Path("runs/farben/baseline-quick").exists()

    declare_good(record)
    made, labels = gan.read_synthetic(table, 0, 3)
    seen, pools, train_epoch = set(), [], heads.train_epoch

    def note(names, seed):
        return lambda image: seen.add(image.tobytes()) or image

    def noted(state, settings, pool, plain, labels, fold_of, folds, *others):
        pools.append((pool, labels, fold_of, folds))
        return train_epoch(state, settings, pool, plain, labels, fold_of, folds, *others)

    monkeypatch.setattr(batches, "build_policy", note)
    monkeypatch.setattr(heads, "train_epoch", noted)
    folder = training.train("baseline", **options)
    images = load_images(table)
    synthetic, training_part = ({image.tobytes() for image in some} for some in (made, images[table.fold != 0]))
    assert seen <= synthetic | training_part and len(seen & synthetic) > 3 and len(seen & training_part) > 10
    ((pool, all_labels, fold_of, folds),) = pools
    assert folds == [0] and len(pool[0]) == len(all_labels) == len(fold_of) == len(table.labels) + 6
    assert all_labels[-6:].tolist() == labels.tolist() and not (fold_of[-6:] == 0).any()
    assert np.allclose(pool[0][np.arange(-6, 0)], made.reshape(6, -1) / 127.5 - 1, atol=1e-5)
    with np.load(folder / "fold_0" / "views.npz") as saved:
        assert saved["probs"].shape[1] == (table.fold == 0).sum()


def test_synthetic_images_join_the_nodes_of_a_double_model(record):
    declare_good(record)
    folder = double(
        "baseline",
        '"b blue"',
        name="farben",
        only_fold=0,
        overrides=["synthetic=3", "epochs=1", "batch_size=4", "augment="],
    )
    config = files.read_json(folder / "node_0" / "run.json")["config"]
    assert config["gan"] and config["classes"] == ["b blue", "a red"] and (folder / "fold_0" / "views.npz").exists()


def test_what_images_teach_is_a_mean_over_draws_of_noise(monkeypatch):
    """Of one draw it is luck: the same generator taught between 0.16 and 0.27 of the plants."""
    said = [0.1, 0.9, *range(1, gan.DRAWS)]  # of the first draw, of the training images, of the other draws
    found = iter(said)
    monkeypatch.setattr(gan, "teach_classifier", lambda *_: next(found))
    monkeypatch.setattr(judge_module, "teach_classifier", lambda *_: next(found))
    frame = gan.gan("again", 2, [*TINY, "epochs=1"])
    assert frame["taught"][0] == pytest.approx(np.mean([said[0], *said[2:]])) and frame["taught_real"][0] == 0.9


def test_oblong_and_grey(table):
    assert fit_shape((96, 96), 32) == (32, 32) and fit_shape((96, 96), 64) == (64, 64)
    assert fit_shape((96, 128), 32) == (24, 32) and fit_shape((28, 28), 32) == (28, 28)
    assert fit_shape((10, 200), 32) == (8, 32) and fit_shape((5, 3), 32) == (4, 4)
    assert fit_shape((20, 31), 32) == (20, 32) and count_doublings((20, 32, 3)) == 2
    make_folds(plain_colours(Path("Grau").absolute(), count=5, size=(12, 20), grey=True), name="grau", folds=2)
    frame = gan.gan("grau", 1, [*TINY, "epochs=1", "augment=false"])
    assert np.isfinite(frame["kid"]).all()
    record = Path("runs/grau/gan/fold_1/gan.json")
    assert files.read_json(record)["config"]["shape"] == [8, 16, 1]
    declare_good(record)
    images, _ = gan.read_synthetic(read_folds("grau"), 1, 2)
    assert images.shape == (4, 12, 20, 3) and (images == images[..., :1]).all()


def test_one_step_gives_each_network_its_own_gradient():
    """With plain descent of rate 1 the change is the gradient: of the hinge loss, and of minus the score of fakes."""
    import keras
    import tensorflow as tf

    settings = replace(gan.Settings(), side=8, width=4, noise=4, batch_size=6, augment=False)
    keras.utils.set_random_seed(1)
    pair = build_pair((8, 8, 3), 2, settings)
    generator, discriminator = pair.generator, pair.model.get_layer("discriminator")
    pair.model.compile(keras.optimizers.SGD(1.0), pair.model.loss)
    random = np.random.default_rng(0)
    real, noise = (
        tf.constant(draw, tf.float32) for draw in (random.uniform(-1, 1, (6, 8, 8, 3)), random.normal(size=(6, 4)))
    )
    label, nothing = tf.constant(np.eye(2, dtype=np.float32)[[0, 1] * 3]), np.zeros((6, 1), np.float32)
    with tf.GradientTape(persistent=True) as tape:
        fake = generator([noise, label])
        on_real, on_fake = discriminator([real, label]), discriminator([fake, label])
        losses = tf.reduce_mean(tf.nn.relu(1 - on_real) + tf.nn.relu(1 + on_fake)), tf.reduce_mean(-on_fake)
    variables = [*discriminator.trainable_variables, *generator.trainable_variables]
    count = len(discriminator.trainable_variables)
    gradients = [
        *tape.gradient(losses[0], [v.value for v in variables[:count]]),
        *tape.gradient(losses[1], [v.value for v in variables[count:]]),
    ]
    before = [np.array(variable) for variable in variables]
    shown = pair.model.train_on_batch([real, label, noise], [nothing, nothing])
    assert np.allclose(shown[1:3], [float(loss) for loss in losses], atol=1e-4)
    for variable, old, gradient in zip(variables, before, gradients):
        assert np.allclose(old - np.array(variable), gradient, atol=2e-5), variable.path
    assert max(np.abs(gradient).max() for gradient in gradients[count:]) > 1e-3


def test_kernels_are_divided_by_their_largest_singular_value():
    import keras

    keras.utils.set_random_seed(0)
    discriminator = build_discriminator((8, 8, 3), 3, replace(gan.Settings(), width=4))
    spectral = [layer for layer in discriminator.layers if type(layer).__name__ == "Spectral"]
    for layer in spectral:
        layer.kernel.assign(np.random.default_rng(0).normal(size=layer.kernel.shape))
    for _ in range(100):
        discriminator([np.zeros((1, 8, 8, 3)), np.eye(3)[:1]], training=True)
    for layer in spectral:
        matrix = np.asarray(layer.kernel).reshape(-1, layer.filters)
        left = np.asarray(layer.left)[0]
        assert np.isclose(np.linalg.norm(matrix @ left), np.linalg.svd(matrix)[1].max(), rtol=0.02)
