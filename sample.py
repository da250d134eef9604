"""What is there to learn from when there is neither a file nor a network?

Ten kinds of little pictures, 32 x 32 pixels in colour like CIFAR-10's but *not* CIFAR-10, drawn by code:

    from sample import SAMPLE_CLASSES, draw_sample
    pictures, labels = draw_sample(train=True)    # (4096, 32, 32, 3) uint8, (4096,) int64

The class is in the shape alone. Palette, background, mist, size, place, tilt and proportions are drawn at
random, in the same way for all classes, so neither a colour nor a pixel gives the class away.

Shapes are signed distances (negative inside), as in https://iquilezles.org/articles/distfunctions2d: one
formula draws many pictures at once, and a distance in pixels, clipped to one pixel, is an anti-aliased edge.
"""

import math

import numpy as np

TRAIN_PICTURES = 4096
TEST_PICTURES = 1024
SIZE = 32  # pixels
CHUNK = 64  # pictures drawn at once; few enough to stay in the processor's cache
TRAIN_SEED, TEST_SEED = 10, 11

RANGES = {  # what varies from picture to picture besides the colours, evenly between two limits
    "scale": (10, 15.5),  # square root of the object's area, pixels
    "dx": (-4, 4),  # pixels right of the middle
    "dy": (-4, 4),  # pixels below it
    "tilt": (-0.35, 0.35),  # radians
    "stretch": (0.9, 1.1),  # narrower and taller above 1
    "v": (-1, 1),  # proportions, see the shapes
    "clear": (0.65, 1),  # 1: no mist
}

MAIN, SECOND, THIRD = range(3)  # the three colours of an object


def disc(x, y, cx, cy, radius):
    """Distance to a disc."""
    return np.hypot(x - cx, y - cy) - radius


def ellipse(x, y, cx, cy, rx, ry):
    """Distance to an ellipse; exact at its edge only, which is all that a picture shows."""
    return (np.hypot((x - cx) / rx, (y - cy) / ry) - 1) * np.minimum(rx, ry)


def box(x, y, cx, cy, half_width, half_height):
    """Distance to an upright rectangle."""
    return np.maximum(abs(x - cx) - half_width, abs(y - cy) - half_height)


def polygon(x, y, *corners):
    """Distance to a convex polygon, corners counter-clockwise: the farthest of its edges' half-planes."""
    distance = -np.inf
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        distance = np.maximum(distance, ((x - ax) * ey - (y - ay) * ex) / np.hypot(ex, ey, dtype=np.float32))
    return distance


# One function per class. x points right, y up, and the object fills about -1 to 1. `v`, in [-1, 1] and
# different in every picture, varies the proportions. They return layers, (distance, which colour), painted
# in this order.


def balloon(x, y, v):
    top = disc(x, y, 0, 0.25, 0.72)
    skirt = polygon(x, y, (-0.66, 0.0), (-0.2, -0.62), (0.2, -0.62), (0.66, 0.0))
    envelope = np.minimum(top, skirt)
    stripe = np.maximum(ellipse(x, y, 0, 0.15, 0.27, 0.85), envelope)
    return [(box(x, y, 0, -0.9, 0.19 + 0.03 * v, 0.14), THIRD), (envelope, MAIN), (stripe, SECOND)]


def cup(x, y, v):
    bottom = 0.5 + 0.12 * v
    bowl = polygon(x, y, (-bottom, -0.65), (bottom, -0.65), (0.62, 0.55), (-0.62, 0.55))
    handle = abs(disc(x, y, 0.64, 0.0, 0.3)) - 0.1
    saucer = ellipse(x, y, 0, -0.72, 0.95, 0.15)
    return [(handle, THIRD), (saucer, THIRD), (bowl, MAIN), (ellipse(x, y, 0, 0.53, 0.62, 0.16), SECOND)]


def fir(x, y, v):
    width = 0.72 + 0.1 * v
    low = polygon(x, y, (-width, -0.7), (width, -0.7), (0, 0.25))
    middle = polygon(x, y, (-0.8 * width, -0.2), (0.8 * width, -0.2), (0, 0.65))
    high = polygon(x, y, (-0.6 * width, 0.3), (0.6 * width, 0.3), (0, 1.05))
    return [(box(x, y, 0, -0.85, 0.14, 0.22), THIRD), (low, MAIN), (middle, SECOND), (high, MAIN)]


def fish(x, y, v):
    body = ellipse(x, y, -0.2, 0, 0.75, 0.48 + 0.06 * v)
    tail = polygon(x, y, (0.3, 0), (1.0, -0.5), (0.85, 0), (1.0, 0.5))
    fin = polygon(x, y, (-0.3, 0.3), (0.3, 0.2), (0.25, 0.75))
    return [(tail, SECOND), (fin, SECOND), (body, MAIN), (disc(x, y, -0.58, 0.12, 0.13), THIRD)]


