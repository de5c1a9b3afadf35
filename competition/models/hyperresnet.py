"""HyperResNet: KerasTuner's tunable ResNet (keras_tuner.applications), each of its architectures by a name.

`hyperresnet` is KerasTuner's default, `hyperresnet-next-8-23-max` another one: the version, the depths of the third and
the fourth stage, the pooling. The name alone tells the architecture, so that a run's config, its blend and its zip
carry it as they carry any other model's. `make tune MODEL=hyperresnet` searches it.
"""

# What KerasTuner lets vary, its default first. Rate and optimizer, the rest of its space, are the recipe's here.
ARCHITECTURE = {
    "version": ("v2", "v1", "next"),
    "conv3_depth": ("4", "8"),
    "conv4_depth": ("6", "23", "36"),
    "pooling": ("avg", "max"),
}
FAMILY = "hyperresnet"


def make_name(choices):
    """The model's name for {key of ARCHITECTURE: value}; what is not given is at its default."""
    return "-".join([FAMILY, *(choices.get(key, values[0]) for key, values in ARCHITECTURE.items())])


def read_name(model):
    """{key: value} of a model's name; None when it is no HyperResNet's."""
    family, *parts = (make_name({}) if model == FAMILY else model).split("-")
    known = len(parts) == len(ARCHITECTURE) and all(part in ARCHITECTURE[key] for key, part in zip(ARCHITECTURE, parts))
    return dict(zip(ARCHITECTURE, parts)) if family == FAMILY and known else None


def build(model, x):
    """Its features [n, d] for x [n, h, w, 3] in -1..1, from random weights; d is 2048."""
    from keras_tuner import HyperParameters
    from keras_tuner.applications import HyperResNet

    choices = HyperParameters()
    choices.values |= {key: int(value) if value.isdigit() else value for key, value in read_name(model).items()}
    return HyperResNet(include_top=False, input_tensor=x).build(choices).output
