"""Background or leaves? Where in its image a finished run finds a class: maps, and what it costs to hide a part.

Each image is explained by the fold model that never saw it. Two ways to ask:

Grad-CAM    What the places of the last feature map A add to the class's logit y: sum over channels of A * dy/dA. Where
            the head is one dense layer on globally averaged features, the gradient is that layer's weights over the
            number of places, so that this is CAM (Zhou et al. 2016), equal to Grad-CAM there (Selvaraju et al. 2017,
            appendix A). Other heads (flattened maps, layers after the pooling) weigh places differently, which
            Grad-CAM averages away: without that average the map still shows the places that were used (HiResCAM,
            Draelos and Carin 2020). Of `baseline` it is what each pixel adds to the logit. Blind to what a place of
            A saw outside its cell: receptive fields are larger.
            A transformer keeps tokens and no map; its pictures and its share of the evidence are those of occlusion.
occlusion   How much of its probability the class loses when a patch is painted over with the mean colour (Zeiler and
            Fergus 2014). Asks nothing of the network's inside, but such images were never trained on.
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pandas as pd

from competition.base import files, page
from competition.base.bars import UNLESS_SEEN, tqdm
from competition.base.files import InputError
from competition.base.metrics import accuracy
from competition.base.option_values import whole_number
from competition.base.text import text_table
from competition.base.workspace import EXPLAIN_CSV, EXPLAIN_HTML, STUDY_RUN, Workspace
from competition.data.images import load_images
from competition.data.table import read_folds
from competition.features.extract import BATCH, predict
from competition.runs.kinds import kind_of, read_run
from competition.runs.oof import read_oof
from competition.runs.predict import fold_models
from competition.runs.record import all_runs, read_run_record

LEAST = 3  # places a side that a feature map must have to say where
PATCHES = 7  # a side; each covers a quarter of it, so that neighbours overlap by half
SHOWN, PAGE = 4, 200  # images shown right and wrong of each class, and on the page, at most
MEASURED = 800  # images that the figures are taken on, at most, the same number of each class
FAINT = 0.1  # a loss of probability up to which a patch is not painted red
HEIGHT = 144  # of the pictures on the page


@dataclass(frozen=True)
class Hidden:
    """Every image under every mask, made as they are asked for: image i under mask j is number i * len(masks) + j."""

    images: np.ndarray  # uint8 [n, h, w, 3]
    masks: np.ndarray  # bool [m, h, w]: what is painted over
    colour: np.ndarray  # float [3]

    def __len__(self):
        return len(self.images) * len(self.masks)

    def __getitem__(self, part):
        image, mask = np.divmod(np.arange(len(self))[part], len(self.masks))
        return np.where(self.masks[mask][..., None], self.colour, self.images[image]).astype(np.float32)


@dataclass(frozen=True)
class Network:
    """A fold model, and the same cut at its last feature map (split_at_map); None, None where it keeps tokens."""

    model: Any
    trunk: Any
    rest: Any

    def find_evidence(self, images, classes, bar=None):
        """What each place adds to a class: of the feature map (map_evidence), or by occlusion where there is none."""
        if self.trunk is None:
            return map_occlusion(self.model, images, classes, _mean_colour(images), bar)
        return map_evidence(self.trunk, self.rest, images, classes)


def explain_run(name=None, run=None, fold=None, workspace=Workspace()):
    """Write `runs/<name>/<run>/explain/explain.html` and `.csv`; returns the CSV's content, a DataFrame.

    run    a finished run; default: the one of best OOF accuracy, the study's left out
    fold   only the images that this fold holds out; default: all

    The page shows, of each class, the images of which the run was surest, right and wrong, with maps for the class that
    it saw in them. The CSV has a row a class: accuracy on the images as they are, with the centre hidden and with the
    border hidden, which have the same area, and the share of the evidence for the true class that lies in the centre.
    InputError: no such run, or unfinished, or made on other images or folds.
    """
    table = read_folds(name, workspace)
    run = run or best_run(table)
    run = read_run(table.paths.run(files.check_name("RUN", run)), table)
    if not run.plain:
        raise InputError(f"{run.dir}: {run.kind}, expected one of a single model a fold, which has one feature map")
    probabilities = read_oof(run.dir, table).mean(["identity"])
    folds = range(table.k) if fold is None else [whole_number("FOLD", fold, 0, table.k - 1)]
    among = np.isin(table.fold, folds)
    shown = choose_shown(probabilities, table.labels, among)
    measured = choose_measured(table.labels, among)
    figures, found = {}, []
    with tqdm(
        total=len(shown) * PATCHES**2 + 3 * len(measured), desc="explain", unit=" images", disable=UNLESS_SEEN
    ) as bar:
        network = None
        for k, model in fold_models(run, table, folds):
            if network is None:
                network = Network(model, *split_at_map(model))
                bar.total += PATCHES**2 * len(measured) * (network.trunk is None)
            found.append(_measure(network, table, measured[table.fold[measured] == k], bar))
            rows = shown[table.fold[shown] == k]
            figures |= _draw(network, table, rows, probabilities[rows], bar)
    tokens = network is not None and network.trunk is None
    labels, hidden, shares = (np.concatenate(values) for values in zip(*found))
    frame = summarise(labels, hidden, shares, table.classes)

    folder, every = table.paths.explain(run.name), frame.iloc[-1]
    verdict = (
        f"Hiding the centre costs {every['accuracy'] - every['centre hidden']:.3f} of accuracy, hiding as large "
        f"a border {every['accuracy'] - every['border hidden']:.3f}; {every['evidence in centre']:.0%} of the "
        "evidence for the true class lies in the centre, which has half of the area."
    )
    files.write_bytes(folder / EXPLAIN_CSV, files.sheet_bytes(frame))
    page.write_page(
        folder / EXPLAIN_HTML,
        f"{table.name}: what {run.name} looks at",
        _parts(table, run, frame, verdict, shown, figures, probabilities, tokens),
    )
    print(text_table(frame, 3))
    print(f"{verdict}\n{folder / EXPLAIN_HTML}: maps of {len(shown)} images")
    return frame


def choose_shown(probabilities, labels, among):
    """Rows of the images of which a run was surest, int64 [m]: of each class a few right and a few wrong ones.

    probabilities [n, C]; labels int [n]; among bool [n]: which may be chosen
    """
    classes = probabilities.shape[1]
    count = max(1, min(SHOWN, PAGE // (2 * classes)))
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    chosen = []
    for label in range(classes):
        for group in (right, ~right):
            rows = np.flatnonzero(among & group & (labels == label))
            chosen.append(rows[np.argsort(-sure[rows], kind="stable")][:count])
    return np.concatenate(chosen)


def choose_measured(labels, among):
    """Rows of the images that figures are taken on, int64 [m] sorted: a random draw, the same number of each class."""
    random = np.random.default_rng(0)
    classes = np.unique(labels)
    count = max(5, MEASURED // len(classes))
    rows = [random.permutation(np.flatnonzero(among & (labels == label)))[:count] for label in classes]
    return np.sort(np.concatenate(rows))


def split_at_map(model):
    """A fold model (SingleRun.build_fold_model) cut at its last feature map: image -> map, and map -> logits.

    The map is the backbone's last output [n, h, w, c] of a layer or operation through which all of the image goes and
    that has LEAST places a side: smaller ones say nothing about where. Both share the model's weights. (None, None) of a
    transformer, which keeps tokens [n, t, c] where others keep a map.
    """
    import keras

    backbone, *head = model.layers[[layer.name for layer in model.layers].index("backbone") :]
    image = backbone.input
    least = min(LEAST, *image.shape[1:3])
    for output in [operation.output for operation in reversed(backbone.operations)]:
        if len(output.shape) == 4 and min(output.shape[1:3]) >= least:
            try:
                rest = keras.Model(output, backbone.output)
            except ValueError:  # a branch: something goes past it
                continue
            maps = keras.Input(output.shape[1:], dtype=output.dtype)
            logits = keras.Model(head[0].input, head[-1].input)
            tokens = any(len(operation.output.shape) == 3 for operation in backbone.operations)
            if tokens and not keras.Model(image, output).weights:
                return None, None
            return keras.Model(image, output), keras.Model(maps, logits(rest(maps)))
    raise InputError(f"{model.name}: no layer keeps the places of the image, nothing can be mapped")


def map_evidence(trunk, rest, images, classes):
    """What each place of the feature map adds to the logit of a class (see the top of this file).

    images [n, h, w, 3]; classes int [n], one an image -> float32 [n, rows, columns], negative where a place speaks
    against the class.
    """
    parts = []
    for start in range(0, len(images), BATCH):
        maps = predict(trunk, images[start : start + BATCH])
        parts.append((maps * _gradient(rest, maps, classes[start : start + BATCH])).sum(-1))
    return np.concatenate(parts) if parts else np.zeros((0, *trunk.output_shape[1:3]), np.float32)


def _gradient(rest, maps, classes):
    """d logit of an image's class / d its map, float32 as `maps` [n, h, w, c]: by the backend's own differentiation."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(lambda x: rest(x, training=False)[np.arange(len(x)), classes].sum())(maps))
    import tensorflow as tf

    x = tf.constant(maps)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = tf.gather(rest(x, training=False), classes, batch_dims=1)
    return tape.gradient(logits, x).numpy()


