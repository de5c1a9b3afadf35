"""Images that stay on a GPU and are augmented there.

A GPU trains on small photographs faster than a processor's cores can draw them. So the whole set, as uint8, is sent to
the GPU once, and a batch is row numbers and what Albumentations drew for them: the same draws from the same seed as
without a GPU, done to pixels by Keras operations.
"""

import numpy as np

from competition.base.arrays import Rows
from competition.features.augment import POLICIES, import_albumentations, share_draws

MOST_BYTES = 2**31  # of images on a GPU: a quarter of the memory of a small one; more stay with the processor
_D4 = {  # a symmetry's matrix on (x, y) from the middle of the picture, y downwards
    "e": ((1, 0), (0, 1)),
    "r90": ((0, 1), (-1, 0)),
    "r180": ((-1, 0), (0, -1)),
    "r270": ((0, -1), (1, 0)),
    "v": ((1, 0), (0, -1)),
    "h": ((-1, 0), (0, 1)),
    "t": ((0, 1), (1, 0)),
    "hvt": ((0, -1), (-1, 0)),
}
_KINDS = {
    "HorizontalFlip": "move",
    "VerticalFlip": "move",
    "D4": "move",
    "Affine": "move",
    "RandomBrightnessContrast": "light",
    "HueSaturationValue": "colour",
}


def keep_on_device(images, names):
    """A function (transforms, rows int [b]) -> float32 [b, h, w, 3] on the device, or None where that cannot be.

    images   uint8 [n, h, w, 3] in memory, or arrays.Rows of such; they are copied to the device now. Up to MOST_BYTES.
    names    policies of augment.POLICIES, all of which must be moves, light and colour

    The function's `transforms` are those that `draw_transforms` made of the same names.
    """
    if isinstance(images, Rows) and isinstance(images.array, np.ndarray) and images.array.nbytes <= MOST_BYTES:
        images = images[:]
    if not isinstance(images, np.ndarray) or images.nbytes > MOST_BYTES or None in _kinds(names):
        return None
    import keras
    from keras import ops

    kinds = _kinds(names)
    kept = ops.convert_to_tensor(images, dtype="uint8")
    moves, others = "move" in kinds, [kind for kind in kinds if kind != "move"]

    def change(pictures, rows, matrices, numbers):
        x = ops.cast(ops.take(pictures, rows, axis=0), "float32")
        if moves:
            x = ops.image.affine_transform(x, matrices, fill_mode="reflect")
        for place, kind in enumerate(others):
            first, second = (numbers[:, place, part, None, None] for part in (0, 1))
            x = _lit(x, first[..., None], second[..., None]) if kind == "light" else _coloured(x, first, second)
        return ops.round(x)

    compiled = _compile(keras.backend.backend(), change)
    size = images.shape[1:3]

    def draw(transforms, rows):
        drawn = [_draw(transforms, size) for _ in rows]
        matrices, numbers = (np.array(values, np.float32) for values in zip(*drawn))
        return compiled(kept, np.asarray(rows, np.int32), matrices, numbers)

    return draw


def draw_transforms(names, seed):
    """The policies as an albumentations.Compose that draws, from `seed`, what to do to an image, and does not do it."""
    A = import_albumentations()
    compose = A.Compose([POLICIES[name](A) for name in names])
    share_draws(compose, seed)
    for transform in compose.transforms:
        transform.apply_with_params = lambda params, **data: data
    return compose


def _kinds(names):
    """What each policy is, None for what is done by Albumentations alone."""
    return [_KINDS.get(type(transform).__name__) for transform in draw_transforms(names, 0).transforms]


def _draw(compose, size):
    """What to do to one image: where its pixels come from, as the 8 numbers of affine_transform, and two numbers for
    every change of light and colour."""
    compose(image=np.zeros((*size, 3), np.uint8))
    matrix, numbers = np.eye(3), []
    for transform in compose.transforms:
        params = transform.get_applied_params()  # empty: this image is spared
        kind = _KINDS[type(transform).__name__]
        if kind == "move" and params:
            matrix = _matrix(transform, params, size) @ matrix
        elif kind == "light":
            numbers.append((params.get("alpha", 1), params.get("beta", 0)))
        elif kind == "colour":
            numbers.append((params.get("hue_shift", 0) / 180, params.get("sat_shift", 0) / 255))
    return np.linalg.inv(matrix).ravel()[:8], numbers or [(0, 0)]


def _matrix(transform, params, size):
    """Where the transform takes a pixel (x, y), as a matrix float64 [3, 3]."""
    name = type(transform).__name__
    if name == "Affine":
        return params["matrix"]
    middle = np.array([size[1] - 1, size[0] - 1]) / 2
    turn = np.array(
        _D4[params["group_element"] if name == "D4" else {"HorizontalFlip": "h", "VerticalFlip": "v"}[name]]
    )
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = turn, middle - turn @ middle
    return matrix


def _lit(x, contrast, brightness):
    from keras import ops

    return ops.clip(x * contrast + brightness, 0, 255)


def _coloured(x, hue, saturation):
    """Hue and saturation shifted, in turns and as shares; grey stays grey."""
    from keras import ops

    h, s, v = ops.unstack(ops.image.rgb_to_hsv(ops.clip(x, 0, 255) / 255), axis=-1)
    s = ops.where(s > 0, ops.clip(s + saturation, 0, 1), s)
    return ops.image.hsv_to_rgb(ops.stack([(h + hue) % 1, s, v], axis=-1)) * 255


def _compile(backend, function):
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    import jax

    return jax.jit(function)
