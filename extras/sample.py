"""Draw the built-in sample data: ten classes of 32x32 colour images, made by code, *not* CIFAR-10.

    from extras.sample import SAMPLE_CLASSES, draw_sample
    images, labels = draw_sample(train=True)    # (4096, 32, 32, 3) uint8, (4096,) int64

The shape is the class. The background is a hint only: two classes share each scene, and one image
in five has a random one. Shapes are signed distances
(https://iquilezles.org/articles/distfunctions2d): one formula draws many images at once.
"""

import numpy as np

SIZE = 32  # pixels
PIXELS = np.arange(SIZE) - (SIZE - 1) / 2  # their distances from the centre

USUAL_SCENE = 0.8  # share of the images with their class's scene; the others have a random one
SCENES = (  # lightness and hue of the background, three hues of the object; 0, 1/3, 2/3: R, G, B
    (0.74, 0.10, 0.97, 0.60, 0.08),  # indoors: balloon, cup
    (0.28, 0.22, 0.36, 0.02, 0.10),  # forest: fir, mushroom
    (0.66, 0.55, 0.06, 0.62, 0.95),  # water: fish, sailboat
    (0.72, 0.32, 0.90, 0.03, 0.15),  # meadow: flower, house
    (0.20, 0.72, 0.14, 0.10, 0.50),  # night: moon, star
)

# What else differs from image to image, drawn evenly between two limits.
OBJECT = {
    "scale": (7.5, 12.5),  # half of its height, pixels
    "dx": (-5, 5),  # pixels right of the centre
    "dy": (-5, 5),  # pixels below it
    "tilt": (-0.5, 0.5),  # radians
    "stretch": (0.85, 1.18),  # narrower and taller above 1
    "v": (-1, 1),  # proportions, see the shapes
    "contrast": (0.45, 1),  # below 1, as in mist
    "blur": (1, 2),  # width of an edge, pixels
}
AWAY = dict(scale=(3.5, 6.5), dx=(-14, 14), dy=(-14, 14), contrast=(0.3, 0.6), blur=(1.5, 3))
IN_FRONT = dict(scale=(4, 9), dx=(-11, 11), dy=(-11, 11), tilt=(0, np.pi), contrast=(0.8, 1))
FAR, LEAF = OBJECT | AWAY, OBJECT | IN_FRONT


def disc(x, y, cx, cy, radius):
    """Distance to a disc."""
    return np.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius


def ellipse(x, y, cx, cy, rx, ry):
    """Distance to an ellipse; exact at its edge only, which is all that an image shows."""
    return disc((x - cx) / rx, (y - cy) / ry, 0, 0, 1) * np.minimum(rx, ry)


def box(x, y, cx, cy, half_width, half_height):
    """Distance to an upright rectangle."""
    return np.maximum(abs(x - cx) - half_width, abs(y - cy) - half_height)


def polygon(x, y, *corners):
    """Distance to a convex polygon, counter-clockwise: that to the farthest edge's half-plane."""
    distance = -np.inf
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        distance = np.maximum(distance, ((x - ax) * ey - (y - ay) * ex) / np.sqrt(ex**2 + ey**2))
    return distance


# One function per class. x points right, y up, and the object fills about -1 to 1. `v`, in [-1, 1],
# varies the proportions. They return layers, (distance, which of the object's three colours),
# painted in this order.


def balloon(x, y, v):
    skirt = polygon(x, y, (-0.66, 0.0), (-0.2, -0.62), (0.2, -0.62), (0.66, 0.0))
    envelope = np.minimum(disc(x, y, 0, 0.25, 0.72), skirt)
    stripe = np.maximum(ellipse(x, y, 0, 0.15, 0.27, 0.85), envelope)
    return [(box(x, y, 0, -0.9, 0.19 + 0.03 * v, 0.14), 2), (envelope, 0), (stripe, 1)]


def cup(x, y, v):
    bottom = 0.5 + 0.12 * v
    bowl = polygon(x, y, (-bottom, -0.65), (bottom, -0.65), (0.62, 0.55), (-0.62, 0.55))
    handle = abs(disc(x, y, 0.64, 0.0, 0.3)) - 0.1
    saucer = ellipse(x, y, 0, -0.72, 0.95, 0.15)
    return [(np.minimum(handle, saucer), 2), (bowl, 0), (ellipse(x, y, 0, 0.53, 0.62, 0.16), 1)]


