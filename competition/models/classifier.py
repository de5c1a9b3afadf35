"""The network of a classifier: a backbone, and on its features a head of dense layers whose outputs are logits."""

from competition.models import presets
from competition.models.backbones import build_backbone


def build_recipe_backbone(model, size, settings, weights):
    """The backbone as backbones.build_backbone makes it, at the image size that the recipe `settings` wants.

    size      (height, width) of the competition's images
    weights   backbones.Weights
    """
    return build_backbone(model, size, settings.image_size or None, weights, settings.least_size)


def build_classifier(model, size, classes, settings, weights):
    """The keras.Model from raw RGB float32 [n, h, w, 3], 0..255, to logits float32 [n, classes].

    size      (height, width) of the competition's images
    classes   how many there are
    settings  the recipe: image size, head, dropout, which layers are frozen
    weights   backbones.Weights of the backbone; the head begins at zero

    The backbone is its layer "backbone". Raises InputError as backbones.build_backbone does.
    """
    import keras

    backbone = build_recipe_backbone(model, size, settings, weights)
    parts = backbone_blocks(backbone)
    for layer in parts[: round(settings.frozen_share * len(parts))]:
        layer.trainable = False  # also keeps its BatchNormalization's statistics
    if settings.batchnorm == "frozen":
        backbone = _infer_always(backbone)
    image = keras.Input(backbone.input_shape[1:], name="image")
    return keras.Model(image, _head(backbone(image), classes, settings))


def backbone_blocks(backbone):
    """The parts of a backbone that frozen_share and layer_decay count, the first first: its layers, or the blocks of one
    that holds a transformer's."""
    return [part for layer in backbone.layers for part in presets.blocks(layer)]


def set_head(model, head):
    """Give a classifier the weights of its head.

    head   of each layer a float32 [inputs + 1, outputs], the last row the bias
    """
    for name, matrix in zip([*(f"hidden_{i}" for i in range(len(head) - 1)), "logits"], head, strict=True):
        model.get_layer(name).set_weights([matrix[:-1], matrix[-1]])


def _head(features, classes, settings):
    """Hidden layers, if the recipe has any, and one that starts at zero: before the first step every class is equally
    likely. Dropout before each."""
    from keras import initializers, layers

    def drop(features, name, seed):
        return layers.Dropout(settings.dropout, seed=seed, name=name)(features) if settings.dropout else features

    features = drop(features, "head_dropout", settings.seed)
    for i, units in enumerate(settings.head):
        start = initializers.HeNormal(settings.seed + i)
        features = layers.Dense(units, activation="relu", kernel_initializer=start, name=f"hidden_{i}")(features)
        features = drop(features, f"hidden_dropout_{i}", settings.seed + i + 1)
    return layers.Dense(classes, kernel_initializer="zeros", dtype="float32", name="logits")(features)


def _infer_always(backbone):
    """The same model, same weights, that never learns statistics or drops anything.

    To call it with training=False is not enough: inside another functional model Keras 3 replaces that by what the
    outer one is called with.
    """

    class Functional(type(backbone)):  # of that name, under which Keras keeps the weights
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=False, mask=mask)

    return Functional(backbone.input, backbone.output, name=backbone.name)