def map_occlusion(model, images, classes, colour, bar=None):
    """How much of the probability of a class is lost when a place is hidden, float32 [n, h, w].

    Of a pixel: the mean loss over all patches that hide it. images uint8 [n, h, w, 3]; classes int [n], one an image.
    """
    masks = _patches(*images.shape[1:3])
    hidden = _predict_hidden(model, images, masks, colour, bar)[np.arange(len(images)), :, classes]
    before = predict(model, images)[np.arange(len(images)), classes]
    return np.tensordot(before[:, None] - hidden, (masks / masks.sum(0)).astype(np.float32), 1)


def share_in_centre(evidence, size):
    """Share of the positive evidence that lies in the centre, float64 [n]; NaN for an image that has none.

    evidence [n, rows, columns], at any resolution; a cell on the line counts for the part of it that lies within.
    """
    within = cv2.resize(_centre(*size).astype(np.float32), evidence.shape[:0:-1], interpolation=cv2.INTER_AREA)
    positive = np.maximum(evidence, 0, dtype=np.float64)
    total = positive.sum((1, 2))
    return np.divide((positive * within).sum((1, 2)), total, out=np.full(len(total), np.nan), where=total > 0)


def summarise(labels, hidden, shares, classes):
    """A row a class, and one for all: images, accuracies, share of the evidence that lies in the centre.

    labels int [n]; hidden [n, 3, C]: probabilities of the whole image, without its centre, without its border;
    shares [n], as of `share_in_centre`
    """

    def row(label, chosen):
        accuracies = [accuracy(hidden[chosen, i], labels[chosen]) if chosen.any() else np.nan for i in range(3)]
        inside = shares[chosen & ~np.isnan(shares)]
        return {
            "class": label,
            "images": int(chosen.sum()),
            **dict(zip(("accuracy", "centre hidden", "border hidden"), accuracies)),
            "evidence in centre": inside.mean() if len(inside) else np.nan,
        }

    rows = [row(label, labels == i) for i, label in enumerate(classes)]
    return pd.DataFrame([*rows, row("all", np.ones(len(labels), bool))])


