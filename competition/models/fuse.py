"""BatchNormalization folded into the layer before it: the same network for inference, with less to compute.

In inference BatchNormalization multiplies each channel by gamma / sqrt(variance + epsilon) and adds a constant
(Ioffe and Szegedy 2015, algorithm 2). Behind a layer that is linear up to its output, both go into that layer's own
kernel and bias, and TensorFlow can compute convolution, bias and activation in one go.
"""

import numpy as np


def fuse_batchnorm(model):
    """An inference model of the same outputs without the BatchNormalization that can be folded away.

    `model` is a functional keras.Model; models inside it are fused as well and keep their names. Folded is every
    BatchNormalization whose input is a Conv2D, DepthwiseConv2D, SeparableConv2D or Dense without activation, on the
    axis of that layer's channels. The others stay: between such a pair lies an activation in every backbone where
    BatchNormalization comes first (ResNetV2, DenseNet).

    Outputs differ by float32 rounding. The result is for inference only; layers that nothing was folded into are
    those of `model`, weights and all, so train `model` no further while it is in use. Draws no random numbers.
    """
    import keras
    from keras import layers
    from keras.src.models.functional import Functional

    linear = {}  # id of a layer's output: the layer, its input, and the output, whose id is taken as long as it lives
    folded = {}  # (layer, BatchNormalization): what replaces the two, once however often they are called

    def call(layer, *args, **kwargs):
        if isinstance(layer, layers.BatchNormalization) and id(args[0]) in linear:
            before, x, output = linear[id(args[0])]
            if _channel_axis(before, output) == _axis(layer, output):
                key = id(before), id(layer)
                folded[key] = folded.get(key) or _fold(before, layer, x.shape)
                return folded[key](x)
        output = layer(*args, **kwargs)
        foldable = layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense
        if isinstance(layer, foldable) and layer.activation is keras.activations.linear:
            linear[id(output)] = layer, args[0], output
        return output

    def keep(layer):
        return fuse_batchnorm(layer) if isinstance(layer, Functional) else layer

    return keras.models.clone_model(model, clone_function=keep, call_function=call)


def _channel_axis(layer, output):
    return 1 if getattr(layer, "data_format", None) == "channels_first" else len(output.shape) - 1


def _axis(batchnorm, output):
    return batchnorm.axis % len(output.shape)


def _fold(layer, batchnorm, input_shape):
    """A layer of the same kind as `layer` that does what `batchnorm` does to its output, too."""
    from keras import layers

    def values(name):
        variable = getattr(batchnorm, name)
        return None if variable is None else np.asarray(variable, np.float64)

    gamma, beta, mean, variance = map(values, ("gamma", "beta", "moving_mean", "moving_variance"))
    scale = (1 if gamma is None else gamma) / np.sqrt(variance + batchnorm.epsilon)
    weights = [np.asarray(value, np.float64) for value in layer.get_weights()]
    bias = weights.pop() if layer.use_bias else 0
    kernel = weights.pop()  # the last one; a SeparableConv2D has the depthwise one before it
    depthwise = isinstance(layer, layers.DepthwiseConv2D)  # [h, w, channels, multiplier], the others [..., outputs]
    weights.append(kernel * scale.reshape(kernel.shape[-2:] if depthwise else -1))
    weights.append((bias - mean) * scale + (0 if beta is None else beta))

    config = layer.get_config()
    config |= {key: "zeros" for key in config if key.endswith("_initializer")}  # others would draw random numbers
    config |= {"use_bias": True, "name": f"{layer.name}_{batchnorm.name}"}  # where `layer` stays, its name is taken
    fused = type(layer).from_config(config)
    fused.build(input_shape)
    fused.set_weights(weights)
    return fused
