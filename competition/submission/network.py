"""All members of an ensemble as one SavedModel."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition.features.views import VIEWS
from competition.models.fuse import fuse_batchnorm
from competition.models.presets import preset_config, preset_of
from competition.submission.canonical import normalise_saved_model

ROWS = 32  # images times views that a network gets at once; 64 are 5 % faster, but what one image costs as well


@dataclass(frozen=True)
class Network:
    """A keras.Model [n, h, w, 3] -> [n, C], and the weights, as of its `get_weights`, of each member of that form."""

    model: Any
    members: list[list[np.ndarray]]


def build_networks(ensemble, table):
    """The Networks whose members' outputs add up to the probabilities of one view.

    A fine-tuned run gives one with a member for each fold. Frozen runs give one for each different backbone: it holds
    that once and the heads of all folds of all runs on it. BatchNormalization is folded into the layers before it.
    """
    networks, shared = [], {}
    for run, weight in ensemble.members:
        chosen = ensemble.folds or range(table.k)
        share = weight / len(chosen)
        if run.frozen:
            backbone, layers = run.build_shared(table)
            _, heads = shared.setdefault(backbone_identity(run, backbone), (backbone, []))
            heads += [(run.rule, [layer[fold] for layer in layers], share) for fold in chosen]
        else:
            folds = [_scaled(fuse_batchnorm(run.build_fold_model(table, fold)), share) for fold in chosen]
            networks.append(Network(folds[0], [model.get_weights() for model in folds]))
    for backbone, heads in shared.values():
        model = _with_heads(fuse_batchnorm(backbone), heads)
        networks.append(Network(model, [model.get_weights()]))
    return networks


def backbone_identity(run, backbone):
    """Equal for backbones that do the same."""
    network = preset_config(preset_of(run.config)) or run.config["model"]
    digest = hashlib.sha256(json.dumps([network, run.recipe.image_size, run.recipe.least_size]).encode())
    for values in backbone.get_weights():
        digest.update(values.tobytes())
    return digest.hexdigest()


def _scaled(model, share):
    import keras

    return keras.Model(model.input, model.output * share)


def _with_heads(backbone, heads):
    """Sum of share * probabilities over heads, each the `rule` of its run, a list of float32
    [inputs + 1, outputs] and a share.

    Those of the same layers and rule are computed as one.
    """
    import keras
    from keras import ops

    alike = {}
    for rule, head, share in heads:
        alike.setdefault((rule, *(matrix.shape for matrix in head)), []).append((head, share))
    features = backbone(backbone.input, training=False)
    sums = []
    for (rule, *_), group in alike.items():
        matrices, shares = zip(*group)
        probabilities = rule(_logits(features, [np.stack(layer) for layer in zip(*matrices)]), ops)
        sums.append(ops.sum(probabilities * np.array(shares, np.float32)[:, None], axis=1))
    return keras.Model(backbone.input, sum(sums[1:], sums[0]))


def _logits(features, matrices):
    """Logits [n, m, C] of m heads: of each layer a float32 [m, inputs + 1, outputs], the last row the bias."""
    from keras import layers

    first, *more = matrices
    count, dimension, units = first[:, :-1].shape
    dense = layers.Dense(count * units, dtype="float32")
    found = layers.Reshape((count, units))(dense(features))
    dense.set_weights([first[:, :-1].transpose(1, 0, 2).reshape(dimension, -1), first[:, -1].reshape(-1)])
    for matrix in more:
        layer = layers.EinsumDense("nmi,mio->nmo", (count, matrix.shape[2]), bias_axes="mo", dtype="float32")
        found = layer(layers.ReLU(dtype="float32")(found))
        layer.set_weights([matrix[:, :-1], matrix[:, -1]])
    return found


def export_network(networks, views, size, path, temperature=1.0, half=False):
    """Write the SavedModel: its `serve` maps raw RGB float32 [b, h, w, 3] to probabilities float32 [b, C].

    They are sharpened with the temperature (temperature.sharpen), which changes no label. With `half` the weights are stored
    as float16, where these can hold them, and cast as they are used, one member after the other.

    All views of the b images go through a member as one batch of up to ROWS. b is fixed, so that what an image
    gets does not depend on how many came with it, and small, so that few images are not padded with many.

    A plain tf.Module of variables and functions: TensorFlow 2.12 and later load it without Keras. How long that takes
    depends on the number of variables and operations. So the members of a Network share one function, which is not
    inlined and so optimised once, and each variable holds the weights of all of them, [members, ...].
    """
    import tensorflow as tf

    functions = [_as_function(network.model) for network in networks]
    module = tf.Module()
    module.weights = [
        [tf.Variable(stored_weights(np.stack(values), half)) for values in zip(*network.members)]
        for network in networks
    ]
    batch = max(1, ROWS // len(views))
    signature = [tf.TensorSpec([batch, *size, 3], tf.float32, name="images")]

    @tf.function(input_signature=signature, autograph=False)
    def serve(images):
        seen = tf.concat([VIEWS[view](images) for view in views], axis=0)
        total = tf.constant(0.0)
        for function, variables in zip(functions, module.weights):
            for weights in zip(*map(tf.unstack, variables)):
                with tf.control_dependencies([total]):  # one after the other: the memory of one member is enough
                    total += function(seen, [_computed(weight) for weight in weights])
        mean = tf.reduce_mean(tf.reshape(total, [len(views), batch, -1]), axis=0)
        if temperature == 1:
            return mean
        powers = tf.pow(tf.maximum(mean, 1e-30), 1 / temperature)
        return powers / tf.reduce_sum(powers, axis=1, keepdims=True)

    module.serve = serve
    tf.saved_model.save(module, str(path), signatures=serve)
    normalise_saved_model(Path(path))


def stored_weights(values, half):
    """float32 arrays as float16 where `half` says so and these can hold them: up to 65504."""
    fits = values.dtype == np.float32 and np.abs(values).max(initial=0) < np.finfo(np.float16).max
    return values.astype(np.float16) if half and fits else values


def _computed(weight):
    import tensorflow as tf

    return tf.cast(weight, tf.float32) if weight.dtype == tf.float16 else weight


def _as_function(model):
    """A tf.function (images, weights) -> answers of a keras.Model with those weights in place of its own."""
    import keras
    import tensorflow as tf

    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def answer(images, weights):
        with keras.StatelessScope(state_mapping=zip(model.weights, weights)):
            return model(images, training=False)

    return answer
