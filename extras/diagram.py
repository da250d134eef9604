"""Draw a network from left to right, a bar for each layer, so that the skip connections stand out.

plot_model(network_parts(model), image=image, path="misc/model.png")
"""

from contextlib import ExitStack

import numpy as np
import torch
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from torch import nn

import utils
from extras.gradcam import evaluation_mode

TITLES = {"prep_layer": "PrepLayer", "layer1": "Layer 1", "layer2": "Layer 2", "layer3": "Layer 3"}
TITLES |= {"pool": "MaxPool", "fc": "FC", "softmax": "SoftMax"}  # the assignment's names


def network_parts(model, input_size=(3, 32, 32)) -> list[dict]:
    """What a drawing of the network needs, read off the model by running it on an image of zeros.

    The model's children are drawn in their order, `Flatten` apart. One of a class named ResBlock is
    the residual branch of the child before it, added to its input unless `model.residual` is False.
    input_size: (channels, height, width).
    Returns a list of dicts, the input first: name, layers (texts), out (shape behind the part,
    without N), residual (texts of the branch, or None), add (whether the branch is added to its
    input).
    """
    parameter, shapes = next(model.parameters()), {}

    def keep(module, inputs, output):
        shapes[module] = tuple(output.shape[1:])

    with (
        evaluation_mode(model),
        torch.no_grad(),
        ExitStack() as hooks,
    ):  # zeros must not move BatchNorm's statistics
        for child in model.children():
            hooks.enter_context(child.register_forward_hook(keep))
        model(torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype))
    no_branch = {"residual": None, "add": False}
    parts = [{"name": "input", "layers": [], "out": tuple(input_size)} | no_branch]
    for name, child in model.named_children():
        layers = [describe(layer) for layer in child.modules() if not list(layer.children())]
        if type(child).__name__ == "ResBlock":
            parts[-1] |= {"residual": layers, "add": getattr(model, "residual", True)}
        elif child in shapes and not isinstance(child, nn.Flatten):
            parts.append(
                {"name": TITLES.get(name, name), "layers": layers, "out": shapes[child]} | no_branch
            )
    return parts


def describe(layer) -> str:
    """One layer in a few words."""
    if isinstance(layer, nn.Conv2d):
        return f"Conv {layer.kernel_size[0]}×{layer.kernel_size[1]}, {layer.out_channels}"
    if isinstance(layer, nn.MaxPool2d):
        return f"MaxPool {np.ravel(layer.kernel_size)[0]}"
    if isinstance(layer, nn.Linear):
        return f"Linear {layer.in_features} → {layer.out_features}"
    return type(layer).__name__.removesuffix("2d")


# In pixels: a bar, fork and addition, the arrow before a part, what is below the line along which
# data flow; the input.
BAR, FORK, BEFORE, BELOW, INPUT = 27, 126, 22, 128, 80


