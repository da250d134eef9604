"""Drawings of our network and of four kinds of residual blocks, with what is added in orange.

plot_model(model, image, path="misc/model.png")
plot_blocks(path="misc/blocks.png")               # or: python -m extras.diagram
"""

import numpy as np
from matplotlib.patches import Circle, FancyBboxPatch
from torch import nn

import utils

COLOURS = {"Conv": utils.BLUE, "Linear": utils.BLUE, "MaxPool": utils.GREEN, "ReLU": utils.YELLOW}
GREY = {"ha": "center", "size": utils.SMALL, "color": utils.GREY}
BAR = 27  # a layer of the network, in pixels
HEIGHT, LINE = 262, 134  # of a row, and where in it the data flow
# of the network: attribute, the assignment's name, output, height of its bars
ROWS = [
    [
        ("prep_layer", "PrepLayer", "64×32×32", 162),
        ("layer1", "Layer 1", "128×16×16", 154),
        ("layer2", "Layer 2", "256×8×8", 146),
    ],
    [
        ("layer3", "Layer 3", "512×4×4", 138),
        ("pool", "MaxPool", "512×1×1", 122),
        ("fc", "FC", None, 122),
        ("softmax", "SoftMax", None, 122),
    ],
]
BRANCHES = {"layer1": ("resblock1", "R1(X)"), "layer3": ("resblock2", "R2(X)")}
# name, what is special, layers ("+": the addition of X), what comes out
BLOCKS = [
    ("Plain", "no addition", "Conv BN ReLU Conv BN ReLU", "R(X)"),
    ("Ours", "ReLU, then addition", "Conv BN ReLU Conv BN ReLU +", "X + R(X)"),
    ("He et al. 2015", "addition, then ReLU", "Conv BN ReLU Conv BN + ReLU", "ReLU(X + R(X))"),
    ("He et al. 2016", "first BatchNorm, ReLU", "BN ReLU Conv BN ReLU Conv +", "X + R(X)"),
]
SOURCES = "He et al.: arXiv:1512.03385 (2015) and arXiv:1603.05027 (2016)"


def describe(layer) -> str:
    """One layer in a few words."""
    if isinstance(layer, nn.Conv2d):
        return f"Conv {layer.kernel_size[0]}×{layer.kernel_size[1]}, {layer.out_channels}"
    if isinstance(layer, nn.MaxPool2d):
        return f"MaxPool {layer.kernel_size}"
    if isinstance(layer, nn.Linear):
        return f"Linear {layer.in_features} → {layer.out_features}"
    return type(layer).__name__.removesuffix("2d")


def new_drawing(height: int):
    """A figure, and axes on all of it that count in pixels from its upper left corner."""
    fig = utils.new_figure(utils.WIDTH, height, None)
    ax = fig.add_axes(utils.box(fig, 0, 0, utils.WIDTH, height))
    ax.set(xlim=(0, utils.WIDTH), ylim=(height, 0))
    ax.axis("off")
    return fig, ax


def draw_layer(ax, words: str, x: float, y: float, width: float, height: float, **style) -> None:
    """A box around (x, y) in the colour of its kind of layer."""
    colour = next((COLOURS[kind] for kind in COLOURS if words.startswith(kind)), utils.PALE)
    ink = "white" if colour in (utils.BLUE, utils.GREEN) else utils.INK
    corner = (x - width / 2, y - height / 2)
    shape = "round,pad=0,rounding_size=4"
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=shape, fc=colour, ec=utils.INK))
    ax.text(x, y, words, ha="center", va="center", color=ink, **style)


def draw_arrow(ax, start, end, color=utils.INK, size: int = 13) -> None:
    """From start to end, below the layers that stand in between."""
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.2, "mutation_scale": size}
    ax.annotate("", end, start, arrowprops=style | {"shrinkA": 0, "shrinkB": 0}, zorder=0)


