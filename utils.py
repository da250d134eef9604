"""Draw every figure of the assignment, one function each; rarer ones are in extras/figures.py and
extras/diagram.py.

    utils.plot_samples(images, targets, classes, note="CIFAR-10")                 # last line of a
    cell: shown, once utils.plot_samples(images, targets, classes, path="misc/sample_images.png")
    # saved as well

Each function takes plain data (arrays, lists, dicts), returns a matplotlib `Figure`, and saves it
as PNG when it is given `path`. `note`, in the lower left corner, says where the data come from.
Images are height x width x 3 (or x 1, or no third), uint8 or floats in [0, 1]. Bad input is a
ValueError. The colours are Okabe and Ito's, for the colour-blind.
"""

import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, SKY, GREEN, YELLOW, ORANGE, PINK = (
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#E69F00",
    "#D55E00",
    "#CC79A7",
)
INK, GREY, PALE = "#222222", "#5F5F5F", "#E3E3E3"
# Lengths are pixels of a page: 830 wide, as a README shows it; the text can still be read on a
# phone, at 360. The file has 2 dots for each pixel, so a 32x32 image drawn with a side of 16, 32,
# 48 … pixels is enlarged by a whole number.
WIDTH, MARGIN, GAP, HEAD, FOOT, SMALL = (
    830,
    16,
    4,
    76,
    32,
    11.5,
)  # but font sizes are points, of 4/3 pixels
CJK = {
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
}
FONTS = ["DejaVu Sans", *sorted(CJK.intersection(mpl.font_manager.get_font_names()))]
warnings.filterwarnings(
    "ignore", "Glyph .* missing from font"
)  # then 猫 is a box, without a warning each time
STYLE = {
    "figure.dpi": 192,
    "figure.facecolor": "white",
    "font.family": FONTS,
    "font.size": 13,
    "text.color": INK,
}
STYLE |= {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "grid.color": PALE,
}
STYLE |= {
    "axes.grid": True,
    "axes.axisbelow": True,
    "text.parse_math": False,
}  # a class may be called "$a^^b$"
# Decorates every figure: the reader's own style (a dark one, say) neither leaks in nor is changed.
styled = plt.style.context(["default", STYLE])


def new_figure(
    width_px: int = WIDTH, height_px: int = 400, layout: str | None = "constrained"
) -> Figure:
    """An empty figure that pyplot forgets, so that a notebook shows it once; `finish` completes it.

    height_px: without title and note. layout: "constrained" is for `fig.subplots`, None for
    `put_image` and `put_text`.
    """
    full = height_px + HEAD + FOOT
    fig = plt.figure(figsize=(width_px / 96, full / 96), layout=layout)
    plt.close(fig)
    FigureCanvasAgg(fig)
    if layout:
        fig.get_layout_engine().set(rect=(0.01, FOOT / full, 0.98, height_px / full))
    return fig


def finish(fig: Figure, title: str, note: str = "", path=None) -> Figure:
    """Write title and note, and save the figure as PNG when there is a path; the same figure gives
    the same bytes.

    title: a line that says what is to be seen and, after a line break, a smaller one on how to read
    the figure.
    """
    width, height = fig.get_size_inches() * 96
    title, _, subtitle = title.partition("\n")
    put_text(fig, MARGIN, 14 - HEAD, title, width - 2 * MARGIN, size=16, weight="bold")
    put_text(fig, MARGIN, 44 - HEAD, subtitle, width - 2 * MARGIN, size=12, color=GREY)
    put_text(fig, MARGIN, height - HEAD - 24, note, width - 2 * MARGIN, size=SMALL, color=GREY)
    fig.draw_without_rendering()
    for axis in fig.findobj(
        mpl.axis.Axis
    ):  # ticks and layout are made here, in our style, not later in the reader's
        axis.set_major_locator(mpl.ticker.FixedLocator(axis.get_majorticklocs()))
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    if path is not None:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            fig.savefig(
                path, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True}
            )
        except OSError as error:  # a full disk, say: the figure can still be shown
            print(
                f"The figure cannot be written to {path} ({error.strerror or error}): choose another folder."
            )
    return fig


