"""How much of the image one unit of a backbone's last feature map sees, and how far apart its neighbours look.

The layer-by-layer recurrence of Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks",
Distill 2019: a window of k units, d apart, moved by s at a time, over units that are j pixels apart, widens the field by
j * d * (k - 1) and makes j * s of j. It is walked along the Keras graph with both ends of the field in place of its size,
so that where branches meet their union is exact even if padding has shifted them against each other. Padded zeros count
as pixels: near a border part of a field lies outside of the image.
"""

import itertools
from dataclasses import dataclass, replace

import pandas as pd

from competition.base.backend import make_repeatable
from competition.base.files import InputError
from competition.base.option_values import parse_size
from competition.base.text import text_table
from competition.models.backbones import (
    backbone_names,
    build_backbone,
    find_backbone,
    has_weights_here,
    network_size,
    smallest_size,
)
from competition.models.flops import count_gigaflops
from competition.models.keras_cv import NETWORKS
from competition.models.presets import Preset, native_size, patch

SIZE = 224  # pixels, where the user names no size; fields and strides hardly depend on it, only the map does

# Kinds of layers by class name; subclasses go with them.
POINTWISE = frozenset(
    "Activation ReLU LeakyReLU PReLU ELU Relu Relu6 Silu Gelu Sigmoid HardSigmoid HardSilu Tanh Softmax Dropout "
    "SpatialDropout2D GaussianNoise GaussianDropout AlphaDropout StochasticDepth LayerScale CustomScaleLayer "
    "BatchNormalization LayerNormalization RMSNormalization UnitNormalization Normalization Rescaling Dense Identity "
    "Cast ConvertToTensor Flip Add Subtract Multiply Divide TrueDivide Average Maximum Minimum Concatenate".split()
)
POOLED = frozenset("GlobalAveragePooling2D GlobalMaxPooling2D Flatten Reshape".split())  # no map comes out
EVERYWHERE = {
    "MultiHeadAttention": "attention",
    "GroupedQueryAttention": "attention",
    "Attention": "attention",
    "AdditiveAttention": "attention",
    "GroupNormalization": "group normalisation",
}


@dataclass(frozen=True)
class Field:
    """What the units of a feature map see: unit i the pixels stride * i + first to stride * i + last, both included.

    Pairs are (vertical, horizontal), in pixels of the image as the network sees it, that is after a resizing inside.
    """

    stride: tuple[int, int]
    first: tuple[int, int]
    last: tuple[int, int]
    map: tuple[int, int]  # height and width of the feature map, in units
    everything: frozenset[str] = frozenset()  # by which layers a unit sees the whole image as well
    pooled: bool = False  # the map was averaged or flattened: what was made of it is no map any more

    @property
    def size(self):
        """The receptive field, (height, width) in pixels."""
        return tuple(last - first + 1 for first, last in zip(self.first, self.last))


def receptive_field(model):
    """The Field of a functional keras.Model's last feature map: its output, or the map that is averaged into that.

    `model` takes images [n, height, width, channels] of a given height and width; models inside it are walked as well.
    Squeeze-excitation, attention and the like let every unit see the whole image: they are named in `everything`, and
    the field is that of the local path beside them. A layer of unknown kind that keeps the map's size is taken as
    pointwise and named there, too. Raises InputError for one that does not, and where maps of different strides meet.
    """
    return _walk(model, [Field((1, 1), (0, 0), (0, 0), tuple(model.input_shape[1:3]))])[0]


def show_backbones(models=None, size=None):
    """Print, and return as a DataFrame, receptive field, stride, last feature map and parameters of "a,b,c", what they
    compute for an image, the smallest side that they take, the size of their weights and whether these are here.

    models  default: the names of all, a column; to build them would take minutes. Presets of KerasHub are not among them:
            its import takes seconds
    size    of the images: "96", "96x128" (height x width); default 224. Weights are random, none are loaded.
    """
    if not models:
        frame = pd.DataFrame({"backbone": [*backbone_names(), *(f"cv:{name}" for name in sorted(NETWORKS))]})
        print("\n".join(frame["backbone"]))
        print("hub:<preset of KerasHub>, hub:<folder of a preset>, cv:<folder of a preset>")
        return frame
    size = parse_size(size) or (SIZE, SIZE)
    make_repeatable()  # building a network starts TensorFlow
    rows = []
    for name in dict.fromkeys(model.strip() for model in models.split(",")):
        model = find_backbone(name)
        backbone = build_backbone(model, size)
        native = native_size(model.network) if isinstance(model, Preset) else None
        rows.append(
            {
                "backbone": name,
                **_sight(model, backbone, size),
                "smallest": smallest_size(model),
                "native": "x".join(map(str, native)) if native else "-",
                "gflops": round(count_gigaflops(backbone), 3),
                "weights_here": "yes" if has_weights_here(model) else "no",
            }
        )
    frame = pd.DataFrame(rows)
    height, width = size
    print(f"images of {height}x{width}; field and stride in pixels, the field of a unit of the last feature map\n")
    print(text_table(frame))
    return frame