def _bars(ax, layers, x: float, y: float, side: float) -> tuple[float, float]:
    """Upright bars, a layer each, lower where the image is smaller; returns the next x and the side
    behind them.
    """
    fills = {"Conv": utils.BLUE, "Linear": utils.BLUE, "MaxPool": utils.GREEN, "ReLU": utils.YELLOW}
    for layer in layers:
        fill = next(
            (colour for kind, colour in fills.items() if layer.startswith(kind)), utils.PALE
        )
        height, colour = (
            122 + 8 * np.log2(side),
            "white" if fill in (utils.BLUE, utils.GREEN) else utils.INK,
        )
        shape = FancyBboxPatch(
            (x + 1, y - height / 2), BAR - 3, height, boxstyle="round,pad=0,rounding_size=4"
        )
        ax.add_patch(shape).set(facecolor=fill, edgecolor=utils.INK, linewidth=0.6)
        size = min(12, 1.25 * height / len(layer))
        ax.text(
            x + BAR / 2, y, layer, rotation=90, ha="center", va="center", size=size, color=colour
        )
        x += BAR
        side = max(1, side // int(layer.split()[-1])) if layer.startswith("MaxPool") else side
    return x, side


def _skip(ax, start: float, end: float, y: float, branch: str) -> None:
    """The skip connection, from `start` over the branch to the circle at `end`, where both are
    added.
    """
    r, top = 17, y - 102
    bend = [
        (start, y),
        (start, top + r),
        (start, top),
        (start + r, top),
        (end - r, top),
        (end, top),
    ]
    line = Path(
        [*bend, (end, top + r), (end, y - r)], [1, 2, 3, 3, 2, 3, 3, 2]
    )  # move, line, curve, line, curve, line
    style = {"color": utils.ORANGE, "lw": 4}
    ax.add_patch(
        FancyArrowPatch(path=line, arrowstyle="-|>", mutation_scale=18, fill=False, **style)
    )
    ax.add_patch(Circle((start, y), 5, color=utils.ORANGE, zorder=4))
    ax.add_patch(Circle((end, y), r, facecolor="white", edgecolor=utils.ORANGE, lw=4, zorder=4))
    ax.plot([end - 9, end + 9], [y, y], [end, end], [y - 9, y + 9], zorder=5, **style)
    middle = (start + end) / 2
    labels = (
        (middle, -8, "skip: X unchanged"),
        (middle, 19, branch),
        (start, 124, "X"),
        (end, 140, f"X + {branch}"),
    )
    for x, below, words in labels:
        ax.text(
            x, top + below, words, ha="center", color=utils.ORANGE, weight="bold", size=utils.SMALL
        )


@utils.styled
def plot_model(parts, *, image=None, note="", path=None) -> utils.Figure:
    """The network, a bar a layer, in as many rows as it needs; below each part the shape of its
    output.

    parts: from `network_parts`. image: what to show as the input, height x width x 3.
    """
    utils.check_lengths(parts=parts)
    places, x, row = [], utils.MARGIN - BEFORE, 0
    for part in parts:  # where each part begins and ends; one that does not fit begins a new row
        bars, shape = (
            len(part["layers"]) + len(part["residual"] or ()),
            "×".join(map(str, part["out"])),
        )
        width = BAR * bars + FORK * part["add"] if bars else INPUT
        room = max(width, 11 * len(part["name"]), 9 * len(shape))
        if x + BEFORE + room > utils.WIDTH - utils.MARGIN - BEFORE:
            x, row = utils.MARGIN, row + 1
        begin = x + BEFORE + (room - width) / 2
        places.append((part, shape, begin, begin + width, row))
        x += BEFORE + room
    additions = sum(part["add"] for part in parts)
    above = last = 134 if additions else 92
    height, before, side, drawn = above + BELOW, None, parts[0]["out"][-1], 0
    fig = utils.new_figure(utils.WIDTH, height * (row + 1), None)
    ax = fig.add_axes(
        utils.box(fig, 0, 0, utils.WIDTH, height * (row + 1)),
        xlim=(0, utils.WIDTH),
        ylim=(height * (row + 1), 0),
    )
    ax.axis("off")
    arrow = {"arrowstyle": "-|>", "color": utils.INK}
    for part, shape, begin, end, row in places:
        y = above + height * row
        if y != last:  # an arrow out of the row above, and one into this row
            ax.annotate("", (before + BEFORE, last), (before, last), arrowprops=arrow, zorder=0)
            before = begin - BEFORE
        if before:
            ax.annotate("", (begin + 2, y), (before, y), arrowprops=arrow, zorder=0)
        before, last = end, y
        if not part["layers"]:
            utils.put_image(
                fig,
                np.full((32, 32), 0.89) if image is None else image,
                begin,
                y - INPUT / 2,
                INPUT,
            )
        x, side = _bars(ax, part["layers"], begin, y, side)
        if part["add"]:
            drawn += 1
            ax.plot([x, end], [y, y], color=utils.INK, lw=1.2, zorder=0)
            _skip(ax, x + 17, end - 43, y, f"R{drawn}(X)")
            x += 36
        side = _bars(ax, part["residual"] or (), x, y, side)[1]
        ax.text((begin + end) / 2, y + 98, part["name"], ha="center", weight="bold", size=12)
        ax.text((begin + end) / 2, y + 116, shape, ha="center", size=utils.SMALL, color=utils.GREY)
    title = (
        f"The network, with {additions} skip connections"
        if additions
        else "The network without skip connections"
    )
    return utils.finish(
        fig, f"{title}\nBelow each part: channels × height × width of its output", note, path
    )
