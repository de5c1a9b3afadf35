"""AdamW with a rate for each layer, and how a model is compiled with it."""

from competition.base.backend import use_xla
from competition.features import heads
from competition.models.classifier import backbone_blocks


def layer_rates(model, settings):
    """{variable path: share of the rate}: layer_decay for the first layer, 1 for the head, geometric between."""
    layers = [layer for layer in backbone_blocks(model.get_layer("backbone")) if layer.trainable_variables]
    whole = {variable.path: settings.layer_decay for variable in model.get_layer("backbone").trainable_variables}
    return whole | {
        variable.path: settings.layer_decay ** (1 - position / len(layers))
        for position, layer in enumerate(layers)
        for variable in layer.trainable_variables
    }


def compile_model(model, weight_decay, label_smoothing, rates, ema=0.0):
    """Compile a classifier; `rates` as of layer_rates, `ema` the momentum of a moving average of its weights, 0: none."""
    import keras
    from keras import ops

    class LayerwiseAdamW(keras.optimizers.Adam):
        """AdamW (Loshchilov and Hutter 2019) with a share of the learning rate for each variable, for the decay of its
        weights too: at the rate of the last layer the first ones would shrink with nothing to hold against it."""

        def update_step(self, gradient, variable, learning_rate):
            index = self._get_variable_index(variable)
            rate = learning_rate * shares[index]
            if decays[index]:
                self.assign_sub(
                    variable, variable * ops.cast(decays[index], variable.dtype) * ops.cast(rate, variable.dtype)
                )
            super().update_step(gradient, variable, rate)

    shares = [rates.get(variable.path, 1.0) for variable in model.trainable_variables]
    decays = [
        0 if any(word in variable.name for word in ("bias", "gamma", "beta")) else weight_decay
        for variable in model.trainable_variables
    ]
    optimizer = LayerwiseAdamW(
        learning_rate=0.0,
        beta_1=heads.BETA_1,
        beta_2=heads.BETA_2,
        epsilon=heads.EPSILON,
        use_ema=ema > 0,
        ema_momentum=ema,
    )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    # By its name, Keras would make it within the first step: TensorFlow traces a step that makes variables twice.
    accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
    model.compile(optimizer, loss, metrics=[accuracy], jit_compile=use_xla())
    optimizer.build(model.trainable_variables)
