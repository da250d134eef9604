"""The receptive field of an output: the part of the image that it can depend on.

    rows = receptive_field(model)                    # a dict for each convolution and pooling
    plot_receptive_field(rows, image, path="misc/receptive_field.png")

Kernels and strides are read off the model itself, so it works for other networks too.
"""

import copy
import warnings

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.patches import Rectangle
from torch import nn
from torch.fx import symbolic_trace
from torch.fx.passes.shape_prop import ShapeProp

import utils

WINDOWS = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d
COLOURS = [utils.BLUE, utils.ORANGE, utils.GREEN, utils.PINK, utils.YELLOW, utils.SKY]
HALO = [patheffects.withStroke(linewidth=5, foreground="white")]  # readable on any image


def receptive_field(model, input_size=(3, 32, 32)) -> list[dict]:
    """Receptive field after each convolution and pooling, in the order of computation.

    With kernel k, stride s: field += (k - 1) * jump, then jump *= s, where the jump is the distance
    in pixels of the image between neighbouring outputs (Araujo et al. 2019,
    doi:10.23915/distill.00021). Where two paths are added, the larger field counts. The list ends
    where an output depends on the whole image (a linear layer, the mean over all places), and, with
    a warning, before a layer whose kernel cannot be read.

    model: a network that torch.fx can trace. input_size: (channels, height, width) of the image.
    Returns a list of dicts: name, kernel, stride, padding, out_size, jump, receptive_field (pixels,
    along the height).
    """
    rows = []
    seen = {}  # node -> (field, jump) of its output
    graph = trace_shapes(model, input_size)
    layers = dict(graph.named_modules())
    for node in graph.graph.nodes:
        field, jump = max((seen[n] for n in node.all_input_nodes if n in seen), default=(1, 1))
        layer = layers[node.target] if node.op == "call_module" else None
        before = height(node.all_input_nodes[0]) if node.all_input_nodes else None
        size = height(node)
        if isinstance(layer, nn.Linear) or (before and size == 0) or spreads(node, layer, size):
            break  # from here on every output depends on the whole image
        if before and size:
            what = type(layer).__name__ if layer else node.name
            found = window(node, layer, what, before, size)
            if found is None:
                words = f"receptive fields end before {node.name} ({what}): its kernel is unknown"
                warnings.warn(words, stacklevel=2)
                break
            kernel, stride, padding, dilation = found
            field += (kernel - 1) * dilation * jump
            jump *= stride
            if has_window(what):
                name = node.target if layer else node.name
                row = {"name": name, "kernel": kernel, "stride": stride, "padding": padding}
                rows.append(row | {"out_size": size, "jump": jump, "receptive_field": field})
        seen[node] = (field, jump)
    return rows


def trace_shapes(model, input_size):
    """The model as a torch.fx graph whose nodes know the shapes of their outputs.

    The model itself is not changed.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
    graph = symbolic_trace(copy.deepcopy(model).eval())
    parameter = next(model.parameters(), torch.zeros(()))
    image = torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad():
        ShapeProp(graph).propagate(image)
    return graph


def height(node):
    """Height in pixels of a node's output: 0 where it is no image, None where it is no tensor."""
    shape = getattr(node.meta.get("tensor_meta"), "shape", None)
    return shape and (shape[2] if len(shape) == 4 else 0)


def spreads(node, layer, size):
    """Does it give a value of the whole image to all places, as squeeze and excitation does?"""
    return layer is None and size and any(height(n) == 1 < size for n in node.all_input_nodes)


def has_window(what: str) -> bool:
    return "conv" in what.lower() or "pool" in what.lower()