def lay_over(image, places, least=1e-12):
    """An image uint8 [h, w, 3] with a map of any resolution laid over it, from blue (0 or less) to red.

    Red is the map's maximum, or `least` where that is larger.
    """
    heat = np.maximum(places, 0) / max(places.max(), least)
    heat = np.clip(cv2.resize(heat.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR), 0, 1)
    colours = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.rint(0.5 * image + 0.5 * colours).astype(np.uint8)


def best_run(table):
    folder = table.paths.runs
    # the study's runs are to be compared, not kept; runs that are not plain have several models
    finished = [
        run
        for run, done in all_runs(table.paths).items()
        if done and not run.startswith(STUDY_RUN) and kind_of(read_run_record(folder / run).get("config")).plain
    ]
    if not finished:
        raise InputError(f"{folder}/: no finished run, expected one of `make train MODEL=...`")
    return max(finished, key=lambda run: accuracy(read_oof(folder / run, table).mean(["identity"]), table.labels))


def _measure(network, table, rows, bar):
    """Of some rows of the table: labels, probabilities with parts hidden, shares in the centre (see `summarise`)."""
    images, labels = _load(table, rows), table.labels[rows]
    whole, centre = np.zeros(table.size, bool), _centre(*table.size)
    hidden = _predict_hidden(network.model, images, np.stack([whole, centre, ~centre]), _mean_colour(images), bar)
    evidence = network.find_evidence(images, labels, bar)
    return labels, hidden, share_in_centre(evidence, table.size)