def box(fig: Figure, x: float, y: float, width: float, height: float) -> tuple:
    """The box with its upper left corner at (x, y) pixels below the title, as matplotlib wants it
    for `add_axes`.
    """
    full_width, full_height = fig.get_size_inches() * 96
    return (
        x / full_width,
        1 - (y + height + HEAD) / full_height,
        width / full_width,
        height / full_height,
    )


def put_text(fig: Figure, x: float, y: float, words, width: float | None = None, **style):
    """Write at (x, y) pixels below the title; what is wider than `width` pixels becomes smaller,
    then shorter.
    """
    text = fig.text(*box(fig, x, y, 0, 0)[:2], str(words), **{"va": "top", **style})
    if width and (long := text.get_window_extent().width / 2) > width:
        text.set_size(text.get_size() * max(0.75, width / long))
        while text.get_window_extent().width / 2 > width and len(text.get_text()) > 1:
            text.set_text(text.get_text().rstrip("…")[:-1] + "…")
    return text


def put_image(fig: Figure, image, x: float, y: float, side: float):
    """Draw an image, its longer side `side` pixels, every pixel a sharp square; returns its
    axes.
    """
    image = np.atleast_3d(image)
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            f"An image has shape {image.shape}: give height x width x 3 (or x 1, or no third)."
        )
    if image.dtype != np.uint8 and not (image.min() > -0.01 and image.max() < 1.01):
        said = f"An image has values from {image.min():.3g} to {image.max():.3g}"
        raise ValueError(f"{said}: give them in [0, 1] (undo the normalisation), or as uint8.")
    ax = fig.add_axes(box(fig, x, y, side, side))
    image = np.broadcast_to(
        image if image.dtype == np.uint8 else image.clip(0, 1), (*image.shape[:2], 3)
    )
    ax.imshow(
        image, interpolation="nearest" if max(image.shape) <= 2 * side else "antialiased"
    )  # a photo is shrunk
    ax.axis("off")
    return ax


def put_label(ax, words: str, xy, away=(5, 4), color=ORANGE, **style) -> None:
    """Write beside a point of a chart, `away` points from it."""
    ax.annotate(
        words, xy, away, textcoords="offset points", color=color, **{"weight": "bold", **style}
    )


def shortened(words, most: int = 16) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def short_rate(rate: float, _=None) -> str:
    """A learning rate in few letters: 4.3e-5; also a formatter for ticks."""
    digits, _, power = f"{rate:.1e}".partition("e")
    return f"{rate:.2g}" if rate >= 0.1 or not rate else f"{digits.removesuffix('.0')}e{int(power)}"


def check_lengths(**named) -> None:
    """Refuse lists that are empty, or of different lengths though they belong together."""
    lengths = {name: len(values) for name, values in named.items() if values is not None}
    if not all(lengths.values()):
        raise ValueError(
            f"{min(lengths, key=lengths.get)} is empty, so there is nothing to draw: give at least one."
        )
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"These belong together and must be equally long, but are not: {said}.")


def check_classes(classes, **named) -> None:
    """Refuse class indices that have no name."""
    for name, values in named.items():
        low, high = min(values), max(values)
        if low < 0 or high >= len(classes):
            raise ValueError(
                f"{name} go from {low} to {high}, but there are {len(classes)} classes: name them all."
            )


def check_shape(name: str, values, *shape: int) -> np.ndarray:
    """The values as an array of floats, of this shape."""
    values = np.asarray(values, dtype=float)
    if values.shape != shape:
        raise ValueError(
            f"{name} has shape {values.shape}: it must be {shape}, as images and classes say."
        )
    return values


