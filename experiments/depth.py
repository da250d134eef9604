"""Depth: the networks of He et al. for CIFAR-10 with 8, 20 and 44 layers, with and without skips.

    python -m experiments.depth       # 5,000 images, one core -> misc/depth.json, .png

Adam under one cycle, 24 epochs, batches of 128, float32, without decay and label smoothing, so that
the training loss is the plain cross entropy. Each network's own range test finds LRMIN and LRMAX;
the deep plain ones, whose range test says little, run at a tenth of their LRMAX as well. The block
is He et al.'s, see networks.py. RECIPE is 1cd1259's in what it says, so that new runs can stand
beside the committed ones.
"""

import utils
from experiments import paired, study
from experiments.results import mean, note, spread
from experiments.study import Row
from extras.report import markdown_table

DEPTHS = (8, 20, 44)
RECIPE = dict(
    optimizer="Adam",
    weight_decay=0.0,
    betas=[0.9, 0.99],
    label_smoothing=0.0,
    augmentation="mean_padding",
    schedule="cycle",
    guess=False,
    iterations=100,
)
# Of LRMAX on 5,000 images of CIFAR-10, by layers and seed
TENTH = {20: {0: 1.2e-3, 1: 1.0e-3}, 44: {0: 1.5e-3, 1: 3.5e-3}}


def make_rows():
    """Two rows for each depth, and the deep plain networks at a tenth of their rate."""
    rows = []
    for depth in DEPTHS:
        for key, kind in ((f"resnet{depth}", "with"), (f"resnet{depth}_plain", "without")):
            name = f"{depth} layers, {kind} skip connections"
            rows.append(Row(key, name, changes=dict(network=key), rates=key))
    for depth, rates in TENTH.items():
        plain = f"resnet{depth}_plain"
        rows.append(
            Row(
                f"{plain}_tenth",
                f"{depth} layers, without skip connections, a tenth of LRMAX at 5,000 images",
                changes=dict(network=plain),
                lr_max=rates,
            )
        )
    return rows


ROWS = make_rows()
# key's ending, name, colour, line
LOOKS = (
    ("", "with skip connections", utils.BLUE, "o-"),
    ("_plain", "plain network", utils.ORANGE, "s--"),
    ("_plain_tenth", "plain, a tenth of the rate", utils.PINK, "^:"),
)


def table(rows):
    """Loss and accuracy at the end, in Markdown; 44 layers beside 8, and beside plain ones."""
    lines = []
    for runs in rows.values():
        loss = f"{mean(runs, 'train_loss'):.3f}"
        accuracy = f"{mean(runs, 'accuracies'):.2f}"
        if len(runs) > 1:
            loss += f" ± {spread(runs, 'train_loss'):.3f}"
            accuracy += f" ± {spread(runs, 'accuracies'):.2f}"
        rates = ", ".join(utils.short_rate(run["lr_max"]) for run in runs)
        lines.append((runs[0]["name"], loss, f"{accuracy} %", len(runs), rates))
    head = ("network", "training loss", "test accuracy", "seeds", "LRMAX")
    words = [
        paired.comparison(rows, better, worse)
        for better, worse in (("resnet44", "resnet8"), ("resnet44", "resnet44_plain"))
        if better in rows and worse in rows
    ]
    return "\n".join([markdown_table(head, lines), "", *words])


@utils.styled
def plot(rows, path=None):
    """Training loss and test accuracy at the end against depth; bars: one standard deviation."""
    fig = utils.new_figure(height_px=420)
    axes = fig.subplots(1, 2)
    labels = ("training loss in the last epoch", "test accuracy at the end (%)")
    for ax, values, label in zip(axes, ("train_loss", "accuracies"), labels, strict=True):
        for ending, name, colour, line in LOOKS:
            found = [(depth, rows.get(f"resnet{depth}{ending}")) for depth in DEPTHS]
            found = [(depth, runs) for depth, runs in found if runs]
            if found:
                ax.errorbar(
                    [depth for depth, _ in found],
                    [mean(runs, values) for _, runs in found],
                    yerr=[spread(runs, values) for _, runs in found],
                    fmt=line,
                    color=colour,
                    lw=2.5,
                    ms=8,
                    capsize=5,
                    label=name,
                )
        ax.set(xlabel="layers", ylabel=label)
        ax.set_xticks(DEPTHS)
    axes[0].set_ylim(bottom=0)
    axes[0].legend(loc="best", fontsize=12)
    numbers = sorted({len(runs) for runs in rows.values()})
    seeds = " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
    words = f"Mean over the seeds ({seeds} of each network); bars: one standard deviation"
    title = f"He et al.'s networks: does a deeper one learn more, or less?\n{words}"
    return utils.finish(fig, title, note(next(iter(rows.values()))[0]), path)


def main(arguments=None):
    parser = study.options(
        "Depth, with and without skip connections.", seeds=3, precision="float32"
    )
    this = study.start(parser, arguments, "depth", ROWS, recipe=RECIPE, batch_size=128)
    study.main(this, table, plot)


if __name__ == "__main__":
    main()
