"""A conditional GAN for each fold: pictures of a given class that no camera took, for the training part of that fold.

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
from tqdm import tqdm

from competition import device, files, oof
from competition.arrays import Joined, Rows, read_memory
from competition.backbones import build_backbone, resolve_weights
from competition.features import predict, use_xla
from competition.files import InputError
from competition.folds import add_rows, read_folds
from competition.fuse import fuse_batchnorm
from competition.images import load_images, resize
from competition.progress import read_state, write_history, write_state
from competition.recipes import parse_override
from competition.record import OTHERWISE, Begun, check_hashes, difference, new_record
from competition.train import BAR, fold_numbers, start_keras
from competition.record import locked
from competition.workspace import Workspace

FORMAT = 1  # raise it when the same config trains to something else
BATCH = 64  # images that are generated at once: what an image is does not depend on how many were asked for
LEAKY = 0.2
SHEET = 8  # generated images a class on a sheet
ENOUGH = 2000  # images on either side of a comparison that takes all pairs
JUDGED = 224  # pixels a side at which larger images are compared
DRAWS = 5  # of noise, over which what generated images teach is averaged: of one generator they were 0.16 to 0.27

# The verdict. A class collapsed when its generated images lie nearer to each other than half as far as real ones do;
# copies are what lies nearer to a training image than 95 of 100 held-out images do, of which 5 in 100 are no surprise.
LEAST_DIVERSITY = 0.5
USUAL_COPIES, MOST_COPIES = 0.05, 0.25


@dataclass(frozen=True)
class Settings:
    """What `SET=` may change."""

    epochs: int = 50
    side: int = 32  # longer side in pixels of what is generated, and then enlarged; never more than the competition's
    width: int = 24  # channels of the generator's finest feature map, of each coarser one twice as many
    noise: int = 64  # numbers that an image is made of, besides its label
    batch_size: int = 32
    rate: float = 4e-4  # of Adam, with BETA_1 and BETA_2
    ema: float = 0.995  # a step's share of the average generator is 1 - ema
    augment: bool = True  # random shifts and cut-outs of what the discriminator sees
    features: str = "efficientnet_lite0"  # the frozen backbone in whose features images are compared
    seed: int = 0


BETA_1, BETA_2 = 0.0, 0.9  # Adam's in Miyato et al. 2018, setting C of table 1 there has them


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
    settings = read_settings(overrides)
    device.make_repeatable()
    weights = resolve_weights(settings.features, "imagenet")
    folds = fold_numbers("ONLY_FOLD", only_fold, table)
    with locked(table.paths.gan):
        records = {fold: _open_record(table, settings, fold) for fold in folds}
        if todo := [fold for fold in folds if not _is_done(table, fold, records[fold], settings)]:
            images = load_images(table, read_memory())
            _train_folds(table, settings, weights, images, {fold: records[fold] for fold in todo})
        return _report(table, records)


def read_settings(overrides=()):
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
    directory, record = _fold_dir(table, fold), files.read_json(_fold_dir(table, fold) / "gan.json")
    settings, shape = Settings(**record["config"]["settings"]), record["config"]["shape"]
    generator = build_generator(shape, len(table.classes), settings)
    try:
        generator.load_weights(directory / "generator.weights.h5")
    except Exception as error:  # h5py and Keras raise about anything for a file that is not whole
        raise InputError(f"{directory}/generator.weights.h5: not the weights of this GAN "
                         f"({' '.join(str(error).split())[:200]}); remove {directory} and run make gan again") from None
    labels = np.repeat(np.arange(len(table.classes)), n)
    small = generate(generator, labels, np.random.default_rng([settings.seed, fold, 2]))
    return enlarge(small, table.size), labels


def add_synthetic(table, images, fold, n):
    """The FoldTable (folds.add_rows) and the images (arrays.Joined) by which to train one fold with `n` generated
    images a class, the last rows of both.

    Of a part of a table (runs_tree.take_part) they are those of its classes by the whole table's GAN, with its labels.
    """
    made, labels = read_synthetic(table.whole or table, fold, n)
    if table.whole:
        branch_of = np.full(len(table.whole.classes), -1)
        branch_of[table.whole.labels[table.rows]] = table.labels
        inside = branch_of[labels] >= 0
        made, labels = made[inside], branch_of[labels[inside]]
    names = [f"gan/{i}" for i in range(len(labels))]
    hashes = [files.sha256_bytes(image.tobytes()) for image in made]
    return add_rows(table, fold, names, labels, hashes), Joined(images, made)


def check_synthetic(table, folds):
    """One hash of how the GANs of these folds were trained; InputError when one is missing, another table's, not good.

    It does not depend on which folds are asked for: those that were trained otherwise are refused.
    """
    keys = {}
    for fold in folds:
        path = _fold_dir(table, fold) / "gan.json"
        if not path.exists():
            raise InputError(f"{path}: no such GAN, but synthetic takes the images of one; "
                             f"make gan ONLY_FOLD={fold} trains it")
        record = files.read_json(path)
        check_hashes(path, table, record, record["config"]["classes"])
        if record["format"] != FORMAT or record["verdict"] != "good":
            found = (record["verdict"] or "not judged yet") if record["format"] == FORMAT else "of another version"
            raise InputError(f"{path}: the GAN of fold {fold} is {found}, expected a good one before it may add images")
        keys[fold] = files.hash_json([record["config"], record["epochs"]])
    if len(set(keys.values())) > 1:
        other = next(fold for fold in keys if keys[fold] != keys[folds[0]])
        raise InputError(f"{_fold_dir(table, other)}/gan.json: trained with other settings than fold {folds[0]}, "
                         "expected all folds alike")
    return keys[folds[0]]


# ------------------------------------------------------------------------------------------------------- the networks


def fit_shape(size, side):
    """(height, width) to generate for a competition of `size`: its shape, the longer side about `side`, or as it is."""
    side = min(side, max(size))
    step = 2 ** max(1, int(np.log2(side / 4)))
    return tuple(max(1, round(length * side / max(size) / step)) * step for length in size)


def count_doublings(shape):
    """How often a map is doubled on its way to `shape`, (h, w, ...): its longer side begins with 4 pixels or more."""
    height, width = shape[:2]
    doublings = max(1, int(np.log2(max(height, width) / 4)))
    while height % 2**doublings or width % 2**doublings:
        doublings -= 1
    return doublings


def build_generator(shape, classes, settings):
    """noise float32 [n, z] and one-hot labels float32 [n, C] -> images float32 [n, h, w, channels], -1..1.

    shape  (h, w, channels). Noise and label scale and shift every feature map (Karras et al. 2019, arXiv:1812.04948),
    whose pixels are brought to the same length (Karras et al. 2018, arXiv:1710.10196): nothing depends on the batch.
    """
    import keras
    from keras import layers, ops

    height, width, channels = shape
    doublings = count_doublings(shape)
    noise, label = keras.Input((settings.noise,)), keras.Input((classes,))
    unit = keras.initializers.RandomNormal(stddev=1.0)  # the label weighs as much as the noise
    style = layers.Concatenate()([noise, layers.Dense(settings.noise, use_bias=False, kernel_initializer=unit)(label)])
    style = layers.LeakyReLU(LEAKY)(layers.Dense(4 * settings.width)(style))

    def modulate(x):
        count = x.shape[-1]
        x = x * ops.rsqrt(ops.mean(ops.square(x), -1, keepdims=True) + 1e-6)
        scale, shift = ops.split(layers.Reshape((1, 1, 2 * count))(layers.Dense(2 * count)(style)), 2, -1)
        return layers.LeakyReLU(LEAKY)(x * (1 + scale) + shift)

    h, w, count = height >> doublings, width >> doublings, settings.width << (doublings - 1)
    x = modulate(layers.Reshape((h, w, count))(layers.Dense(h * w * count, use_bias=False)(noise)))
    for doubling in range(doublings):
        x = layers.UpSampling2D()(x)
        x = modulate(layers.Conv2D(settings.width << (doublings - 1 - doubling), 3, padding="same")(x))
    image = layers.Conv2D(channels, 3, padding="same", activation="tanh", dtype="float32")(x)
    return keras.Model([noise, label], image, name="generator")


def build_discriminator(shape, classes, settings):
    """Images float32 [n, h, w, channels] and one-hot labels float32 [n, C] -> score float32 [n, 1], high for real."""
    import keras
    from keras import layers, ops

    class Spectral(layers.Layer):
        """A convolution whose kernel, as a matrix, is divided by its largest singular value.

        One step of the power method (Miyato et al. 2018, algorithm 1) for each training step. keras.layers'
        SpectralNormalization writes the quotient back into the kernel, which JAX's training does not take over.
        """

        def __init__(self, filters, size=1, stride=1):
            super().__init__()
            self.filters, self.size, self.stride = filters, size, stride

        def build(self, shape):
            self.kernel = self.add_weight(shape=(self.size, self.size, shape[-1], self.filters), name="kernel",
                                          initializer="orthogonal")
            self.bias = self.add_weight(shape=(self.filters,), name="bias", initializer="zeros")
            self.left = self.add_weight(shape=(1, self.filters), name="left", initializer="random_normal",
                                        trainable=False)

        def call(self, x, training=False):
            matrix = ops.reshape(self.kernel, (-1, self.filters))
            right = ops.normalize(ops.stop_gradient(ops.matmul(self.left, ops.transpose(matrix))), axis=-1)
            left = ops.normalize(ops.stop_gradient(ops.matmul(right, matrix)), axis=-1)
            if training:
                self.left.assign(left)
            largest = ops.sum(ops.matmul(right, matrix) * left)
            return ops.conv(x, self.kernel / largest, self.stride, "same") + self.bias

    image, label = keras.Input(shape), keras.Input((classes,))
    x, doublings = image, count_doublings(shape)
    for doubling in range(doublings):
        x = layers.LeakyReLU(LEAKY)(Spectral(2 * settings.width << doubling, 4, 2)(x))
    x = layers.LeakyReLU(LEAKY)(Spectral(x.shape[-1], 3)(x))
    x = ops.sum(x, (1, 2), keepdims=True)
    known = Spectral(x.shape[-1])(layers.Reshape((1, 1, classes))(label))
    score = Spectral(1)(x) + ops.sum(x * known, -1, keepdims=True)
    return keras.Model([image, label], layers.Reshape((1,))(score), name="discriminator")


@dataclass
class Pair:
    """Generator and discriminator, compiled as one model that trains both in every step.

    Its loss for each image is the sum of the discriminator's and the generator's. What the first sends to the generator
    is stopped; the second scores the generated images twice, once stopped, with opposite signs, so that what it sends
    to the discriminator cancels. One model with one optimizer is trained alike by every backend of Keras.
    """

    generator: object
    model: object

    @property
    def variables(self):
        return self.model.variables + self.model.optimizer.variables

    def read(self):
        return [np.asarray(variable).copy() for variable in self.variables]

    def write(self, values):
        for variable, value in zip(self.variables, values):
            variable.assign(value)

    def read_average(self):
        """The weights of the average generator."""
        values = self.read()
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        weights = self.generator.get_weights()
        self.write(values)
        return weights


def build_pair(shape, classes, settings):
    import keras
    from keras import ops

    generator = build_generator(shape, classes, settings)
    discriminator = build_discriminator(shape, classes, settings)
    h, w, _ = shape
    real, label, noise = keras.Input(shape), keras.Input((classes,)), keras.Input((settings.noise,))
    rows, columns, kept = changes = [keras.Input(form) for form in ((h, h), (w, w), (h, w, 1))]

    def change(image):
        return ops.einsum("nij,njkc,nlk->nilc", rows, image, columns) * kept

    fake, seen = generator([noise, label]), real
    if settings.augment:
        fake, seen = change(fake), change(real)
    seen = ops.concatenate([seen, ops.stop_gradient(fake), fake], 0)
    on_real, on_fake, through = ops.split(discriminator([seen, ops.concatenate([label] * 3, 0)]), 3, 0)
    discriminate = ops.relu(1 - on_real) + ops.relu(1 + on_fake)
    deceive = on_fake - through - ops.stop_gradient(on_fake)  # of the value -through
    model = keras.Model([real, label, noise, *(changes if settings.augment else [])], [discriminate, deceive])

    def mean(_, values):
        return ops.mean(values)

    optimizer = keras.optimizers.Adam(settings.rate, BETA_1, BETA_2, use_ema=True, ema_momentum=settings.ema)
    model.compile(optimizer, [mean, mean], jit_compile=use_xla())
    optimizer.build(model.trainable_variables)
    return Pair(generator, model)


def _draw_changes(random, n, height, width):
    """For n images: matrices [n, h, h] and [n, w, w] that shift them, and [n, h, w, 1] of what is not cut out.

    Shifts by up to an eighth of each side and a hole of half of each, anywhere, as in Zhao et al. 2020.
    """
    shifts, holes = [], []
    for side in (height, width):
        place, reach = np.arange(side), side // 8
        shift = random.integers(-reach, reach + 1, (n, 1, 1))
        shifts.append((place[:, None] + shift == place).astype(np.float32))
        start = random.integers(-(side // 4), side - side // 4 + 1, (n, 1))
        holes.append((place >= start) & (place < start + side // 2))
    kept = ~(holes[0][:, :, None] & holes[1][:, None, :])
    return [*shifts, kept[..., None].astype(np.float32)]


# ------------------------------------------------------------------------------------------------------- the training


def shrink(images, size):
    """uint8 [n, *size, 3] of an array of images or arrays.Rows; nothing larger is held in memory at once."""
    small = np.empty((len(images), *size, 3), np.uint8)
    for i in range(len(images)):
        small[i] = resize(images[i], size)
    return small


def enlarge(small, size):
    """Generated images uint8 [n, h, w, 1 or 3] as the competition has them: uint8 [n, *size, 3]."""
    colour = small if small.shape[-1] == 3 else np.repeat(small, 3, -1)
    return np.stack([resize(image, size) for image in colour]) if len(colour) else np.zeros((0, *size, 3), np.uint8)


def generate(generator, labels, random):
    """Images uint8 [n, h, w, channels] of the given labels, int [n]; the noise is drawn from `random`."""
    generator.jit_compile = use_xla()
    count, classes = (inputs.shape[-1] for inputs in generator.inputs)
    images = np.empty((len(labels), *generator.output_shape[1:]), np.uint8)
    noise, targets = random.normal(size=(len(labels), count)).astype(np.float32), np.eye(classes, dtype=np.float32)
    for start in range(0, len(labels), BATCH):
        part = slice(start, start + BATCH)
        rows = np.resize(np.arange(start, min(start + BATCH, len(labels))), BATCH)
        made = np.asarray(generator.predict_on_batch([noise[rows], targets[labels[rows]]]))
        images[part] = to_bytes(made)[: len(images[part])]
    return images


def to_bytes(images):
    """float -1..1 -> uint8 0..255."""
    return np.clip(np.round((images + 1) * 127.5), 0, 255).astype(np.uint8)


def train_epoch(pair, images, labels, settings, random, tick):
    """Train one epoch on images uint8 [n, h, w, channels] of labels int [n]; the mean losses of both networks.

    tick  called after every step with the share of the epoch that it was
    """
    classes = pair.generator.inputs[1].shape[-1]
    size = settings.batch_size
    steps = max(1, len(images) // size)
    order = np.resize(random.permutation(len(images)), (steps, size))
    targets, nothing, sums = np.eye(classes, dtype=np.float32), np.zeros((size, 1), np.float32), np.zeros(2)
    for rows in order:
        noise = random.normal(size=(size, settings.noise)).astype(np.float32)
        changes = _draw_changes(random, size, *images.shape[1:3]) if settings.augment else []
        real = images[rows].astype(np.float32) / 127.5 - 1
        losses = pair.model.train_on_batch([real, targets[labels[rows]], noise, *changes], [nothing, nothing])
        sums += losses[1:3]
        tick(1 / steps)
    return sums / steps


def _train_folds(table, settings, weights, images, records):
    """Train and judge the GANs of these folds, {fold: record}, and bring their records up to date."""
    pairs, judge_with = {}, None
    with tqdm(total=settings.epochs * len(records), desc="gan", unit="epoch", bar_format=BAR) as bar:
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
            _train_fold(table, settings, pair, start, fold, record, small, table.labels[rows], bar)
            side = JUDGED if max(table.size) > JUDGED else None
            judge_with = judge_with or fuse_batchnorm(build_backbone(settings.features, table.size, side, weights))
            _judge_fold(table, settings, pair, judge_with, fold, record, small, images)


def _train_fold(table, settings, pair, start, fold, record, images, labels, bar):
    """Train the GAN of one fold on these images, the training ones alone, from wherever its state says it is."""
    directory = _fold_dir(table, fold)
    history, values = read_state(directory, "history", ["variable"]) or ([], start)
    epoch = len(history)
    pair.write(values)
    _write_record(directory, record | {"epochs": epoch})
    bar.update(epoch)
    sheet_every = max(1, settings.epochs // 10)
    while epoch < settings.epochs:

        def tick(share):
            bar.update(min(share, bar.total - bar.n))

        before = time.time()
        random = np.random.default_rng([settings.seed, fold, 0, epoch])
        losses = train_epoch(pair, images, labels, settings, random, tick)
        if not np.isfinite(losses).all():
            raise InputError(f"{directory}: the losses are {losses} after epoch {epoch + 1}, expected numbers; "
                             "remove it and take a smaller rate (SET=rate=1e-4)")
        epoch += 1
        history.append({"epoch": epoch, "discriminator": losses[0], "generator": losses[1],
                        "seconds": round(time.time() - before, 3)})
        bar.set_postfix_str(f"fold {fold} discriminator {losses[0]:.2f} generator {losses[1]:.2f}", refresh=False)
        write_state(directory, "history", history, variable=pair.read())
        if epoch % sheet_every == 0 or epoch == settings.epochs:
            _write_samples(directory / "samples" / f"{epoch:04d}.png", pair, images, labels, settings)
    record["epochs"] = epoch
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


# ------------------------------------------------------------------------------------------------------- the judgement


def _judge_fold(table, settings, pair, backbone, fold, record, small, images):
    """Measure the GAN of a fold, save its average generator and its record with the verdict."""
    directory = _fold_dir(table, fold)
    weights, kept = pair.read_average(), pair.generator.get_weights()
    random = np.random.default_rng([settings.seed, fold, 1])
    train, held_out = table.labels[table.fold != fold], np.flatnonzero(table.fold == fold)
    held_out = np.sort(random.permutation(held_out)[:ENOUGH])
    asked = np.sort(random.permutation(train)[:ENOUGH])
    pair.generator.set_weights(weights)
    made = generate(pair.generator, asked, random)
    files.write_with(directory / "generator.weights.h5", pair.generator.save_weights)

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
    measures, nearest = measure(generated, asked, real, train, unseen, table.labels[held_out], random)
    taught = [_taught(again, asked, unseen, table.labels[held_out]) for again in others]
    measures["taught"] = float(np.mean([measures["taught"], *taught]))  # of one draw it is no more than luck
    measures["kid_full"] = kernel_distance(generated, features(Rows(images, held_out)))
    chosen = [np.flatnonzero(asked == c)[:SHEET] for c in range(len(table.classes))]
    _write_sheet(directory / "neighbours.png",
                 [row for some in chosen if len(some) for row in (list(made[some]), list(small[nearest[some]]))])
    record |= {"measures": measures, "verdict": decide(measures)}
    _write_record(directory, record)


def measure(generated, asked, train, train_labels, held_out, held_out_labels, random):
    """What tells whether generated images are of use, a dict; and each one's nearest training image, int [n].

    generated, train, held_out   features float32 [n, d], [m, d] and [l, d] of a frozen backbone
    asked, train_labels, held_out_labels   their labels, int [n], [m] and [l]

    kid             kernel distance between generated and held-out images; floor: between training and held-out ones
    diversity       how far a generated image is from the nearest other one of its class, as a share of what it is
                    among as many training images (medians); of the class with the least
    near, near_held_out   median distance of a generated and of a held-out image from the nearest training image
    copies          share of generated images that are nearer to one than 95 of 100 held-out images are
    taught          accuracy on held-out images of a linear classifier that learned from the generated images alone;
                    taught_real: from the training images; chance: of always naming the commonest class, and two
                    standard errors
    """
    some = np.sort(random.permutation(len(train))[:ENOUGH])
    distances, nearest = _nearest(generated, train)
    usual, _ = _nearest(held_out, train)
    shares = [1.0]
    for label in np.unique(asked):
        ours, theirs = generated[asked == label], train[train_labels == label]
        count = min(len(ours), len(theirs))
        if count > 2:
            theirs = theirs[random.permutation(len(theirs))[:count]]
            apart, usually = (np.median(_nearest(x, x, skip_self=True)[0]) for x in (ours[:count], theirs))
            shares.append(apart / usually if usually > 0 else 1.0)
    commonest = np.bincount(held_out_labels).max() / len(held_out_labels)
    found = {
        "kid": kernel_distance(generated, held_out),
        "floor": kernel_distance(train[some], held_out),
        "diversity": min(shares[1:] or shares),
        "near": np.median(distances),
        "near_held_out": np.median(usual),
        "copies": np.mean(distances < np.quantile(usual, USUAL_COPIES)),
        "taught": _taught(generated, asked, held_out, held_out_labels),
        "taught_real": _taught(train[some], train_labels[some], held_out, held_out_labels),
        "chance": commonest + 2 * np.sqrt(commonest * (1 - commonest) / len(held_out_labels)),
    }
    return {key: float(value) for key, value in found.items()}, nearest


def decide(measures):
    """ "collapsed", "copies", "poor" (teaches a classifier no more than chance) or "good"."""
    if measures["diversity"] < LEAST_DIVERSITY:
        return "collapsed"
    if measures["copies"] > MOST_COPIES:
        return "copies"
    return "good" if measures["taught"] > measures["chance"] else "poor"


def kernel_distance(x, y):
    """KID: squared maximum mean discrepancy of features [n, d] and [m, d] with the kernel (x.y / d + 1)^3, unbiased.

    Binkowski et al. 2018, arXiv:1801.01401; around 0 for two samples of the same kind. Needs two of each.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def others(a):
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return others(x) + others(y) - 2 * kernel(x, y).mean()


