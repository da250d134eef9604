"""Gradient flow: the norm of the gradient in each convolution, at the start and after 50 steps.

    python -m experiments.gradient_flow      # -> misc/gradient_flow.json, .png

The networks are ours and He et al.'s with 8, 20 and 44 layers, each with and without skip
connections. Everything else is the same for all: batches of 32 augmented images, 50 steps of Adam
at 1e-3 in float32, BatchNorm in training mode.
"""

from itertools import chain, repeat

import numpy as np
import torch
from matplotlib.lines import Line2D
from torch.nn import functional as F

import utils
from experiments import study
from experiments.build import build
from experiments.networks import make_model
from experiments.study import Row

STEPS = 50
BATCHES = 4  # the norm is the mean over so many
RECIPE = study.RECIPE | dict(weight_decay=0.0, label_smoothing=0.0, lr=1e-3, steps=STEPS)
NETWORKS = {
    "s10": "our network",
    "resnet8": "He et al.,\n8 layers",
    "resnet20": "He et al.,\n20 layers",
    "resnet44": "He et al.,\n44 layers",
}
# key's ending, colour, line, name
LOOKS = (
    ("", utils.BLUE, "o-", "with skip\nconnections"),
    ("_plain", utils.ORANGE, "s--", "plain\nnetwork"),
)


def make_rows():
    """Each network, with skip connections and plain."""
    rows = []
    for key, name in NETWORKS.items():
        name = name.replace("\n", " ")
        network = "s10_model" if key == "s10" else key
        rows.append(Row(key, name, changes=dict(network=network)))
        rows.append(Row(f"{key}_plain", f"{name}, plain", changes=dict(network=f"{key}_plain")))
    return rows


ROWS = make_rows()


def convolutions(model):
    """(name, weight) of each convolution, in the order of computation."""
    return [
        (name, layer.weight)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Conv2d)
    ]


def gradient_norms(model, batches):
    """Norm of the loss's gradient by each convolution's weights, the mean over some batches."""
    model.train()
    norms = []
    for images, labels in batches:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        norms.append(torch.stack([weight.grad.norm() for _, weight in convolutions(model)]))
    model.zero_grad()
    return [float(norm) for norm in torch.stack(norms).mean(dim=0)]


def measure(this, row, seed):
    """The gradients of one network before and after the steps: a line of the results."""
    parts = build(
        this.data,
        batch_size=this.settings.batch_size,
        seed=seed,
        device=this.device,
        loader="device",
        recipe=this.recipe,
        make_model=lambda classes: make_model(row.changes["network"], classes),
    )
    model = parts.model
    optimizer = parts.optimizer
    optimizer.param_groups[0]["lr"] = this.recipe["lr"]
    batches = chain.from_iterable(repeat(parts.train_loader))  # epoch after epoch
    measured = [next(batches) for _ in range(BATCHES)]  # before and after, never trained on
    initial = gradient_norms(model, measured)
    losses = []
    for _ in range(this.recipe["steps"]):
        images, labels = next(batches)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return dict(
        key=row.key,
        name=row.name,
        **this.identity,
        changes=row.changes,
        seed=seed,
        layers=[name for name, _ in convolutions(model)],
        initial=initial,
        trained=gradient_norms(model, measured),
        losses=losses,
    )


def table(rows):
    """First convolution ÷ last convolution, in Markdown's columns."""
    lines = [
        f"{runs[0]['name']}: {first_to_last(runs, 'initial'):.1f} at initialisation, "
        f"{first_to_last(runs, 'trained'):.1f} after {runs[0]['recipe']['steps']} steps"
        for runs in rows.values()
    ]
    return "\n".join(["gradient in the first convolution ÷ in the last", *lines])


def middle(runs, when):
    """The norms by layer, their geometric mean over the seeds."""
    return np.exp(np.log([run[when] for run in runs]).mean(axis=0))


def first_to_last(runs, when):
    norms = middle(runs, when)
    return norms[0] / norms[-1]


@utils.styled
def plot(rows, path=None):
    """A column for each network: the gradient by layer, with and without skip connections.

    Returns the figure, or None where no network has both.
    """
    keys = [key for key in NETWORKS if key in rows and f"{key}_plain" in rows]
    if not keys:
        return None
    fig = utils.new_figure(height_px=600)
    axes = fig.subplots(2, len(keys), sharey=True, sharex="col", squeeze=False)
    for column, key in enumerate(keys):
        axes[0, column].set_title(NETWORKS[key], size=12, weight="bold", pad=26)
        axes[1, column].set_xlabel("convolution", size=12)
        for ax, when in zip(axes[:, column], ("initial", "trained"), strict=True):
            plot_network(ax, rows, key, when)
    first = rows[keys[0]][0]
    steps = first["recipe"]["steps"]
    axes[0, 0].set_ylabel("norm of the gradient\nat initialisation", size=12)
    axes[1, 0].set_ylabel(f"norm of the gradient\nafter {steps} steps", size=12)
    handles = [
        Line2D([], [], color=colour, ls=line[1:], marker=line[0], lw=2)
        for _, colour, line, _ in LOOKS
    ]
    names = [name for *_, name in LOOKS]
    axes[0, 0].legend(handles, names, loc="upper left", fontsize=11, framealpha=1)
    words = "The backward pass goes from right to left. Numbers: first ÷ last; bands: seeds"
    seeds = min(len(runs) for runs in rows.values())
    note = f"{first['data']}, batches of {first['batch_size']} images, {seeds} seeds or more"
    title = "What becomes of the gradient on its way back to the first layer?"
    return utils.finish(fig, f"{title}\n{words}", note, path)


def plot_network(ax, rows, key, when):
    """Two lines, the geometric means over the seeds, and above them first ÷ last."""
    for (ending, colour, line, _), x, side in zip(
        LOOKS, (0.46, 0.54), ("right", "left"), strict=True
    ):
        runs = rows[key + ending]
        norms = np.array([run[when] for run in runs])
        layers = np.arange(1, norms.shape[1] + 1)
        ax.fill_between(
            layers, norms.min(axis=0), norms.max(axis=0), color=colour, alpha=0.25, lw=0
        )
        every = max(1, len(layers) // 8)
        ax.plot(layers, middle(runs, when), line, color=colour, lw=2, ms=5, markevery=every)
        ratio = first_to_last(runs, when)
        label = f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"
        place = dict(transform=ax.transAxes, ha=side, color=colour, weight="bold", size=12)
        ax.text(x, 1.03, label, **place)
    ax.set(yscale="log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.xaxis.get_major_locator().set_params(integer=True, nbins=4)


def main(arguments=None):
    parser = study.options(
        "Gradient norm by layer, with and without skip connections.", seeds=3, precision="float32"
    )
    this = study.start(parser, arguments, "gradient_flow", ROWS, recipe=RECIPE, batch_size=32)
    if this.precision != "float32":
        parser.error("gradients are computed in float32: leave --precision out")
    study.main(this, table, plot, run_row=measure)


if __name__ == "__main__":
    main()
