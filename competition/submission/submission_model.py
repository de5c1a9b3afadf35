"""What the scorer runs: the class `model`, over the TensorFlow SavedModel that lies beside this file.

Needs TensorFlow (2.12 or later) and numpy. Normalisation, members, weights and views are in the SavedModel.
"""

import os

import numpy as np
import tensorflow as tf


class model:
    def __init__(self, path=os.path.dirname(os.path.abspath(__file__))):
        """`path` is the folder that holds `SubmissionModel`; default: this file's."""
        self.network = tf.saved_model.load(os.path.join(path, "SubmissionModel"))
        _, inputs = self.network.signatures["serving_default"].structured_input_signature
        (images,) = inputs.values()
        # images a call of the network: always as many, so that no answer depends on how many there are
        self.batch = images.shape[0]
        self.size = tuple(images.shape[1:3])  # (height, width)

    def predict(self, X):
        """Class ids, int64 tensor [n]; `X` as in `predict_proba`."""
        return tf.argmax(self.predict_proba(X), axis=1)

    def predict_proba(self, X):
        """Probabilities, float32 tensor [n, classes].

        `X` is an array or tensor [n, height, width, 3] of any numeric type, raw RGB 0..255; a single image
        [height, width, 3] is taken as n = 1, grey ones [n, height, width, 1] or [n, height, width] as RGB. Images of
        another size than the network's are resized as in training: bicubic, antialiased, rounded (on average 0.2 grey
        levels from what Pillow gives).
        """
        X = X if tf.is_tensor(X) else np.asarray(X)
        if len(X.shape) == 3:
            X = X[None] if X.shape[2] in (1, 3) else X[..., None]
        if len(X.shape) != 4 or X.shape[3] not in (1, 3):
            raise ValueError(f"X has the shape {tuple(X.shape)}, expected (n, height, width, 3)")
        n = X.shape[0]
        starts = range(0, max(n, 1), self.batch)
        answers = [self.network.serve(self._batch(X[start : start + self.batch])) for start in starts]
        return tf.concat(answers, axis=0)[:n]

    def _batch(self, images):
        """Up to `batch` images, then black ones: float32 [batch, height, width, 3] at the network's size."""
        images = images if tf.is_tensor(images) else images.astype(np.float32)
        images = tf.cast(images, tf.float32)
        images = tf.repeat(images, 3 // images.shape[3], axis=3)
        images = tf.pad(images, [[0, self.batch - images.shape[0]], [0, 0], [0, 0], [0, 0]])
        if tuple(images.shape[1:3]) == self.size:
            return images
        images = tf.image.resize(images, self.size, method="bicubic", antialias=True)
        return tf.round(tf.clip_by_value(images, 0, 255))
