"""What is in the data, before any model: statistics an image, what stands out, sheets of each class, on one page.

Images are measured as a network gets them, at the fold table's size. What stands out is judged within the set, by
robust statistics, so that many odd images do not hide each other. Images go through memory a few at a time.
"""

from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import pandas as pd

from competition.base import files, page
from competition.base.text import shorten, text_table
from competition.base.workspace import IMAGES_CSV, LOOK_HTML, Workspace
from competition.data.images import map_images
from competition.data.table import read_folds

LIMIT = 2.5  # of robust_z, from which on a value stands out (Leys et al. 2013, "Detecting outliers")
BLACK, WHITE = 5, 250  # a little inside 0 and 255: JPEG blurs where the sensor clipped
SIDE = 128  # longer side of a picture on the page, at most
SHEET, SHEETS = 48, 1200  # images on the sheet of a class, and on all sheets together, at most
EXTREMES = 24  # images shown of each kind that stands out


@dataclass(frozen=True)
class Measures:
    """Statistics of one image, of pixels 0..255."""

    brightness: float  # mean luma, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)
    contrast: float  # standard deviation of the luma
    black: float  # share of clipped pixels: no channel above BLACK
    white: float  # share of clipped pixels: a channel at WHITE or above
    red: float  # channel means
    green: float
    blue: float
    redness: float  # log2((red + 1) / (green + 1)): not moved by exposure, nor much by yellow light, which is both
    sharpness: float  # variance of the luma's Laplacian (Pech-Pacheco et al. 2000, "Diatom autofocusing")


@dataclass(frozen=True)
class Kind:
    """A way to stand out: robust_z of a column, or of its logarithm, beyond LIMIT on one side (-1 or 1)."""

    name: str
    column: str
    side: int
    log: bool = False
    least: float = -np.inf  # a value below it is never worth a word


OUTLIER_KINDS = (
    Kind("red-shifted", "redness", 1),
    Kind("dark", "brightness", -1, log=True),  # a stop of light is a factor
    Kind("bright", "brightness", 1),
    Kind("flat", "contrast", -1, log=True),
    Kind("clipped black", "black", 1, least=0.05),
    Kind("clipped white", "white", 1, least=0.05),
    Kind("blurred", "sharpness", -1, log=True),
    Kind("small", "pixels", -1, log=True),
)


def look(name=None, workspace=Workspace()):
    """Measure every image of the fold table `name`; write `runs/<name>/look/look.html` and `images.csv`.

    The CSV has a row an image: image, label, width and height as the user has it, the Measures, and in which ways it
    stands out. Prints a table by class and the red-shifted images; returns the CSV's content, a DataFrame.
    Raises InputError for images that vanished or changed since `make folds`.
    """
    table = read_folds(name, workspace).everything
    folder = table.paths.look
    measures, means = _measure_all(table)
    frame = pd.concat([table.frame[["image", "label", "width", "height"]], measures], axis=1)
    outliers = find_outliers(frame.assign(pixels=frame["width"] * frame["height"]))
    frame["outlier"] = _join_names(outliers, len(frame))
    files.write_bytes(folder / IMAGES_CSV, files.sheet_bytes(frame))

    by_class = summarise(frame, outliers, table.classes)
    page.write_page(
        folder / LOOK_HTML,
        f"{table.name}: {len(frame)} images in {len(table.classes)} classes",
        _parts(table, frame, means, outliers, by_class),
    )
    print(text_table(by_class.drop(columns=["red", "green", "blue"]), 2))
    for kind, rows in outliers.items():
        if rows:
            print(f"{kind}: {len(rows)} images, {shorten([table.images[row] for row in rows])}")
    print(f"{folder / LOOK_HTML}: the same with pictures; {folder / IMAGES_CSV}: a row an image")
    return frame