@styled
def plot_samples(
    images, targets, classes, *, per_class: int = 10, seed: int = 0, note="", path=None
) -> Figure:
    """Random images of each class, a row each. images: N of them; targets: N class indices."""
    check_lengths(images=images, targets=targets)
    check_classes(classes, targets=targets)
    rng = np.random.default_rng(seed)
    rows = [
        rng.permutation(np.flatnonzero(np.asarray(targets) == c))[:per_class]
        for c in range(len(classes))
    ]
    columns, name_width = max(map(len, rows)), 114
    side = int(min(96, max(16, (WIDTH - 2 * MARGIN - name_width) / columns - GAP)) // 16 * 16)
    fig = new_figure(
        max(WIDTH, 2 * MARGIN + name_width + columns * (side + GAP)), len(rows) * (side + GAP), None
    )
    for r, row in enumerate(rows):
        put_text(fig, MARGIN, r * (side + GAP) + side / 2, classes[r], name_width - 8, va="center")
        for column, i in enumerate(row):
            put_image(
                fig, images[i], MARGIN + name_width + column * (side + GAP), r * (side + GAP), side
            )
    return finish(fig, f"{columns} random images of each class", note, path)


@styled
def plot_transforms(stages: dict, draws: dict, *, note="", path=None) -> Figure:
    """What augmentation does to one image: its steps, one after the other, and what each library
    draws.

    stages: name -> image, in order, drawn to one scale. draws: library -> list of images, a row
    each.
    """
    for name, given in {"stages": stages, "draws": draws, **draws}.items():
        check_lengths(**{name: given})
    arrow, sides = 30, [max(np.shape(image)[:2]) for image in stages.values()]
    scale = (
        int(2 * (WIDTH - 2 * MARGIN - arrow * (len(sides) - 1)) / sum(sides)) / 2 or 0.5
    )  # whole dots a pixel
    scale, columns = min(scale, 5), max(map(len, draws.values()))
    side = int(min(128, max(16, (WIDTH - 2 * MARGIN + GAP) / columns - GAP)) // 16 * 16)
    top, x = max(sides) * scale, MARGIN
    fig = new_figure(WIDTH, round(top + 44 + len(draws) * (side + 40)), None)
    for (name, image), pixels in zip(stages.items(), sides, strict=True):
        put_image(fig, image, x, (top - pixels * scale) / 2, pixels * scale)
        put_text(fig, x + pixels * scale / 2, top + 6, name, pixels * scale + arrow, ha="center")
        if x > MARGIN:
            put_text(fig, x - arrow / 2, top / 2, "→", va="center", ha="center", size=18)
        x += pixels * scale + arrow
    for r, (name, row) in enumerate(draws.items()):
        y = top + 44 + r * (side + 40)
        put_text(fig, MARGIN, y + 4, name, WIDTH - 2 * MARGIN, weight="bold")
        for column, image in enumerate(row):
            put_image(fig, image, MARGIN + column * (side + GAP), y + 32, side)
    words = f"The steps for one image; below, {columns} random results of each library"
    return finish(fig, f"Each epoch sees another version of every image\n{words}", note, path)


@styled
def plot_lr_finder(found, *, note="", path=None) -> Figure:
    """The LR range test: loss by learning rate, and what is read off it. A loss that explodes
    leaves the frame.

    found: has lrs, losses, smoothed (a number a step) and the rates lr_min, lr_max, lr_steepest,
    lr_minimum, take_off.
    """
    check_lengths(lrs=found.lrs, losses=found.losses, smoothed=found.smoothed)
    lrs, smoothed = np.asarray(found.lrs, dtype=float), np.asarray(found.smoothed, dtype=float)
    seen = smoothed[np.isfinite(smoothed)]
    if not seen.size or lrs.min() <= 0:
        raise ValueError(
            "smoothed holds no finite loss, or lrs a rate that is not above 0: run the test again."
        )
    fig = new_figure(WIDTH, 540)
    ax = fig.subplots()
    ax.plot(lrs, found.losses, color=GREY, alpha=0.6, lw=1.2, label="loss of each batch")
    ax.plot(lrs, smoothed, color=BLUE, lw=3, label="smoothed")
    drop = max(seen[0] - seen.min(), 0.05 * abs(seen[0]), 1e-3)
    ax.set(
        xscale="log",
        xlim=(lrs[0], lrs[-1] * 1.001),
        ylim=(seen.min() - 0.2 * drop, seen[0] + 0.5 * drop),
    )
    ax.set(xlabel="learning rate (log scale)", ylabel="training loss")
    ax.xaxis.set_major_formatter(short_rate)
    marks = [("LRMIN", found.lr_min, ORANGE, "--"), ("LRMAX", found.lr_max, ORANGE, "-")]
    marks += [
        ("steepest descent", found.lr_steepest, GREEN, "-."),
        ("take-off", found.take_off, INK, ":"),
    ]
    marks += [("minimum ÷ 10", found.lr_minimum, PINK, (0, (1, 1)))]
    # The leftmost mark has the highest label, so no line runs through another label; far right it
    # is the other way.
    far = lrs[0] * (lrs[-1] / lrs[0]) ** 0.7
    marks.sort(key=lambda mark: mark[1] if mark[1] > far else -mark[1])
    for row, (name, rate, colour, line) in enumerate(marks):
        top = 1.03 + 0.062 * row
        away, side = (-5, "right") if rate > far else (5, "left")
        ax.plot(
            [rate, rate],
            [0, top + 0.03],
            transform=ax.get_xaxis_transform(),
            clip_on=False,
            color=colour,
            ls=line,
        )
        ax.plot(
            rate,
            np.interp(np.log(rate), np.log(lrs), smoothed),
            "o",
            ms=8,
            color=colour,
            mec="white",
        )
        style = {"ha": side, "va": "center", "xycoords": ("data", "axes fraction")}
        style |= {} if name.startswith("LR") else {"color": INK, "weight": "normal"}
        put_label(ax, f"{name} {short_rate(rate)}", (rate, top), (away, 0), **style)
    ax.legend(loc="lower left", fontsize=12, framealpha=1)
    words = "LR range test: the rate grows after each batch, and the loss is watched"
    return finish(
        fig, f"LRMIN: a fifth of the fall is over. LRMAX: half of the take-off\n{words}", note, path
    )


@styled
def plot_one_cycle(lrs, betas, steps_per_epoch: int, *, note="", path=None) -> Figure:
    """The one-cycle policy, step by step: learning rate and Adam's beta1."""
    check_lengths(lrs=lrs, betas=betas)
    lrs, steps = np.asarray(lrs, dtype=float), np.arange(1, len(lrs) + 1)
    peak, fig = int(lrs.argmax()), new_figure(WIDTH, 480)
    axes = fig.subplots(2, sharex=True, height_ratios=[2, 1])
    curves = (lrs, BLUE, "learning rate"), (betas, GREEN, "Adam's beta1")
    for ax, (values, colour, name) in zip(axes, curves, strict=True):
        ax.plot(steps, values, color=colour, lw=3)
        ax.axvline(steps[peak], color=ORANGE, ls="--")
        ax.set_ylabel(name)
    axes[0].axhline(lrs[0], color=ORANGE, ls=":")
    axes[0].plot(steps[peak], lrs[peak], "o", ms=9, color=ORANGE, mec="white")
    when = "in" if steps[peak] % steps_per_epoch else "the end of"
    words = f"LRMAX {short_rate(lrs[peak])} at step {steps[peak]:,}, {when} epoch {-(-steps[peak] // steps_per_epoch)}"
    away, side = (-8, "right") if peak > len(lrs) / 2 else (8, "left")
    put_label(axes[0], words, (steps[peak], lrs[peak]), (away, 4), ha=side)
    put_label(axes[0], f"LRMIN {short_rate(lrs[0])}", (steps[len(lrs) // 2], lrs[0]), ha="center")
    axes[0].set(ylim=(-0.02 * lrs[peak], 1.18 * lrs[peak]))
    axes[-1].set(xlabel="step (one batch each)", xlim=(0, len(lrs) + 1))
    scale = (lambda step: step / steps_per_epoch, lambda epoch: epoch * steps_per_epoch)
    axes[0].secondary_xaxis("top", functions=scale).set_xlabel("epochs done")
    end = (
        "to LRMIN, and no further"
        if lrs[-1] > 0.99 * lrs[0]
        else f"below LRMIN, to {short_rate(lrs[-1])}"
    )
    words = "Where the learning rate is high, OneCycleLR makes Adam's beta1 low"
    return finish(fig, f"One cycle: up to LRMAX, down again {end}\n{words}", note, path)


def smoothing_floor(label_smoothing: float, num_classes: int) -> float:
    """The entropy of a smoothed target, which no cross entropy (nats) can undercut: 0.8669 for 0.2
    and 10 classes.
    """
    target = (1 - label_smoothing) * np.eye(num_classes)[0] + label_smoothing / num_classes
    return float(-sum(p * np.log(p) for p in target if p > 0))


@styled
def plot_loss_curves(history, *, target=90, loss_floor=None, note="", path=None) -> Figure:
    """Accuracy, loss and learning rate by epoch.

    history: dicts with epoch, train_loss, train_acc, test_loss, test_acc (%), lr. target: the
    accuracy to reach, or None. loss_floor: the lowest loss that label smoothing allows
    (`smoothing_floor`).
    """
    check_lengths(history=history)
    fig, epochs = new_figure(WIDTH, 720), [row["epoch"] for row in history]
    axes = fig.subplots(3, sharex=True, height_ratios=[6, 5, 2])
    keys = ("train_loss", "train_acc", "test_loss", "test_acc", "lr")
    values = {key: np.array([row.get(key, np.nan) for row in history], dtype=float) for key in keys}
    for ax, key in zip(axes, ("acc", "loss"), strict=False):
        ax.plot(
            epochs,
            values[f"train_{key}"],
            "o--",
            color=BLUE,
            mfc="white",
            lw=2.5,
            ms=6,
            label="train",
        )
        ax.plot(epochs, values[f"test_{key}"], "s-", color=ORANGE, lw=2.5, ms=6, label="test")
    losses = np.concatenate([values["train_loss"], values["test_loss"]])
    finite = losses[np.isfinite(losses)] if np.isfinite(losses).any() else np.ones(1)
    top = max(
        min(finite.max(), 4 * np.median(finite)), 1.1 * (loss_floor or 0)
    )  # what explodes leaves the frame
    for i in np.flatnonzero(losses > top):
        put_label(
            axes[1],
            f"{losses[i]:.3g} ↑",
            (epochs[i % len(epochs)], top),
            (0, 0),
            INK,
            ha="center",
            va="top",
        )
    left = {"color": GREEN, "xycoords": ("axes fraction", "data")}
    if target is not None:
        axes[0].axhline(target, color=GREEN, ls="-.")
        put_label(axes[0], f"target {target:g} %", (0, target), **left)
    if loss_floor is not None:
        axes[1].axhline(loss_floor, color=GREEN, ls="-.")
        words = f"lowest possible loss with label smoothing ({loss_floor:.2f})"
        put_label(axes[1], words, (0, loss_floor), (5, -4), va="top", **left)
    axes[2].plot(epochs, values["lr"], "k-", lw=2.5)
    axes[0].set(ylabel="accuracy (%)", ylim=(None, 100))
    axes[0].legend(loc="lower right", fontsize=12)
    axes[1].set(ylabel="loss", ylim=(0, 1.08 * top))
    axes[2].set(
        ylabel="learning\nrate",
        xlabel="epoch",
        yticks=sorted({0, np.nan_to_num(values["lr"]).max()}),
    )
    axes[2].yaxis.set_major_formatter(short_rate)
    axes[2].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    best = int(np.argmax(np.nan_to_num(values["test_acc"], nan=-1)))
    title = f"Test accuracy {values['test_acc'][-1]:.2f} % at the end"
    title += (
        f", best {values['test_acc'][best]:.2f} % in epoch {epochs[best]}"
        if best < len(epochs) - 1
        else ""
    )
    peak = int(np.argmax(np.nan_to_num(values["lr"])))
    drops = np.nan_to_num(-np.diff(values["test_acc"][peak:]))
    words = "The test accuracy never drops after the learning rate's peak" if drops.size else ""
    if (drops > 0).any():
        words = f"{drops.max():.2f} percentage points, in epoch {epochs[peak + 1 + drops.argmax()]}"
        words = f"Largest drop after the learning rate's peak: {words}"
    return finish(fig, f"{title}\n{words}", note, path)


@styled
def plot_confusion_matrix(confusion, classes, *, note="", path=None) -> Figure:
    """The confusion matrix, counts with a row a true class and a column a predicted one, and each
    class's accuracy.
    """
    n, matrix = len(classes), check_shape("confusion", confusion, len(classes), len(classes))
    totals = matrix.sum(axis=1)
    percent = 100 * matrix / totals[:, None].clip(min=1)
    mistakes = np.ma.masked_array(
        percent, mask=np.eye(n, dtype=bool)
    )  # the diagonal would drown the mistakes
    fig = new_figure(WIDTH, 150 + max(40, min(58, 600 // n)) * n)
    ax, strip = fig.subplots(1, 2, width_ratios=[3.4, 1])
    ax.set_facecolor(PALE)  # shows through on the diagonal
    worst = max(mistakes.max(), 1)
    ax.imshow(mistakes, cmap="Blues", vmin=0, vmax=1.1 * worst, aspect="auto")
    for i, j in np.argwhere(matrix) if n <= 30 else ():
        style = {
            "size": min(13, 160 / n),
            "weight": "bold" if i == j else "normal",
            "ha": "center",
            "va": "center",
        }
        white = i != j and percent[i, j] > 0.6 * worst
        ax.text(j, i, f"{matrix[i, j]:.0f}", color="white" if white else INK, **style)
    names, size = [shortened(name) for name in classes], min(13, 230 / n)
    ax.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor", size=size)
    ax.set_yticks(range(n), names, size=size)
    ax.set(xlabel="predicted class", ylabel="true class")
    strip.barh(range(n), percent.diagonal(), color=SKY, height=0.8)
    for i, accuracy in enumerate(percent.diagonal()):
        words, colour = (f"{accuracy:.1f} %", INK) if totals[i] else ("no images", GREY)
        strip.text(4, i, words, va="center", size=min(13, 400 / n), color=colour)
    strip.set(
        xlim=(0, 100),
        ylim=ax.get_ylim(),
        yticks=[],
        xticks=[0, 50, 100],
        xlabel="class accuracy (%)",
    )
    for each in (ax, strip):
        each.grid(visible=False)
        each.spines[:].set_visible(False)
    i, j = np.unravel_index(mistakes.argmax(), (n, n))
    title = f"Most common mistake: {shortened(classes[i])} taken for {shortened(classes[j])}"
    words = "Number of test images; the bluer a cell, the larger its share of the true class"
    return finish(fig, f"{title if mistakes.max() else 'No mistakes'}\n{words}", note, path)


@styled
def plot_misclassified(
    images, labels, probabilities, classes, *, columns=5, captions=None, note="", path=None
) -> Figure:
    """The first 25 misclassified images, each with predicted and true class and the probability
    given to both.

    labels: N true class indices. probabilities: (N, C), 0 to 1; the largest is the prediction.
    captions: a short line more for each image.
    """
    if len(images) == 0:
        title = "No misclassified images\nAll images were classified correctly."
        return finish(new_figure(WIDTH, 40, None), title, note, path)
    check_lengths(images=images, labels=labels, captions=captions)
    check_classes(classes, labels=labels)
    probabilities = check_shape("probabilities", probabilities, len(images), len(classes))
    cell = (WIDTH - 2 * MARGIN + 12) / columns
    side = int(cell - 12) // 16 * 16 or cell - 12
    height, shown = side + (84 if captions is not None else 62), range(min(25, len(images)))
    fig = new_figure(WIDTH, -(-len(shown) // columns) * height, None)
    for i in shown:
        x, y = MARGIN + i % columns * cell, i // columns * height
        put_image(fig, images[i], x, y, side)
        y += side + 5
        for mark, c, colour in (("✗", probabilities[i].argmax(), ORANGE), ("✓", labels[i], INK)):
            share = put_text(
                fig,
                x + side,
                y,
                f"{100 * probabilities[i, c]:.0f} %",
                ha="right",
                size=12,
                color=colour,
            )
            room = side - share.get_window_extent().width / 2 - 4
            put_text(fig, x, y, f"{mark} {classes[c]}", room, size=12, color=colour)
            y += 21
        put_text(fig, x, y, captions[i] if captions is not None else "", side, size=12, color=GREY)
    order = ", the most confident first" if (np.diff(probabilities.max(axis=1)) <= 0).all() else ""
    words = "✗ predicted class, ✓ true class, and the probability that the network gives to each"
    return finish(fig, f"Misclassified images{order}\n{words}", note, path)
