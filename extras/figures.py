"""Draw the rarer figures as `utils.py` draws the others: receptive fields and Grad-CAM maps.

plot_receptive_field(models.receptive_field(model), image, path="misc/receptive_field.png")
"""

import numpy as np
from matplotlib import patheffects
from matplotlib.patches import Rectangle

import utils as ut

HALO = [
    patheffects.withStroke(linewidth=5, foreground="white")
]  # keeps lines and words readable on any image


def _first_views(rows, size: int) -> tuple[str | None, str | None]:
    """Names of the first layer with an output that sees the whole image, and of the first where all
    outputs do.
    """
    some, every, start = (
        None,
        None,
        0,
    )  # the receptive field of the first output begins at start, outside if padded
    for row in rows:
        padding = {"same": (row["kernel"] - 1) // 2, "valid": 0}.get(row["padding"], row["padding"])
        start -= padding * row["jump"] // row["stride"]
        begins = start + row["jump"] * np.arange(row["out_size"])
        sees = (begins <= 0) & (begins + row["receptive_field"] >= size)
        some, every = (
            some or (row["name"] if sees.any() else None),
            every or (row["name"] if sees.all() else None),
        )
    return some, every


@ut.styled
def plot_receptive_field(rows, image, *, note="", path=None) -> ut.Figure:
    """How far each layer sees: squares on an image, and the numbers beside it.

    rows: dicts with name, kernel, stride, padding, out_size, jump, receptive_field (pixels), layer
    by layer.
    """
    ut.check_lengths(rows=rows)
    pixels, side, line = max(np.shape(image)[:2]), 288, 31
    outside = [row for row in rows if row["receptive_field"] > pixels]
    step = min(28, 84 / max(len(outside), 1))  # squares outside of the image are not to scale
    half, middle = (
        side / 2 + step * len(outside),
        (pixels - 1) / 2,
    )  # of the drawing, on the page; of the image, in it
    fig = ut.new_figure(ut.WIDTH, round(max(2 * half, line * (len(rows) + 1) + 66)) + 16, None)
    ax = ut.put_image(fig, image, ut.MARGIN + half - side / 2, half - side / 2, side)
    table = ut.MARGIN + 2 * half + 14
    columns = {
        "name": (22, "layer"),
        "kernel": (142, "k"),
        "stride": (168, "s"),
        "padding": (194, "p"),
    }
    columns |= {"jump": (244, "jump"), "out_size": (284, "out"), "receptive_field": (328, "field")}
    for key, (x, heading) in columns.items():
        ut.put_text(
            fig,
            table + x,
            0,
            heading,
            size=ut.SMALL,
            color=ut.GREY,
            ha="left" if key == "name" else "right",
        )
    for i, row in enumerate(rows):
        far = outside.index(row) + 1 if row in outside else 0
        colour, field = (
            (ut.BLUE, ut.ORANGE, ut.GREEN, ut.PINK, ut.YELLOW, ut.SKY)[i % 6],
            row["receptive_field"],
        )
        reach = (side / 2 + far * step) * pixels / side if far else field / 2
        style = {
            "fill": False,
            "clip_on": False,
            "lw": 2.2,
            "edgecolor": colour,
            "ls": "--" if far else "-",
        }
        ax.add_patch(Rectangle((middle - reach, middle - reach), 2 * reach, 2 * reach, **style))
        words = (
            f"{ut.shortened(row['name'], 14)}: {field}"
            if reach * side / pixels > 75
            else f"{field}"
        )
        place = {"ha": "center", "va": "center", "path_effects": HALO}
        ax.text(middle, middle + (reach if i % 2 else -reach), words, size=ut.SMALL, **place)
        ut.put_text(fig, table, line * (i + 1), "■", size=ut.SMALL, color=colour)
        ut.put_text(fig, table + 22, line * (i + 1), row["name"], 108, size=ut.SMALL)
        for key in list(columns)[1:]:
            bold = "bold" if key == "receptive_field" else "normal"
            ut.put_text(
                fig,
                table + columns[key][0],
                line * (i + 1),
                row[key],
                size=ut.SMALL,
                ha="right",
                weight=bold,
            )
    some, every = _first_views(rows, pixels)
    if every:
        words = f"Central outputs see all {pixels} × {pixels} pixels\nfrom {ut.shortened(some)} on, all outputs\n"
        words += f"from {ut.shortened(every)} on."
        ut.put_text(fig, table, line * (len(rows) + 1), words, size=ut.SMALL, color=ut.GREY)
    title = (
        f"An output first sees the whole image at {some}"
        if some
        else "No output sees the whole image"
    )
    words = (
        "k kernel, s stride, p padding; jump and receptive field in pixels; dashed: not to scale"
    )
    return ut.finish(fig, f"{title}\n{words}", note, path)


def _contours(ax, heat, side: int, colour: str) -> None:
    """Lines around where the map is above one half and above four fifths, on an image of `side`
    pixels.
    """
    heat, fine = np.asarray(heat, dtype=float), np.linspace(-0.5, side - 0.5, 128)
    if not heat.any():
        ax.text(side / 2, side / 2, "empty map", size=ut.SMALL, ha="center", path_effects=HALO)
    for _ in range(2):  # bilinear, one direction after the other
        places = (np.arange(heat.shape[1]) + 0.5) * side / heat.shape[1] - 0.5
        heat = np.array([np.interp(fine, places, row) for row in heat]).T
    for level, width in ((0.5, 1.8), (0.8, 3.4)):
        if heat.min() < level < heat.max():
            ax.contour(fine, fine, heat, [level], colors=colour, linewidths=width).set_path_effects(
                HALO
            )


@ut.styled
def plot_gradcam(
    images, labels, predictions, maps_predicted, maps_true, classes, *, note="", path=None
) -> ut.Figure:
    """The first eight images, each beside its Grad-CAM maps for the predicted and for the true
    class, as contours.

    labels, predictions: N class indices. maps_predicted, maps_true: (N, h, w) in [0, 1], see
    `extras.gradcam`.
    """
    if len(images) == 0:
        return ut.finish(ut.new_figure(ut.WIDTH, 40, None), "No misclassified images", note, path)
    together = {"images": images, "labels": labels, "predictions": predictions}
    ut.check_lengths(**together, maps_predicted=maps_predicted, maps_true=maps_true)
    ut.check_classes(classes, labels=labels, predictions=predictions)
    shown, side, group = range(min(8, len(images))), 128, 408
    fig = ut.new_figure(ut.WIDTH, 24 + -(-len(shown) // 2) * (side + 34), None)
    for i in shown:
        x, y = ut.MARGIN + i % 2 * group, 24 + i // 2 * (side + 34)
        cells = [
            ("image", "", ut.INK, None),
            ("predicted", classes[predictions[i]], ut.ORANGE, maps_predicted),
        ]
        cells += [("true", classes[labels[i]], ut.BLUE, maps_true)]
        for column, (heading, name, colour, maps) in enumerate(cells):
            left = x + column * (side + ut.GAP)
            ax = ut.put_image(fig, images[i], left, y + 22, side)
            ut.put_text(fig, left, y, name, side, size=12, color=colour, weight="bold")
            if i < 2:
                ut.put_text(fig, left, -2, heading, side, size=12, color=ut.GREY)
            if maps is not None:
                _contours(ax, maps[i], max(np.shape(images[i])[:2]), colour)
    words = "Grad-CAM: contours at 50 % (thin) and 80 % (thick) of the largest value of each map"
    return ut.finish(fig, f"Evidence for the predicted and for the true class\n{words}", note, path)
