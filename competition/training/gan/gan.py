"""Train and judge a conditional GAN for each fold: pictures of a class, made for the training part of that fold.

It is trained on the fold's training images alone, judged on the images that the fold holds out, and only one that is
declared good may add images to a training fold (the recipe key `synthetic`). Against collapse: a discriminator with
spectral normalisation (Miyato et al. 2018, arXiv:1802.05957) that compares its features with the label (projection,
Miyato and Koyama 2018, arXiv:1802.05637), the hinge loss (Lim and Ye 2017, arXiv:1705.02894), the same random shifts
and cut-outs of real and generated images before the discriminator sees them, which few images need (Zhao et al. 2020,
arXiv:2006.10738), and a generator that is an average over its last steps (Yazici et al. 2019, arXiv:1806.04498).

After every epoch all that the rest depends on is written in one step to `state.npz`, and what is drawn at random
follows from seed, fold and epoch, so that a GAN that was killed goes on as if nothing had happened.

Plants (2835 photographs of 96x96 in 8 classes; fold 0: 2268 to train on, 567 held out), 32x32 pixels, after 22 epochs
of 8 to 9 s on 2 cores without a GPU (50 would take 7 minutes), on two ways to deal the folds: kernel distance to
held-out images 0.200 and 0.203 (training images: 0.000), but 0.86 to them at full size; diversity 0.69 and 0.66; median
distance from the nearest training image 13.8 and 13.4 (held-out images: 14.4 and 14.1), 0.7 and 0.9 % nearer than those
commonly are. So: no collapse, no copies, textures and colours of each class, and far from photographs. A classifier
that learned from generated images alone names between 16 and 27 % of the held-out ones, by the noise that they were
made of (from training images: 62 %; chance: 18.2 %), 22 and 23 % on average over four draws: little more than nothing,
and of a single draw the verdict was "poor" on the one and "good" on the other. Hence the mean of DRAWS. "good" is leave
to try `synthetic`; whether it helps is for the validation to say: here recipe quick with efficientnet_lite0 named
69.7 % of fold 0 without, 68.6 % with 50 generated images a class, 67.7 % with 200 (a standard error is 1.9): no gain.
"""

import time
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd
from PIL import Image

from competition.base import files
from competition.base.arrays import Joined, Rows, read_memory
from competition.base.backend import make_repeatable, start_keras, write_weights
from competition.base.bars import EPOCHS_BAR, tqdm
from competition.base.files import InputError
from competition.base.sums import SUMS, seal
from competition.base.text import text_table
from competition.base.workspace import GAN_JSON, GENERATOR_FILE, NEIGHBOURS_PNG, Workspace, fold_dir, samples_file
from competition.data.images import load_images
from competition.data.table import FoldTable, add_rows, fold_numbers, read_folds
from competition.features.extract import predict
from competition.models.backbones import build_backbone, resolve_weights
from competition.models.fuse import fuse_batchnorm
from competition.recipes.recipe import parse_override
from competition.runs.folder import read_weights
from competition.runs.record import OTHERWISE, Begun, check_hashes, describe_difference, locked, new_record
from competition.training.gan.judge import ENOUGH, decide, kernel_distance, measure_generated, teach_classifier
from competition.training.gan.networks import (
    build_generator,
    build_pair,
    enlarge,
    fit_shape,
    generate,
    shrink,
    train_epoch,
)
from competition.training.progress import read_state, write_history, write_state

FORMAT = 1  # raise it when the same config trains to something else
SHEET = 8  # generated images a class on a sheet
JUDGED = 224  # pixels a side at which larger images are compared
DRAWS = 5  # of noise, over which what generated images teach is averaged: of one generator they were 0.16 to 0.27
SHOWN = ("kid", "floor", "kid_full", "diversity", "near", "near_held_out", "copies", "taught", "taught_real", "chance")


@dataclass(frozen=True)
class Settings:
    """What `SET=` may change."""

    epochs: int = 50
    side: int = 32  # longer side in pixels of what is generated, and then enlarged; never more than the competition's
    width: int = 24  # channels of the generator's finest feature map, of each coarser one twice as many
    noise: int = 64  # numbers that an image is made of, besides its label
    batch_size: int = 32
    rate: float = 4e-4  # of Adam, with networks.BETA_1 and BETA_2
    ema: float = 0.995  # a step's share of the average generator is 1 - ema
    augment: bool = True  # random shifts and cut-outs of what the discriminator sees
    features: str = "efficientnet_lite0"  # the frozen backbone in whose features images are compared
    seed: int = 0


