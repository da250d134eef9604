"""What do people look at? Every figure of the project, one function each.

    from utils import plot_samples
    plot_samples(pictures, targets, classes, note="CIFAR-10")      # as a cell's last line: shown, once
    plot_samples(pictures, targets, classes, path="misc/sample_images.png")    # saved as well

Each function takes plain data (arrays, lists, dicts) and returns a matplotlib `Figure`. It saves only when it
is given `path`; the same figure gives the same bytes. `note`, in the lower left corner, says where the data
come from. The colours are Okabe and Ito's, which colour-blind people can tell apart; marks and lines differ.
"""

import io
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator
from PIL import Image

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
_styled = plt.style.context(["default", STYLE])


def _figure(width: int, height: int, **options) -> Figure:
    """An empty figure: width x height dots and room for title and note. pyplot forgets it: it shows once."""
    full = height + HEAD + FOOT
    fig = plt.figure(figsize=(width / DPI, full / DPI), **options)
    plt.close(fig)
    FigureCanvasAgg(fig)
    if fig.get_layout_engine():
        rim = MARGIN / width
        fig.get_layout_engine().set(rect=(rim, FOOT / full, 1 - 2 * rim, height / full))
    return fig


def _panels(height: int, **options):
    """A figure of usual width and its axes, as `Figure.subplots` gives them."""
    fig = _figure(1350, height, layout="constrained")
    return fig, fig.subplots(**options)


def _canvas(width: int, height: int):
    """A figure and one bare axes measured in dots, y downwards: for grids of pictures and for drawings."""
    fig = _figure(width, height)
    ax = fig.add_axes((0, FOOT / (height + HEAD + FOOT), 1, height / (height + HEAD + FOOT)))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    return fig, ax


def _finish(fig: Figure, title: str, note: str, path) -> Figure:
    """Write title and note, lay the figure out, and save it as PNG when there is a path."""
    width, height = fig.get_size_inches() * DPI
    fig.text(MARGIN / width, 1 - 22 / height, title, va="top", size=12.5, weight="bold")
    fig.text(MARGIN / width, 14 / height, note, va="bottom", size=8.5, color=GREY)
    fig.draw_without_rendering()  # ticks are made here, in our style, not later in the reader's
    if path is not None:
        path, picture = Path(path), io.BytesIO()
        if path.suffix.lower() != ".png":
            raise ValueError(f"path is {str(path)!r}, but figures are PNG files: end it in .png.")
        fig.savefig(picture, dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
        _write(path, picture.getvalue())
    return fig


def _write(path: Path, content: bytes) -> None:
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
        raise OSError(f"The figure cannot be written to {path} ({reason}): {cure}.") from error


def _check(**named) -> None:
    """Refuse lists that are empty, or of different lengths though they belong together."""
    lengths = {name: len(values) for name, values in named.items()}
    if not all(lengths.values()):
        raise ValueError(f"{min(lengths, key=lengths.get)} is empty, so there is nothing to draw: give at least one.")
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"These belong together and must be equally long, but are not: {said}.")


def _indices(name: str, values, classes) -> np.ndarray:
    values = np.asarray(values)
    if values.min() < 0 or values.max() >= len(classes):
        raise ValueError(f"{name} go from {values.min()} to {values.max()}, but there are {len(classes)} classes.")
    return values


def _confusion(confusion, classes) -> np.ndarray:
    matrix, n = np.asarray(confusion, dtype=float), len(classes)
    if matrix.shape != (n, n) or not matrix.sum():
        said = f"confusion has shape {matrix.shape} and counts {matrix.sum():.0f} pictures"
        raise ValueError(f"{said}: it must be {n} x {n}, for {n} classes, and count at least one.")
    return matrix


