"""The plants of the sample competition: shapes, leaves, and how each species grows."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

SIZE = 96  # height and width of a frame in pixels
VIEW = 2 * SIZE  # the camera sees this much of the scene, before it is reduced to SIZE
SCENE = 272  # height and width of a scene: VIEW with room to move the camera
TAU = 2 * math.pi


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


# Each grows a plant at `base` with a leaf of about `size` pixels: a list of layers of shapes, lowest first.
def grow_sprigs(rng, look, base, size, edge, opposite):
    """Sprigs of simple leaves, in pairs with probability `opposite`, otherwise in turn."""
    layers, pairs = [], rng.random() < opposite
    for level in range(rng.integers(2, 5)):
        shapes = []
        line, along = stalk(base, size * between(rng, 1.6, 3.2), rng.random() * TAU, between(rng, -0.9, 0.9), 12)
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
        angle = (rng.normal(-np.pi / 2, 0.7) if upright else start + TAU * frond / fronds) + rng.normal(0, 0.2)
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
            line, along = stalk(base, size * between(rng, 2, 3), lean + rng.normal(0, 0.4), rng.normal(0, 0.4), 16)
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
    layers = rosette(rng, look, base, size, prickly(width, spikes, depth), rng.integers(2, 4), rng.integers(6, 10))
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