def measure_image(image):
    """The Measures of an image uint8 [h, w, 3]."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    strongest = image.max(-1)
    red, green, blue = image.mean((0, 1))
    return Measures(
        luma.mean(),
        luma.std(),
        (strongest <= BLACK).mean(),
        (strongest >= WHITE).mean(),
        red,
        green,
        blue,
        np.log2((red + 1) / (green + 1)),
        cv2.Laplacian(luma, cv2.CV_64F).var(),
    )


def robust_z(values):
    """How many standard deviations a value lies from the median, by statistics that outliers do not move.

    The modified z-score (Iglewicz and Hoaglin 1993, "How to detect and handle outliers"): 0.6745 (x - median) / MAD,
    MAD the median absolute deviation. Where more than half of the values are equal, so that it is 0: (x - median) /
    (1.2533 times the mean absolute deviation). 0.6745 and 1.2533 make either a standard deviation for a normal
    distribution. values [n] -> float64 [n].
    """
    off = np.asarray(values, np.float64) - np.median(values)
    spread = np.median(np.abs(off)) / 0.6745 or np.abs(off).mean() * 1.2533
    return off / spread if spread else off


def find_outliers(frame):
    """{kind: row numbers, the most extreme first} of a DataFrame with the columns that OUTLIER_KINDS names."""
    found = {}
    for kind in OUTLIER_KINDS:
        values = frame[kind.column].to_numpy(np.float64)
        z = kind.side * robust_z(np.log1p(values) if kind.log else values)
        z[values < kind.least] = 0
        found[kind.name] = [int(row) for row in np.argsort(-z, kind="stable") if z[row] > LIMIT]
    return found


def summarise(frame, outliers, classes):
    """A row a class, and one for all: number of images, medians of the measures, share that is red-shifted, ..."""
    columns = [field.name for field in fields(Measures)]
    labels = frame["label"].to_numpy()

    def row(label, chosen):
        counts = {kind: int(chosen[rows].sum()) for kind, rows in outliers.items() if rows}
        return {"class": label, "images": int(chosen.sum()), **frame.loc[chosen, columns].median(), **counts}

    rows = [row(label, labels == label) for label in classes]
    found = pd.DataFrame([*rows, row("all", np.ones(len(frame), bool))])
    return found.astype({"sharpness": np.int64})


def draw_rows(table, rows):
    """{row: an <img>} of some rows of the table."""
    size = _shown_size(*table.size)
    part = replace(table, frame=table.frame.iloc[rows])
    small = map_images(part, lambda image: _shrink(image, size))
    return {row: page.picture(image, table.images[row]) for row, image in zip(rows, small)}


def draw_spread(frame, column, classes):
    """How a measure is distributed in each class: from 5 to 95 % a line, from 25 to 75 % a bar, the median a mark."""
    quantiles = frame.groupby("label")[column].quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack().loc[classes]
    low, high = quantiles.to_numpy().min(), quantiles.to_numpy().max()
    lines = []
    for number, (label, values) in enumerate(quantiles.iterrows()):
        x = 240 + 600 * (values.to_numpy() - low) / ((high - low) or 1)
        y = 20 * number + 10
        lines.append(
            f'<text x="0" y="{y + 4}">{page.escape(label[:30])}</text>'
            f'<path d="M{x[0]:.1f} {y}H{x[4]:.1f}" stroke="#888"/>'
            f'<path d="M{x[1]:.1f} {y}H{x[3]:.1f}" stroke="#69c" stroke-width="12"/>'
            f'<path d="M{x[2]:.1f} {y - 8}v16" stroke="#024" stroke-width="2"/>'
        )
    y = 20 * len(classes) + 16
    axis = f'<text x="240" y="{y}">{low:.3g}</text><text x="840" y="{y}" text-anchor="end">{high:.3g}</text>'
    return page.Html(f'<svg width="860" height="{y + 6}" font-size="13">{"".join(lines)}{axis}</svg>')


def _measure_all(table):
    """The Measures of all images, a DataFrame, and the mean picture of each class, uint8 [C, h, w, 3]."""
    size = _shown_size(*table.size)

    def work(image):
        return measure_image(image), _shrink(image, size)

    sums, measures = np.zeros((len(table.classes), *size, 3)), []
    for label, (found, small) in zip(table.labels, map_images(table, work)):
        measures.append(found)
        sums[label] += small
    counts = np.bincount(table.labels, minlength=len(sums)).reshape(-1, 1, 1, 1)
    return pd.DataFrame(measures), np.rint(sums / counts).astype(np.uint8)


def _shown_size(height, width):
    scale = min(1, SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _shrink(image, size):
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def _join_names(outliers, n):
    names = [[] for _ in range(n)]
    for kind, rows in outliers.items():
        for row in rows:
            names[row].append(kind)
    return [", ".join(kinds) for kinds in names]


def _parts(table, frame, means, outliers, by_class):
    sheet = max(6, min(SHEET, SHEETS // len(table.classes)))
    random = np.random.default_rng(0)
    rows_of = [np.flatnonzero(table.labels == label) for label in range(len(table.classes))]
    sheets = [np.sort(random.choice(rows, min(sheet, len(rows)), replace=False)) for rows in rows_of]
    most = max(sheet, EXTREMES)
    shown = draw_rows(table, sorted({row for rows in [*sheets, *outliers.values()] for row in rows[:most]}))

    yield f"Measured at {table.size[0]} x {table.size[1]} (height x width) pixels, as a network gets them. {table.data}"
    yield page.heading("Classes")
    yield page.table(list(_class_rows(table, frame, means)))
    yield "Medians of the measures, and how many images stand out:"
    yield page.table(by_class.to_dict("records"))
    for field in fields(Measures):
        yield page.heading(field.name)
        yield "5, 25, 50, 75 and 95 % of the images of each class lie left of the marks."
        yield draw_spread(frame, field.name, table.classes)
    for kind in OUTLIER_KINDS:
        rows = outliers[kind.name]
        yield page.heading(f"{kind.name}: {len(rows)} of {len(frame)} images")
        yield (
            f"{'log ' if kind.log else ''}{kind.column} {'above' if kind.side > 0 else 'below'} the median by more "
            f"than {LIMIT} robust standard deviations; the {min(EXTREMES, len(rows))} most extreme"
        )
        values = frame["width"] * frame["height"] if kind.column == "pixels" else frame[kind.column]
        yield page.grid(
            page.figure([shown[row]], f"{table.images[row]} ({values[row]:.4g})") for row in rows[:EXTREMES]
        )
    for label, rows, all_rows in zip(table.classes, sheets, rows_of):
        yield page.heading(f"{label}: {len(rows)} of {len(all_rows)} images")
        yield page.grid(shown[row] for row in rows)


def _class_rows(table, frame, means):
    for label, mean in zip(table.classes, means):
        rows = frame[frame["label"] == label]
        sizes = rows.groupby(["height", "width"]).size().sort_values(ascending=False)
        common = ", ".join(f"{height} x {width}: {count}" for (height, width), count in sizes[:3].items())
        yield {
            "class": label,
            "images": len(rows),
            "share": len(rows) / len(frame),
            "mean picture": page.picture(mean),
            "sizes (height x width: images)": common + (f", {len(sizes) - 3} others" if len(sizes) > 3 else ""),
        }
