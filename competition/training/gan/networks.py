"""The generator and the discriminator of a GAN, and how they train."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from competition.base.backend import use_xla
from competition.data.decode import resize

BATCH = 64  # images that are generated at once: what an image is does not depend on how many were asked for
LEAKY = 0.2
BETA_1, BETA_2 = 0.0, 0.9  # Adam's in Miyato et al. 2018, setting C of table 1 there has them


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
            self.kernel = self.add_weight(
                shape=(self.size, self.size, shape[-1], self.filters), name="kernel", initializer="orthogonal"
            )
            self.bias = self.add_weight(shape=(self.filters,), name="bias", initializer="zeros")
            self.left = self.add_weight(
                shape=(1, self.filters), name="left", initializer="random_normal", trainable=False
            )

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

    generator: Any
    model: Any

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
