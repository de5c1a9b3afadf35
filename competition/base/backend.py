"""Keras on TensorFlow or JAX: how it starts, what makes it repeatable, which precision it computes in."""

import contextlib
import functools
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

from competition.base import files
from competition.base.files import InputError, warn

# How the names of pretrained backbones begin that train at 1.17 to 1.65 times the images a second in mixed bfloat16
# with AVX512-BF16: those of dense convolutions, and Xception. Those of depthwise ones have 0.38 to 0.96 (`make bench
# ONLY=step LONG=1`). VGG16 on the plants' first fold, two seeds: 113 s of epochs in place of 182, accuracy 0.671 in
# place of 0.668 (standard error of the difference 0.008). scratch and hyperresnet, which begin from random weights, are
# quicker too, but are not in: on the plants scratch had an OOF accuracy of 0.473 in it and 0.493 in float32, which may
# be chance (3 points a fold between seeds).
BFLOAT16_ON_CPU = ("densenet", "inception", "resnet", "vgg", "xception")
_patching = threading.Lock()  # of two threads the later one would put the other's class back, for good


def choose_backend(command, good):
    """Let Keras use TensorFlow; or, where that is not installed or KERAS_BACKEND says so, another of `good`.

    command  the name of the command that needs it
    good     ("tensorflow",) or ("tensorflow", "jax")

    What ~/.keras/keras.json says may be about other projects. InputError where none is installed, and where Keras is at
    work in this process on another one already.
    """
    good = list(good)
    if "keras" in sys.modules:
        if (running := _running_backend()) not in good:
            raise InputError(
                f"{command}: Keras runs on {running} in this process, expected {' or '.join(good)}; begin a new process "
                f"with KERAS_BACKEND={good[0]}"
            )
        return
    if os.environ.get("KERAS_BACKEND") == "jax":
        good.reverse()
    found = [backend for backend in good if find_spec(backend)]
    if not found:
        raise InputError(f"{command}: {' and '.join(good)} not installed here, expected one to be")
    os.environ["KERAS_BACKEND"] = found[0]
    if found[0] == "tensorflow":
        import_tensorflow()


def _running_backend():
    import keras

    return keras.backend.backend()


def import_tensorflow():
    """Import TensorFlow without the lines that its libraries write on stderr at every start, past any log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        import tensorflow  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)


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


def count_gpus():
    """How many NVIDIA GPUs this process sees, without starting one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([one for one in visible.split(",") if one.strip() not in ("", "-1")])
    return sum(path.name.removeprefix("nvidia").isdecimal() for path in Path("/dev").glob("nvidia*"))


def share_gpus():
    """Let this process take of a GPU what it needs and no more, so that others can work there; before Keras starts one."""
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


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
            warn(
                "TensorFlow was at work before in this process, with several threads: the last digits of what trains "
                "here may differ from run to run; expected TF_NUM_INTEROP_THREADS=1 in the environment"
            )


def choose_precision(wanted, model):
    """ "float32" or "mixed_bfloat16": what is `wanted`, and for "auto" what this backbone trains faster in here.

    That is mixed bfloat16 on NVIDIA GPUs from compute capability 8 on (Ampere), the first with units for it, and for
    BFLOAT16_ON_CPU on a processor that has such units. Only training computes in it; predictions are in float32.
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
        flags = Path("/proc/cpuinfo").read_text("utf-8").split()
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


@contextlib.contextmanager
def full_precision():
    """What the network computes here in float32 has all its bits.

    GPUs from compute capability 8 on take TF32 for it otherwise, of 10 bits: probabilities then differ by 1e-3 from
    those of a processor, on which a zip is rehearsed and scored.
    """
    import keras

    if not has_gpu():
        yield
        return
    if keras.backend.backend() == "jax":
        import jax

        with jax.default_matmul_precision("float32"):
            yield
        return
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def use_xla():
    """Whether models are compiled with XLA: JAX has nothing else; TensorFlow's cannot resize with antialiasing."""
    import keras

    return keras.backend.backend() == "jax"


def backend_versions():
    """{name: version} of all that a training depends on, and the backend of Keras."""
    import keras

    return files.versions() | {"backend": keras.backend.backend()}


def write_weights(path, model):
    """Write the weights of a keras.Model to `path`, <name>.weights.h5; InputError where the disk has no room.

    The file is made in memory, since HDF5 ends the process with a segmentation fault where a disk is full. Its bytes
    are those that `model.save_weights` writes.
    """
    import h5py

    images = []

    class InMemory(h5py.File):
        def __init__(self, name, mode="r", **options):
            super().__init__(name, mode, driver="core", backing_store=False, block_size=2**24)

        def close(self):
            if self.id.valid:
                self.flush()
                images.append(self.id.get_file_image())
            super().close()

    with _patching, mock.patch.object(h5py, "File", InMemory):
        model.save_weights(f"{path}.in-memory.weights.h5")
    files.write_bytes(path, images[0])


def start_keras(seed):
    """Seed Keras, and let TensorFlow give the same on the same CPU each time."""
    import keras

    make_repeatable()
    keras.utils.clear_session(free_memory=False)  # names begin anew: TensorFlow orders a sum by them
    keras.utils.set_random_seed(seed)