def window(node, layer, what, before, size):
    """(kernel, stride, padding, dilation) from `before` to `size` pixels; None: unknown."""
    index = node.args[1] if what.startswith("getitem") else None
    if isinstance(layer, WINDOWS):
        values = layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1)
    elif "adaptive" in what.lower():
        values = (before // size, before // size, 0, 1) if before % size == 0 else None
    elif what.startswith(("avg_pool2d", "max_pool2d")):  # of torch.nn.functional
        given = dict(zip(("kernel_size", "stride", "padding"), node.args[1:], strict=False))
        given |= node.kwargs
        kernel = given["kernel_size"]
        values = kernel, given.get("stride") or kernel, given.get("padding", 0), 1
    elif isinstance(index, tuple) and len(index) == 4:  # x[:, :, ::2, ::2], a shortcut of He et al.
        values = 1, index[2].step or 1, 0, 1
    else:
        values = (1, 1, 0, 1) if size == before and not has_window(what) else None
    # one number for both directions, or a pair
    return values and tuple(v[0] if isinstance(v, tuple) else v for v in values)


@utils.styled
def plot_receptive_field(rows, image, *, note="", path=None) -> utils.Figure:
    """How far each layer sees: squares on an image, and the numbers beside it.

    rows: from `receptive_field`, layer by layer. image: height x width x 3.
    """
    utils.check_lengths(rows=rows)
    side = 288
    pixels = max(np.shape(image)[:2])
    outside = [row for row in rows if row["receptive_field"] > pixels]
    step = min(28, 84 / max(len(outside), 1))  # squares outside of the image are not to scale
    half = side / 2 + step * len(outside)  # of the drawing
    height_px = round(max(2 * half, 31 * (len(rows) + 1) + 66)) + 16
    fig = utils.new_figure(utils.WIDTH, height_px, None)
    ax = utils.put_image(fig, image, utils.MARGIN + half - side / 2, half - side / 2, side)
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(rows))]
    for i, row in enumerate(rows):
        far = outside.index(row) + 1 if row in outside else 0
        reach = (side / 2 + far * step) * pixels / side if far else row["receptive_field"] / 2
        small = reach * side / pixels < 75
        words = row["receptive_field"] if small else f"{row['name']}: {row['receptive_field']}"
        # the numbers of small squares take turns at four sides, so that none covers another
        where = [(0, -1), (0, 1), (-1, 0), (1, 0)][i % 4 if small else i % 2]
        draw_square(ax, (pixels - 1) / 2, reach, words, where, colours[i], "--" if far else "-")
    draw_table(fig, utils.MARGIN + 2 * half + 14, rows, colours)
    some, every = first_views(rows, pixels)
    title = "No output sees the whole image"
    if some:
        title = f"An output first sees the whole image at {some}"
    if every:
        words = f"Central outputs see all {pixels} × {pixels} pixels\nfrom {some} on, all outputs\n"
        x, y = utils.MARGIN + 2 * half + 14, 31 * (len(rows) + 1)
        utils.put_text(fig, x, y, f"{words}from {every} on.", size=utils.SMALL, color=utils.GREY)
    how = "k kernel, s stride, p padding; jump and field in pixels. Drawn as if centred; "
    how += "dashed: not to scale"
    return utils.finish(fig, f"{title}\n{how}", note, path)


def draw_square(ax, middle, reach, words, where, colour, line) -> None:
    """A square around the middle of the image, named on one of its sides."""
    corner = (middle - reach, middle - reach)
    square = Rectangle(corner, 2 * reach, 2 * reach, fill=False, clip_on=False)
    ax.add_patch(square).set(edgecolor=colour, linestyle=line, linewidth=2.2)
    x, y = middle + reach * where[0], middle + reach * where[1]
    place = {"ha": "center", "va": "center", "path_effects": HALO}
    ax.text(x, y, words, size=utils.SMALL, **place)


def draw_table(fig, x, rows, colours) -> None:
    """The rows as a table beside the image, `x` pixels from the left."""
    columns = {"kernel": (142, "k"), "stride": (168, "s"), "padding": (194, "p")}
    columns |= {"jump": (244, "jump"), "out_size": (284, "out"), "receptive_field": (328, "field")}
    grey = {"size": utils.SMALL, "color": utils.GREY}
    utils.put_text(fig, x + 22, 0, "layer", **grey)
    for right, heading in columns.values():
        utils.put_text(fig, x + right, 0, heading, ha="right", **grey)
    for i, row in enumerate(rows):
        y = 31 * (i + 1)
        utils.put_text(fig, x, y, "■", size=utils.SMALL, color=colours[i])
        utils.put_text(fig, x + 22, y, row["name"], 108, size=utils.SMALL)
        for key, (right, _) in columns.items():
            weight = "bold" if key == "receptive_field" else "normal"
            style = {"size": utils.SMALL, "ha": "right", "weight": weight}
            utils.put_text(fig, x + right, y, row[key], **style)


def first_views(rows, size: int) -> tuple[str | None, str | None]:
    """Names of the first layer with an output that sees the whole image, and of the first where
    all outputs do.
    """
    some, every = None, None
    start = 0  # where the receptive field of the first output begins: outside, where padded
    for row in rows:
        padding = {"same": (row["kernel"] - 1) // 2, "valid": 0}.get(row["padding"], row["padding"])
        start -= padding * row["jump"] // row["stride"]
        begins = start + row["jump"] * np.arange(row["out_size"])
        sees = (begins <= 0) & (begins + row["receptive_field"] >= size)
        some = some or (row["name"] if sees.any() else None)
        every = every or (row["name"] if sees.all() else None)
    return some, every
