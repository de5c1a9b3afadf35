"""Which library Keras computes with, and its quiet start."""

import os
import sys
from importlib.util import find_spec

from competition.files import InputError


def choose_backend(command, good):
    """Let Keras use TensorFlow; or, where that is not installed or KERAS_BACKEND says so, another of `good`.

    command  the name of the command that needs it
    good     ("tensorflow",) or ("tensorflow", "jax")

    What ~/.keras/keras.json says may be about other projects. InputError where none is installed.
    """
    good = list(good)
    if os.environ.get("KERAS_BACKEND") == "jax":
        good.reverse()
    found = [backend for backend in good if find_spec(backend)]
    if not found:
        raise InputError(f"{command}: {' and '.join(good)} not installed here, expected one to be")
    os.environ["KERAS_BACKEND"] = found[0]
    if found[0] == "tensorflow":
        import_tensorflow()


def import_tensorflow():
    """Import TensorFlow without the lines that its libraries write on stderr at every start, past any log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        import tensorflow  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)
