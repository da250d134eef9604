"""How do all figures look alike? Colours, canvas, grids of pictures, and saving, for every file that draws.

The colours are Okabe and Ito's, which colour-blind people can tell apart; marks and lines differ besides. A figure
shows once in a notebook, whatever style its reader has set, and the same figure gives the same bytes.
"""

import io
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, SKY, GREEN, YELLOW, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00"
INK, GREY, PALE = "#222222", "#5F5F5F", "#E3E3E3"
# Drawings are measured in dots of the saved file, so that a 32x32 picture is enlarged by a whole number.
DPI, WIDEST, MARGIN, GAP, HEAD, FOOT = 150, 1520, 24, 8, 72, 44
STYLE = {"figure.dpi": DPI, "figure.facecolor": "white", "font.size": 10, "text.color": INK}
STYLE |= {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
}
STYLE |= {
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "xtick.color": INK,
    "ytick.color": INK,
}
# Decorates every figure: the reader's own style (a dark one, say) neither leaks in nor is changed.
styled = plt.style.context(["default", STYLE])


def empty_figure(width: int, height: int, **options) -> Figure:
    """An empty figure: width x height dots and room for title and note. pyplot forgets it: it shows once."""
    full = height + HEAD + FOOT
    fig = plt.figure(figsize=(width / DPI, full / DPI), **options)
    plt.close(fig)
    FigureCanvasAgg(fig)
    if fig.get_layout_engine():
        rim = MARGIN / width
        fig.get_layout_engine().set(rect=(rim, FOOT / full, 1 - 2 * rim, height / full))
    return fig


def panels(height: int, **options):
    """A figure of usual width and its axes, as `Figure.subplots` gives them."""
    fig = empty_figure(1350, height, layout="constrained")
    return fig, fig.subplots(**options)


def canvas(width: int, height: int):
    """A figure and one bare axes measured in dots, y downwards: for grids of pictures and for drawings."""
    fig = empty_figure(width, height)
    ax = fig.add_axes((0, FOOT / (height + HEAD + FOOT), 1, height / (height + HEAD + FOOT)))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    return fig, ax


def finish(fig: Figure, title: str, note: str, path) -> Figure:
    """Write title and note, lay the figure out, and save it as PNG when there is a path.

    A file that cannot be written, on a full disk say, is no reason not to show the figure: one line says so.
    """
    width, height = fig.get_size_inches() * DPI
    fig.text(MARGIN / width, 1 - 22 / height, title, va="top", size=12.5, weight="bold")
    fig.text(MARGIN / width, 14 / height, note, va="bottom", size=8.5, color=GREY)
    fig.draw_without_rendering()  # ticks are made here, in our style, not later in the reader's
    if path is not None:
        path, picture = Path(path), io.BytesIO()
        if path.suffix.lower() != ".png":
            raise ValueError(f"path is {str(path)!r}, but figures are PNG files: end it in .png.")
        fig.savefig(picture, dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
        write(path, picture.getvalue())
    return fig


def write(path: Path, content: bytes) -> None:
    """Write beside, then rename: whoever looks finds the old file or the new one, never half of one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        if beside.is_file():
            beside.unlink()
        reason = error.strerror or error
        cure = "give a file name in a folder that you may write to"
        print(f"The figure cannot be written to {path} ({reason}): {cure}.")


def check_lengths(**named) -> None:
    """Refuse lists that are empty, or of different lengths though they belong together."""
    lengths = {name: len(values) for name, values in named.items()}
    if not all(lengths.values()):
        raise ValueError(f"{min(lengths, key=lengths.get)} is empty, so there is nothing to draw: give at least one.")
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"These belong together and must be equally long, but are not: {said}.")


def check_indices(name: str, values, classes) -> np.ndarray:
    values = np.asarray(values)
    if values.min() < 0 or values.max() >= len(classes):
        raise ValueError(f"{name} go from {values.min()} to {values.max()}, but there are {len(classes)} classes.")
    return values


def check_confusion(confusion, classes) -> np.ndarray:
    matrix, n = np.asarray(confusion, dtype=float), len(classes)
    if matrix.shape != (n, n) or not matrix.sum():
        said = f"confusion has shape {matrix.shape} and counts {matrix.sum():.0f} pictures"
        raise ValueError(f"{said}: it must be {n} x {n}, for {n} classes, and count at least one.")
    return matrix


def shortened(name, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def to_rgb(picture) -> np.ndarray:
    """HxWx3 of a picture HxW, HxWx1 or HxWx3, uint8 or float in [0, 1]; ValueError for any other."""
    picture = np.asarray(picture)
    if picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(f"A picture has shape {picture.shape}: give height x width x 3 (or x 1, or no third).")
    if picture.dtype != np.uint8:
        low, high = picture.min(), picture.max()
        if not (low > -0.01 and high < 1.01):
            said = f"A picture's values go from {low:.3g} to {high:.3g}"
            raise ValueError(f"{said}: give them in [0, 1] (undo the normalisation), or as uint8.")
        picture = picture.clip(0, 1)
    return np.broadcast_to(picture.reshape(*picture.shape[:2], -1), (*picture.shape[:2], 3))


def put_picture(ax, picture, x: float, y: float, side: int) -> None:
    """Draw a picture into the square at (x, y): every pixel a sharp square, nothing blurred."""
    height, width = (side * n / max(np.shape(picture)[:2]) for n in np.shape(picture)[:2])
    extent = (x, x + width, y + height, y)
    ax.imshow(to_rgb(picture), extent=extent, interpolation="nearest", aspect="auto")


def picture_grid(rows, *, names=(), left=0, above=0, group=1, apart=0, largest=192):
    """Rows of pictures: the one grid behind every figure that shows some.

    names: words left of the rows. left, above: dots to keep free left of all, and above each row. group:
    pictures that stand together; apart: extra dots between two groups. largest: a picture's side at most.
    Returns figure, axes, side and the pictures' upper left corners, row by row.
    """
    columns = max(1, max(len(row) for row in rows))
    left += MARGIN + (2 * GAP + 13 * max(map(len, names)) if names else 0)
    groups = -(-columns // group)
    room = min(largest, (WIDEST - left - MARGIN - groups * apart) // columns - GAP)
    pixels = min([max(np.shape(picture)[:2]) for row in rows for picture in row], default=room)
    side = room // pixels * pixels or room
    width = left + columns * (side + GAP) + groups * apart - GAP + MARGIN
    fig, ax = canvas(max(width, 1100), len(rows) * (side + GAP + above))
    corners = []
    for i, row in enumerate(rows):
        y = i * (side + GAP + above) + above
        corners.append([(left + j * (side + GAP) + j // group * apart, y) for j in range(len(row))])
        for picture, corner in zip(row, corners[-1], strict=True):
            put_picture(ax, picture, *corner, side)
        if names:
            ax.text(left - 2 * GAP, y + side / 2, names[i], ha="right", va="center")
    return fig, ax, side, corners


def write_above(ax, x: float, words: str, ha: str = "center") -> None:
    """Words above the axes, at x: the name of an upright line, where it hides no curve."""
    place = {"xycoords": ("data", "axes fraction"), "ha": ha, "va": "bottom"}
    ax.annotate(words, (x, 1.01), color=ORANGE, weight="bold", **place)


def named_rows(ax, names, remarks) -> None:
    """Make a chart of one row a name, from top to bottom, with a remark to the right of each."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    for place, words in enumerate(remarks):
        ax.annotate(words, (1.01, place), xycoords=("axes fraction", "data"), va="center", size=9, color=GREY)
