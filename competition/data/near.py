"""Pairs of images that are nearly the same: sketches of them, and how alike two are.

From each image, decoded once, a small *sketch* is kept. Three stages find the pairs, each with less to do than the one
before; none compares all with all:

1. candidates: the nearest neighbours in the low frequencies of the sketch (a perceptual hash that is not rounded to
   bits), in all 8 symmetries, among the images that lie near the same of sqrt(n) pivots: n sqrt(n) comparisons;
2. tangents: how much of a candidate is the image itself, moved, scaled or turned a little (the tangent distance of
   Simard et al. 1993, "Efficient pattern recognition using a new transformation distance");
3. pixels: both sketches are laid onto each other (ECC, Evangelidis and Psarakis 2008, "Parametric image alignment using
   enhanced correlation coefficient maximization") and compared where they overlap, by detail alone: light and shade,
   which dark or blurred images have in common, do not count. An image without detail is only like its exact copies.

OpenCV lays them onto each other. OpenCV 4 rounds places to 1/32 of a pixel and OpenCV 5 does not, so their scores differ
a little: a pair whose score lies near a limit may count with one of them only.
"""

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from competition.base.threads import in_threads

SIDE = 48  # of a sketch's luma, pixels
CELLS = 4  # a side of its colours
SKETCH = SIDE**2 + 3 * CELLS**2  # bytes
FREQUENCIES = 10  # of the cosine transform that are kept, a side
COARSE, FINE = 6, 9  # the highest that stages 1 and 2 look at, half periods a side
NEIGHBOURS = 32  # candidates an image
PROBES, OF_A_PROBE = 12, 8  # pivots whose images are looked at, for each symmetry; the nearest of them that are kept
CHUNK = 1024  # images at a time in stages 1 and 2: what bounds their memory
LEAST_ALIKE = 0.6  # cosine in stage 1; true pairs have 0.7 to 1
LEAST_TANGENT = 0.68  # cosine in stage 2; of true pairs 99 % have 0.78 to 1, others rarely 0.7
LEAST_DETAIL = 1.0  # grey levels, standard deviation: what is less is mostly rounding and noise
LEAST_SCORE = 0.76  # correlation of details in stage 3; of pairs that are none the highest seen was 0.75, two horses
FINEST, COARSEST = 0.7, 3.0  # what is detail: pixels of a sketch, standard deviations of two Gaussians
SOFT = 0.1  # of the whole image's detail, added to that of a place by which it is divided
MARGIN = 4  # pixels at the border of the overlap, where detail is not known well
LEAST_COLOUR, COLOUR = 10, 0.3  # how far colours may differ: grey levels, and as a share of how colourful they are
FURTHEST = 0.16  # how far a corner may be moved by what lays one onto the other, as a share of the side
ITERATIONS = 25


def make_sketch(pixels):
    """uint8 [h, w, 3] -> uint8 [SKETCH]: luma at SIDE x SIDE, then colours at CELLS x CELLS.

    By Pillow, whose fixed-point arithmetic gives the same bytes on every machine.
    """
    image = Image.fromarray(pixels)
    luma = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    colours = image.resize((CELLS, CELLS), Image.Resampling.BOX)
    return np.concatenate([np.asarray(luma).ravel(), np.asarray(colours).ravel()])


def find_near(sketches):
    """The near duplicates among sketches uint8 [n, SKETCH]: a DataFrame of first, second (rows), how, score."""
    luma = sketches[:, : SIDE**2].reshape(-1, SIDE, SIDE)
    colours = sketches[:, SIDE**2 :].reshape(-1, CELLS, CELLS, 3)

    def examine(job):
        first, second, symmetry = job
        return compare_pictures(
            luma[first], transform(luma[second], symmetry), colours[first], transform(colours[second], symmetry)
        )

    jobs = _candidates(luma, np.flatnonzero([_has_detail(image) for image in luma]))
    scores = list(in_threads(examine, jobs, "compare images"))
    pairs = pd.DataFrame(
        [[*job[:2], "near", score] for job, score in zip(jobs, scores) if score >= LEAST_SCORE],
        columns=["first", "second", "how", "score"],
    )
    pairs = pairs.astype({"first": int, "second": int, "score": float})
    return (
        pairs.sort_values("score", ascending=False, kind="stable")
        .drop_duplicates(["first", "second"])
        .sort_values(["first", "second"], ignore_index=True)
    )


def compare_pictures(first, second, first_colours, second_colours):
    """How alike two images are, laid onto each other: -1..1, and 0 where they do not fit or the colours are others.

    Of each the luma uint8 [SIDE, SIDE] and the colours uint8 [CELLS, CELLS, 3].
    """
    if not same_colours(first_colours, second_colours):
        return 0.0
    move = align(first, second)
    return 0.0 if move is None else correlate(first, second, move)


