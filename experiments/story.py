"""The story in one figure: the run of 2023, the assignment to the letter, and the shown run.

    python -m experiments.story      # trains nothing: misc/*.json -> misc/story.png

The network and its 24 epochs are the same in all three. What differs most is the learning rate.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import train
import utils

MISC = Path(utils.__file__).parent / "misc"


@dataclass
class Run:
    """One curve: accuracies by epoch (per cent), and learning rates at `done` (epochs done)."""

    name: str
    colour: str
    line: str
    accuracies: list
    done: np.ndarray
    lrs: np.ndarray


def read(name, folder=MISC):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def cycle(lr_min, lr_max, epochs):
    """One cycle as the notebook has it: (epochs done, learning rates)."""
    done = np.linspace(0, epochs, 50 * epochs + 1)
    return done, np.interp(done, [0, train.PEAK * epochs, epochs], [lr_min, lr_max, lr_min])


def original(about):
    """The run of 2023: its rates at the first step of each epoch, and where it ended."""
    rates = [row["lr_first_step"] for row in about["history"]]
    rates.append(rates[0] / 100)  # its final_div_factor
    done = np.linspace(0, len(rates) - 1, 1201)
    accuracies = [row["test_acc"] for row in about["history"]]
    return Run(
        "2023", utils.ORANGE, ":", accuracies, done, np.interp(done, range(len(rates)), rates)
    )


def runs(folder=MISC):
    """The three runs, and the rate at which the loss took off in strict's range test."""
    strict = next(
        run
        for run in read("ablation.json", folder)
        if run["key"] == "strict_1cd1259" and run["images"] == 50_000
    )
    shown = read("results.json", folder)
    accuracies = [row["test_acc"] for row in shown["history"]]
    shown_cycle = cycle(shown["lr_min"], shown["lr_max"], shown["epochs"])
    strict_cycle = cycle(strict["lr_min"], strict["lr_max"], strict["epochs"])
    return [
        original(read("original-2023.json", folder)),
        Run("strict", utils.GREEN, "--", strict["curve"], *strict_cycle),
        Run("shown run", utils.BLUE, "-", accuracies, *shown_cycle),
    ], strict["range_test"]["take_off"]


def draw_curves(runs, height_px, ratios):
    """Test accuracy by epoch above, learning rates below: (figure, upper axes, lower axes)."""
    fig = utils.new_figure(height_px=height_px)
    above, below = fig.subplots(2, sharex=True, height_ratios=ratios)
    for run in runs:
        looks = dict(color=run.colour, ls=run.line, lw=2.5)
        epochs = range(1, len(run.accuracies) + 1)
        above.plot(epochs, run.accuracies, label=run.name, marker="o", ms=4, **looks)
        below.plot(run.done, run.lrs, **looks)
    above.set(ylabel="test accuracy (%)")
    below.set(ylabel="learning rate", xlabel="epoch", xlim=(0, len(epochs) + 0.4))
    below.yaxis.set_major_formatter(utils.short_rate)
    return fig, above, below


@utils.styled
def plot(shown, take_off, path=None):
    """The three runs; the learning rates on a log scale.

    shown: the list of Run. take_off: where the loss had risen again in strict's range test.
    """
    fig, above, below = draw_curves(shown, 470, [8, 7])
    above.axhline(90, color=utils.GREY, lw=1)
    above.set_ylim(52, 99)
    below.axhline(take_off, color=utils.INK, lw=1.2)
    below.set(yscale="log", ylim=(2.5e-5, 0.25))
    below.yaxis.set_major_formatter(utils.short_rate)  # a new scale has a new one
    put_words(above, below, shown, take_off)
    title = "2023 trained beyond the take-off, and reached 90 % in its last epoch"
    words = "Take-off: here the loss has risen again in the range test of plain Adam"
    note = "CIFAR-10, all images, one seed each; strict: the assignment to the letter; shown run: "
    note += "an older recipe, commit 1cd1259"
    return utils.finish(fig, f"{title}\n{words}", note, path)


def put_words(above, below, shown, take_off):
    """Name each curve beside it, with its accuracy at the end and its LRMAX."""
    places = {"2023": (15.5, 67), "strict": (14.2, 85.5), "shown run": (7.4, 94)}
    rates = {"2023": (5.2, 8e-2), "strict": (5.9, 3.0e-3), "shown run": (6.2, 6.2e-4)}
    for run in shown:
        end = f"{run.name}: {run.accuracies[-1]:.2f} %"
        utils.put_label(above, end, places[run.name], (0, 0), run.colour)
        peak = f"{run.name}: LRMAX {utils.short_rate(max(run.lrs))}"
        if run.name == "2023":
            peak += ", from a range test that began at 3e-2"
        utils.put_label(below, peak, rates[run.name], (0, 0), run.colour, size=12)
    words = f"take-off {utils.short_rate(take_off)}"
    utils.put_label(below, words, (24.3, take_off), (0, 4), utils.INK, size=12, ha="right")


def main():
    print(f"writes {MISC / 'story.png'}")
    plot(*runs(), MISC / "story.png")


if __name__ == "__main__":
    main()
