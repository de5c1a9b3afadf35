"""The views of test-time augmentation (TTA): the eight symmetries of a square, as plain slicing.

The functions use indexing alone for the flips and `_swap` for the diagonal ones, so that one definition serves numpy
arrays (features, OOF), Keras tensors (the packaged model) and every backend.
"""


def _swap(x):
    """Rows for columns: [n, h, w, c] -> [n, w, h, c], on numpy arrays and on tensors alike."""
    if hasattr(x, "swapaxes"):
        return x.swapaxes(1, 2)
    from keras import ops

    return ops.swapaxes(x, 1, 2)


VIEWS = {
    "identity": lambda x: x,
    "hflip": lambda x: x[:, :, ::-1],
    "vflip": lambda x: x[:, ::-1],
    "rot180": lambda x: x[:, ::-1, ::-1],
    "transpose": lambda x: _swap(x),
    "rot90": lambda x: _swap(x)[:, ::-1],
    "rot270": lambda x: _swap(x)[:, :, ::-1],
    "antitranspose": lambda x: _swap(x)[:, ::-1, ::-1],
}
SQUARE_ONLY = ("transpose", "rot90", "rot270", "antitranspose")


def usable_views(size):
    """The names of the views that keep an image of `size` (height, width) at its size."""
    return [name for name in VIEWS if size[0] == size[1] or name not in SQUARE_ONLY]