def _draw(network, table, rows, probabilities, bar):
    """{row: the figure of its image} for some rows of the table, whose probabilities [m, C] the run gave."""
    images, seen = _load(table, rows), probabilities.argmax(1)
    losses = map_occlusion(network.model, images, seen, _mean_colour(images), bar)
    evidence = [None] * len(images) if network.trunk is None else network.find_evidence(images, seen)
    figures = {}
    for row, image, places, loss, label, sure in zip(rows, images, evidence, losses, seen, probabilities.max(1)):
        maps = [] if places is None else [lay_over(image, places)]
        shown = image, *maps, lay_over(image, loss, FAINT)
        figures[row] = page.figure(
            [page.picture(pixels, table.images[row], HEIGHT) for pixels in shown],
            f"{table.images[row]}: {table.classes[label]} {sure:.2f}, of which a patch hides up to "
            f"{max(0, loss.max()):.2f}",
        )
    return figures


def _load(table, rows):
    return load_images(replace(table, frame=table.frame.iloc[rows]))


def _predict_hidden(model, images, masks, colour, bar):
    """Probabilities of each image under each mask, float32 [n, m, C]."""
    found = predict(model, Hidden(images, masks, colour), bar=bar)
    return found.reshape(len(images), len(masks), found.shape[-1])


def _mean_colour(images):
    return images.mean((0, 1, 2)) if len(images) else np.full(3, 127.5)


def _centre(height, width):
    """The middle of an image, as wide and as high that it has half of the area: bool [height, width]."""
    inside = [np.abs(np.arange(side) + 0.5 - side / 2) < side / 8**0.5 for side in (height, width)]
    return inside[0][:, None] & inside[1]


def _patches(height, width):
    """PATCHES x PATCHES rectangles that cover an image: bool [PATCHES ** 2, height, width]."""

    def strips(side):
        length = max(1, -(-side // 4))
        starts = np.linspace(0, side - length, PATCHES).round()[:, None]
        return (starts <= np.arange(side)) & (np.arange(side) < starts + length)

    return (strips(height)[:, None, :, None] & strips(width)[None, :, None, :]).reshape(-1, height, width)


def _parts(table, run, frame, verdict, shown, figures, probabilities, tokens):
    """The parts of the page; `tokens`: the network keeps tokens, so that there are no pictures of Grad-CAM."""
    yield (
        f"Each picture is by the fold model that never saw it: the image, {'' if tokens else 'Grad-CAM, '}occlusion; "
        f"{'' if tokens else 'both '}for the class that the model saw, red where it saw it. "
        f"{run.config['model']}, OOF accuracy of the run {accuracy(probabilities, table.labels):.4f}."
    )
    yield page.table(frame.to_dict("records"), 3)
    yield verdict
    labels, right = table.labels, probabilities.argmax(1) == table.labels
    for label, name in enumerate(table.classes):
        for group, word in ((right, "right"), (~right, "wrong")):
            rows = [row for row in shown if labels[row] == label and group[row]]
            yield page.heading(f"{name}, {word}{'' if rows else ': none'}")
            yield page.grid(figures[row] for row in rows)
