"""What several test modules share: small pictures and folders of them."""

import io
import os

# Before any test imports TensorFlow: what is compared bit for bit is so on CPU, here and in child processes.
os.environ |= {
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_NUM_INTEROP_THREADS": "1",
}

import numpy as np
import pytest
from PIL import Image

# Files that take the most time, the longest first: what is begun last ends alone.
LONG = (
    "matrix",
    "train",
    "submission",
    "double",
    "simulate",
    "bench",
    "gan",
    "demo",
    "backbones",
    "rank",
    "on_gpu",
    "kaggle_kernel",
    "soup",
    "tune",
    "sanity",
    "prediction",
    "rehearsal",
    "check_zip",
    "study",
    "teach",
)


def pytest_collection_modifyitems(items):
    place = {f"test_{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


def smooth(seed=0, height=24, width=32):
    """uint8 [height, width, 3], different for each seed, smooth enough to survive a lossy format."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    a, b, c = np.random.default_rng(seed).uniform(20, 200, 3)
    return np.stack([a + 50 * x, b + 50 * y, c + 25 * (x + y)], -1).round().astype(np.uint8)


def encode(pixels, kind="PNG", **options):
    """Pixels or a Pillow image -> the bytes of a file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def class_folders(root, counts, extension=".png", kind="PNG", **shape):
    """Write `counts` = {class: images} as folders below `root`, every picture another one; returns `root`."""
    seed = 0
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for i in range(count):
            (root / label / f"{i:03}{extension}").write_bytes(encode(smooth(seed, **shape), kind))
            seed += 1
    return root


class Calling:
    """A callback that calls a function without arguments after each epoch of the second phase."""

    def __init__(self, function):
        self.function = function

    def on_epoch(self, run, fold, epoch, row):
        if row["phase"] == "full":
            self.function()


def import_keras_cv():
    """The module; without it the test that asks is skipped, with a line that says why."""
    reason = "keras-cv is not here: array_record, which it needs, has no wheels for Windows"
    return pytest.importorskip("keras_cv", reason=reason)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """An empty current directory, where folds/ and runs/ come to lie; data belongs beside it."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