def _sight(model, backbone, size):
    """The columns that say what a unit of a backbone's last feature map sees."""
    everything, inside = "-", network_size(model, size)
    try:
        field = receptive_field(backbone)
    except InputError:
        if not isinstance(model, Preset):
            raise
        # a layer of another library, which may hold a whole transformer
        last = [layer.output.shape[1:3] for layer in backbone.layers if len(layer.output.shape) == 4][-1]
        side = patch(model.network)
        last = tuple(one // side for one in inside) if side else last
        seen, stride = "-", _pair([one // unit for one, unit in zip(inside, last)])
        everything = "attention" if side else "-"
    else:
        seen, stride, last = _pair(field.size), _pair(field.stride), field.map
        everything = ", ".join(sorted(field.everything)) or "-"
    return {
        "receptive_field": seen,
        "stride": stride,
        "map": "x".join(map(str, last)),
        "features": backbone.output_shape[-1],
        "parameters": backbone.count_params(),
        "and_everything_through": everything,
    }


def _pair(values):
    return str(values[0]) if values[0] == values[1] else "x".join(map(str, values))


def _walk(model, starts):
    """The Fields of a functional model's outputs, given those of its inputs."""
    fields = dict(zip(map(id, model.inputs), starts))
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.is_input:
                seen = _call(node.operation, [fields[id(tensor)] for tensor in node.input_tensors], node.outputs[0])
                fields |= zip(map(id, node.outputs), seen)
    return [fields[id(tensor)] for tensor in model.outputs]


def _call(operation, fields, output):
    """The Fields of what a layer or operation, or a model inside the model, makes of its inputs' `fields`."""
    from keras.src.models.functional import Functional

    graph = getattr(operation, "_functional", operation)  # a Sequential has one inside
    return _walk(graph, fields) if isinstance(graph, Functional) else itertools.repeat(_see(operation, fields, output))


def _see(operation, fields, output):
    """The Field of a layer's output, a Keras tensor, given those of its inputs."""
    classes = [kind.__name__ for kind in type(operation).__mro__]
    name = classes[0]

    def is_of(kinds):
        return next((kind for kind in classes if kind in kinds), None)

    field = _join(operation, fields, gates=bool(is_of({"Multiply"})))
    if kind := is_of(EVERYWHERE):
        return replace(field, everything=field.everything | {EVERYWHERE[kind]})
    if field.pooled:
        return field
    over = _axes(operation)
    if is_of(POOLED) or (is_of({"Mean", "Max"}) and {1, 2} <= over):
        return replace(field, pooled=True)
    if kind := is_of(WINDOWS):
        return _window(field, *WINDOWS[kind](operation))
    shape = tuple(output.shape[1:3])
    if is_of({"Resize", "Resizing"}) and field.size == field.stride == (1, 1):
        return Field((1, 1), (0, 0), (0, 0), shape)
    if is_of({"LayerNormalization"}) and not over <= {3}:
        return replace(field, everything=field.everything | {"layer normalisation"})
    if is_of(POINTWISE) and over <= {3}:
        return field
    if len(output.shape) == 4 and all(side in (None, known) for side, known in zip(shape, field.map)):
        return replace(field, everything=field.everything | {f"{name}, perhaps"})
    raise InputError(
        f"{operation.name}: a layer of kind {name}, expected one whose receptive field is known, or that "
        "keeps the size of the map"
    )


def _axes(operation):
    """The axes over which an operation works, of [n, height, width, channels]; of one that names none the channels."""
    axis = getattr(operation, "axis", None)
    axes = [-1] if axis is None else axis if isinstance(axis, (list, tuple)) else [axis]
    return {axis % 4 for axis in axes}


def _join(operation, fields, gates):
    """The Field of a layer that sees all of `fields`, unit by unit; what is no map goes to every unit of those that are.

    `gates` says that the layer multiplies: then what is no map is a gate, that of squeeze-excitation.
    """
    everything = frozenset().union(*(field.everything for field in fields))
    largest = max((field.map for field in fields if not field.pooled), default=None)
    maps = [field for field in fields if not field.pooled and (field.map != (1, 1) or field.map == largest)]
    if not maps:
        return replace(max(fields, key=lambda field: field.size), everything=everything)
    if len(maps) < len(fields):
        everything |= {"squeeze-excitation" if gates else "global pooling"}
    if len(strides := {field.stride for field in maps}) > 1:
        raise InputError(
            f"{operation.name}: joins maps of strides {', '.join(map(_pair, sorted(strides)))}, expected one stride"
        )
    return replace(
        maps[0],
        everything=everything,
        first=tuple(map(min, *(field.first for field in maps), maps[0].first)),
        last=tuple(map(max, *(field.last for field in maps), maps[0].last)),
    )


def _convolution(layer):
    return layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding


def _pooling(layer):
    return layer.pool_size, layer.strides, (1, 1), layer.padding


def _padding(layer):
    return (1, 1), (1, 1), (1, 1), layer.padding


def _cropping(layer):
    return (1, 1), (1, 1), (1, 1), [(-before, -after) for before, after in layer.cropping]


# {kind of layer: what gives its kernel, strides, dilation, each (vertical, horizontal), and its padding: "same", "valid"
# or the units before and after}
WINDOWS = {
    "Conv2D": _convolution,
    "DepthwiseConv2D": _convolution,
    "SeparableConv2D": _convolution,
    "MaxPooling2D": _pooling,
    "AveragePooling2D": _pooling,
    "ZeroPadding2D": _padding,
    "Cropping2D": _cropping,
}


def _window(field, kernel, strides, dilation, padding):
    """The Field behind a window that is moved over the map."""
    axes = []
    for axis in (0, 1):
        reach, stride, units = dilation[axis] * (kernel[axis] - 1), strides[axis], field.map[axis]
        if padding == "same":  # as TensorFlow pads: the odd one behind
            total = max((-(-units // stride) - 1) * stride + reach + 1 - units, 0)
            before, after = total // 2, total - total // 2
        else:
            before, after = (0, 0) if padding == "valid" else padding[axis]
        jump = field.stride[axis]
        axes.append(
            (
                jump * stride,
                field.first[axis] - jump * before,
                field.last[axis] + jump * (reach - before),
                (units + before + after - reach - 1) // stride + 1,
            )
        )
    stride, first, last, units = zip(*axes)
    return replace(field, stride=stride, first=first, last=last, map=units)
