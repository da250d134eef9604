"""How does one draw what changes step by step, or epoch by epoch? The range test, the cycle, and the curves of runs.

    from utils import plot_history
    plot_history(history, path="misc/loss_curves.png")

What holds for every figure stands in `utils.py`, which has these four too.
"""

import itertools

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from drawing import (
    BLUE,
    DPI,
    GREEN,
    GREY,
    INK,
    ORANGE,
    SKY,
    check_lengths,
    finish,
    panels,
    shortened,
    styled,
    write_above,
)

LINES = (BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-."), (SKY, "D", ":"), (INK, "x", "-")


def _legend(fig: Figure, ax) -> None:
    """A legend between title and axes, where it hides no curve, in rows of at most four names."""
    height, handles = fig.get_size_inches()[1] * DPI, ax.get_legend_handles_labels()
    rows = -(-len(handles[1]) // 4)
    x, y, w, h = fig.get_layout_engine().get()["rect"]
    fig.get_layout_engine().set(rect=(x, y, w, h - (10 + 30 * rows) / height))
    place = {
        "loc": "upper left",
        "bbox_to_anchor": (x, y + h),
        "ncols": -(-len(handles[1]) // rows),
        "borderpad": 0,
        "borderaxespad": 0,
    }
    fig.legend(*handles, frameon=False, **place)


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
        write_above(ax, lr, f"{name} = {lr:.2e}", ha=side)
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
        write_above(ax, epoch, f"{loss:.3g} ↑")
    ax.set_ylim(0, 1.08 * top)


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
