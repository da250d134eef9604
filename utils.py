"""What do people look at? Every figure of the project, one function each.

    from utils import plot_samples
    plot_samples(pictures, targets, classes, note="CIFAR-10")      # as a cell's last line: shown, once
    plot_samples(pictures, targets, classes, path="misc/sample_images.png")    # saved as well

Each function takes plain data (arrays, lists, dicts) and returns a matplotlib `Figure`. It saves only when it
is given `path`; the same figure gives the same bytes. `note`, in the lower left corner, says where the data
come from. The colours are Okabe and Ito's, which colour-blind people can tell apart; marks and lines differ.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from curves import plot_curves as plot_curves
from curves import plot_history as plot_history
from curves import plot_lr_finder as plot_lr_finder
from curves import plot_one_cycle as plot_one_cycle
from diagram import plot_model as plot_model
from drawing import (
    BLUE,
    GAP,
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
    named_rows,
    panels,
    picture_grid,
    put_picture,
    shortened,
    styled,
    to_rgb,
    write_above,
)


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
    write_above(ax, input_size, f"the picture's side: {input_size} pixels")
    for place, field in enumerate(fields):
        style = {"va": "center", "weight": "bold", "size": 9, "bbox": {"fc": "white", "ec": "none", "pad": 1}}
        ax.annotate(f"{field:g}", (field, place), (5, 0), textcoords="offset points", **style)
    words = "kernel {kernel}, stride {stride}, jump {jump}, out {out_size}"
    named_rows(ax, [row["name"] for row in rows], [words.format(**row) for row in rows])
    ax.set(xlim=(0, max(fields.max(), input_size) * 1.08), xlabel="receptive field (pixels of the input)")
    title = "No layer sees more than the picture's side"
    if len(beyond):
        title = f"From {rows[beyond[0]]['name']} on, the receptive field is larger than the picture"
    return finish(fig, title, note, path)


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
    write_above(ax, mean, f"mean {mean:.1f} %")
    remarks = ["no pictures" if np.isnan(value) else f"{value:.1f} %" for value in accuracy[order]]
    named_rows(ax, [shortened(classes[i]) for i in order], remarks)
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
def plot_bars(rows, *, bars="one standard deviation", reference: dict | None = None, note="", path=None) -> Figure:
    """An ablation: mean accuracy with a bar of plus and minus `error`, and each seed as a small mark.

    rows: dicts with name, mean, std and accuracies (%), and error (%) where that is not std; bars says what error is.
    reference: {"label": words, "value": %}.
    """
    check_lengths(rows=rows)
    fig, ax = panels(130 + 52 * len(rows))
    errors = [row.get("error", row["std"]) for row in rows]
    for place, row in enumerate(rows):
        ax.plot(row["accuracies"], [place] * len(row["accuracies"]), "|", ms=14, mew=1.5, color=GREY)
        ax.errorbar(row["mean"], place, xerr=errors[place], fmt="o", ms=8, color=BLUE, capsize=5, lw=2)
    if reference:
        ax.axvline(reference["value"], color=ORANGE, ls="--", lw=2)
        write_above(ax, reference["value"], f"{reference['label']}: {reference['value']:.2f} %")
    spread = [f" ± {row['std']:.2f}" if len(row["accuracies"]) > 1 else "" for row in rows]  # one seed has none
    remarks = [f"{row['mean']:.2f}{plus} %" for row, plus in zip(rows, spread, strict=True)]
    named_rows(ax, [row["name"] for row in rows], remarks)
    ax.set_xlabel(f"test accuracy (%): mean, {bars}, and each seed (|)")
    best = max(rows, key=lambda row: row["mean"])
    lowest = best["mean"] - errors[rows.index(best)]
    close = sum(row["mean"] + error >= lowest for row, error in zip(rows, errors, strict=True))
    title = (
        f"Highest mean accuracy: {best['name']}"
        if close == 1
        else f"Too close to call: the best {close} of {len(rows)}"
    )
    return finish(fig, title, note, path)
