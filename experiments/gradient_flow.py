"""Gradient flow: the norm of the gradient in each convolution, at initialisation and after 50
steps.

    python -m experiments.gradient_flow      # -> misc/gradient_flow.json, misc/gradient_flow.png

The networks are ours and He et al.'s with 8, 20 and 44 layers, each with and without skip
connections. Everything else
is the same for all: batches of 32 augmented images, 50 steps of Adam at 1e-3 in float32, BatchNorm
in training mode.
"""

from itertools import chain, repeat

import numpy as np
import torch
from matplotlib.lines import Line2D
from torch.nn import functional as F

import dataset
import train
import utils
from experiments.common import Row, guarded, options, start
from experiments.networks import make_model
from extras.settings import device_name

BATCH, STEPS, BATCHES, LR = 32, 50, 4, 1e-3  # BATCHES: the norm is the mean over so many
DEPTHS = (8, 20, 44)
NETWORKS = {
    "s10": ("our network", {}),
    **{f"resnet{n}": (f"He et al.,\n{n} layers", {"depth": n}) for n in DEPTHS},
}
LOOKS = (
    ("", utils.BLUE, "o-", "with skip\nconnections"),
    ("_plain", utils.ORANGE, "s--", "plain\nnetwork"),
)
ROWS = [
    Row(
        key + "_plain" * plain,
        name.replace("\n", " ") + ", plain" * plain,
        changes=changes | {"residual": not plain},
    )
    for key, (name, changes) in NETWORKS.items()
    for plain in (False, True)
]


def convolutions(model):
    """(name, weight) of each convolution, in the order of computation."""
    return [
        (name, layer.weight)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Conv2d)
    ]


def gradient_norms(model, batches):
    """Norm of the loss's gradient with respect to each convolution's weights, the mean over some
    batches.
    """
    model.train()
    norms = []
    for images, labels in batches:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        norms.append(torch.stack([weight.grad.norm() for _, weight in convolutions(model)]))
    model.zero_grad()
    return [float(norm) for norm in torch.stack(norms).mean(dim=0)]


def measure(study, row, seed):
    """One network: its layers, and their gradients before and after the steps."""
    torch.manual_seed(seed)
    model = make_model(row.changes, len(study.data.classes)).to(
        study.device, memory_format=torch.channels_last
    )
    loader = dataset.DeviceLoader(
        study.data.train,
        study.settings.batch_size,
        study.device,
        seed=seed,
        mean=study.data.mean,
        std=study.data.std,
    )
    steps, count = (2, 1) if study.tiny else (STEPS, BATCHES)
    batches = chain.from_iterable(repeat(loader))  # epoch after epoch
    measured = [
        next(batches) for _ in range(count)
    ]  # the same ones before and after, and never trained on
    initial = gradient_norms(model, measured)
    optimizer = train.make_optimizer(model, study.recipe | {"weight_decay": 0.0})
    losses = []
    for _ in range(steps):
        images, labels = next(batches)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return dict(
        seeds=seed,
        initial=initial,
        trained=gradient_norms(model, measured),
        losses=losses,
        devices=device_name(study.device),
        precisions="float32",
    )


def about(study, row):
    """What the seeds of a row have in common."""
    names = [name for name, _ in convolutions(make_model(row.changes))]
    shared = study.about(row)
    common = {
        key: shared[key]
        for key in ("key", "data", "fingerprint", "images", "batch_size", "changes")
    }
    return common | dict(layers=names, steps=2 if study.tiny else STEPS, lr=LR)


@utils.styled
def plot(rows, *, note="", path=None):
    """A column for each network: the gradient by layer, with and without skip connections."""
    found = {row["key"]: row for row in rows}
    networks = [
        (key, name)
        for key, (name, _) in NETWORKS.items()
        if key in found and f"{key}_plain" in found
    ]
    if not networks:  # there is nothing to compare yet
        return None
    fig = utils.new_figure(height_px=600)
    axes = fig.subplots(2, len(networks), sharey=True, sharex="col", squeeze=False)
    for column, (key, name) in enumerate(networks):
        axes[0, column].set_title(name, size=12, weight="bold", pad=26)
        axes[1, column].set_xlabel("convolution", size=12)
        for ax, when in zip(axes[:, column], ("initial", "trained"), strict=True):
            for x, (ending, colour, line, _) in zip((0, 1), LOOKS, strict=True):
                ratio = draw_norms(ax, found[key + ending][when], colour, line)
                words = f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"
                at, side = (0.46, 0.54)[x], ("right", "left")[x]
                ax.text(
                    at,
                    1.03,
                    words,
                    transform=ax.transAxes,
                    color=colour,
                    weight="bold",
                    size=12,
                    ha=side,
                )
            ax.set(yscale="log")
            ax.yaxis.set_major_formatter("{x:g}")
            ax.xaxis.get_major_locator().set_params(integer=True, nbins=4)
    axes[0, 0].set_ylabel("norm of the gradient\nat initialisation", size=12)
    axes[1, 0].set_ylabel(f"norm of the gradient\nafter {rows[0]['steps']} steps", size=12)
    handles = [
        Line2D([], [], color=colour, ls=line[1:], marker=line[0], lw=2)
        for _, colour, line, _ in LOOKS
    ]
    axes[0, 0].legend(
        handles, [name for *_, name in LOOKS], loc="upper left", fontsize=11, framealpha=1
    )
    words = (
        "Numbers: first convolution ÷ last convolution. Bands: from the lowest to the highest seed"
    )
    return utils.finish(fig, f"How large is the gradient in each layer?\n{words}", note, path)


def draw_norms(ax, norms, colour, line):
    """One line: the geometric mean over the seeds, with a band from the lowest to the highest;
    returns first / last.
    """
    norms = np.array(norms)
    middle, layers = np.exp(np.log(norms).mean(axis=0)), np.arange(1, norms.shape[1] + 1)
    ax.fill_between(layers, norms.min(axis=0), norms.max(axis=0), color=colour, alpha=0.25, lw=0)
    ax.plot(layers, middle, line, color=colour, lw=2, ms=5, markevery=max(1, len(layers) // 8))
    return middle[0] / middle[-1]


def main(arguments=None):
    parser = options(
        "Gradient norm by layer, with and without skip connections.", limit=5000, seeds=3
    )
    study = start(parser, arguments, "gradient_flow", ROWS, batch_size=BATCH)

    def work():
        for seed in range(study.seeds):
            for row in study.chosen:
                if not study.results.run(about(study, row), seed):
                    print(f"{row.key}, seed {seed}", flush=True)
                    study.results.add(
                        about(study, row), dict(name=row.name), measure(study, row, seed)
                    )
        rows = [row for row in (study.results.find(about(study, row)) for row in ROWS) if row]
        one, seeds = rows[0], min(len(row["seeds"]) for row in rows)
        note = f"{one['data']}, batches of {one['batch_size']} images, {seeds} seed{'s' * (seeds > 1)} or more"
        plot(rows, note=note, path=study.results.path.with_suffix(".png"))
        print(study.results.path)

    guarded(work)


if __name__ == "__main__":
    main()
