"""The probabilities that a zip must give, computed from the fold models without the exported network."""

import numpy as np

from competition.base.files import InputError
from competition.blending.temperature import sharpen
from competition.features.extract import predict
from competition.features.views import VIEWS
from competition.runs.oof import read_oof
from competition.runs.predict import predict_folds
from competition.submission.network import build_networks, stored_weights

OOF_TOLERANCE = 0.05  # training may have run on another device, in another precision of its products (TF32)


def average_by_hand(ensemble, table, images, rows):
    """The ensemble's probabilities of images uint8 [n, h, w, 3], `rows` of the table, by fold and view.

    Nothing of the exported network is used. On the way each image's own fold is compared with the stored OOF:
    returns probabilities float32 [n, C] and the largest of those differences; InputError when it is large.
    """
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # that many networks are traced is no mistake here
    tf.config.experimental.enable_tensor_float_32_execution(False)  # the rehearsal's CPU does not round so
    total, worst = 0.0, 0.0
    for run, weight in ensemble.members:
        oof = read_oof(run.dir, table)
        chosen = list(ensemble.folds or range(table.k))
        folds = predict_folds(run, table, ensemble.views, images, chosen)
        there = np.flatnonzero(np.isin(table.fold[rows], chosen))  # images whose own fold is among them
        stored = oof.probs[[oof.views.index(view) for view in ensemble.views]][:, rows[there]]
        own = folds[[chosen.index(fold) for fold in table.fold[rows[there]]], :, there].swapaxes(0, 1)
        difference = float(np.abs(own - stored).max(initial=0))
        if not difference <= OOF_TOLERANCE:
            raise InputError(
                f"{run.dir}: its weights do not give its OOF (probabilities differ by {difference:.2g}), "
                "something has changed since it was trained; train it again"
            )
        worst = max(worst, difference)
        total = total + weight * folds.mean((0, 1), dtype=np.float64)
    return sharpen(total, ensemble.temperature), worst


def average_halved(ensemble, table, images):
    """The ensemble's probabilities of images uint8 [n, h, w, 3] with weights that are rounded to float16, by Keras."""
    total = 0.0
    for network in build_networks(ensemble, table):
        stacks = [stored_weights(np.stack(values), True).astype(values[0].dtype) for values in zip(*network.members)]
        for weights in zip(*stacks):
            network.model.set_weights(weights)
            seen = [predict(network.model, VIEWS[view](images)) for view in ensemble.views]
            total = total + np.mean(seen, axis=0, dtype=np.float64)
    return sharpen(total, ensemble.temperature)