def _short(name, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _rgb(picture) -> np.ndarray:
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


def _put(ax, picture, x: float, y: float, side: int) -> None:
    """Draw a picture into the square at (x, y): every pixel a sharp square, nothing blurred."""
    height, width = (side * n / max(np.shape(picture)[:2]) for n in np.shape(picture)[:2])
    extent = (x, x + width, y + height, y)
    ax.imshow(_rgb(picture), extent=extent, interpolation="nearest", aspect="auto")


def _grid(rows, *, names=(), left=0, above=0, group=1, apart=0, largest=192):
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
    fig, ax = _canvas(max(width, 1100), len(rows) * (side + GAP + above))
    corners = []
    for i, row in enumerate(rows):
        y = i * (side + GAP + above) + above
        corners.append([(left + j * (side + GAP) + j // group * apart, y) for j in range(len(row))])
        for picture, corner in zip(row, corners[-1], strict=True):
            _put(ax, picture, *corner, side)
        if names:
            ax.text(left - 2 * GAP, y + side / 2, names[i], ha="right", va="center")
    return fig, ax, side, corners


@_styled
def plot_samples(pictures, targets, classes, *, per_class: int = 10, seed: int = 0, note="", path=None) -> Figure:
    """Random pictures of each class, a row each. pictures: N of HxWx3, HxWx1 or HxW; targets: N indices."""
    _check(pictures=pictures, targets=targets)
    _check(classes=classes)
    targets, rng = _indices("targets", targets, classes), np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(targets == c))[:per_class] for c in range(len(classes))]
    rows = [[pictures[i] for i in row] for row in chosen]
    fig, *_ = _grid(rows, names=[_short(name) for name in classes], largest=128)
    return _finish(fig, f"{max(map(len, rows))} random pictures of each class", note, path)


@_styled
def plot_transforms(original, draws: dict, *, note="", path=None) -> Figure:
    """One picture (HxWx3) and what transforms make of it. draws: for each name a list of pictures, a row."""
    _check(draws=draws)
    for name, pictures in draws.items():
        _check(**{f"draws[{name!r}]": pictures})
    fig, ax, side, corners = _grid(list(draws.values()), left=128 + 4 * GAP, above=32, largest=128)
    for name, row in zip(draws, corners, strict=True):
        ax.text(row[0][0], row[0][1] - GAP, name, va="bottom")
    y = (corners[0][0][1] + corners[-1][0][1] + side - 128) / 2
    _put(ax, original, MARGIN, y, 128)
    ax.text(MARGIN, y - GAP, "original", va="bottom", weight="bold")
    return _finish(fig, "One picture, and what training sees of it", note, path)


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


@_styled
def plot_model(blocks, *, picture=None, note="", path=None) -> Figure:
    """The network from left to right, a bar a layer; the additions stand out.

    blocks: dicts with `name`; `layers`, a list of words such as "Conv 3×3, 64"; `out`, the shape (channels,
    height, width) behind the block; `residual`, the layers of the branch, or None; `add`: False draws the
    branch in line, with nothing added. picture: what to show as the input (32x32x3).
    """
    _check(blocks=blocks)
    gap, side, skips = 24, 32, sum(map(_adds, blocks))
    middle = 206 if skips else 140
    shapes = ["×".join(map(str, block["out"])) for block in blocks]
    widths = [max(_width(b), 13 * len(b["name"]), 11 * len(out)) for b, out in zip(blocks, shapes, strict=True)]
    fig, ax = _canvas(2 * MARGIN + 96 + sum(widths) + gap * len(blocks), middle + 220)
    _put(ax, np.full((32, 32), 0.89) if picture is None else picture, MARGIN, middle - 48, 96)
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
    return _finish(fig, title, note, path)


def _above(ax, x: float, words: str, ha: str = "center") -> None:
    """Words above the axes, at x: the name of an upright line, where it hides no curve."""
    place = {"xycoords": ("data", "axes fraction"), "ha": ha, "va": "bottom"}
    ax.annotate(words, (x, 1.01), color=ORANGE, weight="bold", **place)


def _bars(ax, names, remarks) -> None:
    """Make a chart of one row a name, from top to bottom, with a remark to the right of each."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    for place, words in enumerate(remarks):
        ax.annotate(words, (1.01, place), xycoords=("axes fraction", "data"), va="center", size=9, color=GREY)


@_styled
def plot_receptive_field(rows, *, input_size: int = 32, note="", path=None) -> Figure:
    """Receptive field after each layer, in pixels, and where it outgrows a picture of side `input_size`.

    rows: dicts with name, kernel, stride, padding, out_size, jump, receptive_field; layer by layer.
    """
    _check(rows=rows)
    fields = np.array([row["receptive_field"] for row in rows], dtype=float)
    fig, ax = _panels(90 + 40 * len(rows))
    beyond = np.flatnonzero(fields > input_size)
    ax.barh(range(len(rows)), fields.clip(max=input_size), color=BLUE, height=0.66)
    style = {"color": "white", "edgecolor": BLUE, "hatch": "////"}
    ax.barh(beyond, fields[beyond] - input_size, left=input_size, height=0.66, **style)
    ax.axvline(input_size, color=ORANGE, ls="--", lw=2)
    _above(ax, input_size, f"the picture's side: {input_size} pixels")
    for place, field in enumerate(fields):
        style = {"va": "center", "weight": "bold", "size": 9, "bbox": {"fc": "white", "ec": "none", "pad": 1}}
        ax.annotate(f"{field:g}", (field, place), (5, 0), textcoords="offset points", **style)
    words = "kernel {kernel}, stride {stride}, jump {jump}, out {out_size}"
    _bars(ax, [row["name"] for row in rows], [words.format(**row) for row in rows])
    ax.set(xlim=(0, max(fields.max(), input_size) * 1.08), xlabel="receptive field (pixels of the input)")
    title = "No layer sees more than the picture's side"
    if len(beyond):
        title = f"From {rows[beyond[0]]['name']} on, the receptive field is larger than the picture"
    return _finish(fig, title, note, path)


def _legend(fig: Figure, ax) -> None:
    """A legend in a row of its own between title and axes, where it hides no curve."""
    width, height = fig.get_size_inches() * DPI
    x, y, w, h = fig.get_layout_engine().get()["rect"]
    fig.get_layout_engine().set(rect=(x, y, w, h - 40 / height))
    place = {
        "loc": "upper left",
        "bbox_to_anchor": (x, y + h),
        "ncols": 4,
        "borderpad": 0,
        "borderaxespad": 0,
    }
    fig.legend(*ax.get_legend_handles_labels(), frameon=False, **place)


@_styled
def plot_lr_finder(lrs, losses, smoothed, lr_min: float, lr_max: float, *, note="", path=None) -> Figure:
    """The LR range test: loss by learning rate, LRMIN and LRMAX. A loss that explodes leaves the frame."""
    _check(lrs=lrs, losses=losses, smoothed=smoothed)
    lrs, smoothed = np.asarray(lrs, dtype=float), np.asarray(smoothed, dtype=float)
    seen = smoothed[np.isfinite(smoothed)]
    if not seen.size or lrs.min() <= 0:
        raise ValueError("smoothed holds no finite loss, or lrs a rate that is not above 0: run the test again.")
    fig, ax = _panels(620)
    ax.plot(lrs, losses, color=GREY, alpha=0.55, lw=1, label="loss of each batch")
    ax.plot(lrs, smoothed, color=BLUE, lw=2.5, label="smoothed")
    drop = max(seen[0] - seen.min(), 0.05 * abs(seen[0]), 1e-3)
    ax.set(xscale="log", ylim=(seen.min() - 0.2 * drop, seen[0] + 0.5 * drop))
    ax.set(xlabel="learning rate (log scale)", ylabel="training loss (nats)")
    for name, lr, line, side in (("LRMIN", lr_min, ":", "right"), ("LRMAX", lr_max, "--", "left")):
        ax.axvline(lr, color=ORANGE, ls=line, lw=2)
        _above(ax, lr, f"{name} = {lr:.2e}", ha=side)
    ax.plot(lr_max, np.interp(lr_max, lrs, smoothed), "o", ms=9, color=ORANGE, mec="white")
    _legend(fig, ax)
    return _finish(fig, "LR range test: the loss falls most steeply at LRMAX", note, path)


@_styled
def plot_one_cycle(lrs, betas, steps_per_epoch: int, *, note="", path=None) -> Figure:
    """The one-cycle policy, step by step: learning rate and, unless betas is None, Adam's beta1."""
    _check(lrs=lrs, **({} if betas is None else {"betas": betas}))
    lrs, steps = np.asarray(lrs, dtype=float), np.arange(1, len(lrs) + 1)
    peak = int(lrs.argmax())
    ratios = [2] if betas is None else [2, 1]
    fig, axes = _panels(240 * sum(ratios), nrows=len(ratios), sharex=True, squeeze=False, height_ratios=ratios)
    axes = axes[:, 0]
    if betas is not None:
        axes[1].plot(steps, betas, color=GREEN, lw=2.5)
        axes[1].set(ylabel="Adam's beta1")
    axes[0].plot(steps, lrs, color=BLUE, lw=2.5)
    for ax in axes:
        ax.axvline(steps[peak], color=ORANGE, ls="--", lw=1.5)
    axes[0].axhline(lrs.min(), color=ORANGE, ls=":", lw=1.5)
    axes[0].plot(steps[peak], lrs[peak], "o", ms=9, color=ORANGE, mec="white")
    late = peak > len(lrs) / 2
    when = "in" if steps[peak] % steps_per_epoch else "the end of"
    words = f"LRMAX = {lrs[peak]:.2e} at step {steps[peak]:,}, {when} epoch {-(-steps[peak] // steps_per_epoch)}"
    style = {"textcoords": "offset points", "va": "bottom", "color": ORANGE, "weight": "bold"}
    side = {"xytext": (-8, 4), "ha": "right"} if late else {"xytext": (8, 4), "ha": "left"}
    axes[0].annotate(words, (steps[peak], lrs[peak]), **side, **style)
    middle = (steps[len(lrs) // 2], lrs.min())
    axes[0].annotate(f"LRMIN = {lrs.min():.2e}", middle, (0, 3), ha="center", **style)
    axes[0].set(ylabel="learning rate", ylim=(-0.02 * lrs[peak], 1.15 * lrs[peak]))
    axes[-1].set(xlabel="step (one batch each)", xlim=(0, len(lrs) + 1))
    scale = (lambda step: step / steps_per_epoch, lambda epoch: epoch * steps_per_epoch)
    axes[0].secondary_xaxis("top", functions=scale).set_xlabel("epochs done")
    return _finish(fig, "One cycle: up to LRMAX, down again to LRMIN, and no further", note, path)


@_styled
def plot_history(history, *, reference: dict | None = None, note="", path=None) -> Figure:
    """Loss and accuracy by epoch; history: dicts with epoch, train_loss, train_acc, test_loss, test_acc (%).

    reference: {"label": words, "history": the same, keys may be missing}; its test curves are drawn faintly.
    """
    _check(history=history)
    fig, axes = _panels(600, ncols=2)
    series = [("train", history, {"color": BLUE, "marker": "o", "mfc": "white", "ls": "--", "label": "train"})]
    series += [("test", history, {"color": ORANGE, "marker": "s", "label": "test"})]
    if reference:
        style = {"color": GREY, "alpha": 0.6, "label": f"test, {reference['label']}"}
        series += [("test", reference["history"], style)]
    for ax, key in zip(axes, ("loss", "acc"), strict=True):
        for part, rows, style in series:
            values = [row.get(f"{part}_{key}", np.nan) for row in rows]
            ax.plot([row["epoch"] for row in rows], np.array(values, dtype=float), lw=2, ms=4.5, **style)
        ax.set(xlabel="epoch", xlim=(0.5, max(row["epoch"] for _, rows, _ in series for row in rows) + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _frame_losses(axes[0])
    axes[0].set_ylabel("loss (nats)")
    axes[1].axhline(90, color=GREEN, ls="-.", lw=1.5)
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes[1].annotate("target 90 %", (0, 90), (4, 3), color=GREEN, weight="bold", **place)
    axes[1].set(ylabel="accuracy (%)", ylim=(None, 100))
    _legend(fig, axes[1])
    best = max(history, key=lambda row: np.nan_to_num(row["test_acc"], nan=-1))
    return _finish(fig, f"Best test accuracy: {best['test_acc']:.2f} %, in epoch {best['epoch']}", note, path)


def _frame_losses(ax) -> None:
    """Keep one exploding loss from pressing all others flat: it leaves the frame, its value written above."""
    points = np.concatenate([line.get_xydata() for line in ax.lines])
    points = points[np.isfinite(points[:, 1])]
    if not len(points):
        return
    top = min(points[:, 1].max(), 4 * np.median(points[:, 1]))
    for epoch, loss in points[points[:, 1] > top]:
        _above(ax, epoch, f"{loss:.3g} ↑")
    ax.set_ylim(0, 1.08 * top)


@_styled
def plot_class_accuracy(confusion, classes, *, note="", path=None) -> Figure:
    """Accuracy of each class, best first. confusion: a row a true class, a column a predicted one, counts."""
    matrix = _confusion(confusion, classes)
    with np.errstate(invalid="ignore"):
        accuracy = 100 * matrix.diagonal() / matrix.sum(axis=1)
    order = np.argsort(-accuracy, kind="stable")  # classes without a picture, NaN, come last
    mean = np.nanmean(accuracy)
    fig, ax = _panels(130 + 42 * len(classes))
    colours = [BLUE if value >= mean else SKY for value in accuracy[order]]
    ax.barh(range(len(classes)), np.nan_to_num(accuracy[order]), color=colours, height=0.7)
    ax.axvline(mean, color=ORANGE, ls="--", lw=2)
    _above(ax, mean, f"mean {mean:.1f} %")
    remarks = ["no pictures" if np.isnan(value) else f"{value:.1f} %" for value in accuracy[order]]
    _bars(ax, [_short(classes[i]) for i in order], remarks)
    ax.set(xlim=(0, 100), xlabel="accuracy (% of the class's test pictures)")
    low = np.nanargmin(accuracy)
    title = f"Easiest: {_short(classes[order[0]])}; hardest: {_short(classes[low])}"
    return _finish(fig, title, note, path)


@_styled
def plot_confusion(confusion, classes, *, note="", path=None) -> Figure:
    """The confusion matrix, a row a true class. Only mistakes are coloured: the diagonal would drown them."""
    matrix, n = _confusion(confusion, classes), len(classes)
    percent = 100 * matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    mistakes = np.ma.masked_array(percent, mask=np.eye(n, dtype=bool))
    fig, ax = _panels(960)
    ax.set_facecolor(PALE)
    worst = max(mistakes.max(), 1)
    shown = ax.imshow(mistakes, cmap="Blues", vmin=0, vmax=worst, aspect="auto")
    for i, j in np.ndindex(n, n):
        words = f"{matrix[i, j]:.0f}" if matrix[i, j] else "·"
        if matrix[i, j] and n <= 12:  # more classes leave no room for the per cent
            words += f"\n{percent[i, j]:.1f} %"
        style = {
            "ha": "center",
            "va": "center",
            "size": 8.5 if n <= 12 else min(8.5, 150 / n),
            "weight": "bold" if i == j else "normal",
        }
        ax.text(j, i, words, color="white" if i != j and percent[i, j] > 0.6 * worst else INK, **style)
    names = [_short(name, 12) for name in classes]
    ax.set_xticks(range(n), names, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(n), names)
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    fig.colorbar(shown, label="mistakes (% of the true class)", pad=0.02, aspect=40)
    i, j = np.unravel_index(mistakes.argmax(), (n, n))
    title = f"Most common mistake: {_short(classes[i])} taken for {_short(classes[j])}"
    return _finish(fig, title if mistakes.max() else "No mistakes", note, path)


def _overlay(picture, heat) -> np.ndarray:
    """The picture in grey under the map, which is brought to its size: yellow where the map is high."""
    grey = _rgb(picture).mean(axis=2, keepdims=True) / (255 if np.asarray(picture).dtype == np.uint8 else 1)
    heat = Image.fromarray(np.asarray(heat, dtype=np.float32)).resize(grey.shape[1::-1], Image.Resampling.BILINEAR)
    return 0.45 * grey + 0.55 * plt.get_cmap("viridis")(np.asarray(heat))[..., :3]


@_styled
def plot_mistakes(
    pictures, labels, predictions, confidences, classes, *, columns: int = 5, maps=None, note="", path=None
) -> Figure:
    """Up to 25 misclassified pictures in the order given, with both classes and the confidence (0 to 1).

    labels, predictions: class indices. maps: a Grad-CAM map a picture, h x w in [0, 1]; each picture then
    stands beside a copy with its map laid over it.
    """
    if len(pictures) == 0:
        fig, ax = _canvas(1100, 160)
        ax.text(MARGIN, 80, "Every picture was classified correctly.", va="center")
        return _finish(fig, "No mistakes", note, path)
    _check(pictures=pictures, labels=labels, predictions=predictions, confidences=confidences)
    _indices("labels", labels, classes), _indices("predictions", predictions, classes)
    cells, group = list(pictures[:25]), 1
    if maps is not None:
        _check(pictures=pictures, maps=maps)
        pairs = zip(cells, maps, strict=False)
        cells, group = [cell for picture, heat in pairs for cell in (picture, _overlay(picture, heat))], 2
    rows = [cells[i : i + columns * group] for i in range(0, len(cells), columns * group)]
    layout = {"apart": 44, "largest": 224} if maps is None else {"apart": 20, "largest": 128}
    fig, ax, _, corners = _grid(rows, above=64, group=group, **layout)
    places = [corner for row in corners for corner in row][::group]
    for (x, y), label, guess, confidence in zip(places, labels, predictions, confidences, strict=False):
        words = f"predicted: {_short(classes[guess], 11)} {100 * confidence:.0f} %"
        ax.text(x, y - 30, words, va="bottom", size=9, color=ORANGE)
        ax.text(x, y - 4, f"true: {_short(classes[label])}", va="bottom", size=9)
    title = "Misclassified pictures, the most confident first"
    return _finish(fig, title + ("" if maps is None else "; yellow: what counted most"), note, path)


@_styled
def plot_top5(pictures, probabilities, classes, *, originals=None, note="", path=None) -> Figure:
    """What the network sees and its five likeliest classes.

    probabilities: a row a picture, a column a class, 0 to 1. originals: the pictures before shrinking.
    """
    _check(pictures=pictures, probabilities=probabilities)
    cells, group, captions = list(pictures), 1, ["what the network sees"]
    if originals is not None:
        _check(pictures=pictures, originals=originals)
        cells = [cell for pair in zip(originals, pictures, strict=True) for cell in pair]
        group, captions = 2, ["original", "network sees"]
    rows = [cells[i : i + 2 * group] for i in range(0, len(cells), 2 * group)]
    fig, ax, side, corners = _grid(rows, above=40, group=group, apart=380, largest=160)
    corners = [corner for row in corners for corner in row]
    for i, (x, y) in enumerate(corners):
        ax.text(x, y - GAP, captions[i % group], va="bottom", size=8.5, color=GREY)
    for (x, y), row in zip(corners[group - 1 :: group], np.asarray(probabilities, dtype=float), strict=True):
        left, bar = x + side + 152, 150
        for place, c in enumerate(np.argsort(-row, kind="stable")[:5]):
            height = y + (place + 0.5) * side / 5
            ax.barh(height, row[c] * bar, left=left, height=20, color=SKY if place else BLUE)
            ax.text(left - GAP, height, _short(classes[c], 11), ha="right", va="center", size=9)
            ax.text(left + row[c] * bar + GAP, height, f"{100 * row[c]:.1f} %", va="center", size=9)
    return _finish(fig, "What the network sees, and what it takes it for", note, path)


@_styled
def plot_bars(rows, *, reference: dict | None = None, note="", path=None) -> Figure:
    """An ablation: mean accuracy with one standard deviation, and each seed as a small mark.

    rows: dicts with name, mean, std and accuracies (%). reference: {"label": words, "value": %}.
    """
    _check(rows=rows)
    fig, ax = _panels(130 + 52 * len(rows))
    for place, row in enumerate(rows):
        ax.plot(row["accuracies"], [place] * len(row["accuracies"]), "|", ms=14, mew=1.5, color=GREY)
        ax.errorbar(row["mean"], place, xerr=row["std"], fmt="o", ms=8, color=BLUE, capsize=5, lw=2)
    if reference:
        ax.axvline(reference["value"], color=ORANGE, ls="--", lw=2)
        _above(ax, reference["value"], f"{reference['label']}: {reference['value']:.2f} %")
    remarks = [f"{row['mean']:.2f} ± {row['std']:.2f} %" for row in rows]
    _bars(ax, [row["name"] for row in rows], remarks)
    ax.set_xlabel("test accuracy (%): mean, one standard deviation, and each seed (|)")
    best = max(rows, key=lambda row: row["mean"])
    return _finish(fig, f"Highest mean accuracy: {best['name']}", note, path)