@dataclass(frozen=True)
class GanJob:
    """The GAN of a fold, to train and to judge."""

    table: FoldTable
    settings: Settings
    fold: int
    record: dict  # the content of its gan.json, which is brought up to date
    small: np.ndarray  # uint8 [n, h, w, c], the fold's training images at the size that is generated

    @property
    def directory(self):
        return _fold_dir(self.table, self.fold)

    @property
    def labels(self):
        """Of the training images."""
        return self.table.labels[self.table.fold != self.fold]


def gan(name=None, only_fold=None, overrides=(), workspace=Workspace()):
    """Train and judge the GAN of every fold of the table `name`; prints a row a fold, returns them as a DataFrame.

    only_fold  just this fold
    overrides  "key=value" strings that replace fields of Settings; more `epochs` than before go on from there

    Writes `runs/<name>/gan/fold_<k>/`: gan.json (config, hashes, versions, what was measured, the verdict),
    generator.weights.h5, history.csv, samples/<epoch>.png (a row a class: two training images, then generated ones),
    neighbours.png (generated images above their nearest training images) and state.npz. Raises InputError for anything
    that cannot be used, and for a folder made from another config, fold table or other images.
    """
    table = read_folds(name, workspace)
    settings = read_gan_settings(overrides)
    make_repeatable()
    weights = resolve_weights(settings.features, "imagenet")
    folds = fold_numbers("ONLY_FOLD", only_fold, table)
    with locked(table.paths.gan):
        records = {fold: _open_record(table, settings, fold) for fold in folds}
        if todo := [fold for fold in folds if not _is_done(table, fold, records[fold], settings)]:
            images = load_images(table, read_memory())
            _train_folds(table, settings, weights, images, {fold: records[fold] for fold in todo})
        return _report(table, records)


def read_gan_settings(overrides=()):
    """The Settings with "key=value" overrides; InputError for an unknown key or a value of a wrong type or range."""
    types = {f.name: f.type for f in fields(Settings)}
    given = dict(parse_override(override) for override in overrides)
    for key, value in given.items():
        if key not in types:
            raise InputError(f"SET=: unknown key {key}; expected {', '.join(types)}")
        if types[key] is float and type(value) is int:
            given[key] = value = float(value)
        if type(value) is not types[key]:
            raise InputError(f"SET=: {key} is {value!r}, expected {types[key].__name__}")
        least, high = {"ema": (0, 0.99999), "seed": (0, 2**32 - 1), "side": (8, 256)}.get(key, (1e-12, 1e6))
        if types[key] in (int, float) and not least <= value <= high:
            raise InputError(f"SET=: {key} is {value}, expected {least:g} to {high:g}")
    return Settings(**given)


def read_synthetic(table, fold, n):
    """`n` generated images of each class for the training part of a fold: uint8 [n * C, h, w, 3], labels int64 [n * C].

    Drawn from the GAN's seed and n; the table's size and class order. Raises InputError as `check_synthetic` does.
    """
    check_synthetic(table, [fold])
    directory, record = _fold_dir(table, fold), files.read_json(_fold_dir(table, fold) / GAN_JSON)
    settings, shape = Settings(**record["config"]["settings"]), record["config"]["shape"]
    generator = build_generator(shape, len(table.classes), settings)
    remedy = f"`rm -r {directory}` and `make gan NAME={table.name}` make it anew, with the SET= that it was made with"
    read_weights(
        generator.load_weights, directory / GENERATOR_FILE, "of this GAN", record=directory / GAN_JSON, remedy=remedy
    )
    labels = np.repeat(np.arange(len(table.classes)), n)
    small = generate(generator, labels, np.random.default_rng([settings.seed, fold, 2]))
    return enlarge(small, table.size), labels


def add_synthetic(table, images, fold, n):
    """The FoldTable (table.add_rows) and the images (arrays.Joined) by which to train one fold with `n` generated
    images a class, the last rows of both.

    Of a part of a table (tree.take_part) they are those of its classes by the whole table's GAN, with its labels.
    """
    made, labels = read_synthetic(table.whole or table, fold, n)
    if table.whole:
        branch_of = np.full(len(table.whole.classes), -1)
        branch_of[table.whole.labels[table.rows]] = table.labels[: len(table.rows)]
        inside = branch_of[labels] >= 0
        made, labels = made[inside], branch_of[labels[inside]]
    else:
        inside = np.isin(labels, table.labels[table.fold >= 0])  # of other classes the GAN has seen nothing
        made, labels = made[inside], labels[inside]
    names = [f"gan/{i}" for i in range(len(labels))]
    hashes = [files.sha256_bytes(image.tobytes()) for image in made]
    return add_rows(table, fold, names, labels, hashes), Joined(images, made)