def draw_skip(ax, points, formula: str = "") -> None:
    """X on its way past the layers, from the first point to the addition at the last one."""
    radius = 17
    style = {"color": utils.ORANGE, "lw": 4}
    (x, y), along = points[-1], np.sign(np.subtract(points[-1], points[-2]))
    tip = (x - along[0] * radius, y - along[1] * radius)
    path = [*points[:-1], (x - along[0] * (radius + 8), y - along[1] * (radius + 8))]
    ax.plot(*np.transpose(path), solid_joinstyle="round", **style)
    draw_arrow(ax, path[-1], tip, utils.ORANGE, size=26)
    ax.add_patch(Circle(points[0], 5, color=utils.ORANGE, zorder=4))
    ax.add_patch(Circle((x, y), radius, fc="white", ec=utils.ORANGE, lw=4, zorder=4))
    ax.plot([x - 9, x + 9], [y, y], [x, x], [y - 9, y + 9], zorder=5, **style)
    if formula:
        middle, top = np.mean(points, axis=0)[0], points[1][1]
        bold = {"ha": "center", "color": utils.ORANGE, "weight": "bold", "size": utils.SMALL}
        ax.text(middle, top - 9, "skip: X unchanged", **bold)
        ax.text(middle, top + 19, formula, **bold)
        ax.text(points[0][0], y + 26, "X", **bold)
        ax.text(x, y + 38, f"X + {formula}", **bold)


def draw_bars(ax, layers, x: float, y: float, height: float) -> float:
    """Upright bars from x to the right, a layer each; returns where they end."""
    for layer in layers:
        words = describe(layer)
        size = min(12, 1.25 * height / len(words))
        draw_layer(ax, words, x + BAR / 2, y, BAR - 3, height, rotation=90, size=size)
        x += BAR
    return x


@utils.styled
def plot_model(model, image, *, note="", path=None) -> utils.Figure:
    """Our network, a bar a layer, with or without its skip connections. image: the input."""
    fig, ax = new_drawing(2 * HEIGHT)
    utils.put_image(fig, image, utils.MARGIN, LINE - 40, 80)
    ax.text(utils.MARGIN + 40, LINE + 98, "input", ha="center", weight="bold", size=12)
    ax.text(utils.MARGIN + 40, LINE + 116, "3×32×32", **GREY)
    for row, gap, x in ((0, 30, utils.MARGIN + 80), (1, 60, utils.MARGIN)):
        y = LINE + HEIGHT * row
        for attribute, name, out, height in ROWS[row]:
            start = x + gap
            draw_arrow(ax, (x + 1, y), (start, y))
            layers = [m for m in getattr(model, attribute).modules() if not list(m.children())]
            x = draw_bars(ax, layers, start, y, height)
            if attribute in BRANCHES:
                branch, formula = BRANCHES[attribute]
                before, behind = (36, 90) if model.residual else (0, 0)
                end = draw_bars(ax, getattr(model, branch), x + before, y, height)
                if model.residual:
                    ax.plot([x, end + behind], [y, y], color=utils.INK, lw=1.2, zorder=0)
                    way = [(x + 17, y), (x + 17, y - 100), (end + 47, y - 100), (end + 47, y)]
                    draw_skip(ax, way, formula)
                x = end + behind
            ax.text((start + x) / 2, y + 98, name, ha="center", weight="bold", size=12)
            ax.text((start + x) / 2, y + 116, out or model.fc.out_features, **GREY)
        draw_arrow(ax, (x + 1, y), (x + 28, y))
    title = "The network, with 2 skip connections"
    if not model.residual:
        title = "The network without skip connections"
    words = "Below each part: channels × height × width of its output"
    return utils.finish(fig, f"{title}\n{words}", note, path)


@utils.styled
def plot_blocks(*, note=SOURCES, path=None) -> utils.Figure:
    """Four residual blocks: without the addition, ours, and those of He et al."""
    fig, ax = new_drawing(490)
    for column, (name, words, layers, result) in enumerate(BLOCKS):
        x = utils.MARGIN + 200 * column + 74
        ax.text(x, 16, name, ha="center", weight="bold", size=15)
        ax.text(x, 40, words, ha="center", size=12.5, color=utils.GREY)
        ax.text(x, 72, "X", ha="center", size=14)
        draw_arrow(ax, (x, 80), (x, 454))
        ax.text(x, 478, result, ha="center", size=14)
        for i, layer in enumerate(layers.replace("BN", "BatchNorm").split()):
            y = 128 + 48 * i
            if layer == "+":
                draw_skip(ax, [(x, 94), (x + 84, 94), (x + 84, y), (x, y)])
            else:
                draw_layer(ax, layer, x, y, 116, 34, size=14)
    title = "Residual blocks: where X is added, and where ReLU stands"
    words = "Along the orange line, X passes the layers unchanged; R(X) is what they make of it"
    return utils.finish(fig, f"{title}\n{words}", note, path)


if __name__ == "__main__":
    plot_blocks(path="misc/blocks.png")
