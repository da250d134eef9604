"""What do people look at? Every figure of the project, one function each.

    from utils import plot_samples
    plot_samples(pictures, targets, classes, note="CIFAR-10")      # as a cell's last line: shown, once
    plot_samples(pictures, targets, classes, path="misc/sample_images.png")    # saved as well

Each function takes plain data (arrays, lists, dicts) and returns a matplotlib `Figure`. It saves only when it
is given `path`; the same figure gives the same bytes. `note`, in the lower left corner, says where the data
come from. The colours are Okabe and Ito's, which colour-blind people can tell apart; marks and lines differ.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from diagram import plot_model as plot_model
from drawing import (
    BLUE,
    DPI,
    GAP,
    GREEN,
    GREY,
    INK,
    MARGIN,
    ORANGE,
    PALE,
    SKY,
    canvas,
    check_confusion,
    check_indices,
    check_lengths,
    finish,
    panels,
    picture_grid,
    put_picture,
    shortened,
    styled,
    to_rgb,
)

LINES = (BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-."), (SKY, "D", ":"), (INK, "x", "-")


@styled
def plot_samples(pictures, targets, classes, *, per_class: int = 10, seed: int = 0, note="", path=None) -> Figure:
    """Random pictures of each class, a row each. pictures: N of HxWx3, HxWx1 or HxW; targets: N indices."""
    check_lengths(pictures=pictures, targets=targets)
    check_lengths(classes=classes)
    targets, rng = check_indices("targets", targets, classes), np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(targets == c))[:per_class] for c in range(len(classes))]
    rows = [[pictures[i] for i in row] for row in chosen]
    fig, *_ = picture_grid(rows, names=[shortened(name) for name in classes], largest=128)
    return finish(fig, f"{max(map(len, rows))} random pictures of each class", note, path)


@styled
def plot_transforms(original, draws: dict, *, note="", path=None) -> Figure:
    """One picture (HxWx3) and what transforms make of it. draws: for each name a list of pictures, a row."""
    check_lengths(draws=draws)
    for name, pictures in draws.items():
        check_lengths(**{f"draws[{name!r}]": pictures})
    fig, ax, side, corners = picture_grid(list(draws.values()), left=128 + 4 * GAP, above=32, largest=128)
    for name, row in zip(draws, corners, strict=True):
        ax.text(row[0][0], row[0][1] - GAP, name, va="bottom")
    y = (corners[0][0][1] + corners[-1][0][1] + side - 128) / 2
    put_picture(ax, original, MARGIN, y, 128)
    ax.text(MARGIN, y - GAP, "original", va="bottom", weight="bold")
    return finish(fig, "One picture, and what training sees of it", note, path)


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


@styled
def plot_receptive_field(rows, *, input_size: int = 32, note="", path=None) -> Figure:
    """Receptive field after each layer, in pixels, and where it outgrows a picture of side `input_size`.

    rows: dicts with name, kernel, stride, padding, out_size, jump, receptive_field; layer by layer.
    """
    check_lengths(rows=rows)
    fields = np.array([row["receptive_field"] for row in rows], dtype=float)
    fig, ax = panels(90 + 40 * len(rows))
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
    return finish(fig, title, note, path)


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


@styled
def plot_lr_finder(lrs, losses, smoothed, lr_min: float, lr_max: float, *, note="", path=None) -> Figure:
    """The LR range test: loss by learning rate, LRMIN and LRMAX. A loss that explodes leaves the frame."""
    check_lengths(lrs=lrs, losses=losses, smoothed=smoothed)
    lrs, smoothed = np.asarray(lrs, dtype=float), np.asarray(smoothed, dtype=float)
    seen = smoothed[np.isfinite(smoothed)]
    if not seen.size or lrs.min() <= 0:
        raise ValueError("smoothed holds no finite loss, or lrs a rate that is not above 0: run the test again.")
    fig, ax = panels(620)
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
    return finish(fig, "LR range test: LRMAX lies where the loss still falls, before it takes off", note, path)


@styled
def plot_one_cycle(lrs, betas, steps_per_epoch: int, *, note="", path=None) -> Figure:
    """The one-cycle policy, step by step: learning rate and, unless betas is None, Adam's beta1."""
    check_lengths(lrs=lrs, **({} if betas is None else {"betas": betas}))
    lrs, steps = np.asarray(lrs, dtype=float), np.arange(1, len(lrs) + 1)
    peak = int(lrs.argmax())
    ratios = [2] if betas is None else [2, 1]
    fig, axes = panels(240 * sum(ratios), nrows=len(ratios), sharex=True, squeeze=False, height_ratios=ratios)
    axes = axes[:, 0]
    if betas is not None:
        axes[1].plot(steps, betas, color=GREEN, lw=2.5)
        axes[1].set(ylabel="Adam's beta1")
    axes[0].plot(steps, lrs, color=BLUE, lw=2.5)
    for ax in axes:
        ax.axvline(steps[peak], color=ORANGE, ls="--", lw=1.5)
    axes[0].axhline(lrs[0], color=ORANGE, ls=":", lw=1.5)
    axes[0].plot(steps[peak], lrs[peak], "o", ms=9, color=ORANGE, mec="white")
    late = peak > len(lrs) / 2
    when = "in" if steps[peak] % steps_per_epoch else "the end of"
    words = f"LRMAX = {lrs[peak]:.2e} at step {steps[peak]:,}, {when} epoch {-(-steps[peak] // steps_per_epoch)}"
    style = {"textcoords": "offset points", "va": "bottom", "color": ORANGE, "weight": "bold"}
    side = {"xytext": (-8, 4), "ha": "right"} if late else {"xytext": (8, 4), "ha": "left"}
    axes[0].annotate(words, (steps[peak], lrs[peak]), **side, **style)
    middle = (steps[len(lrs) // 2], lrs[0])
    axes[0].annotate(f"LRMIN = {lrs[0]:.2e}", middle, (0, 3), ha="center", **style)
    axes[0].set(ylabel="learning rate", ylim=(-0.02 * lrs[peak], 1.15 * lrs[peak]))
    axes[-1].set(xlabel="step (one batch each)", xlim=(0, len(lrs) + 1))
    scale = (lambda step: step / steps_per_epoch, lambda epoch: epoch * steps_per_epoch)
    axes[0].secondary_xaxis("top", functions=scale).set_xlabel("epochs done")
    end = "to LRMIN, and no further" if lrs[-1] > 0.99 * lrs[0] else f"below LRMIN, to {lrs[-1]:.2g}"
    return finish(fig, f"One cycle: up to LRMAX, down again {end}", note, path)


@styled
def plot_history(history, *, target: float | None = 90, reference: dict | None = None, note="", path=None) -> Figure:
    """Loss and accuracy by epoch; history: dicts with epoch, train_loss, train_acc, test_loss, test_acc (%).

    target: the accuracy to reach (%), or None. reference: {"label": words, "history": the same, keys may be missing};
    its test curves are drawn faintly.
    """
    check_lengths(history=history)
    fig, axes = panels(600, ncols=2)
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
    if target is not None:
        axes[1].axhline(target, color=GREEN, ls="-.", lw=1.5)
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes[1].annotate(f"target {target:g} %", (0, target), (4, 3), color=GREEN, weight="bold", **place)
    axes[1].set(ylabel="accuracy (%)", ylim=(None, 100))
    _legend(fig, axes[1])
    best = max(history, key=lambda row: np.nan_to_num(row["test_acc"], nan=-1))
    return finish(fig, f"Best test accuracy: {best['test_acc']:.2f} %, in epoch {best['epoch']}", note, path)


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


@styled
def plot_class_accuracy(confusion, classes, *, note="", path=None) -> Figure:
    """Accuracy of each class, best first. confusion: a row a true class, a column a predicted one, counts."""
    matrix = check_confusion(confusion, classes)
    with np.errstate(invalid="ignore"):
        accuracy = 100 * matrix.diagonal() / matrix.sum(axis=1)
    order = np.argsort(-accuracy, kind="stable")  # classes without a picture, NaN, come last
    mean = np.nanmean(accuracy)
    fig, ax = panels(130 + 42 * len(classes))
    colours = [BLUE if value >= mean else SKY for value in accuracy[order]]
    ax.barh(range(len(classes)), np.nan_to_num(accuracy[order]), color=colours, height=0.7)
    ax.axvline(mean, color=ORANGE, ls="--", lw=2)
    _above(ax, mean, f"mean {mean:.1f} %")
    remarks = ["no pictures" if np.isnan(value) else f"{value:.1f} %" for value in accuracy[order]]
    _bars(ax, [shortened(classes[i]) for i in order], remarks)
    ax.set(xlim=(0, 100), xlabel="accuracy (% of the class's test pictures)")
    low = np.nanargmin(accuracy)
    title = f"Easiest: {shortened(classes[order[0]])}; hardest: {shortened(classes[low])}"
    alike = np.nanmax(accuracy) == np.nanmin(accuracy)
    return finish(fig, "All classes are equally hard" if alike else title, note, path)


@styled
def plot_confusion(confusion, classes, *, note="", path=None) -> Figure:
    """The confusion matrix, a row a true class. Only mistakes are coloured: the diagonal would drown them."""
    matrix, n = check_confusion(confusion, classes), len(classes)
    percent = 100 * matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    mistakes = np.ma.masked_array(percent, mask=np.eye(n, dtype=bool))
    fig, ax = panels(960)
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
    names = [shortened(name, 12) for name in classes]
    ax.set_xticks(range(n), names, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(n), names)
    ax.set(xlabel="predicted class", ylabel="true class")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    fig.colorbar(shown, label="mistakes (% of the true class)", pad=0.02, aspect=40)
    i, j = np.unravel_index(mistakes.argmax(), (n, n))
    title = f"Most common mistake: {shortened(classes[i])} taken for {shortened(classes[j])}"
    return finish(fig, title if mistakes.max() else "No mistakes", note, path)


def _overlay(picture, heat) -> np.ndarray:
    """The picture in grey under the map, which is brought to its size: yellow where the map is high."""
    grey = to_rgb(picture).mean(axis=2, keepdims=True) / (255 if np.asarray(picture).dtype == np.uint8 else 1)
    heat = Image.fromarray(np.asarray(heat, dtype=np.float32)).resize(grey.shape[1::-1], Image.Resampling.BILINEAR)
    return 0.45 * grey + 0.55 * plt.get_cmap("viridis")(np.asarray(heat))[..., :3]


@styled
def plot_mistakes(
    pictures, labels, predictions, confidences, classes, *, columns: int = 5, maps=None, note="", path=None
) -> Figure:
    """Up to 25 misclassified pictures in the order given, with both classes and the confidence (0 to 1).

    labels, predictions: class indices. maps: a Grad-CAM map a picture, h x w in [0, 1]; each picture then
    stands beside a copy with its map laid over it.
    """
    if len(pictures) == 0:
        fig, ax = canvas(1100, 160)
        ax.text(MARGIN, 80, "Every picture was classified correctly.", va="center")
        return finish(fig, "No mistakes", note, path)
    check_lengths(pictures=pictures, labels=labels, predictions=predictions, confidences=confidences)
    check_indices("labels", labels, classes), check_indices("predictions", predictions, classes)
    cells, group = list(pictures[:25]), 1
    if maps is not None:
        check_lengths(pictures=pictures, maps=maps)
        pairs = zip(cells, maps, strict=False)
        cells, group = [cell for picture, heat in pairs for cell in (picture, _overlay(picture, heat))], 2
    rows = [cells[i : i + columns * group] for i in range(0, len(cells), columns * group)]
    layout = {"apart": 44, "largest": 224} if maps is None else {"apart": 20, "largest": 128}
    fig, ax, _, corners = picture_grid(rows, above=64, group=group, **layout)
    places = [corner for row in corners for corner in row][::group]
    for (x, y), label, guess, confidence in zip(places, labels, predictions, confidences, strict=False):
        words = f"predicted: {shortened(classes[guess], 11)} {100 * confidence:.0f} %"
        ax.text(x, y - 30, words, va="bottom", size=9, color=ORANGE)
        ax.text(x, y - 4, f"true: {shortened(classes[label])}", va="bottom", size=9)
    title = "Misclassified pictures, the most confident first"
    return finish(fig, title if maps is None else "Misclassified pictures; yellow: what counted most", note, path)


@styled
def plot_top5(pictures, probabilities, classes, *, originals=None, note="", path=None) -> Figure:
    """What the network sees and its five likeliest classes, for the first 50 pictures.

    probabilities: a row a picture, a column a class, 0 to 1. originals: the pictures before shrinking.
    """
    check_lengths(pictures=pictures, probabilities=probabilities)
    cells, group, captions = list(pictures[:50]), 1, ["what the network sees"]
    if originals is not None:
        check_lengths(pictures=pictures, originals=originals)
        cells = [cell for pair in zip(originals, cells, strict=False) for cell in pair]
        group, captions = 2, ["original", "network sees"]
    rows = [cells[i : i + 2 * group] for i in range(0, len(cells), 2 * group)]
    fig, ax, side, corners = picture_grid(rows, above=40, group=group, apart=380, largest=160)
    corners = [corner for row in corners for corner in row]
    for i, (x, y) in enumerate(corners):
        ax.text(x, y - GAP, captions[i % group], va="bottom", size=8.5, color=GREY)
    for (x, y), row in zip(corners[group - 1 :: group], np.asarray(probabilities, dtype=float), strict=False):
        left, bar = x + side + 152, 150
        for place, c in enumerate(np.argsort(-row, kind="stable")[:5]):
            height = y + (place + 0.5) * side / 5
            ax.barh(height, row[c] * bar, left=left, height=20, color=SKY if place else BLUE)
            ax.text(left - GAP, height, shortened(classes[c], 11), ha="right", va="center", size=9)
            ax.text(left + row[c] * bar + GAP, height, f"{100 * row[c]:.1f} %", va="center", size=9)
    title = "What the network sees, and what it takes it for"
    return finish(fig, title + (f" (the first 50 of {len(pictures)})" if len(pictures) > 50 else ""), note, path)


@styled
def plot_bars(rows, *, reference: dict | None = None, note="", path=None) -> Figure:
    """An ablation: mean accuracy with one standard deviation, and each seed as a small mark.

    rows: dicts with name, mean, std and accuracies (%). reference: {"label": words, "value": %}.
    """
    check_lengths(rows=rows)
    fig, ax = panels(130 + 52 * len(rows))
    for place, row in enumerate(rows):
        ax.plot(row["accuracies"], [place] * len(row["accuracies"]), "|", ms=14, mew=1.5, color=GREY)
        ax.errorbar(row["mean"], place, xerr=row["std"], fmt="o", ms=8, color=BLUE, capsize=5, lw=2)
    if reference:
        ax.axvline(reference["value"], color=ORANGE, ls="--", lw=2)
        _above(ax, reference["value"], f"{reference['label']}: {reference['value']:.2f} %")
    spread = [f" ± {row['std']:.2f}" if len(row["accuracies"]) > 1 else "" for row in rows]  # one seed has none
    remarks = [f"{row['mean']:.2f}{plus} %" for row, plus in zip(rows, spread, strict=True)]
    _bars(ax, [row["name"] for row in rows], remarks)
    ax.set_xlabel("test accuracy (%): mean, one standard deviation, and each seed (|)")
    best = max(rows, key=lambda row: row["mean"])
    return finish(fig, f"Highest mean accuracy: {best['name']}", note, path)


@styled
def plot_curves(rows, *, peak: int | None = None, note="", path=None) -> Figure:
    """Test accuracy by epoch, a curve a row: the mean of its seeds, and a band from the lowest to the highest.

    rows: dicts with name and curves (a list a seed, % by epoch). peak: the epoch at whose end the rate is highest.
    """
    check_lengths(rows=rows)
    fig, ax = panels(620)
    falls = {}
    for row, (colour, mark, line) in zip(rows, itertools.cycle(LINES)):
        curves = np.array(row["curves"], dtype=float)
        epochs = np.arange(1, curves.shape[1] + 1)
        ax.plot(epochs, curves.mean(axis=0), color=colour, marker=mark, ls=line, lw=2, ms=5, label=row["name"])
        ax.fill_between(epochs, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.15, lw=0)
        falls[row["name"]] = -np.diff(curves[:, (peak or 1) - 1 :]).min(initial=0)
    if peak is not None:
        ax.axvline(peak, color=GREY, ls=":", lw=1.5)
        ax.annotate(" the rate peaks", (peak, 0.02), xycoords=("data", "axes fraction"), color=GREY)
    ax.set(xlabel="epoch", ylabel="test accuracy (%)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend(fig, ax)
    worst = max(falls, key=falls.get)
    when = " after the peak" if peak else ""
    title = f"Largest fall in an epoch{when}: {falls[worst]:.1f} points ({shortened(worst, 32)})"
    return finish(fig, title if falls[worst] > 0 else f"No curve falls{when}", note, path)