def _nearest(x, y, skip_self=False, part=500):
    """For each of x [n, d] the distance to the nearest of y [m, d], float64 [n], and which it is, int [n]."""
    y = np.asarray(y, np.float64)
    squares, found = (y * y).sum(1), []
    for start in range(0, len(x), part):
        some = np.asarray(x[start : start + part], np.float64)
        distances = np.maximum((some * some).sum(1)[:, None] + squares - 2 * some @ y.T, 0)
        if skip_self:
            distances[np.arange(len(some)), start + np.arange(len(some))] = np.inf
        place = distances.argmin(1)
        found.append((np.sqrt(distances[np.arange(len(some)), place]), place))
    return tuple(np.concatenate(arrays) for arrays in zip(*found))


def _taught(features, labels, held_out, held_out_labels):
    """Accuracy on held-out features of a ridge classifier on these features and labels."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) < 2:
        return 0.0
    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=float(len(labels)))).fit(features, labels)
    return np.mean(model.predict(held_out) == held_out_labels)


# ---------------------------------------------------------------------------------------------------------- the record


def _fold_dir(table, fold):
    return table.paths.gan / f"fold_{fold}"


def _is_done(table, fold, record, settings):
    return (record["epochs"] >= settings.epochs and bool(record["verdict"])
            and (_fold_dir(table, fold) / "generator.weights.h5").exists())


def _open_record(table, settings, fold):
    """The content of a fold's gan.json, new if there is none; InputError when it was begun from something else."""
    path = _fold_dir(table, fold) / "gan.json"
    config = {"settings": asdict(settings), "classes": table.classes, "size": list(table.size)}
    if not path.exists():
        return new_record(FORMAT, config, table) | {"epochs": 0, "verdict": None, "measures": {}}
    record = files.read_json(path)
    check_hashes(path, table, record)
    before = record["config"] | {"settings": record["config"]["settings"] | {"epochs": settings.epochs}}
    before.pop("shape", None)
    begun = Begun(path, record, "GAN", f"remove {path.parent} to train it anew")
    if record.get("format") != FORMAT or before != config:
        begun.refuse(difference(before, config) or OTHERWISE)
    if record["epochs"] < settings.epochs:  # goes on: what was measured before is not true of what comes
        begun.check_versions()
        record |= {"verdict": None, "measures": {}}
        record["config"]["settings"]["epochs"] = settings.epochs
    return record


def _write_record(directory, record):
    files.write_json(directory / "gan.json", record)


SHOWN = ("kid", "floor", "kid_full", "diversity", "near", "near_held_out", "copies", "taught", "taught_real", "chance")


def _report(table, records):
    """Print and return a row for each fold."""
    frame = pd.DataFrame([
        {"fold": fold, "epochs": record["epochs"], **{key: record["measures"][key] for key in SHOWN},
         "verdict": record["verdict"]}
        for fold, record in records.items()
    ])
    print("\n" + oof.text_table(frame, 3))
    print(f"\n{table.paths.gan}: {(frame['verdict'] == 'good').sum()} of {len(frame)} good, which `synthetic` may use; "
          "kid: distance to held-out images (floor: of training images), at full size kid_full")
    return frame
