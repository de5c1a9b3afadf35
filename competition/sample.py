"""The embedded sample competition: photographs of eight plants that do not exist, drawn by the code below.

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
import itertools
import math
import multiprocessing
import os
import shutil
import tempfile
import unicodedata
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL
from PIL import Image
from tqdm import tqdm

from competition.files import InputError, read_json, write_json, write_text

DRAWING = 1  # raise it when the drawing changes: samples of another drawing are not this one
SIZE = 96  # height and width of a frame in pixels
VIEW = 2 * SIZE  # the camera sees this much of the scene, before it is reduced to SIZE
SCENE = 272  # height and width of a scene: VIEW with room to move the camera
FAMILIES = 0.05  # share of the frames that are a near-duplicate of an earlier one
QUALITY = 90  # of the JPEGs
MANY = 200  # frames that are worth starting a process a core

TAU = 2 * math.pi


# ------------------------------------------------------------------------------------------- shapes and paint


class Shape:
    """A filled polygon, a line of `width` pixels, or a list of such lines, in one RGB colour (0..255)."""

    def __init__(self, points, colour, width=0, casts=True):  # points are complex: x + iy in scene pixels
        lines = points if isinstance(points, list) else [points]
        # OpenCV draws from fixed-point coordinates with 4 fractional bits
        self.lines = [(line * 16).view(np.float64).reshape(1, -1, 2).astype(np.int32) for line in lines]
        self.colour = [min(max(value, 0.0), 255.0) for value in np.asarray(colour, float).tolist()]
        self.width = width
        self.casts = casts  # veins and the like throw no shadow


def draw(canvas, shape, colour, away=None, smooth=cv2.LINE_AA):
    lines = [line + away for line in shape.lines] if away is not None else shape.lines
    if shape.width:
        cv2.polylines(canvas, lines, False, colour, shape.width, smooth, 4)
    else:
        cv2.fillPoly(canvas, lines, colour, smooth, 4)


def paint(canvas, shapes, sun, height=5.0, soft=1.0, strength=0.55):
    """Paint a layer of shapes: first its shadow, `height` pixels away from the sun, then the shapes."""
    if not shapes:
        return
    away = np.array([-height * math.cos(sun), -height * math.sin(sun)])
    around = np.concatenate([line[0] for shape in shapes for line in shape.lines]) / 16 + away
    left, top = np.clip(around.min(0) - 3 * soft - 3, 0, SCENE).astype(int)
    right, bottom = np.clip(around.max(0) + 3 * soft + 4, 0, SCENE).astype(int)
    if left < right and top < bottom:
        mask = np.zeros(canvas.shape[:2], np.uint8)
        for shape in shapes:
            if shape.casts:
                draw(mask, shape, int(255 * strength), (away * 16).astype(np.int32), cv2.LINE_8)
        light = 255 - cv2.GaussianBlur(mask[top:bottom, left:right], (0, 0), max(soft, 0.3))
        below = canvas[top:bottom, left:right]
        below[...] = cv2.multiply(below, cv2.merge([light] * 3), scale=1 / 255)
    for shape in shapes:
        draw(canvas, shape, shape.colour)


def noise(rng, cells, size=SCENE):
    """Smooth noise [size, size] float32, mean 0 and deviation about 1, with `cells` grains along a side."""
    grains = rng.standard_normal((cells + 2, cells + 2), dtype=np.float32)
    return cv2.resize(grains, (size, size), interpolation=cv2.INTER_CUBIC if cells < size else cv2.INTER_AREA)


def between(rng, low, high):
    return low + (high - low) * rng.random()


def scatter(rng, count, margin=0):
    """`count` places in the scene, complex."""
    return rng.uniform(-margin, SCENE + margin, count) + 1j * rng.uniform(-margin, SCENE + margin, count)


# ----------------------------------------------------------------------------------------------------- leaves

# A leaf's upper edge runs from its base 0 to its tip 1 as complex points; the lower edge is the mirror image.

STEPS = np.linspace(0, 1, 22)
RIB = np.linspace(0, 1, 8) + 0j


def elliptic(width, tip=1.0, teeth=0, depth=0.0):
    """An elliptic leaf of half-width `width`, with `teeth` teeth that take up to `depth` of the width."""
    t = np.linspace(0, 1, 4 * teeth + 1) if teeth else STEPS
    edge = width * np.sin(np.pi * t**tip) ** 0.85
    if teeth:
        edge = edge * (1 - depth * ((teeth * t) % 1))
    return t + 1j * edge


def heart(width):
    t = STEPS
    return 3 * t * (1 - t) ** 2 * (-0.38 + 1.35j * width) + 3 * t**2 * (1 - t) * (0.5 + 1.1j * width) + t**3


def palmate(lobes, depth):
    angle = np.pi * (1 - np.linspace(0, 1, 41))
    wave = np.abs(np.arcsin(np.cos(lobes * angle / 2)) * 2 / np.pi)  # pointed lobes, round bays
    radius = 0.62 * (1 - depth + depth * wave**0.9)
    radius *= 0.8 + 0.2 * np.cos(angle / 2)
    edge = 0.38 + radius * np.exp(1j * angle)
    return np.concatenate([[0], edge])


def prickly(width, spikes, depth):
    t = np.linspace(0, 1, 4 * spikes + 1)
    saw = (spikes * t) % 1
    edge = width * np.sin(np.pi * t**0.8) ** 0.7 * (1 - depth + depth * saw**1.5)
    return t + 0.06 * saw + 1j * edge


def blade(width):
    return STEPS + 1j * width * (1 - STEPS) ** 0.6 * np.minimum(1, 6 * STEPS + 0.4)


def closed(edge):
    """Both edges of a leaf as one polygon."""
    return np.concatenate([edge, edge.conj()[::-1]])


def bent(points, bend):
    """Points along a straight midrib 0..1 carried over to one that turns by `bend` radians on its way."""
    if abs(bend) < 1e-3:
        return points
    turn = np.exp(1j * bend * points.real)
    return (turn - 1) / (1j * bend) + 1j * points.imag * turn


@dataclass
class Look:
    """How one plant's leaves take the light."""

    colour: np.ndarray  # RGB of the blade in full light
    sun: float  # where the light comes from, radians
    veins: int = 0  # pairs of side veins
    rib: float = 1.25  # the midrib's colour over the blade's
    gloss: float = 0.1
    fold: float = 0.14  # how much the two halves differ in light
    spots: float = 0.0  # share of leaves that wither


