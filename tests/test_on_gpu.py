"""Augmentation on the device, here the processor: what Albumentations does with the same seed, pixel by pixel."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import class_folders
from test_backbones import save_weights

from competition.base import backend
from competition.base.arrays import Rows
from competition.base.backend import choose_precision, full_precision, has_gpu, layers_of
from competition.base.workspace import Workspace
from competition.features import frozen, on_gpu
from competition.features.augment import POLICIES, build_policy
from competition.features.frozen import open_shelf
from competition.features.on_gpu import draw_transforms, keep_on_device
from competition.models import backbones
from competition.recipes.recipe import Recipe

ROOT = Path(__file__).parents[1]


def draw_picture(height, width, seed):
    """Waves of a colour each: what a move changes everywhere, and interpolation little."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.random.default_rng(seed).uniform(0.15, 0.4, (3, 3))
    return np.stack([128 + 100 * np.sin(a * x + b * y + 9 * c) for a, b, c in waves], -1).round().astype(np.uint8)


def draw_both(names, n=24, size=(40, 40), seed=5):
    images = np.stack([draw_picture(*size, number) for number in range(4)])
    rows = np.arange(n) % 4
    augment = build_policy(names, seed)
    wanted = np.stack([augment(images[row]) for row in rows])
    found = keep_on_device(images, names)(draw_transforms(names, seed), rows)
    return np.asarray(found), wanted.astype(np.float32)


@pytest.mark.parametrize("name", ["hflip", "vflip", "d4"])
def test_symmetries_are_exact(name):
    found, wanted = draw_both([name], size=(40, 40) if name == "d4" else (24, 40))
    np.testing.assert_allclose(found, wanted, atol=0.01)
    assert len({image.tobytes() for image in wanted}) > 4, "both a changed and an unchanged one of each picture"


@pytest.mark.parametrize(
    "names",
    [
        ["shift"],
        ["affine"],
        ["light"],
        ["colour"],
        ["d4", "affine", "light", "colour"],
        ["colour", "hflip", "light", "shift"],
    ],
)
def test_the_same_as_albumentations(names):
    """Up to rounding: OpenCV moves pixels by 32nds, keeps hue in 2 degrees, and mirrors at the border's pixel."""
    found, wanted = draw_both(names, size=(48, 48) if "d4" in names else (40, 56))
    inside = (slice(None), slice(6, -6), slice(6, -6))
    difference = np.abs(found - wanted)[inside]
    assert found.dtype == np.float32 and difference.mean() < 1.5 and np.quantile(difference, 0.99) < 10
    assert np.abs(wanted - np.roll(wanted, 4, 0))[inside].mean() > 5, "the draws differ"
    assert found.min() >= 0 and found.max() <= 255


def test_policies_that_only_albumentations_knows_and_images_on_disk_stay_with_the_processor(monkeypatch):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    unknown = sorted(set(POLICIES) - {"hflip", "vflip", "d4", "shift", "affine", "light", "colour"})
    assert unknown and all(keep_on_device(images, ["hflip", name]) is None for name in unknown)
    assert keep_on_device([image for image in images], ["hflip"]) is None
    monkeypatch.setattr(on_gpu, "MOST_BYTES", images.nbytes - 1)
    assert keep_on_device(images, ["hflip"]) is None


@pytest.mark.parametrize(
    "gpu, capability, units, wanted, model, found",
    [
        (False, 0, [], "auto", "resnet50", "float32"),
        (False, 0, ["avx512_bf16"], "auto", "resnet50", "mixed_bfloat16"),
        (False, 0, ["avx512_bf16"], "auto", "efficientnet_lite0", "float32"),
        (False, 0, ["amx_bf16"], "auto", "vgg16_nopool", "mixed_bfloat16"),
        (False, 0, ["avx512_bf16"], "auto", "mobilenet", "float32"),
        (False, 0, ["avx512_bf16"], "auto", "scratch", "float32"),
        (False, 0, ["avx512_bf16"], "float32", "resnet50", "float32"),
        (True, 7.5, ["avx512_bf16"], "auto", "resnet50", "float32"),
        (True, 8.0, [], "auto", "efficientnet_lite0", "mixed_bfloat16"),
        (True, 9.0, [], "float32", "resnet50", "float32"),
        (False, 0, [], "mixed_bfloat16", "scratch", "mixed_bfloat16"),
    ],
)
def test_precision(monkeypatch, gpu, capability, units, wanted, model, found):
    monkeypatch.setattr(backend, "has_gpu", lambda: gpu)
    monkeypatch.setattr(backend, "_compute_capability", lambda: capability)
    monkeypatch.setattr(backend, "bfloat16_units", lambda: units)
    assert choose_precision(wanted, model) == found
    if (gpu, wanted) == (False, "auto"):
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
        assert choose_precision(wanted, model) == "float32"