def flower(x, y, v):
    petals = np.round(6 + 1.49 * v)
    radius = 0.72 + 0.22 * np.cos(petals * np.arctan2(y, x))
    return [((np.hypot(x, y) - radius) * 0.7, MAIN), (disc(x, y, 0, 0, 0.34), SECOND)]


def house(x, y, v):
    wall = box(x, y, 0, -0.4, 0.62, 0.45)
    roof = polygon(x, y, (-0.88, 0), (0.88, 0), (0, 0.78 + 0.12 * v))
    chimney = box(x, y, 0.45, 0.5, 0.11, 0.35)
    door = box(x, y, -0.22, -0.55, 0.16, 0.3)
    window = box(x, y, 0.28, -0.35, 0.15, 0.15)
    return [(chimney, THIRD), (wall, MAIN), (roof, SECOND), (door, THIRD), (window, THIRD)]


def moon(x, y, v):
    crescent = np.maximum(disc(x, y, 0, 0, 0.95), -disc(x, y, 0.52 + 0.06 * v, 0.2, 0.78))
    return [(crescent, MAIN), (disc(x, y, -0.55, -0.2, 0.14), SECOND), (disc(x, y, -0.2, -0.68, 0.1), SECOND)]


def mushroom(x, y, v):
    cap = np.maximum(ellipse(x, y, 0, -0.05, 0.95, 0.85), -0.05 - y)
    stem = polygon(x, y, (-0.34, -0.85), (0.34, -0.85), (0.22, 0.1), (-0.22, 0.1))
    dots = np.minimum(disc(x, y, -0.42, 0.25, 0.15), disc(x, y, 0.1 + 0.1 * v, 0.45, 0.17))
    return [(stem, THIRD), (cap, MAIN), (np.minimum(dots, disc(x, y, 0.55, 0.15, 0.13)), SECOND)]


def sailboat(x, y, v):
    hull = polygon(x, y, (-0.6, -0.85), (0.55, -0.85), (0.9, -0.42), (-0.9, -0.42))
    mainsail = polygon(x, y, (-0.02, -0.3), (0.75 + 0.1 * v, -0.3), (-0.02, 0.95))
    jib = polygon(x, y, (-0.7, -0.3), (-0.14, -0.3), (-0.14, 0.7 + 0.1 * v))
    return [(hull, THIRD), (mainsail, MAIN), (jib, SECOND)]


def star(x, y, v):
    fifth = 2 * math.pi / 5
    # 0 at a point of the star, fifth / 2 in a notch.
    angle = abs((np.arctan2(x, y) + fifth / 2) % fifth - fifth / 2)
    radius = np.hypot(x, y)
    inner = 0.48 + 0.05 * v
    # The normal of the edge from the notch to the point: the edge turned by 90 degrees.
    nx, ny = inner * math.sin(fifth / 2), 1 - inner * math.cos(fifth / 2)
    edge = ((radius * np.cos(angle) - 1) * nx + radius * np.sin(angle) * ny) / np.hypot(nx, ny)
    return [(edge, MAIN), (edge + 0.24, SECOND)]


SHAPES = (balloon, cup, fir, fish, flower, house, moon, mushroom, sailboat, star)
SAMPLE_CLASSES = tuple(shape.__name__ for shape in SHAPES)


def area(shape):
    """Area of a shape in its own units, counted on a grid."""
    steps = np.linspace(-1.2, 1.2, 97)
    outline = np.minimum.reduce([distance for distance, _ in shape(steps, steps[:, None], 0.0)])
    return float((outline < 0).mean() * 2.4**2)


def colour(hue, chroma, lightness):
    """(n,) each -> (n, 3, 1, 1) RGB in [0, 1], hue in turns; shifted cosines make all hues equally soft."""
    rgb = lightness[:, None] + chroma[:, None] * np.cos(2 * np.pi * (hue[:, None] - np.arange(3) / 3))
    return np.clip(rgb, 0.03, 0.97).astype(np.float32)[..., None, None]


