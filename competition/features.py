"""Features of a frozen backbone: computed once for all folds, epochs and heads, and kept on disk under their key."""

import numpy as np
from tqdm import tqdm

from competition.augment import build_policy
from competition.files import hash_json, write_npz
from competition.views import VIEWS

BATCH = 64


def predict(model, images, batch=BATCH, bar=None):
    """The model's output for images (uint8 or float32 [n, h, w, 3], or features [n, d]): float32 [n, outputs].

    Every call of the network gets exactly `batch` rows, the last one padded with zeros: it is traced once, and what
    an image gets does not depend on how many came with it.
    """
    model.jit_compile = use_xla()
    rows = []
    for start in range(0, len(images), batch):
        chunk = np.zeros((batch, *images.shape[1:]), np.float32)
        part = images[start : start + batch]
        chunk[: len(part)] = part
        rows.append(np.asarray(model.predict_on_batch(chunk), np.float32)[: len(part)])
        if bar is not None:
            bar.update(len(part))
    return np.concatenate(rows) if rows else np.zeros((0, model.output_shape[-1]), np.float32)


def use_xla():
    """Whether models are compiled with XLA: JAX has nothing else; TensorFlow's cannot resize with antialiasing."""
    import keras

    return keras.backend.backend() == "jax"


def view_features(backbone, images, views, folder, key):
    """Features of every TTA view of every image: float32 [views, n, d].

    images: uint8 [n, h, w, 3]. `key` is a JSON-able dict of all that the features depend on besides the view (images,
    backbone, weights, sizes); a view whose file lies in `folder` under that key is read and not computed.
    """
    jobs = [(key | {"view": view}, lambda view=view: VIEWS[view](images)) for view in views]
    return _compute(backbone, len(images), jobs, folder)


def copy_features(backbone, images, copies, policy, seed, folder, key):
    """Features of augmented copies of every image, drawn with the named policies: float32 [copies, n, d]."""

    def draw(copy):
        augment = build_policy(policy, np.random.SeedSequence([seed, 1, copy]).generate_state(1)[0])
        return np.stack([augment(image) for image in images])

    jobs = [
        (key | {"copy": copy, "policy": policy, "seed": seed}, lambda copy=copy: draw(copy)) for copy in range(copies)
    ]
    return _compute(backbone, len(images), jobs, folder)


def _compute(backbone, n, jobs, folder):
    files = [folder / f"{hash_json(key)[:16]}.npz" for key, _ in jobs]
    with tqdm(total=n * sum(not file.exists() for file in files), desc="features", unit="image", leave=False) as bar:
        for file, (key, images) in zip(files, jobs):
            if not file.exists():
                write_npz(file, features=predict(backbone, images(), bar=bar))
    return np.stack([np.load(file)["features"] for file in files])