def same_colours(first, second):
    """Whether two images [CELLS, CELLS, 3] are of one colouring: the same shape in red and in blue may be two classes.

    The differences between channels, which brightness leaves alone and contrast scales.
    """
    a, b = (np.diff(colours.astype(np.float64), axis=-1) for colours in (first, second))
    return np.abs(a - b).mean() <= LEAST_COLOUR + COLOUR * max(np.abs(a).mean(), np.abs(b).mean())


def transform(image, symmetry):
    """One of the 8 symmetries of [h, w, ...]: bit 4 transposes, then bit 2 turns upside down, bit 1 mirrors."""
    image = image.swapaxes(0, 1) if symmetry & 4 else image
    return image[:: -1 if symmetry & 2 else 1, :: -1 if symmetry & 1 else 1]


def align(first, second):
    """The affine move float32 [2, 3] that takes places of `first` to those of `second`; None where none is small."""
    cv2.setNumThreads(1)  # the images go through threads of our own
    ends = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, ITERATIONS, 1e-4)
    first, second = (np.ascontiguousarray(image, np.float32) for image in (first, second))
    try:
        _, move = cv2.findTransformECC(first, second, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, ends, None, 5)
    except cv2.error:  # it found nothing that fits
        return None
    corners = np.array([[x, y, 1] for x in (0, SIDE - 1) for y in (0, SIDE - 1)], np.float32)
    moved = np.abs(corners @ move.T - corners[:, :2]).max()
    return move if moved <= FURTHEST * SIDE else None