def check_synthetic(table, folds):
    """One hash of how the GANs of these folds were trained; InputError when one is missing, another table's, not good.

    It does not depend on which folds are asked for: those that were trained otherwise are refused.
    """
    keys = {}
    for fold in folds:
        path = _fold_dir(table, fold) / GAN_JSON
        if not path.exists():
            raise InputError(
                f"{path}: no such GAN, but synthetic takes the images of one; make gan ONLY_FOLD={fold} trains it"
            )
        record = files.read_json(path)
        check_hashes(path, table, record, record["config"]["classes"])
        if record["format"] != FORMAT or record["verdict"] != "good":
            found = (record["verdict"] or "not judged yet") if record["format"] == FORMAT else "of another version"
            raise InputError(f"{path}: the GAN of fold {fold} is {found}, expected a good one before it may add images")
        keys[fold] = files.hash_json([record["config"], record["epochs"]])
    if len(set(keys.values())) > 1:
        other = next(fold for fold in keys if keys[fold] != keys[folds[0]])
        raise InputError(
            f"{_fold_dir(table, other)}/gan.json: trained with other settings than fold {folds[0]}, "
            "expected all folds alike"
        )
    return keys[folds[0]]


def _train_folds(table, settings, weights, images, records):
    """Train and judge the GANs of these folds, {fold: record}, and bring their records up to date."""
    pairs, judge_with = {}, None
    with tqdm(total=settings.epochs * len(records), desc="gan", unit="epoch", bar_format=EPOCHS_BAR) as bar:
        for fold, record in records.items():
            rows = np.flatnonzero(table.fold != fold)
            small = shrink(Rows(images, rows), fit_shape(table.size, settings.side))
            if (small == small[..., :1]).all():  # greyscale: colours would only be noise
                small = small[..., :1]
            shape = small.shape[1:]
            if shape not in pairs:
                start_keras(settings.seed)
                pair = build_pair(shape, len(table.classes), settings)
                pairs[shape] = pair, pair.read()
            pair, start = pairs[shape]
            record["config"]["shape"] = list(shape)
            job = GanJob(table, settings, fold, record, small)
            _train_fold(job, pair, start, bar)
            side = JUDGED if max(table.size) > JUDGED else None
            judge_with = judge_with or fuse_batchnorm(build_backbone(settings.features, table.size, side, weights))
            _judge_fold(job, pair, judge_with, images)


