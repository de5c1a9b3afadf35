"""What training does otherwise where there is a GPU: its precision; the images stay on it and are augmented there.

A GPU trains on small photographs faster than a processor's cores can draw them. So the whole set, as uint8, is sent to
the GPU once, and a batch is row numbers and what Albumentations drew for them: the same draws from the same seed as
without a GPU, done to pixels by Keras operations.
"""

import contextlib
import functools
import os
from pathlib import Path

import numpy as np

from competition.arrays import Rows
from competition.augment import POLICIES, share_draws
from competition.files import warn

MOST_BYTES = 2**31  # of images on a GPU: a quarter of the memory of a small one; more stay with the processor
# How the names of pretrained backbones begin that train at 1.17 to 1.65 times the images a second in mixed bfloat16
# with AVX512-BF16: those of dense convolutions, and Xception. Those of depthwise ones have 0.38 to 0.96 (`make bench
# ONLY=step LONG=1`). VGG16 on the plants' first fold, two seeds: 113 s of epochs in place of 182, accuracy 0.671 in
# place of 0.668 (standard error of the difference 0.008). scratch and hyperresnet, which begin from random weights, are
# quicker too, but are not in: on the plants scratch had an OOF accuracy of 0.473 in it and 0.493 in float32, which may
# be chance (3 points a fold between seeds).
BFLOAT16_ON_CPU = ("densenet", "inception", "resnet", "vgg", "xception")
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


def has_gpu():
    """Whether Keras computes on a GPU here.

    Asked so that TensorFlow starts nothing yet: what makes it deterministic must be set before it does.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "gpu"
    return False


@functools.cache
def make_repeatable():
    """Let TensorFlow give the same on the same CPU each time; a warning where it is too late for that.

    To be called before anything builds a network, be it only to learn what its weights are called: TensorFlow starts
    with the first one and keeps the threads that it has then.
    """
    import keras

    if keras.backend.backend() != "tensorflow" or has_gpu():
        return
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    try:
        # two operations at a time end in either order, after which the last digits differ
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        if os.environ.get("TF_NUM_INTEROP_THREADS") != "1":
            warn("TensorFlow was at work before in this process, with several threads: the last digits of what trains "
                 "here may differ from run to run; expected TF_NUM_INTEROP_THREADS=1 in the environment")


def choose_precision(wanted, model):
    """ "float32" or "mixed_bfloat16": what is `wanted`, and for "auto" what this backbone trains faster in here.

    That is mixed bfloat16 on NVIDIA GPUs from compute capability 8 on (Ampere), the first with units for it, and for
    BFLOAT16_ON_CPU on a processor that has such units. Only training computes in it (train._build_scored).
    """
    if wanted != "auto":
        return wanted
    if has_gpu():
        quick = _compute_capability() >= 8
    else:
        quick = model.startswith(BFLOAT16_ON_CPU) and _computes_with_onednn() and bool(bfloat16_units())
    return "mixed_bfloat16" if quick else "float32"


def bfloat16_units():
    """The units for bfloat16 that this processor says it has, as Linux names them: avx512_bf16, amx_bf16."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return []
    return [unit for unit in ("avx512_bf16", "amx_bf16") if unit in flags]


def _computes_with_onednn():
    """Whether it is TensorFlow with oneDNN, which uses these units; without it bfloat16 is slower than float32."""
    import keras

    return keras.backend.backend() == "tensorflow" and os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0"


def _compute_capability():
    """Of the first GPU, 0 where it does not say."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        return tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0,))[0]
    import jax

    return float(getattr(jax.devices()[0], "compute_capability", 0))


@contextlib.contextmanager
def layers_of(precision):
    """Layers that are built here compute in this precision; their weights are float32."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


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
    import albumentations as A

    compose = A.Compose([POLICIES[name](A) for name in names])
    share_draws(compose, seed)
    for transform in compose.transforms:
        transform.apply_with_params = lambda params, **data: data
    return compose


# ------------------------------------------------------------------------------------------------ what is drawn


_KINDS = {"HorizontalFlip": "move", "VerticalFlip": "move", "D4": "move", "Affine": "move",
          "RandomBrightnessContrast": "light", "HueSaturationValue": "colour"}


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
    turn = np.array(_D4[params["group_element"] if name == "D4" else {"HorizontalFlip": "h", "VerticalFlip": "v"}[name]])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = turn, middle - turn @ middle
    return matrix


# ------------------------------------------------------------------------------------------------ what is done


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