def fir(x, y, v):
    width = 0.72 + 0.1 * v
    low = polygon(x, y, (-width, -0.7), (width, -0.7), (0, 0.25))
    middle = polygon(x, y, (-0.8 * width, -0.2), (0.8 * width, -0.2), (0, 0.65))
    high = polygon(x, y, (-0.6 * width, 0.3), (0.6 * width, 0.3), (0, 1.05))
    return [(box(x, y, 0, -0.85, 0.14, 0.22), 2), (low, 0), (middle, 1), (high, 0)]


def fish(x, y, v):
    body = ellipse(x, y, -0.2, 0, 0.75, 0.48 + 0.06 * v)
    tail = polygon(x, y, (0.3, 0), (1.0, -0.5), (0.85, 0), (1.0, 0.5))
    fin = polygon(x, y, (-0.3, 0.3), (0.3, 0.2), (0.25, 0.75))
    return [(np.minimum(tail, fin), 1), (body, 0), (disc(x, y, -0.58, 0.12, 0.13), 2)]


def flower(x, y, v):
    petals = np.round(6 + 1.49 * v)
    radius = 0.72 + 0.22 * np.cos(petals * np.arctan2(y, x))
    return [(0.7 * disc(x, y, 0, 0, radius), 0), (disc(x, y, 0, 0, 0.34), 1)]


def house(x, y, v):
    wall = box(x, y, 0, -0.4, 0.62, 0.45)
    roof = polygon(x, y, (-0.88, 0), (0.88, 0), (0, 0.78 + 0.12 * v))
    chimney = box(x, y, 0.45, 0.5, 0.11, 0.35)
    openings = np.minimum(box(x, y, -0.22, -0.55, 0.16, 0.3), box(x, y, 0.28, -0.35, 0.15, 0.15))
    return [(chimney, 1), (wall, 2), (roof, 1), (openings, 0)]


def moon(x, y, v):
    crescent = np.maximum(disc(x, y, 0, 0, 0.95), -disc(x, y, 0.52 + 0.06 * v, 0.2, 0.78))
    craters = np.minimum(disc(x, y, -0.55, -0.2, 0.14), disc(x, y, -0.2, -0.68, 0.1))
    return [(crescent, 0), (craters, 1)]


def mushroom(x, y, v):
    cap = np.maximum(ellipse(x, y, 0, -0.05, 0.95, 0.85), -0.05 - y)
    stem = polygon(x, y, (-0.34, -0.85), (0.34, -0.85), (0.22, 0.1), (-0.22, 0.1))
    dots = np.minimum(disc(x, y, -0.42, 0.25, 0.15), disc(x, y, 0.1 + 0.1 * v, 0.45, 0.17))
    return [(stem, 2), (cap, 1), (np.minimum(dots, disc(x, y, 0.55, 0.15, 0.13)), 2)]


def sailboat(x, y, v):
    hull = polygon(x, y, (-0.6, -0.85), (0.55, -0.85), (0.9, -0.42), (-0.9, -0.42))
    mainsail = polygon(x, y, (-0.02, -0.3), (0.75 + 0.1 * v, -0.3), (-0.02, 0.95))
    jib = polygon(x, y, (-0.7, -0.3), (-0.14, -0.3), (-0.14, 0.7 + 0.1 * v))
    return [(hull, 2), (mainsail, 0), (jib, 1)]


def star(x, y, v):
    fifth, slant = 2 * np.pi / 5, 1.13 - 0.05 * v
    # 0 at a point, fifth / 2 in a notch
    angle = abs((np.arctan2(x, y) + fifth / 2) % fifth - fifth / 2)
    edge = disc(x, y, 0, 0, 0) * np.cos(angle - slant) - np.cos(slant)
    return [(edge, 0), (edge + 0.24, 1)]


def leaf(x, y, v):  # not a class: it hides a part of the object
    width = 0.25 + 0.08 * v
    # two discs with their centres at y = -offset and offset overlap in a leaf
    offset = (1 - width**2) / (2 * width)
    return [(disc(x, abs(y), 0, -offset, offset + width), 1)]


CLASSES = (balloon, cup, fir, fish, flower, house, moon, mushroom, sailboat, star)
SHAPES = dict(zip(CLASSES, (0, 0, 1, 2, 3, 3, 4, 1, 2, 4), strict=True))  # with their scenes
SAMPLE_CLASSES = tuple(shape.__name__ for shape in SHAPES)


def draw_colour(rng, hue, chroma, lightness):
    """RGB in [0, 1], (n, 3, 1, 1), near a hue; shifted cosines make all hues equally soft."""
    hue = hue + rng.uniform(-0.07, 0.07, hue.shape)
    waves = rng.uniform(*chroma, hue.shape) * np.cos(2 * np.pi * (hue - np.arange(3)[:, None] / 3))
    return np.clip(lightness + waves, 0.03, 0.97).T[..., None, None]


