"""Accuracy against the learning rate: one cycle with other peaks, and constant rates, beside what
the range test finds.

    python -m experiments.learning_rate      # 12,500 images -> misc/learning_rate.json, .png

One cycle peaks at PEAKS times the LRMAX that the range test finds, a constant rate is CONSTANTS
times the cycle's mean. The decay is scaled, so that the sum of rate x decay over the run is the
same in every row. Runs that the ablation has finished on as many images are taken over.
"""

import numpy as np

import utils
from experiments.common import Results, Row, guarded, note, options, start
from experiments.training import run_and_draw

PEAKS, CONSTANTS = (1, 0.25, 4, 0.5, 2, 0.125), (1, 0.25, 4, 0.0625)  # the telling ones first
MARKS = dict(
    lr_min="LRMIN", lr_steepest="steepest descent", lr_minimum="minimum ÷ 10", lr_max="LRMAX"
)

KEYS = {
    1: "recipe",
    0.5: "lr_half",
    2: "lr_double",
}  # as in ablation.py, so that its runs count here too

ROWS = [
    Row(
        KEYS.get(factor, f"cycle_{factor:g}"),
        f"one cycle, LRMAX × {factor:g}",
        changes={} if factor == 1 else dict(lr_factor=factor),
    )
    for factor in PEAKS
] + [
    Row(
        "constant" if factor == 1 else f"constant_{factor:g}",
        f"constant rate, the cycle's mean × {factor:g}",
        changes=dict(schedule="constant") | ({} if factor == 1 else dict(lr_factor=factor)),
    )
    for factor in CONSTANTS
]


def take_over(study, path):
    """Copy the runs that another experiment has finished already."""
    others = Results(path)
    for row in study.chosen:
        about = study.about(row)
        for seed in (others.find(about) or {"seeds": []})["seeds"]:
            if not study.results.run(about, seed):
                study.results.add(
                    about, dict(name=row.name, note=row.note), others.run(about, seed)
                )


def table(rows):
    """Rates and accuracies in Markdown."""
    lines = ["| row | peak or constant rate | decay | sum of rate × decay | accuracy |"]
    lines += ["| :--- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        spread = f" ± {row['std']:.2f}" if len(row["seeds"]) > 1 else ""
        rate, decay, shrinkage = (
            np.mean(row[name]) for name in ("lr_maxs", "weight_decays", "shrinkages")
        )
        lines.append(
            f"| {row['name']} | {rate:.1e} | {decay:.2g} | {shrinkage:.2f} | {row['mean']:.2f}{spread} % |"
        )
    return "\n".join(lines)


@utils.styled
def plot(rows, path=None):
    """Test accuracy against the rate, and below, on the same axis, what the range test reads off
    its curve.
    """
    fig = utils.new_figure(height_px=520)
    ax, below = fig.subplots(2, sharex=True, height_ratios=[4, 1])
    looks = (
        ("cycle", "one cycle, by its peak", utils.BLUE, "o-"),
        ("constant", "constant rate", utils.ORANGE, "s--"),
    )
    for kind, name, colour, line in looks:
        mine = [row for row in rows if row["changes"].get("schedule", "cycle") == kind]
        mine.sort(key=lambda row: np.mean(row["lr_maxs"]))
        x, y = [np.mean(row["lr_maxs"]) for row in mine], [row["mean"] for row in mine]
        ax.errorbar(
            x,
            y,
            yerr=[row["std"] for row in mine],
            fmt=line,
            color=colour,
            lw=2.5,
            ms=8,
            capsize=5,
            label=name,
        )
    ax.set(ylabel="test accuracy at the end (%)", xscale="log")
    ax.legend(loc="best", fontsize=12)
    tests = next((row["range_tests"] for row in rows if row["key"] == "recipe"), [])
    for height, mark in enumerate(MARKS):
        rates = [test[mark] for test in tests]
        below.plot(rates, [height] * len(rates), "|", color=utils.GREEN, ms=14, mew=3)
        if rates:
            for each in (ax, below):
                each.axvline(np.exp(np.log(rates).mean()), color=utils.GREEN, lw=1, ls=":")
    below.set_yticks(range(len(MARKS)), MARKS.values(), size=12)
    below.set(xlabel="learning rate (log scale)", ylim=(-0.6, len(MARKS) - 0.4))
    below.xaxis.set_major_formatter(utils.short_rate)
    words = "Below: what the range test finds, a mark for each seed"
    if any(len(row["seeds"]) > 1 for row in rows):
        words += "; bars: one standard deviation"
    return utils.finish(fig, f"Accuracy against the learning rate\n{words}", note(rows[0]), path)


def main(arguments=None):
    parser = options(
        "Accuracy against the learning rate, with one cycle and without.", limit=12_500, seeds=1
    )
    study = start(parser, arguments, "learning_rate", ROWS)

    def work():
        take_over(study, study.results.path.with_name("ablation.json"))
        return run_and_draw(study, table, plot)

    guarded(work)


if __name__ == "__main__":
    main()
