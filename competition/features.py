"""Features of a frozen backbone: computed once for all folds, epochs and heads, and kept on disk under their key.

Images and features pass through memory a batch at a time, whatever their number.
"""

import numpy as np
from tqdm import tqdm

from competition.arrays import build_array, open_array
from competition.augment import build_policy
from competition.files import hash_json, write_json
from competition.views import VIEWS

BATCH = 64


def predict(model, images, batch=BATCH, bar=None):
    """The model's output for images (uint8 or float32 [n, h, w, 3], or features [n, d]): float32 [n, outputs].

    `images` may be an array, arrays.Stored or arrays.Rows: it is asked for one batch after another. Every call of the
    network gets exactly `batch` rows, the last one padded with zeros: it is traced once, and what an image gets does
    not depend on how many came with it.
    """
    parts = (images[start : start + batch] for start in range(0, len(images), batch))
    rows = list(_predict_parts(model, parts, batch, bar))
    return np.concatenate(rows) if rows else np.zeros((0, model.output_shape[-1]), np.float32)


def _predict_parts(model, parts, batch, bar):
    """The model's output for each of the parts, of up to `batch` rows."""
    model.jit_compile = use_xla()
    for part in parts:
        chunk = np.zeros((batch, *part.shape[1:]), np.float32)
        chunk[: len(part)] = part
        yield np.asarray(model.predict_on_batch(chunk), np.float32)[: len(part)]
        if bar is not None:
            bar.update(len(part))


def use_xla():
    """Whether models are compiled with XLA: JAX has nothing else; TensorFlow's cannot resize with antialiasing."""
    import keras

    return keras.backend.backend() == "jax"


def view_features(backbone, images, views, folder, key, memory=None):
    """Features of every TTA view of every image: a list of float32 [n, d], one a view.

    images: uint8 [n, h, w, 3], an array or arrays.Stored. `key` is a JSON-able dict of all that the features depend on
    besides the view (images, backbone, weights, sizes); a view whose file lies in `folder` under that key is read and
    not computed. Features that together take more than their share of `memory` (arrays.Memory; None: there is no
    limit) come as arrays.Stored.
    """
    jobs = [(key | {"view": view}, lambda part, start, view=view: VIEWS[view](part)) for view in views]
    return _compute(backbone, images, jobs, folder, memory)


def copy_features(backbone, images, copies, policy, seed, folder, key, memory=None):
    """Features of augmented copies of every image, drawn with the named policies: a list of float32 [n, d], one a copy.

    What is drawn follows from seed, copy and row, so that it does not matter where a killed computation went on.
    """

    def draw(part, start, copy):
        augment = build_policy(policy, np.random.SeedSequence([seed, 1, copy, start]).generate_state(1)[0])
        return np.stack([augment(image) for image in part])

    jobs = [
        (key | {"copy": copy, "policy": policy, "seed": seed},
         lambda part, start, copy=copy: draw(part, start, copy))
        for copy in range(copies)
    ]
    return _compute(backbone, images, jobs, folder, memory)


def _compute(backbone, images, jobs, folder, memory):
    n, d = len(images), backbone.output_shape[-1]
    paths = [folder / f"{hash_json(key)[:16]}.npy" for key, _ in jobs]
    missing = sum(not path.exists() for path in paths)
    with tqdm(total=n * missing, desc="features", unit=" images", leave=False, disable=None) as bar:
        for path, (key, change) in zip(paths, jobs):

            def rows_from(first, change=change):
                bar.update(first)
                parts = (change(images[start : start + BATCH], start) for start in range(first, n, BATCH))
                return _predict_parts(backbone, parts, BATCH, bar)

            build_array(path, (n, d), np.float32, rows_from, BATCH)
            if not (record := path.with_suffix(".json")).exists():
                write_json(record, key)
    limit = float("inf") if memory is None else memory.features / len(paths)
    return [open_array(path, limit) for path in paths]