def _train_fold(job, pair, start, bar):
    """Train the GAN of one fold on its training images alone, from wherever its state says it is."""
    directory, settings, fold, labels = job.directory, job.settings, job.fold, job.labels
    history, values = read_state(directory, "history", ["variable"]) or ([], start)
    epoch = len(history)
    pair.write(values)
    _write_record(directory, job.record | {"epochs": epoch})
    bar.update(epoch)
    sheet_every = max(1, settings.epochs // 10)
    while epoch < settings.epochs:

        def tick(share):
            bar.update(min(share, bar.total - bar.n))

        before = time.time()
        random = np.random.default_rng([settings.seed, fold, 0, epoch])
        losses = train_epoch(pair, job.small, labels, settings, random, tick)
        if not np.isfinite(losses).all():
            raise InputError(
                f"{directory}: the losses are {losses} after epoch {epoch + 1}, expected numbers; "
                "remove it and take a smaller rate (SET=rate=1e-4)"
            )
        epoch += 1
        history.append(
            {
                "epoch": epoch,
                "discriminator": losses[0],
                "generator": losses[1],
                "seconds": round(time.time() - before, 3),
            }
        )
        bar.set_postfix_str(f"fold {fold} discriminator {losses[0]:.2f} generator {losses[1]:.2f}", refresh=False)
        write_state(directory, "history", history, variable=pair.read())
        if epoch % sheet_every == 0 or epoch == settings.epochs:
            _write_samples(samples_file(directory, epoch), pair, job.small, labels, settings)
    job.record["epochs"] = epoch
    write_history(directory, history)


def _write_samples(path, pair, images, labels, settings):
    """A sheet with a row a class: two training images, then SHEET generated ones, of the same noise every time."""
    classes = pair.generator.inputs[1].shape[-1]
    kept = pair.generator.get_weights()
    pair.generator.set_weights(pair.read_average())
    made = generate(pair.generator, np.repeat(np.arange(classes), SHEET), np.random.default_rng(settings.seed))
    pair.generator.set_weights(kept)
    rows = [[*images[labels == c][:2], *made[c * SHEET : (c + 1) * SHEET]] for c in range(classes)]
    _write_sheet(path, rows, 2)


def _write_sheet(path, rows, apart=0):
    """A PNG of rows of images; a gap after the first `apart` ones."""
    height, width, channels = rows[0][-1].shape
    longest = max(map(len, rows))
    sheet = np.full((len(rows) * (height + 2), longest * (width + 2) + 8, channels), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            place = j + longest - len(row)  # a class may have fewer training images than the others
            left = place * (width + 2) + 8 * (0 < apart <= place)
            sheet[i * (height + 2) :, left:][:height, :width] = image
    files.write_with(path, Image.fromarray(sheet if channels == 3 else sheet[..., 0]).save)


def _judge_fold(job, pair, backbone, images):
    """Measure the GAN of a fold, save its average generator and its record with the verdict."""
    directory, table, fold, small, train = job.directory, job.table, job.fold, job.small, job.labels
    weights, kept = pair.read_average(), pair.generator.get_weights()
    random = np.random.default_rng([job.settings.seed, fold, 1])
    held_out = np.sort(random.permutation(np.flatnonzero(table.fold == fold))[:ENOUGH])
    asked = np.sort(random.permutation(train)[:ENOUGH])
    pair.generator.set_weights(weights)
    made = generate(pair.generator, asked, random)
    write_weights(directory / GENERATOR_FILE, pair.generator)

    def features(pictures):
        return predict(backbone, pictures)

    def at_size(pictures):
        return Rows(pictures, np.arange(len(pictures)), lambda part: enlarge(part, table.size))

    others = [features(at_size(generate(pair.generator, asked, random))) for _ in range(DRAWS - 1)]
    pair.generator.set_weights(kept)

    # All are compared as the GAN saw them, at its own resolution and back: else a copy would differ by its blur, and
    # generated images would be told from real ones by that alone. `kid_full` is the distance to the sharp ones.
    blurred = shrink(Rows(images, held_out), small.shape[1:3])
    generated, real, unseen = (features(at_size(pictures)) for pictures in (made, small, blurred))
    measures, nearest = measure_generated(generated, asked, real, train, unseen, table.labels[held_out], random)
    taught = [teach_classifier(again, asked, unseen, table.labels[held_out]) for again in others]
    measures["taught"] = float(np.mean([measures["taught"], *taught]))  # of one draw it is no more than luck
    measures["kid_full"] = kernel_distance(generated, features(Rows(images, held_out)))
    chosen = [np.flatnonzero(asked == c)[:SHEET] for c in range(len(table.classes))]
    _write_sheet(
        directory / NEIGHBOURS_PNG,
        [row for some in chosen if len(some) for row in (list(made[some]), list(small[nearest[some]]))],
    )
    job.record.update(measures=measures, verdict=decide(measures))
    job.record[SUMS] = seal(directory, [GENERATOR_FILE])
    _write_record(directory, job.record)


def _fold_dir(table, fold):
    return fold_dir(table.paths.gan, fold)


def _is_done(table, fold, record, settings):
    return (
        record["epochs"] >= settings.epochs
        and bool(record["verdict"])
        and (_fold_dir(table, fold) / GENERATOR_FILE).exists()
    )


def _open_record(table, settings, fold):
    """The content of a fold's gan.json, new if there is none; InputError when it was begun from something else."""
    path = _fold_dir(table, fold) / GAN_JSON
    config = {"settings": asdict(settings), "classes": table.classes, "size": list(table.size)}
    if not path.exists():
        return new_record(FORMAT, config, table) | {"epochs": 0, "verdict": None, "measures": {}}
    record = files.read_json(path)
    check_hashes(path, table, record)
    before = record["config"] | {"settings": record["config"]["settings"] | {"epochs": settings.epochs}}
    before.pop("shape", None)
    begun = Begun(path, record, "GAN", f"remove {path.parent} to train it anew")
    if record.get("format") != FORMAT or before != config:
        begun.refuse(describe_difference(before, config) or OTHERWISE)
    if record["epochs"] < settings.epochs:  # goes on: what was measured before is not true of what comes
        begun.check_versions()
        record |= {"verdict": None, "measures": {}}
        record["config"]["settings"]["epochs"] = settings.epochs
    return record


def _write_record(directory, record):
    files.write_json(directory / GAN_JSON, record, durable=bool(record["verdict"]))


def _report(table, records):
    """Print and return a row for each fold."""
    frame = pd.DataFrame(
        [
            {
                "fold": fold,
                "epochs": record["epochs"],
                **{key: record["measures"][key] for key in SHOWN},
                "verdict": record["verdict"],
            }
            for fold, record in records.items()
        ]
    )
    print("\n" + text_table(frame, 3))
    print(
        f"\n{table.paths.gan}: {(frame['verdict'] == 'good').sum()} of {len(frame)} good, which `synthetic` may use; "
        "kid: distance to held-out images (floor: of training images), at full size kid_full"
    )
    return frame
