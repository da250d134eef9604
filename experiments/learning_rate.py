"""Accuracy against the learning rate: one cycle with other peaks, and constant rates.

    python -m experiments.learning_rate      # 5,000 images -> misc/learning_rate.json, .png

One cycle peaks at an eighth to four times the LRMAX that the range test finds, a constant rate is
a sixteenth to four times the mean of the cycle's rates. Nothing else differs, and the decay stays
the recipe's. The rows `recipe` and `constant` are the ablation's, and are not trained twice.
"""

import numpy as np

import utils
from experiments import study
from experiments.results import mean, note, spread
from experiments.study import Row
from extras.report import markdown_table

PEAKS = (0.125, 0.25, 0.5, 2, 4)
CONSTANTS = (0.0625, 0.25, 4)
ROWS = [
    Row("recipe", "one cycle, LRMAX × 1"),
    Row("constant", "constant rate, the cycle's mean × 1", changes=dict(schedule="constant")),
]
ROWS += [
    Row(f"cycle_{factor:g}", f"one cycle, LRMAX × {factor:g}", changes=dict(lr_factor=factor))
    for factor in PEAKS
]
ROWS += [
    Row(
        f"constant_{factor:g}",
        f"constant rate, the cycle's mean × {factor:g}",
        changes=dict(schedule="constant", lr_factor=factor),
    )
    for factor in CONSTANTS
]
MARKS = dict(
    lr_min="LRMIN", lr_steepest="steepest descent", lr_minimum="minimum ÷ 10", lr_max="LRMAX"
)
LOOKS = (
    ("cycle", "one cycle, by its peak", utils.BLUE, "o-"),
    ("constant", "constant rate", utils.ORANGE, "s--"),
)


def rate_rows(rows):
    """The rows that change the rate alone, each with the seeds that all of them have."""
    found = {
        key: runs
        for key, runs in rows.items()
        if runs[0]["changes"].keys() <= {"schedule", "lr_factor"}
        and runs[0]["changes"].get("schedule", "cycle") in ("cycle", "constant")
    }
    seeds = [{run["seed"] for run in runs} for runs in found.values()]
    shared = set.intersection(*seeds) if seeds else set()
    return {key: [run for run in runs if run["seed"] in shared] for key, runs in found.items()}


def by_rate(rows, schedule):
    """(rate, runs) of the rows under one cycle, or at constant rates, the lowest rate first."""
    found = [
        (mean(runs, "lr_max"), runs)
        for runs in rate_rows(rows).values()
        if runs and runs[0]["changes"].get("schedule", "cycle") == schedule
    ]
    return sorted(found, key=lambda pair: pair[0])


def table(rows):
    """Rates and accuracies in Markdown."""
    lines = []
    for schedule, name, *_ in LOOKS:
        for rate, runs in by_rate(rows, schedule):
            accuracy = f"{mean(runs, 'accuracies'):.2f} %"
            factor = runs[0]["changes"].get("lr_factor", 1)
            lines.append((name, f"{factor:g}", utils.short_rate(rate), len(runs), accuracy))
    return markdown_table(("schedule", "factor", "rate", "seeds", "accuracy"), lines)


def finding(rows):
    """By how much one cycle with the LRMAX found is above the best constant rate, as a title.

    Not the best cycle: which peak is best, the test set alone would say.
    """
    cycles = [runs for _, runs in by_rate(rows, "cycle") if not runs[0]["changes"]]
    constants = [mean(runs, "accuracies") for _, runs in by_rate(rows, "constant")]
    if not cycles or not constants:
        return "Accuracy against the learning rate"
    gap = mean(cycles[0], "accuracies") - max(constants)
    where = "above" if gap > 0 else "below"
    found = "One cycle with the LRMAX found"
    return f"{found}: {abs(gap):.1f} points {where} the best constant rate"


@utils.styled
def plot(rows, path=None):
    """Test accuracy against the rate; below, on the same axis, what the range test reads off."""
    fig = utils.new_figure(height_px=520)
    ax, below = fig.subplots(2, sharex=True, height_ratios=[4, 1])
    first = next(iter(rows.values()))[0]
    for schedule, name, colour, line in LOOKS:
        found = by_rate(rows, schedule)
        rates = [rate for rate, _ in found]
        accuracies = [mean(runs, "accuracies") for _, runs in found]
        bars = [spread(runs, "accuracies") for _, runs in found]
        style = dict(color=colour, lw=2.5, ms=8, capsize=5)
        ax.errorbar(rates, accuracies, yerr=bars, fmt=line, label=name, **style)
    ax.set(ylabel="test accuracy at the end (%)", xscale="log")
    ax.legend(loc="best", fontsize=12)
    shown = rate_rows(rows).values()
    tests = [run["range_test"] for runs in shown for run in runs if not run["changes"]]
    for height, mark in enumerate(MARKS):
        rates = [test[mark] for test in tests]
        below.plot(rates, [height] * len(rates), "|", color=utils.GREEN, ms=14, mew=3)
        if rates:
            middle = np.exp(np.log(rates).mean())
            for each in (ax, below):
                each.axvline(middle, color=utils.GREEN, lw=1, ls=":")
    below.set_yticks(range(len(MARKS)), MARKS.values(), size=12)
    below.set(xlabel="learning rate (log scale)", ylim=(-0.6, len(MARKS) - 0.4))
    below.xaxis.set_major_formatter(utils.short_rate)
    seeds = "each seed's range test" if len(tests) > 1 else "the range test"
    words = f"Below: what {seeds} finds"
    if any(len(runs) > 1 for runs in shown):
        words += "; bars: one standard deviation"
    else:
        words += ". One run for each point"
    return utils.finish(fig, f"{finding(rows)}\n{words}", note(first), path)


def main(arguments=None):
    parser = study.options("Accuracy against the learning rate, with one cycle and without.")
    study.main(
        study.start(parser, arguments, "learning_rate", ROWS, others=["ablation"]), table, plot
    )


if __name__ == "__main__":
    main()
