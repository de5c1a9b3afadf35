"""How much a network computes for one image, counted in the graph that the backend makes of it."""

import math


def count_gigaflops(model):
    """Floating-point operations of convolutions and matrix products for one image, in billions; NaN where unknown.

    A multiplication and an addition count as two. `model` is a keras.Model of images of a given height and width.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        image = jax.ShapeDtypeStruct((1, *model.input_shape[1:]), "float32")
        cost = jax.jit(lambda x: model(x, training=False)).lower(image).cost_analysis()
        return (cost or {}).get("flops", math.nan) / 1e9
    import tensorflow as tf

    image = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)
    traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(image)
    return sum(map(_count, traced.graph.get_operations())) / 1e9


def _count(operation):
    """Of one operation of TensorFlow, 0 for those that multiply no matrices."""
    if operation.type not in ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Einsum"):
        return 0
    first, second, out = (tensor.shape for tensor in (*operation.inputs, operation.outputs[0]))
    if not all(shape.is_fully_defined() for shape in (first, second, out)):
        return math.nan
    if operation.type == "Conv2D":
        each = math.prod(second[:3])
    elif operation.type == "DepthwiseConv2dNative":
        each = math.prod(second[:2])
    elif operation.type == "Einsum":
        left, right = operation.get_attr("equation").decode().partition("->")[0].split(",")
        sizes = dict(zip(left + right, (*first, *second)))
        kept = operation.get_attr("equation").decode().partition("->")[2]
        each = math.prod(size for letter, size in sizes.items() if letter not in kept)
    else:
        turned = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
        each = first[-2 if turned else -1]
    return 2 * math.prod(out) * each
