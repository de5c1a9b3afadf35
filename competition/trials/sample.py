"""The embedded sample competition: photographs of eight plants that do not exist, drawn by code.

sample_plants.py grows the plants and sample_scenes.py draws their scenes; this file plans the frames and writes them.

A *scene* is ground, other vegetation and one species, grown by that species' rules and painted leaf by leaf
in layers that throw shadows on each other. A *frame* is a photograph of a scene: its hour, exposure, hard
shadows, colour cast, focus and noise. Most scenes have one frame, some have two or three that are
near-duplicates. All frames are planned first and then split at random into training and hidden test, so that
both come from the same process; a few hidden frames have a twin in training (hidden/scenes.csv says which).

What makes it hard: Ashwort and Marshwort differ only in the width, edge and order of their leaves and a
little in colour; the ground suits the species in about half of the scenes; other plants stand in front;
some frames are nearly black.

Measured on the default sample (seed 0, 1200 training and 400 hidden images): a frozen EfficientNet-Lite0
with ImageNet weights, its pooled features standardised, and a logistic regression (C = 0.03, 5 stratified
folds) reaches 0.833 OOF and 0.823 hidden at 96 pixels, 0.837 and 0.823 enlarged to 192. Ashwort and
Marshwort are the pair most often confused: 66 of the 200 errors at 96 pixels, 82 of 196 at 192.
"""

import csv
import io
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import BrokenProcessPool
from PIL import Image

from competition.base.bars import tqdm
from competition.base.files import InputError, read_json, write_json, write_text
from competition.base.partial import partial_folder
from competition.base.workspace import (
    ABOUT_JSON,
    LABELS_CSV,
    SAMPLE,
    SAMPLE_HIDDEN,
    SAMPLE_IMAGES,
    SAMPLE_TRAIN,
    SCENES_CSV,
)
from competition.trials.sample_plants import SIZE
from competition.trials.sample_scenes import CLASSES, SPECIES, draw_frame

DRAWING = 1  # raise it when the drawing changes: samples of another drawing are not this one
FAMILIES = 0.05  # share of the frames that are a near-duplicate of an earlier one
QUALITY = 90  # of the JPEGs
MANY = 200  # frames that are worth starting a process a core
MOST = 1_000_000  # frames of a sample


@dataclass(frozen=True)
class Frame:
    """A photograph to be taken, and where its file goes."""

    path: str  # below the sample's folder
    species: int
    scene: int  # number within its species
    frame: int  # 0, or 1, 2, ... for near-duplicates


def divide(total, shares):
    """Whole numbers that add up to `total`, in proportion to `shares` (largest remainders)."""
    exact = total * np.array(shares) / sum(shares)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def plan_sample(images, hidden, seed):
    """The frames of a sample in the order of their file names, which tell nothing: list of Frame."""
    rng = np.random.default_rng(seed)
    shares = [species.share for species in SPECIES]
    drawn = []
    for species, (seen, unseen) in enumerate(zip(divide(images, shares), divide(hidden, shares))):
        scene, frame, takes = -1, 0, []
        for _ in range(seen + unseen):
            again = scene >= 0 and rng.random() < FAMILIES
            scene, frame = (scene, frame + 1) if again else (scene + 1, 0)
            takes.append((species, scene, frame))
        for place, take in enumerate(rng.permutation(takes)):
            drawn.append((place >= seen, *map(int, take)))
    digits = max(5, len(str(2 * len(drawn))))
    numbers = rng.choice(10**digits, len(drawn), replace=False)
    frames = []
    for number, (apart, species, scene, frame) in sorted(zip(numbers.tolist(), drawn)):
        place = f"{SAMPLE_HIDDEN}/{SAMPLE_IMAGES}" if apart else f"{SAMPLE_TRAIN}/{CLASSES[species]}"
        frames.append(Frame(f"{place}/{number:0{digits}d}.jpg", species, scene, frame))
    return frames