def test_predictions_on_a_gpu_have_all_bits_of_float32(monkeypatch):
    """By TF32, which GPUs take otherwise, they would differ by 1e-3 from those of the rehearsal's processor."""
    asks = tf.config.experimental.tensor_float_32_execution_enabled
    before = asks()
    with full_precision():
        assert asks() == before  # of a processor nothing changes
    monkeypatch.setattr(backend, "has_gpu", lambda: True)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    with pytest.raises(ZeroDivisionError), full_precision():
        assert not asks()
        raise ZeroDivisionError
    assert asks()
    tf.config.experimental.enable_tensor_float_32_execution(before)


def test_features_of_a_gpu_are_kept_apart(monkeypatch):
    table = SimpleNamespace(size=(8, 8), ranges={}, paths=SimpleNamespace(features=Path("f")), workspace=Workspace())
    settings, weights = Recipe(), SimpleNamespace(sha256=None)
    of_processor = open_shelf(table, settings, "scratch", weights, []).key
    monkeypatch.setattr(frozen, "has_gpu", lambda: True)
    assert open_shelf(table, settings, "scratch", weights, []).key == of_processor | {
        "device": "gpu",
        "precision": "float32",
    }


def test_layers_of_a_precision():
    with pytest.raises(ZeroDivisionError), layers_of("mixed_bfloat16"):
        assert keras.layers.Dense(2).compute_dtype == "bfloat16"
        raise ZeroDivisionError
    assert keras.layers.Dense(2).compute_dtype == "float32"
    assert not has_gpu()


def test_no_policy_gives_the_images():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 3), np.uint8)
    found = keep_on_device(images, [])(draw_transforms([], 0), [3, 0])
    assert np.array_equal(np.asarray(found), images[[3, 0]])
    found = keep_on_device(Rows(images, np.array([4, 2])), [])(draw_transforms([], 0), [1, 0])
    assert np.array_equal(np.asarray(found), images[[2, 4]])


def test_asking_for_a_gpu_starts_nothing():
    """Threads can be set, as determinism can, only before TensorFlow has started."""
    code = (
        "import os; os.environ['KERAS_BACKEND'] = 'tensorflow'; from competition.base import backend; "
        "backend.choose_precision('auto', 'resnet50'); import tensorflow as tf; "
        "tf.config.threading.set_intra_op_parallelism_threads(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "verb, arguments",
    [
        ("train", ["mobilenet", "--weights", "weights", "--set", "frozen_epochs=1 image_size=32"]),
        ("rank", ["--weights", "weights", "--recipe", "tiny.toml"]),
    ],
)
def test_threads_are_set_before_a_backbone_is_asked_for_its_weights(verb, arguments, tmp_path):
    """In a fresh process that has nothing in its environment: the name of Keras' file takes building a network."""
    class_folders(tmp_path / "data", {"a": 6, "b": 6})
    (tmp_path / "tiny.toml").write_text("frozen_epochs = 1\nimage_size = 32\n")
    (tmp_path / "weights").mkdir()
    save_weights(
        keras.applications.MobileNet(include_top=False, weights=None),
        tmp_path / "weights" / backbones._wanted("mobilenet").name,
    )
    arguments = [verb, *(["--model"] if verb == "train" else []), *arguments]
    code = (
        "import sys; from competition.cli.main import main; "
        "code = main(['folds', '--data', 'data', '--folds', '2']) or main(sys.argv[1:]); import tensorflow as tf; "
        "print('threads', tf.config.threading.get_inter_op_parallelism_threads()); sys.exit(code)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "TF_NUM_INTEROP_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "threads 1" in done.stdout and "TensorFlow was at work" not in done.stderr


def test_too_late_for_that_is_said():
    code = (
        "import keras; keras.layers.Dense(1).build((1, 1)); from competition.base import backend; "
        "backend.make_repeatable(); backend.make_repeatable()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "TF_NUM_INTEROP_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stderr.count("warning: TensorFlow was at work before") == 1
