"""Every figure of the assignment, one function each.

    utils.plot_samples(images, targets, classes, note="CIFAR-10", path="misc/samples.png")

Each takes plain data (arrays, lists, dicts) and returns a matplotlib `Figure`, saved as PNG when
there is a `path`. `note`, in the lower left corner, says where the data come from. Images are
height x width x 3 (or x 1, or no third), uint8 or floats in [0, 1]. Bad input is a ValueError.
"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# The colours are Okabe and Ito's, for the colour-blind.
BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
YELLOW, ORANGE, PINK = "#E69F00", "#D55E00", "#CC79A7"
INK, GREY, PALE = "#222222", "#5F5F5F", "#E3E3E3"
# Lengths are pixels of a page, 830 wide, as a README shows it; a file has 2 dots for each pixel.
WIDTH, MARGIN, GAP = 830, 16, 4
HEAD, FOOT = 76, 32  # for title and note
SMALL = 11.5  # a font size, in points, of 4/3 pixels
CJK = ["Microsoft YaHei", "Noto Sans CJK JP", "PingFang SC", "WenQuanYi Zen Hei"]  # class names
STYLE = {
    "figure.dpi": 192,
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans", *sorted({*CJK} & {*mpl.font_manager.get_font_names()})],
    "font.size": 13,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$a^^b$"
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
}
# Decorates every figure: the reader's own style (a dark one, say) neither leaks in nor is changed.
styled = plt.style.context(["default", STYLE])


def new_figure(width_px=WIDTH, height_px=400, layout: str | None = "constrained") -> Figure:
    """An empty figure, closed in pyplot so that a notebook shows it only once; see `finish`.

    height_px: without title and note. layout: "constrained" for `fig.subplots`, None for pixels.
    """
    fig = plt.figure(figsize=(width_px / 96, (height_px + HEAD + FOOT) / 96), layout=layout)
    plt.close(fig)
    FigureCanvasAgg(fig)
    return fig


def finish(fig: Figure, title: str, note: str = "", path=None) -> Figure:
    """Write title and note, and save the figure as PNG when there is a path.

    title: a line on what is to be seen and, after a line break, a smaller one on how to read it.
    """
    width, height = fig.get_size_inches() * 96
    room = width - 2 * MARGIN
    title, _, subtitle = title.partition("\n")
    put_text(fig, MARGIN, 14 - HEAD, title, room, size=16, weight="bold")
    put_text(fig, MARGIN, 44 - HEAD, subtitle, room, size=12, color=GREY)
    put_text(fig, MARGIN, height - HEAD - 24, note, room, size=SMALL, color=GREY)
    if fig.get_layout_engine():
        foot = (FOOT if note else GAP) / height
        fig.get_layout_engine().set(rect=(0.01, foot, 0.98, 1 - HEAD / height - foot))
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    for axis in fig.findobj(mpl.axis.Axis):  # the reader's style would move the ticks
        axis.set_major_locator(mpl.ticker.FixedLocator(axis.get_majorticklocs()))
    if path is not None:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            options = {"metadata": {"Software": None}, "pil_kwargs": {"optimize": True}}
            fig.savefig(path, format="png", **options)  # always the same bytes
        except OSError as error:  # a full disk, say: the figure can still be shown
            print(f"The figure cannot be written to {path} ({error}): choose another folder.")
    return fig


def box(fig: Figure, x: float, y: float, width: float, height: float) -> tuple:
    """The box with its upper left corner at (x, y) pixels below the title, for `fig.add_axes`."""
    full_width, full_height = fig.get_size_inches() * 96
    bottom = full_height - HEAD - y - height
    return x / full_width, bottom / full_height, width / full_width, height / full_height


def put_text(fig: Figure, x: float, y: float, words, width: float | None = None, **style):
    """Write at (x, y) pixels below the title; what is wider than `width` pixels is made smaller."""
    left, bottom, _, _ = box(fig, x, y, 0, 0)
    text = fig.text(left, bottom, str(words), **{"va": "top", **style})
    if width and (needed := text.get_window_extent().width / 2) > width:
        text.set_size(text.get_size() * width / needed)
    return text


def put_label(ax, words: str, xy, away=(5, 4), color=ORANGE, **style) -> None:
    """Write beside a point of a chart, `away` points from it."""
    style = {"color": color, "weight": "bold", **style}
    ax.annotate(words, xy, away, textcoords="offset points", **style)


def put_image(fig: Figure, image, x: float, y: float, side: float):
    """Draw an image, its longer side `side` pixels, with its corner at (x, y); returns its axes."""
    image = np.atleast_3d(image)
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"An image has shape {image.shape}: give (H, W), (H, W, 1) or (H, W, 3).")
    if image.dtype != np.uint8:
        low, high, image = image.min(), image.max(), image.clip(0, 1)
        if not -0.01 < low <= high < 1.01:
            said = f"An image has values from {low:.3g} to {high:.3g}"
            raise ValueError(f"{said}: give them in [0, 1] (undo the normalisation), or as uint8.")
    ax = fig.add_axes(box(fig, x, y, side, side))
    ax.imshow(np.broadcast_to(image, (*image.shape[:2], 3)))
    ax.axis("off")
    return ax


def sharp_side(image, room: float) -> float:
    """The largest side, at most `room` pixels, at which a pixel of the image is whole dots wide."""
    pixels = max(np.shape(image)[:2])
    dots = int(2 * room / pixels)
    return dots * pixels / 2 if dots else room


def image_grid(fig: Figure, images, columns: int, side: float, at=(MARGIN, 0), step=None) -> list:
    """Draw images in rows of `columns`; returns (axes, x, y) of each: its cell's lower left corner.

    side: of the largest image; all are drawn to one scale, each in the middle of its cell. at: the
    first cell's upper left corner. step: from one cell to the next; without it they are GAP apart.
    """
    step = step or (side + GAP, side + GAP)
    sizes = [max(np.shape(image)[:2]) for image in images]
    cells = []
    for i, (image, size) in enumerate(zip(images, sizes, strict=True)):
        x, y = at[0] + i % columns * step[0], at[1] + i // columns * step[1]
        drawn = side * size / max(sizes)
        ax = put_image(fig, image, x + (side - drawn) / 2, y + (side - drawn) / 2, drawn)
        cells.append((ax, x, y + side))
    return cells


def short_rate(rate: float, _=None) -> str:
    """A learning rate in few letters: 4.3e-5; also a formatter for ticks."""
    if rate >= 0.1 or rate == 0:
        return f"{rate:.2g}"
    digits, _, power = f"{rate:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def check_lengths(**named) -> None:
    """Refuse lists that are empty, or of different lengths though they belong together."""
    lengths = {name: len(values) for name, values in named.items() if values is not None}
    if not all(lengths.values()):
        empty = min(lengths, key=lengths.get)
        raise ValueError(f"{empty} is empty, so there is nothing to draw: give at least one.")
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"These belong together and must be equally long, but are not: {said}.")


def check_classes(classes, **named) -> None:
    """Refuse class indices that have no name."""
    for name, values in named.items():
        low, high = min(values), max(values)
        if low < 0 or high >= len(classes):
            said = f"{name} go from {low} to {high}"
            raise ValueError(f"{said}, but {len(classes)} classes are named: name them all.")


def check_shape(name: str, values, *shape: int) -> np.ndarray:
    """The values as an array of floats, of this shape."""
    values = np.asarray(values, dtype=float)
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}: give {shape}, an entry for each.")
    return values


def check_probabilities(values, *shape: int) -> np.ndarray:
    """Probabilities as an array of this shape: each row from 0 to 1, with a sum of 1."""
    values = check_shape("probabilities", values, *shape)
    low, high, sums = values.min(), values.max(), values.sum(axis=1)
    if not (low >= 0 and np.abs(sums - 1).max() < 0.02):  # NaN is refused, too
        said = f"probabilities go from {low:.3g} to {high:.3g}, a row's sum is {sums[0]:.3g}"
        raise ValueError(f"{said}: use softmax for logits, exp for log-probabilities.")
    return values


@styled
def plot_samples(images, targets, classes, *, per_class=10, seed=0, note="", path=None) -> Figure:
    """Random images of each class, a row each. images: N of them; targets: N class indices."""
    check_lengths(images=images, targets=targets)
    check_classes(classes, targets=targets)
    rng = np.random.default_rng(seed)
    by_class = [np.flatnonzero(np.asarray(targets) == c) for c in range(len(classes))]
    rows = [rng.permutation(indices)[:per_class] for indices in by_class]
    columns = max(map(len, rows))
    left = MARGIN + 114  # names stand before the images
    side = sharp_side(images[0], min(96, (WIDTH - MARGIN - left) / columns - GAP))
    fig = new_figure(WIDTH, len(rows) * (side + GAP), None)
    for r, (name, row) in enumerate(zip(classes, rows, strict=True)):
        y = r * (side + GAP)
        put_text(fig, MARGIN, y + side / 2, name, left - MARGIN - 8, va="center")
        if len(row):
            image_grid(fig, [images[i] for i in row], columns, side, (left, y))
    words = f"{len(images):,} images in {len(classes)} classes"
    return finish(fig, f"Random images of each class\n{words}", note, path)


@styled
def plot_transforms(stages: dict, draws: dict, *, note="", path=None) -> Figure:
    """What augmentation does to one image: its steps, and what each library draws.

    stages: name -> image, in order. draws: library -> list of images, a row each.
    """
    for name, given in {"stages": stages, "draws": draws, **draws}.items():
        check_lengths(**{name: given})
    cell = (WIDTH - 2 * MARGIN + 20) / len(stages)  # of a stage, with an arrow of 20 pixels
    high = sharp_side(max(stages.values(), key=len), min(cell - 20, 200))
    columns = max(map(len, draws.values()))
    first = next(iter(draws.values()))[0]
    side = sharp_side(first, min(128, (WIDTH - 2 * MARGIN + GAP) / columns - GAP))
    fig = new_figure(WIDTH, round(high + 44 + len(draws) * (side + 40)), None)
    cells = image_grid(fig, list(stages.values()), len(stages), high, step=(cell, 0))
    for name, (_, x, y) in zip(stages, cells, strict=True):
        put_text(fig, x + high / 2, y + 6, name, cell, ha="center")
        if x > MARGIN:
            put_text(fig, x - 10, high / 2, "→", va="center", ha="center", size=18)
    for r, (name, row) in enumerate(draws.items()):
        y = high + 44 + r * (side + 40)
        put_text(fig, MARGIN, y + 4, name, WIDTH - 2 * MARGIN, weight="bold")
        image_grid(fig, row, columns, side, (MARGIN, y + 32))
    words = f"The steps for one image; below, {columns} random results of each library"
    return finish(fig, f"Each epoch sees another version of every image\n{words}", note, path)


@styled
def plot_lr_finder(found, *, note="", path=None) -> Figure:
    """The LR range test: loss by learning rate, and what is read off it.

    found: a RangeTest of extras/lr_finder.py. Very large losses are cut off.
    """
    title = f"LRMIN {short_rate(found.lr_min)}, LRMAX {short_rate(found.lr_max)}"
    check_lengths(lrs=found.lrs, losses=found.losses, smoothed=found.smoothed)
    lrs, smoothed = np.asarray(found.lrs, dtype=float), np.asarray(found.smoothed, dtype=float)
    fig = new_figure(WIDTH, 540)
    ax = fig.subplots()
    ax.plot(lrs, found.losses, color=GREY, alpha=0.6, lw=1.2, label="loss of each batch")
    ax.plot(lrs, smoothed, color=BLUE, lw=3, label="smoothed")
    ax.axhline(found.level, color=GREY, ls=":", lw=2, label=f"level {found.level:.2f}")
    seen = smoothed[np.isfinite(smoothed)]
    fall = max(seen[0] - seen.min(), 0.05 * abs(seen[0]))
    ax.set(xlabel="learning rate (log scale)", xscale="log", xlim=(lrs[0], lrs[-1] * 1.001))
    ax.set(ylabel="training loss", ylim=(seen.min() - 0.2 * fall, seen[0] + 0.5 * fall))
    ax.xaxis.set_major_formatter(short_rate)
    marks = [
        (found.lr_min, "LRMIN", ORANGE, "--"),
        (found.lr_max, "given LRMAX" if found.lr_given else "LRMAX", ORANGE, "-"),
        (found.lr_steepest, "steepest descent", GREEN, "-."),
        (found.take_off, "take-off", INK, ":"),
        (found.lr_minimum, "minimum ÷ 10 =", PINK, (0, (1, 1))),
    ]
    mark_rates(ax, lrs, smoothed, [mark for mark in marks if mark[0] is not None])
    ax.legend(loc="lower left", fontsize=12, framealpha=1)
    rule = "half of the take-off" if found.take_off else "a tenth of the last rate: no take-off"
    low = "At LRMIN a fifth of the fall is over" if found.lr_min in found.lrs else "LRMIN is given"
    words = f"{low}; LRMAX is {'given' if found.lr_given else rule}"
    return finish(fig, f"{title}\n{words}", note, path)


def mark_rates(ax, lrs, smoothed, marks) -> None:
    """A line at each rate, named above the chart. marks: (rate, name, colour, line style)."""
    far = lrs[0] * (lrs[-1] / lrs[0]) ** 0.7
    for row, (rate, name, colour, line) in enumerate(sorted(marks, reverse=True)):
        top = 1.03 + 0.062 * row  # a row each, so that no name hides another
        place = {"transform": ax.get_xaxis_transform(), "clip_on": False}
        ax.plot([rate, rate], [0, top + 0.03], color=colour, ls=line, **place)
        height = np.interp(np.log(rate), np.log(lrs), smoothed)
        ax.plot(rate, height, "o", ms=8, color=colour, mec="white")
        style = {"va": "center", "xycoords": ("data", "axes fraction")}
        style["bbox"] = {"facecolor": "white", "linewidth": 0, "pad": 0.5}  # over other lines
        if "LR" not in name:
            style |= {"color": INK, "weight": "normal"}
        away, side = ((-5, 0), "right") if rate > far else ((5, 0), "left")
        put_label(ax, f"{name} {short_rate(rate)}", (rate, top), away, ha=side, **style)


@styled
def plot_one_cycle(lrs, betas, steps_per_epoch: int, *, note="", path=None) -> Figure:
    """The one-cycle policy, step by step: learning rate and Adam's beta1."""
    check_lengths(lrs=lrs, betas=betas)
    lrs, steps = np.asarray(lrs, dtype=float), np.arange(1, len(lrs) + 1)
    peak = int(lrs.argmax())
    fig = new_figure(WIDTH, 480)
    rate, beta = fig.subplots(2, sharex=True, height_ratios=[2, 1])
    rate.plot(steps, lrs, color=BLUE, lw=3)
    beta.plot(steps, betas, color=GREEN, lw=3)
    for ax in (rate, beta):
        ax.axvline(steps[peak], color=ORANGE, ls="--")
    rate.plot(steps[peak], lrs[peak], "o", ms=9, color=ORANGE, mec="white")
    rate.axhline(lrs[0], color=ORANGE, ls=":")
    epochs = steps[peak] / steps_per_epoch
    words = f"LRMAX {short_rate(lrs[peak])} at step {steps[peak]:,}, after {epochs:.3g} epochs"
    put_label(rate, words, (steps[peak], lrs[peak]), (8, 4))
    put_label(rate, f"LRMIN {short_rate(lrs[0])}", (steps[len(lrs) // 2], lrs[0]), ha="center")
    rate.set(ylabel="learning rate", ylim=(-0.02 * lrs[peak], 1.18 * lrs[peak]))
    rate.yaxis.set_major_formatter(short_rate)
    beta.set(ylabel="Adam's beta1", xlabel="step (one batch each)", xlim=(0, len(lrs) + 1))
    scale = (lambda step: step / steps_per_epoch, lambda epoch: epoch * steps_per_epoch)
    rate.secondary_xaxis("top", functions=scale).set_xlabel("epochs done")
    title = f"One cycle: up to LRMAX, and down again to {short_rate(lrs[-1])}"
    words = "Where the learning rate is high, OneCycleLR makes Adam's beta1 low"
    return finish(fig, f"{title}\n{words}", note, path)


def smoothing_floor(label_smoothing: float, num_classes: int) -> float:
    """The entropy (nats) of a smoothed target, which no cross entropy can undercut."""
    target = (1 - label_smoothing) * np.eye(num_classes)[0] + label_smoothing / num_classes
    return float(-sum(p * np.log(p) for p in target if p > 0))


@styled
def plot_loss_curves(history, *, target=None, loss_floor=None, note="", path=None) -> Figure:
    """Accuracy, loss and learning rate by epoch. Very large losses are cut off.

    history: dicts with epoch, train_loss, train_acc, test_loss, test_acc (%), lr. target: a test
    accuracy (%) to reach. loss_floor: the lowest loss, see `smoothing_floor`.
    """
    check_lengths(history=history)
    keys = ("epoch", "train_loss", "train_acc", "test_loss", "test_acc", "lr")
    values = {key: np.array([row.get(key, np.nan) for row in history], float) for key in keys}
    epochs, test_acc = values["epoch"], values["test_acc"]
    fig = new_figure(WIDTH, 680)
    accuracy, loss, rate = fig.subplots(3, sharex=True, height_ratios=[7, 5, 2])
    style = {"lw": 2.5, "ms": 6}
    for ax, key in ((accuracy, "acc"), (loss, "loss")):
        ax.plot(epochs, values[f"train_{key}"], "o--", color=BLUE, mfc="w", label="train", **style)
        ax.plot(epochs, values[f"test_{key}"], "s-", color=ORANGE, label="test", **style)
    rate.plot(epochs, values["lr"], "k-", lw=2.5)
    title = f"Test accuracy: {test_acc[-1]:.2f} % at the end"
    line = {"color": GREEN, "ls": "-."}
    place = {"color": GREEN, "xycoords": ("axes fraction", "data")}
    if target is not None:
        accuracy.axhline(target, **line)
        put_label(accuracy, f"target {target:g} %", (0, target), **place)
        reached = epochs[test_acc >= target]
        when = f"in epoch {reached[0]:g}" if reached.size else "not reached"
        title = f"Test accuracy: {target:g} % {when}, {test_acc[-1]:.2f} % at the end"
    if loss_floor:  # 0, without smoothing, is the axis
        loss.axhline(loss_floor, **line)
        words = f"lowest possible loss with label smoothing ({loss_floor:.2f})"
        put_label(loss, words, (0, loss_floor), (5, -4), va="top", **place)
    accuracy.set(ylabel="accuracy (%)", ylim=(None, 100))
    accuracy.legend(loc="lower right", fontsize=12)
    losses = np.ma.masked_invalid([values["train_loss"], values["test_loss"]])
    low, high = min(losses.min(), loss_floor or np.inf), min(losses.max(), 4 * np.ma.median(losses))
    room = max(0.1 * (high - low), 0.01)
    loss.set(ylabel="loss", ylim=(low - 2 * room, high + room))
    highest = np.nan_to_num(values["lr"]).max()
    rate.set(ylabel="learning\nrate", xlabel="epoch", yticks=sorted({0, highest}))
    rate.yaxis.set_major_formatter(short_rate)
    rate.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    return finish(fig, f"{title}\nAccuracy, loss and learning rate of each epoch", note, path)


@styled
def plot_confusion_matrix(confusion, classes, *, note="", path=None) -> Figure:
    """The confusion matrix, and each class's accuracy; without numbers above 30 classes.

    confusion: counts or shares, with a row a true class and a column a predicted one.
    """
    n = len(classes)
    matrix = check_shape("confusion", confusion, n, n)
    percent = 100 * matrix / matrix.sum(axis=1, keepdims=True).clip(min=1e-9)
    mistakes = np.ma.masked_array(percent, np.eye(n, dtype=bool))  # the diagonal would hide them
    row_height = max(40, min(58, 600 // n)) if n <= 30 else min(10, 1000 / n)
    fig = new_figure(WIDTH, 150 + row_height * n)
    ax, strip = fig.subplots(1, 2, width_ratios=[3.4, 1])
    ax.set_facecolor(PALE)  # shows through on the diagonal
    ax.imshow(mistakes, cmap="Blues", vmin=0, vmax=1.1 * max(mistakes.max(), 1), aspect="auto")
    strip.barh(range(n), percent.diagonal(), color=SKY, height=0.8)
    for each in (ax, strip):
        each.grid(visible=False)
        each.spines[:].set_visible(False)
    names = [name if len(name) <= 16 else f"{name[:7]}…{name[-8:]}" for name in map(str, classes)]
    ax.set(xlabel="predicted class", xticks=[], ylabel="true class")
    ax.set_yticks(range(n), names, size=min(13, 230 / n) if n <= 30 else 0.7 * row_height)
    strip.set(xlabel="class accuracy (%)", xlim=(0, 100), xticks=[0, 50, 100])
    strip.set(ylim=ax.get_ylim(), yticks=[])
    if n <= 30:
        slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(range(n), names, size=min(13, 230 / n), **slanted)
        write_numbers(ax, strip, matrix, percent)
    i, j = np.unravel_index(np.ma.masked_array(matrix, mistakes.mask).argmax(), (n, n))
    title = f"Most common mistake: {classes[i]} taken for {classes[j]}"
    words = "Test images; the bluer a cell, the larger its share of the true class"
    return finish(fig, f"{title if mistakes.max() else 'No mistakes'}\n{words}", note, path)


def write_numbers(ax, strip, matrix, percent) -> None:
    """The counts into the cells of the matrix, and the accuracies onto the bars."""
    n = len(matrix)
    worst = percent[~np.eye(n, dtype=bool)].max()
    style = {"size": min(13, 160 / n), "ha": "center", "va": "center"}
    for i, j in np.argwhere(matrix):
        colour = "white" if i != j and percent[i, j] > 0.6 * worst else INK
        weight = "bold" if i == j else "normal"
        ax.text(j, i, f"{round(matrix[i, j], 2):g}", color=colour, weight=weight, **style)
    for i, total in enumerate(matrix.sum(axis=1)):
        words = f"{percent[i, i]:.1f} %" if total else "no images"
        strip.text(4, i, words, va="center", size=min(13, 400 / n))


@styled
def plot_misclassified(
    images, labels, probabilities, classes, *, columns=5, captions=None, note="", path=None
) -> Figure:
    """The first 25 misclassified images, with predicted and true class and their probabilities.

    labels: N true class indices. probabilities: (N, C), 0 to 1; the largest is the prediction.
    captions: a short line more for each image.
    """
    if len(images) == 0:
        title = "No misclassified images\nAll images were classified correctly."
        return finish(new_figure(WIDTH, 40, None), title, note, path)
    check_lengths(images=images, labels=labels, captions=captions)
    check_classes(classes, labels=labels)
    probabilities = check_probabilities(probabilities, len(images), len(classes))
    if (probabilities.argmax(axis=1) == labels).any():
        print("Some of these images are classified correctly: test.misclassified finds the others.")
    shown = images[:25]
    cell = (WIDTH - 2 * MARGIN + 12) / columns
    side = sharp_side(images[0], cell - 12)
    height = side + (62 if captions is None else 84)
    fig = new_figure(WIDTH, -(-len(shown) // columns) * height, None)
    for i, (_, x, y) in enumerate(image_grid(fig, shown, columns, side, step=(cell, height))):
        lines = [("✗", probabilities[i].argmax(), ORANGE), ("✓", labels[i], INK)]
        for line, (mark, c, colour) in enumerate(lines):
            place = {"y": y + 5 + 21 * line, "size": 12, "color": colour}
            put_text(fig, x, words=f"{mark} {classes[c]}", width=side - 46, **place)
            put_text(fig, x + side, words=f"{100 * probabilities[i, c]:.0f} %", ha="right", **place)
        if captions is not None:
            put_text(fig, x, y + 47, captions[i], side, size=12, color=GREY)
    order = ", the most confident first" if (np.diff(probabilities.max(axis=1)) <= 0).all() else ""
    count = f": {len(shown)} of {len(images):,}" if len(images) > len(shown) else ""
    words = "✗ predicted class, ✓ true class, and the probability that the network gives to each"
    return finish(fig, f"Misclassified images{order}{count}\n{words}", note, path)
