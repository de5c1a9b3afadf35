"""How well `make folds` finds duplicate pictures: `python -m bench.duplicates --data photos.zip`.

Copies of some images of the data, of each kind that competition/data/groups.py names, are planted among all of them, in
memory, as the bytes of files. Recall is the share of them that end in the group of their source. What is grouped beyond
that is not wrong by itself, as the data may have such pairs of its own: counted are the images that are tied to one of
another class, which are hardly ever the same picture, and the pairs of one class, which a person has to look at.
"""

import argparse
import contextlib
import io
import resource
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from competition.base.files import InputError, sha256_bytes
from competition.base.text import text_table
from competition.base.threads import in_threads
from competition.data.decode import check_with_draft, decode
from competition.data.folds import make_folds
from competition.data.groups import find_groups
from competition.data.near import SIDE, make_sketch, transform
from competition.data.sources import open_source

SEEN = 0.8  # share of an image that a frame of it shows: the rest is what another frame may see more of


def encode(pixels, kind="JPEG", quality=90):
    """uint8 [h, w, 3] -> the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, quality=quality)
    return file.getvalue()


def resize(pixels, random):
    height, width = pixels.shape[:2]
    scale = random.choice([0.5, 0.75, 1.5, 2])
    way = random.choice([Image.Resampling.BILINEAR, Image.Resampling.LANCZOS])
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, way))


def turn(pixels, random):
    return transform(pixels, int(random.integers(1, 8)))


def relight(pixels, random):
    """Brightness or contrast by up to 20 %."""
    middle = random.choice([0, pixels.mean()])
    return np.clip((pixels - middle) * random.uniform(0.8, 1.2) + middle, 0, 255).round().astype(np.uint8)


def frame(pixels, random=None):
    """The middle of an image; with `random` as another frame: moved and scaled by up to 5 %, turned by up to 3 degrees."""
    height, width = pixels.shape[:2]
    size = np.array([round(width * SEEN), round(height * SEEN)])
    angle, scale, shift = 0, 1, np.zeros(2)
    if random:
        angle, scale = np.deg2rad(random.uniform(-3, 3)), random.uniform(0.95, 1.05)
        shift = random.uniform(-0.05, 0.05, 2) * size
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    start = np.array([width - 1, height - 1]) / 2 + shift - matrix @ ((size - 1) / 2)
    return cv2.warpAffine(
        pixels,
        np.column_stack([matrix, start]),
        size.tolist(),
        borderMode=cv2.BORDER_REFLECT,
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
    )


# name: (what the source becomes, if not what it is; what is planted): of bytes, pixels and a generator, bytes
KINDS = {
    "same bytes": (None, lambda data, pixels, random: data),
    "same pixels": (
        lambda data, pixels, random: encode(pixels, "PNG"),
        lambda data, pixels, random: encode(pixels, "BMP"),
    ),
    "re-encoded": (None, lambda data, pixels, random: encode(pixels, quality=int(random.integers(40, 96)))),
    "resized": (None, lambda data, pixels, random: encode(resize(pixels, random))),
    "flipped or turned": (None, lambda data, pixels, random: encode(turn(pixels, random))),
    "relit": (None, lambda data, pixels, random: encode(relight(pixels, random))),
    "another frame": (
        lambda data, pixels, random: encode(frame(pixels)),
        lambda data, pixels, random: encode(frame(pixels, random)),
    ),
    "frame, turned, relit": (
        lambda data, pixels, random: encode(frame(pixels)),
        lambda data, pixels, random: encode(relight(turn(frame(pixels, random), random), random), quality=80),
    ),
}


def plant(data, per_kind, seed=0):
    """(bytes, label, kind, source) of all images of `data`, then of what is planted; kind "" and source -1: not."""
    source, random = open_source(data), np.random.default_rng(seed)
    files = [(source.read(image), label, "", -1) for image, label in zip(source.images, source.labels)]
    n = len(files)
    for kind, (before, after) in KINDS.items():
        for row in np.sort(random.choice(n, min(per_kind, n), replace=False)):
            data, label, *_ = files[row]
            pixels, origin = decode(data, source.images[row]), int(row)
            if before:
                origin = len(files)
                files.append((before(data, pixels, random), label, "", int(row)))
            files.append((after(data, pixels, random), label, kind, origin))
    return source, files


def measure(data, per_kind=300, seed=0):
    """(a row a kind: kind, planted, found, recall; a dict of what else was grouped; the pairs among the images)."""
    source, planted = plant(data, per_kind, seed)

    def examine(file):
        pixels, size, _ = check_with_draft(file[0], "planted", SIDE)
        return sha256_bytes(file[0]), sha256_bytes(repr(size).encode() + pixels.tobytes()), make_sketch(pixels)

    started = time.perf_counter()
    sha256, pixels, sketches = zip(*in_threads(examine, planted, "read images"))
    read = time.perf_counter() - started
    frame = pd.DataFrame(
        {
            "image": np.arange(len(planted)).astype(str),
            "label": [file[1] for file in planted],
            "sha256": sha256,
            "pixels": pixels,
        }
    )
    pairs = find_groups(frame, np.stack(sketches))
    picture, kinds = frame["picture"].to_numpy(), np.array([file[2] for file in planted])
    origin = np.array([file[3] for file in planted])
    rows = []
    for kind in KINDS:
        at = np.flatnonzero(kinds == kind)
        found = int((picture[at] == picture[origin[at]]).sum())
        rows.append({"kind": kind, "planted": len(at), "found": found, "recall": found / len(at)})

    n, root = len(source.images), np.arange(len(planted))
    for row in np.flatnonzero(origin >= 0):  # a source comes before what is made of it
        root[row] = root[origin[row]]
    ties = root[pairs[["first", "second"]].to_numpy()]
    ties = np.unique(np.sort(ties[ties[:, 0] != ties[:, 1]], axis=1), axis=0)
    labels = np.array(source.labels)
    other_class = labels[ties[:, 0]] != labels[ties[:, 1]]
    others = {
        "images": n,
        "pairs of one class": int((~other_class).sum()),
        "images tied to one of another class": len(np.unique(ties[other_class])),
        "in 1000 images": 1000 * len(np.unique(ties[other_class])) / n,
        "seconds to read": read,
        "seconds to search": time.perf_counter() - started - read,
    }
    return pd.DataFrame(rows), others, [(source.images[a], source.images[b]) for a, b in ties]


def draw_images(folder, n, power=1.3, seed=0):
    """Write n JPEGs of 96 x 96 pixels to ten class folders: noise over frequency to a power, as in photographs."""
    random, side = np.random.default_rng(seed), 96
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = np.inf
    for label in range(10):
        (Path(folder) / str(label)).mkdir(parents=True)
    for numbers in np.array_split(np.arange(n), -(-n // 500)):
        noise = np.fft.irfft2(np.fft.rfft2(random.standard_normal((len(numbers), side, side))) / frequency**power)
        noise *= 45 / noise.std(axis=(1, 2), keepdims=True)
        tints = random.uniform(0.7, 1.3, (len(numbers), 1, 1, 3))
        for number, pixels in zip(numbers, np.clip(128 + noise[..., None] * tints, 0, 255).astype(np.uint8)):
            (Path(folder) / str(number % 10) / f"{number:06}.jpg").write_bytes(encode(pixels))


def time_folds(n):
    """Seconds that `make folds` takes on n drawn images, reading included, the images that it ties (none), memory in MB."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        draw_images("drawn", n)
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            table = make_folds("drawn")
        seconds = time.perf_counter() - started
    tied = n - table.frame["group"].nunique()
    return seconds, tied, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.duplicates", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, help="a folder of class folders, a zip of one, or a CSV, to plant copies in"
    )
    parser.add_argument("--planted", type=int, default=300, help="copies of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drawn", type=int, default=0, help="time make folds on so many drawn JPEGs: 100000")
    options = parser.parse_args(arguments)
    try:
        if options.data:
            table, others, ties = measure(options.data, options.planted, options.seed)
            print(text_table(table, 3))
            print("\n" + ", ".join(f"{key}: {value:.4g}" for key, value in others.items()))
            for first, second in ties:
                print(f"  {first}  {second}")
        if options.drawn:
            seconds, tied, megabytes = time_folds(options.drawn)
            print(
                f"make folds on {options.drawn} drawn JPEGs of 96 x 96: {seconds:.0f} s, {tied} tied, peak memory "
                f"{megabytes:.0f} MB"
            )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
