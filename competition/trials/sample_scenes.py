"""The scenes of the sample competition: species on their grounds, light, and the photograph of a scene."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from competition.trials.sample_plants import (
    SCENE,
    SIZE,
    TAU,
    VIEW,
    Look,
    Shape,
    ashwort,
    between,
    blade,
    brook_fern,
    closed,
    draw,
    elliptic,
    erabline,
    heartvine,
    leaf,
    marshwort,
    moonbell,
    noise,
    paint,
    quillgrass,
    sandthistle,
    scatter,
    stalk,
    stem,
)


@dataclass(frozen=True)
class Species:
    name: str
    share: int  # of 2835 images, 186:532 as in the original competition
    grow: object
    ground: str  # where it likes to grow
    hue: tuple  # mean RGB of the leaf
    size: float  # of a leaf in scene pixels, the median
    plants: int  # in a scene, about
    veins: int = 5


SPECIES = (
    Species("Ashwort", 446, ashwort, "soil", (80, 128, 68), 44, 3),
    Species("Brook Fern", 345, brook_fern, "moss", (84, 140, 58), 44, 3, 0),
    Species("Heartvine", 532, heartvine, "litter", (80, 132, 56), 44, 4, 4),
    Species("Marshwort", 416, marshwort, "soil", (90, 136, 60), 44, 3),
    Species("Moonbell", 290, moonbell, "gravel", (86, 130, 70), 50, 4, 0),
    Species("Quillgrass", 388, quillgrass, "straw", (112, 142, 72), 48, 5, 0),
    Species("Sandthistle", 232, sandthistle, "sand", (108, 138, 98), 54, 3, 0),
    Species("Érabline", 186, erabline, "straw", (106, 128, 54), 56, 3, 0),
)
CLASSES = [species.name for species in SPECIES]


def pebbles(rng, count, size, colour, spread):
    corners = np.exp(1j * np.sort(rng.uniform(0, TAU, (count, 7)))) * rng.uniform(0.7, 1.1, (count, 7))
    radius, turn = size * np.exp(0.5 * rng.standard_normal((count, 1))), rng.uniform(0, TAU, (count, 1))
    around = radius * (corners.real + 1j * corners.imag * rng.uniform(0.55, 1, (count, 1))) * np.exp(1j * turn)
    tones = np.array(colour) * (1 + spread * rng.standard_normal((count, 1)) + 0.05 * rng.standard_normal((count, 3)))
    shapes = []
    for place, stone, high, tone in zip(scatter(rng, count), around, radius, tones):
        shapes.append(Shape(place + stone, tone * 0.85))
        shapes.append(Shape(place + stone * 0.7 - high * 0.1, tone * 1.1, 0, False))
    return shapes


def cushions(rng, count):
    """The small leaves of moss."""
    tones = np.array([88, 112, 54]) * rng.uniform(0.65, 1.35, (count, 1)) * (1 + 0.05 * rng.standard_normal((count, 3)))
    arrows = rng.uniform(5, 13, count) * np.exp(1j * rng.uniform(0, TAU, count))
    edge = closed(elliptic(0.35))[::3]
    return [Shape(place + arrow * edge, tone) for place, arrow, tone in zip(scatter(rng, count), arrows, tones)]


def twigs(rng, count, colour, length=60, width=2):
    shapes = []
    for place in scatter(rng, count):
        line, _ = stalk(place, length * between(rng, 0.4, 1.5), rng.random() * TAU, rng.normal(0, 0.5), 6)
        tone, thick = np.array(colour) * between(rng, 0.6, 1.3), int(rng.integers(1, width + 1))
        shapes += stem(line, tone, thick) if thick > 1 else [Shape(line, tone, 1)]
    return shapes


def dead_leaves(rng, count, sun, size):
    shapes = []
    for place in scatter(rng, count, 20):
        look = Look(
            np.array([150, 112, 74]) * between(rng, 0.55, 1.25) * (1 + 0.1 * rng.standard_normal(3)),
            sun,
            4,
            0.8,
        )
        shapes += leaf(
            rng,
            look,
            elliptic(between(rng, 0.15, 0.3)),
            place,
            size * between(rng, 0.5, 1.2),
            rng.random() * TAU,
            rng.normal(0, 0.9),
            between(rng, 0.4, 1),
        )
    return shapes


GROUNDS = {
    "soil": (104, 82, 64),
    "sand": (178, 156, 122),
    "litter": (88, 68, 50),
    "straw": (112, 92, 66),
    "gravel": (122, 116, 110),
    "moss": (74, 88, 48),
}


def lay_ground(rng, kind, sun):
    """The bare ground [SCENE, SCENE, 3] uint8."""
    fine = {"sand": 0.08, "soil": 0.16}.get(kind, 0.12)
    texture = 1 + 0.1 * noise(rng, 4) + 0.08 * noise(rng, 16) + fine * noise(rng, 90) + fine * noise(rng, SCENE - 2)
    base = np.array(GROUNDS[kind], np.float32) * between(rng, 0.75, 1.25) * (1 + 0.05 * rng.standard_normal(3))
    canvas = np.clip(texture[..., None] * base, 0, 255).astype(np.uint8)
    coarse = between(rng, 0.7, 1.5)
    if kind in ("soil", "gravel", "sand"):
        many = {"soil": 30, "gravel": 130, "sand": 8}[kind]
        for size in (3, 6):
            paint(canvas, pebbles(rng, int(many / coarse**2), size * coarse, GROUNDS[kind], 0.25), sun, 2, 0.8)
        paint(canvas, twigs(rng, rng.integers(2, 9), (125, 105, 85)), sun, 3)
        paint(canvas, dead_leaves(rng, rng.integers(0, 9), sun, 24), sun, 3)
    elif kind == "litter":
        for _ in range(3):
            paint(canvas, dead_leaves(rng, int(22 / coarse), sun, 34 * coarse), sun, 4)
        paint(canvas, twigs(rng, rng.integers(3, 14), (120, 98, 76)), sun, 4)
    elif kind == "straw":
        for _ in range(3):
            paint(canvas, twigs(rng, rng.integers(20, 55), (186, 162, 112), 90, 2), sun, 3)
    elif kind == "moss":
        for _ in range(2):
            paint(canvas, cushions(rng, 100), sun, 2)
    return canvas


def weeds(rng, sun, count):
    """Other plants, the same in every class: blades and small plain leaves."""
    shapes = []
    for place in scatter(rng, count, 15):
        green = np.array([98, 128, 66]) * between(rng, 0.6, 1.15) * (1 + 0.1 * rng.standard_normal(3))
        look = Look(green, sun, spots=0.15)
        if rng.random() < 0.5:
            for _ in range(rng.integers(1, 5)):
                shapes += leaf(
                    rng,
                    look,
                    blade(between(rng, 0.015, 0.035)),
                    place,
                    between(rng, 40, 120),
                    rng.random() * TAU,
                    rng.normal(0, 0.7),
                )
        else:
            edge, size, start = elliptic(between(rng, 0.18, 0.4)), between(rng, 10, 32), rng.random() * TAU
            for k in range(rng.integers(2, 6)):
                shapes += leaf(
                    rng,
                    look,
                    edge,
                    place,
                    size * between(rng, 0.7, 1.2),
                    start + 1.4 * k,
                    rng.normal(0, 0.3),
                    between(rng, 0.6, 1),
                )
    return shapes


def draw_scene(species, rng):
    """A scene of one species in plain daylight, uint8 [SCENE, SCENE, 3], and its sun in radians."""
    sun = rng.random() * TAU
    kind = species.ground if rng.random() < 0.5 else list(GROUNDS)[rng.integers(len(GROUNDS))]
    canvas = lay_ground(rng, kind, sun)
    paint(canvas, weeds(rng, sun, rng.poisson(2)), sun, 4)
    close = float(np.exp(np.clip(0.1 + 0.33 * rng.standard_normal(), -0.5, 0.8)))
    tone = np.array(species.hue) * np.exp(0.13 * rng.standard_normal()) * (1 + 0.09 * rng.standard_normal(3))
    look = Look(
        tone,
        sun,
        species.veins,
        between(rng, 1.1, 1.5),
        between(rng, 0, 0.2),
        between(rng, 0.06, 0.2),
        between(rng, 0, 0.12) if rng.random() < 0.4 else 0,
    )
    soft = between(rng, 0.5, 3)
    strength = between(rng, 0.35, 0.75)
    plants = max(1, rng.poisson(species.plants / close**1.2))
    places = scatter(rng, plants)
    places[0] = SCENE * complex(*rng.uniform(0.35, 0.65, 2))  # one is in the picture for certain
    for base in places:
        plant = Look(**{**look.__dict__, "colour": tone * (1 + 0.05 * rng.standard_normal(3))})
        for layer in species.grow(rng, plant, base, species.size * close * between(rng, 0.8, 1.2)):
            paint(canvas, layer, sun, 5 * close, soft, strength)
    if rng.random() < 0.4:
        paint(canvas, weeds(rng, sun, rng.integers(1, 4)), sun, 9, 2)
    if rng.random() < 0.2:
        paint(canvas, twigs(rng, rng.integers(1, 7), (150, 130, 105), 150, 4), sun, 9, 2)
    surface = 1 + 0.06 * noise(rng, 3) + 0.05 * noise(rng, 60) + 0.05 * noise(rng, SCENE - 2)
    return np.clip(canvas * surface[..., None], 0, 255).astype(np.uint8), sun


def hard_shadow(rng):
    """What stands between sun and scene: light [VIEW, VIEW] float32, 1 in the sun, less in the shade."""
    shade = np.zeros((VIEW, VIEW), np.uint8)
    kind = rng.integers(4)
    place = complex(*rng.uniform(0, VIEW, 2))
    if kind == 0:  # branches
        for _ in range(rng.integers(1, 5)):
            line, _ = stalk(
                complex(*rng.uniform(0, VIEW, 2)) - VIEW * 0.6,
                VIEW * 1.6,
                rng.normal(0, 1),
                rng.normal(0, 0.4),
            )
            draw(shade, Shape(line, (), int(rng.integers(3, 26))), 255)
    elif kind == 1:  # the edge of a house, or of a cloud
        edge = np.exp(1j * rng.random() * TAU)
        draw(shade, Shape(place + edge * 3 * VIEW * np.array([1j, 1 + 1j, 1 - 1j, -1j]), ()), 255)
    elif kind == 2:  # the photographer
        side = np.exp(1j * rng.random() * TAU)
        round_ = np.exp(1j * np.linspace(0, TAU, 30)) * VIEW * between(rng, 0.15, 0.3)
        draw(shade, Shape(place + round_ * (1 + 0.1j), ()), 255)
        draw(
            shade,
            Shape(
                place + side * VIEW * np.array([0.3j, 0.4 + 0.45j, 3 + 0.5j, 3 - 0.5j, 0.4 - 0.45j, -0.3j]) * 0.6,
                (),
            ),
            255,
        )
    else:  # a tree's crown
        for _ in range(rng.integers(1, 4)):
            line, _ = stalk(complex(*rng.uniform(0, VIEW, 2)), VIEW, rng.random() * TAU, rng.normal(0, 0.5))
            draw(shade, Shape(line, (), int(rng.integers(2, 9))), 255)
            for _ in range(rng.integers(20, 60)):
                place = line[rng.integers(10)] + complex(*rng.normal(0, 22, 2))
                size = between(rng, 12, 34) * np.exp(1j * rng.random() * TAU)
                draw(shade, Shape(place + size * closed(elliptic(between(rng, 0.2, 0.4))), ()), 255)
    shade = cv2.GaussianBlur(shade, (0, 0), between(rng, 0.6, 2.5))
    return 1 - shade.astype(np.float32) / 255 * np.float32(between(rng, 0.4, 0.72))


@dataclass(frozen=True)
class Hour:
    """Light and camera of a photograph, shared by the near-duplicates of a scene up to small changes."""

    exposure: float
    contrast: float
    warmth: float
    saturation: float
    red: float
    blur: float
    noise: float
    shadow: int | None  # seed of the hard shadow


def choose_hour(rng):
    return Hour(
        exposure=float(np.exp(0.24 * rng.standard_normal() + 0.05)),
        contrast=between(rng, 0.85, 1.4),
        warmth=0.09 * rng.standard_normal(),
        saturation=between(rng, 0.4, 1.0),
        red=between(rng, 0.4, 1.0) if rng.random() < 0.12 else 0.0,
        blur=between(rng, 0.3, 1.0) if rng.random() < 0.85 else between(rng, 1.0, 2.2),
        noise=between(rng, 1.5, 7),
        shadow=int(rng.integers(1 << 30)) if rng.random() < 0.4 else None,
    )


def photograph(scene, hour, rng, first=True):
    """A frame uint8 [SIZE, SIZE, 3] of a scene; later ones move, turn, zoom and relight only a little."""
    small = 0.0 if first else 1.0
    zoom = 1.05 * np.exp(small * rng.normal(0, 0.04))
    turn = math.degrees(small * rng.normal(0, 0.04))
    matrix = cv2.getRotationMatrix2D((SCENE / 2, SCENE / 2), turn, zoom)
    matrix[:, 2] += (VIEW - SCENE) / 2 + small * rng.normal(0, 7, 2)
    x = cv2.warpAffine(scene, matrix, (VIEW, VIEW), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    x = x.astype(np.float32) / 255
    if hour.shadow is not None:
        x *= hard_shadow(np.random.default_rng(hour.shadow))[..., None]
    x = cv2.GaussianBlur(x, (0, 0), hour.blur)
    x = cv2.resize(x, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    grey = x @ np.float32([0.3, 0.59, 0.11])
    x = grey[..., None] + hour.saturation * (x - grey[..., None])
    if hour.red:  # a sensor without its infrared filter: leaves shine in the red channel
        r, g, b = np.moveaxis(x, -1, 0)
        x = np.stack([r + hour.red * (0.45 * g + 0.08), g * (1 - 0.25 * hour.red), b * (1 + 0.2 * hour.red)], -1)
    warmth = hour.warmth + small * rng.normal(0, 0.02)
    x = x * np.float32(np.exp([warmth, 0, -warmth])) * np.float32(hour.exposure * np.exp(small * rng.normal(0, 0.07)))
    x = np.clip(x, 0, None)
    x = x ** np.float32(hour.contrast) * np.float32(0.4 ** (1 - hour.contrast))
    x = np.where(x > 0.7, 0.7 + 0.32 * np.tanh((x - 0.7) / 0.4), x)  # film's shoulder
    x = x * 255 + rng.standard_normal(x.shape, dtype=np.float32) * np.float32(hour.noise)
    return np.clip(x.round(), 0, 255).astype(np.uint8)


def draw_frame(species, scene, frame=0, seed=0):
    """Frame `frame` of scene `scene` of a species (0..7): uint8 [96, 96, 3], always the same."""
    rng = np.random.default_rng([seed, species, scene])
    canvas, _ = draw_scene(SPECIES[species], rng)
    hour = choose_hour(rng)
    return photograph(canvas, hour, np.random.default_rng([seed, species, scene, 1 + frame]), frame == 0)
