"""Whether a scorer's TensorFlow runs a network, asked before it is trained."""

import os
import subprocess
from typing import Any

from competition.base.files import InputError, scratch
from competition.base.workspace import Workspace
from competition.rehearsal.judged import KEPT
from competition.rehearsal.scorer_environments import find_python

SECONDS = 600  # that the scorer's Python may take to load the network and to run it once
RUN_IT = (
    "import sys, tensorflow as tf; "
    "serve = tf.saved_model.load(sys.argv[1]).serve; "
    "serve(tf.zeros(serve.input_signature[0].shape)); print('TensorFlow ' + tf.__version__)"
)


def check_network(network: Any, scorer: str, workspace: Workspace = Workspace()) -> str:
    """The scorer's release, "TensorFlow 2.12.1"; InputError where it cannot load `network` or run it.

    network   a keras.Model of images, saved as a submission saves it; its weights do not matter
    scorer    as for find_python: releases, of which an environment is built once in the Workspace, or a Python
    """
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"SCORER={scorer}: Keras runs on {keras.backend.backend()} here, expected tensorflow to save a network"
        )
    python = find_python(scorer, workspace)
    module = tf.Module()
    module.weights = [variable.value for variable in network.variables]
    signature = [tf.TensorSpec([1, *network.input_shape[1:]], tf.float32)]
    module.serve = tf.function(lambda images: network(images, training=False), input_signature=signature)
    with scratch(what="a network for the scorer to try") as folder:
        path = folder / "network"
        tf.saved_model.save(module, str(path))
        kept = {key: os.environ[key] for key in KEPT if key in os.environ}
        kept |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "HOME": str(folder)}
        try:
            done = subprocess.run(
                [python, "-I", "-c", RUN_IT, str(path)],
                env=kept,
                cwd=folder,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"SCORER={scorer}: it took more than {SECONDS} s to load and run the network") from None
    if done.returncode:
        why = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message").strip()[:300]
        raise InputError(f"SCORER={scorer}: it cannot load or run this network, so that no zip of it would do: {why}")
    return done.stdout.strip().splitlines()[-1]
