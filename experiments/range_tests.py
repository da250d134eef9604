"""How far can the range test be trusted? The same test with five seeds, on four networks.

    python -m experiments.range_tests      # 50,000 images -> misc/range_tests.json, .png

Each line of the file has a test's whole curve. The figure has every range test in misc/: where its
loss falls most steeply (what torch_lr_finder suggests), and LRMAX, half of the take-off. Those of
1cd1259 and of the depth experiment count the fall from the first loss, whatever guessing costs, and
are marked.
"""

from pathlib import Path

import utils
from experiments import ablation, study
from experiments.results import FLOAT32, read, rows
from extras.report import markdown_table

ROWS = [row for row in ablation.ROWS if row.key in ("recipe", "strict", "fc_scale", "logits_8")]


def measure(this, row, seed):
    """A row's own range test: a line of the results. A finished run of the ablation has had it."""
    runs = rows(this.path.with_name("ablation.json"), like=this.identity).get(row.key, [])
    had = [run["range_test"] for run in runs if run["seed"] == seed and run["range_test"]]
    return dict(
        key=row.key,
        name=row.name,
        **this.identity,
        changes=row.changes,
        seed=seed,
        range_test=had[0] if had else study.range_test(this, row, seed),
    )


def readings(folder="misc"):
    """Every range test of the results in a folder, and in FLOAT32 below it.

    Returns:
        {(network and size, is it by the rule of 1cd1259): its tests, a dict of rates each}.
    """
    runs = []
    for file in ("range_tests", "ablation", "depth"):
        for place in (Path(folder), Path(folder, FLOAT32)):  # no trial that lies beside them
            runs += read(place / f"{file}.json")
    found = {}
    for run in runs:
        if run["range_test"]:
            old = not run["recipe"].get("guess")
            name = run["name"].split(":")[0].replace(", with skip connections", "")
            name = name.replace(", without skip connections", ", plain")
            label = f"{name}, {run['images']:,}"
            if run["data"] != "CIFAR-10":
                label += f" of {run['data']}"
            tests = found.setdefault((label, old), {})
            tests.setdefault((run["seed"], run["precision"]), run["range_test"])
    return {label: list(tests.values()) for label, tests in found.items()}


def factor(tests, name):
    """How many times the largest of some rates is the smallest."""
    rates = [test[name] for test in tests]
    return max(rates) / min(rates)


def table(found):
    """For each network the steepest descents and LRMAX, and by what factor the seeds differ."""
    lines = []
    for (label, old), tests in found.items():
        lines.append(
            (
                f"{label} (old rule)" if old else label,
                len(tests),
                ", ".join(utils.short_rate(test["lr_steepest"]) for test in tests),
                f"{factor(tests, 'lr_steepest'):.1f}",
                ", ".join(utils.short_rate(test["lr_max"]) for test in tests),
                f"{factor(tests, 'lr_max'):.1f}",
            )
        )
    head = ("network, images", "seeds", "steepest descent", "factor", "LRMAX", "factor")
    return markdown_table(head, lines)


def side_by_side(rates):
    """How far from its line each mark lies, so that marks of equal rates do not hide each other."""
    places = []
    for at, rate in enumerate(rates):
        step, half = 0.36, (rates.count(rate) - 1) / 2
        places.append(step * (rates[:at].count(rate) - half))
    return places


@utils.styled
def plot(found, path=None):
    """A line for each network, and on it a mark for each seed: the steepest descent, and LRMAX.

    found: from `readings`.
    """
    fig = utils.new_figure(height_px=110 + 34 * len(found))
    ax = fig.subplots()
    # name, what it is called, colour, marker
    looks = (
        ("lr_steepest", "steepest descent", utils.ORANGE, "D"),
        ("lr_max", "LRMAX: half of the take-off", utils.BLUE, "o"),
    )
    for name, label, colour, mark in looks:
        for at, ((_, old), tests) in enumerate(found.items()):
            rates = [test[name] for test in tests]
            fill = "white" if old else colour
            places = [at + away for away in side_by_side(rates)]
            ax.plot(rates, places, mark, color=colour, mfc=fill, ms=9, mew=2)
        ax.plot([], [], mark, color=colour, ms=9, label=label)
    ax.set_yticks(range(len(found)), [label for label, _ in found])
    ax.set(xscale="log", ylim=(len(found) - 0.4, -0.6), xlabel="learning rate (log scale)")
    ax.xaxis.set_major_formatter(utils.short_rate)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=12, frameon=False)
    widest = {name: max(factor(tests, name) for tests in found.values()) for name, *_ in looks}
    title = f"Largest factor between seeds: LRMAX {widest['lr_max']:.1f}, "
    title += f"steepest descent {widest['lr_steepest']:.1f}"
    words = "A line for each network, a mark for each seed"
    if any(old for _, old in found):
        words += "; hollow: the older rule, which counts the fall from the first loss"
    note = "Range tests of 100 steps; after each name the number of training images, of CIFAR-10 "
    note += "unless another set is named"
    return utils.finish(fig, f"{title}\n{words}", note, path)


def main(arguments=None):
    parser = study.options("The range test over seeds and networks.", limit=50_000, seeds=5)
    this = study.start(parser, arguments, "range_tests", ROWS)
    folder = this.path.parent
    study.main(
        this,
        lambda _: table(readings(folder)),
        lambda _, path: plot(readings(folder), path=path),
        run_row=measure,
    )


if __name__ == "__main__":
    main()