def correlate(first, second, move):
    """The correlation of two lumas' details where they overlap, -1..1; 0 where one of them has none there."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    second = cv2.warpAffine(np.ascontiguousarray(second, np.float32), move, (SIDE, SIDE), flags=flags)
    inside = cv2.warpAffine(np.ones((SIDE, SIDE), np.float32), move, (SIDE, SIDE), flags=flags) > 0.99
    (a, seen), (b, _) = (_high_pass(image, inside) for image in (first, second))
    if not seen.any() or min(a[seen].std(), b[seen].std()) < LEAST_DETAIL / 2:
        return 0.0
    return float(np.corrcoef(*(_level(detail, seen)[seen] for detail in (a, b)))[0, 1])


def _inverse(symmetry):
    """The symmetries that undo these: what is transposed last has its flips exchanged."""
    swapped = (symmetry & 4) | (symmetry & 1) << 1 | (symmetry & 2) >> 1
    return np.where(symmetry & 4, swapped, symmetry)


def _cosines():
    """float32 [FREQUENCIES, SIDE], the first rows of the orthonormal discrete cosine transform."""
    k, x = np.mgrid[:FREQUENCIES, :SIDE]
    rows = np.cos(np.pi * k * (x + 0.5) / SIDE) * np.sqrt(2 / SIDE)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


_V, _U = np.mgrid[:FREQUENCIES, :FREQUENCIES]  # vertical and horizontal frequency
_RADIUS = np.hypot(_V, _U)


def _spectrum(images):
    """[n, SIDE, SIDE] -> float32 [n, FREQUENCIES, FREQUENCIES]."""
    cosines = _cosines()
    return cosines @ images.astype(np.float32) @ cosines.T


def _vectors(spectra, highest, power):
    """[..., FREQUENCIES, FREQUENCIES] -> unit vectors [..., d] of the frequencies up to `highest` but 0.

    `power` of the frequency weighs them: natural images have little of the high ones, and all are alike in the low.
    """
    keep = (_RADIUS > 0) & (_RADIUS <= highest)
    found = (spectra * _RADIUS.astype(np.float32) ** power)[..., keep]
    return found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-9)


def _mirrored(spectra, symmetry):
    """The spectra of images after one of the 8 symmetries: a flip turns the sign of the odd frequencies."""
    spectra = spectra.swapaxes(-1, -2) if symmetry & 4 else spectra
    sign = (1 - 2 * (_V % 2) * bool(symmetry & 2)) * (1 - 2 * (_U % 2) * bool(symmetry & 1))
    return spectra * sign.astype(np.float32)


def _tangents(images):
    """Orthonormal bases float32 [n, d, 5] of what an image becomes when it is moved, scaled or turned a little."""
    images = images.astype(np.float32)
    dy, dx = np.gradient(images, axis=(1, 2))
    place = (np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2) / SIDE
    x, y = place[None, None, :], place[None, :, None]
    moves = [images, dx, dy, dx * x + dy * y, dx * y - dy * x]
    basis = np.stack([_vectors(_spectrum(move), FINE, 1) for move in moves], -1)
    return np.linalg.qr(basis)[0]


def _candidates(luma, rows):
    """Pairs that may be near duplicates: a list of (first, second, symmetry of the second), of `rows` of `luma`."""
    if len(rows) < 2:
        return []
    parts = np.array_split(rows, -(-len(rows) // CHUNK))
    spectra = np.concatenate([_spectrum(luma[part]) for part in parts])
    coarse = _vectors(spectra, COARSE, 0.5)
    pivots = coarse[np.linspace(0, len(rows) - 1, round(len(rows) ** 0.5)).astype(int)]
    bounds = np.cumsum([0, *map(len, parts)])
    home = np.concatenate([(coarse[a:b] @ pivots.T).argmax(1) for a, b in zip(bounds, bounds[1:])])
    members = np.split(np.argsort(home, kind="stable"), np.cumsum(np.bincount(home, minlength=len(pivots)))[:-1])

    def search(span):
        own = np.arange(*span)
        turned = np.stack([_vectors(_mirrored(spectra[own], s), COARSE, 0.5) for s in range(8)])
        query, symmetry, other = _nearest(turned, own, coarse, pivots, members)
        basis = _tangents(luma[rows[own]])
        alike = np.empty(len(query))
        back = _inverse(symmetry)  # it is the other one that is turned now
        for s in range(8):
            at = np.flatnonzero(back == s)
            turned_others = _vectors(_mirrored(spectra[other[at]], s), FINE, 1)
            alike[at] = np.linalg.norm(np.einsum("nd,ndk->nk", turned_others, basis[query[at]]), axis=1)
        good = alike >= LEAST_TANGENT
        return np.stack([rows[own[query[good]]], rows[other[good]], back[good]], 1)

    found = np.concatenate(list(in_threads(search, list(zip(bounds, bounds[1:])), "search images", 1)))
    return [tuple(job) for job in _unordered(found).tolist()]


def _nearest(turned, own, coarse, pivots, members):
    """The NEIGHBOURS of each of some images that are nearest in any symmetry: (position in own, symmetry, other row).

    turned  float32 [8, q, d] of the images `own` [q]; coarse: float32 [n, d] of all; members: rows of each pivot
    """
    near = np.argpartition(-(turned @ pivots.T), min(PROBES, len(pivots)) - 1, -1)[..., :PROBES]
    order = np.argsort(near, axis=None, kind="stable")
    ends = np.searchsorted(near.ravel()[order], np.arange(len(pivots) + 1))
    found = []
    for pivot, rows in enumerate(members):
        symmetry, query, _ = np.unravel_index(order[ends[pivot] : ends[pivot + 1]], near.shape)
        if not len(query) or not len(rows):
            continue
        alike = turned[symmetry, query] @ coarse[rows].T
        alike[own[query][:, None] == rows] = -1
        least = np.full((len(query), 1), LEAST_ALIKE, np.float32)
        if len(rows) > OF_A_PROBE:
            least = np.maximum(least, -np.partition(-alike, OF_A_PROBE - 1, 1)[:, OF_A_PROBE - 1 : OF_A_PROBE])
        a, b = np.nonzero(alike >= least)
        found.append((query[a], symmetry[a], rows[b], alike[a, b]))
    query, symmetry, other, alike = map(np.concatenate, zip(*found))
    order = np.lexsort((symmetry, other, -alike, query))
    query, symmetry, other = query[order], symmetry[order], other[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    return tuple(column[rank < NEIGHBOURS] for column in (query, symmetry, other))


def _unordered(jobs):
    """int [m, 3] of (first, second, symmetry of the second), each pair once."""
    first, second, symmetry = jobs.T
    swapped = first > second
    jobs = np.stack(
        [np.minimum(first, second), np.maximum(first, second), np.where(swapped, _inverse(symmetry), symmetry)], 1
    )
    return np.unique(jobs, axis=0)


def _high_pass(image, inside):
    """Detail of an image float32 [SIDE, SIDE], and where it is known: away from the border and what is not inside."""
    inside = inside.astype(np.float32)
    image = image * inside

    def blur(values, sigma):
        return cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)

    fine, coarse = (blur(image, sigma) / np.maximum(blur(inside, sigma), 1e-6) for sigma in (FINEST, COARSEST))
    kernel = np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8)
    seen = cv2.erode(inside, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    return fine - coarse, seen


def _level(detail, inside):
    """Detail as strong in one place as in another, so that an edge, say of a shadow, does not speak for all."""
    power = cv2.GaussianBlur(np.where(inside, detail, 0) ** 2, (0, 0), COARSEST)
    return detail / (np.sqrt(power) + SOFT * detail[inside].std() + LEAST_DETAIL)


def _has_detail(image):
    detail, seen = _high_pass(image.astype(np.float32), np.ones((SIDE, SIDE), bool))
    return detail[seen].std() >= LEAST_DETAIL
