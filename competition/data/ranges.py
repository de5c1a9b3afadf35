"""Which values a data set's pictures of more than 8 bits hold, and how these become 0..255.

A scanner or microscope of 12 bits writes 0..4095 into files of 16 bits: taken for 0..65535 such pictures are almost
black. So `make folds` finds one range for each kind of values and keeps it in the fold table, and whatever decodes an
image of that table, or a test image for it, scales by it. Where the range is what `decode` assumes anyway, none is kept.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

SIXTEEN_BITS, INTEGERS, FLOATS, DEEP_COLOURS = "16-bit grey", "32-bit integers", "floats", "16-bit colours"  # kinds
ASSUMED = 0, 65535  # the range of integers without one of their own
LEAST_BITS = 8
NARROW = 1 / 8  # of the bits' range: values that span less have a range of their own, as a thermal camera's
BEYOND = 8  # times the span of almost all values: a wider one is that of a few hot pixels
ALMOST_ALL = 0.001, 0.999
ENOUGH = 2**20  # values of a picture that quantiles are taken of
NO_VALUE = 1e30  # floats from here on stand for a missing value, as they do in maps

Ranges = Mapping[str, tuple[float, float]]


class Values(NamedTuple):
    """Which values a picture of more than 8 bits holds."""

    kind: str
    low: float
    high: float
    inner_low: float  # almost all values lie between this
    inner_high: float  # and this


def see_values(kind: str, pixels: np.ndarray, mode: str) -> Values | None:
    """The Values of a picture as Pillow decodes it, [h, w] or [h, w, c]; None where no value is a finite number.

    Of colours Pillow keeps the upper 8 of 16 bits, uint8: these tell how many bits are used. Transparency does not count.
    """
    if kind == DEEP_COLOURS:
        channels = 1 if mode == "LA" else 3
        low, high = int(pixels[..., :channels].min()), int(pixels[..., :channels].max())
        if pixels.dtype == np.uint8:
            low, high = 256 * low, 256 * high + 255
        return Values(kind, low, high, low, high)
    values = pixels.ravel()
    if values.dtype.kind == "f":
        values = values[np.abs(np.nan_to_num(values, nan=np.inf)) < NO_VALUE]
    if not len(values):
        return None
    some = values[:: -(-len(values) // ENOUGH)]
    inner = np.quantile(some, ALMOST_ALL, method="nearest")
    return Values(kind, *(float(value) for value in (values.min(), values.max(), *inner)))


def find_ranges(found: Iterable[Values]) -> dict[str, tuple[float, float]]:
    """{kind: (low, high)} of the values of a data set; a kind for which `decode` assumes that range is left out.

    From 0 on it is that of the bits used (12 bits: 0..4095), for floats 0..1, 0..255 or up to the highest. Where values
    are negative, or span less than NARROW of that, it goes from the lowest to the highest. A few values BEYOND
    the span of almost all others do not count.
    """
    found = list(found)
    ranges = {}
    for kind in sorted({values.kind for values in found}):
        of_kind = [values for values in found if values.kind == kind]
        low, high = min(values.low for values in of_kind), max(values.high for values in of_kind)
        inner = min(values.inner_low for values in of_kind), max(values.inner_high for values in of_kind)
        if high - low > BEYOND * (inner[1] - inner[0]) > 0:
            low, high = inner
        own = _own_range(kind, low, high)
        if own and own != ((0, 1) if kind == FLOATS else ASSUMED):
            ranges[kind] = own
    return ranges


def assumed_range(kind: str, found: Iterable[Values]) -> tuple[float, float]:
    """What `decode` takes values of a kind to be of where a table has no range for it; for floats of several pictures,
    all of which have this kind, the wider one."""
    if kind != FLOATS:
        return ASSUMED
    return (0, 1) if all(values.low >= 0 and values.high <= 1 for values in found) else (0, 255)


def scale(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Values of a range as uint8: linear, rounded, clipped. Missing ones are 0, or 255 where they are infinite."""
    low, high = limits
    span = high - low
    shares = (np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / span
    return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)


def say_range(limits: tuple[float, float]) -> str:
    """Say a range: "0..4095"."""
    return "..".join(f"{value:.6g}" for value in limits)


def _own_range(kind, low, high):
    """The range that values from `low` to `high` are of; None where all are the same."""
    if not high > low:
        return None
    if low < 0:
        return low, high
    if kind == FLOATS:
        full = next((top for top in (1, 255) if high <= top), high)
    else:
        bits = max(LEAST_BITS, int(high).bit_length())
        full = 2 ** (16 if bits == 15 else bits) - 1  # no camera has 15 bits: it is a dark picture of 16
    return (0, full) if high - low >= NARROW * full else (low, high)
