"""The notebook loop that a good Keras user writes: for each fold build, fit frozen, unfreeze, fit again, predict.

It is what the toolkit is measured against, so nothing in it is slow on purpose: pictures are decoded once and stay in
memory, augmentation runs in tf.data beside the network, the next batches are prefetched. The backbone and its ImageNet
weights are those of the toolkit.
"""

import time
from dataclasses import dataclass

import numpy as np

from competition.base.backend import import_tensorflow
from competition.models.backbones import build_backbone, resolve_weights

BATCH = 64
SHIFT = 0.1  # of height and width


@dataclass(frozen=True)
class Loop:
    """What the loop did. Folds that were not run have an OOF of NaN."""

    oof: np.ndarray  # float32 [n, classes]
    seconds: float  # for all folds and epochs that were asked for
    extrapolated: str  # what `seconds` was extrapolated from; "": nothing, all of it was run


def run_loop(table, images, model, frozen_epochs, full_epochs=0, run_epochs=None, most_seconds=None):
    """Train `model` on the folds of a FoldTable and predict each fold with the model that never saw it.

    images        uint8 [n, h, w, 3] in the table's order
    run_epochs    run only so many epochs of each phase, and take the others as long as the later ones of these
    most_seconds  begin no fold that would end after this time (the first always runs)
    """
    import_tensorflow()
    import keras

    oof = np.full((len(table.labels), len(table.classes)), np.nan, np.float32)
    weights = resolve_weights(model)
    seconds, spent = [], []
    for fold in range(table.k):
        if most_seconds and spent and sum(spent) + spent[-1] > most_seconds:
            break
        keras.backend.clear_session()
        keras.utils.set_random_seed(fold)
        before = time.perf_counter()
        held_out = table.fold == fold
        training = make_dataset(images[~held_out], table.labels[~held_out], augment=True)
        validation = make_dataset(images[held_out], table.labels[held_out])
        network, backbone = build(table, model, weights)
        missing = fit(network, training, validation, 1e-3, frozen_epochs, run_epochs)
        if full_epochs:
            backbone.trainable = True
            missing += fit(network, training, validation, 1e-5, full_epochs, run_epochs)
        oof[held_out] = network.predict(validation, verbose=0)
        spent.append(time.perf_counter() - before)
        seconds.append(spent[-1] + missing)
    epochs = frozen_epochs + full_epochs
    run = sum(min(phase, run_epochs or phase) for phase in (frozen_epochs, full_epochs))
    whole = len(spent) == table.k and run == epochs
    note = "" if whole else f"extrapolated from {len(spent)} of {table.k} folds, {run} of {epochs} epochs each"
    return Loop(oof, float(np.mean(seconds)) * table.k, note)


def make_dataset(images, labels, augment=False):
    """Batches for `fit`: shuffled, flipped and shifted at random when they are to train on."""
    import tensorflow as tf
    from keras import layers

    data = tf.data.Dataset.from_tensor_slices((images, labels))
    if augment:
        change = [
            layers.RandomFlip("horizontal_and_vertical"),
            layers.RandomTranslation(SHIFT, SHIFT, fill_mode="reflect"),
        ]

        def augmented(batch, targets):
            for layer in change:
                batch = layer(batch, training=True)
            return batch, targets

        data = data.shuffle(len(images)).batch(BATCH).map(augmented, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        data = data.batch(BATCH)
    return data.prefetch(tf.data.AUTOTUNE)


def build(table, model, weights):
    """The network with a frozen backbone, and the backbone."""
    import keras

    backbone = build_backbone(model, table.size, weights=weights)
    backbone.trainable = False
    image = keras.Input((*table.size, 3))
    probabilities = keras.layers.Dense(len(table.classes), activation="softmax")(backbone(image, training=False))
    return keras.Model(image, probabilities), backbone


def fit(network, training, validation, rate, epochs, run_epochs):
    """Compile and fit; the seconds that the epochs which were not run would have taken."""
    import keras

    ends = []
    network.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    run = min(epochs, run_epochs or epochs)
    network.fit(training, validation_data=validation, epochs=run, shuffle=False, verbose=0, callbacks=[clock])
    later = np.diff(ends)  # the first epoch traces and compiles
    return (epochs - run) * float(np.median(later)) if run < epochs else 0.0
