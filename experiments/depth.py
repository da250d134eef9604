"""Depth: the networks of He et al. for CIFAR-10, with 8, 20 and 44 layers, with and without skip
connections.

    python -m experiments.depth                          # 5,000 images -> misc/depth.json, .png
    python -m experiments.depth --depths 8,20,44,110     # deeper

Adam (beta2 0.99) under one cycle, 24 epochs, batches of 128, without decay and label smoothing, so
that the training loss is the plain cross entropy. One rule for the rate: each network's own range
test finds LRMIN and LRMAX; where a plain one does not learn in it, it takes those of the network
with skips. The block is He et al.'s, see networks.py.
"""

import numpy as np

import utils
from experiments.common import Row, guarded, note, options, start
from experiments.training import run_and_draw

DEPTHS = "8,20,44"
BATCH = 128


def rows_of(depths):
    """Two rows for each depth."""
    rows = []
    for depth in depths:
        for residual in (True, False):
            key = f"resnet{depth}" + "_plain" * (not residual)
            changes = dict(depth=depth, residual=residual, weight_decay=0.0, label_smoothing=0.0)
            name = f"{depth} layers, {'with' if residual else 'without'} skip connections"
            rows.append(
                Row(
                    key,
                    name,
                    changes=changes,
                    rates=key,
                    fallback=None if residual else f"resnet{depth}",
                )
            )
    return rows


def table(rows):
    """Training loss and test accuracy at the end, in Markdown."""
    lines = [
        "| network | training loss | test accuracy | seeds | LRMAX |",
        "| :--- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        several = len(row["seeds"]) > 1
        loss = (
            f"{np.mean(row['train_losses']):.3f}"
            + f" ± {deviation(row['train_losses']):.3f}" * several
        )
        accuracy = f"{row['mean']:.2f}" + f" ± {row['std']:.2f}" * several
        rates = ", ".join(utils.short_rate(rate) for rate in row["lr_maxs"])
        lines.append(f"| {row['name']} | {loss} | {accuracy} % | {len(row['seeds'])} | {rates} |")
    return "\n".join(lines)


def deviation(values):
    """Standard deviation over the seeds; 0 where there is one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


@utils.styled
def plot(rows, path=None):
    """Training loss and test accuracy at the end against depth; bars are one standard deviation
    over the seeds.
    """
    rows = [
        row for row in rows if row["images"] == rows[0]["images"]
    ]  # a file may hold several sizes
    fig = utils.new_figure(height_px=420)
    axes = fig.subplots(1, 2)
    looks = (
        (True, "with skip connections", utils.BLUE, "o-"),
        (False, "plain network", utils.ORANGE, "s--"),
    )
    for ax, values, label in zip(axes, ("train_losses", "accuracies"), LABELS, strict=True):
        for residual, name, colour, line in looks:
            mine = [row for row in rows if row["changes"]["residual"] == residual]
            depths, spread = (
                [row["changes"]["depth"] for row in mine],
                [deviation(row[values]) for row in mine],
            )
            ax.errorbar(
                depths,
                [np.mean(row[values]) for row in mine],
                yerr=spread,
                fmt=line,
                color=colour,
                lw=2.5,
                ms=8,
                capsize=5,
                label=name,
            )
        ax.set(xlabel="layers", ylabel=label)
        ax.set_xticks(sorted({row["changes"]["depth"] for row in rows}))
    axes[0].set_ylim(bottom=0)
    axes[0].legend(loc="best", fontsize=12)
    numbers = [len(row["seeds"]) for row in rows]
    seeds = f"{min(numbers)} to {max(numbers)}" if min(numbers) < max(numbers) else numbers[0]
    words = f"Mean over the seeds ({seeds} of each network); bars: one standard deviation"
    title = f"He et al.'s networks: does a deeper one learn more, or less?\n{words}"
    return utils.finish(fig, title, note(rows[0]), path)


LABELS = ("training loss in the last epoch", "test accuracy at the end (%)")


def main(arguments=None):
    parser = options("Depth, with and without skip connections.", limit=5000, seeds=3)
    parser.add_argument(
        "--depths", default=DEPTHS, metavar="N,…", help=f"layers, 6n + 2 each (default: {DEPTHS})"
    )

    def rows(args):
        depths = [int(depth) if depth.isdecimal() else 0 for depth in args.depths.split(",")]
        wrong = [depth for depth in depths if depth < 8 or depth % 6 != 2]
        if wrong:
            raise ValueError(f"depths are {args.depths!r}: give 6n + 2 each, such as 8,20,44,110")
        return rows_of(depths)

    study = start(parser, arguments, "depth", rows, batch_size=BATCH)

    guarded(lambda: run_and_draw(study, table, plot))


if __name__ == "__main__":
    main()
