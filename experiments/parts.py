"""Which part of one cycle buys what: the cycle, and what is left without its rise or its fall.

    python -m experiments.parts      # trains nothing: rows of the ablation -> parts.png beside them

The schedules are those of schedules.py. All have the rates that the recipe's range test found.
"""

from pathlib import Path

import numpy as np

import utils
from experiments import paired
from experiments.results import FLOAT32, mean, note, rows
from experiments.schedules import step_rates
from experiments.story import Run, draw_curves

MISC = Path(utils.__file__).parent / "misc"
MEASURED = MISC / FLOAT32 / "ablation.json"
LOOKS = {  # key of the ablation: name, colour, line
    "recipe": ("one cycle", utils.BLUE, "-"),
    "fall_only": ("without the rise", utils.GREEN, "--"),
    "rise_only": ("without the fall", utils.ORANGE, ":"),
    "constant": ("constant rate", utils.PINK, "-."),
}


def read(path=MEASURED):
    """The rows of an ablation that differ in the schedule alone.

    Raises ValueError where one cycle, or whatever it is compared with, is missing.
    """
    found = {key: runs for key, runs in rows(path).items() if key in LOOKS}
    if "recipe" not in found or len(found) < 2:
        raise ValueError(
            f"{path} has not the rows recipe and fall_only: run python -m experiments.ablation "
            "--rows recipe,fall_only first"
        )
    return found


def finding(found):
    """What each part is worth, as a title: by how much its absence changes the accuracy."""
    found = {one["key"]: one["difference"] for one in paired.differences(found, "recipe")}
    words = [
        f"{found[key]:+.1f} points {LOOKS[key][0]}"
        for key in ("fall_only", "rise_only")
        if key in found
    ]
    return f"One cycle: {', '.join(words)}".replace("-", "\N{MINUS SIGN}")


@utils.styled
def plot(found, path=None):
    """Test accuracy by epoch above, the learning rate of every step below.

    found: from `read`.
    """
    cycle = found["recipe"][0]
    steps = 50 * cycle["epochs"]  # for a smooth line
    curves = []
    for key, (name, colour, line) in LOOKS.items():
        if key not in found:
            continue
        runs = found[key]
        accuracies = np.mean([run["curve"] for run in runs], axis=0)
        schedule = runs[0]["changes"].get("schedule", "cycle")
        lrs = step_rates(schedule, cycle["lr_min"], cycle["lr_max"], steps)
        name = f"{name}: {mean(runs, 'accuracies'):.1f} %"
        curves.append(Run(name, colour, line, accuracies, np.arange(steps) / 50, lrs))
    fig, above, below = draw_curves(curves, 440, [8, 5])
    above.legend(loc="lower right", fontsize=12)
    below.set_ylim(bottom=0)
    few = cycle["images"] // 5
    words = f"Curves: {few:,} test images; the named accuracies: all 10,000, at the end"
    return utils.finish(fig, f"{finding(found)}\n{words}", note(cycle), path)


def main():
    path = MEASURED.with_name("parts.png")
    plot(read(), path)
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