def draw_palette(rng, n):
    """Two colours of a background and three of an object, (n, 3, 1, 1) each: light on dark or dark on light.

    The object's three come in random order: a class that shows more of MAIN must not be known by it.
    """
    hue, side = rng.random(n), rng.choice([-1, 1], n)
    level = 0.52 - side * rng.uniform(0.16, 0.32, n)
    chroma = rng.uniform(0.06, 0.18, n)
    ground = [
        colour(hue, chroma, level - 0.05),
        colour(hue + rng.uniform(-0.2, 0.2, n), chroma, level + rng.uniform(0.05, 0.15, n)),
    ]
    paints = []
    for turn, contrast in ((0.5, 0.32), (0.4, 0.52), (0.15, 0.42)):
        other = hue + rng.choice([-1, 1], n) * turn + rng.uniform(-0.12, 0.12, n)
        lightness = level + side * (contrast + rng.uniform(-0.07, 0.07, n))
        paints.append(colour(other, rng.uniform(0.08, 0.24, n), lightness))
    order = rng.permuted(np.tile(np.arange(3), (n, 1)), axis=1)
    paints = np.stack(paints)[order.T, np.arange(n)]
    return ground, paints


def blend(picture, paint, cover):
    """Paint over picture, (n, 3, 32, 32), where cover, (n, 32, 32) in [0, 1], says so; in place."""
    picture += cover[:, None] * (paint - picture)


def draw_background(rng, n, ground):
    """(n, 3, 32, 32) float32: a soft gradient in any direction, with a few large discs out of focus."""
    x = np.linspace(-1, 1, SIZE, dtype=np.float32)
    y = x[:, None]
    turn = rng.uniform(0, 2 * np.pi, (n, 1, 1)).astype(np.float32)
    slope = 0.5 + 0.4 * (np.cos(turn) * x + np.sin(turn) * y)
    picture = ground[0] + slope[:, None] * (ground[1] - ground[0])
    for _ in range(3):
        table = rng.uniform([-1, -1, 0.15], [1, 1, 0.5], (n, 3)).astype(np.float32)
        cx, cy, radius = table.T[..., None, None]
        glow = np.clip(0.5 - disc(x, y, cx, cy, radius) * 5, 0, 1)
        blend(picture, ground[1] + np.float32(0.12), np.float32(0.4) * glow)
    return picture


def draw_class(shape, rng, n):
    """n pictures of one class, (n, 32, 32, 3) uint8."""
    ground, paints = draw_palette(rng, n)
    picture = draw_background(rng, n, ground)

    table = rng.uniform(*zip(*RANGES.values(), strict=True), (n, len(RANGES))).astype(np.float32)
    scale, dx, dy, tilt, stretch, v, clear = table.T[..., None, None]
    paints = [ground[0] + clear[:, None] * (paint - ground[0]) for paint in paints]  # mist
    scale = scale / np.float32(area(shape) ** 0.5)  # pixels a unit: all classes cover equally many of them
    mirror = rng.choice(np.float32([-1, 1]), (n, 1, 1))
    pixels = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    px, py = (pixels - dx) / scale, (dy - pixels[:, None]) / scale
    x = mirror * (np.cos(tilt) * px + np.sin(tilt) * py) * stretch
    y = (np.cos(tilt) * py - np.sin(tilt) * px) / stretch

    layers = [(distance * scale, paint) for distance, paint in shape(x, y, v)]
    outline = np.minimum.reduce([distance for distance, _ in layers])
    shadow = np.pad(outline, ((0, 0), (2, 0), (1, 0)), mode="edge")[:, :SIZE, :SIZE]
    blend(picture, ground[0] * np.float32(0.4), np.float32(0.5) * clear * np.clip(0.5 - shadow / 3, 0, 1))
    light = 1 + np.float32(0.12) * np.clip(py - px, -1, 1)[:, None]  # from the upper left
    for distance, paint in layers:
        blend(picture, paints[paint] * light, np.clip(0.5 - distance, 0, 1))
    picture += 0.01 * rng.standard_normal(picture.shape, np.float32)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)


def draw_sample(train: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The sample's training or test pictures; always the same ones.

    Args:
        train: True for the 4,096 training pictures, False for the 1,024 test pictures (same distribution).

    Returns:
        pictures, (N, 32, 32, 3) uint8, and labels, (N,) int64, indices into `SAMPLE_CLASSES`. The first n
        pictures hold each class equally often, give or take one, for any n.
    """
    count, seed = (TRAIN_PICTURES, TRAIN_SEED) if train else (TEST_PICTURES, TEST_SEED)
    rng = np.random.default_rng(seed)
    rounds = -(-count // len(SHAPES))
    labels = rng.permuted(np.tile(np.arange(len(SHAPES)), (rounds, 1)), axis=1).ravel()[:count]
    pictures = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for label, shape in enumerate(SHAPES):
        mine = np.flatnonzero(labels == label)
        for part in np.array_split(mine, -(-len(mine) // CHUNK)):
            pictures[part] = draw_class(shape, rng, len(part))
    return pictures, labels