def leaf(rng, look, edge, base, length, angle, bend=0.0, tilt=1.0, light=1.0):
    """The shapes of one leaf: blade, half towards the light, midrib and veins; none if out of the scene."""
    if not (-length < base.real < SCENE + length and -length < base.imag < SCENE + length):
        return []
    light *= 1 + 0.16 * math.cos(angle - look.sun) + 0.1 * rng.standard_normal()
    colour = look.colour * (light * (1 + 0.04 * rng.standard_normal(3)))
    if rng.random() < look.spots:
        colour = colour * 0.4 + np.array([150, 110, 50]) * (light * 0.6)
    if rng.random() < look.gloss:
        colour = colour * 0.65 + 0.35 * 225 * light
    side = 1 + look.fold * math.copysign(between(rng, 0.5, 1.5), math.sin(look.sun - angle))
    upper = edge.real + 1j * tilt * edge.imag
    parts = [upper, upper.conj()[::-1], RIB]
    veins = look.veins if length > 30 else 0
    if veins:
        at, widest = np.linspace(0.12, 0.8, veins), edge.real.argmin()
        reach = np.interp(at + 0.1, edge.real[widest:], edge.imag[widest:]) * (1j * tilt * 0.85)
        parts.append(np.stack([at + 0.14 + reach, at + 0j, at + 0.14 - reach], 1).ravel())
    n, m = len(edge), 2 * len(edge)
    points = base + length * np.exp(1j * angle) * bent(np.concatenate(parts), bend)
    rib = points[m : m + len(RIB)]
    shapes = [Shape(points[:m], colour / side)]
    if length > 9:
        shapes.append(Shape(np.concatenate([points[:n], rib[::-1]]), colour * side, casts=False))
    if veins:
        pairs = list(points[m + len(RIB) :].reshape(veins, 3))
        shapes.append(Shape(pairs, colour * (1 + (look.rib - 1) * 0.6), 1, False))
    if length > 16:
        shapes.append(Shape(rib[:-1], colour * look.rib, 2 if length > 70 else 1, False))
    return shapes