def draw_palette(rng, shape, n):
    """Two colours of a background, and three of an object: light in the dark, dark in the light."""
    usual = rng.random_sample(n) < USUAL_SCENE
    scene = np.where(usual, SHAPES[shape], rng.random_sample(n) * len(SCENES))
    level, ground_hue, *hues = np.array(SCENES)[scene.astype(int)].T
    side = np.where(level < 0.5, 1, -1)
    level = level + rng.uniform(-0.1, 0.1, n)
    ground = [draw_colour(rng, ground_hue, (0.08, 0.2), level + shift) for shift in (-0.05, 0.1)]
    paints = [
        draw_colour(rng, hue, (0.14, 0.28), level + side * rng.uniform(0.3, 0.5, n)) for hue in hues
    ]
    return ground, paints


def blend(image, paint, distance, opacity=1.0):
    """Paint over the images, (n, 3, 32, 32), inside the edge at distance 0 (pixels); in place."""
    image += (opacity * np.clip(0.5 - distance, 0, 1))[:, None] * (paint - image)


def draw_object(image, shape, rng, ground, paints, ranges):
    """Draw a shape with its shadow on every image, in place."""
    table = rng.uniform(*zip(*ranges.values(), strict=True), (len(image), len(ranges)))
    scale, dx, dy, tilt, stretch, v, contrast, blur = table.T[..., None, None]
    px, py = (PIXELS - dx) / scale, (dy - PIXELS[:, None]) / scale
    x = np.sign(rng.uniform(-1, 1, dx.shape)) * (np.cos(tilt) * px + np.sin(tilt) * py) * stretch
    y = (np.cos(tilt) * py - np.sin(tilt) * px) / stretch

    layers = [(distance * scale, paint) for distance, paint in shape(x, y, v)]
    outline = np.minimum.reduce([distance for distance, _ in layers])
    below = image[..., 2:, 1:]  # the shadow falls to the lower right
    blend(below, 0.4 * ground[0], outline[:, :-2, :-1] / 3, 0.5 * contrast)
    light = 1 + 0.12 * np.clip(py - px, -1, 1)[:, None]  # from the upper left
    for distance, paint in layers:
        colour = ground[0] + contrast[:, None] * (paints[paint] - ground[0])
        blend(image, light * colour, distance / blur)


def draw_images(shape, far_shape, rng, n):
    """n images of one class, with an object of any class far behind: (n, 32, 32, 3) uint8."""
    ground, paints = draw_palette(rng, shape, n)
    turn = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    slope = 0.5 + 0.025 * (np.cos(turn) * PIXELS + np.sin(turn) * PIXELS[:, None])
    image = ground[0] + slope[:, None] * (ground[1] - ground[0])  # a soft gradient in any direction
    for _ in range(3):  # large discs, out of focus
        cx, cy, radius = rng.uniform([-16, -16, 2], [16, 16, 8], (n, 3)).T[..., None, None]
        blend(image, ground[1] + 0.12, disc(PIXELS, PIXELS[:, None], cx, cy, radius) / 3, 0.4)
    draw_object(image, far_shape, rng, ground, draw_palette(rng, far_shape, n)[1], FAR)
    draw_object(image, shape, rng, ground, paints, OBJECT)
    draw_object(image, leaf, rng, ground, draw_palette(rng, shape, n)[1], LEAF)
    image += rng.uniform(-0.02, 0.02, image.shape)  # grain
    # the last bits of a sine depend on the processor; rounded, they do not reach the image
    return (np.round(255 * np.clip(image, 0, 1), 6) + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)


def draw_sample(train=True):
    """Draw the 4,096 training or the 1,024 test images of one distribution, always the same ones.

    Returns images, (N, 32, 32, 3) uint8, and labels, (N,) int64, indices into `SAMPLE_CLASSES`. The
    first n images hold each class equally often, give or take one, for any n.
    """
    count, seed = (4096, 10) if train else (1024, 11)
    # its stream is frozen; that of default_rng may change with NumPy's version
    rng = np.random.RandomState(seed)
    rounds = -(-count // len(SHAPES))
    labels = rng.random_sample((rounds, len(SHAPES))).argsort(axis=1).ravel()[:count]
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for label, shape in enumerate(SHAPES):
        of_class = np.flatnonzero(labels == label)
        # each shape far behind in a tenth of the images, so that it tells nothing
        for first, far_shape in enumerate(SHAPES):
            part = of_class[first :: len(SHAPES)]
            images[part] = draw_images(shape, far_shape, rng, len(part))
    return images, labels
