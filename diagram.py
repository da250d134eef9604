"""How does one draw a network? `plot_model`, which `utils.py` hands on with the other figures."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Outline

from drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MARGIN,
    ORANGE,
    PALE,
    YELLOW,
    canvas,
    check_lengths,
    finish,
    put_picture,
    styled,
)


def _layers(ax, layers, x: int, middle: int, side: int) -> tuple[int, int]:
    """Draw upright bars, a layer each, lower where the picture is smaller; returns the next x and side."""
    fills = {"Conv": BLUE, "Linear": BLUE, "MaxPool": GREEN, "ReLU": YELLOW}
    for layer in layers:
        fill = next((colour for kind, colour in fills.items() if layer.startswith(kind)), PALE)
        height = 180 + 16 * np.log2(side)
        box = FancyBboxPatch((x + 2, middle - height / 2), 25, height, boxstyle="round,pad=0,rounding_size=5")
        box.set(facecolor=fill, edgecolor=INK, linewidth=0.6)
        ax.add_patch(box)
        style = {
            "rotation": 90,
            "ha": "center",
            "va": "center",
            "color": "white" if fill in (BLUE, GREEN) else INK,
        }
        ax.text(
            x + 15,
            middle,
            layer,
            size=min(8.5, 0.8 * height / len(layer)),
            **style,
        )
        x += 29
        if layer.startswith("MaxPool"):
            side = max(1, side // int(layer.split()[-1]))
    return x, side


def _skip(ax, start: int, end: int, middle: int, top: int, branch: str) -> None:
    """The skip connection, from `start` over the branch to the circle at `end`, where both are added."""
    r = 24
    bend = [(start, middle), (start, top + r), (start, top), (start + r, top), (end - r, top), (end, top)]
    bend += [(end, top + r), (end, middle - r)]
    line = Outline(bend, [1, 2, 3, 3, 2, 3, 3, 2])  # move, line, curve (two points), line, curve, line
    style = {"color": ORANGE, "lw": 3.5}
    ax.add_patch(FancyArrowPatch(path=line, arrowstyle="-|>", mutation_scale=16, fill=False, **style))
    ax.add_patch(Circle((start, middle), 7, color=ORANGE, zorder=4))
    ax.add_patch(Circle((end, middle), r, facecolor="white", edgecolor=ORANGE, lw=3.5, zorder=4))
    ax.plot([end - 12, end + 12], [middle, middle], [end, end], [middle - 12, middle + 12], zorder=5, **style)
    for x, y, words in (
        ((start + end) / 2, top - 12, "skip: X unchanged"),
        ((start + end) / 2, top + 34, branch),
        (start, middle + 34, "X"),
        (end, middle + 58, f"X + {branch}"),
    ):
        ax.text(x, y, words, ha="center", color=ORANGE, weight="bold", size=8.5)


def _width(block: dict) -> int:
    """Dots that a block's bars take, with the fork and the circle of its addition."""
    branch = block.get("residual") or ()
    return 29 * (len(block["layers"]) + len(branch)) + (140 if _adds(block) else 0)


def _adds(block: dict) -> bool:
    return bool(block.get("residual")) and block.get("add", True)


def _block(ax, block: dict, x: int, middle: int, side: int, branch: str) -> int:
    """Draw a block from x on, skip connection and all; returns the side of the picture behind it."""
    end = x + _width(block)
    x, side = _layers(ax, block["layers"], x, middle, side)
    if _adds(block):
        ax.plot([x, end], [middle, middle], color=INK, lw=1.2, zorder=0)
        _skip(ax, x + 18, end - 52, middle, middle - 168, branch)
        x += 36
    return _layers(ax, block.get("residual") or (), x, middle, side)[1]


@styled
def plot_model(blocks, *, picture=None, note="", path=None) -> Figure:
    """The network from left to right, a bar a layer; the additions stand out.

    blocks: dicts with `name`; `layers`, a list of words such as "Conv 3×3, 64"; `out`, the shape (channels,
    height, width) behind the block; `residual`, the layers of the branch, or None; `add`: False draws the
    branch in line, with nothing added. picture: what to show as the input (32x32x3).
    """
    check_lengths(blocks=blocks)
    gap, side, skips = 24, 32, sum(map(_adds, blocks))
    middle = 206 if skips else 140
    shapes = ["×".join(map(str, block["out"])) for block in blocks]
    widths = [max(_width(b), 13 * len(b["name"]), 11 * len(out)) for b, out in zip(blocks, shapes, strict=True)]
    fig, ax = canvas(2 * MARGIN + 96 + sum(widths) + gap * len(blocks), middle + 220)
    put_picture(ax, np.full((32, 32), 0.89) if picture is None else picture, MARGIN, middle - 48, 96)
    labels = [(MARGIN + 48, "input", "3×32×32")]
    x = last = MARGIN + 96
    for i, (block, shape, width) in enumerate(zip(blocks, shapes, widths, strict=True)):
        x += gap
        begin = x + (width - _width(block)) // 2
        arrow = {"arrowstyle": "-|>", "color": INK}
        ax.annotate("", (begin + 4, middle), (last, middle), arrowprops=arrow, zorder=0)
        side = _block(ax, block, begin, middle, side, f"R{sum(map(_adds, blocks[: i + 1]))}(X)")
        labels.append((x + width / 2, block["name"], shape))
        last, x = begin + _width(block), x + width
    for place, name, shape in labels:
        ax.text(place, middle + 152, name, ha="center", weight="bold")
        ax.text(place, middle + 178, shape, ha="center", size=9)
    words = "Below each block: channels × height × width of its output."
    ax.text(MARGIN, middle + 218, words, size=8.5, color=GREY)
    title = f"The network, with {skips} residual additions" if skips else "The network without residual additions"
    return finish(fig, title, note, path)