def draw_jpeg(frame, seed):
    """The bytes of a frame's JPEG."""
    file = io.BytesIO()
    Image.fromarray(draw_frame(frame.species, frame.scene, frame.frame, seed)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _draw_alone(frame, seed):
    """The same, in a process that has one core."""
    cv2.setNumThreads(1)
    return draw_jpeg(frame, seed)


def draw_jpegs(frames, seed):
    """Yield the JPEG of each frame in order; many of them are drawn by a process a core."""
    cores = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    done = 0
    if cores > 1 and len(frames) >= MANY:
        # joblib's processes do not import the script that asks for them, which would then ask again
        pool = Parallel(cores, batch_size=8, return_as="generator")
        try:
            for jpeg in pool(delayed(_draw_alone)(frame, seed) for frame in frames):
                done += 1
                yield jpeg
        except BrokenProcessPool:  # processes cannot be started here, or were killed: draw the rest in this one
            pass
    for frame in frames[done:]:
        yield draw_jpeg(frame, seed)


def write_sample(folder, images=1200, hidden=400, seed=0):
    """Draw the sample competition: photographs of eight plants, and a hidden test with its labels apart.

    The same arguments give the same bytes under the same versions of numpy, OpenCV and Pillow. Nothing is done where
    `folder` holds this very sample; another sample there is replaced as a whole.

    Parameters
    ----------
    folder : path
        Where it is written: `train/<class>/<id>.jpg`; `hidden/images/<id>.jpg` and `hidden/labels.csv` (image, label);
        `hidden/scenes.csv` (image, scene, of all images: frames of a scene are near-duplicates); `about.json`.
    images : int, default 1200
        Training images, 64 or more, of 96 x 96 pixels.
    hidden : int, default 400
        Images of the hidden test.
    seed : int, default 0
        Another seed draws another sample.

    Returns
    -------
    pathlib.Path
        `folder`.

    Raises
    ------
    InputError
        The folder holds anything else, or counts are too small or too large.
    """
    folder = Path(folder)
    if images < 8 * len(SPECIES) or hidden < 0 or seed < 0:
        raise InputError(
            f"sample: expected images >= {8 * len(SPECIES)}, hidden >= 0 and seed >= 0, "
            f"found {images}, {hidden} and {seed}"
        )
    if images + hidden > MOST:
        raise InputError(f"sample: expected {MOST:,} images at most, hidden ones included, found {images + hidden:,}")
    frames = plan_sample(images, hidden, seed)
    about = describe(frames, images, hidden, seed)
    if folder.exists():
        found = read_about(folder)
        there = {unicodedata.normalize("NFC", path.relative_to(folder).as_posix()) for path in folder.rglob("*.jpg")}
        same = found | {key: about[key] for key in ("sample", "versions")} == about
        if found and same and there == {frame.path for frame in frames}:
            return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(folder.parent) as temporary:
        new = temporary / SAMPLE
        for place in {Path(frame.path).parent for frame in frames} | {Path(SAMPLE_HIDDEN, SAMPLE_IMAGES)}:
            (new / place).mkdir(parents=True, exist_ok=True)
        bar = tqdm(draw_jpegs(frames, seed), "drawing the sample", len(frames), unit="image")
        for frame, jpeg in zip(frames, bar):
            (new / frame.path).write_bytes(jpeg)
        apart = [frame for frame in frames if frame.path.startswith(f"{SAMPLE_HIDDEN}/")]
        write_table(
            new / SAMPLE_HIDDEN / LABELS_CSV,
            ("image", "label"),
            [(Path(frame.path).name, CLASSES[frame.species]) for frame in apart],
        )
        write_table(
            new / SAMPLE_HIDDEN / SCENES_CSV,
            ("image", "scene"),
            [(frame.path, f"{frame.species}-{frame.scene}") for frame in frames],
        )
        write_json(new / ABOUT_JSON, about)
        if folder.exists():
            os.replace(folder, temporary / "old")
        os.replace(new, folder)
    return folder


def describe(frames, images, hidden, seed):
    """The content of about.json. Classes are counted in training only: hidden counts stay apart."""
    names = [frame.path.split("/")[1] for frame in frames if frame.path.startswith(f"{SAMPLE_TRAIN}/")]
    return {
        "sample": "an embedded sample competition, drawn by competition/trials/sample.py",
        "drawing": DRAWING,
        "seed": seed,
        "size": [SIZE, SIZE],
        "images": images,
        "hidden": hidden,
        "classes": {name: names.count(name) for name in CLASSES},
        "near_duplicates": sum(frame.frame > 0 for frame in frames),
        "versions": {"numpy": np.__version__, "opencv": cv2.__version__, "pillow": PIL.__version__},
    }


def read_about(folder):
    """The about.json of a sample, {} for an empty folder; InputError when the folder is anything else."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the sample, found a file")
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if not names:
        return {}
    about = read_json(folder / ABOUT_JSON) if ABOUT_JSON in names else {}
    if names - {SAMPLE_TRAIN, SAMPLE_HIDDEN, ABOUT_JSON} or not isinstance(about, dict) or "drawing" not in about:
        raise InputError(
            f"{folder}: expected a sample competition or no such folder, found something else "
            f"({', '.join(sorted(names)[:3])}); it is left as it is"
        )
    return about


def write_table(path, head, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_text(path, text.getvalue())