def stem(points, colour, width):
    return [
        Shape(points, colour * 0.75, width),
        Shape(points - 0.4 * width * 0.5, colour * 1.1, max(1, width // 2), False),
    ]


def stalk(base, length, angle, bend, points=10):
    """A curved line from `base`, and the direction in which it goes at each of its points."""
    t = np.linspace(0, 1, points)
    return base + length * np.exp(1j * angle) * bent(t + 0j, bend), angle + bend * t


# ------------------------------------------------------------------------------------------ the eight species

# Each grows a plant at `base` with a leaf of about `size` pixels: a list of layers of shapes, lowest first.


def grow_sprigs(rng, look, base, size, edge, opposite):
    """Sprigs of simple leaves, in pairs with probability `opposite`, otherwise in turn."""
    layers, pairs = [], rng.random() < opposite
    for level in range(rng.integers(2, 5)):
        shapes = []
        line, along = stalk(
            base, size * between(rng, 1.6, 3.2), rng.random() * TAU, between(rng, -0.9, 0.9), 12
        )
        light = 0.72 + 0.12 * level
        shapes += stem(line, look.colour * light * np.array([1.05, 0.85, 0.8]), max(1, round(size / 22)))
        for k in range(2, 12, 2 if pairs else 1):
            for sign in (1, -1) if pairs else (1 - k % 2 * 2,):
                if rng.random() < 0.08:
                    continue
                turn = along[k] + sign * between(rng, 0.65, 1.15)
                length = size * between(rng, 0.75, 1.1) * (1 - 0.035 * k)
                start = line[k] + size * 0.08 * np.exp(1j * turn)
                shapes += leaf(
                    rng,
                    look,
                    wider(edge, rng),
                    start,
                    length,
                    turn,
                    between(rng, -0.5, 0.5),
                    between(rng, 0.62, 1.0),
                    light,
                )
        shapes += leaf(rng, look, edge, line[-1], size * 0.75, along[-1], 0, between(rng, 0.7, 1), light)
        layers.append(shapes)
    return layers


def ashwort(rng, look, base, size):
    edge = elliptic(rng.normal(0.162, 0.02), 0.95)
    return grow_sprigs(rng, look, base, size, edge, 0.75)


def marshwort(rng, look, base, size):
    edge = elliptic(rng.normal(0.27, 0.02), 0.85, int(rng.integers(7, 10)), between(rng, 0.25, 0.45))
    return grow_sprigs(rng, look, base, size, edge, 0.35)


def brook_fern(rng, look, base, size):
    layers, start, fronds = [], rng.random() * TAU, int(rng.integers(4, 9))
    upright = rng.random() < 0.4
    for frond in range(fronds):
        angle = (rng.normal(-np.pi / 2, 0.7) if upright else start + TAU * frond / fronds) + rng.normal(
            0, 0.2
        )
        line, along = stalk(base, size * between(rng, 1.8, 2.8), angle, between(rng, -0.9, 0.9), 19)
        light = between(rng, 0.7, 1.1)
        shapes = stem(line, look.colour * light * np.array([1.1, 0.8, 0.7]), max(1, round(size / 30)))
        reach = size * between(rng, 0.5, 0.75)
        broad, narrow = elliptic(0.13, 0.6, 5, 0.55), blade(0.16)
        for k in range(2, 19):
            t = k / 18
            length = reach * np.sin(np.pi * (0.12 + 0.86 * t)) ** 0.8 + 2
            for sign in (1, -1):
                turn = along[k] + sign * between(rng, 1.0, 1.3)
                edge = broad if length > 22 else narrow
                shapes += leaf(rng, look, edge, line[k], length, turn, -sign * 0.35, 1, light)
        layers.append(shapes)
    return layers


def heartvine(rng, look, base, size):
    layers, width = [], between(rng, 0.5, 0.62)
    for level in range(rng.integers(2, 4)):
        line, along = stalk(
            base + size * rng.normal(0, 0.7),
            size * between(rng, 2.5, 4.5),
            rng.random() * TAU,
            between(rng, -2, 2),
            9,
        )
        light = 0.75 + 0.13 * level
        shapes = stem(line, look.colour * light * np.array([1.2, 0.8, 0.7]), max(1, round(size / 25)))
        for k in range(1, 9):
            turn = along[k] + (1 if k % 2 else -1) * between(rng, 0.6, 1.6)
            start = line[k] + size * between(rng, 0.15, 0.4) * np.exp(1j * turn)
            shapes += stem(np.array([line[k], start]), look.colour * light, 1)
            shapes += leaf(
                rng,
                look,
                heart(width),
                start,
                size * between(rng, 0.6, 1.0),
                turn + rng.normal(0, 0.5),
                between(rng, -0.3, 0.3),
                between(rng, 0.65, 1),
                light,
            )
        layers.append(shapes)
    return layers


def quillgrass(rng, look, base, size):
    layers, upright = [], rng.random() < 0.6
    lean, width = rng.normal(-np.pi / 2, 0.5), between(rng, 0.012, 0.026)
    for level in range(4):
        shapes = []
        for _ in range(rng.integers(7, 16)):
            angle = lean + rng.normal(0, 0.45) if upright else rng.random() * TAU
            shapes += leaf(
                rng,
                look,
                blade(width * between(rng, 0.8, 1.3)),
                base + size * rng.normal(0, 0.12, 2) @ [1, 1j],
                size * between(rng, 1.6, 3.2),
                angle,
                rng.normal(0, 0.7),
                1,
                0.68 + 0.12 * level,
            )
        layers.append(shapes)
    if rng.random() < 0.5:  # in ear
        for _ in range(rng.integers(1, 5)):
            line, along = stalk(
                base, size * between(rng, 2, 3), lean + rng.normal(0, 0.4), rng.normal(0, 0.4), 16
            )
            ear = np.array([190, 170, 105]) * between(rng, 0.7, 1.1)
            shapes = [Shape(line, ear * 0.8, 1)]
            for k in range(10, 16):
                for sign in (1, -1):
                    grain = size * 0.14 * np.exp(1j * (along[k] + sign * 0.4)) * closed(elliptic(0.18))
                    shapes.append(Shape(line[k] + grain, ear))
            layers.append(shapes)
    return layers


def wider(edge, rng):
    """A sister of a leaf, up to 8 % wider or narrower."""
    return edge.real + 1j * edge.imag * between(rng, 0.92, 1.08)


def rosette(rng, look, base, size, edge, rings, leaves):
    layers, start = [], rng.random() * TAU
    for ring in range(rings):
        shapes, share = [], 1 - 0.62 * ring / rings
        for k in range(leaves):
            angle = start + ring * 1.1 + TAU * k / leaves + rng.normal(0, 0.16)
            shapes += leaf(
                rng,
                look,
                edge,
                base + size * 0.06 * np.exp(1j * angle),
                size * share * between(rng, 1.1, 1.6),
                angle,
                rng.normal(0, 0.35),
                between(rng, 0.75, 1),
                0.72 + 0.34 * ring / rings,
            )
        layers.append(shapes)
    return layers


def sandthistle(rng, look, base, size):
    width, spikes, depth = between(rng, 0.2, 0.3), int(rng.integers(5, 8)), between(rng, 0.6, 0.8)
    layers = rosette(
        rng, look, base, size, prickly(width, spikes, depth), rng.integers(2, 4), rng.integers(6, 10)
    )
    if rng.random() < 0.3:  # in flower
        head = np.array([165, 85, 160]) * between(rng, 0.8, 1.15)
        shapes = []
        for k in range(26):
            ray = size * 0.3 * between(rng, 0.5, 1) * np.exp(1j * TAU * k / 26) * closed(blade(0.06))
            shapes.append(Shape(base + ray, head * between(rng, 0.7, 1.3)))
        layers.append(shapes)
    return layers


PETALS = ([235, 232, 240], [190, 160, 225], [240, 215, 90], [225, 170, 200])


def moonbell(rng, look, base, size):
    narrow = between(rng, 0.09, 0.14)
    layers = rosette(rng, look, base, size, elliptic(narrow, 0.8), 2, rng.integers(6, 10))
    petals, kind = int(rng.integers(5, 9)), np.array(PETALS[rng.integers(len(PETALS))], float)
    width, bloom = between(rng, 0.2, 0.32), size * between(rng, 0.22, 0.4)
    for _ in range(rng.integers(1, 7) if rng.random() < 0.85 else 0):
        line, _ = stalk(base, size * between(rng, 0.6, 1.5), rng.random() * TAU, rng.normal(0, 0.4))
        shapes = stem(line, look.colour * 0.9, 1)
        start, squeeze, axis = rng.random() * TAU, between(rng, 0.5, 1), np.exp(1j * rng.random() * TAU)
        for k in range(petals):
            angle = start + TAU * k / petals
            edge = elliptic(width, 1.6)
            whole = bloom * np.exp(1j * angle) * closed(edge) / axis
            tone = kind * (0.88 + 0.14 * np.cos(angle - look.sun) + rng.normal(0, 0.03))
            shapes.append(Shape(line[-1] + axis * (whole.real + 1j * whole.imag * squeeze), tone))
        centre = 0.22 * bloom * np.exp(1j * np.linspace(0, TAU, 12))
        shapes.append(
            Shape(
                line[-1] + axis * (centre.real + 1j * centre.imag * squeeze),
                np.array([215, 165, 40]),
                0,
                False,
            )
        )
        layers.append(shapes)
    return layers


def erabline(rng, look, base, size):
    layers, lobes, depth = [], 5, between(rng, 0.52, 0.68)
    for level in range(rng.integers(2, 5)):
        shapes, light = [], 0.72 + 0.12 * level
        for _ in range(rng.integers(3, 7)):
            angle, away = rng.random() * TAU, size * between(rng, 0.2, 1.7)
            line, along = stalk(base, away, angle, rng.normal(0, 0.5))
            shapes += stem(line, look.colour * light * np.array([1.3, 0.75, 0.65]), max(1, round(size / 30)))
            shapes += leaf(
                rng,
                look,
                palmate(lobes, depth),
                line[-1],
                size * between(rng, 0.7, 1.15),
                along[-1] + rng.normal(0, 0.5),
                rng.normal(0, 0.2),
                between(rng, 0.65, 1),
                light,
            )
        layers.append(shapes)
    return layers


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


# ------------------------------------------------------------------------------------------------- the ground


def pebbles(rng, count, size, colour, spread):
    corners = np.exp(1j * np.sort(rng.uniform(0, TAU, (count, 7)))) * rng.uniform(0.7, 1.1, (count, 7))
    radius, turn = size * np.exp(0.5 * rng.standard_normal((count, 1))), rng.uniform(0, TAU, (count, 1))
    around = (
        radius * (corners.real + 1j * corners.imag * rng.uniform(0.55, 1, (count, 1))) * np.exp(1j * turn)
    )
    tones = np.array(colour) * (
        1 + spread * rng.standard_normal((count, 1)) + 0.05 * rng.standard_normal((count, 3))
    )
    shapes = []
    for place, stone, high, tone in zip(scatter(rng, count), around, radius, tones):
        shapes.append(Shape(place + stone, tone * 0.85))
        shapes.append(Shape(place + stone * 0.7 - high * 0.1, tone * 1.1, 0, False))
    return shapes


def cushions(rng, count):
    """The small leaves of moss."""
    tones = (
        np.array([88, 112, 54])
        * rng.uniform(0.65, 1.35, (count, 1))
        * (1 + 0.05 * rng.standard_normal((count, 3)))
    )
    arrows = rng.uniform(5, 13, count) * np.exp(1j * rng.uniform(0, TAU, count))
    edge = closed(elliptic(0.35))[::3]
    return [
        Shape(place + arrow * edge, tone) for place, arrow, tone in zip(scatter(rng, count), arrows, tones)
    ]


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
    texture = (
        1 + 0.1 * noise(rng, 4) + 0.08 * noise(rng, 16) + fine * noise(rng, 90) + fine * noise(rng, SCENE - 2)
    )
    base = (
        np.array(GROUNDS[kind], np.float32) * between(rng, 0.75, 1.25) * (1 + 0.05 * rng.standard_normal(3))
    )
    canvas = np.clip(texture[..., None] * base, 0, 255).astype(np.uint8)
    coarse = between(rng, 0.7, 1.5)
    if kind in ("soil", "gravel", "sand"):
        many = {"soil": 30, "gravel": 130, "sand": 8}[kind]
        for size in (3, 6):
            paint(
                canvas, pebbles(rng, int(many / coarse**2), size * coarse, GROUNDS[kind], 0.25), sun, 2, 0.8
            )
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


# ------------------------------------------------------------------------------------------- scene and camera


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
                place
                + side * VIEW * np.array([0.3j, 0.4 + 0.45j, 3 + 0.5j, 3 - 0.5j, 0.4 - 0.45j, -0.3j]) * 0.6,
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
        x = np.stack(
            [r + hour.red * (0.45 * g + 0.08), g * (1 - 0.25 * hour.red), b * (1 + 0.2 * hour.red)], -1
        )
    warmth = hour.warmth + small * rng.normal(0, 0.02)
    x = (
        x
        * np.float32(np.exp([warmth, 0, -warmth]))
        * np.float32(hour.exposure * np.exp(small * rng.normal(0, 0.07)))
    )
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


# -------------------------------------------------------------------------------------------- the competition


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
        place = "hidden/images" if apart else f"train/{CLASSES[species]}"
        frames.append(Frame(f"{place}/{number:0{digits}d}.jpg", species, scene, frame))
    return frames


def take(frame, seed):
    """The bytes of a frame's JPEG."""
    file = io.BytesIO()
    Image.fromarray(draw_frame(frame.species, frame.scene, frame.frame, seed)).save(
        file, "JPEG", quality=QUALITY
    )
    return file.getvalue()


def take_all(frames, seed):
    """Yield the JPEG of each frame in order; many of them are drawn by a process a core."""
    cores = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    done = 0
    if cores > 1 and len(frames) >= MANY:
        context = multiprocessing.get_context("spawn")  # a fork may hang where TensorFlow runs threads
        try:
            with ProcessPoolExecutor(cores, context, cv2.setNumThreads, (1,)) as pool:
                for jpeg in pool.map(take, frames, itertools.repeat(seed), chunksize=8):
                    done += 1
                    yield jpeg
        except (
            BrokenProcessPool
        ):  # processes cannot be started here, or were killed: draw the rest in this one
            pass
    for frame in frames[done:]:
        yield take(frame, seed)


def write_sample(folder, images=1200, hidden=400, seed=0):
    """Write the sample competition to `folder`; do nothing if it holds this very sample. Returns its Path.

    train/<class name>/<id>.jpg    `images` training images
    hidden/images/<id>.jpg         `hidden` images of the hidden test
    hidden/labels.csv              image, label: kept apart, for scoring only
    hidden/scenes.csv              image, scene, of all images: frames of a scene are near-duplicates
    about.json                     seed, version of the drawing, counts, versions of the libraries

    The same arguments give the same bytes under the same versions of numpy, OpenCV and Pillow. Another sample
    in `folder` is replaced as a whole; InputError when it holds anything else, or counts are too small.
    """
    folder = Path(folder)
    if images < 8 * len(SPECIES) or hidden < 0 or seed < 0:
        raise InputError(
            f"sample: expected images >= {8 * len(SPECIES)}, hidden >= 0 and seed >= 0, "
            f"found {images}, {hidden} and {seed}"
        )
    frames = plan_sample(images, hidden, seed)
    about = describe(frames, images, hidden, seed)
    if folder.exists():
        found = read_about(folder)
        there = {
            unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
            for path in folder.rglob("*.jpg")
        }
        if (
            found
            and found | {"versions": about["versions"]} == about
            and there == {frame.path for frame in frames}
        ):
            return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        new = temporary / "sample"
        for place in {Path(frame.path).parent for frame in frames} | {Path("hidden/images")}:
            (new / place).mkdir(parents=True, exist_ok=True)
        bar = tqdm(take_all(frames, seed), "drawing the sample", len(frames), unit="image")
        for frame, jpeg in zip(frames, bar):
            (new / frame.path).write_bytes(jpeg)
        apart = [frame for frame in frames if frame.path.startswith("hidden/")]
        write_table(
            new / "hidden/labels.csv",
            ("image", "label"),
            [(Path(frame.path).name, CLASSES[frame.species]) for frame in apart],
        )
        write_table(
            new / "hidden/scenes.csv",
            ("image", "scene"),
            [(frame.path, f"{frame.species}-{frame.scene}") for frame in frames],
        )
        write_json(new / "about.json", about)
        if folder.exists():
            os.replace(folder, temporary / "old")
        os.replace(new, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def describe(frames, images, hidden, seed):
    """The content of about.json. Classes are counted in training only: hidden counts stay apart."""
    names = [frame.path.split("/")[1] for frame in frames if frame.path.startswith("train/")]
    return {
        "sample": "an embedded sample competition, drawn by competition/sample.py",
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
    about = read_json(folder / "about.json") if "about.json" in names else {}
    if names - {"train", "hidden", "about.json"} or not isinstance(about, dict) or "drawing" not in about:
        raise InputError(
            f"{folder}: expected a sample competition or no such folder, found something else "
            f"({', '.join(sorted(names)[:3])}); it is left as it is"
        )
    return about


def write_table(path, head, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_text(path, text.getvalue())
